"""Embeddings on the command line: what is written, what is like what, one class more, and files that strangers wrote."""
import io
import json
import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import soundfile
import torch
from pyarrow import parquet

from nonspeech7k.files import UserError, digest
from nonspeech7k.inference.classifier import build_classifier, describe, ensemble, load_classifier, save_classifier
from nonspeech7k.inference.embeddings import embed, hearing, read_embeddings
from nonspeech7k.recipe import Recipe

SIZES = {"residual": {"channels": [4, 8], "hidden": 8}, "image_cnn": {"channels": [4, 8], "hidden": 8}, "segments": {"filters": [4, 4, 8], "hidden": 8}, "lstm": {"hidden": 8, "layers": 1},
         "waveform": {"channels": [4, 8], "hidden": 8}, "attention": {"channels": [4, 8], "hidden": 8, "heads": 2}, "yamnet": {"weights": "none"},
         "timm": {"model": "test_resnet"}, "transformer": {"weights": "none", "hidden": 16, "layers": 1, "heads": 2}}
LISTENS = {"waveform": {"kind": "waveform"}, "transformer": {"kind": "transformer", "n_mels": 32, "frames": 64}, "yamnet": {"kind": "yamnet"}}


def built(kind: str = "residual", labels=("cough", "laugh"), seed: int = 0):
    "A small classifier with random weights."
    recipe = Recipe(name="example", corpus={"root": "."}, clip={"rate": 16_000, "seconds": 0.5}, front_end=LISTENS.get(kind, {"n_fft": 256, "hop_length": 128, "n_mels": 32}),
                    augment={"frequency_mask": 0, "time_mask": 0}, network={"kind": kind, **SIZES[kind]})
    torch.manual_seed(seed)
    return build_classifier(describe(list(labels), recipe.model_dump()))


def write_tones(folder: Path, count: int, pitch: float):
    folder.mkdir(parents=True)
    rng = np.random.default_rng(int(pitch))
    for number in range(count):
        tone = np.sin(2 * np.pi * pitch * (1 + number / 50) * np.arange(7000) / 16_000) / 3 + rng.normal(0, 0.02, 7000)
        soundfile.write(folder / f"{number}.wav", tone, 16_000)


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> Path:
    "A folder with a classifier, sounds in three folders, and a file that is no sound."
    folder = tmp_path_factory.mktemp("embeddings")
    save_classifier(built(), folder / "model.safetensors")
    save_classifier(built(seed=1), folder / "other.safetensors")
    for label, pitch in (("cough", 300), ("laugh", 1200), ("hiccup", 5000)): write_tones(folder / "sounds" / label, 7, pitch)
    (folder / "sounds" / "hiccup" / "bad.wav").write_text("no sound")
    return folder


# Every kind of network

@pytest.mark.parametrize("kind", SIZES)
def test_every_network_embeds_beside_its_answer(here, kind):
    try: classifier = built(kind)
    except UserError as error: pytest.skip(str(error))
    files = sorted((here / "sounds" / "cough").iterdir())
    found, bad = embed(classifier, "0" * 32, files, place="start")
    assert bad == [] and found.values.dtype == np.float32 and np.isfinite(found.values).all()
    assert np.allclose(found.values, classifier.embed(files), atol=1e-4 * found.values.max()) and len(np.unique(found.values, axis=0)) == len(files)
    both, _ = embed(ensemble([classifier, built(kind, seed=1)]), "0" * 32, files, place="start")
    assert both.values.shape[1] == 2 * found.values.shape[1] and np.allclose(both.values[:, :found.values.shape[1]], found.values, atol=1e-4 * found.values.max())


def test_yamnet_gives_means_and_then_maxima(here):
    found, _ = embed(hearing(), "0" * 32, [here / "sounds" / "cough" / "0.wav"])
    assert found.values.shape == (1, 2048) and (found.values >= 0).all() and (found.values[:, :1024] <= found.values[:, 1024:] + 1e-6).all()


def test_published_yamnet_where_its_weights_are_kept(call, here, tmp_path):
    from nonspeech7k.models.yamnetweights import PUBLISHED, kept_weights
    if not kept_weights().exists(): pytest.skip("the published weights are not in the cache")
    code, _, errors = call("embed", "yamnet", here / "sounds", "--out", tmp_path / "heard.npz")
    assert code == 2 and "bad.wav" in errors
    found = read_embeddings(tmp_path / "heard.npz")
    assert found.values.shape == (21, 2048) and found.model == PUBLISHED["digest"]
    code, output, _ = call("similar", "yamnet", here / "sounds" / "cough" / "3.wav", tmp_path / "heard.npz", "--top", 4, "--format", "jsonl")
    assert code == 0 and {Path(json.loads(line)["path"]).parent.name for line in output.splitlines()} == {"cough"}


# embed

@pytest.mark.parametrize("form", [".npz", ".parquet"])
def test_a_row_a_file_and_bad_ones_named_and_counted(call, here, tmp_path, form):
    place = tmp_path / f"heard{form}"
    code, output, errors = call("embed", here / "model.safetensors", here / "sounds", "--out", place)
    assert code == 2 and "21 files, 8 numbers each" in output and errors.startswith("nonspeech7k: 1 of 22 files cannot be read") and "bad.wav" in errors
    found = read_embeddings(place)
    assert len(found.paths) == 21 and found.model == digest(here / "model.safetensors")
    classifier = load_classifier(here / "model.safetensors")
    assert np.allclose(found.values, classifier.embed([Path(path) for path in found.paths]), atol=1e-4)
    if form == ".npz":
        with np.load(place, allow_pickle=False) as archive: assert sorted(archive) == ["embeddings", "model", "paths"]
    else: assert list(pd.read_parquet(place)) == ["path", "embedding"]


def test_names_that_are_no_text_come_back(call, here, tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for name in (b"\xff.wav", "咳 =1+1.wav".encode(), b"two\nlines.wav"): shutil.copy(here / "sounds" / "cough" / "0.wav", folder / os.fsdecode(name))
    for form in ("npz", "parquet"):
        assert call("embed", here / "model.safetensors", folder, "--out", tmp_path / f"heard.{form}")[0] == 0
        from nonspeech7k.names import unescaped
        assert {os.fsencode(os.path.basename(unescaped(path))) for path in read_embeddings(tmp_path / f"heard.{form}").paths} == set(map(os.fsencode, os.listdir(folder)))
        code, output, errors = call("similar", here / "model.safetensors", folder / os.fsdecode(b"\xff.wav"), tmp_path / f"heard.{form}")
        assert code == 0 and output.count("\n") == 2 and "passed over" in errors


@pytest.mark.parametrize("arguments, words", [
    (("embed", "MODEL", "sounds", "--out", "x.csv"), "must end in .parquet or .npz"), (("embed", "MODEL", "nowhere", "--out", "x.npz"), "no such file or folder"),
    (("embed", "MODEL", "sounds/hiccup/bad.wav", "--out", "x.npz"), "nothing is written"), (("embed", "sounds/cough/0.wav", "sounds", "--out", "x.npz"), "0.wav"),
    (("embed", "MODEL", "sounds", "--out", "x.npz", "--from", "end"), "no part of a file"), (("embed", "nowhere.safetensors", "sounds", "--out", "x.npz"), "nowhere.safetensors"),
    (("similar", "MODEL", "sounds", "sounds"), "one recording at a time"), (("similar", "MODEL", "sounds/cough/0.wav", "nowhere.npz"), "nowhere.npz: no such file"),
    (("similar", "MODEL", "sounds/cough/0.wav", "mine.csv"), "no file of embeddings"), (("similar", "MODEL", "sounds/cough/0.wav", "sounds", "--top", "0"), "--top 0"),
    (("similar", "MODEL", "sounds/hiccup/bad.wav", "sounds"), "bad.wav: cannot be decoded"), (("similar", "MODEL", "sounds/cough/0.wav", "sounds", "--format", "xml"), "text, jsonl, csv"),
    (("add-class", "MODEL", "Cough ", "sounds/hiccup", "--out", "x.safetensors", "--old", "sounds"), "is a class already"),
    (("add-class", "MODEL", "hiccup", "sounds/hiccup", "--out", "x.safetensors"), "name them with --old"),
    (("add-class", "MODEL", "hiccup", "few", "--out", "x.safetensors", "--old", "sounds"), "3 examples; give 5"),
    (("add-class", "MODEL", "hiccup", "sounds/hiccup", "--out", "MODEL", "--old", "sounds"), "is read by this command"),
    (("add-class", "MODEL", "hiccup", "sounds/hiccup", "--out", "x.safetensors", "--old", "few"), "few"),
    (("add-class", "MODEL", "hiccup", "sounds/hiccup", "--out", "x.safetensors", "--old", "sounds", "--how", "magic"), "--how"),
    (("tag", "MODEL", "sounds", "--out", "x.csv", "--embeddings"), "no room for embeddings")])
def test_mistake_is_answered_with_one_sentence(call, here, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(here / "sounds", "sounds")
    shutil.copytree("sounds/laugh", "few", ignore=lambda folder, names: names[3:])
    Path("mine.csv").write_text("path\n")
    before = (here / "model.safetensors").read_bytes()
    code, output, errors = call(*[here / "model.safetensors" if argument == "MODEL" else argument for argument in arguments])
    said = [line for line in errors.splitlines() if not line.endswith("(left out)")]
    assert code == 2 and output == "" and words in errors and "Traceback" not in errors and len(said) <= 2, errors
    assert not list(tmp_path.glob("x.*")) and not list(tmp_path.rglob("*.partial")) and (here / "model.safetensors").read_bytes() == before


def test_no_network_and_no_weights_is_one_sentence(here, tmp_path):
    "As where pip cannot reach anything; the cache is an empty folder."
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "NONSPEECH7K_CACHE": str(tmp_path / "cache"), "HOME": str(tmp_path), "PIP_NO_INDEX": "1", "PIP_INDEX_URL": "http://127.0.0.1:9/",
                   "PIP_RETRIES": "0", "NONSPEECH7K_PROGRESS": "off"}
    program = "import sys; from nonspeech7k.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, "embed", "yamnet", here / "sounds", "--out", tmp_path / "x.npz"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (tmp_path / "x.npz").exists()
    assert "pip could not fetch" in done.stderr and "fetches the weights of YAMNet" in done.stderr, done.stderr


# similar

def test_nearest_come_first_and_the_query_is_passed_over(call, here, tmp_path):
    query = here / "sounds" / "cough" / "3.wav"
    folder = shutil.copytree(here / "sounds" / "cough", tmp_path / "cough")
    shutil.copy(query, folder / "copy.wav")
    code, output, errors = call("similar", here / "model.safetensors", folder / "3.wav", folder, "--format", "jsonl")
    near = [json.loads(line) for line in output.splitlines()]
    assert code == 0 and len(near) == 7 and "itself is passed over" in errors and near == sorted(near, key=lambda one: one["distance"])
    assert {Path(one["path"]).name: one["distance"] for one in near}["copy.wav"] < 1e-6 and not any("/3.wav" in one["path"] for one in near)
    code, output, errors = call("similar", here / "model.safetensors", folder / "3.wav", folder, "--top", 3)
    assert output.count("\n") == 3
    call("tag", here / "model.safetensors", folder, "--out", tmp_path / "labels.parquet", "--embeddings")
    for where in (tmp_path / "labels.parquet", tmp_path / "labels.parquet.parts"):
        assert call("similar", here / "model.safetensors", folder / "3.wav", where, "--top", 3)[1] == output


def test_another_models_embeddings_are_refused(call, here, tmp_path):
    call("embed", here / "model.safetensors", here / "sounds" / "cough", "--out", tmp_path / "heard.npz")
    code, output, errors = call("similar", here / "other.safetensors", here / "sounds" / "cough" / "0.wav", tmp_path / "heard.npz")
    assert code == 2 and output == "" and errors.count("\n") == 1 and "the embeddings of another model" in errors


# tag --embeddings

def test_job_with_embeddings_goes_on_and_one_without_does_not(call, here, tmp_path):
    asked = ("tag", here / "model.safetensors", here / "sounds", "--out", tmp_path / "labels", "--part", 5)
    assert call(*asked, "--embeddings")[0] == 0
    before = read_embeddings(tmp_path / "labels")
    (tmp_path / "labels" / "tags" / "000000002.parquet").unlink()
    with pytest.raises(UserError, match="not labelled yet"): read_embeddings(tmp_path / "labels")
    assert call(*asked, "--embeddings")[0] == 0 and np.array_equal(read_embeddings(tmp_path / "labels").values, before.values)
    plain = ("tag", here / "model.safetensors", here / "sounds", "--out", tmp_path / "plain", "--part", 5)
    assert call(*plain)[0] == 0
    code, output, errors = call(*plain, "--embeddings")
    assert code == 2 and output == "" and errors.count("\n") == 1 and "was begun without" in errors
    columns = [name for name in pd.read_parquet(tmp_path / "plain" / "tags") if name != "embedding"]
    assert np.allclose(pd.read_parquet(tmp_path / "plain" / "tags")[["cough"]], pd.read_parquet(tmp_path / "labels" / "tags")[["cough"]], atol=1e-5) and "cough" in columns


# add-class

@pytest.mark.parametrize("kind, how", [("residual", "embeddings"), ("residual", "head"), ("yamnet", "embeddings"), ("segments", "head")])
def test_a_class_more_says_what_it_was_learned_from_and_tried_on(call, here, tmp_path, kind, how):
    save_classifier(built(kind), tmp_path / "model.safetensors")
    code, output, errors = call("add-class", tmp_path / "model.safetensors", "hiccup", here / "sounds" / "hiccup", "--out", tmp_path / "new.safetensors", "--old", here / "sounds", "--how", how)
    assert code == 0 and "bad.wav" in errors and output.startswith("hiccup: 7 clips") and "14 of 14 clips" in output and "of 7 of hiccup found" in output and "flatters" in output
    again = load_classifier(tmp_path / "new.safetensors")
    assert again.labels == ["cough", "laugh", "hiccup"] and again.configuration["added"][0]["examples"] == 7
    code, output, errors = call("predict", tmp_path / "new.safetensors", here / "sounds" / "hiccup" / "0.wav")
    assert code == 0 and set(json.loads(output)["probabilities"]) == {"cough", "laugh", "hiccup"}


def test_segments_need_the_head(call, here, tmp_path):
    save_classifier(built("segments"), tmp_path / "model.safetensors")
    code, _, errors = call("add-class", tmp_path / "model.safetensors", "hiccup", here / "sounds" / "hiccup", "--out", tmp_path / "new.safetensors", "--old", here / "sounds")
    assert code == 2 and "take --how head" in errors and not (tmp_path / "new.safetensors").exists()


# Strangers' files

def header(shape, descr: str = "<f4") -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def archive_of(place: Path, **parts: bytes) -> Path:
    with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items(): archive.writestr(f"{name}.npy", content)
    return place


def saved(value) -> bytes:
    np.save(sink := io.BytesIO(), value)
    return sink.getvalue()


class Trap:
    def __reduce__(self): return (os.mkdir, ("trapped",))


@pytest.mark.parametrize("embeddings", [header((1 << 40, 4)), header((1 << 20, 1024)) + bytes(1 << 24), header((-1, 4)), header((3, 4), "|O"), header((3, 1 << 70)), header((2, 2), "<f4") + bytes(9),
                                        header((2, 0)), header((), "<f4") + bytes(4), b"\x93NUMPY\x09\x00", header("x"), saved(np.array([[Trap()]], object)), saved(np.zeros((2, 2), [("a", "f4")]))],
                         ids=["terabytes", "bomb", "below zero", "objects", "beyond", "short", "empty", "none", "version", "no shape", "pickle", "fields"])
def test_archive_runs_nothing_and_takes_no_memory_for_a_claim(tmp_path, monkeypatch, embeddings):
    monkeypatch.chdir(tmp_path)
    place = archive_of(tmp_path / "x.npz", paths=saved(np.array(["a", "b"])), embeddings=embeddings, model=saved(np.array("0" * 32)))
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as error: read_embeddings(place)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally: tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000 and not (tmp_path / "trapped").exists()


def test_letters_that_are_none_are_refused(tmp_path):
    "NumPy makes a text of any number; what is done with such a text ends in an error of Python itself."
    name = saved(np.array(["a", "b"]))
    place = archive_of(tmp_path / "x.npz", paths=name[:-4] + b"\xff\xff\xff\x7f", embeddings=saved(np.ones((2, 2), np.float32)), model=saved(np.array("0" * 32)))
    with pytest.raises(UserError, match="letters that are none"): read_embeddings(place)


def test_parquet_bomb_is_refused(tmp_path):
    values = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(8 << 20, np.float32)), 8)
    table = pa.table({"path": pa.array(["a"] * (1 << 20)).dictionary_encode(), "embedding": values}).replace_schema_metadata({"nonspeech7k": json.dumps({"model": "0" * 32})})
    parquet.write_table(table, tmp_path / "x.parquet", compression="zstd")
    assert (tmp_path / "x.parquet").stat().st_size < 1 << 17
    with pytest.raises(UserError, match="claims to hold"): read_embeddings(tmp_path / "x.parquet")


def test_help_of_all_is_light_and_names_them(call):
    code, output, _ = call("--help")
    assert code == 0 and all(name in output for name in ("embed", "similar", "add-class"))
    asked = "import sys, nonspeech7k.cli; print(sorted({'torch', 'matplotlib', 'pandas', 'sklearn', 'numpy', 'pydantic', 'pyarrow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True).stdout.strip() == "[]"
