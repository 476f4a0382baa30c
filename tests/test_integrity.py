"""Damage that would go unnoticed: a bit, a page of zeros, two things exchanged. What is read again is what was written, is made anew, or stops the run in one sentence."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nonspeech7k.files import UserError

SETTINGS = ["splits.folds=2", "train.epochs=1", "clip.seconds=1.0", "front_end.n_mels=16", "augment.frequency_mask=4", "network.channels=[4, 4, 8]",
            "network.hidden=8", "train.precision=fp32", "report.sounds=none"]
MODELS = ("models/best_fold1.safetensors", "models/best_fold2.safetensors", "models/final_model.safetensors")
MADE = {"corpus": ("manifest.csv",), "features": ("manifest.csv", "features.csv"), "trained": ("features.csv", "training.json", *MODELS)}


def works() -> dict:
    "What makes each of these folders from the one before."
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.fits import train
    from nonspeech7k.runs.stages import evaluate
    return {"corpus": explore, "features": measure, "trained": train, "whole": evaluate}


@pytest.fixture(scope="module")
def runs(demo, tmp_path_factory):
    "A folder with a run after each of its stages, and their banks."
    from nonspeech7k.runs.folder import open_run
    place = tmp_path_factory.mktemp("integrity")
    changes, before = [*SETTINGS, f"corpus.root={demo}", f"banks={place}/banks"], None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NONSPEECH7K_PROGRESS", "off")
        for name, work in works().items():
            if before: shutil.copytree(before, place / name)
            before = place / name
            work(open_run("demo", before, changes))
    return place, changes


@pytest.fixture
def go_on(runs, tmp_path, monkeypatch):
    "A function that spoils a copy of a run and does a stage of it: its folder, or the sentence that stopped it."
    from nonspeech7k.runs.folder import open_run
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")
    place, changes = runs
    banks = shutil.copytree(place / "banks", tmp_path / "banks")
    def work(before, spoil, stage):
        folder = shutil.copytree(place / before, tmp_path / "run")
        recipe = folder / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(f"{place}/banks", str(banks)))
        spoil(folder, banks)
        try: works()[stage](open_run("demo", folder, [*changes[:-1], f"banks={banks}"]))
        except UserError as error: return str(error)
        return folder
    return work


def flip(path: Path, at: float) -> None:
    "Turn one bit, this far into the file."
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 4
    path.write_bytes(content)


def zeros(path: Path, at: float) -> None:
    content = path.read_bytes()
    start = int(at * len(content))
    path.write_bytes(content[:start] + bytes(64) + content[start + 64:])


def exchange(path: Path, key: str) -> None:
    "Exchange the first two different values of a list in a JSON file."
    known = json.loads(path.read_text())
    other = next(n for n, value in enumerate(known[key]) if value != known[key][0])
    known[key][0], known[key][other] = known[key][other], known[key][0]
    path.write_text(json.dumps(known))


def one(folder: Path, pattern: str) -> Path: return next(folder.rglob(pattern))


def reorder(path: Path) -> None:
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows[::-1]]) + "\n")


ANEW = {
    "a bit of a clip": ("corpus", lambda run, banks: flip(one(banks, "clips.npy"), 0.4), "features"),
    "zeros in a clip": ("corpus", lambda run, banks: zeros(one(banks, "clips.npy"), 0.5), "features"),
    "a bank cut short": ("corpus", lambda run, banks: os.truncate(one(banks, "clips.npy"), 5000), "features"),
    "durations exchanged": ("corpus", lambda run, banks: exchange(one(banks, "clips.json"), "durations"), "features"),
    "contents exchanged": ("corpus", lambda run, banks: exchange(one(banks, "clips.json"), "digests"), "features"),
    "a bit of the moments": ("corpus", lambda run, banks: flip(one(banks, "*.moments.npy"), 0.6), "features"),
    "zeros in the moments": ("corpus", lambda run, banks: zeros(one(banks, "*.moments.npy"), 0.6), "features"),
    "features reordered": ("trained", lambda run, banks: reorder(run / "features.csv"), "features"),
    "a bit of the features": ("trained", lambda run, banks: flip(run / "features.csv", 0.5), "features"),
    "features gone": ("features", lambda run, banks: (run / "features.csv").unlink(), "features"),
    "a model gone": ("trained", lambda run, banks: (run / MODELS[1]).unlink(), "trained"),
    "histories gone": ("trained", lambda run, banks: (run / "training.json").unlink(), "trained"),
}


@pytest.mark.parametrize("damage", ANEW)
def test_what_can_be_made_again_is_made_again_to_the_same_bytes(damage, go_on, runs):
    found = go_on(*ANEW[damage])
    assert isinstance(found, Path), found
    for name in MADE[ANEW[damage][2]]: assert (found / name).read_bytes() == (runs[0] / "trained" / name).read_bytes(), name


REFUSED = {
    "fold 2 in fold 1's place": ("trained", lambda run, banks: shutil.copy(run / MODELS[1], run / MODELS[0]), "whole"),
    "a fold in the final model's place": ("trained", lambda run, banks: shutil.copy(run / MODELS[0], run / MODELS[2]), "whole"),
    "a bit of a fold's model": ("trained", lambda run, banks: flip(run / MODELS[0], 0.9), "whole"),
    "a bit of the final model": ("trained", lambda run, banks: flip(run / MODELS[2], 0.7), "whole"),
    "manifest reordered": ("features", lambda run, banks: reorder(run / "manifest.csv"), "trained"),
    "a bit of the manifest": ("corpus", lambda run, banks: flip(run / "manifest.csv", 0.5), "features"),
    "a bit of the audit": ("corpus", lambda run, banks: flip(run / "audit.json", 0.2), "corpus"),
    "classes exchanged": ("features", lambda run, banks: exchange(run / "audit.json", "labels"), "trained"),
    "a bit of the histories": ("trained", lambda run, banks: flip(run / "training.json", 0.5), "whole"),
    "a bit of the environment": ("features", lambda run, banks: flip(run / "environment.json", 0.5), "trained"),
    "a bit of the metrics": ("whole", lambda run, banks: flip(run / "metrics.json", 0.5), "whole"),
    "a word for a number": ("corpus", lambda run, banks: (run / "stages.json").write_text('{"1_eda": {"seconds": "long", "finished": true}}'), "features"),
}


@pytest.mark.parametrize("damage", REFUSED)
def test_what_cannot_be_made_again_stops_the_run_in_one_sentence(damage, go_on, capsys):
    said = go_on(*REFUSED[damage])
    assert isinstance(said, str), "nobody noticed"
    assert "anew" not in capsys.readouterr().err, "it promised what did not come"
    assert "run" in said and "\n" not in said and len(said) < 600, said


def test_a_result_that_is_gone_is_not_finished(runs, tmp_path):
    from nonspeech7k.runs.folder import STAGES, Run, known_run
    run: Run = known_run(shutil.copytree(runs[0] / "whole", tmp_path / "run"))
    assert all(run.finished(stage) for stage in STAGES)
    for stage, name in zip(STAGES, ("audit.json", "features.csv", MODELS[0], "predictions.csv")):
        (run.folder / name).unlink()
        assert not run.finished(stage)


def test_one_bit_of_a_fits_state_is_noticed(runs, tmp_path, monkeypatch):
    from nonspeech7k.runs.fits import train
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.training import fit
    run = open_run("demo", shutil.copytree(runs[0] / "features", tmp_path / "run"), runs[1])
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")
    class Stop(Exception): pass
    def stopped(*arguments):
        save(*arguments)
        raise Stop
    save = fit.save_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "save_state", stopped)
        with pytest.raises(Stop): train(run)
    state = run.folder / "models" / "best_fold1.state"
    whole = state.read_bytes()
    flip(state, 0.9)
    with pytest.raises(UserError, match="best_fold1.state: the training state is damaged"): train(run)
    state.write_bytes(whole)
    assert train(run)["fold 1"][0]["epoch"] == 1 and (run.folder / MODELS[0]).read_bytes() == (runs[0] / "trained" / MODELS[0]).read_bytes()


def test_predict_refuses_a_classifier_with_a_wrong_bit(runs, tmp_path):
    from nonspeech7k.inference.classifier import load_classifier
    path = Path(shutil.copy(runs[0] / "whole" / MODELS[2], tmp_path))
    load_classifier(path)
    flip(path, 0.9)
    with pytest.raises(UserError, match="damaged"): load_classifier(path)


def compared(folder: Path, name: str, change) -> str:
    "What a comparison says of a run whose file was changed."
    from nonspeech7k.runs.comparing import compare_runs
    change(folder / name)
    with pytest.raises(UserError) as caught: compare_runs(folder, folder, resamples=2)
    return str(caught.value)


def cell(column, value):
    def change(path):
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        table.loc[3, column] = value
        path.write_text(table.to_csv(index=False))
    return change


@pytest.mark.parametrize("name, change", [
    ("predictions.csv", cell("cough", "1.5")), ("predictions.csv", cell("cough", "nan")), ("predictions.csv", cell("cough", "much")),
    ("predictions.csv", cell("cough", "0.999")), ("predictions.csv", cell("label", "snore")), ("predictions.csv", cell("label", "")),
    ("predictions.csv", cell("path", "nowhere.wav")), ("predictions.csv", cell("fold", "0.5")), ("predictions.csv", cell("fold", "0")),
    ("predictions.csv", cell("split", "elsewhere")), ("manifest.csv", cell("path", "")), ("manifest.csv", cell("duration", "long")),
    *[(name, change) for name in ("predictions.csv", "manifest.csv") for change in (
        lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\xff\xfe\0"), lambda path: path.write_bytes(path.read_bytes()[:-45]),
        lambda path: path.write_text(path.read_text().replace("path,", "path,path,", 1)), lambda path: path.write_text(path.read_text() * 2),
        lambda path: path.write_text(path.read_text().replace("label", "lable", 1)), lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), os.mkfifo(path)), lambda path: (path.unlink(), path.symlink_to("/dev/zero")), lambda path: path.unlink())],
    ("recipe.yaml", lambda path: path.unlink()), ("stages.json", lambda path: path.write_text("[" * 100_000)),
])
def test_a_strangers_run_is_compared_or_refused_in_one_sentence(name, change, runs, tmp_path):
    folder = shutil.copytree(runs[0] / "whole", tmp_path / "run")
    (folder / "stages.json").unlink()  # a stranger's: no digests
    (folder / "stages.json").write_text("{}")
    said = compared(folder, name, change)
    assert str(folder) in said and "\n" not in said and len(said) < 600, said


def test_a_run_that_was_edited_is_not_compared(runs, tmp_path):
    said = compared(shutil.copytree(runs[0] / "whole", tmp_path / "run"), "predictions.csv", cell("temperature", "1.00000001"))
    assert "is not what stage 4_evaluation wrote" in said


def test_a_run_without_its_records_is_compared_and_it_is_said(runs, tmp_path):
    from nonspeech7k.runs.comparing import compare_runs
    folder = shutil.copytree(runs[0] / "whole", tmp_path / "run")
    assert not [one for one in compare_runs(runs[0] / "whole", folder)["warnings"] if "stages.json" in one]
    (folder / "stages.json").unlink()
    cell("temperature", "1.00000001")(folder / "predictions.csv")
    said, = (one for one in compare_runs(runs[0] / "whole", folder)["warnings"] if "stages.json" in one)
    assert said.startswith(f"{folder}: its stages.json is not there") and "is not known" in said


BUILDER = """
import os, sys, time
from pathlib import Path
from nonspeech7k import files
with files.half_made(Path(sys.argv[1])/"bank") as partial:
    os.utime(partial, (time.time() - 3600,) * 2)
    print(partial.name, flush=True)
    sys.stdin.read()
"""


def test_another_containers_half_built_bank_is_left_until_its_process_ends(tmp_path, monkeypatch):
    from nonspeech7k import files
    machine, processes = files._here()
    process = subprocess.Popen([sys.executable, "-c", BUILDER, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    partial = tmp_path / process.stdout.readline().strip()
    # seen from another container, whose processes have numbers of their own
    monkeypatch.setattr(files, "_here", lambda: (machine, "ffffff"))
    monkeypatch.setattr(files, "_alive", lambda process: False)
    files.sweep(tmp_path)
    assert partial.is_dir(), "the other's work is gone"
    process.kill()
    process.communicate()
    files.sweep(tmp_path)
    assert not partial.exists(), "abandoned, and an hour old"


def test_checking_a_bank_takes_little(tmp_path):
    "What is checked once is not checked again in one process, and a changed file is."
    from nonspeech7k.data import bank
    path = tmp_path / "clips.npy"
    np.save(path, np.arange(40, dtype=np.int16).reshape(4, 10))
    sums = tuple(bank.row_sum(row) for row in np.load(path))
    before = bank._rows_that_differ.cache_info().misses
    for _ in range(3): assert bank._rows_that_differ(path, tuple(bank.stamp_of(path)), 10, sums, None) == ()
    assert bank._rows_that_differ.cache_info().misses == before + 1
    flip(path, 0.95)
    assert bank._rows_that_differ(path, tuple(bank.stamp_of(path)), 10, sums, None) == (3,)


def test_a_record_that_does_not_say_what_it_was_made_of_is_read():
    from nonspeech7k.runs.stamps import stamp_of
    record = {"version": "0", "settings": {}}
    assert stamp_of({}, "1_eda", record | {"made_of": None}) == stamp_of({}, "1_eda", record | {"made_of": {}}) == stamp_of({}, "1_eda", record)
