"""Whole runs, as a person starts, stops, breaks and goes on with them: through papermill, in processes of their own."""
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
import pytest
from conftest import PROGRAM, SMALL

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("1_eda", "2_features", "3_training", "4_evaluation")
MODELS = ("best_fold1.safetensors", "best_fold2.safetensors", "final_model.safetensors")
ENVIRONMENT = {"NONSPEECH7K_PROGRESS": "off", "OMP_NUM_THREADS": "1"}


def start(*arguments, cwd: Path | None = None) -> subprocess.Popen:
    "A command in a session of its own, as a terminal would have it: also Ctrl-C and Ctrl-\\ count, which programs in the background ignore, and a terminal that closes, which nohup hides."
    def as_usual():
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT): signal.signal(number, signal.SIG_DFL)
    return subprocess.Popen([*PROGRAM, *map(str, arguments)], cwd=cwd, env={**os.environ, **ENVIRONMENT}, start_new_session=True,
                            preexec_fn=as_usual, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    "Exit code, standard output and standard error of a command, when it has ended."
    output, said = process.communicate()
    return process.returncode, output, said


@pytest.fixture(scope="module")
def tiny(demo, tmp_path_factory) -> list[str]:
    "Changes that make a run of the demo recipe tiny; its bank is shared by all runs of this file."
    return [*SMALL[1::2], "train.epochs=6", f"corpus.root={demo}", f"banks={tmp_path_factory.mktemp('banks')}"]


@pytest.fixture(scope="module", autouse=True)
def begun(demo, tiny, tmp_path_factory):
    "The two long commands that nothing stops: they begin before the first test and go on beside those that do not need them."
    places = {name: tmp_path_factory.mktemp(name) for name in ("run", "train")}
    processes = {"run": start("run", "demo", "--out", places["run"] / "run", *sets(tiny)), "train": start("train", *reference_flags(demo), cwd=places["train"])}
    yield {name: (places[name], process) for name, process in processes.items()}
    for process in processes.values():
        if process.poll() is None: kill(process)


@pytest.fixture(scope="module")
def whole(begun) -> tuple[Path, str, str]:
    "The folder of a run that nothing stopped, its standard output and its standard error."
    place, process = begun["run"]
    code, output, said = finish(process)
    assert code == 0, said
    return place / "run", output, said


@pytest.fixture
def inside(monkeypatch, capfd):
    "A function that runs a command in this process, which saves loading PyTorch again: exit code, standard output, standard error."
    from nonspeech7k.cli import main
    for name, value in ENVIRONMENT.items(): monkeypatch.setenv(name, value)
    def call(*arguments):
        capfd.readouterr()
        return main([str(argument) for argument in arguments]), *capfd.readouterr()
    return call


def sets(changes: list[str]) -> list[str]:
    return [part for change in changes for part in ("--set", change)]


def prepared(folder: Path, changes: list[str]) -> Path:
    "A run whose first two stages are finished, made in this process because that is quicker."
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.execution import notebook_of
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.folder import STAGES, open_run
    run = open_run("demo", folder, changes)
    explore(run), measure(run)
    for name in STAGES[:2]:
        notebook_of(run, name).parent.mkdir(exist_ok=True)
        notebook_of(run, name).write_text("stands for the executed notebook")
    return folder


def files(folder: Path) -> dict[str, int]:
    "Every file of a folder and when it was last written, in ns."
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def leftovers(folder: Path) -> list[str]:
    return [name for name in files(folder) if ".partial" in name or name.endswith(".state")]


def code_cells(notebook: Path) -> list[dict]:
    return [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def errors(notebook: Path) -> list[str]:
    "The errors that an executed notebook shows."
    return [f"{output['ename']}: {output['evalue']}" for cell in code_cells(notebook) for output in cell["outputs"] if output["output_type"] == "error"]


def same_results(one: Path, other: Path) -> None:
    "Two runs of one recipe agree to the byte in everything that was computed, and in every score."
    for name in ("manifest.csv", "features.csv", "predictions.csv", *(f"models/{model}" for model in MODELS)):
        assert (one / name).read_bytes() == (other / name).read_bytes(), f"{name} differs"
    scores = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    for part in ("cv", "test"): assert scores[0][part] == scores[1][part]


def reference_flags(demo: Path, **others) -> list[str]:
    "Flags as a person types them who knows the reference system."
    flags = {"train_annotations": demo / "metadata of train set .csv", "test_annotations": demo / "metadata of test set.csv",
             "train_audio_dir": demo / "train" / "train", "test_audio_dir": demo / "test" / "test", "num_classes": 7, "batch_size": 16, "num_epochs": 1,
             "lr": 0.001, "weight_decay": "1e-4", "patience": 3, "num_folds": 2, "sample_rate": 8000, "duration": 1, "seed": 42, "num_workers": 2}
    return [str(part) for name, value in {**flags, **others}.items() for part in (f"--{name}", value)]


def kill(process: subprocess.Popen) -> None:
    "End the program, its kernel and whatever else it started at one moment, as a power cut does."
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for sent in (signal.SIGSTOP, signal.SIGKILL):
        for member in family: member.send_signal(sent)
    process.communicate()
    psutil.wait_procs(family, timeout=10)


# What goes wrong

def test_bad_clip_ends_with_its_name_and_exit_code_2(inside, demo, tiny, tmp_path):
    corpus, folder = shutil.copytree(demo, tmp_path / "corpus"), tmp_path / "run"
    victim = sorted(corpus.rglob("*.wav"))[5]
    victim.write_bytes(victim.read_bytes()[:2000])
    code, output, said = inside("run", "demo", "--out", folder, *sets([*tiny, f"corpus.root={corpus}"]))
    assert code == 2 and not output
    assert str(victim) in said.splitlines()[-1] and said.count("\n") == 2 and "Traceback" not in said, said
    found = errors(folder / "notebooks" / "1_eda.ipynb")
    assert len(found) == 1 and victim.name in found[0]
    assert not {"manifest.csv", "audit.json", "predictions.csv"} & set(files(folder)) and not leftovers(folder)


def test_fault_of_the_program_names_stage_and_notebook_with_exit_code_1(inside, tiny, tmp_path, monkeypatch):
    folder = prepared(tmp_path / "run", tiny)
    faulty = {"cells": [{"cell_type": "code", "id": "fault", "metadata": {}, "source": "1 / 0", "execution_count": None, "outputs": []}],
              "metadata": {"kernelspec": {"name": "python3", "language": "python", "display_name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "faulty.ipynb").write_text(json.dumps(faulty), encoding="utf-8")
    monkeypatch.setattr("nonspeech7k.runs.execution.resource", lambda *names: tmp_path / "faulty.ipynb")
    code, output, said = inside("run", "demo", "--out", folder, *sets(tiny))
    last, notebook = said.splitlines()[-1], folder / "notebooks" / "3_training.ipynb"
    assert code == 1 and not output
    assert "3_training" in last and str(notebook) in last and said.count("\n") == 2 and "Traceback" not in said, said
    assert len(errors(notebook)) == 1 and not leftovers(folder)


def test_traceback_only_with_debug(inside, tmp_path):
    from nonspeech7k.files import UserError
    mistake = ("demo", tmp_path / "demo", "--train", 1)
    code, _, said = inside(*mistake)
    assert code == 2 and said.count("\n") == 1 and "train=1" in said
    with pytest.raises(UserError, match="train=1"): inside("--debug", *mistake)


# Each stage alone, with papermill's own command line

@pytest.fixture
def papermill(tmp_path, monkeypatch):
    "A function that executes a stage's notebook into out.ipynb, in an empty folder that is not the repository; the error of a cell, or None."
    from papermill.cli import papermill as program
    from papermill.exceptions import PapermillExecutionError
    monkeypatch.chdir(tmp_path)
    for name, value in ENVIRONMENT.items(): monkeypatch.setenv(name, value)
    def call(stage: str, *parameters: str) -> str | None:
        notebook = ROOT / "nbs" / "pipeline" / f"{stage}.ipynb"
        try: program.main([str(notebook), "out.ipynb", "-k", "python3", "--no-progress-bar", *parameters], standalone_mode=False)
        except PapermillExecutionError as error: return f"{error.ename}: {error.evalue}"
    return call


def with_parameters(folder: Path | str, changes: list[str]) -> list[str]:
    return ["-p", "recipe", str(ROOT / "recipes" / "demo.yaml"), "-p", "run_dir", str(folder), "-y", json.dumps({"overrides": changes})]


def test_stage_out_of_order_names_the_missing_one(papermill, tiny, tmp_path):
    found = papermill("3_training", *with_parameters("run", tiny))
    assert found and found.startswith("UserError: run: stage 3_training needs 1_eda")
    assert errors(tmp_path / "out.ipynb") == [found] and not (tmp_path / "run" / "models").exists()


def test_unknown_parameter_is_refused(papermill, tmp_path):
    found = papermill("1_eda", "-p", "recipe", "demo", "-p", "run_dri", "x")
    assert found == "UserError: unknown parameter run_dri; allowed: recipe, run_dir, overrides"
    assert errors(tmp_path / "out.ipynb") == [found]
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"], "the run landed somewhere"


def test_stages_run_alone_in_order_make_the_same_run(papermill, whole, tiny, tmp_path):
    for stage in STAGES: assert papermill(stage, *with_parameters("run", tiny)) is None
    same_results(tmp_path / "run", whole[0])


def test_finished_stage_does_nothing_the_second_time(papermill, whole, tiny, tmp_path):
    before = files(whole[0])
    assert papermill("3_training", *with_parameters(whole[0], tiny)) is None
    assert files(whole[0]) == before and not errors(tmp_path / "out.ipynb")


# One command, end to end

def test_run_prints_the_results_and_where_the_report_is(whole):
    folder, output, said = whole
    assert all(word in output for word in ("fold 1", "fold 2", "test", "macro-F1", "accuracy", "synthetic"))
    assert output.splitlines()[-1] == f"report: {folder / 'report.html'}"
    assert said.count("\n") == 2, f"more than the run's name, and what is not heard of longer clips: {said}"


def test_run_folder_holds_everything(whole):
    folder = whole[0]
    expected = {"recipe.yaml", "environment.json", "manifest.csv", "audit.json", "predictions.csv", "metrics.json", "training.log", "report.html",
                "plots/cv_results.png", "plots/confusion_matrix.png", "plots/training_curves.png",
                *(f"notebooks/{stage}.ipynb" for stage in STAGES), *(f"models/{model}" for model in MODELS)}
    assert not expected - set(files(folder))
    for fit in ("fold1", "fold2", "final"): assert list((folder / "tensorboard" / fit).glob("events.*")), f"no curves of {fit}"
    assert not leftovers(folder)


@pytest.mark.parametrize("stage", STAGES)
def test_executed_notebook_is_complete(whole, stage):
    notebook = whole[0] / "notebooks" / f"{stage}.ipynb"
    assert not errors(notebook)
    assert all(cell["execution_count"] for cell in code_cells(notebook)), "a cell was not executed"


def test_recipe_and_environment_are_written_out(whole, tiny):
    from nonspeech7k.recipe import read_recipe
    known, environment = read_recipe(whole[0] / "recipe.yaml"), json.loads((whole[0] / "environment.json").read_text())
    assert known == read_recipe("demo", tiny) and "weight_decay" in (whole[0] / "recipe.yaml").read_text()
    assert {"packages", "device", "seed", "revision"} <= set(environment)
    assert environment["seed"] == known.seed and environment["packages"]["torch"]


def test_metrics_have_their_shape(whole):
    folder = whole[0]
    metrics, labels = json.loads((folder / "metrics.json").read_text()), json.loads((folder / "audit.json").read_text())["labels"]
    cv, test = metrics["cv"], metrics["test"]
    assert len(cv["folds"]) == 2 and all({"mean", "std"} <= set(cv[name]) for name in ("macro_f1", "accuracy"))
    for name in ("accuracy", "macro_f1", "macro_precision", "macro_recall"): assert 0 <= test[name] <= 1
    assert test["loss"] > 0 and test["n"] == sum(map(sum, test["confusion"])) and len(test["confusion"]) == len(labels)
    low, high = test["ci95"]["macro_f1"]
    assert 0 <= low <= high <= 1
    assert list(test["per_class"]) == labels and sum(row["support"] for row in test["per_class"].values()) == test["n"]
    assert all({"precision", "recall", "f1", "support", "auc", "average_precision"} == set(row) for row in test["per_class"].values())
    assert set(STAGES) <= set(metrics["seconds"]) and metrics["clips_per_second"]["training"] > 0


def test_predictions_have_one_row_a_judged_clip(whole):
    folder = whole[0]
    manifest, predictions = pd.read_csv(folder / "manifest.csv"), pd.read_csv(folder / "predictions.csv")
    labels = json.loads((folder / "audit.json").read_text())["labels"]
    assert {"path", "split", "fold", "label"} <= set(predictions) and set(labels) <= set(predictions)
    assert sorted(predictions["path"]) == sorted(manifest.loc[manifest["split"] != "left out", "path"])
    assert (predictions[labels].sum(axis=1) - 1).abs().max() < 1e-6


def test_report_opens_alone(whole):
    page = (whole[0] / "report.html").read_text(encoding="utf-8")
    assert "synthetic" in page and page.count("<img") >= 3
    sources = re.findall(r"\b(?:src|srcset|poster)\s*=\s*[\"']?([^\"'\s>]{0,40})", page)
    assert sources and all(source.startswith("data:") for source in sources), "the page shows something from elsewhere"
    assert not re.search(r"<link\b|<script[^>]*\bsrc\b|@import|url\(\s*[\"']?(?!data:|#)", page), "the page needs another file"


def test_second_run_shows_the_same_and_touches_nothing(whole, inside, tiny):
    folder, first, _ = whole
    before = files(folder)
    code, output, said = inside("run", "demo", "--out", folder, *sets(tiny))
    assert code == 0, said
    assert output == first and files(folder) == before


def test_folder_of_another_recipe_is_refused(whole, inside, tiny):
    folder = whole[0]
    before = files(folder)
    code, output, said = inside("run", "demo", "--out", folder, *sets([*tiny, "seed=1"]))
    assert code == 2 and not output
    assert "seed: 7 → 1" in said and str(folder) in said and said.count("\n") == 1, said
    assert files(folder) == before


# Stopped, and gone on with

def wait_for(process: subprocess.Popen, folder: Path, text: str, seconds: float = 120) -> None:
    "Return as soon as the run's log holds a text."
    until, log = time.monotonic() + seconds, folder / "training.log"
    while not (log.exists() and text in log.read_text(encoding="utf-8")):
        assert process.poll() is None, f"ended before {text!r}: {process.stderr.read()}"
        assert time.monotonic() < until, f"no {text!r} within {seconds:g} s"
        time.sleep(0.002)


def test_nothing_that_lies_in_the_working_folder_is_imported(tiny, tmp_path, monkeypatch):
    from nonspeech7k.runs.execution import execute
    from nonspeech7k.runs.folder import open_run
    planted = tmp_path / "recordings"
    planted.mkdir()
    for module in ("numpy", "yaml", "nonspeech7k", "sitecustomize"):
        (planted / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({module!r})\nraise SystemExit")
    monkeypatch.chdir(planted)
    run = open_run("demo", tmp_path / "run", tiny)
    execute(run, "1_eda")
    assert run.finished("1_eda") and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT], ids=lambda sent: sent.name)
def test_signal_ends_with_a_sentence_and_leaves_no_kernel(tiny, tmp_path, sent):
    changes = [*tiny, "train.epochs=1000"]
    folder = prepared(tmp_path / "run", changes)
    process = start("run", "demo", "--out", folder, *sets(changes))
    wait_for(process, folder, "fold 1: epoch 2")
    kernels = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(sent)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + sent
    assert said.splitlines()[-1].startswith("nonspeech7k: stopped; the same command goes on") and "Traceback" not in said, said
    assert kernels and not psutil.wait_procs(kernels, timeout=10)[1], "the kernel trains on"
    assert (folder / "models" / "best_fold1.state").exists()


def test_killed_run_goes_on_to_the_same_bytes(whole, inside, tiny, tmp_path):
    folder = prepared(tmp_path / "run", tiny)
    process = start("run", "demo", "--out", folder, *sets(tiny))
    wait_for(process, folder, "fold 2: epoch 1")
    kill(process)
    (folder / "models" / f".best_fold2.state.0123456789abcdef.{process.pid}.partial").write_bytes(b"what a kill in the middle of writing leaves")
    assert not json.loads((folder / "stages.json").read_text())["3_training"]["finished"], "killed too late to test anything"
    assert (folder / "models" / "best_fold2.state").exists()

    code, output, said = inside("run", "demo", "--out", folder, *sets(tiny))
    assert code == 0, said
    same_results(folder, whole[0])
    assert (folder / "training.log").read_text().count("fold 1: epoch 1,") == 1, "fold 1 was trained again"
    epochs = Counter(re.findall(r"(?:fold \d+|final): epoch \d+", (folder / "training.log").read_text()))
    assert set(epochs.values()) == {1}, f"trained twice: {epochs}"
    assert not leftovers(folder)
    assert output.replace(str(folder), "") == whole[1].replace(str(whole[0]), "")


def test_run_killed_while_writing_its_first_file_can_begin_again(tiny, tmp_path):
    from nonspeech7k.runs.folder import open_run
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f".recipe.yaml.{ended.pid}.partial").write_text("name: de")
    assert open_run("demo", tmp_path, tiny).folder == tmp_path and (tmp_path / "recipe.yaml").is_file()


# The reference system's command line

def test_train_takes_the_reference_flags(begun):
    from nonspeech7k.inference.classifier import load_classifier
    place, process = begun["train"]
    code, output, said = finish(process)
    assert code == 0, said
    assert "synthetic" in output and output.splitlines()[-1] == "report: outputs/report.html"
    expected = {*(f"models/{model}" for model in MODELS), "plots/cv_results.png", "plots/confusion_matrix.png", "training.log", "report.html"}
    assert not expected - set(files(place / "outputs"))
    final = load_classifier(place / "outputs" / "models" / "final_model.safetensors")
    assert sum(p.numel() for p in final.network.parameters()) == 1_342_471


def test_train_checks_the_number_of_classes(inside, demo, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, said = inside("train", *reference_flags(demo, num_classes=6))
    assert code == 2 and "--num_classes 6" in said and "7 classes" in said and said.count("\n") == 1, said
    assert not list(tmp_path.iterdir()), "a refused command wrote something"


# What one takes home

def test_predict_answers_as_the_run_judged(whole, inside, demo):
    folder = whole[0]
    code, output, said = inside("predict", folder / "models" / "final_model.safetensors", demo / "test", "--from", "start") # as much as a clip
    assert code == 0, said
    answers = {Path(answer["path"]).name: answer for answer in map(json.loads, output.splitlines())}
    predictions = pd.read_csv(folder / "predictions.csv").query("split == 'test'")
    assert len(answers) == len(predictions)
    for _, row in predictions.iterrows():
        answer = answers[Path(row["path"]).name]
        assert answer["label"] == row["predicted"]
        for label, probability in answer["probabilities"].items(): assert abs(probability - row[label]) < 1e-4, (row["path"], label)


def test_help_comes_at_once(command):
    def seconds() -> float:
        since = time.perf_counter()
        assert command("--help").returncode == 0
        return time.perf_counter() - since
    assert min(seconds() for _ in range(5)) < 0.5
