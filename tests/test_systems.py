"""Each system's recipe goes from sounds to a judgement, with networks and features made small; and what may be combined is."""
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from nonspeech7k.data.layouts import read_corpus
from nonspeech7k.data.synthesis import write_demo
from nonspeech7k.files import UserError, read_json
from nonspeech7k.inference.classifier import load_classifier, predict
from nonspeech7k.runs.corpus import explore
from nonspeech7k.runs.features import measure
from nonspeech7k.runs.fits import train
from nonspeech7k.runs.folder import open_run
from nonspeech7k.runs.stages import evaluate

RECIPES = Path(__file__).resolve().parent.parent / "recipes"
SMALL = ["clip.rate=8000", "clip.seconds=1.0", "splits={test: none, folds: 2, kind: grouped}", "train.epochs=2", "train.batch_size=16",
         "augment.frequency_mask=2", "augment.time_mask=3", "device=cpu"]
SPECTROGRAM = ["front_end.n_fft=256", "front_end.hop_length=100", "front_end.n_mels=32"]
SYSTEMS = {
    "nonspeech7k": [*SPECTROGRAM, "network.channels=[8, 8, 8]", "network.hidden=8"],
    "nonspeech7k_tpu": [*SPECTROGRAM, "network.channels=[8, 8, 8]", "network.hidden=8"],
    "resnet18_transfer": [*SPECTROGRAM, "front_end.win_length=256", "network.model=test_resnet", "network.weights=none"],
    "esc50_cnn": [*SPECTROGRAM, "network.channels=[4, 4, 4]", "network.hidden=8"],
    "slat_fcn": ["front_end.n_fft=256", "front_end.hop_length=50", "front_end.n_mels=32", "network.filters=[4, 4, 4, 4, 4]",
                 "network.hidden=8", "augment.pitch=1"],
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("systems") / "demo"
    write_demo(folder, train=42, test=14)
    return folder


@pytest.fixture
def recipe_for(corpus, tmp_path):
    "A run of a system's recipe on the demo corpus, its four stages done in this process."
    def run(system: str, *changes: str, name: str = "run", root: str | None = None):
        place = f"corpus={{root: '{corpus}', layout: nonspeech7k}}"
        opened = open_run(RECIPES / f"{system}.yaml", tmp_path / name,
                                   [place, f"banks={tmp_path / 'banks'}", *SMALL, *SYSTEMS[system], *changes])
        for stage in (explore, measure, train, evaluate): stage(opened)
        return opened
    return run


@pytest.mark.parametrize("system", SYSTEMS)
def test_each_system_trains_and_is_judged(system, recipe_for, corpus):
    run = recipe_for(system)
    metrics = read_json(run.folder / "metrics.json")
    assert len(metrics["cv"]["folds"]) == 2 and 0 <= metrics["cv"]["macro_f1"]["mean"] <= 1
    assert metrics["study"]["network"] == run.recipe.network.kind and metrics["study"]["parameters"] > 0
    assert (run.folder / "report.html").exists() and (run.folder / "plots" / "spectrograms.png").exists()
    classifier = load_classifier(run.folder / "models" / "final_model.safetensors")
    answer, = predict(classifier, [next((corpus).rglob("*.wav"))])
    assert answer["label"] in run.labels and abs(sum(answer["probabilities"].values()) - 1) < 1e-6


def test_everything_that_training_can_do_at_once(recipe_for):
    "Mixed clips, a policy for a class, an average of the weights, an early stop, and the final fit that follows from it."
    run = recipe_for("nonspeech7k", "train.epochs=4", "train.ema=0.5", "train.schedule={kind: cosine, warm_up: 1}", "train.stop_after=1",
                     "train.optimiser=sgd", "train.lr=0.01", "train.loss={kind: cross_entropy, smoothing: 0.1}", "augment.mixup=0.3",
                     "augment.cutmix=0.5", "augment.speed=[0.9, 1.1]", "augment.per_class={cough: {roll: 0.0, time_mask: 0}}",
                     "front_end.deltas=2", "front_end.normalise=band")
    histories = read_json(run.folder / "training.json")
    folds = [len(history) for name, history in histories.items() if name != "final"]
    assert max(folds) <= 4 and len(histories["final"]) <= max(folds)
    assert all(record["valid_loss"] is None for record in histories["final"])
    columns = pd.read_csv(run.folder / "features.csv").columns
    assert len(columns) == 1 + 2 * 3 * 32, "a mean and a square for each channel and band"
    assert next(load_classifier(run.folder / "models" / "final_model.safetensors").network.parameters()).shape[1] == 3


def test_a_student_learns_from_its_teacher_and_from_no_other(recipe_for, tmp_path):
    teacher = recipe_for("nonspeech7k", name="teacher")
    distil = f"train.distil={{teacher: '{teacher.folder}', weight: 1.0, temperature: 2.0}}"
    student = recipe_for("nonspeech7k", "network.channels=[4, 4]", distil, name="student")
    alone = recipe_for("nonspeech7k", "network.channels=[4, 4]", name="alone")
    losses = [[record["train_loss"] for record in read_json(run.folder / "training.json")["fold 1"]] for run in (student, alone)]
    assert losses[0] != losses[1]
    with pytest.raises(UserError, match="other clips, test split and folds"):
        recipe_for("nonspeech7k", distil, "seed=1", name="other folds")
    with pytest.raises(UserError, match="holds no run"):
        recipe_for("nonspeech7k", f"train.distil={{teacher: '{tmp_path / 'nobody'}'}}", name="no teacher")


@pytest.fixture(scope="module")
def chorus(corpus, tmp_path_factory) -> Path:
    "Clips of one or two sounds, with all of their labels."
    folder, clips, generator, rows = tmp_path_factory.mktemp("chorus"), read_corpus(corpus).manifest, np.random.default_rng(0), []
    for number in range(48):
        chosen = clips.iloc[generator.choice(len(clips), generator.integers(1, 3), replace=False)]
        sounds = [soundfile.read(corpus / path) for path in chosen["path"]]
        mixed = np.zeros(max(len(samples) for samples, _ in sounds))
        for samples, _ in sounds: mixed[:len(samples)] += samples / 2
        soundfile.write(folder / f"{number}.wav", mixed, sounds[0][1])
        rows.append({"path": f"{number}.wav", "label": ";".join(chosen["label"]), "group": f"group {number // 2}"})
    pd.DataFrame(rows).to_csv(folder / "clips.csv", index=False)
    return folder


@pytest.mark.parametrize("loss", ["{kind: binary}", "{kind: focal, gamma: 2.0, level: segments}"])
def test_several_labels_a_clip_go_all_the_way(loss, recipe_for, chorus):
    run = recipe_for("slat_fcn", f"train.loss={loss}", "augment.mixup=0.2", "train.class_weights=balanced",
                     f"corpus={{root: '{chorus}', layout: csv, table: clips.csv, labels_per_clip: several}}")
    metrics, predictions = read_json(run.folder / "metrics.json"), pd.read_csv(run.folder / "predictions.csv", keep_default_na=False)
    assert metrics["cv"]["confusion"] is None and set(metrics["cv"]["per_class"]) == set(run.labels)
    assert 0 <= metrics["cv"]["macro_average_precision"] <= 1
    assert predictions["label"].str.contains(";").any() and predictions[run.labels].to_numpy().max() <= 1
    classifier = load_classifier(run.folder / "models" / "final_model.safetensors")
    assert classifier.segment_probabilities(torch.zeros(2, 8000)).shape[:2] == (2, len(run.labels))
    answer, = predict(classifier, [chorus / "0.wav"])
    assert set(answer["labels"]) <= set(run.labels)


@pytest.mark.parametrize("changes, sentence", [
    (["augment.per_class={hiccup: {roll: 0.0}}"], "no such class"),
    (["network={kind: timm, model: resnet18, weights: nowhere.safetensors}"], "nowhere.safetensors"),
    (["corpus.labels_per_clip=several"], "binary or focal"),
    (["train.loss={kind: focal, gamma: -1.0}"], "gamma"),
    (["network={kind: segments}", "front_end.hop_length=200"], "segment"),
])
def test_a_mistake_is_one_sentence(changes, sentence, recipe_for):
    with pytest.raises(UserError, match=sentence): recipe_for("nonspeech7k", *changes)


def test_further_seeds_repeat_the_study_and_show_its_spread(recipe_for):
    run = recipe_for("nonspeech7k", "further_seeds=[1, 2]", "train.epochs=1")
    seeds = read_json(run.folder / "metrics.json")["seeds"]
    assert seeds["seeds"] == [42, 1, 2] and seeds["cv"]["macro_f1"]["runs"] == 3
    again = read_json(run.folder / "seeds" / "1" / "metrics.json")
    assert seeds["cv"]["macro_f1"]["values"][1] == again["cv"]["macro_f1"]["mean"] and "seeds" not in again
    manifests = {(folder / "manifest.csv").read_text() for folder in (run.folder, *(run.folder / "seeds").iterdir())}
    assert len(manifests) == 3, "each seed draws its own folds"
