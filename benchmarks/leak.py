"""What it costs to let clips of one speaker stand on both sides of a fold; from the repository's root:
`python -m benchmarks.leak`, which writes results/leak.json.

One narrow network is cross-validated with plain (stratified) and with grouped folds, and the models of both are also
judged on speakers of whom no clip was in any fold: what the cross-validation claims to foretell. First on the Deeply
sample, then on synthetic sounds of which a recording gives 1, 3 or 10 clips. Each seed draws test speakers, folds and
weights anew; both kinds of folds divide the same clips. The last epoch counts, so that no fold chooses its own."""
import argparse
import tempfile
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import torch

from benchmarks.common import RESULTS, ROOT, deeply_recipe, machine
from nonspeech7k.data.bank import open_bank
from nonspeech7k.data.manifest import paths
from nonspeech7k.data.sounds import LABELS, synthesise
from nonspeech7k.data.splits import assign_folds, hold_out
from nonspeech7k.data.voices import draw_speaker
from nonspeech7k.evaluation.metrics import macro_f1
from nonspeech7k.files import write_json
from nonspeech7k.recipe import Recipe, read_recipe, seed_for
from nonspeech7k.runs.building import learner_of
from nonspeech7k.runs.corpus import read_recipe_corpus
from nonspeech7k.runs.features import moments_of
from nonspeech7k.training.crossval import FoldPart, Study, fit_part, fold_parts
from nonspeech7k.training.devices import Resident, resident
from nonspeech7k.training.fit import Learner, Optimisation, predict_logits

FOLDS, RESAMPLES = 3, 2000
KINDS = {"plain": "stratified", "grouped": "grouped"}
TAKES = (1, 3, 10)  # synthetic clips of one recording
A_CLASS = 30  # synthetic clips of a class to cross-validate
NEW = 15  # synthetic recordings of a class to test, one clip each
SETTINGS = ["clip.rate=16000", "clip.seconds=2.0", "front_end.n_fft=1024", "front_end.n_mels=64",
            "network.channels=[16, 32, 64, 64]", "network.hidden=64", "augment.frequency_mask=8",
            "augment.time_mask=12"]
EPOCHS = {"deeply": 12, "synthetic": 14}
PARTNERS = {"same class": "the speaker has another clip of the class", "other classes": "only clips of other classes",
            "none": "no other clip"}


@dataclass(frozen=True)
class Sounds:
    "The clips of a corpus and how they are trained on."
    recipe: Recipe
    clips: Resident
    manifest: pd.DataFrame  # with label, group and split
    epochs: int

    @property
    def labels(self) -> list[str]: return sorted(set(self.manifest["label"]))

    @property
    def targets(self) -> torch.Tensor:
        return torch.from_numpy(pd.Index(self.labels).get_indexer(self.manifest["label"]))


def deeply(folder: Path) -> Sounds:
    "The Deeply sample; the two seconds from each clip's start."
    recipe = deeply_recipe(SETTINGS)
    if recipe is None: raise SystemExit("no recordings of the Deeply sample here (NONSPEECH7K_DATA)")
    corpus = read_recipe_corpus(recipe)
    bank, bad = open_bank(paths(corpus), recipe.clip.rate, recipe.clip.seconds, folder / "bank")
    assert not bad, bad
    return Sounds(recipe, resident(bank, torch.device("cpu")), corpus.manifest, EPOCHS["deeply"])


def synthetic(takes: int, seed: int) -> Sounds:
    "Synthetic clips, so many of each recording to cross-validate, and one of each new recording to test."
    recipe, rows, sounds = read_recipe(ROOT / "recipes" / "demo.yaml", SETTINGS), [], []
    plan = [("train", A_CLASS // takes, takes), ("test", NEW, 1)]
    for split, recordings, clips in plan:
        for label in LABELS:
            for number in range(recordings):
                key = seed_for(seed, f"{split} {label}", takes, number)
                speaker, generator = draw_speaker(np.random.default_rng(key)), np.random.default_rng([key, 1])
                for _ in range(clips):
                    rows.append((label, f"{split} {label} {number}", split))
                    sounds.append(synthesise(label, speaker, generator, recipe.clip.rate)[:recipe.clip.samples])
    padded = np.stack([np.pad(sound, (0, recipe.clip.samples - len(sound))) for sound in sounds])
    bank = Resident(torch.from_numpy(np.round(padded * 32767).astype(np.int16)),
                    torch.full((len(padded),), 1 / 32767), torch.arange(len(padded)))
    return Sounds(recipe, bank, pd.DataFrame(rows, columns=["label", "group", "split"]), EPOCHS["synthetic"])


# One cross-validation

def train(sounds: Sounds, part: FoldPart, moments: torch.Tensor, seed: int) -> Learner:
    "The network after the last epoch of one fold."
    rates = [2e-3 * 0.5 * (1 + np.cos(np.pi * epoch / sounds.epochs)) for epoch in range(sounds.epochs)]
    settings = Optimisation(epochs=sounds.epochs, batch_size=16)
    alone = FoldPart(part.name, part.number, part.train, np.array([], dtype=np.int64))
    study = Study(clips=sounds.clips, targets=sounds.targets, moments=moments,
                  build=lambda: learner_of(sounds.recipe, len(sounds.labels)), settings=settings, seed=seed)
    with tempfile.TemporaryDirectory() as place:
        model, _ = fit_part(alone, study, Path(place) / "state", rates)
    return model


def cross_validate(sounds: Sounds, kind: str, moments: torch.Tensor, seed: int) -> dict:
    """'answers' (clips,): the class that each clip's own fold gave it, -1 for test clips;
    'test': what each fold's model answered to the test clips (folds, test clips)."""
    manifest = assign_folds(sounds.manifest, KINDS[kind], FOLDS, seed_for(seed, "folds"))
    test = torch.from_numpy(np.flatnonzero(manifest["split"] == "test"))
    answers, of_test = np.full(len(manifest), -1), []
    for part in fold_parts(manifest)[:-1]:
        model = train(sounds, part, moments, seed)
        answers[part.valid] = predict_logits(model, sounds.clips, torch.from_numpy(part.valid), 64).argmax(1)
        of_test.append(predict_logits(model, sounds.clips, test, 64).argmax(1).numpy())
    return {"answers": answers, "test": np.stack(of_test)}


def scores(sounds: Sounds, found: dict) -> dict[str, float]:
    "Accuracy and macro-F1 in cross-validation, and the means of the folds' models on the test clips."
    truth, classes = sounds.targets.numpy(), len(sounds.labels)
    judged, test = found["answers"] >= 0, (sounds.manifest["split"] == "test").to_numpy()
    return {"accuracy": float((found["answers"] == truth)[judged].mean()),
            "macro_f1": macro_f1(truth[judged], found["answers"][judged], classes),
            "test_accuracy": float((found["test"] == truth[test]).mean()),
            "test_macro_f1": float(np.mean([macro_f1(truth[test], row, classes) for row in found["test"]]))}


def both(sounds: Sounds, seed: int) -> tuple[dict, pd.DataFrame]:
    "The scores of both kinds of folds, and for each clip that was validated whether each kind had it right."
    moments = moments_of(learner_of(sounds.recipe, len(sounds.labels)).front_end, sounds.clips)
    found = {kind: cross_validate(sounds, kind, moments, seed) for kind in KINDS}
    right = pd.DataFrame({kind: found[kind]["answers"] == sounds.targets.numpy() for kind in KINDS})
    right = right.assign(clip=range(len(right)), partner=partners(sounds.manifest),
                         group=sounds.manifest["group"].to_numpy())
    return {kind: scores(sounds, found[kind]) for kind in KINDS}, right[found["plain"]["answers"] >= 0]


def partners(manifest: pd.DataFrame) -> np.ndarray:
    "What else each clip's speaker has in training, one of `PARTNERS`; the test clips are counted apart."
    split = manifest["split"]
    of_class = manifest.groupby([split, "group", "label"])["label"].transform("size").to_numpy()
    of_speaker = manifest.groupby([split, "group"])["label"].transform("size").to_numpy()
    return np.select([of_class > 1, of_speaker > 1], list(PARTNERS)[:2], list(PARTNERS)[2])


# The differences

def interval_of_seeds(differences: list[float]) -> dict:
    "The mean of paired differences and its 95 % interval by Student's t: what other folds and weights would change."
    from scipy.stats import t
    values = np.array(differences)
    half = t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return {"mean": float(values.mean()), "interval": [float(values.mean() - half), float(values.mean() + half)],
            "seeds": len(values)}


def interval_of_speakers(right: pd.DataFrame) -> dict:
    """How much more often plain folds were right, and its 95 % bootstrap interval over speakers:
    what other people would change."""
    gain = (right["plain"].astype(int) - right["grouped"]).groupby(right["group"]).agg(["sum", "size"]).to_numpy()
    drawn = np.random.default_rng(0).multinomial(len(gain), np.full(len(gain), 1 / len(gain)), RESAMPLES) @ gain
    return {"mean": float(gain[:, 0].sum() / gain[:, 1].sum()), "clips": int(right["clip"].nunique()),
            "speakers": len(gain), "interval": np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975]).tolist()}


def compared(by_seed: list[dict]) -> dict:
    "The means of all scores, and the paired differences that matter."
    gap = lambda one, other: interval_of_seeds([one(row) - other(row) for row in by_seed])
    mean = lambda kind, name: float(np.mean([row[kind][name] for row in by_seed]))
    means = {kind: {name: mean(kind, name) for name in by_seed[0][kind]} for kind in KINDS}
    differences = {}
    for name in ("accuracy", "macro_f1"):
        differences[name] = {
            "plain − grouped": gap(lambda row: row["plain"][name], lambda row: row["grouped"][name]),
            "plain − new speakers": gap(lambda row: row["plain"][name], lambda row: row["plain"][f"test_{name}"]),
            "grouped − new speakers": gap(lambda row: row["grouped"][name],
                                          lambda row: row["grouped"][f"test_{name}"])}
    return {"means": means, "differences": differences, "by_seed": by_seed}


def held_out(sounds: Sounds, seed: int) -> Sounds:
    "The corpus with test speakers of this seed."
    return replace(sounds, manifest=hold_out(sounds.manifest, 0.2, seed_for(seed, "test split")))


def study_deeply(folder: Path, seeds: int) -> dict:
    "The Deeply sample, with the clips told apart by what else there is of their speaker."
    sounds, rows, parts = deeply(folder), [], []
    for seed in range(seeds):
        scored, right = both(held_out(sounds, seed), seed)
        rows.append(scored)
        parts.append(right)
        print(f"deeply, seed {seed}: {scored}", flush=True)
    right = pd.concat(parts)
    kinds = {kind: interval_of_speakers(right[right["partner"] == kind]) for kind in PARTNERS}
    return {"clips": len(sounds.manifest), "speakers": int(sounds.manifest["group"].nunique()),
            "classes": len(sounds.labels), "epochs": sounds.epochs} | compared(rows) | {
            "accuracy_by_clip": interval_of_speakers(right), "by_partner": kinds, "partners": PARTNERS}


def study_synthetic(draws: int) -> list[dict]:
    "Synthetic sounds, by the number of clips that a recording gives."
    results = []
    for takes in TAKES:
        rows = []
        for seed in range(draws):
            sounds = synthetic(takes, seed)
            rows.append(both(sounds, seed)[0])
            print(f"synthetic, {takes} a recording, seed {seed}: {rows[-1]}", flush=True)
        counts = sounds.manifest.groupby("split").agg(clips=("label", "size"), recordings=("group", "nunique"))
        results.append({"clips_of_a_recording": takes, "epochs": sounds.epochs} | counts.to_dict() | compared(rows))
    return results


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--seeds", type=int, default=5, help="of the Deeply sample")
    arguments.add_argument("--draws", type=int, default=3, help="of each synthetic corpus")
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    started = process_time()
    with tempfile.TemporaryDirectory() as folder: real = study_deeply(Path(folder), chosen.seeds)
    result = {"corpus": "Deeply Nonverbal Vocalization sample (OpenSLR 99)", "folds": FOLDS, "settings": SETTINGS,
              "deeply": real, "synthetic": study_synthetic(chosen.draws)}
    write_json(RESULTS / "leak.json", result | {"cpu_seconds": round(process_time() - started, 1),
                                                "machine": machine(), "measured": date.today().isoformat()})


if __name__ == "__main__": main()
