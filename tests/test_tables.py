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
    hidden = (".snapshot", ".Trash-1000", ".Spotlight-V100", ".fseventsd", ".git", "cough/.ipynb_checkpoints")
    for place in (*hidden, ".AppleDouble"): write_sounds(root, f"{place}/2.wav") # what the last holds is no sound
    found = audit(read_corpus(root))
    assert found["labels"] == ["cough", "laugh"] and found["clips"] == 6
    assert found["not_taken"]["passed"] == dict.fromkeys((folder, *hidden), 1)


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
        corpus = read_corpus(root, table="t.csv")
        assert corpus.problem_count == 2 and "neither UTF-8 nor Windows-1252" in str(corpus.problems[0]), "never mangled without a word"


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
        with pytest.raises(UserError, match="labels.csv: .*; a CSV file is expected there") as error: call()
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


# Tables of published collections

URBAN = "slice_file_name,fsID,start,end,salience,fold,classID,class\n7-3-0-2.wav,7,10.5,10.6,1,1,3,dog_bark\n8-3-0-0.wav,8,0,0.1,1,2,3,dog_bark\n9-6-0-0.wav,9,1.5,1.55,2,1,6,gun_shot\n10-6-0-0.wav,10,0,4,1,2,6,gun_shot\n"


@pytest.mark.parametrize("settings", [{}, {"table": "metadata/UrbanSound8K.csv"}])
@pytest.mark.parametrize("above", ["", "UrbanSound8K/"])
def test_urbansound8k_is_read_as_it_is(settings, above, tmp_path):
    root = write_sounds(tmp_path, *(f"{above}audio/fold{fold}/{name}.wav" for fold, name in ((1, "7-3-0-2"), (2, "8-3-0-0"), (1, "9-6-0-0"), (2, "10-6-0-0"))))
    (root / above / "metadata").mkdir()
    (root / above / "metadata" / "UrbanSound8K.csv").write_text(URBAN, encoding="utf-8")
    corpus = read_corpus(root, **{key: above + name for key, name in settings.items()})
    assert corpus.layout == "csv" and not corpus.problems and corpus.labels == ("dog_bark", "gun_shot")
    assert dict(zip(corpus.manifest["group"], corpus.manifest["fold"])) == {"7": 1, "8": 2, "9": 1, "10": 2}
    assert "CC BY-NC" in corpus.notes[0] and len(assign_folds(corpus.manifest.assign(split="train"), "official", 2, 0)) == 4


PUBLISHED_TABLES = { # name → table, its text, the recordings, settings, and labels or what is said
    "FSDKaggle2018": ("FSDKaggle2018.meta/train_post_competition.csv", "fname,label,manually_verified,freesound_id,license\n00044347.wav,Hi-hat,0,28739,Attribution\n001ca53d.wav,Saxophone,1,358827,Attribution\n",
                      ["FSDKaggle2018.audio_train/00044347.wav", "FSDKaggle2018.audio_train/001ca53d.wav"], {}, ("Hi-hat", "Saxophone")),
    "FSD50K": ("FSD50K.ground_truth/dev.csv", 'fname,labels,mids,split\n64760,"Guitar,Music","/m/0342h,/m/04rlf",train\n16399,"Music","/m/04rlf",val\n',
               ["FSD50K.dev_audio/64760.wav", "FSD50K.dev_audio/16399.wav"], {"labels_per_clip": "several"}, ("Guitar", "Music")),
    "FSD50K, one label": ("FSD50K.ground_truth/dev.csv", 'fname,labels,mids,split\n64760,"Guitar,Music","/m/0342h,/m/04rlf",train\n', ["FSD50K.dev_audio/64760.wav"], {}, "set corpus.labels_per_clip to several"),
    "ESC-50": ("meta/esc50.csv", "filename,fold,target,category,esc10,src_file,take\n1-100032-A-0.wav,1,0,dog,True,100032,A\n1-100038-A-14.wav,1,14,chirping_birds,False,100038,A\n",
               ["audio/1-100032-A-0.wav", "audio/1-100038-A-14.wav"], {}, ("chirping_birds", "dog")),
    "AudioSet": ("eval_segments.csv", '# Segments csv created Sun Mar  5 10:54:31 2017\n# YTID, start_seconds, end_seconds, positive_labels\n--4gqARaEJE, 0.000, 10.000, "/m/068hy"\n', ["wav/--4gqARaEJE.wav"], {}, "the first line is a comment"),
    "AudioSet, bare": ("eval_segments.csv", 'YTID, start_seconds, end_seconds, positive_labels\n--4gqARaEJE, 0.000, 10.000, "/m/068hy"\n', ["wav/--4gqARaEJE.wav"], {}, "say which one it is as corpus.columns.path"),
    "COUGHVID": ("metadata_compiled.csv", ",uuid,datetime,cough_detected,SNR,age,gender,status,status_SSL\n0,00014dcc,2020,0.9,16,15,male,healthy,healthy\n1,00039425,2020,0.9,16,15,male,COVID-19,healthy\n",
                 ["00014dcc.wav", "00039425.wav"], {"columns": {"path": "uuid", "label": "status"}}, ("COVID-19", "healthy")),
    "Coswara": ("combined_data.csv", "id,a,covid_status,record_date,ep,g,l_c\niV3D,28,healthy,2020-04-23,y,male,India\n", ["20200413/iV3D/cough-heavy.wav"], {}, "the column 'path or file or filename' is missing"),
    "VocalSound": ("class_labels_indices_vs.csv", "index,mid,display_name\n0,/m/01j3sz,Laughter\n", ["audio_16k/f0001_0_laughter.wav"], {}, "the column 'path or file or filename' is missing"),
    "DCASE scenes": ("meta.csv", "filename\tscene_label\tidentifier\tsource_label\naudio/bus-lyon-1-1-a.wav\tbus\tlyon-1\ta\naudio/park-lyon-1-1-a.wav\tpark\tlyon-1\ta\n",
                     ["audio/bus-lyon-1-1-a.wav", "audio/park-lyon-1-1-a.wav"], {"columns": {"group": "identifier"}}, ("bus", "park")),
    "DCASE events": ("strong.tsv", "filename\tonset\toffset\tevent_label\na001.wav\t0.01\t0.05\tCough\na001.wav\t0.06\t0.09\tSneeze\n", ["audio/a001.wav"], {}, "'onset' and 'offset' (0.01, 0.05) mark a part of the file"),
    "TUT scenes": ("meta.csv", "audio/a001.wav\tbeach\n", ["audio/a001.wav"], {}, "there is no header"),
    "CREMA-D": ("SummaryTable.csv", '"","FileName","VoiceVote","VoiceLevel"\n"1","1001_DFA_ANG_XX","A","60"\n"2","1002_IEO_HAP_HI","H","60"\n', ["AudioWAV/1001_DFA_ANG_XX.wav", "AudioWAV/1002_IEO_HAP_HI.wav"],
                {"columns": {"label": "VoiceVote"}}, ("A", "H")),
    "VIVAE": ("ratings.csv", "FileName;Emotion;Speaker;Duration\nS01_anger_low_01.wav;anger;S01;0,1\nS02_fear_peak_02.wav;fear;S02;0,1\n", ["full_set/S01_anger_low_01.wav", "full_set/S02_fear_peak_02.wav"],
              {"columns": {"label": "Emotion"}}, ("anger", "fear")),
    "Donate-a-Cry": ("index.csv", "id,gender,age,reason\n1,m,26,hu\n", ["hungry/69BD-m-26-hu.wav"], {}, "the column 'path or file or filename' is missing"),
    "NeMo": ("manifest.csv", "audio_filepath,offset,duration,label\na.wav,0.02,0.03,speech\n", ["a.wav"], {}, "'offset' and 'duration' (0.02, 0.03) mark a part of the file")}


@pytest.mark.parametrize("name", PUBLISHED_TABLES)
def test_published_tables_are_read_or_say_what_to_do(name, tmp_path):
    table, text, sounds, settings, expected = PUBLISHED_TABLES[name]
    root = write_sounds(tmp_path, *sounds)
    (root / table).parent.mkdir(exist_ok=True)
    (root / table).write_text(text, encoding="utf-8")
    try: corpus = read_corpus(root, table=table, **settings)
    except UserError as error: words = str(error)
    else: words = "\n".join(map(str, corpus.problems))
    if isinstance(expected, str): assert expected in words and len(words) < 700 and "\n" not in words
    else: assert not words and corpus.labels == expected and len(corpus.manifest) == len(sounds)


def test_a_table_that_was_not_read_is_named(tmp_path):
    root = write_sounds(tmp_path, "north/a.wav", "south/b.wav")
    (root / "meta.csv").write_text("filename,scene_label\na.wav,bus\nb.wav,park\n", encoding="utf-8")
    assert "meta.csv: has a column of files and one of labels, and was not read; name the table as corpus.table" in said(audit(read_corpus(root)))
    assert read_corpus(root, table="meta.csv").labels == ("bus", "park")


def test_a_table_beside_sounds_without_classes_is_read(tmp_path):
    root = write_sounds(tmp_path, "audio/a.wav", "audio/b.wav")
    (root / "meta.csv").write_text("filename,scene_label\na.wav,bus\nb.wav,park\n", encoding="utf-8")
    assert read_corpus(root).labels == ("bus", "park")


# Cells that mean something else

def corpus_of(root: Path, text: str, **settings):
    (root / "t.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_corpus(root, table="t.csv", **settings)


@pytest.fixture
def four(tmp_path) -> Path: # four files of 0.1 s
    return write_sounds(tmp_path / "four", "0.wav", "1.wav", "2.wav", "sub/3.wav")


@pytest.mark.parametrize(("header", "times", "good", "word"), [
    ("onset,offset", ("0.02,0.05", "0.06,0.09"), 0, "parts are not read"), ("start,end", ("0,0.1", "0,0.11"), 2, ""), ("start_ms,end_ms", ("0,100", "0,100"), 2, ""),
    ("start sample,end sample", ("0,800", "0,795"), 2, ""), ("onset,duration", ("0,0.1", "0.005,0.1"), 2, ""), ("begin_time,end_time", ("70.5,70.6", "3,3.1"), 2, "end after the end of the files"),
    ("start,end", ("2020-01-01,2020-01-02", "x,y"), 2, ""), ("start,end", (",", ","), 2, ""), ("start", ("1", "2"), 2, "")])
def test_rows_that_mark_a_part_are_refused_in_one_sentence(header, times, good, word, four):
    four = write_sounds(four, "long.wav")
    soundfile.write(four / "long.wav", np.zeros(8000 * 5), 8000)
    names = ("long.wav", "long.wav") if not good else ("0.wav", "1.wav")
    corpus = corpus_of(four, f"path,label,{header}\n" + "".join(f"{name},{label},{cells}\n" for name, label, cells in zip(names, "xy", times)))
    assert len(corpus.manifest) == good and word in "\n".join([*map(str, corpus.problems), *corpus.notes]) and len(corpus.problems) <= 1
    assert bool(corpus.problems) == (not good)


def test_a_list_for_tag_says_that_marks_are_not_read(four):
    (four / "t.csv").write_text("path,onset,offset\n0.wav,1,2\n", encoding="utf-8")
    told = []
    assert list(table_paths(four / "t.csv", four, told.append)) == ["0.wav"] and "'onset' and 'offset' are not read" in told[0]


@pytest.mark.parametrize(("text", "seconds", "word"), [
    ("path,label,duration\n0.wav,x,100\n1.wav,y,\n", [0.1, None], "read as milliseconds"), ("path,label,Duration (ms)\n0.wav,x,100\n1.wav,y,100.0\n", [0.1, 0.1], ""),
    ("path;label;duration\n0.wav;x;0,1\n1.wav;y;,1\n", [0.1, 0.1], ""), ("path,label,duration\n0.wav,x,7\n1.wav,y,7\n", [7, 7], "are not those of the files")])
def test_durations_in_other_units(text, seconds, word, four):
    corpus = corpus_of(four, text)
    assert not corpus.problems and [None if np.isnan(value) else round(value, 3) for value in corpus.manifest["duration"]] == seconds
    assert word in "".join(corpus.notes) and bool(corpus.notes) == bool(word)


@pytest.mark.parametrize(("cells", "folds"), [("0101", [1, 2, 1, 2]), ("1212", [1, 2, 1, 2]), ("ABAB", [1, 2, 1, 2]), (("fold1", "fold2", "fold2", "fold1"), [1, 2, 2, 1]),
                                              (("fold0", "fold1", "fold1", "fold0"), [1, 2, 2, 1]), ("0000", [0, 0, 0, 0]), (("0", "1", "1", ""), [0, 1, 1, 0])])
def test_official_folds_are_taken_as_they_are(cells, folds, four):
    corpus = corpus_of(four, "path,label,fold\n" + "".join(f"{name},{label},{cell}\n" for name, label, cell in zip(("0", "1", "2", "sub/3"), "xxyy", cells)))
    assert corpus.manifest["fold"].tolist() == folds and not corpus.problems
    if max(folds) and min(folds): assert assign_folds(corpus.manifest.assign(split="train"), "official", 2, 0)["fold"].tolist() == folds


def test_folds_that_are_splits_or_a_mixture_are_rejected(four):
    for cells in (("train", "val", "test", "train"), ("1", "2", "x", "1")):
        corpus = corpus_of(four, "path,label,fold\n" + "".join(f"{name}.wav,x,{cell}\n" for name, cell in zip(("0", "1", "2", "sub/3"), cells)))
        assert corpus.problems and "is not a fold" in str(corpus.problems[0])


def test_the_test_split_needs_no_fold(four):
    corpus = corpus_of(four, "path,label,fold,split\n0.wav,x,0,train\n1.wav,x,1,train\n2.wav,x,,test\nsub/3.wav,x,0,test\n")
    assert corpus.manifest["fold"].tolist()[:2] == [1, 2] and not corpus.problems


@pytest.mark.parametrize(("encoding", "labels", "read"), [
    ("cp1251", ("кашель", "зевота"), False), ("mac_roman", ("Hüsteln", "Gähnen"), False), ("mac_roman", ("naïve", "café"), False), ("cp850", ("café", "élan"), False), ("cp1250", ("kasłać", "ziewać"), False),
    ("shift_jis", ("咳", "笑い"), False), ("iso8859-7", ("βήχας", "γέλιο"), False), ("cp1252", ("Hüsteln", "Škoda’s œuvre"), True), ("utf-16", ("кашель", "Hüsteln"), True), ("utf-16-le", ("кашель", "Hüsteln"), True),
    ("utf-16-be", ("咳", "笑い"), True), ("utf-32", ("кашель", "笑い"), True)])
def test_no_letter_is_guessed_without_a_word(encoding, labels, read, four):
    corpus = corpus_of(four, f"path,label\n0.wav,{labels[0]}\n1.wav,{labels[1]}\n".encode(encoding))
    if read: assert set(corpus.labels) == set(labels) and bool(corpus.notes) == (encoding == "cp1252")
    else: assert corpus.problem_count == 2 and len(corpus.problems) == 1 and "save the table as UTF-8" in str(corpus.problems[0])


@pytest.mark.parametrize(("text", "words"), [
    ("path,label,class\n0.wav,x,p\n1.wav,x,q\n", "'label' and 'class' may both be the label"), ("path,category,target\n0.wav,x,1\n1.wav,x,2\n", "say which it is as corpus.columns.label"),
    ("path,kind\n0.wav,x\n", "say which one it is as corpus.columns.label")])
def test_an_unclear_label_is_asked_about(text, words, four):
    with pytest.raises(UserError, match=words): corpus_of(four, text)
    column = text.split("\n")[0].split(",")[-1]
    assert not corpus_of(four, text, columns={"label": column}).problems


def test_labels_that_follow_from_each_other_are_no_doubt(four):
    text = "path,class,category,target\n0.wav,dog,animal,0\n1.wav,cat,animal,1\n2.wav,rain,weather,2\n"
    assert corpus_of(four, text).labels == ("cat", "dog", "rain")


@pytest.mark.parametrize(("text", "clips", "words"), [
    ("path,label\nC:\\data\\0.wav,x\n", 0, "a path of Windows"), ("path,label\nC:\\a\\0.wav,x\nD:\\b\\1.wav,y\n", 0, "a path of Windows"), ("path,label\n0.wav,x\n./0.wav,y\n", 1, "as 'x' and not 'y'"),
    ("path,label\n0.WAV,x\n0.wav,x\n", 1, "stands already in line 2; keep one row"), ("path,label\n3.wav,x\n", 1, "'3.wav' as sub/3.wav"), ("path,label\n3,x\n", 1, "'3' as sub/3.wav"),
    ("path,label\n../away.wav,x\n0.wav,y\n", 2, "1 file lies outside the corpus's folder"), ("path,label\n../gone.wav,x\n", 0, "missing file"), ("path,label,split\n0.wav,x,val\n", 0, "write train; folds take the part of validation")])
def test_rows_that_point_elsewhere(text, clips, words, four):
    write_sounds(four.parent, "away.wav")
    corpus = corpus_of(four, text)
    assert len(corpus.manifest) == clips and words in "\n".join([*map(str, corpus.problems), *corpus.notes])


def test_a_name_that_two_files_have_is_asked_about(four):
    (four / "other").mkdir()
    (four / "other" / "3.wav").write_bytes((four / "sub" / "3.wav").read_bytes())
    assert "2 files have this name (other/3.wav, sub/3.wav)" in str(corpus_of(four, "path,label\n3.wav,x\n").problems[0])


def test_bare_names_in_labels_csv_are_found_in_their_folders(tmp_path):
    root = write_sounds(tmp_path, *(f"{label}/{label}{number}.wav" for label in ("cough", "laugh") for number in range(2)))
    (root / "labels.csv").write_text("filename,speaker\n" + "".join(f"{label}{number}.wav,s{number}\n" for label in ("cough", "laugh") for number in range(2)), encoding="utf-8")
    corpus = read_corpus(root)
    assert not corpus.problems and corpus.manifest["group"].tolist() == ["s0", "s1", "s0", "s1"]
    (root / "labels.csv").write_text("filename,class\n" + "".join(f"{label}{number}.wav,{label}\n" for label in ("cough", "laugh") for number in range(2)), encoding="utf-8")
    assert read_corpus(root, labels_from="table").labels == ("cough", "laugh")


# Who is heard

def spoken(root: Path, header: str, *cells: str) -> Path:
    "Two classes of clips with a labels.csv of these cells, a row a clip of each class."
    write_sounds(root, *classes("cough", "laugh", clips=len(cells)))
    rows = [f"{name}/{number}.wav,{cell}" for name in ("cough", "laugh") for number, cell in enumerate(cells)]
    (root / "labels.csv").write_text("\n".join([f"file,{header}", *rows]) + "\n", encoding="utf-8")
    return root


@pytest.mark.parametrize(("cells", "group"), [
    (["r1,Ann", "r2,Ann", "r3,Ben", "r4,ben"], "speaker"), (["Ann,1", "Ann,2", "Ben,3", "Ben,4"], "group"), (["all,Ann", "all,Ann", "all,Ben", "all,Ben"], "speaker"),
    (["r1,Ann", "r1,Ann", "r2,n/a", "r3,Ann"], None), (["Mon,Ann", "Tue,Ann", "Mon,Ben", "Tue,Ben"], None), (["r1,Ann", "r2,Ann", "r3,Ben", "r3,Ann;Ben"], "speaker")])
def test_of_two_columns_of_groups_the_safe_one_is_taken(cells, group, tmp_path):
    root = spoken(tmp_path, "group,speaker", *cells)
    if group:
        corpus = read_corpus(root)
        for person in ("Ann", "Ben"):
            of = corpus.manifest[corpus.manifest["speaker"].str.contains(person, case=False)] if group == "speaker" else corpus.manifest[corpus.manifest["group"] == person]
            assert of["group"].nunique() == 1
        assert any(f"groups are those of '{group}'" in note for note in corpus.notes) == ("all" not in cells[0])
    else:
        with pytest.raises(UserError, match="'group', 'speaker' may each say .* corpus.columns.group"): read_corpus(root)
    assert set(read_corpus(root, columns={"group": "speaker"}).manifest["group"]) & {"Ann", "Ann;Ben", "1"}


def test_a_cell_that_names_nobody_is_no_speaker(tmp_path):
    cells = ["unknown", "NA", "n/a", "-", "?", "none", "null", "nan", "anonymous", "", "Ann", "Nana"]
    found = audit(read_corpus(spoken(tmp_path, "speaker", *cells)))
    assert found["groups"] == 22 and "20 clips without a group" in said(found) and "'n/a' (2)" in said(found)
    folders = read_corpus(write_sounds(tmp_path / "folders", *classes("Ann/cough", "unknown/cough", "unknown/laugh", "Ben/laugh")), levels="group/label")
    assert sorted(folders.manifest["group"].value_counts()) == [1] * 6 + [3, 3]


@pytest.mark.parametrize("sign", [";", " ; ", "|", "&", " & ", ",", ", ", "/", "+", " and "])
def test_people_who_share_a_clip_are_one_group(sign, tmp_path):
    root = spoken(tmp_path, "speaker", "Ann", "ben", "Carl", "Dora", f'"Ann{sign}Ben"', f'"Carl{sign}unknown"', "Dora")
    corpus = read_corpus(root)
    clips = corpus.manifest
    assert set(clips["group"]) == {"Ann;Ben", "Carl", "Dora"} and "3 names" in "".join(corpus.notes)
    assert not len(leaks(assign_folds(clips.assign(split="train"), "grouped", 2, 0)))
    assert clips["speaker"].str.contains("Ann").sum() == 4, "the table's own cells are kept"


def test_signs_within_a_name_divide_nothing(tmp_path):
    corpus = read_corpus(spoken(tmp_path, "speaker", '"Smith, John"', "site/1", "site/2", "AC/DC", "1/2", "2/2"))
    assert corpus.manifest["group"].nunique() == 6 and not corpus.notes


def test_a_table_of_speakers_beside_class_folders_is_named_and_its_way_out_works(tmp_path):
    root = spoken(tmp_path, "speaker", "Ann", "Ben", "Ann")
    (root / "labels.csv").rename(root / "speakers.csv")
    assert "name speakers.csv as corpus.table" in said(audit(read_corpus(root)))
    named = read_corpus(root, table="speakers.csv")
    assert named.layout == "folders" and named.labels == ("cough", "laugh") and set(named.manifest["group"]) == {"Ann", "Ben"}
    (root / "labels.csv").write_text("file,label,speaker\ncough/0.wav,cough,Ann\nlaugh/0.wav,laugh,Ann\n", encoding="utf-8")
    both = read_corpus(root, table="labels.csv")
    assert both.layout == "csv" and set(both.manifest["group"]) == {"Ann"}
    (root / "labels.csv").rename(root / "metadata.csv")
    (root / "speakers.csv").unlink()
    assert "one of labels and one of speakers or other groups, and was not read; name metadata.csv as corpus.table" in said(audit(read_corpus(root)))
    assert set(read_corpus(root, table="metadata.csv").manifest["group"]) == {"Ann"}


# Classes of no class

@pytest.mark.parametrize("name", ["nan", "-", "None", "?", "unlabeled", "unsorted", "rejected", "misc", "other", "_unknown_"])
def test_a_class_that_says_nothing_is_doubted(name, tmp_path):
    found = audit(read_corpus(write_sounds(tmp_path, *classes("cough", "laugh", name))))
    assert f"clips without a class are: {name} (3)" in said(found) and found["fit"]["answer"] == "with care"
    table = corpus_of(tmp_path, f"path,label\ncough/0.wav,cough\nlaugh/0.wav,laugh\n{name}/0.wav,{name}\n")
    assert f"{name} (1)" in class_doubts(table)[0]


def test_a_folder_that_holds_the_classes_again_is_asked_about(tmp_path):
    root = write_sounds(tmp_path, *classes("cough", "laugh", "youtube/Cough", "youtube/laugh"))
    found = audit(read_corpus(root))
    assert "youtube: it holds folders that are called like those beside it" in said(found) and found["fit"]["answer"] == "not yet"
    kept = read_corpus(root, levels="label")
    assert kept.labels == ("cough", "laugh", "youtube") and not kept.problems


def test_splits_of_several_folders_are_known_by_their_first_words(tmp_path):
    tops = ("train_curated", "train_noisy", "test")
    root = write_sounds(tmp_path, *classes(*(f"{top}/{label}" for top in tops for label in ("cough", "laugh"))))
    corpus = read_corpus(root)
    assert corpus.labels == ("cough", "laugh") and not corpus.problems and "train_noisy as train" in corpus.notes[0]
    assert corpus.manifest["split"].value_counts().to_dict() == {"train": 12, "test": 6}
    assert read_corpus(root, levels="split/label").manifest.equals(corpus.manifest)
    assert read_corpus(root, levels="label").labels == ("test", "train_curated", "train_noisy")
    horns = read_corpus(write_sounds(tmp_path / "horns", *classes("train_horn/near", "train_horn/far", "test_tone/near", "test_tone/far")))
    assert horns.labels == ("test_tone", "train_horn")
