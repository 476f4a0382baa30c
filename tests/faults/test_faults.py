"""Five hundred spoiled files for each door, fewer where a case takes long, in processes of their own; `make faults` tries twenty thousand."""
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fuzzing import Found, make_run, run_part
from targets import DOORS, case

CASES = 500


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Found]:
    "What all doors came to, two at a time, the slowest first."
    base = tmp_path_factory.mktemp("faults")
    make_run(base)
    with ThreadPoolExecutor(2) as pool:
        jobs = {name: pool.submit(run_part, name, 1, range(CASES // DOORS[name].seldom), base) for name in sorted(DOORS, key=lambda name: DOORS[name].seldom, reverse=True)}
        return {name: job.result() for name, job in jobs.items()}


@pytest.mark.parametrize("name", list(DOORS))
def test_nothing_escapes(found, name):
    assert found[name].cases >= 0.9 * CASES // DOORS[name].seldom, "cases that could not be made"
    assert not found[name].escapes, f"{len(found[name].escapes)} of {found[name].cases}: {found[name].escapes[:3]}; see with `python tests/faults/fuzzing.py {name.split(',')[0]!r} {CASES} 1`"


def test_cases_are_spoiled_and_can_be_made_again(tmp_path: Path):
    door = DOORS["changes with --set"]
    one, again = ([case(door, None, 3, number) for number in range(50)] for _ in range(2))
    assert one == again and len({files["change"] for files in one}) > 40


@pytest.mark.parametrize("name", ["sound, decoded in process", "recipes", "label maps"])
def test_doors_answer_what_is_good(name, tmp_path):
    "A door that refuses everything would let nothing escape either."
    door = DOORS[name]
    prepared = door.prepare(tmp_path)
    good = {"sound, decoded in process": lambda: {"sound.wav": prepared["wav"][0]}, "recipes": lambda: {"recipe.yaml": prepared[0]}, "label maps": lambda: {"map.yaml": b"coughing: cough\n"}}[name]()
    folder = tmp_path / "case"
    folder.mkdir()
    for file, content in good.items(): (folder / file).write_bytes(content)
    assert door.attempt(folder, prepared) is None
