"""What several tests need: a small synthetic corpus, the command line in a process of its own, and the settings of a run that takes seconds."""
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Options of `nonspeech7k run demo` that leave the way through all stages as it is and make every part of it tiny.
SMALL = [part for change in (
    "splits.folds=2", "train.epochs=2", "clip.seconds=2.0", "front_end.n_mels=32", "augment.frequency_mask=4",
    "network.channels=[4, 8, 8]", "network.hidden=16") for part in ("--set", change)]

PROGRAM = [sys.executable, "-c", "import sys; from nonspeech7k.cli import main; sys.exit(main())"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    "A small synthetic corpus. All tests read the same one; whoever wants to spoil it takes a copy."
    from nonspeech7k.data.synthesis import write_demo
    return write_demo(tmp_path_factory.mktemp("corpus") / "demo", seed=1, train=84, test=28, rate=16000)


@pytest.fixture(scope="session")
def command() -> Callable[..., subprocess.CompletedProcess]:
    "A function that runs the command line in a process of its own, as a person would, without progress."
    def run(*arguments, cwd=None, env=None) -> subprocess.CompletedProcess:
        settings = {**os.environ, "NONSPEECH7K_PROGRESS": "off", **(env or {})}
        return subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, env=settings)
    return run


@pytest.fixture(scope="session")
def smaller_demo(tmp_path_factory) -> Path:
    "Even fewer clips than other tests take, for trainings of larger networks."
    from nonspeech7k.data.synthesis import write_demo
    return write_demo(tmp_path_factory.mktemp("corpus") / "demo", seed=1, train=42, test=14, rate=16000)


@pytest.fixture(scope="module")
def one_thread():
    "Tiny products, which only wait for a second thread."
    import torch
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    "The command line in this process: exit code, standard output, standard error."
    from nonspeech7k.cli import main
    monkeypatch.setenv("NONSPEECH7K_PROGRESS", "off")
    def called(*arguments):
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()
    return called
