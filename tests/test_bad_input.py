"""Bad input: spoiled recordings, tables, recipes and disks. Each is named in one line with exit code 2; nothing is left half-written, and nothing is lost."""
import csv
import errno
import json
import os
import shutil
import struct
import subprocess
import sys
import wave
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from conftest import SMALL

RATE = 8000 # Hz


# The tools: a quick corpus, the command line in this process, and what a folder holds

def noise(seed: int, seconds: float = 0.3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, round(RATE * seconds))


def sound(samples: np.ndarray, subtype: str = "PCM_16", kind: str = "WAV") -> bytes:
    "A sound file's bytes."
    file = BytesIO()
    soundfile.write(file, samples, RATE, subtype, format=kind)
    return file.getvalue()


def write_corpus(root: Path, groups: dict[str, int], clips: int = 2) -> Path:
    "A corpus of class folders: so many recordings of each class, so many clips of each recording, and a table that says which."
    rows = [("path", "group")]
    for label, count in groups.items():
        (root / label).mkdir(parents=True)
        for clip in range(count * clips):
            path = f"{label}/{clip:02}.wav"
            (root / path).write_bytes(sound(noise(len(rows))))
            rows.append((path, f"{label} {clip // clips}"))
    (root / "labels.csv").write_text("".join(f"{path},{group}\n" for path, group in rows), encoding="utf-8")
    return root


@pytest.fixture
def corpus(tmp_path) -> Path:
    "Two classes of eight recordings each, thirty-two clips of noise."
    return write_corpus(tmp_path / "corpus", {"cough": 8, "laugh": 8})


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    "Networks as small as these are quicker on one thread."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quicken(monkeypatch: pytest.MonkeyPatch) -> None:
    "Blank pictures and no progress."
    from matplotlib.figure import Figure

    from nonspeech7k.runs import folder, mistakes
    blank = folder.png(Figure((1, 1)))
    for room in (folder, mistakes): monkeypatch.setattr(room, "png", lambda figure, dpi=110: blank)
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")


@pytest.fixture
def stages(monkeypatch) -> None:
    "Stages are called in this process rather than executed by papermill, and draw blank pictures: all else that they write and refuse is the same."
    from nonspeech7k.files import write_text
    from nonspeech7k.runs import execution
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.fits import train
    from nonspeech7k.runs.stages import evaluate
    functions = dict(zip(execution.STAGES, (explore, measure, train, evaluate)))
    def execute(run, name):
        functions[name](run)
        write_text(run.folder / "notebooks" / f"{name}.ipynb", "{}")
    monkeypatch.setattr(execution, "execute", execute)
    quicken(monkeypatch)


@pytest.fixture
def call(stages, capfd):
    "A function that runs a command in this process: exit code, lines on standard output, lines on standard error."
    from nonspeech7k.cli import main
    def run(*arguments) -> tuple[int, list[str], list[str]]:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        output, errors = capfd.readouterr()
        assert "Traceback" not in errors, errors
        return code, output.splitlines(), errors.splitlines()
    return run


def settings(root: Path, folder: Path, *changes: str) -> list[str]:
    "The changes to the demo recipe for a tiny run of a corpus without a test split; its bank stands beside its folder."
    return [*SMALL[1::2], f"corpus.root={root}", f"banks={folder.parent / 'banks'}", "corpus.layout=auto", "splits.test=none", "clip.rate=8000", "clip.seconds=0.5",
               "front_end.n_fft=256", "front_end.hop_length=128", "augment.time_mask=4", *changes]


def run_of(root: Path, folder: Path, *changes: str) -> list[str]:
    "The command for such a run."
    return ["run", "demo", "--out", str(folder), *(part for change in settings(root, folder, *changes) for part in ("--set", change))]


def contents(folder: Path) -> dict[str, bytes]:
    "Every file below a folder."
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_nothing_half_written(*folders: Path) -> None:
    "No temporary files, and every JSON and CSV is complete."
    for path in [path for folder in folders for path in folder.rglob("*")]:
        assert not path.name.endswith((".partial", ".partial.ipynb")), path
        if path.suffix in (".json", ".ipynb"): json.loads(path.read_text(encoding="utf-8"))
        if path.suffix == ".csv":
            text = path.read_text(encoding="utf-8")
            assert text.endswith("\n") and len({len(row) for row in csv.reader(text.splitlines())}) == 1, path


def check_refused(answer: tuple, *words: str, announced: int = 0) -> list[str]:
    "Exit code 2, nothing on standard output, one line for each problem, every word in them; the lines without what was announced before."
    code, output, errors = answer
    lines = errors[announced:]
    assert code == 2 and output == [], answer
    assert len(lines) == 1 and lines[0].startswith("nonspeech7k: "), errors
    assert all(word in lines[0] for word in words), (words, lines)
    return lines


# Recordings

def patched(position: int, kind: str, value: int):
    "A function that overwrites one number of a WAV's header."
    def patch(content: bytes) -> bytes:
        content = bytearray(content)
        struct.pack_into(kind, content, position, value)
        return bytes(content)
    return patch


def with_sample(value: float, subtype: str):
    "A function that makes a WAV of floating-point numbers with one sample of this value."
    def make(_: bytes) -> bytes:
        samples = noise(0)
        samples[1000] = value
        return sound(samples, subtype)
    return make


SPOILED = { # name → what becomes of a good 16-bit WAV, and a word of the sentence that tells of it
    "empty": (lambda content: b"", "empty"),
    "text": (lambda content: b"This is a text and no sound.\n" * 50, "not recognised"),
    "truncated": (lambda content: content[:2000], "truncated"),
    "cut_by_a_byte": (lambda content: content[:-1], "truncated"),
    "header_only": (lambda content: content[:44], "truncated"),
    "half_a_header": (lambda content: content[:30], "data"),
    "promises_more": (lambda content: patched(4, "<I", len(content) * 3 + 28)(patched(40, "<I", len(content) * 3 - 8)(content)), "promises"),
    "no_samples": (lambda content: sound(np.zeros(0)), "0 samples"),
    "0_hz": (patched(24, "<I", 0), "0 Hz"),
    "nan": (with_sample(np.nan, "FLOAT"), "NaN"),
    "infinite": (with_sample(-np.inf, "DOUBLE"), "infinit"),
    "too_large": (with_sample(3e38, "FLOAT"), "full scale"), # finite, but its square is not
}


def spoil(clip: Path, how: str) -> Path:
    clip.write_bytes(SPOILED[how][0](clip.read_bytes()))
    return clip


def spoil_many(corpus: Path) -> dict[str, Path]:
    "A corpus with one clip of each spoiled kind, in both classes."
    clips = sorted(corpus.rglob("*.wav"))[::2]
    return {how: spoil(clip, how) for how, clip in zip(SPOILED, clips, strict=False)}


def test_the_header_is_where_the_tests_think():
    content = sound(noise(0))
    with wave.open(BytesIO(content)) as file: assert file.getframerate() == RATE and len(content) == 44 + 2 * file.getnframes()
    assert struct.unpack_from("<I", content, 24) == (RATE,) and content[36:40] == b"data"


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_recording_stops_the_run(how, call, corpus, tmp_path):
    victim = spoil(corpus / "laugh" / "05.wav", how)
    before = contents(corpus)
    lines = check_refused(call(*run_of(corpus, tmp_path / "run")), str(victim), SPOILED[how][1], announced=1)
    assert "on_bad_clip: skip" in lines[0] and contents(corpus) == before
    assert set(contents(tmp_path / "run")) - {".lock", ".stage.lock"} == {"recipe.yaml", "environment.json", "training.log", "stages.json"}
    check_nothing_half_written(tmp_path)


def test_all_spoiled_recordings_are_named_at_once(call, corpus, tmp_path):
    victims = spoil_many(corpus)
    code, output, errors = call(*run_of(corpus, tmp_path / "run"))
    assert code == 2 and not output and len(errors) == 1 + len(victims), errors
    for victim in victims.values(): assert sum(str(victim) in line for line in errors) == 1, (victim, errors)
    check_nothing_half_written(tmp_path)


def test_a_mended_recording_lets_the_run_go_on(call, corpus, tmp_path):
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.folder import open_run
    clip = corpus / "cough" / "03.wav"
    good = clip.read_bytes()
    spoil(clip, "truncated")
    check_refused(call(*run_of(corpus, tmp_path / "run")), str(clip), announced=1)
    clip.write_bytes(good)
    run = open_run("demo", tmp_path / "run", settings(corpus, tmp_path / "run"))
    assert explore(run)["unreadable"] == [] and len(run.manifest) == 32
    check_nothing_half_written(tmp_path)


def test_skipped_recordings_stand_in_audit_and_report(call, corpus, tmp_path):
    victims, before = spoil_many(corpus), contents(corpus)
    names = {path.relative_to(corpus).as_posix() for path in victims.values()}
    code, output, errors = call(*run_of(corpus, tmp_path / "run", "on_bad_clip=skip"))
    assert code == 0 and len(output) > 1, errors
    listed = {clip["path"]: clip["reason"] for clip in json.loads((tmp_path / "run" / "audit.json").read_text(encoding="utf-8"))["unreadable"]}
    assert set(listed) == names
    for how, path in victims.items(): assert SPOILED[how][1] in listed[path.relative_to(corpus).as_posix()]
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert all(name in report for name in names)
    good = {name for name in before if name.endswith(".wav")} - names
    for table in ("manifest.csv", "features.csv", "predictions.csv"): assert set(pd.read_csv(tmp_path / "run" / table)["path"]) == good, table
    assert not pd.read_csv(tmp_path / "run" / "predictions.csv").isna().any(axis=None), "a number that is none"
    assert contents(corpus) == before
    check_nothing_half_written(tmp_path)


def test_skipping_every_recording_is_refused(call, corpus, tmp_path):
    for clip in corpus.rglob("*.wav"): clip.write_bytes(b"")
    code, output, errors = call(*run_of(corpus, tmp_path / "run", "on_bad_clip=skip"))
    assert code == 2 and not output and "cough/00.wav: empty" in errors[1] and errors[-1] == "… and 12 more", errors
    check_nothing_half_written(tmp_path)


def test_audit_lists_spoiled_recordings(call, corpus, tmp_path):
    victims, before = spoil_many(corpus), contents(corpus)
    code, output, errors = call("audit", corpus, "--out", tmp_path / "audit.json")
    assert code == 0 and not errors and f"{len(victims)} files cannot be read" in output
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    listed = {clip["path"]: clip["reason"] for clip in found["unreadable"]}
    for how, path in victims.items():
        name = path.relative_to(corpus).as_posix()
        assert any(f"{name}: " in line for line in output) and SPOILED[how][1] in listed[name], name
    assert len(listed) == len(victims) and contents(corpus) == before
    assert not any("on_bad_clip" in reason for reason in listed.values()), "what a recipe may say is no matter of a file"
    assert any("fewer than 10 clips to train on: cough (8)" in warning for warning in found["warnings"]), "clips that cannot be read are none to train on"
    code, output, errors = call("audit", corpus, "--strict")
    assert code == 2 and output and len(errors) == 1 and "findings" in errors[0]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    "A classifier with fresh weights."
    from nonspeech7k.inference.classifier import build_classifier, describe, save_classifier
    from nonspeech7k.recipe import Recipe
    recipe = Recipe(name="example", corpus={"root": "."}, clip={"rate": RATE, "seconds": 0.5}, front_end={"n_fft": 256, "hop_length": 128, "n_mels": 32},
                    augment={"time_mask": 4}, network={"channels": [4, 8], "hidden": 8})
    return save_classifier(build_classifier(describe(["cough", "laugh"], recipe.model_dump())), tmp_path_factory.mktemp("model") / "model.safetensors")


def test_predict_answers_the_good_and_names_the_spoiled(call, model, corpus, tmp_path):
    victims, before = spoil_many(corpus), contents(corpus)
    code, output, errors = call("predict", model, corpus)
    answers = [json.loads(line) for line in output]
    assert {answer["path"] for answer in answers} == {str(path) for path in corpus.rglob("*.wav")} - {str(path) for path in victims.values()}
    assert all(abs(sum(answer["probabilities"].values()) - 1) < 1e-6 for answer in answers)
    assert code == 2 and len(errors) == len(victims), errors
    for how, path in victims.items(): assert sum(f"{path}: " in line and SPOILED[how][1] in line for line in errors) == 1, (path, errors)
    code, nothing, _ = call("predict", model, corpus, "--out", tmp_path / "labels.jsonl")
    assert code == 2 and not nothing and (tmp_path / "labels.jsonl").read_text(encoding="utf-8").splitlines() == output
    assert contents(corpus) == before


def test_predict_names_a_place_that_is_no_sound(call, model, tmp_path):
    (tmp_path / "folder.wav").mkdir()
    (model.parent / "sound.wav").write_bytes(sound(noise(0)))
    check_refused(call("predict", model, tmp_path / "folder.wav"), str(tmp_path / "folder.wav"))
    check_refused(call("predict", model, tmp_path / "nothing.wav"), str(tmp_path / "nothing.wav"), "no such file")
    for content in (b"", b"not a classifier", model.read_bytes()[:-100]):
        (tmp_path / "other.safetensors").write_bytes(content)
        check_refused(call("predict", tmp_path / "other.safetensors", model.parent / "sound.wav"), str(tmp_path / "other.safetensors"), "not a classifier")


# Folders as they are found

def test_a_thousand_files_of_random_bytes_are_named_and_the_others_used(call, corpus, tmp_path):
    generator, names = np.random.default_rng(0), [f"{number:03}.{kind}" for number in range(250) for kind in ("wav", "flac", "ogg", "mp3")]
    (corpus / "labels.csv").unlink()
    for number, name in enumerate(names): (corpus / ("cough", "laugh")[number % 2] / f"random {name}").write_bytes(generator.bytes(2000))
    code, output, errors = call("audit", corpus, "--out", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert code == 0 and not any(line.startswith("nonspeech7k") for line in errors) and f"{len(found['unreadable']):,} files cannot be read" in output # libmpg123 writes notes
    unreadable = {clip["path"] for clip in found["unreadable"]}
    assert all("random" in path for path in unreadable) and len(unreadable) > 990, "random bytes that happen to be a sound are few"
    assert found["clips"] == 1032 and found["fit"]["answer"] == "not yet" and len(output) < 200
    good = sum(found["formats"].values())
    assert good == 1032 - len(unreadable) >= 32


def test_odd_names_are_names(call, model, tmp_path):
    corpus = tmp_path / "odd  names"
    names = ["-rf.wav", "--strict.wav", " leading.wav", "two  spaces.wav", "😷 ☂.wav", "a'b\"c`d$(e).wav", "line\nbreak.wav", "%s{0}\\n.wav", "=1+1.wav", "ä" * 125 + "x.wav", "x" * 251 + ".wav"]
    assert len(names[-1].encode()) == len(names[-2].encode()) == 255
    for label in ("-cough", "😂 laugh"):
        (corpus / label).mkdir(parents=True)
        for number, name in enumerate(names): (corpus / label / name).write_bytes(sound(noise(number + len(names) * (label == "-cough"))))
    code, output, errors = call("audit", corpus, "--out", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert code == 0 and not errors and found["clips"] == 2 * len(names) and not found["unreadable"] + found["problems"], output
    assert found["labels"] == ["-cough", "😂 laugh"]
    code, output, errors = call("predict", model, corpus)
    assert code == 0 and len(output) == 2 * len(names), errors
    assert {json.loads(line)["path"] for line in output} == {str(corpus / label / name) for label in found["labels"] for name in names}


def test_odd_names_reach_the_end_of_a_run(call, corpus, tmp_path):
    (corpus / "labels.csv").unlink()
    (corpus / "cough").rename(corpus / "-cough")
    (corpus / "laugh" / "00.wav").rename(corpus / "laugh" / "--set, \"x\" 😷.wav")
    (corpus / "laugh" / "01.wav").rename(corpus / "laugh" / ("x" * 251 + ".wav"))
    code, _, errors = call(*run_of(corpus, tmp_path / "run", "train.epochs=1"))
    assert code == 0, errors
    assert "laugh/--set, \"x\" 😷.wav" in set(pd.read_csv(tmp_path / "run" / "predictions.csv")["path"])
    check_nothing_half_written(tmp_path)


def test_links_in_a_circle_end(call, corpus, tmp_path):
    (corpus / "labels.csv").unlink()
    (corpus / "cough" / "round").symlink_to(corpus, target_is_directory=True)
    (corpus / "laugh" / "self").symlink_to(corpus / "laugh" / "self")
    (corpus / "laugh" / "ping.wav").symlink_to(corpus / "laugh" / "pong.wav")
    (corpus / "laugh" / "pong.wav").symlink_to(corpus / "laugh" / "ping.wav")
    code, output, errors = call("audit", corpus, "--out", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert code == 0 and not errors and found["clips"] == 32 and len(found["problems"]) == 2, output
    assert all("dead link" in problem for problem in found["problems"])


@pytest.fixture
def bound(command, monkeypatch):
    "A function that runs a command in a process that permissions bind, also where root runs the tests: exit code, lines on standard output, lines on standard error."
    import conftest
    if os.name != "posix": pytest.skip("permissions of another kind")
    if os.geteuid() == 0:
        if not shutil.which("setpriv"): pytest.skip("root may read everything, and there is no setpriv to change that")
        monkeypatch.setattr(conftest, "PROGRAM", ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all", *conftest.PROGRAM])
    def run(*arguments) -> tuple[int, list[str], list[str]]:
        done = command(*arguments)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()
    return run


@pytest.fixture
def close(tmp_path):
    "A function that takes all permissions from a file or folder; they come back in the end, so that what is there can be removed."
    closed = []
    def take(place: Path) -> Path:
        closed.append((place, place.stat().st_mode))
        place.chmod(0)
        return place
    yield take
    for place, mode in reversed(closed): place.chmod(mode)


def test_what_may_not_be_read_is_named(bound, close, corpus, tmp_path):
    close(corpus / "laugh" / "05.wav")
    close(corpus / "cough")
    code, output, errors = bound("audit", corpus, "--out", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert code == 0 and not errors and found["clips"] == 16, errors
    assert [(clip["path"], clip["reason"]) for clip in found["unreadable"]] == [("laugh/05.wav", "no permission to read it; repair or remove it")]
    assert found["problem_count"] == 17 and found["problems"][0].startswith("cough: the folder cannot be read") and "permissions" in found["problems"][0]
    assert all("labels.csv, line" in problem and "the folder of this file cannot be read" in problem for problem in found["problems"][1:])
    assert any("17 problems" in line for line in output) and found["fit"]["answer"] == "not yet"
    code, output, errors = bound(*run_of(corpus, tmp_path / "run"))
    assert code == 2 and not output and "17 problems" in errors[1] and errors[2].startswith("cough: the folder cannot be read"), errors


@pytest.mark.parametrize("place", ["train/train", "train", "test"])
def test_a_closed_part_of_the_archive_is_named(place, bound, close, archive, tmp_path):
    close(archive / place)
    code, output, errors = bound("audit", archive, "--out", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    gone = 28 if place == "test" else 84
    assert code == 0 and not errors and found["clips"] == 112 - gone and found["problem_count"] == gone + 1, output
    assert sum(problem.startswith(f"{place}: the folder cannot be read") for problem in found["problems"]) == 1
    close(archive / "metadata of test set.csv") # what its rows would say is anybody's guess
    check_refused(bound("audit", archive), "metadata of test set.csv", "cannot be read")


def test_a_closed_folder_of_a_table_is_named(bound, close, corpus, tmp_path):
    (corpus / "meta").mkdir()
    (corpus / "labels.csv").unlink()
    (corpus / "laugh").rename(corpus / "audio")
    rows = [f"{clip.name},{1 + number % 2},{number % 2},{('laugh', 'yawn')[number % 2]},{number // 4}" for number, clip in enumerate(sorted((corpus / "audio").iterdir()))]
    (corpus / "meta" / "esc50.csv").write_text("filename,fold,target,category,src_file\n" + "\n".join(rows) + "\n", encoding="utf-8")
    close(corpus / "cough") # no business of the table
    def problems() -> list[str]:
        code, _, errors = bound("audit", corpus, "--out", tmp_path / "audit.json")
        assert code == 0 and not errors, errors
        return json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))["problems"]
    assert problems() == []
    close(corpus / "audio")
    assert len(found := problems()) == 16 and all("the folder of this file cannot be read" in problem for problem in found)
    close(corpus / "meta") # without the table the layout cannot be known: three closed folders
    assert [problem.split(": ")[0] for problem in problems()] == ["audio", "cough", "meta"]


def test_a_closed_root_is_refused(bound, close, model, corpus):
    check_refused(bound("predict", model, close(corpus / "laugh")), str(corpus / "laugh"), "not readable")
    check_refused(bound("predict", model, corpus), str(corpus / "laugh"), "permissions")
    check_refused(bound("audit", close(corpus)), str(corpus), "permissions")
    check_refused(bound("audit", corpus / "laugh"), str(corpus / "laugh"), "permissions")


def test_what_is_no_regular_file_is_no_sound(call, model, corpus, tmp_path):
    if not hasattr(os, "mkfifo"): pytest.skip("there are no pipes with a name")
    os.mkfifo(corpus / "laugh" / "pipe.wav")
    (corpus / "labels.csv").unlink()
    for place in (corpus / "laugh" / "pipe.wav", Path(os.devnull)): # nobody writes into the pipe: to open it would be to wait for ever
        check_refused(call("predict", model, place), str(place), "is no regular file")
    code, output, errors = call("audit", corpus, "--out", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert code == 0 and found["clips"] == 32 and [problem.split(": ")[0] for problem in found["problems"]] == ["laugh/pipe.wav"], errors


def test_names_that_are_no_text_are_reported(call, model, corpus, tmp_path):
    folder, bad = os.fsencode(corpus / "laugh"), b"caf\xe9.wav"
    try: (corpus / "laugh" / "00.wav").rename(os.fsdecode(os.path.join(folder, bad)))
    except OSError: pytest.skip("this file system takes no names but UTF-8")
    (corpus / "labels.csv").unlink()
    code, output, errors = call("audit", corpus, "--out", tmp_path / "audit.json")
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert code == 0 and found["clips"] == 31 and len(found["problems"]) == 1, errors
    assert "laugh/caf\\xe9.wav" in found["problems"][0] and "UTF-8" in found["problems"][0]
    code, output, errors = call(*run_of(corpus, tmp_path / "run"))
    assert code == 2 and not output and any("caf\\xe9.wav" in line for line in errors), errors
    code, output, errors = call("predict", model, corpus)
    assert code in (0, 2) and len(output) >= 31 and all(json.loads(line) for line in output), errors


# Large things

MEASURED = """
import json, re, resource, sys, time
from pathlib import Path
from nonspeech7k.data.audit import audit, audit_text
from nonspeech7k.data.layouts import read_corpus
start = time.process_time()
found = audit(read_corpus(sys.argv[1], table=sys.argv[2] if len(sys.argv) > 2 else None))
lines = audit_text(found).splitlines()
status = Path("/proc/self/status") # Linux counts in ru_maxrss the process that started this one, the tests themselves, which may be larger
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) if status.exists() else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": time.process_time() - start, "megabytes": peak / 1024, "lines": len(lines),
                  "clips": found["clips"], "longest": found["seconds"]["max"], "problems": found["problem_count"], "long": found["long"]}))
"""


def measured(*arguments) -> dict:
    "What an audit in a process of its own took, and what it found."
    done = subprocess.run([sys.executable, "-c", MEASURED, *map(str, arguments)], capture_output=True, text=True, env={**os.environ, "NONSPEECH7K_PROGRESS": "off"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_recording_of_two_hours_is_measured_in_bounded_memory(corpus):
    (corpus / "labels.csv").unlink()
    before, samples = measured(corpus), 2 * 3600 * 16_000 * 2 # stereo at 16 kHz: 460 MB as a file with a hole, 920 MB as floats
    header = struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 36 + 2 * samples, b"WAVE", b"fmt ", 16, 1, 2, 16_000, 64_000, 4, 16, b"data", 2 * samples)
    with open(corpus / "cough" / "long.wav", "wb") as file:
        file.write(header + (noise(0, 60) * 20_000).astype("<i2").tobytes())
        file.truncate(44 + 2 * samples)
    after = measured(corpus)
    assert after["longest"] == 7200 and after["long"] == ["cough/long.wav"] and after["clips"] == 33
    assert after["megabytes"] < before["megabytes"] + 150 and after["seconds"] < before["seconds"] + 20, (before, after)


def test_a_table_of_nothing_is_a_problem(call, corpus, tmp_path):
    (corpus / "clips.csv").write_bytes(b"")
    code, output, errors = call(*run_of(corpus, tmp_path / "run", "corpus.layout=csv", "corpus.table=clips.csv"))
    assert code == 2 and not output and any("clips.csv" in line and "empty" in line for line in errors), errors
    found = measured(corpus, "clips.csv")
    assert found["clips"] == 0 and found["problems"] == 1


def test_a_table_of_a_million_rows_is_read_in_bounded_time_and_memory(corpus):
    with open(corpus / "clips.csv", "w", encoding="utf-8") as file:
        file.write("path,label,group\n")
        file.writelines(f"cough/{number:02}.wav,cough,{number // 3}\n" for number in range(16))
        file.writelines(f"laugh/x{number}.wav,laugh,{number // 3}\n" for number in range(1_000_000))
    found = measured(corpus, "clips.csv")
    assert found["clips"] == 16 and found["problems"] == 1_000_000 and found["lines"] < 60
    assert found["seconds"] < 120 and found["megabytes"] < 900, found


# Leaks

def test_a_leaking_split_is_refused_and_named(corpus):
    from nonspeech7k.data.layouts import read_corpus
    from nonspeech7k.data.splits import assign_folds, leak_note, leaks, refuse_leaks
    from nonspeech7k.files import UserError
    manifest = read_corpus(corpus).manifest.assign(split="train")
    torn = assign_folds(manifest, "stratified", 2, 0)
    with pytest.raises(UserError, match="splits.leaks: allow") as error: refuse_leaks(torn)
    assert ".wav (fold 1)" in str(error.value) and ".wav (fold 2)" in str(error.value)
    assert "on more than one side" in leak_note(refuse_leaks(torn, leaks_are="allow"))
    assert len(leaks(assign_folds(manifest, "grouped", 2, 0))) == 0


def test_a_quiet_copy_in_another_fold_is_found(corpus):
    from nonspeech7k.data.audit import audit
    from nonspeech7k.data.layouts import read_corpus
    from nonspeech7k.data.splits import assign_folds, join_copies, leaks
    loud = noise(77, 1.0)
    (corpus / "cough" / "00.wav").write_bytes(sound(loud))
    (corpus / "laugh" / "15.wav").write_bytes(sound(loud / 4, kind="FLAC"))
    read = read_corpus(corpus)
    found, manifest = audit(read), read.manifest.assign(split="train")
    assert found["near_duplicates"] == [["cough/00.wav", "laugh/15.wav"]] == found["disagreeing_near_duplicates"] and found["duplicates"] == []
    apart = manifest.assign(fold=np.where(manifest["label"] == "cough", 1, 2))
    assert leaks(apart, near=found["near_duplicates"])["kind"].tolist() == ["near duplicates"]
    joined = join_copies(manifest, np.arange(32), found["near_duplicates"])
    assert len(leaks(assign_folds(joined, "grouped", 2, 0), near=found["near_duplicates"])) == 0


# Tables

def edit(table: Path, change) -> None:
    "Change the rows of a CSV, its header being the first."
    rows = change(list(csv.reader(table.read_text(encoding="utf-8").splitlines())))
    table.write_text("".join(",".join(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def archive(demo, tmp_path) -> Path:
    "A copy of the demo corpus."
    return shutil.copytree(demo, tmp_path / "archive")


TRAIN = "metadata of train set .csv"


def test_every_problem_is_reported_at_once_with_file_line_and_column(call, archive, tmp_path):
    def spoil_rows(rows):
        header, *rows = rows
        first = rows[0]
        (archive / "train" / "train" / rows[1][0]).unlink()                                # line 3: its file is missing
        rows[3][3] = ""                                                                    # line 5: a label without a number
        rows[5][4] = "cough" if rows[5][4] != "cough" else "sneeze"                        # line 7: id and name disagree
        rows[7][3], rows[7][4] = "9", "snoring"                                            # line 9: two names for one class, or a class of one clip
        rows[9][0] = first[0]                                                              # line 11: a duplicate
        (archive / "train" / "train" / rows[11][0]).unlink()
        (archive / "train" / "train" / rows[11][0]).mkdir()                                # line 13: a folder where the file belongs
        rows[13][2] = "long"                                                               # line 15: no duration
        return [header, *rows]
    edit(archive / TRAIN, spoil_rows)
    edit(archive / "metadata of test set.csv", lambda rows: [*rows[:1], [*rows[1][:3], "99", "snort", *rows[1][5:]], *rows[2:]])
    before = contents(archive)
    code, output, errors = call(*run_of(archive, tmp_path / "run"))
    assert code == 2 and not output and f"{archive}: 7 problems" in errors[1], errors
    expected = [("metadata of test set.csv", 2, "Class_id", "unknown class"), (TRAIN, 3, "Filename", "missing file"), (TRAIN, 5, "Class ID", "class number"),
                (TRAIN, 7, "Classname", "disagree"), (TRAIN, 11, "Filename", "duplicate"), (TRAIN, 13, "Filename", "folder"), (TRAIN, 15, "Duration in ms", "long")]
    assert len(errors) == 2 + len(expected), errors
    for line, (table, number, column, word) in zip(errors[2:], expected):
        assert line.startswith(f"{table}, line {number}, column '{column}': ") and word in line, line
    code, output, errors = call("audit", archive)
    assert code == 0 and not errors and "7 problems" in output
    assert contents(archive) == before and not (tmp_path / "run" / "manifest.csv").exists()
    check_nothing_half_written(tmp_path / "run")


def test_a_folder_where_a_recording_belongs_is_named(call, corpus, tmp_path):
    (corpus / "laugh" / "05.wav").unlink()
    (corpus / "laugh" / "05.wav").mkdir()
    for changes in ((), ("on_bad_clip=skip",)): # a table's row without its file is a fault of the corpus: never skipped
        code, output, errors = call(*run_of(corpus, tmp_path / f"run{len(changes)}", *changes))
        assert code == 2 and not output and "labels.csv, line 23, column 'path': laugh/05.wav: a folder" in "\n".join(errors), errors
    (corpus / "labels.csv").unlink()
    code, output, errors = call(*run_of(corpus, tmp_path / "run"))
    assert code == 2 and not output and errors[2].startswith("laugh/05.wav: a folder"), errors
    check_nothing_half_written(tmp_path)


def rename_classes(corpus: Path, names: dict[str, str], encoding: str) -> Path:
    "A table of the corpus for the layout csv, its classes renamed."
    lines = ["path;label;speaker"]
    for old, new in names.items(): lines += [f"{old}/{clip.name};{new};{new} {number // 2}" for number, clip in enumerate(sorted((corpus / old).iterdir()))]
    (corpus / "clips.csv").write_bytes("\r\n".join(lines).encode(encoding))
    return corpus / "clips.csv"


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", "utf-8-sig"])
def test_a_table_is_read_right_in_its_encoding(encoding, corpus):
    from nonspeech7k.data.layouts import read_corpus
    from nonspeech7k.data.manifest import check_corpus
    table = rename_classes(corpus, {"cough": "Hüsteln", "laugh": "Gelächter"}, encoding)
    before = table.read_bytes()
    read = check_corpus(read_corpus(corpus, "csv", table="clips.csv"))
    assert read.labels == ("Gelächter", "Hüsteln") and read.manifest["group"].str.fullmatch("(Gelächter|Hüsteln) [0-7]").all()
    assert table.read_bytes() == before


def test_names_of_a_latin_1_table_reach_the_report(call, corpus, tmp_path):
    rename_classes(corpus, {"cough": "Hüsteln", "laugh": "Gelächter"}, "latin-1")
    code, _, errors = call(*run_of(corpus, tmp_path / "run", "corpus.layout=csv", "corpus.table=clips.csv", "train.epochs=1"))
    assert code == 0, errors
    predictions = pd.read_csv(tmp_path / "run" / "predictions.csv")
    assert set(predictions["label"]) == {"Gelächter", "Hüsteln"} == set(predictions.columns[-2:])
    assert "Gelächter" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_latin_1_metadata_of_the_archive_are_read_right(call, archive, tmp_path):
    for table in archive.glob("*.csv"): table.write_bytes(table.read_text(encoding="utf-8").replace("synthetic", "Geräusch").encode("latin-1"))
    from nonspeech7k.data.layouts import read_corpus
    from nonspeech7k.data.manifest import check_corpus
    corpus = check_corpus(read_corpus(archive))
    assert len(corpus.manifest) == 112 and corpus.manifest["group"].str.startswith("Geräusch/").all()


def drop_column(header: str):
    def change(rows):
        position = rows[0].index(header)
        return [row[:position] + row[position + 1:] for row in rows]
    return change


@pytest.mark.parametrize(("layout", "name", "column"), [("nonspeech7k", TRAIN, "Class ID"), ("esc50", "meta/esc50.csv", "fold"),
                                                        ("folders", "labels.csv", "path"), ("csv", "clips.csv", "label")])
def test_a_missing_column_is_named(layout, name, column, call, archive, corpus, tmp_path):
    root = archive if layout == "nonspeech7k" else corpus
    if layout == "csv": (root / name).write_text("path,label\ncough/00.wav,cough\n", encoding="utf-8")
    if layout == "esc50":
        (root / name).parent.mkdir()
        (root / name).write_text("filename,fold,target,category,src_file\n1-0-A-0.wav,1,0,dog,1\n", encoding="utf-8")
    edit(root / name, drop_column(column))
    before, table = contents(root), ["corpus.table=clips.csv"] if layout == "csv" else []
    check_refused(call(*run_of(root, tmp_path / "run", f"corpus.layout={layout}", *table)), f"{name}: the column '{column}", "is missing (found: ", announced=1)
    if layout != "csv": check_refused(call("audit", root, "--layout", layout), f"{name}: the column '{column}")
    assert contents(root) == before
    check_nothing_half_written(tmp_path / "run")


@pytest.mark.parametrize(("content", "word"), [(b"", "empty"), (b"path,group\n", "no row"), (b"P\0K\3\4" * 20, "not a text file"), (b'path,group\n"cough/00.wav,x\n', "quotes"),
                                               (b"path,path\ncough/00.wav,x\n", "2 times"), (None, "a folder, not a file")])
def test_a_table_that_is_none_is_named(content, word, call, corpus, tmp_path):
    (corpus / "labels.csv").unlink()
    if content is None: (corpus / "labels.csv").mkdir()
    else: (corpus / "labels.csv").write_bytes(content)
    code, output, errors = call(*run_of(corpus, tmp_path / "run"))
    assert code == 2 and not output and any("labels.csv" in line and word in line for line in errors[1:]), errors
    check_nothing_half_written(tmp_path / "run")


# Too little to learn from

def test_one_class_only_is_refused(call, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {"cough": 4})
    for number, changes in enumerate(([], ["splits.kind=stratified"], ["splits.test=held_out"])):
        check_refused(call(*run_of(corpus, tmp_path / f"run{number}", *changes)), "one class", "'cough'", announced=1)
    check_nothing_half_written(tmp_path)


def test_official_folds_of_one_class_are_refused(call, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {"cough": 4})
    edit(corpus / "labels.csv", lambda rows: [[*rows[0], "fold"], *([*row, str(1 + number % 2)] for number, row in enumerate(rows[1:]))])
    check_refused(call(*run_of(corpus, tmp_path / "run", "splits.kind=official")), "one class", "'cough'", announced=1)


def test_classes_with_fewer_groups_than_folds_are_named_together(call, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", {"cough": 4, "laugh": 2, "yawn": 1}, clips=3)
    code, output, errors = call(*run_of(corpus, tmp_path / "run", "splits.folds=3"))
    assert code == 2 and not output and len(errors) == 3, errors
    for line, label, groups in zip(errors[1:], ("laugh", "yawn"), ("2 groups", "1 group,")):
        assert f"'{label}'" in line and groups in line and "splits.folds 3" in line and "lower it" in line, line
    check_refused(call(*run_of(corpus, tmp_path / "run2", "splits.folds=2")), "'yawn'", "1 group", "splits.folds 2", announced=1)
    check_nothing_half_written(tmp_path)


def test_a_class_whose_recordings_are_all_spoiled_is_named(call, corpus, tmp_path):
    for clip in (corpus / "laugh").iterdir(): clip.write_bytes(b"")
    check_refused(call(*run_of(corpus, tmp_path / "run", "on_bad_clip=skip")), "of laugh", "unreadable", announced=1)
    assert not (tmp_path / "run" / "audit.json").exists()


# Recipes

@pytest.mark.parametrize(("change", "words"), [
    ("train.epoch=5", ["train.epoch: unknown key", "did you mean epochs"]), ("trian.epochs=5", ["trian: unknown key", "train"]),
    ("train.epochs=many", ["train.epochs", "integer", "'many'"]), ("train.epochs=0", ["train.epochs", "greater than or equal to 1"]),
    ("train.lr=-1", ["train.lr", "greater than 0"]), ("train.lr=.nan", ["train.lr"]), ("splits.kind=random", ["splits.kind", "'grouped'", "'random'"]),
    ("on_bad_clip=hide", ["on_bad_clip", "'stop'", "'skip'"]), ("clip.seconds=0.01", ["a clip has only"]), ("network.channels=64", ["network.channels", "list"]),
    ("corpus.root=", ["corpus.root"]), ("train.epochs", ["key.path=value"]), ("name.first=x", ["name"]), ("train.epochs=[1", ["YAML"]), ("name=../x", ["name", "'../x'"])])
def test_a_mistake_in_a_change_is_named(change, words, call, tmp_path):
    check_refused(call("run", "demo", "--out", tmp_path / "run", "--set", change), *words)
    assert not list(tmp_path.iterdir()), "a refused recipe wrote something"


def test_all_mistakes_of_a_recipe_are_named_at_once(call, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("name: mine\ncorpus: {}\nspilts: {folds: 3}\ntrain: {epochs: ten, lr: 0}\nclip: {rate: 16 kHz}\n", encoding="utf-8")
    code, output, errors = call("run", recipe, "--out", tmp_path / "run")
    keys = ["corpus.root", "spilts", "train.epochs", "train.lr", "clip.rate"]
    assert code == 2 and not output and len(errors) == len(keys), errors
    for key in keys: assert sum(f"{recipe}: {key}: " in line for line in errors) == 1, (key, errors)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"- a list\n", b"name: [broken\n", "name: Gähnen\n".encode("latin-1"), b"\x00\x01\x02", b"[1]: number\n", None])
def test_a_recipe_that_is_none_is_named(content, call, tmp_path):
    recipe = tmp_path / "mine.yaml"
    if content is None: recipe.mkdir()
    else: recipe.write_bytes(content)
    check_refused(call("run", recipe, "--out", tmp_path / "run"), str(recipe))
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_is_left_as_it_is(call, corpus, tmp_path):
    (tmp_path / "file").write_text("mine")
    before = contents(corpus)
    check_refused(call(*run_of(corpus, tmp_path / "file")), "file", "--out")
    check_refused(call(*run_of(corpus, tmp_path / "file" / "run")), "run", "choose another")
    check_refused(call(*run_of(corpus, corpus)), str(corpus), "--out")
    assert contents(corpus) == before and (tmp_path / "file").read_text() == "mine"


# A full disk

@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> bytes:
    "The predictions of a run of that corpus that nothing stopped."
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.runs.stages import complete
    folder = tmp_path_factory.mktemp("whole")
    corpus = write_corpus(folder / "corpus", {"cough": 8, "laugh": 8})
    run = open_run("demo", folder / "run", settings(corpus, folder / "run"))
    with pytest.MonkeyPatch.context() as patch:
        quicken(patch)
        complete(run)
    return (folder / "run" / "predictions.csv").read_bytes()


def check_full(answer: tuple, place: Path) -> None:
    "The answer of a command on a full disk: one line that names a file of the place and the way out."
    code, output, errors = answer
    assert code == 2 and output == [], answer
    assert str(place) in errors[-1] and "the disk is full" in errors[-1] and len(errors) <= 2, errors
    check_nothing_half_written(place)


def test_a_disk_that_is_full_at_any_write_loses_nothing(call, corpus, tmp_path, whole, monkeypatch):
    sync, allowed, place = os.fsync, [0], tmp_path / "disk"
    def full(descriptor):
        allowed[0] -= 1
        if allowed[0] < 0: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)
    monkeypatch.setattr(os, "fsync", full)
    for writes in range(40):
        allowed[0] = writes
        known = contents(place / "run") if (place / "run").exists() else {}
        answer = call(*run_of(corpus, place / "run"))
        assert set(known) - {path for path in known if path.endswith(".state")} <= set(contents(place / "run")), "something was lost"
        if answer[0] == 0: break
        check_full(answer, place)
    assert 5 < writes < 40 and (place / "run" / "predictions.csv").read_bytes() == whole
    check_nothing_half_written(place)


def test_no_room_for_the_bank_is_said_before_decoding(call, corpus, tmp_path, monkeypatch):
    def full(*_): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        check_full(call(*run_of(corpus, tmp_path / "disk" / "run")), tmp_path / "disk")
        assert not list((tmp_path / "disk" / "banks").iterdir())
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.folder import open_run
    assert explore(open_run("demo", tmp_path / "disk" / "run", settings(corpus, tmp_path / "disk" / "run")))["clips"] == 32


@pytest.fixture
def small_disk(tmp_path):
    "A real file system of eight mebibytes."
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "nonspeech7k-test", str(place)], capture_output=True, text=True) if shutil.which("mount") else None
    if done is None or done.returncode: pytest.skip("mounting a small file system needs root; a full disk is simulated by the tests above")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave(place: Path, free: int) -> None:
    "Fill a file system but for so many bytes."
    ballast = place / "ballast"
    ballast.unlink(missing_ok=True)
    available = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    with open(ballast, "wb") as file: os.posix_fallocate(file.fileno(), 0, max(1, available - free))


def test_a_real_full_disk_loses_nothing(call, corpus, tmp_path, whole, small_disk):
    for refused in range(40):
        leave(small_disk, refused * 24576)
        answer = call(*run_of(corpus, small_disk / "run"))
        if answer[0] == 0: break
        check_full(answer, small_disk)
    assert 3 < refused < 39 and (small_disk / "run" / "predictions.csv").read_bytes() == whole
    check_nothing_half_written(small_disk)


def test_a_disk_that_is_full_when_training_begins(call, corpus, small_disk):
    from nonspeech7k.files import write_text
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.folder import STAGES, open_run
    run = open_run("demo", small_disk / "run", settings(corpus, small_disk / "run"))
    explore(run), measure(run)
    for name in STAGES[:2]: write_text(run.folder / "notebooks" / f"{name}.ipynb", "{}")
    for free in (0, 4096): # the first byte of TensorBoard's file, and the first of the fit's state
        leave(small_disk, free)
        check_full(call(*run_of(corpus, small_disk / "run")), small_disk)


def test_notebooks_on_a_full_disk_are_whole_or_not_there(command, corpus, small_disk, monkeypatch):
    from nonspeech7k.runs import execution
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.folder import open_run
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")
    run = open_run("demo", small_disk / "run", settings(corpus, small_disk / "run"))
    explore(run)
    leave(small_disk, 16384) # room for the log, none for the notebook
    done = command(*run_of(corpus, small_disk / "run"))
    check_full((done.returncode, done.stdout.splitlines(), done.stderr.splitlines()), small_disk)
    (small_disk / "ballast").unlink()
    executed = []
    monkeypatch.setattr(execution, "execute", lambda run, name: executed.append(name))
    monkeypatch.setattr(execution, "evaluate", lambda run: {})
    execution.run_all(run)
    assert executed == list(execution.STAGES), "a notebook that could not be written is never made up for"


def test_other_commands_on_a_full_disk_leave_nothing(call, model, corpus, small_disk):
    leave(small_disk, 0)
    before = {path.name for path in small_disk.iterdir()}
    code, _, errors = call("audit", corpus, "--out", small_disk / "audit.json")
    assert code == 2 and len(errors) == 1 and "the disk is full" in errors[0]
    for command in (["demo", small_disk / "demo"], ["predict", model, corpus, "--out", small_disk / "labels.jsonl"]):
        check_refused(call(*command), str(small_disk), "the disk is full")
    assert {path.name for path in small_disk.iterdir()} == before


def test_full_standard_output_is_said(call, model, corpus, monkeypatch):
    with open("/dev/full", "w", encoding="utf-8") as full, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", full)
        answer = call("predict", model, corpus)
        os.dup2(os.open(os.devnull, os.O_WRONLY), full.fileno()) # so that it can be closed
    check_refused(answer, "standard output", "the disk is full")


# Through the real stages

def test_papermill_shows_a_spoiled_recording_in_one_line(command, corpus, tmp_path):
    victims = [spoil(corpus / "laugh" / "05.wav", "0_hz"), spoil(corpus / "cough" / "11.wav", "nan")]
    done = command(*run_of(corpus, tmp_path / "run"))
    errors = done.stderr.splitlines()
    assert done.returncode == 2 and done.stdout == "" and "Traceback" not in done.stderr and len(errors) == 3, errors
    assert str(victims[1]) in errors[1] and str(victims[0]) in errors[2]
    check_nothing_half_written(tmp_path)
