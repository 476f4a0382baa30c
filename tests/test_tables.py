"""Somebody's folders and tables, as they come from Macs, from Windows, from spreadsheets and from phones: nothing vanishes, every name is one name, a wrong level of folders is asked about, and what is no table ends in one sentence."""
import json
import os
import re
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import soundfile

from nonspeech7k.data.audit import audit, audit_text
from nonspeech7k.data.doubts import class_doubts
from nonspeech7k.data.layouts import read_corpus
from nonspeech7k.data.reading import find_sounds
from nonspeech7k.data.splits import assign_folds, leaks
from nonspeech7k.data.tables import read_table, table_paths
from nonspeech7k.files import UserError


@pytest.fixture(autouse=True)
def quiet(monkeypatch) -> None:
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")


def write_sounds(root: Path, *paths: str) -> Path:
    "Short sounds, each another one."
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        with open(root / path, "wb") as file: soundfile.write(file, np.random.default_rng([number, len(paths)]).uniform(-0.5, 0.5, 800), 8000, format="WAV")
    return root


def classes(*names: str, clips: int = 3) -> list[str]:
    return [f"{name}/{number}.wav" for name in names for number in range(clips)]


def said(found: dict) -> str:
    return "\n".join([*found["warnings"], *found["problems"]])


# Nothing vanishes

def test_what_is_not_taken_is_counted_and_said(tmp_path):
    root = write_sounds(tmp_path, *classes("cough", "laugh"), "@eaDir/cough/0.wav", "#recycle/9.wav", "$RECYCLE.BIN/9.wav", "__MACOSX/cough/._0.wav")
    for path in ("cough/notes.txt", "cough/a.jpg", "laugh/b.raw", "laugh/c.xyz", "readme.md"): (root / path).write_bytes(b"text")
    (root / "yawn").mkdir()
    for number in range(4): (root / "yawn" / f"{number}.sound1").write_bytes(b"?")
    (root / "hiccup").mkdir()
    (root / "cough" / "9").write_bytes((root / "cough" / "0.wav").read_bytes())
    corpus = read_corpus(root)
    found = audit(corpus)
    assert corpus.labels == ("cough", "laugh") and found["clips"] == 6
    assert found["not_taken"]["others"] == {".jpg": 1, ".md": 1, ".sound1": 4, ".txt": 1, ".xyz": 1} and found["not_taken"]["headerless"] == {".raw": 1}
    assert found["not_taken"]["passed"] == {"#recycle": 1, "$RECYCLE.BIN": 1, "@eaDir": 1}
    for words in ("1 .raw file left out", "yawn (4 .sound1 files)", "hiccup", "cough/9 (.wav)"): assert words in said(found), words
    assert found["fit"]["answer"] == "with care" and "left out: 4 .sound1" in audit_text(found)


@pytest.mark.parametrize("folder", ["LOST.DIR", "lost+found", "found.001", "~snapshot", "Trash", "Papierkorb", "Corbeille", "Network Trash Folder",
                                    "Temporary Items", "System Volume Information", "RECYCLER", "@Recycle", "cough/__pycache__"])
def test_a_systems_folder_is_no_class_and_its_sounds_are_counted(folder, tmp_path):
    root = write_sounds(tmp_path, *classes("cough", "laugh"), f"{folder}/x/1.wav")
    for hidden in (".snapshot", ".Trash-1000", ".Spotlight-V100", ".fseventsd", ".AppleDouble", ".git", "cough/.ipynb_checkpoints"):
        write_sounds(root, f"{hidden}/2.wav")
    found = audit(read_corpus(root))
    assert found["labels"] == ["cough", "laugh"] and found["clips"] == 6 and found["not_taken"]["passed"] == {folder: 1}


def test_a_dead_link_is_said_and_stops_nothing(tmp_path):
    root, told = write_sounds(tmp_path, *classes("cough", "laugh")), []
    (root / "cough" / "dead.wav").symlink_to("gone.wav")
    (root / "sneeze").symlink_to("/nowhere/sneeze", target_is_directory=True)
    os.mkfifo(root / "laugh" / "pipe.wav")
    found = audit(read_corpus(root))
    assert found["clips"] == 6 and "a link that leads nowhere is left out: sneeze" in said(found) and "cough/dead.wav" in said(found)
    assert len(find_sounds([root], told.append)) == 6
    assert "cough/dead.wav, sneeze; mend or remove them" in told[0] and "a pipe or a device is left out: laugh/pipe.wav" in told[0]


def test_sound_that_is_in_no_class_is_in_no_row_of_nothing(tmp_path):
    root = write_sounds(tmp_path, *classes("train/cough", "train/laugh", "test/cough"), "train/_background_noise_/1.wav")
    found = audit(read_corpus(root))
    assert found["not_taken"]["sentence"] == "left out: 1 .wav file of sound in no class" and "called like sound" not in said(found)


def test_sound_that_needs_pyav_is_counted_where_it_is_missing(tmp_path, monkeypatch):
    from nonspeech7k.data import formats
    root = write_sounds(tmp_path, *classes("cough", "laugh"))
    for number in range(12): (root / "cough" / f"m{number}.m4a").write_bytes(b"\0\0\0\x18ftypM4A ")
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    found = audit(read_corpus(root))
    assert found["not_taken"]["needs_pyav"] == {".m4a": 12} and "12 .m4a files" in said(found) and "nonspeech7k[formats]" in said(found)
    assert len(found["unreadable"]) == 12 and found["fit"]["answer"] == "not yet"


# Folders that are no classes

@pytest.mark.parametrize(("folders", "labels", "word"), [
    (classes("batch1/cough", "batch1/laugh", "batch2/cough", "batch2/laugh"), ("batch1", "batch2"), "probably the classes"),
    (classes(*(f"fold{n}/{label}" for n in range(1, 11) for label in ("dog", "rain")), clips=1), None, "fold/label"),
    (classes("original/neg", "original/pos", "segmented/neg", "segmented/pos"), None, "skip/label"),
    (classes("2024-05-01/a", "2024-05-01/b", "2024-05-02/a", "2024-05-02/b"), None, "probably the classes"),
    (classes("ann/cough", "ann/laugh", "bob/cough", "bob/laugh"), ("ann", "bob"), "group/label"),
    (classes("train/cough", "train/laugh", "eval/cough", "eval/laugh"), ("cough", "laugh"), "the folder eval is read as the test split"),
    ([*classes("train/cough", "train/laugh", "test/cough", "test/laugh"), "_background_noise_/1.wav"], ("cough", "laugh"), "_background_noise_"),
    ([*classes("yes", "no"), "_background_noise_/1.wav"], ("no", "yes"), "_background_noise_"),
    (classes("cough/train", "cough/test", "laugh/train", "laugh/test"), ("cough", "laugh"), "label/split"),
    (classes("data/train/cough", "data/train/laugh", "data/test/cough"), ("cough", "laugh"), "the folder data holds all others"),
    (classes("Cough", "cough", "laugh"), ("Cough", "cough", "laugh"), "may be one"),
    (classes("cough", "cough (1)", "laugh - Copy", "laugh"), None, "cough (1)"),
    (classes("1", "2"), ("1", "2"), "called as no class is")])
def test_a_level_that_may_be_wrong_is_said(folders, labels, word, tmp_path):
    corpus = read_corpus(write_sounds(tmp_path, *folders))
    found = audit(corpus)
    assert labels is None or corpus.labels == labels
    assert word in said(found), said(found)
    assert found["fit"]["answer"] != "yes" and audit_text(found).split("\n")[1].startswith("classes: ")


@pytest.mark.parametrize("folders", [
    classes("cough", "laugh"), classes("train/cough", "train/laugh", "Test/cough"), classes("cough/day 1", "cough/day 2", "laugh/day 1", "laugh/day 2"),
    [*classes("cough"), *classes("laugh/more", "yawn/a/b")], [*classes("train/a", "train/b"), *classes("dog")]])
def test_plain_folders_are_read_without_a_word(folders, tmp_path):
    corpus = read_corpus(write_sounds(tmp_path, *folders))
    assert not corpus.notes and not corpus.problems and not audit(corpus)["doubts"]


@pytest.mark.parametrize("splits", [("train_set", "test_set"), ("Training Data", "Test Data"), ("TrainSet", "testset"), ("01-train", "02-test"),
                                    ("Trainingsdaten", "Testdaten"), ("train_audio", "hold-out")])
def test_splits_are_known_in_usual_spellings(splits, tmp_path):
    corpus = read_corpus(write_sounds(tmp_path, *classes(*(f"{split}/{label}" for split in splits for label in ("cough", "laugh")))))
    assert corpus.labels == ("cough", "laugh") and not corpus.problems and set(corpus.manifest["split"]) == {"train", "test"}


@pytest.mark.parametrize("tops", [("fold_a", "fold_b"), ("Batch A", "Batch B"), ("fold0", "fold1"), ("part1", "part 01"), ("Test 1", "Test 2"), ("ann", "bob"),
                                  ("data/batch1", "data/batch2"), ("train/Batch A", "train/Batch B", "test/Batch A"), ("train/ann", "test/ann", "train/bob")])
def test_each_way_out_that_is_named_works(tops, tmp_path):
    root = write_sounds(tmp_path, *classes(*(f"{top}/{label}" for top in tops for label in ("cough", "laugh")), clips=1))
    sentence = next(sentence for sentence in audit(read_corpus(root))["doubts"] if "corpus.levels: " in sentence and "hold the same" in sentence)
    ways, keep = re.findall(r"[a-z]+(?:/[a-z]+)*", sentence.partition("corpus.levels: ")[2].partition(";")[0].replace(" or ", " ")), sentence.rpartition("; or ")[2]
    assert len(ways) > 1
    for way in ways:
        told = read_corpus(root, levels=way)
        assert told.labels == ("cough", "laugh") and not told.problems and not class_doubts(told), way
        assert set(told.manifest["split"]) == ({"train", "test"} if "train" in tops[0] else {""})
    assert not read_corpus(root, levels=keep.partition(",")[0]).problems


def test_a_way_out_keeps_the_split(tmp_path):
    root = write_sounds(tmp_path, *classes("train/fold1/cough", "train/fold2/laugh", "test/fold1/cough", "test/fold2/laugh"))
    assert "corpus.levels: split/skip/label" in said(audit(read_corpus(root)))
    assert set(read_corpus(root, levels="split/skip/label").manifest["split"]) == {"train", "test"}
    nested = write_sounds(tmp_path / "nested", *classes("x/train/cough", "x/Validation Set/cough"))
    with pytest.raises(UserError, match="corpus.levels: skip/split/label"): read_corpus(nested)
    assert read_corpus(nested, levels="skip/split/label").labels == ("cough",)
    flat = write_sounds(tmp_path / "flat", *classes("Batch A", "Batch B"))
    assert "called as no class is: Batch A, Batch B; rename them" in said(audit(read_corpus(flat)))


def test_levels_are_told_by_the_recipe(tmp_path, monkeypatch):
    root = write_sounds(tmp_path, *classes(*(f"fold{n}/s{n}/{label}" for n in (1, 2) for label in ("dog", "rain"))))
    told = read_corpus(root, levels="fold/group/label")
    assert told.labels == ("dog", "rain") and not told.problems and set(zip(told.manifest["fold"], told.manifest["group"])) == {(1, "s1"), (2, "s2")}
    with pytest.raises(UserError, match="corpus.levels: 'fold' is not understood"): read_corpus(root, levels="fold")
    with pytest.raises(UserError, match="corpus.levels: the layout esc50"): read_corpus(root, "esc50", levels="fold/label")
    split = read_corpus(write_sounds(tmp_path / "v", *classes("train/a", "train/b", "val/a")), levels="split/label")
    assert set(split.manifest["split"]) == {"train"} and "counts as train" in split.notes[0]
    with pytest.raises(UserError, match="validation split has no place here"): read_corpus(tmp_path / "v")


# One name

def test_one_speaker_in_many_spellings_is_one_group(tmp_path):
    spellings = ["Zoë", unicodedata.normalize("NFD", "Zoë"), " Zoë ", "Zoë\u00a0", "Zo\u200bë", "\ufeffZoë", "ZOË", "zoë"]
    files = classes("cough", "laugh", clips=len(spellings))
    root = write_sounds(tmp_path, *files, *classes("cough/x", "laugh/x"))
    rows = [f"{path},{spellings[int(Path(path).stem)] if path.count('/') == 1 else 'Ann  B.'}" for path in [*files, *classes("cough/x", "laugh/x")]]
    (root / "labels.csv").write_text("\n".join(["path,speaker", *rows]), encoding="utf-8")
    corpus = read_corpus(root)
    assert set(corpus.manifest["group"]) == {"Zoë", "Ann B."} and any("capitals" in note for note in corpus.notes)
    assert not len(leaks(assign_folds(corpus.manifest.assign(split="train"), "grouped", 2, 0)))


def test_one_label_in_many_spellings_is_one_class(tmp_path):
    root = write_sounds(tmp_path, "0.wav", "1.wav", "2.wav", "3.wav", "4.wav")
    labels = ["gähnen", unicodedata.normalize("NFD", "gähnen"), "gähnen\u200b", " gähnen", "Gähnen"]
    (root / "t.csv").write_text("path;label;split\n" + "".join(f"{n}.wav;{label};TRAIN\u00a0\n" for n, label in enumerate(labels)), encoding="utf-8")
    corpus = read_corpus(root, table="t.csv")
    assert corpus.labels == ("Gähnen", "gähnen") and not corpus.problems and "may be one" in said(audit(corpus))
    assert read_corpus(root, table="t.csv", labels=[labels[1], "Gähnen "]).labels == ("gähnen", "Gähnen")
    assert len(read_corpus(root, table="t.csv", where={"LABEL ": labels[1] + "\u00a0"}).manifest) == 5, "where does not mind capitals"


def test_what_is_not_seen_makes_no_second_name_and_what_looks_alike_is_doubted(tmp_path):
    labels = ["cough", "cough\ufe0f", "co\u034fugh", "\u3164cough", "cough\u115f", "cough\U000e0020", "ｃｏｕｇｈ", "\u0441\u043eugh", "a-b", "a\u2010b", "a\u2011b"]
    groups = ["01", "1", "1.0", "1", "Ann", "\u0410nn", "x-1", "x\u20111", "x-1", "b", "c"]
    root = write_sounds(tmp_path, *(f"{number}.wav" for number in range(len(labels))))
    rows = [f"{number}.wav,{label},{group}" for number, (label, group) in enumerate(zip(labels, groups, strict=True))]
    (root / "labels.csv").write_text("\n".join(["path,label,speaker", *rows]), encoding="utf-8")
    corpus = read_corpus(root)
    assert corpus.labels == ("a-b", "cough", "\u0441\u043eugh") and set(corpus.manifest["group"]) == {"01", "1", "1.0", "Ann", "\u0410nn", "x-1", "b", "c"}
    classes_, groups_ = audit(corpus)["doubts"]
    assert "cough (7) = \u0441\u043eugh (1, with the Cyrillic \u0441, \u043e)" in classes_
    assert "01 (1) = 1 (2) = 1.0 (1), Ann (1) = \u0410nn (1, with the Cyrillic \u0410)" in groups_


def test_paths_are_found_in_many_spellings(tmp_path):
    name = unicodedata.normalize("NFD", "Zoë")
    root = write_sounds(tmp_path, f"{name}/a  b.wav", f"{name}/c.WAV", "d.wav")
    (root / "t.csv").write_text("Path,Label\nZoë\\a b.wav,x\nZOË/C.wav,y\n.\\d.WAV,x\n", encoding="utf-8")
    corpus = read_corpus(root, table="t.csv")
    assert corpus.manifest["path"].tolist() == sorted([f"{name}/a  b.wav", f"{name}/c.WAV", "d.wav"]) and not corpus.problems


def test_folders_in_two_spellings_are_one_class(tmp_path):
    corpus = read_corpus(write_sounds(tmp_path, *classes("gähnen", unicodedata.normalize("NFD", "gähnen"), "cough", "cough ")))
    assert corpus.labels == ("cough", "gähnen") and len(corpus.notes) == 2 and "in 2 spellings" in corpus.notes[0]


# Bytes

@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_is_read_in_its_encoding(encoding, separator, tmp_path):
    root = write_sounds(tmp_path, "0.wav", "1.wav")
    text = separator.join(["path", "label", "note"]) + "\r\n" + separator.join(["0.wav", "Hüsteln", ""]) + "\r\n" + separator.join(["1.wav", "Gähnen", "é"])
    (root / "t.csv").write_bytes(text.encode(encoding))
    corpus = read_corpus(root, table="t.csv")
    assert corpus.labels == ("Gähnen", "Hüsteln") and bool(corpus.notes) == (encoding in ("cp1252", "latin-1"))
    assert list(table_paths(root / "t.csv", root)) == ["0.wav", "1.wav"]


def test_one_byte_that_is_no_text_is_named_with_line_and_column(tmp_path):
    root = write_sounds(tmp_path, "0.wav", "1.wav", "2.wav")
    (root / "t.csv").write_bytes("path,label,note\n0.wav,Hüsteln,\n1.wav,Gähnen,\n2.wav,Gähnen,".encode() + b"caf\xe9\n")
    corpus = read_corpus(root, table="t.csv")
    assert corpus.labels == ("Gähnen", "Hüsteln") and [(problem.line, problem.column) for problem in corpus.problems] == [(4, "note")]
    assert r"caf\xe9" in str(corpus.problems[0])
    for russian in ("cp1251", "koi8-r"):
        (root / "t.csv").write_bytes("path,label\n0.wav,кашель\n1.wav,зевота\n".encode(russian))
        assert len(read_corpus(root, table="t.csv").problems) == 2, "never mangled without a word"


# Good tables

@pytest.mark.parametrize("header", ["filename,label,speaker,source", "filename,label,speaker,duration", "File Name,label,speaker,duration", "file_name,class,speaker,source",
                                    "filename,label,speaker,Source,Duration in ms"])
def test_a_table_of_ones_own_is_not_the_archives(header, tmp_path):
    root = write_sounds(tmp_path, *classes("cough", "laugh"))
    rows = [f"{path},{path[:5]},s{path[-5]},1,1"[:None if header.count(",") == 4 else -2] for path in classes("cough", "laugh")]
    (root / "labels.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    corpus = read_corpus(root)
    assert corpus.layout == "folders" and not corpus.problems and corpus.manifest["group"].nunique() == 3


@pytest.mark.parametrize("header", ["file_name,category", "filepath,class", "audio,target", "name,label", "slice_file_name,class", "Clip Path,Class Name"])
def test_usual_headers_are_found(header, tmp_path):
    root = write_sounds(tmp_path, "0.wav", "1.wav")
    (root / "t.CSV").write_text(f"{header}\n0.wav,dog\n1.wav,rain\n", encoding="utf-8")
    assert read_corpus(root, table="t.CSV").labels == ("dog", "rain") and list(table_paths(root / "t.CSV")) == ["0.wav", "1.wav"]


@pytest.mark.parametrize("name", ["labels.csv", "metadata.csv", "Labels.TSV", "mine.csv"])
@pytest.mark.parametrize("folder", ["", "audio/"])
def test_a_table_beside_sounds_without_classes_is_read(name, folder, tmp_path):
    root, tab = write_sounds(tmp_path, f"{folder}0.wav", f"{folder}1.wav"), "\t" if name.endswith("TSV") else ","
    (root / name).write_text(f"file_name,label\n{folder}0.wav,cough\n{folder}1.wav,laugh\n".replace(",", tab))
    for layout in ("auto", "csv"):
        corpus = read_corpus(root, layout)
        assert corpus.layout == "csv" and corpus.labels == ("cough", "laugh") and not corpus.problems
    (root / "notes.csv").write_text("path,remark\n0.wav,loud\n")
    assert read_corpus(root).labels == ("cough", "laugh")


def test_folders_name_the_splits_of_a_table(tmp_path):
    root = write_sounds(tmp_path, *classes("train_set", "Test Data", clips=2))
    (root / "labels.csv").write_text("path,label\n" + "".join(f"{path},{label}\n" for path, label in zip(classes("train_set", "Test Data", clips=2), "abab", strict=True)))
    corpus = read_corpus(root)
    assert corpus.labels == ("a", "b") and corpus.manifest["split"].tolist() == ["test", "test", "train", "train"] and "train_set" in corpus.notes[0]
    flat = write_sounds(tmp_path / "flat", "1.wav")
    (flat / "labels.csv").write_text("path,text\n1.wav,a\n")
    with pytest.raises(UserError, match="labels.csv has no column of files"): read_corpus(flat)


def test_yes_and_no_that_became_true_and_false_are_spoken_of(tmp_path):
    root = write_sounds(tmp_path, "0.wav", "1.wav")
    (root / "labels.csv").write_text("path,label\n0.wav,yes\n1.wav,no\n")
    with pytest.raises(UserError, match="true and false are what some make of yes and no"): read_corpus(root, table="labels.csv", where={"label": [True, False]})


def test_a_label_is_corrected_by_the_table(tmp_path):
    root = write_sounds(tmp_path, *classes("cough", "laugh"))
    (root / "labels.csv").write_text("path,label\n" + "".join(f"{path},{'laugh' if path == 'cough/0.wav' else path[:5]}\n" for path in classes("cough", "laugh")), encoding="utf-8")
    assert "set corpus.labels_from: table" in str(read_corpus(root).problems[0])
    corrected = read_corpus(root, labels_from="table")
    assert not corrected.problems and corrected.manifest["label"].tolist() == ["laugh", "cough", "cough", "laugh", "laugh", "laugh"]


def test_recipes_know_the_new_keys(tmp_path):
    from nonspeech7k.recipe import read_recipe
    (tmp_path / "r.yaml").write_text("name: r\ncorpus: {root: c, levels: fold/label, labels_from: table}\n", encoding="utf-8")
    assert read_recipe(tmp_path / "r.yaml").corpus.levels == "fold/label"


# What is no table

@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "dead link", "circle", "closed pipe behind a link"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    root = write_sounds(tmp_path / "c", *classes("cough", "laugh"))
    place = root / "labels.csv"
    if kind == "pipe": os.mkfifo(place)
    elif kind == "folder": place.mkdir()
    elif kind == "device": place.symlink_to("/dev/zero")
    elif kind == "dead link": place.symlink_to("nowhere.csv")
    elif kind == "circle": place.symlink_to("labels.csv")
    else:
        os.mkfifo(tmp_path / "pipe")
        place.symlink_to(tmp_path / "pipe")
    for call in (lambda: read_corpus(root), lambda: read_table(place, root), lambda: list(table_paths(place))):
        with pytest.raises(UserError, match="labels.csv: cannot be read") as error: call()
        assert len(str(error.value)) < 300 and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [
    b"path,label\n0.wav," + b"x" * 10_000_000, b'path,label\n0.wav,"' + b"x\n" * 1_000_000, b"path,label\n0.wav,\0\n", b"path,label,label\n", b"\xff\xfe\x00",
    b"," * 500_000 + b"\n", b"path\n" + b"a/" * 30_000 + b"\n", b"path,label\n0.wav,a,b,c\n", b"path\xe9,label\n0.wav,a\n\xc3\xa4,b", b"\r\r\r", b'"', b"sep=;", "path,label\n0.wav,\ud800".encode("utf-8", "surrogatepass")])
def test_an_odd_table_is_a_problem_or_a_sentence(content, tmp_path):
    root = write_sounds(tmp_path, "0.wav", "1.wav")
    (root / "t.csv").write_bytes(content)
    for call in (lambda: read_corpus(root, table="t.csv").problems, lambda: list(table_paths(root / "t.csv", root))):
        try: found = call()
        except UserError as error: found = [str(error)]
        assert found and all(len(str(one)) < 8000 or set(one) == set("a/") for one in found)
        json.dumps([str(one) for one in found]).encode()
