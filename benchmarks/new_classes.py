"""How well a new class is learned from 5, 10 and 20 examples, on the Deeply sample: `python -m benchmarks.new_classes`.

A third of the speakers is the test split. By turn, three of the classes that have enough clips are left out, a narrow
network is trained on all others, and each of the three is added to it, from examples by training speakers that are
drawn anew several times. Judged are the test clips of the old classes and of the new one. `--validate` judges on a
third of the training speakers instead and writes nothing: the place to choose settings."""
import argparse
import math
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import precision_recall_fscore_support

from benchmarks.common import RESULTS, deeply_recipe, machine, split_corpus
from nonspeech7k.data.bank import open_bank
from nonspeech7k.data.splits import split_test
from nonspeech7k.features.augment import FeatureAugmentation, WaveformAugmentation
from nonspeech7k.features.spectrograms import clip_moments, standardise
from nonspeech7k.files import write_json
from nonspeech7k.inference.classifier import Classifier, build_classifier, describe
from nonspeech7k.inference.newclasses import WAYS, last_inputs, new_layer
from nonspeech7k.models.kernels import accelerate
from nonspeech7k.recipe import seed_for
from nonspeech7k.training.devices import Resident, resident, seed_weights
from nonspeech7k.training.fit import Learner, Optimisation, Plan, fit

SEED, EPOCHS, TOGETHER = 42, 25, 3
EXAMPLES = (5, 10, 20)
SETTINGS = ["clip.rate=16000", "clip.seconds=3.0", "front_end.n_fft=1024", "front_end.n_mels=64",
            "network.channels=[16, 32, 64, 128]", "network.hidden=128", "augment.frequency_mask=8",
            "augment.time_mask=12", "splits.test_share=0.33"]


@dataclass(frozen=True)
class Sounds:
    "The clips of a corpus, their classes and their split."
    recipe: object
    clips: Resident
    manifest: pd.DataFrame  # with label, group and split

    @property
    def labels(self) -> list[str]: return sorted(set(self.manifest["label"]))

    def rows(self, split: str, labels: list[str]) -> np.ndarray:
        "The positions of a split's clips of some classes, class by class."
        table = self.manifest
        return np.concatenate([np.flatnonzero((table["split"] == split) & (table["label"] == label))
                               for label in labels])

    def targets(self, rows: np.ndarray, labels: list[str]) -> torch.Tensor:
        return torch.tensor([labels.index(label) for label in self.manifest["label"].iloc[rows]])

    def waveforms(self, rows: np.ndarray) -> torch.Tensor: return self.clips.waveforms(torch.from_numpy(rows))


def read(folder: Path, validate: bool) -> Sounds:
    "The Deeply sample, decoded; with `validate`, without its test split."
    recipe = deeply_recipe(SETTINGS)
    if recipe is None: raise SystemExit("no recordings of the Deeply sample here (NONSPEECH7K_DATA)")
    files, _, manifest = split_corpus(recipe)
    bank, bad = open_bank(files, recipe.clip.rate, recipe.clip.seconds, folder / "bank")
    assert not bad, bad
    if validate:
        inner = split_test(manifest[manifest["split"] == "train"], "held_out", 0.33, seed_for(SEED, "validation"))
        manifest = manifest.assign(split=inner["split"].reindex(manifest.index, fill_value="left out"))
    return Sounds(recipe, resident(bank, torch.device("cpu")), manifest)


def train(sounds: Sounds, labels: list[str], folder: Path) -> Classifier:
    "A classifier of some of the classes, by the training clips."
    part, rows = sounds.recipe.augment, sounds.rows("train", labels)
    with seed_weights(seed_for(SEED, "weights")):
        classifier = build_classifier(describe(labels, sounds.recipe.model_dump()))
    standardise(classifier.front_end, clip_moments(classifier.front_end, sounds.waveforms(rows)))
    learner = Learner(classifier.front_end, accelerate(classifier.network), WaveformAugmentation(part.roll, part.gain),
                      FeatureAugmentation(part.noise, part.frequency_mask, part.time_mask))
    targets = torch.zeros(len(sounds.clips), dtype=torch.long)
    targets[rows] = sounds.targets(rows, labels)
    rates = [2e-3 * 0.5 * (1 + math.cos(math.pi * epoch / EPOCHS)) for epoch in range(EPOCHS)]
    with tempfile.TemporaryDirectory(dir=folder) as place:
        best, _ = fit(Plan(
            learner=learner, clips=sounds.clips, targets=targets, train=torch.from_numpy(rows),
            valid=torch.tensor([], dtype=torch.long), settings=Optimisation(epochs=EPOCHS), seed=seed_for(SEED, "fit") % 2**32,
            state_path=Path(place) / "state", learning_rates=rates))
    classifier.network.load_state_dict(best)
    return classifier.eval()


def draw(sounds: Sounds, label: str, count: int, number: int) -> np.ndarray:
    "The positions of random examples, by as many training speakers as there are."
    rows = sounds.rows("train", [label])
    order = np.random.default_rng([SEED, number, sounds.labels.index(label)]).permutation(rows)
    speakers = sounds.manifest["group"].iloc[order]
    turn = speakers.groupby(speakers.to_numpy()).cumcount().to_numpy()  # a speaker's second clip after all first ones
    return order[np.argsort(turn, kind="stable")][:count]


def scores(truth: torch.Tensor, logits: torch.Tensor, old: int) -> dict:
    "F1, precision and recall of the class after the old ones, and the old ones' macro-F1."
    precision, recall, f1, _ = precision_recall_fscore_support(
        truth, logits.argmax(1), labels=range(old + 1), zero_division=0)
    return {"f1": f1[old], "precision": precision[old], "recall": recall[old], "old_after": f1[:old].mean()}


def add(sounds: Sounds, base: Classifier, label: str, draws: int) -> list[dict]:
    "One class added to a classifier in every way, from every number of examples, judged."
    old, network = base.labels, base.network
    inputs, truth = {}, {}
    for split in ("train", "test"):
        rows = np.concatenate([sounds.rows(split, old), sounds.rows(split, [label])])
        inputs[split], truth[split] = last_inputs(base, sounds.waveforms(rows)), sounds.targets(rows, [*old, label])
        if split == "train": place = {row: position for position, row in enumerate(rows)}
    known, records = truth["test"] < len(old), []
    before = scores(truth["test"][known], network.head[-1](inputs["test"][known]), len(old))["old_after"]
    kept = (truth["train"] < len(old)).nonzero().flatten()
    for count in EXAMPLES:
        for number in range(draws):
            chosen = torch.tensor([place[row] for row in draw(sounds, label, count, number)])
            both = torch.cat([kept, chosen])
            for how in WAYS:
                layer = new_layer(base, inputs["train"][both], truth["train"][both], how)
                with torch.no_grad(): found = scores(truth["test"], layer(inputs["test"]), len(old))
                records.append({"label": label, "examples": count, "draw": number, "how": how, "old_before": before}
                               | found)
    return records


def ceiling(sounds: Sounds, folder: Path, new: list[str]) -> dict[str, float]:
    "F1 of each class where all of its training clips were there from the start."
    base, rows = train(sounds, sounds.labels, folder), sounds.rows("test", sounds.labels)
    found = precision_recall_fscore_support(
        sounds.targets(rows, sounds.labels), base.probabilities(sounds.waveforms(rows)).argmax(1),
        labels=range(len(sounds.labels)), zero_division=0)[2]
    return {label: float(found[sounds.labels.index(label)]) for label in new}


MEASURED = ["f1", "precision", "recall", "old_before", "old_after"]


def summary(records: pd.DataFrame) -> list[dict]:
    "For each way and number of examples: means over classes and draws, and how far the draws and the classes spread."
    rows = []
    for (how, count), part in records.groupby(["how", "examples"]):
        by_class = part.groupby("label")["f1"]
        rows.append({"how": how, "examples": int(count)} | part[MEASURED].mean().round(4).to_dict() | {
            "f1_deviation_of_draws": round(float(np.sqrt(by_class.var().mean())), 4),
            "f1_deviation_of_classes": round(float(by_class.mean().std()), 4)})
    return rows


def study(folder: Path, draws: int, validate: bool) -> dict:  # JSON-ready
    "Everything, with its counts."
    sounds, started = read(folder, validate), process_time()
    new = [label for label in sounds.labels if len(sounds.rows("train", [label])) >= max(EXAMPLES)]
    turns = math.ceil(len(new) / TOGETHER)
    rounds, records = [new[first::turns] for first in range(turns)], []
    for left_out in rounds:
        base = train(sounds, [label for label in sounds.labels if label not in left_out], folder)
        for label in left_out: records += add(sounds, base, label, draws)
    table, split = pd.DataFrame(records), sounds.manifest["split"]
    every = ceiling(sounds, folder, new)
    by_class = table.groupby(["label", "how", "examples"])[["f1", "recall", "precision"]].mean().round(4)
    speakers = sounds.manifest.groupby("split")["group"].nunique()
    return {"corpus": "Deeply Nonverbal Vocalization sample (OpenSLR 99)", "seed": SEED, "draws": draws,
            "clips": {name: int((split == name).sum()) for name in ("train", "test")},
            "speakers": {name: int(speakers[name]) for name in ("train", "test")},
            "rounds": rounds, "epochs": EPOCHS, "settings": SETTINGS, "summary": summary(table),
            "from_the_start": {"f1": round(float(np.mean(list(every.values()))), 4), "by_class": every},
            "by_class": by_class.reset_index().to_dict("records"), "cpu_seconds": round(process_time() - started, 1),
            "machine": machine(), "measured": date.today().isoformat()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--draws", type=int, default=8, help="of the examples, for each class and number")
    arguments.add_argument("--validate", action="store_true", help="judge on training speakers, write nothing")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder: result = study(Path(folder), chosen.draws, chosen.validate)
    print(pd.DataFrame(result["summary"]).round(3).to_string(index=False))
    print(f"trained with all clips from the start: F1 {result['from_the_start']['f1']:.3f}; "
          f"{result['cpu_seconds']:.0f} s of CPU")
    if not chosen.validate: write_json(RESULTS / "new_classes.json", result)


if __name__ == "__main__": main()
