"""Pretrained hearing: a body that stays as it is, a head that learns, and weights that come from elsewhere."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from nonspeech7k.files import UserError
from nonspeech7k.models.yamnetweights import published_weights, read_weights
from nonspeech7k.recipe import Recipe, read_recipe

YAMNET = ["front_end={kind: yamnet}", "network={kind: yamnet, weights: none}", "clip.rate=16000", "clip.seconds=1.0", "augment.frequency_mask=4", "augment.time_mask=8",
          "splits.folds=2", "train.epochs=2", "train.trains=head", "train.precision=fp32"]


pytestmark = pytest.mark.usefixtures("one_thread")


def run(demo: Path, folder: Path, *changes: str) -> Path:
    "All stages in this process, without their notebooks."
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.runs.stages import complete
    complete(open_run("demo", folder, [f"corpus.root={demo}", f"banks={folder.parent / 'banks'}", *YAMNET, *changes]))
    return folder


@pytest.fixture(scope="module")
def demo(smaller_demo) -> Path: return smaller_demo


@pytest.fixture(scope="module")
def trained(demo, tmp_path_factory) -> Path:
    "A head found by regression on a body that knows nothing."
    return run(demo, tmp_path_factory.mktemp("heads") / "first", "train.head=logistic")


def test_a_head_alone_is_judged_and_answers(trained, demo):
    from nonspeech7k.inference.classifier import load_classifier, predict
    history = json.loads((trained / "training.json").read_text())
    assert [len(records) for records in history.values()] == [1, 1, 1] and all(records[0]["penalty"] > 0 for records in history.values())
    sound = next((demo / "audio").rglob("*.wav"), None) or next(demo.rglob("*.wav"))
    answer, = predict(load_classifier(trained / "models/final_model.safetensors"), [sound])
    assert sum(answer["probabilities"].values()) == pytest.approx(1)


def test_what_the_body_said_is_kept_and_a_second_run_is_the_same_to_the_byte(trained, demo):
    kept, = (trained.parent / "banks").glob("*.described.npy")
    before = kept.stat().st_mtime_ns
    again = run(demo, trained.parent / "again", "train.head=logistic")
    assert kept.stat().st_mtime_ns == before
    assert (again / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()


def test_descriptions_that_were_damaged_are_asked_for_anew(trained, demo):
    kept, = (trained.parent / "banks").glob("*.described.npy")
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    other = run(demo, trained.parent / "other", "train.head=logistic")
    assert (other / "predictions.csv").read_bytes() == (trained / "predictions.csv").read_bytes()


@pytest.mark.parametrize("changes", [("train.head=means",), ("train.head=gradient", "network.hidden=8", "train.copies=1"), ("train.trains=last", "train.body_rate=0.1", "train.norms=kept")],
                         ids=["means", "gradient", "last"])
def test_the_other_ways_to_learn_end_in_a_report(changes, trained, demo):
    assert (run(demo, trained.parent / changes[0].replace("=", "_"), *changes) / "report.html").exists()


@pytest.mark.parametrize(("changes", "word"), [
    (["clip.rate=32000"], "clip.rate"), (["front_end.kind=log_mel"], "yamnet goes with yamnet"), (["train.trains=all", "train.copies=2"], "train.copies"),
    (["augment.mixup=0.3"], "train.trains"), (["train.head=logistic", "network.hidden=8"], "network.hidden")])
def test_what_does_not_go_together_is_refused_by_its_key(changes, word):
    with pytest.raises(UserError, match=word): read_recipe("demo", [*YAMNET, *changes])


def test_two_rates_are_kept_through_a_stop(tmp_path):
    "The body's learning rate is its share of the head's, also after a state was read."
    from nonspeech7k.models.transfer import parameter_groups, set_rates
    from nonspeech7k.runs.building import learner_of
    from nonspeech7k.training.optimisers import build_optimiser
    from nonspeech7k.training.state import State, load_state, save_state
    def state():
        network = learner_of(Recipe(name="x", corpus={"root": "."}, network={"kind": "residual", "channels": [4, 8], "hidden": 8}), 3).network
        optimiser = build_optimiser(parameter_groups(network, 0.1), "adamw", 0.01, 0.0, 0.9, torch.device("cpu"))
        set_rates(optimiser.param_groups, 0.01)
        return State(network, optimiser, None)
    first, second = state(), state()
    for parameter in first.network.parameters(): parameter.grad = torch.ones_like(parameter)
    first.optimiser.step()
    save_state(first, tmp_path / "a.state", "a")
    load_state(second, tmp_path / "a.state", "a")
    assert [group["lr"] for group in second.optimiser.param_groups] == pytest.approx([0.01, 0.001])
    for network in (first, second):
        for parameter in network.network.parameters(): parameter.grad = torch.ones_like(parameter)
        network.optimiser.step()
    assert all(torch.equal(one, other) for one, other in zip(first.network.parameters(), second.network.parameters()))


@pytest.fixture(scope="module")
def weights() -> Path:
    try: return published_weights()
    except UserError as error: pytest.skip(str(error))


def test_one_changed_number_makes_other_weights(weights, tmp_path):
    content = bytearray(weights.read_bytes())
    content[-5] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="other numbers"): read_weights(tmp_path / "changed.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(content[:-100])
    with pytest.raises(UserError, match=r"cut\.safetensors"): read_weights(tmp_path / "cut.safetensors")


def test_the_original_file_of_keras_is_read(weights, tmp_path):
    h5py = pytest.importorskip("h5py")
    state, _ = read_weights(weights)
    turned = lambda kernel, depthwise: kernel.permute(3, 2, 0, 1) if depthwise else kernel.permute(3, 2, 1, 0)
    with h5py.File(tmp_path / "yamnet.h5", "w") as file:
        names = []
        def put(layer, arrays):
            group = file.create_group(layer)
            for name, values in arrays.items(): group[f"{layer}/{name}:0"] = np.ascontiguousarray(values.numpy())
            group.attrs["weight_names"] = [f"{layer}/{name}:0".encode() for name in arrays]
            names.append(layer.encode())
        for number in range(27):
            depthwise = number > 0 and number % 2 == 1
            put(f"layer{number}", {"depthwise_kernel" if depthwise else "kernel": turned(state[f"{3 * number}.weight"], depthwise)})
            put(f"layer{number}_bn", {theirs: state[f"{3 * number + 1}.{ours}"] for theirs, ours in (("beta", "bias"), ("moving_mean", "running_mean"), ("moving_variance", "running_var"))})
            names.append(b"relu"); file.create_group(f"relu{number}")
            names[-1] = f"relu{number}".encode(); file[f"relu{number}"].attrs["weight_names"] = np.array([], "S1")
        put("logits", {"kernel": state["top.weight"].T, "bias": state["top.bias"]})
        file.attrs["layer_names"] = names
    assert read_weights(tmp_path / "yamnet.h5")[1]


def test_crying_babies_cry(weights):
    "The published top layer on real recordings, where they are at hand."
    import os

    from safetensors.torch import load_file

    from nonspeech7k.data.decoding import read_clip
    from nonspeech7k.features.yamnet import YamnetFeatures
    from nonspeech7k.models.yamnet import YamnetNetwork, cut_patches
    root = Path(os.environ.get("NONSPEECH7K_DATA") or Path(__file__).parents[2] / "shared/data") / "esc10"
    if not root.is_dir(): pytest.skip("the recordings are not here")
    import pandas as pd
    table = pd.read_csv(root / "meta/esc50.csv")
    stems = {path.stem: path for path in (root / "audio").iterdir()}
    clips = [read_clip(stems[Path(name).stem], 16_000, 5.0)[0] for name in table.loc[table["category"] == "crying_baby", "filename"]]
    network, top = YamnetNetwork(2, (1, 64, 528), weights=str(weights), layers="last").eval(), load_file(weights)
    with torch.no_grad():
        found = network.patch_embeddings(cut_patches(YamnetFeatures(16_000)(torch.from_numpy(np.stack(clips)))))
        scores = torch.nn.functional.linear(found, top["top.weight"], top["top.bias"]).sigmoid().mean((0, 1))
    crying = {19, 20} # 'Crying, sobbing' and 'Baby cry, infant cry' of AudioSet's 521
    assert set(scores.topk(2).indices.tolist()) == crying
