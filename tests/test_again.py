"""A run that is asked again after its recordings or its recipe have changed: nothing half-old is ever shown."""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from conftest import PROGRAM

TINY = ["splits.folds=2", "train.epochs=1", "clip.seconds=1.0", "front_end.n_mels=16", "augment.frequency_mask=2", "augment.time_mask=2",
        "network.channels=[4, 8]", "network.hidden=8", "splits.test=held_out", "splits.leaks=allow", "report.sounds=none",
        "corpus.layout=folders"]
RESULTS = ("manifest.csv", "features.csv", "predictions.csv", "models/final_model.safetensors", "models/best_fold1.safetensors")


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    "Figures and pages are not drawn: they take most of the time of so small a run."
    from nonspeech7k.files import write_text
    with mock.patch("nonspeech7k.runs.folder.png", return_value=b""), mock.patch.dict(os.environ, NONSPEECH7K_PROGRESS="off"), \
            mock.patch("nonspeech7k.runs.stages._draw", lambda run, *others: write_text(run.folder / "report.html", "page")):
        yield


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    "A folder for each of three classes, without a table."
    from nonspeech7k.data.synthesis import write_demo
    place = tmp_path_factory.mktemp("again")
    for number, path in enumerate(sorted(write_demo(place / "demo", seed=1, train=42, test=14, rate=16000).rglob("*.wav"))):
        target = place / "recordings" / ("breath", "cough", "laugh")[number % 3] / f"{number}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        os.utime(target, (1e9, 1e9))
    return place / "recordings"


@pytest.fixture(scope="module")
def first(recordings, tmp_path_factory) -> tuple[Path, Path]:
    "A finished run and its recordings; whoever changes either takes copies."
    place = tmp_path_factory.mktemp("first")
    shutil.copytree(recordings, place / "recordings")
    finish(place, "run")
    return place / "run", place / "recordings"


@pytest.fixture
def place(first, tmp_path) -> Path:
    "A folder with a finished run and its recordings, both copied from where they were made."
    for one in first: shutil.copytree(one, tmp_path / one.name)
    return tmp_path


def opened(place: Path, run: str = "run", more: list[str] = (), again: bool = False):
    from nonspeech7k.runs.folder import open_run
    return open_run("demo", place / run, [*TINY, f"corpus.root={place}/recordings", f"banks={place}/banks", *more], again)


def finish(place: Path, run: str = "run", more: list[str] = (), again: bool = False) -> dict:
    from nonspeech7k.runs.stages import complete
    return complete(opened(place, run, more, again))


def said(place: Path, *more: str) -> str:
    "The sentence with which a run is refused, without its folder."
    from nonspeech7k.files import UserError
    with pytest.raises(UserError) as caught: opened(place, more=list(more))
    text = str(caught.value)
    assert text.startswith(f"{place}/run: ") and "\n" not in text and len(text) < 2000
    assert text.endswith("; agree to that with --again, or choose another folder with --out")
    return text.removeprefix(f"{place}/run: ").partition("; agree")[0]


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in RESULTS}


def written(folder: Path) -> dict[str, int]:
    return {name: (folder / name).stat().st_mtime_ns for name in (*RESULTS, "metrics.json", "report.html", "stages.json")}


# What is no change

def test_moved_with_its_recordings_and_touched_it_is_shown_as_it_is(place):
    before = written(place / "run")
    for path in (place / "recordings").rglob("*.wav"): os.utime(path)
    assert finish(place) and written(place / "run") == before
    shutil.move(place, place.with_name("moved"))
    assert finish(place.with_name("moved"))["test"]["n"] and written(place.with_name("moved") / "run") == before


def test_unchanged_run_looks_only_at_names_sizes_and_times(place, monkeypatch):
    monkeypatch.setattr("nonspeech7k.runs.inputs.TICK", -10**18) # as if the copies were not of this very second
    opened(place)
    for module in ("nonspeech7k.runs.inputs", "nonspeech7k.data.kept"):
        monkeypatch.setattr(f"{module}.file_digests", lambda *arguments: pytest.fail("a recording was read"))
    monkeypatch.setattr("nonspeech7k.runs.inputs.read_corpus", lambda *arguments, **settings: pytest.fail("the corpus was read"))
    monkeypatch.setattr("nonspeech7k.runs.inputs.digest", lambda path: pytest.fail(f"{path} was read"))
    assert finish(place)


def test_what_no_result_depends_on_is_taken_over(place):
    before = written(place / "run")
    finish(place, more=["workers=1", f"banks={place}/other"])
    assert written(place / "run") == before and "workers: 1" in (place / "run" / "recipe.yaml").read_text()


def test_run_without_its_recordings_is_shown_and_it_is_said(place):
    from nonspeech7k.runs.folder import not_there
    shutil.rmtree(place / "recordings")
    assert finish(place)["test"]
    assert "is not there" in not_there(opened(place))[0]


# What is

def add(place: Path): shutil.copy(place / "recordings" / "cough" / "1.wav", place / "recordings" / "laugh" / "new.wav")
def remove(place: Path): (place / "recordings" / "cough" / "1.wav").unlink()
def move(place: Path): shutil.move(place / "recordings" / "cough" / "1.wav", place / "recordings" / "laugh" / "1.wav")


def record_again(place: Path):
    path = place / "recordings" / "cough" / "1.wav"
    about, sound = path.stat(), bytearray(path.read_bytes())
    sound[-2:] = b"\1\1"
    path.write_bytes(sound)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns)) # of the same size and time


def add_speakers(place: Path):
    clips = sorted(path.relative_to(place / "recordings").as_posix() for path in (place / "recordings").rglob("*.wav"))
    rows = [f"{path},{number // 4}" for number, path in enumerate(clips)]
    (place / "recordings" / "labels.csv").write_text("\n".join(["path,speaker", *rows]))


@pytest.mark.parametrize("change, sentence", [
    (add, "1 clip added"), (remove, "1 clip removed"), (move, "1 clip moved from cough to laugh"), (record_again, "1 clip changed in sound"),
    (add_speakers, "another group of 56 clips, column speaker is new, labels.csv is new")], ids=lambda value: getattr(value, "__name__", ""))
def test_changed_recordings_are_told(place, change, sentence):
    before = written(place / "run")
    change(place)
    assert said(place) == f"{sentence}: stages 1 to 4 begin again"
    assert written(place / "run") == before, "refused, and nothing lost"


def test_changed_table_ends_in_what_a_fresh_run_gives(place):
    add_speakers(place)
    finish(place, again=True)
    finish(place, "fresh")
    assert results(place / "run") == results(place / "fresh")
    (place / "recordings" / "labels.csv").write_text((place / "recordings" / "labels.csv").read_text().replace(",0", ",1"))
    assert said(place) == "another group of 4 clips, another speaker of 4 clips, labels.csv has changed: stages 1 to 4 begin again"


@pytest.mark.parametrize("key, sentence, stand", [
    ("train.lr=0.002", "train.lr: 0.003 → 0.002: stages 1 and 2 stand, stages 3 and 4 begin again", 2),
    ("report.sounds=embed", "report.sounds: none → embed: stages 1 to 3 stand, stage 4 begins again", 3),
    ("augment.roll=0.2", "augment.roll: 0.1 → 0.2: stage 1 stands, stages 2 to 4 begin again", 1)])
def test_changed_key_begins_again_what_reads_it(place, key, sentence, stand):
    known = json.loads((place / "run" / "stages.json").read_text())
    assert said(place, key) == sentence
    finish(place, more=[key], again=True)
    finish(place, "fresh", more=[key])
    assert results(place / "run") == results(place / "fresh")
    now = json.loads((place / "run" / "stages.json").read_text())
    assert [now[name] == known[name] for name in known] == [number < stand for number in range(4)]


def test_recipe_edited_in_the_runs_own_folder_is_noticed(place):
    from nonspeech7k.files import UserError
    from nonspeech7k.runs.folder import open_run
    own = place / "run" / "recipe.yaml"
    root = [f"corpus.root={place}/recordings", f"banks={place}/banks"]
    own.write_text(own.read_text().replace("epochs: 1", "epochs: 3"))
    with pytest.raises(UserError, match="train.epochs: 1 → 3: stages 1 and 2 stand"): open_run(own, place / "run", root)


def test_run_of_another_version_is_shown_and_not_gone_on_with(place, monkeypatch):
    import nonspeech7k
    from nonspeech7k.runs.folder import not_there
    made_by, before = nonspeech7k.__version__, written(place / "run")
    monkeypatch.setattr("nonspeech7k.__version__", "99.0")
    assert finish(place) and written(place / "run") == before
    assert not_there(opened(place)) == [f"{place}/run: made by nonspeech7k {made_by}, this is 99.0; it is shown as it is"]
    assert said(place, "report.sounds=embed") == f"made by nonspeech7k {made_by}, this is 99.0, report.sounds: none → embed: stages 1 to 4 begin again"
    (place / "run" / "predictions.csv").unlink()
    assert said(place) == f"made by nonspeech7k {made_by}, this is 99.0: stages 1 to 4 begin again"


def test_corpus_that_cannot_be_read_any_more_costs_nothing(place):
    from nonspeech7k.files import UserError
    before = written(place / "run")
    (place / "recordings" / "labels.csv").write_text("path,speaker\nnobody.wav,1\n")
    for again in (False, True):
        with pytest.raises(UserError, match="its corpus has changed and cannot be read any more: .*no row for"): opened(place, again=again)
    assert written(place / "run") == before


def test_seeds_begin_again_with_their_run(place):
    seeds = ["further_seeds=[3]"]
    finish(place, more=seeds, again=True)
    move(place)
    assert said(place, *seeds).startswith("1 clip moved")
    finish(place, more=seeds, again=True)
    finish(place, "fresh", more=seeds)
    assert results(place / "run") == results(place / "fresh")
    assert results(place / "run" / "seeds" / "3") == results(place / "fresh" / "seeds" / "3")


def test_background_and_teacher_count(place):
    shutil.copytree(place / "recordings" / "cough", place / "noise")
    finish(place, "teacher")
    more = [f"augment.background={{folder: {place}/noise}}", f"train.distil={{teacher: {place}/teacher}}"]
    finish(place, more=more, again=True)
    finish(place, more=more)
    finish(place, "teacher", more=["train.lr=0.01"], again=True)
    assert said(place, *more) == "train.distil.teacher: has changed: stages 1 and 2 stand, stages 3 and 4 begin again"
    next((place / "noise").iterdir()).unlink()
    assert said(place, *more).startswith("augment.background.folder: has changed, train.distil.teacher: has changed: stage 1 stands")


# Runs of earlier versions

def as_before(folder: Path):
    "What an earlier version would have left."
    stages = json.loads((folder / "stages.json").read_text())
    (folder / "stages.json").write_text(json.dumps({name: {key: record[key] for key in ("seconds", "finished")} for name, record in stages.items()}))
    for name in ("corpus.csv", ".seen.json"): (folder / name).unlink(missing_ok=True)


def test_run_of_an_earlier_version_goes_on_and_notices_changes(place):
    as_before(place / "run")
    before = {name: moment for name, moment in written(place / "run").items() if name != "stages.json"}
    assert finish(place) and before.items() <= written(place / "run").items()
    assert all(record["stamp"] for record in json.loads((place / "run" / "stages.json").read_text()).values())
    as_before(place / "run")
    add_speakers(place)
    assert said(place) == "other groups of its clips: stages 1 to 4 begin again"
    (place / "recordings" / "labels.csv").unlink()
    assert said(place, "train.lr=0.1") == "train.lr: 0.003 → 0.1: stages 1 and 2 stand, stages 3 and 4 begin again"


# Killed on the way

class Killed(BaseException):
    "Nobody catches it."


@pytest.mark.parametrize("moment", [1, 6, 15])
def test_killed_while_beginning_again_it_goes_on_rightly(place, moment, again_fresh):
    move(place)
    left = iter(range(moment))
    def until(function): # the process ends before it changes the folder once more
        def call(*arguments, **settings):
            if str(place / "run") in str(arguments[0]) and next(left, None) is None: raise Killed
            return function(*arguments, **settings)
        return call
    with mock.patch("os.replace", until(os.replace)), mock.patch("shutil.rmtree", until(shutil.rmtree)), \
            mock.patch("pathlib.Path.unlink", until(Path.unlink)), pytest.raises(Killed):
        finish(place, more=["train.lr=0.002"], again=True)
    finish(place, more=["train.lr=0.002"], again=True)
    assert results(place / "run") == again_fresh


@pytest.fixture(scope="module")
def again_fresh(recordings, tmp_path_factory) -> dict[str, bytes]:
    "What a fresh run on the changed recordings gives."
    place = tmp_path_factory.mktemp("fresh")
    shutil.copytree(recordings, place / "recordings")
    move(place)
    finish(place, more=["train.lr=0.002"])
    return results(place / "run")


# Names, places and links

@pytest.mark.parametrize("name", ["{x}", "-dash", "a b", "100 %", "#1", "søster", "n" * 250, "a'b\"c\\d", "$HOME"])
def test_any_name_of_one_line_is_a_folder(tmp_path, name, monkeypatch):
    from nonspeech7k.runs.folder import open_run
    monkeypatch.chdir(tmp_path)
    open_run("demo", name, TINY)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_papermill_takes_a_folders_name_literally(recordings, tmp_path, monkeypatch):
    from nonspeech7k.runs.execution import execute, notebook_of
    from nonspeech7k.runs.folder import open_run
    monkeypatch.chdir(tmp_path)
    name = "-{x} {} a'b\"c\\d #1 100 % søster"
    run = open_run("demo", name, [*TINY, f"corpus.root={recordings}", f"banks={recordings.parent}/banks"])
    theirs = tmp_path / "theirs"
    notebook_of(run, "1_eda").parent.mkdir()
    notebook_of(run, "1_eda").with_name(".1_eda.partial.ipynb").symlink_to(theirs) # what an earlier version would have written through
    execute(run, "1_eda")
    assert run.finished("1_eda") and [path.name for path in (tmp_path / name / "notebooks").iterdir()] == ["1_eda.ipynb"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["two\nlines", "bell\7", "n" * 256, "file", "file/below", "bad\udcff"])
def test_folder_that_cannot_be_is_refused_before_anything_is_made(tmp_path, name):
    from nonspeech7k.files import UserError
    from nonspeech7k.runs.folder import open_run
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError) as caught: open_run("demo", tmp_path / name, TINY)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_deleted_working_folder_is_told_in_a_sentence(tmp_path):
    command = 'mkdir gone; cd gone; rmdir ../gone; exec "$@"'
    done = subprocess.run(["bash", "-c", command, "bash", *PROGRAM, "run", "demo"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "the working folder is gone" in done.stderr, done.stderr


def test_no_link_is_followed(place):
    from nonspeech7k.files import UserError
    other = place / "somebody's"
    other.write_text("theirs")
    for name in ("training.log", ".lock", ".stage.lock"):
        (place / "run" / name).unlink(missing_ok=True)
        (place / "run" / name).symlink_to(other)
        with pytest.raises(UserError, match="is a link"): finish(place, more=["train.lr=0.5"], again=True)
        (place / "run" / name).unlink()
    assert other.read_text() == "theirs"


def test_lock_of_a_killed_process_is_free(place):
    from nonspeech7k.files import UserError
    from nonspeech7k.runs.folder import alone
    run = opened(place)
    script = "import sys, time; from pathlib import Path; from nonspeech7k.runs.folder import Run, alone\n" \
             "with alone(Run(None, Path(sys.argv[1]))): print('locked', flush=True); time.sleep(60)"
    holder = subprocess.Popen([sys.executable, "-c", script, str(run.folder)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "locked\n"
    with pytest.raises(UserError, match="another process works on this run"), alone(run): pass
    with pytest.raises(UserError, match="another process works on this run"): opened(place, more=["train.lr=0.5"], again=True)
    holder.kill()
    holder.communicate()
    with alone(run): pass


# What lies elsewhere

def test_recordings_outside_the_root_are_looked_at_too(place):
    outside = place / "outside"
    outside.mkdir()
    rows = ["path,label,group"]
    for number, path in enumerate(sorted((place / "recordings").rglob("*.wav"))):
        if number == 0: path = Path(shutil.move(path, outside / "x.wav"))
        rows.append(f"{os.path.relpath(path, place / 'recordings')},{('breath', 'cough', 'laugh')[number % 3]},{number}")
    (place / "recordings" / "clips.csv").write_text("\n".join(rows) + "\n")
    table = ["corpus.layout=csv", "corpus.table=clips.csv"]
    finish(place, "other", table)
    shutil.copy(sorted((place / "recordings").rglob("*.wav"))[3], outside / "x.wav")
    from nonspeech7k.files import UserError
    with pytest.raises(UserError, match="1 clip changed in sound"): opened(place, "other", table)


def test_banks_above_the_recordings_do_not_hide_them(place):
    finish(place, "other", [f"banks={place}"])
    sorted((place / "recordings").rglob("*.wav"))[3].unlink()
    from nonspeech7k.files import UserError
    with pytest.raises(UserError, match="1 clip removed"): opened(place, "other", [f"banks={place}"])


# Two at once

def test_nobody_begins_again_what_another_process_is_making(place):
    from nonspeech7k.files import UserError
    from nonspeech7k.runs.folder import stage
    with stage(opened(place), "1_eda"):
        with pytest.raises(UserError, match="another process works on this run"): opened(place, more=["seed=3"], again=True)
    assert json.loads((place / "run" / "stages.json").read_text())["1_eda"]["settings"]["seed"] == 7


def test_what_another_process_began_again_meanwhile_is_no_change_any_more(place):
    from nonspeech7k.recipe import read_recipe
    from nonspeech7k.runs import folder
    move(place)
    run = folder.Run(read_recipe(place / "run" / "recipe.yaml", [f"corpus.root={place}/recordings", f"banks={place}/banks"]), place / "run")
    assert (stale := folder.changes_of(run))
    finish(place, again=True)
    before = written(place / "run")
    folder._begin_again(run, stale)
    assert written(place / "run") == before


# What is said of what is not there, or is read otherwise

def test_a_background_that_is_gone_is_said(place):
    from nonspeech7k.runs.folder import not_there
    shutil.copytree(place / "recordings" / "cough", place / "noise")
    more = [f"augment.background={{folder: {place}/noise}}"]
    finish(place, more=more, again=True)
    assert not not_there(opened(place, more=more))
    shutil.rmtree(place / "noise")
    assert finish(place, more=more)["test"]
    assert not_there(opened(place, more=more)) == ["augment.background.folder: what it names is not there, so whether it has changed is not known"]


def test_classes_that_are_read_otherwise_are_named_by_their_key(place):
    from nonspeech7k.files import UserError
    for again in (False, True):
        with pytest.raises(UserError, match=r"corpus.labels: None → \['cough'\], and so the corpus cannot be read: "):
            opened(place, more=["corpus.labels=[cough]"], again=again)
