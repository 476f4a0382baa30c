"""Several processes that train together: under torchrun, and through accelerate's launcher from the training notebook. They must arrive where one process does."""
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import PROGRAM, SMALL

TOGETHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "--no-python"]


ENVIRONMENT = {"OMP_NUM_THREADS": "1", "NONSPEECH7K_PROGRESS": "lines"}


@pytest.fixture(scope="module")
def changes(demo, tmp_path_factory) -> list[str]:
    "A tiny run of two epochs in two folds, dropout and augmentation included; batches that two processes cannot halve."
    return [*SMALL[1::2], f"corpus.root={demo}", f"banks={tmp_path_factory.mktemp('banks')}", "train.batch_size=15", "train.lr=3e-4",
            "train.precision=fp32"]  # what rounding to bfloat16 does to a loss is larger than the differences looked for


@pytest.fixture(scope="module")
def alone(changes, tmp_path_factory) -> Path:
    "The folder of a training by one process, on one thread like each of the others."
    import torch

    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.fits import train
    from nonspeech7k.runs.folder import open_run
    torch.set_num_threads(1)
    run = open_run("demo", tmp_path_factory.mktemp("ranks") / "alone", changes)
    explore(run), measure(run), train(run)
    return run.folder


def prepared(alone: Path, changes: list[str], name: str, *more: str):
    "A run of the same data that is ready to be trained by several processes."
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.folder import open_run
    run = open_run("demo", alone.parent / name, [*changes, *more])
    explore(run), measure(run)
    return run


def losses(folder: Path) -> dict[str, np.ndarray]:
    "Training and validation losses (epochs, 2) of each fit."
    histories = json.loads((folder / "training.json").read_text())
    return {name: np.array([[record["train_loss"], record["valid_loss"] or 0] for record in history])
            for name, history in histories.items()}


def assert_same_training(folder: Path, reference: Path):
    mine, theirs = losses(folder), losses(reference)
    assert mine.keys() == theirs.keys()
    for name in mine: np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, err_msg=name)


def test_torchrun_trains_what_one_process_trains(changes, alone):
    folder = alone.parent / "torchrun"
    sets = [part for change in changes for part in ("--set", change)]
    result = subprocess.run([*TOGETHER, *PROGRAM, "run", "demo", "--out", str(folder), *sets],
                            capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
    assert result.returncode == 0, result.stderr
    assert_same_training(folder, alone)
    assert result.stdout.count("report: ") == 1, "one process answers"
    assert len(re.findall(r"fold 1: 100%", result.stderr)) == 1, result.stderr
    models = [sorted(path.name for path in (place / "models").iterdir()) for place in (folder, alone)]
    assert models[0] == models[1] and len(list((folder / "tensorboard" / "fold1").iterdir())) == 1, "one set of files"
    judged, manifest = pd.read_csv(folder / "predictions.csv"), pd.read_csv(folder / "manifest.csv")
    assert sorted(judged["path"]) == sorted(manifest["path"]), "every clip is judged once"


def test_the_notebook_launches_as_many_processes_as_the_recipe_says(changes, alone, monkeypatch):
    from nonspeech7k.runs.execution import execute
    run = prepared(alone, changes, "launched", "processes=2")
    for name, value in ENVIRONMENT.items(): monkeypatch.setenv(name, value)
    notebook = execute(run, "3_training")
    assert_same_training(run.folder, alone)
    assert notebook.is_file()


def test_accelerate_launches_the_same_function(changes, alone):
    run = prepared(alone, changes, "accelerated")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = ("from accelerate import notebook_launcher; from nonspeech7k.runs.fits import train_as_rank; "
               f"notebook_launcher(train_as_rank, ({str(run.folder)!r},), num_processes=2, use_port='{port}')")
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, **ENVIRONMENT})
    assert result.returncode == 0, result.stderr
    assert_same_training(run.folder, alone)


def test_a_users_mistake_in_one_process_stays_one_sentence(changes, alone, monkeypatch, capfd):
    from nonspeech7k.files import UserError
    from nonspeech7k.runs.execution import execute
    run = prepared(alone, changes, "many", "processes=3", "train.batch_size=2")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(UserError, match="^2 clips in a batch are too few for 3 processes"): execute(run, "3_training")
    assert "Traceback" not in capfd.readouterr().err


FIT = """
import json, sys
from pathlib import Path
import torch
from tiny import train
from nonspeech7k.training.devices import joined
torch.set_num_threads(1)
cpu, ways = torch.device("cpu"), [
    dict(optimiser="sgd", lr=0.05, ema=0.9, schedule={"kind": "cosine", "warm_up": 1.0, "floor": 0.0}),
    dict(optimiser="adam", loss={"kind": "focal", "gamma": 2.0, "level": "clip"}, best_by="loss", stop_after=2)]
with joined(cpu) as together:
    histories = [train(cpu, Path(sys.argv[1]) / f"{number}.state", rates=(), **way)[2] for number, way in enumerate(ways)]
    if together.first: print(json.dumps(histories))
"""


def test_other_losses_averages_and_schedules_are_shared_too(tmp_path):
    "Every optimiser, loss and schedule gives several processes what it gives one."
    environment, results = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(Path(__file__).parents[1] / "tests_xla")}, []
    for count in (1, 2):
        folder = tmp_path / str(count)
        folder.mkdir()
        launcher = [*TOGETHER[:-2], str(count), TOGETHER[-1]]
        done = subprocess.run([*launcher, sys.executable, "-c", FIT, str(folder)], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        results.append([[[record["train_loss"], record["valid_loss"]] for record in history]
                        for history in json.loads(done.stdout.splitlines()[-1])])
    for one, other in zip(*results): np.testing.assert_allclose(one, other, rtol=1e-3)
