"""Every network on the same folds: scores, sizes, times, and a picture of macro-F1 against cost.

    python -m benchmarks.baselines                  # both corpora, every network; goes on where it was stopped
    python -m benchmarks.baselines --only lstm      # one network
    python -m benchmarks.baselines --speed          # measure the times again, on a machine with nothing else to do

Trainings are in runs/baselines, results in benchmarks/results/baselines.json, one entry a corpus and network.
A score is the macro-F1 of each fold's best epoch on its validation clips. Times are measured apart from the
trainings, step by step, because those may run beside other work.
"""
import argparse
import json
from pathlib import Path
from statistics import mean, median, stdev

import numpy as np
import torch

from benchmarks.common import RESULTS, ROOT, machine, real_recordings, seconds, seconds_of_steps
from nonspeech7k.files import read_json, write_json
from nonspeech7k.inference.classifier import Classifier, describe, for_inference
from nonspeech7k.models.kernels import kernels_status
from nonspeech7k.models.summary import count_parameters, multiply_adds
from nonspeech7k.recipe import read_recipe
from nonspeech7k.runs.building import learner_of, optimisation_of
from nonspeech7k.runs.corpus import explore
from nonspeech7k.runs.features import measure
from nonspeech7k.runs.fits import fit_fold
from nonspeech7k.runs.fitted import model_file
from nonspeech7k.runs.folder import enter_run
from nonspeech7k.training.crossval import fold_parts
from nonspeech7k.training.fit import Plan, fit

RECIPE = ROOT / "recipes" / "baselines.yaml"
PLACE = RESULTS / "baselines.json"

CORPORA = {
    "deeply": [],
    "esc10": ["corpus={root: data/esc10, layout: esc50, where: {esc10: 'TRUE'}}",
              "splits={test: none, folds: 5, kind: official}", "clip.seconds=5.0"],
}
UNMASKED = ["augment.frequency_mask=0"]
NETWORKS = {
    "residual (S1)": [],
    "ResNet18": ["network={kind: timm, model: resnet18}"],
    "DenseNet121": ["network={kind: timm, model: densenet121}"],
    "VGG16": ["network={kind: timm, model: vgg16_bn}"],
    "image CNN (S4)": ["network={kind: image_cnn}"],
    # a segment of five halvings is 64 frames long, one more than the other networks' clip of 4 s has
    "segments (S5)": ["network={kind: segments, filters: [16, 32, 64, 128, 256]}", "front_end.hop_length=1000"],
    "LSTM": ["network={kind: lstm}"],
    "convolutions + GRU + attention": ["network={kind: attention}"],
    "1-D CNN on the waveform": ["front_end={kind: waveform}", "network={kind: waveform}", *UNMASKED],
    "transformer, small": ["front_end={kind: transformer, n_mels: 64, frames: 512}",
                           "network={kind: transformer, weights: none, hidden: 192, layers: 4, heads: 3}"],
}


def recipe_of(corpus: str, network: str, changes: list[str] = ()):
    "The recipe of one cell of the table."
    root = real_recordings(corpus)
    placed = [change.replace(f"root: data/{corpus}", f"root: {root}") for change in CORPORA[corpus]]
    return read_recipe(RECIPE, [f"corpus.root={root}", *placed, *NETWORKS[network], *changes])


def folder_of(corpus: str, network: str, runs: Path) -> Path:
    return runs / corpus / "".join(letter if letter.isalnum() else "-" for letter in network)


def train(corpus: str, network: str, runs: Path, changes: list[str] = ()) -> dict:
    "Train all folds, or go on with them; the scores of each fold's best epoch."
    run = enter_run(recipe_of(corpus, network, changes), folder_of(corpus, network, runs))
    explore(run)
    measure(run)
    parts = [part for part in fold_parts(run.manifest) if part.number]
    for part in parts: fit_fold(run, part.number)
    histories = [read_json(model_file(run, part).with_suffix(".json"))["history"] for part in parts]
    best = [max(record["valid_macro_f1"] for record in history) for history in histories]
    manifest = run.manifest
    return {"macro_f1": {"mean": mean(best), "std": stdev(best), "folds": best}, "epochs": run.recipe.train.epochs,
            "classes": len(run.labels), "clips": len(manifest), "groups": int(manifest["group"].nunique()),
            "seed": run.recipe.seed, "steps": sum(len(part.train) // run.recipe.train.batch_size for part in parts)}


def sizes(corpus: str, network: str, classes: int) -> dict:
    "Parameters, and multiply-adds of one clip."
    recipe = recipe_of(corpus, network)
    model = learner_of(recipe, classes)
    return {"parameters": count_parameters(model.network),
            "multiply_adds": multiply_adds(model.network, model.front_end.shape(recipe.clip.samples))}


def speeds(corpus: str, network: str, classes: int, folder: Path, batches: int = 3, repeats: int = 3) -> dict:
    "Clips a second of training, augmentation included and what is kept of an epoch on disk not; of inference."
    recipe = recipe_of(corpus, network, ["train.epochs=1", "train.schedule={kind: plateau}"])
    size = recipe.train.batch_size
    sounds = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (size, recipe.clip.samples)).astype(np.float32))
    model = learner_of(recipe, classes)
    how = {"precision": str(model.dtype).removeprefix("torch."),
           "computed_by": kernels_status(model.network, sounds.device, model.dtype)}
    targets, settings = torch.arange(size) % classes, optimisation_of(recipe)
    every, none = torch.arange(size).repeat(batches), torch.empty(0, dtype=torch.int64)
    training = []
    for repeat in range(repeats + 1):  # the first warms up
        state = folder / f"speed{repeat}.state"
        plan = Plan(learner=model, clips=Sounds(sounds), targets=targets, train=every, valid=none, settings=settings, seed=0,
                    state_path=state, learning_rates=[1e-3], name="speed")
        training.append(seconds_of_steps(lambda: fit(plan)))
        state.unlink()
    labels = [str(number) for number in range(classes)]
    trained = Classifier(model.front_end, model.network, describe(labels, recipe.model_dump()))
    classifier = for_inference(trained, torch.float32)
    inference = [seconds(lambda: classifier.probabilities(sounds)) for _ in range(repeats + 1)]
    return {"training_clips_per_second": size * batches / median(training[1:]),
            "inference_clips_per_second": size / median(inference[1:])} | how


class Sounds:
    "Waveforms in the place of a corpus."
    def __init__(self, waveforms: torch.Tensor): self.all, self.device = waveforms, waveforms.device
    def __len__(self) -> int: return len(self.all)
    def waveforms(self, indices: torch.Tensor) -> torch.Tensor: return self.all[indices]


def known() -> dict:
    return json.loads(PLACE.read_text(encoding="utf-8")) if PLACE.exists() else {"machine": machine(), "rows": {}}


def enter(corpus: str, network: str, found: dict):
    "Add to a row of the results."
    results = known() | {"machine": machine()}
    row = results["rows"].setdefault(corpus, {}).setdefault(network, {})
    row |= found
    if "training_clips_per_second" in row and "steps" in row:
        clips = row["steps"] * 32 * row["epochs"]
        row["training_seconds"] = clips / row["training_clips_per_second"]
    write_json(PLACE, results)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--only", action="append", help="a network of the table; may be repeated")
    arguments.add_argument("--corpus", action="append", choices=CORPORA)
    arguments.add_argument("--runs", type=Path, default=Path("runs/baselines"))
    arguments.add_argument("--speed", action="store_true", help="measure the times, train nothing")
    given = arguments.parse_args()
    given.runs.mkdir(parents=True, exist_ok=True)
    for corpus in given.corpus or CORPORA:
        for network in given.only or NETWORKS:
            if given.speed:
                classes = next(row["classes"] for row in known()["rows"][corpus].values() if "classes" in row)
                enter(corpus, network, sizes(corpus, network, classes) | speeds(corpus, network, classes, given.runs))
            else: enter(corpus, network, train(corpus, network, given.runs))
            print(corpus, network, known()["rows"][corpus][network], flush=True)


if __name__ == "__main__":
    main()
