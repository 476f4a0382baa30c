"Recipes and maps from outside: words stay what was typed, and nothing that a file says costs more than a sentence."
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nonspeech7k.files import UserError
from nonspeech7k.networkparts import ImageCnnPart, LstmPart, ResidualPart, SegmentPart
from nonspeech7k.recipe import Recipe, read_recipe, recipe_yaml
from nonspeech7k.runs.elsewhere import check_map, read_map
from nonspeech7k.yamlfile import plain_data

WORDS = ("2024", "010", "1e5", "0x10", "0o10", "yes", "No", "on", "off", "true", "null", "~", "12:30:00", "2024-01-31", ".inf", "1_000")


def refusal(function, *values) -> str:
    "The one answer to bad input: a text of bounded length, within a moment, without control characters."
    begun = time.process_time()
    with pytest.raises(UserError) as caught: function(*values)
    text = str(caught.value)
    assert time.process_time() - begun < 3 and 0 < len(text) < 2000
    assert all(letter.isprintable() or letter == "\n" for letter in text), text
    return text


@pytest.fixture
def file(tmp_path): return tmp_path / "mine.yaml"


@pytest.mark.parametrize("word", WORDS)
def test_a_word_stays_what_was_typed(word, file):
    file.write_text(f"name: a\ncorpus: {{root: {word}, labels: [{word}], where: {{{word}: {word}}}, columns: {{path: {word}}}}}\n")
    changed = read_recipe("demo", [f"corpus.root={word}", f"corpus.columns.path={word}", f"corpus.labels=[{word}]", f"corpus.where={{{word}: {word}}}"])
    for corpus in (read_recipe(file).corpus, changed.corpus):
        assert (corpus.root, corpus.labels, corpus.where, corpus.columns["path"]) == (word, [word], {word: word}, word)


@pytest.mark.parametrize("typed, meant", [("site #2", "site #2"), (" a: b ", "a: b"), ("[old] sounds", "[old] sounds"), ("'no'", "no"),
                                          ('"site #2"', "site #2"), ("it's", "it's"), ("'a' and 'b'", "'a' and 'b'"), ("{x}", "{x}"),
                                          ("C:\\sounds", "C:\\sounds"), ("&a", "&a"), ("*a", "*a"), ("!!x y", "!!x y"), ("a # b", "a # b")])
def test_set_takes_a_folder_as_it_was_typed(typed, meant):
    assert read_recipe("demo", [f"corpus.root={typed}"]).corpus.root == meant


def test_set_still_takes_numbers_lists_sections_and_nothing():
    recipe = read_recipe("demo", ["train.epochs=010", "train.lr=1e-3", "network={kind: lstm, hidden: 64, directions: 2}", "reject={keep: .9}",
                                  "corpus.table=null", "corpus.where={fold: 010}", "augment.gain=[0.5, 1]", "clip.seconds=4. # s"])
    assert (recipe.train.epochs, recipe.train.lr, recipe.network.hidden, recipe.reject.keep) == (10, 1e-3, 64, 0.9)
    assert (recipe.corpus.table, recipe.corpus.where, recipe.augment.gain, recipe.clip.seconds) == (None, {"fold": "010"}, [0.5, 1.0], 4.0)
    assert read_recipe("demo", ["reject={keep: .9}", "reject=null"]).reject is None
    for number in ("0x10", "12:30", "1.5", "yes", ".nan", "1e400", "9" * 10**5):
        assert "train.epochs" in refusal(read_recipe, "demo", [f"train.epochs={number}"])


LETTERS = st.text(st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(root=LETTERS, labels=st.lists(LETTERS, max_size=4), where=st.dictionaries(LETTERS, LETTERS, max_size=3),
       rate=st.floats(1e-9, 100), seconds=st.floats(1, 100))
def test_what_was_written_reads_back_equal(tmp_path_factory, root, labels, where, rate, seconds):
    place = tmp_path_factory.getbasetemp() / "back.yaml"
    recipe = Recipe(name="a", corpus={"root": root, "labels": labels, "where": where}, train={"lr": rate}, clip={"seconds": seconds})
    place.write_text(recipe_yaml(recipe), encoding="utf-8")
    assert read_recipe(place) == recipe


def bomb(levels: int, width: int = 9) -> str:
    lines = [f"a0: &a0 [{', '.join('x' * width)}]"]
    return "\n".join([*lines, *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, levels))]) + "\n"


@pytest.mark.parametrize("content", [
    bomb(8), "train: " + bomb(2).partition(": ")[2] + bomb(9), "a: &a [*a]", "&a {a: *a}", "[" * 100_000, "{a: " * 5000, "- " * 5000, "? " * 5000,
    "x" * 10**7, "a: 1\na: 2", "a: !!python/object/apply:os.system [ls]", "a: !!binary aGk=", "a: !x y", "a: &x {b: 1}\nc: {<<: *x}", "? [a]\n: b",
    "? {a: b}\n: c", "a: \0", 'a: "\\ud800"', 'a: "\\U99999999"', "%YAML 1." + "9" * 10000 + "\n---\na: 1", "a: b\n---\na: c", "a: *" + "x" * 10**5,
    "x" * 10**5 + ": 1", "train: {" + "x" * 10**5 + ": 1}", "train: {epochs: " + "9" * 10**5 + "}", "network: {kind: [a]}", "network: {kind: {a: b}}",
    "".join(f"key{n}: 1\n" for n in range(9000)), "name: [" + "x, " * 9000 + "]", "splits: {test_share: 1e-320}", "corpus: {root: 'a\tb\x1b'}",
    "clip: {seconds: .inf}", "clip: {seconds: 2024-01-01}", "augment: {per_class: {a: {b: c}, 1: [2]}}"], ids=lambda text: text[:20])
def test_a_recipe_costs_a_sentence(content, file):
    file.write_text(content, encoding="utf-8", newline="")
    refusal(read_recipe, file)
    refusal(lambda: check_map(read_map(file), ["cough"], ("coughing",)))


@pytest.mark.parametrize("content", ["name: a".encode("utf-16"), b"\xff\xfe", b"name: caf\xe9", b"\xef\xbb\xbf\x00"])
def test_what_is_no_utf8_is_said(content, file):
    file.write_bytes(content)
    refusal(read_recipe, file)


def test_what_is_no_file_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    for place in (tmp_path / "pipe.yaml", tmp_path / "endless.yaml", tmp_path, tmp_path / "none.yaml", "x" * 10**5, "a\0b", "\ud800.yaml"):
        refusal(read_recipe, place)
        refusal(read_map, place)


@pytest.mark.parametrize("change", [
    "a." * 5000 + "b=1", "a" * 10**5 + "=1", "train.epochs=" + "[" * 10**5, "corpus.root=" + "x" * 10**5, "corpus.root=a\0b", "corpus.root=\udce9",
    "corpus.root=a\nforged", "network.model=hf-hub:a/b", "network.model=local-dir:/tmp", "network.kind=\x1b[31m", "=", "a", "train=5",
    "train.epochs.x=1", "network={kind: timm, model: 'hf-hub:a/b'}", "network={kind: timm, model: ../x}", "corpus.labels=" + "[" + "a," * 40_000 + "]"],
    ids=lambda text: text[:20])
def test_a_change_costs_a_sentence(change): refusal(read_recipe, "demo", [change])


@pytest.mark.parametrize("change", [
    "front_end.n_mels=1000000000", "network.hidden=100000", "network={kind: lstm, layers: 1000000}", "network.channels=[8192, 8192, 8192, 8192, 8192]",
    "clip.rate=1e-300", "clip.seconds=1e9", "front_end.hop_length=-1000000", "front_end.hop_length=0", "train.epochs=10000000", "train.batch_size=1e9",
    "network={kind: image_cnn, channels: [8192], hidden: 8192}", "splits.folds=1000", "further_seeds=" + str(list(range(1000))), "train.lr=1e300",
    "network={kind: attention, channels: [8192, 8192, 8192]}", "augment.mixup=1e300", "clip={rate: 384000, seconds: 600}"])
def test_what_is_out_of_proportion_is_refused(change): refusal(read_recipe, "demo", [change])


@pytest.mark.parametrize("part, shape", [(ResidualPart(), (3, 128, 251)), (ImageCnnPart(), (1, 128, 100)), (SegmentPart(), (2, 128, 251)),
                                         (LstmPart(), (2, 128, 251))], ids=lambda value: getattr(value, "kind", ""))
def test_parameters_are_about_right(part, shape):
    torch = pytest.importorskip("torch")
    from nonspeech7k.models.registry import build_network
    with torch.device("meta"): built = sum(weights.numel() for weights in build_network(10, shape, **part.model_dump()).parameters())
    assert 0.97 < part.parameters(shape) / built < 1.03


def test_every_recipe_is_within_bounds_and_reads_back(tmp_path):
    for path in sorted(Path(__file__).parents[1].glob("recipes/*.yaml")):
        (tmp_path / path.name).write_text(recipe_yaml(read_recipe(path)), encoding="utf-8")
        assert read_recipe(tmp_path / path.name) == read_recipe(path)


def test_an_alias_is_read_where_it_is_small():
    assert plain_data("a: &a {b: [1]}\nc: *a") == {"a": {"b": ["1"]}, "c": {"b": ["1"]}}


def test_labels_of_a_map_are_texts_in_one_spelling(file):
    file.write_text("no: yes\n010: 1e5\ncafe\u0301: null\n", encoding="utf-8")
    assert check_map(read_map(file), ["yes", "1e5", "null"], ("no", "010", "caf\u00e9")) == {"no": "yes", "010": "1e5", "caf\u00e9": "null"}
    file.write_text("cafe\u0301: a\ncaf\u00e9: b\n", encoding="utf-8")
    assert "two spellings" in refusal(read_map, file)


@pytest.mark.parametrize("root, why", [(r"C:\Users\me\sounds", "path of Windows"), (r"\\server\share\sounds", "path of Windows"), ("D:/sounds", "path of Windows"),
                                       ("/no_such_disk/sounds/a", "there is no /no_such_disk")])
def test_a_root_of_another_machine_is_said_to_be_one(root, why):
    from nonspeech7k.runs.corpus import read_recipe_corpus
    assert why in refusal(read_recipe_corpus, read_recipe("folders", [f"corpus.root={root}"]))


WATCHED = """
import sys
from nonspeech7k.recipe import read_recipe
from nonspeech7k.yamlfile import read_yaml as read_map
recipe, labels = sys.argv[1:]
read_recipe("demo"), read_map(labels)  # what is imported late
seen = []
sys.addaudithook(lambda event, values: seen.append((event, str(values[0]) if values else ""))
                 if event.split(".")[0] in ("open", "socket", "subprocess", "os", "ctypes", "import", "exec", "compile", "shutil", "pty") else None)
read_recipe(recipe), read_map(labels)
print(sorted({(event, value) for event, value in seen if event != "os.lstat"} - {("open", recipe), ("open", labels)}))
"""


def test_reading_touches_nothing_but_the_file(file):
    (labels := file.with_name("map.yaml")).write_text("coughing: cough\n")
    file.write_text("name: a\ncorpus: {root: data/demo, labels: [no]}\nnetwork: {kind: transformer}\nfront_end: {kind: transformer}\nclip: {rate: 16000}\n")
    done = subprocess.run([sys.executable, "-c", WATCHED, str(file), str(labels)], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


def test_what_a_recipe_may_ask_for_can_be_loaded_again():
    from nonspeech7k.configuration import FEATURES
    from nonspeech7k.parts import MOST
    from nonspeech7k.runs.inputs import refuse_unloadable
    assert MOST["features"] == FEATURES
    with pytest.raises(UserError, match="numbers for each clip are too many"): read_recipe("demo", ["clip.seconds=400", "augment.frequency_mask=1", "front_end={kind: waveform}", "network={kind: waveform}"])
    for path in sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml")): refuse_unloadable(read_recipe(path).model_dump())
