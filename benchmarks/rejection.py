"""How well sounds of no trained class are told from known ones, and what a temperature does to the probabilities, on
real recordings: `python -m benchmarks.rejection`.

By turn, four of the sixteen classes of the Deeply sample are left out, a narrow residual network is cross-validated and
trained on the other twelve, and temperature and thresholds are set on its validation clips. Then come clips that it
never heard: of the fifth of the speakers set aside before all training the clips of known classes and those of the
classes left out, and the sounds of ESC-10 that no human makes. No setting was chosen by what came out."""
import argparse
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

import numpy as np
import pandas as pd
import torch

from benchmarks.common import RESULTS, deeply_recipe, machine, real_recordings
from nonspeech7k.data.bank import open_bank
from nonspeech7k.data.layouts import read_corpus
from nonspeech7k.data.manifest import paths
from nonspeech7k.data.splits import assign_folds, split_test
from nonspeech7k.evaluation.calibration import (
    calibrate_folds,
    calibration_bins,
    calibration_error,
    chance_error,
    confidences,
    risk_area,
    risk_coverage,
    temper,
    tempered_loss,
)
from nonspeech7k.evaluation.errors import effective_size, wilson_bounds
from nonspeech7k.evaluation.familiarity import SCORES, familiarity
from nonspeech7k.evaluation.metrics import judge
from nonspeech7k.evaluation.rejection import rejection_setting, weighted_fpr
from nonspeech7k.evaluation.uncertainty import clip_weights, weighted_auc
from nonspeech7k.files import write_json
from nonspeech7k.recipe import seed_for
from nonspeech7k.runs.building import learner_of, optimisation_of
from nonspeech7k.runs.corpus import read_recipe_corpus
from nonspeech7k.runs.features import moments_of
from nonspeech7k.training.crossval import Study, final_plan, fit_part, fold_parts
from nonspeech7k.training.devices import Resident, resident
from nonspeech7k.training.fit import predict_logits

ROUNDS, KEEP, RESAMPLES = 4, 0.95, 1000
HUMAN = ("crying_baby", "sneezing")  # of ESC-10: not foreign to a corpus of human sounds
SETTINGS = ["clip.rate=16000", "clip.seconds=4.0", "front_end.n_fft=1024", "front_end.hop_length=512",
            "front_end.n_mels=64", "network.channels=[16, 32, 64, 64]", "network.hidden=64", "train.epochs=12",
            "train.lr=2.0e-3", "train.schedule.kind=cosine", "train.schedule.warm_up=1",
            "augment.frequency_mask=8", "augment.time_mask=16"]


@dataclass(frozen=True)
class Sounds:
    "Decoded clips and what is known of them."
    clips: Resident
    manifest: pd.DataFrame  # with label and group


def decoded(corpus, manifest: pd.DataFrame, recipe, folder: Path) -> Sounds:
    bank, bad = open_bank(paths(corpus), recipe.clip.rate, recipe.clip.seconds, folder)
    assert not bad, bad
    return Sounds(resident(bank, torch.device("cpu")), manifest)


def read(folder: Path, epochs: int | None) -> tuple:
    "The recipe, the Deeply sample with its test speakers, and ESC-10's sounds that no human makes."
    recipe = deeply_recipe(SETTINGS + [f"train.epochs={epochs}"] * bool(epochs))
    root = real_recordings("esc10")
    if recipe is None or not root.is_dir():
        raise SystemExit("the Deeply sample and ESC-10 are not both here (NONSPEECH7K_DATA)")
    corpus, other = read_recipe_corpus(recipe), read_corpus(root, "esc50", where={"esc10": "TRUE"})
    manifest = split_test(corpus.manifest, "held_out", recipe.splits.test_share, seed_for(recipe.seed, "test split"))
    given = (corpus, manifest), (other, other.manifest)
    return recipe, *(decoded(*sounds, recipe, folder / "bank") for sounds in given)


def fits(recipe, sounds: Sounds, moments: torch.Tensor, known: list[str], folder: Path) -> tuple:
    "The final model of some classes, and its folds' logits for the clips that they were validated on."
    table = sounds.manifest
    usable = table.assign(split=table["split"].where(table["label"].isin(known), "left out"))
    usable = assign_folds(usable, "grouped", recipe.splits.folds, seed_for(recipe.seed, "folds"))
    targets = torch.tensor([known.index(label) if label in known else -1 for label in table["label"]])
    settings, histories, validated = optimisation_of(recipe), {}, []
    for part in fold_parts(usable):
        plan, rates = (settings, []) if part.number else final_plan(settings, list(histories.values()))
        study = Study(clips=sounds.clips, targets=targets, moments=moments,
                      build=lambda: learner_of(recipe, len(known), labels=known), settings=plan, seed=recipe.seed)
        model, histories[part.name] = fit_part(part, study, folder / f"{part.number}.state", rates)
        if part.number:
            fold = np.full(len(part.valid), part.number)
            validated.append((part.valid, fold, logits_of(model, sounds, part.valid)))
    rows, folds, logits = (np.concatenate(column) for column in zip(*validated))
    return model, targets.numpy(), (rows, folds, logits)


def logits_of(model, sounds: Sounds, rows: np.ndarray) -> np.ndarray:
    return predict_logits(model, sounds.clips, torch.from_numpy(rows), 64).double().numpy()


def one_round(recipe, deeply: Sounds, esc10: Sounds, moments: torch.Tensor, left_out: list[str], folder: Path) -> dict:
    "A network that never heard some classes: what it says about clips it knows, and about others."
    table, other = deeply.manifest, esc10.manifest
    known = sorted(set(table["label"]) - set(left_out))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        model, targets, (rows, folds, logits) = fits(recipe, deeply, moments, known, Path(place))
    calibration, scaled = calibrate_folds(targets[rows], logits, folds)
    temperature, groups = calibration["temperature"], table["group"].to_numpy()
    unheard, kept = table["split"] == "test", table["label"].isin(known)  # both sets: speakers without training clips
    test = np.flatnonzero(unheard & kept)
    parts = {"known": (deeply, test), "left_out": (deeply, np.flatnonzero(unheard & ~kept)),
             "esc10": (esc10, np.flatnonzero(~other["label"].isin(HUMAN)))}
    asked = {name: pd.DataFrame({"set": name, "label": of.manifest["label"].iloc[chosen],
                                 "group": f"{name == 'esc10'} " + of.manifest["group"].iloc[chosen].astype(str)})
             for name, (of, chosen) in parts.items()}
    answers = {name: logits_of(model, *part) for name, part in parts.items()}
    for score in SCORES:
        for name in parts: asked[name][score] = familiarity(answers[name] / temperature, score)
    return {"left_out": left_out, "known": known, "calibration": calibration,
            "settings": {score: rejection_setting(logits, temperature, score, KEEP) for score in SCORES},
            "validation": (targets[rows], temper(logits, 1.0), scaled, groups[rows]),
            "test": (targets[test], temper(answers["known"], 1.0), temper(answers["known"], temperature), groups[test]),
            "asked": pd.concat(asked.values(), ignore_index=True)}


# What the rounds say together

def middle(values: np.ndarray) -> list[float]: return np.nanquantile(values, [0.025, 0.975]).round(4).tolist()


def detection(rounds: list[dict], foreign: str) -> dict:
    "For each score the mean over rounds of AUROC and FPR95, with intervals; one draw of speakers for all rounds."
    tables = [each["asked"][each["asked"]["set"].isin(["known", foreign])] for each in rounds]
    groups = pd.concat(tables)["group"].to_numpy()
    ends = np.cumsum([len(table) for table in tables])[:-1]
    weights = np.split(clip_weights(groups, RESAMPLES), ends, axis=1)
    found = {"known": int(sum((table["set"] == "known").sum() for table in tables)),
             "foreign": int(sum((table["set"] == foreign).sum() for table in tables)), "groups": len(set(groups))}
    for score in SCORES:
        found[score] = {}
        for name, rate in (("auroc", weighted_auc), ("fpr95", weighted_fpr)):
            of_round = [(table["set"] == "known", table[score]) for table in tables]
            by_round = [float(rate(*pair, np.ones((1, len(table))))[0]) for pair, table in zip(of_round, tables)]
            drawn = np.mean([rate(*pair, part) for pair, part in zip(of_round, weights)], axis=0)
            found[score][name] = {"mean": round(float(np.mean(by_round)), 4), "ci95": middle(drawn),
                                  "by_round": np.round(by_round, 4).tolist()}
    return found


def at_threshold(rounds: list[dict]) -> dict:
    "The share of clips that get an answer at the thresholds set on validation, of each set and each class."
    tables = []
    for each in rounds:
        above = {score: each["asked"][score] >= each["settings"][score]["threshold"] for score in SCORES}
        tables.append(each["asked"].assign(**above))
    table, found = pd.concat(tables, ignore_index=True), {}
    for name, part in table.groupby("set", sort=False):
        weights = clip_weights(part["group"], RESAMPLES)
        found[name] = {"clips": len(part), "groups": int(part["group"].nunique())} | {
            score: {"answered": round(float(part[score].mean()), 4),
                    "ci95": middle(weights @ part[score] / weights.sum(1))} for score in SCORES}
        found[name]["by_class"] = {label: {"clips": len(rows)} | rows[list(SCORES)].mean().round(4).to_dict()
                                   for label, rows in part.groupby("label")}
    return found


def reliability(truth: np.ndarray, probabilities: np.ndarray, groups: np.ndarray) -> pd.DataFrame:
    "The bins of confidence, with Wilson's intervals for as many independent clips as their speakers are worth."
    bins, (sure, _) = calibration_bins(truth, probabilities), confidences(truth, probabilities)
    number = np.searchsorted(bins["low"], sure) - 1  # (low, high]
    sizes = [effective_size(groups[number == row]) for row in range(len(bins))]
    low, high = zip(*(wilson_bounds(share, size) for share, size in zip(bins["accuracy"], sizes)))
    assert (np.bincount(number) == bins["clips"]).all()
    return bins.assign(effective=sizes, accuracy_low=low, accuracy_high=high)


def calibrated(rounds: list[dict], part: str) -> dict:
    "The calibration of all rounds' clips together, before and after, with intervals over speakers."
    truth, before, after, groups = zip(*(each[part] for each in rounds))
    truth, groups, found = np.concatenate(truth), np.concatenate(groups), {}
    weights = clip_weights(groups, 200)
    for when, probabilities in (("before", np.concatenate(before)), ("after", np.concatenate(after))):
        curve = risk_coverage(truth, probabilities)
        found[when] = {"loss": round(tempered_loss(truth, np.log(probabilities.clip(1e-12)), 1.0), 4),
                       "confidence": round(float(probabilities.max(1).mean()), 4),
                       "accuracy": round(float((probabilities.argmax(1) == truth).mean()), 4),
                       "aurc": round(risk_area(curve), 4)}
        for kind in ("width", "mass"):
            drawn = [calibration_error(truth[rows], probabilities[rows], kind=kind)
                     for rows in (np.repeat(np.arange(len(truth)), row) for row in weights)]
            found[when][f"ece_{kind}"] = {"value": round(calibration_error(truth, probabilities, kind=kind), 4),
                                          "ci95": middle(np.array(drawn)),
                                          "by_chance": round(chance_error(probabilities, kind=kind), 4)}
        found[when]["bins"] = reliability(truth, probabilities, groups).round(4).to_dict("list")
        if part == "test": found[when]["risk"] = curve["risk"].round(4).tolist()  # the most certain clip first
    return {"clips": len(truth), "speakers": len(set(groups))} | found


def numbered_round(number: int, folder: Path, epochs: int | None) -> dict:
    "A round in a process of its own, on one thread."
    torch.set_num_threads(1)
    recipe, deeply, esc10 = read(folder, epochs)
    moments, labels = moments_of(learner_of(recipe, 2).front_end, deeply.clips), sorted(set(deeply.manifest["label"]))
    return one_round(recipe, deeply, esc10, moments, labels[number::ROUNDS], folder)


def cpu_seconds() -> float:
    "Of this process and of those that it has waited for."
    return sum(sum(getrusage(who)[:2]) for who in (RUSAGE_SELF, RUSAGE_CHILDREN))


def study(folder: Path, epochs: int | None, rounds: int, workers: int) -> dict:  # JSON-ready
    "Everything, with its counts."
    started, (recipe, *_) = cpu_seconds(), read(folder, epochs)  # the bank is there before the others look for it
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        done = list(pool.map(partial(numbered_round, folder=folder, epochs=epochs), range(rounds)))
    first = done[0]["asked"]
    return {"corpora": ["Deeply Nonverbal Vocalization sample (OpenSLR 99)", "ESC-10"], "seed": recipe.seed,
            "settings": SETTINGS, "epochs": recipe.train.epochs, "folds": recipe.splits.folds, "keep": KEEP,
            "not_foreign": list(HUMAN), "rounds": [
                {"left_out": each["left_out"], "settings": each["settings"], "calibration": each["calibration"],
                 "test": {key: judge(*each["test"][:1], each["test"][1], each["known"])[key]
                          for key in ("n", "accuracy", "macro_f1")}} for each in done],
            "detection": {name: detection(done, name) for name in ("left_out", "esc10")},
            "at_threshold": at_threshold(done),
            "calibration": {part: calibrated(done, part) for part in ("validation", "test")},
            "scores_of_first_round": {name: part[list(SCORES)].round(4).to_dict("list")
                                      for name, part in first.groupby("set", sort=False)},
            "cpu_seconds": round(cpu_seconds() - started, 1), "machine": machine(),
            "measured": date.today().isoformat()}


def table(result: dict) -> pd.DataFrame:
    "The detection in a table."
    interval = "{mean:.3f} ({ci95[0]:.3f} to {ci95[1]:.3f})".format
    return pd.DataFrame([{"foreign": foreign, "score": score, "known clips": found["known"],
                          "foreign clips": found["foreign"], "AUROC": interval(**found[score]["auroc"]),
                          "FPR95": interval(**found[score]["fpr95"])}
                         for foreign, found in result["detection"].items() for score in SCORES])


def main():
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--quick", action="store_true", help="one round of two epochs; writes nothing")
    arguments.add_argument("--workers", type=int, default=1, help="rounds side by side, each on one thread")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = study(Path(folder), *((2, 1) if chosen.quick else (None, ROUNDS)), chosen.workers)
    print(table(result).to_string(index=False))
    print(f"{result['cpu_seconds']:.0f} s of CPU")
    if not chosen.quick: write_json(RESULTS / "rejection.json", result)


if __name__ == "__main__": main()
