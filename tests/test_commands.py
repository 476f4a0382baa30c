"""The command line where it is hard on it: terminals, pipes and names; tables and folders of jobs that somebody else wrote."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
from pyarrow import parquet

from nonspeech7k.files import UserError
from nonspeech7k.inference.bulk import read_bad, read_tags, tag

PROGRAM = [sys.executable, "-c", "import sys; from nonspeech7k.cli import main; sys.exit(main())"]
ODD = ["咳 gähnen.wav", "two\nlines.wav", "=1+1.wav", "-dash.wav", "\x1b]0;owned\x07.wav", "\u202egnp.wav", "a\rb.wav", "semi;colon, comma.wav"]


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    "A folder with a tiny classifier, sounds under odd names, and a file that is no sound."
    import torch

    from nonspeech7k.inference.classifier import build_classifier, describe, save_classifier
    from nonspeech7k.recipe import Recipe
    folder = tmp_path_factory.mktemp("commands")
    recipe = Recipe(name="example", corpus={"root": "."}, clip={"rate": 8000, "seconds": 0.5}, augment={"time_mask": 4},
                    network={"channels": [4, 8], "hidden": 8})
    torch.manual_seed(0)
    save_classifier(build_classifier(describe(["cough", "laugh"], recipe.model_dump())), folder / "model.safetensors")
    (folder / "sounds" / "night").mkdir(parents=True)
    for number, name in enumerate(["a.wav", "night/b.WAV", *ODD]):
        with open(folder / "sounds" / name, "wb") as file:
            soundfile.write(file, np.random.default_rng(number).uniform(-0.3, 0.3, 4000), 8000, format="WAV")
    (folder / "sounds" / "night" / "bad.wav").write_text("not a sound")
    return folder


def program(*arguments, **options) -> subprocess.CompletedProcess:
    "The command line in a process of its own."
    environment = {**os.environ, "NONSPEECH7K_PROGRESS": "off", "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, env=environment, timeout=120, **options)


# Names

def test_every_name_is_one_line_of_json_and_comes_back(call, here):
    code, output, errors = call("predict", here / "model.safetensors", here / "sounds")
    assert code == 2 and errors.count("\n") == 1 and "bad.wav" in errors
    answers = [json.loads(line) for line in output.split("\n")[:-1]]
    assert {Path(answer["path"]).name for answer in answers} == {"a.wav", "b.WAV", *ODD}
    assert "\x1b" not in output and "\u202e" not in output and "咳 gähnen" in output


def test_a_name_that_is_no_text_is_text_in_json_and_sounds_passed_by_are_counted(call, here, tmp_path):
    from nonspeech7k.names import unescaped
    folder, sound = tmp_path / "sounds", (here / "sounds" / "a.wav").read_bytes()
    for name in (b"\xff.wav", b"Trash/b.wav", b"thumbs/c.wav", b".d.wav"):
        (folder / os.fsdecode(name)).parent.mkdir(parents=True, exist_ok=True)
        (folder / os.fsdecode(name)).write_bytes(sound)
    left = "1 hidden sound, 1 sound in Trash, 1 sound in thumbs left out"
    code, output, errors = call("predict", here / "model.safetensors", folder)
    path = json.loads(output)["path"]
    assert code == 0 and path.encode() and os.fsencode(unescaped(path)) == os.fsencode(folder) + b"/\xff.wav" and left in errors
    assert call("predict", here / "model.safetensors", folder, "--out", tmp_path / "p.json")[0] == 0
    assert [answer["path"] for answer in json.loads((tmp_path / "p.json").read_text())] == [path]
    code, _, errors = call("tag", here / "model.safetensors", folder, "--out", tmp_path / "tags")
    assert code == 0 and left in errors


def test_csv_holds_no_formula_and_no_forged_row(call, here, tmp_path):
    from nonspeech7k.names import from_cells
    call("predict", here / "model.safetensors", here / "sounds" , "--out", tmp_path / "p.csv")
    table = pd.read_csv(tmp_path / "p.csv", keep_default_na=False)
    assert len(table) == 2 + len(ODD) and {Path(path).name for path in table["path"]} == {"a.wav", "b.WAV", *ODD}
    monkey = os.getcwd()
    os.chdir(here / "sounds")
    try: call("predict", here / "model.safetensors", "=1+1.wav", "./-dash.wav", "--out", tmp_path / "q.csv")
    finally: os.chdir(monkey)
    table = pd.read_csv(tmp_path / "q.csv", keep_default_na=False)
    assert table["path"].tolist() == ["'=1+1.wav", "'-dash.wav"] and from_cells(table)["path"].tolist() == ["=1+1.wav", "-dash.wav"]


@pytest.mark.parametrize("form", [".jsonl", ".json", ".csv", ".parquet"])
def test_suffix_says_how_answers_are_written(call, here, tmp_path, form):
    place = tmp_path / f"p{form}"
    assert call("predict", here / "model.safetensors", here / "sounds" / "a.wav", "--out", place)[0] == 0
    read = {".jsonl": lambda: json.loads(place.read_text())["label"], ".json": lambda: json.loads(place.read_text())[0]["label"],
            ".csv": lambda: pd.read_csv(place)["label"][0], ".parquet": lambda: pd.read_parquet(place)["label"][0]}
    assert read[form]() in ("cough", "laugh")


# Words

@pytest.mark.parametrize("arguments, words", [
    (("predict", "MODEL", "sounds", "--out", "p.xlsx"), "must end in .jsonl, .json, .csv or .parquet"),
    (("predict", "MODEL", "sounds", "--out", "sounds/a.wav/p.csv"), "is a file, not a folder"),
    (("predict", "MODEL", "-dash.wav"), "write ./-dash.wav"),
    (("predict", "MODEL", "nothing\nforged: done"), "nothing\\nforged: done: no such file"),
    (("predict", "MODEL", "nul\0"), "zero byte"),
    (("events", "MODEL", "sounds"), "give a file in it, such as sounds/"),
    (("events", "MODEL", "nothing.wav"), "nothing.wav: no such file"),
    (("events", "MODEL", "pipe.wav"), "a pipe or a device"),
    (("explain", "MODEL", "sounds", "--out", "x.png"), "give a file in it"),
    (("explain", "MODEL", "nothing.wav", "--out", "x.png"), "nothing.wav: no such file"),
    (("audit", "nothing"), "nothing: no such folder"), (("audit", "empty"), "the folder is empty"),
    (("tag", "MODEL", "sounds", "--out", "labels.json"), "a folder of Parquet files"),
    (("tag", "MODEL", "sounds", "--out", "mine.csv"), "is there already"),
    (("tag", "MODEL", "round", "--out", "labels"), "round: "), (("tag", "MODEL", "pipe.csv", "--out", "labels"), "pipe"),
    (("predict", "MODEL", "sounds/a.wav", "--out", "pipe.csv"), "pipe.csv: is a pipe or a device"),
    (("events", "MODEL", "sounds/a.wav", "--out", "/dev/stdout"), "/dev/stdout: is a pipe or a device"),
    (("tag", "MODEL", "zeros.parquet", "--out", "labels"), "a device"),
])
def test_mistake_is_answered_with_one_sentence(call, here, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(here / "sounds", "sounds")
    for name in ("-dash.wav", "mine.csv"): Path(name).touch()
    for name in ("pipe.wav", "pipe.csv"): os.mkfifo(name)
    Path("empty").mkdir()
    Path("round").symlink_to("round")
    Path("zeros.parquet").symlink_to("/dev/zero")
    code, output, errors = call(*[here / "model.safetensors" if argument == "MODEL" else argument for argument in arguments])
    assert code == 2 and output == "" and errors.count("\n") == 1 and words in errors and "corpus." not in errors, errors
    assert not Path("p.xlsx").exists() and not Path("labels").exists() and not Path("labels.json").exists()


# Terminals and pipes

def test_output_takes_every_character_in_every_encoding(here):
    done = program("predict", here / "model.safetensors", here / "sounds" / ODD[0], here / "nothing咳.wav", env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 2 and b"nothing\\u54b3.wav: no such file" in done.stderr and b"Traceback" not in done.stderr
    done = program("predict", here / "model.safetensors", here / "sounds" / ODD[0], env={"PYTHONIOENCODING": "latin-1"})
    assert done.returncode == 0 and Path(json.loads(done.stdout.decode("latin-1"))["path"]).name == ODD[0]


def test_closed_pipe_and_lost_folder_end_without_a_traceback(here, tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run([*PROGRAM, "predict", here / "model.safetensors", here / "sounds" / "a.wav"], stdout=nobody, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (141, b"")
    closed = subprocess.run(["bash", "-c", '"$@" >&-', "bash", *PROGRAM, "predict", here / "model.safetensors", here / "sounds" / "a.wav"], capture_output=True)
    assert closed.returncode == 2 and closed.stderr.count(b"\n") == 1 and b"standard output: is closed" in closed.stderr
    lost = f"import os; os.chdir({str(tmp_path)!r}); os.rmdir(os.getcwd()); import sys; sys.argv = ['x', 'audit', 'sounds']; {PROGRAM[2]}"
    done = subprocess.run([sys.executable, "-c", lost], capture_output=True, text=True)
    assert done.returncode == 2 and "the working folder is gone" in done.stderr and done.stderr.count("\n") == 1


# Manifests

@pytest.mark.parametrize("name, content", [
    ("semicolon.csv", "path;label\r\na.wav;x\r\n"), ("blank.csv", "path\n a.wav \n"), ("suffix.csv", "path\nnight/b.wav\n"),
    ("backslash.csv", "path\nnight\\b.WAV\n"), ("UPPER.CSV", "path\na.wav\n"), ("tab.tsv", "path\tx\na.wav\ty\n"), ("file.csv", "file,x\na.wav,y\n")])
def test_manifests_are_read_as_other_tables_are(here, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    done = tag(here / "model.safetensors", tmp_path / name, tmp_path / "out", here / "sounds")
    assert (done["labelled"], done["bad"]) == (1, 0)
    assert read_tags(tmp_path / "out")["path"][0] == content.splitlines()[1].replace(";", ",").replace("\t", ",").split(",")[0].strip()


def test_missing_files_are_listed_and_absolute_ones_found(here, tmp_path):
    names = [str(here / "sounds" / "a.wav"), "gone.wav", "../sounds/a.wav", "night", "x" * 300, "nul\0.wav", "/dev/zero"]
    parquet.write_table(pa.table({"path": pa.array(names).dictionary_encode()}), tmp_path / "m.parquet")
    done = tag(here / "model.safetensors", tmp_path / "m.parquet", tmp_path / "out", here / "sounds")
    assert (done["labelled"], done["bad"]) == (2, 5)
    assert read_bad(tmp_path / "out").set_index("path")["reason"]["gone.wav"] == "no such file"


@pytest.mark.parametrize("column", [pa.array([1]), pa.array([None]), pa.array([["a"]]), pa.array([{"a": "b"}]), pa.array([b"\xff"]), pa.array([1.5])])
def test_parquet_without_text_is_named(here, tmp_path, column):
    parquet.write_table(pa.table({"path": column}), tmp_path / "m.parquet")
    with pytest.raises(UserError, match="m.parquet.*path"): tag(here / "model.safetensors", tmp_path / "m.parquet", tmp_path / "out", here / "sounds")
    assert not (tmp_path / "out").exists()


# A job's folder

@pytest.fixture
def job(here, tmp_path) -> Path:
    "A finished job of the sounds, four a part."
    tag(here / "model.safetensors", here / "sounds", tmp_path / "job", part=4)
    return tmp_path / "job"


def again(here: Path, job: Path):
    "Go on with a job, and read it."
    tag(here / "model.safetensors", here / "sounds", job)
    return read_tags(job)


def test_job_of_the_version_before_goes_on(here, job):
    "It wrote parts without checksums, and the same job.json."
    for path in job.rglob("*.parquet"): parquet.write_table(parquet.read_table(path), path, compression="zstd")
    before = read_tags(job)
    (job / "tags" / "000000001.parquet").unlink()
    assert again(here, job).equals(before)
    assert set(json.loads((job / "job.json").read_text())) == {
        "format", "labels", "model", "corpus", "root", "manifest", "part", "clips", "parts", "listed"}


@pytest.mark.parametrize("harm", ["flip", "cut", "swap", "foreign", "link", "pipe", "bad gone", "clips gone", "clips short", "tags link"])
def test_damaged_part_is_named_and_mended_as_it_says(here, job, tmp_path, harm):
    whole, path = read_tags(job), job / "tags" / "000000001.parquet"
    content = path.read_bytes()
    if harm == "flip": path.write_bytes(content.replace(b"laugh", b"lough", 1) if b"laugh" in content[:200] else content[:60] + bytes([content[60] ^ 1]) + content[61:])
    if harm == "cut": path.write_bytes(content[:-9])
    if harm == "swap": path.write_bytes((job / "tags" / "000000000.parquet").read_bytes())
    if harm == "foreign": parquet.write_table(pa.table({"path": ["a.wav"], "label": ["dog"]}), path)
    if harm in ("link", "pipe"): path.unlink()
    if harm == "link": path.symlink_to(job / "tags" / "000000000.parquet")
    if harm == "pipe": os.mkfifo(path)
    if harm == "bad gone": path = next((job / "bad").iterdir())
    if harm.startswith("clips"): path = job / "clips" / "000000001.parquet"
    if harm.endswith("gone"): path.unlink()
    if harm == "clips short": path.write_bytes((job / "clips" / "000000002.parquet").read_bytes())
    if harm == "tags link":
        (job / "tags").rename(tmp_path / "elsewhere")
        (path := job / "tags").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError) as error: again(here, job)
    assert str(job) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 1000
    if harm in ("flip", "cut", "swap", "foreign", "link", "pipe"):
        path.unlink()
        assert again(here, job).equals(whole), "the way out leads out"


@pytest.mark.parametrize("change", [{"parts": 10**9}, {"parts": True}, {"clips": "3"}, {"labels": ["path", "x"]}, {"labels": ["a", "a"]}, {"root": None},
                                    {"format": 3}, {"model": "x"}, {"listed": "x" * 101}, {"part": 0}, None])
def test_job_json_of_another_kind_is_named(here, job, change):
    known = json.loads((job / "job.json").read_text())
    (job / "job.json").write_text("[" * 9999 if change is None else json.dumps(known | change))
    for asked in (lambda: again(here, job), lambda: read_tags(job), lambda: read_bad(job)):
        with pytest.raises(UserError, match="job.json") as error: asked()
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000


def test_nothing_is_written_through_a_link(here, job, tmp_path):
    from nonspeech7k.inference.bulk import Tagger
    from nonspeech7k.inference.jobs import open_job
    (tmp_path / "mine").write_text("mine")
    (job / ".lock").unlink()
    (job / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="job"): again(here, job)
    (job / ".lock").unlink()
    (job / "begun").mkdir()
    (job / "begun" / "000000000").symlink_to(tmp_path / "mine")
    import torch
    answer = Tagger(open_job(here / "model.safetensors", here / "sounds", job), "cpu", torch.get_num_threads())({"part": np.array([0])})
    assert "000000000" in answer["problem"][0] and (tmp_path / "mine").read_text() == "mine"


# Asked again

def test_changed_files_are_labelled_anew_and_it_is_said(call, here, tmp_path):
    sounds, out = shutil.copytree(here / "sounds", tmp_path / "sounds"), tmp_path / "labels"
    asked = ("tag", here / "model.safetensors", sounds, "--out", out, "--part", 4)
    assert call(*asked)[0] == 0
    before, kept = read_tags(out), {path: path.stat().st_mtime_ns for path in (out / "tags").iterdir()}
    code, _, errors = call(*asked)
    assert code == 0 and "0 of 11 clips done now" in errors and "files" not in errors and read_tags(out).equals(before)
    with open(sounds / "a.wav", "wb") as file: soundfile.write(file, np.ones(4000), 8000, format="WAV")
    shutil.copy(sounds / "a.wav", sounds / "night" / "bad.wav")
    (sounds / ODD[0]).unlink()
    shutil.copy(sounds / "a.wav", sounds / "new.wav")
    errors = call(*asked)[2]
    assert "files changed since they were labelled: 2; " in errors and "files came into the folder after it was listed: 1; " in errors
    after = read_tags(out)
    fresh = {answer["path"]: answer for answer in map(json.loads, call("predict", here / "model.safetensors", sounds)[1].split("\n")[:-1])}
    assert {"a.wav", "night/bad.wav"} <= set(after["path"]) and not len(read_bad(out)[lambda rows: rows["path"] == "night/bad.wav"])
    for name in ("a.wav", "night/bad.wav"):
        assert abs(after.set_index("path").at[name, "cough"] - fresh[str(sounds / name)]["probabilities"]["cough"]) < 1e-6
    assert any(path.stat().st_mtime_ns == moment for path, moment in kept.items()), "the other parts stand"


# What is written

@pytest.mark.parametrize("command", [("events", "MODEL", "X/a.wav", "--out", "PLACE"), ("audit", "X", "--out", "PLACE"), ("audit", "X", "--page", "PLACE"), ("audit", "X/r.yaml", "--out", "PLACE"),
                                     ("compare", "X", "X", "--out", "PLACE"), ("predict", "MODEL", "X", "--out", "PLACE"), ("explain", "MODEL", "X/a.wav", "--out", "PLACE"),
                                     ("export", "MODEL", "--onnx", "PLACE"), ("ensemble", "PLACE", "MODEL", "MODEL"), ("tag", "MODEL", "X/list.csv", "--out", "PLACE")], ids=lambda command: " ".join(command[::2]))
def test_nothing_is_written_over_somebody_elses_file(call, here, tmp_path, command):
    (tmp_path / "X").mkdir()
    for name, content in (("a.wav", (here / "sounds" / "a.wav").read_bytes()), ("r.yaml", b"name: r\ncorpus: {root: X}\n"), ("list.csv", b"path\na.wav\n"), ("m.safetensors", b"numbers")):
        (tmp_path / "X" / name).write_bytes(content)
    own = {"predict": [".csv"]}.get(command[0], [])
    for place in sorted((tmp_path / "X").iterdir()):
        if place.suffix in own: continue
        before = place.read_bytes()
        given = {"MODEL": str(here / "model.safetensors"), "PLACE": str(place)}
        code, _, said = call(*(given.get(part, part.replace("X", str(tmp_path / "X")) if part.startswith("X") else part) for part in command))
        assert code == 2 and said.count("\n") == 1 and place.read_bytes() == before, said


def test_older_answers_give_way_to_newer_ones(call, here, tmp_path):
    for name in ("e.jsonl", "e.jsonl", "e.new"):
        code, _, said = call("events", here / "model.safetensors", here / "sounds" / "a.wav", "--out", tmp_path / name)
        assert code == 0, said
    (tmp_path / "e.new").write_text("notes")
    assert call("events", here / "model.safetensors", here / "sounds" / "a.wav", "--out", tmp_path / "e.new")[0] == 2 and (tmp_path / "e.new").read_text() == "notes"


@pytest.mark.parametrize("form", ["csv", "tsv", "parquet"])
def test_parts_of_files_are_not_labelled_as_wholes_without_a_word(call, here, tmp_path, form):
    def tagged(rows):
        frame, place = pd.DataFrame(rows, columns=["path", "start", "end"]), tmp_path / f"list{len(rows)}.{form}"
        if form == "parquet": frame.to_parquet(place, index=False)
        else: frame.to_csv(place, index=False, sep="\t" if form == "tsv" else ",")
        return call("tag", here / "model.safetensors", place, "--out", tmp_path / f"labels{len(rows)}", "--root", here / "sounds", "--device", "cpu")
    code, _, said = tagged([("a.wav", "0", "0.5")])
    assert code == 0 and "'start' and 'end' are not read" in said and "cut parts out" in said
    code, _, said = tagged([("a.wav", "0", "0.2"), ("a.wav", "0.2", "0.5")])
    assert code == 2 and said.count("\n") == 2 and "a.wav stands in two rows" in said and "cut them out into files of their own" in said
