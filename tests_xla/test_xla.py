"""Training on XLA, with a CPU in the TPU's place: everything but a TPU's speed and memory can be seen there."""
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch_xla.debug.metrics as metrics

from nonspeech7k.training.devices import choose_device
from nonspeech7k.training.fit import predict_logits


def compilations() -> int:
    return (metrics.metric_data("CompileTime") or (0,))[0]


def on_the_host() -> list[str]:
    "Operators that XLA does not have and that ran on the host instead."
    return [name for name in metrics.counter_names() if name.startswith("aten::")]


@pytest.fixture(scope="module")
def device() -> torch.device:
    return choose_device("xla")


@pytest.fixture(scope="module")
def trained(device, tmp_path_factory) -> dict:
    "Three epochs, the last with another learning rate, and what the runtime counted after each."
    metrics.clear_all()
    counts = []
    state = tmp_path_factory.mktemp("trained") / "state.safetensors"
    model, best, history = tiny.train(device, state, on_epoch=lambda record: counts.append(compilations()))
    return {"model": model, "best": best, "history": history, "compilations": counts, "on the host": on_the_host()}


def losses(history: list[dict]) -> np.ndarray: # (epochs, 2)
    return np.array([[record["train_loss"], record["valid_loss"]] for record in history])


def test_it_trains_like_a_cpu(trained, tmp_path):
    "The draws are made on the CPU either way, so the losses are the same."
    _, _, history = tiny.train(torch.device("cpu"), tmp_path / "state.safetensors")
    np.testing.assert_allclose(losses(trained["history"]), losses(history), rtol=1e-3)


def test_no_operator_falls_back_to_the_host(trained):
    assert trained["on the host"] == []


def test_after_the_first_epoch_nothing_is_compiled(trained):
    "Neither the smaller last batch of the validation nor another learning rate changes the step."
    assert trained["compilations"][1:] == trained["compilations"][:1] * 2


def test_the_next_fold_compiles_nothing(trained, device, tmp_path):
    before = compilations()
    tiny.train(device, tmp_path / "state.safetensors", epochs=1, seed=2)
    assert compilations() == before


def test_a_stopped_fit_goes_on_to_the_same_end(trained, device, tmp_path):
    state = tmp_path / "state.safetensors"
    tiny.train(device, state, epochs=2)
    _, best, history = tiny.train(device, state)
    assert history == trained["history"]
    assert all(torch.equal(best[name], weights) for name, weights in trained["best"].items())


OTHER_WAYS = {
    "sgd, cosine, averaged weights, mixup": dict(
        optimiser="sgd", lr=0.01, ema=0.9, schedule={"kind": "cosine", "warm_up": 1.0, "floor": 0.0}, mixup=0.4),
    "adam, one cycle, binary, smoothed": dict(
        optimiser="adam", schedule={"kind": "one_cycle", "rise": 0.3, "start": 0.04},
        loss={"kind": "binary", "smoothing": 0.1, "level": "clip"}, weight_decay=0.01),
    "adamw, in steps, focal": dict(
        schedule={"kind": "step", "every": 1, "factor": 0.5}, loss={"kind": "focal", "gamma": 2.0, "level": "clip"})}


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_other_ways_to_train(device, tmp_path, way):
    "The CPU's losses, nothing on the host, nothing compiled after the first epochs, and a stop changes nothing."
    settings, counts = {"rates": (), **OTHER_WAYS[way]}, []
    metrics.clear_all()
    _, best, history = tiny.train(device, tmp_path / "here", on_epoch=lambda record: counts.append(compilations()), **settings)
    assert on_the_host() == []
    averaged = "ema" in settings  # the step after a validation of the average is a program of its own
    assert counts[1] == counts[2] <= counts[0] + averaged
    _, _, on_cpu = tiny.train(torch.device("cpu"), tmp_path / "cpu", **settings)
    np.testing.assert_allclose(losses(history), losses(on_cpu), rtol=1e-3)
    with pytest.raises(KeyboardInterrupt): tiny.train(device, tmp_path / "stopped", kill_after=2, **settings)
    _, resumed, again = tiny.train(device, tmp_path / "stopped", **settings)
    assert again == history and all(torch.equal(resumed[name], weights) for name, weights in best.items())


def test_a_cpu_reads_the_weights(trained, device):
    "A network trained on XLA gives the same logits on the CPU."
    bank, _ = tiny.clips(device)
    here, _ = tiny.clips(torch.device("cpu"))
    valid = torch.arange(tiny.TRAIN, tiny.CLIPS)
    there = trained["model"]
    there.network.load_state_dict(trained["best"])
    expected = predict_logits(there, bank, valid, tiny.BATCH)
    copy = tiny.model(torch.device("cpu"), here)
    copy.front_end.load_state_dict({name: value.cpu() for name, value in there.front_end.state_dict().items()})
    copy.network.load_state_dict(trained["best"])
    torch.testing.assert_close(predict_logits(copy, here, valid, tiny.BATCH), expected, rtol=1e-4, atol=1e-4)


def test_four_devices_train_what_one_trains(trained, tmp_path):
    environment = {**os.environ, "CPU_NUM_DEVICES": "4"}
    done = subprocess.run([sys.executable, str(Path(tiny.__file__)), str(tmp_path / "state.safetensors")],
                          capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["devices"] == 4
    assert "devices=[4,1]" in result["sharding"] # each device has its rows of the batch
    np.testing.assert_allclose(losses(result["history"]), losses(trained["history"]), rtol=1e-4)
