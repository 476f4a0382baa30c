"""How many examples does one need? Macro-F1 against clips a class, for S1's network from nothing, a head on YAMNet's layers and one
on its last layer alone, YAMNet trained whole, and the mean of the first and the last of these, on real recordings.

    python -m benchmarks.examples                              # both corpora; goes on where it was stopped
    python -m benchmarks.examples --corpus deeply --clips 10   # a part

A draw leaves one fold of five out (by speaker, or ESC-10's own), takes so many clips of each class from the others (a class that has
fewer gives all; the 5 are among the 10, those among the 20), trains on them to the last epoch, and is judged on the whole fold left
out, of which nothing else makes use. Every way to learn gets the same clips, and its settings stood before. What was answered for each
clip is kept in `results/examples.json`, so that differences can be paired."""
import argparse
import os
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import f1_score

from benchmarks.common import RESULTS, ROOT, machine, real_recordings, split_corpus
from nonspeech7k.data.bank import open_bank
from nonspeech7k.files import read_json, write_json
from nonspeech7k.recipe import Recipe, read_recipe, seed_for
from nonspeech7k.runs.building import learner_of, optimisation_of
from nonspeech7k.runs.descriptions import kept_descriptions
from nonspeech7k.runs.features import moments_of
from nonspeech7k.training.crossval import FoldPart, Study, drawn, fit_part
from nonspeech7k.training.devices import Resident, resident
from nonspeech7k.training.fit import predict_logits

PLACE = RESULTS / "examples.json"
CLIPS = (10, 20, 5, 40)  # a class, the most telling first
CORPORA = {"deeply": ["splits={test: none, folds: 5, kind: grouped}"], "esc10": []}
TUNED = ["train.trains=all", "train.head=gradient", "train.epochs=24", "train.lr=2.0e-3", "train.body_rate=0.2", "train.weight_decay=0.01",
         "train.schedule={kind: one_cycle}", "train.loss={kind: cross_entropy, smoothing: 0.1}", "train.ema=0.99", "augment.mixup=0.3",
         "augment.frequency_mask=8", "augment.time_mask=20"]
YAMNET = ["front_end={kind: yamnet}", "network={kind: yamnet}", "augment={frequency_mask: 0, time_mask: 0}"]
SOLVED = ["train.epochs=1", "train.trains=head", "train.head=logistic"]
WAYS = {  # changes of the corpus's own recipe, which trains S1's network
    "frozen": [*YAMNET, *SOLVED],
    "last": [*YAMNET, "network.layers=last", *SOLVED],
    "scratch": ["train.schedule={kind: cosine}"],
    "tuned": [*YAMNET, *TUNED]}


@dataclass(frozen=True)
class Heard:
    "A corpus that is ready to be learned from."
    recipe: Recipe
    clips: Resident
    manifest: pd.DataFrame  # with fold
    targets: torch.Tensor  # (clips,) class numbers
    classes: int
    banks: Path


def recipe_of(corpus: str, changes: list[str] = ()) -> Recipe:
    "The corpus's own recipe, with changes."
    return read_recipe(ROOT / "recipes" / f"{corpus}.yaml", [f"corpus.root={real_recordings(corpus)}", *CORPORA[corpus], *changes])


def heard(corpus: str, banks: Path) -> Heard:
    "A corpus, decoded and divided into folds."
    recipe = recipe_of(corpus)
    files, targets, manifest = split_corpus(recipe)
    bank, bad = open_bank(files, recipe.clip.rate, recipe.clip.seconds, banks)
    assert not bad, bad
    return Heard(recipe, resident(bank, torch.device("cpu")), manifest, torch.tensor(targets), max(targets) + 1, banks)


def study_of(corpus: Heard, way: str, seed: int) -> Study:
    "What all fits of one way to learn share."
    recipe = recipe_of(corpus.recipe.name, [*WAYS[way], f"seed={seed}"])
    build = partial(learner_of, recipe, corpus.classes)
    names = [f"{corpus.recipe.name}/{path}" for path in corpus.manifest["path"]]  # in the place of digests: the recordings stay as they are
    said = kept_descriptions(recipe, drawn(build, seed), corpus.clips, names, corpus.banks) if recipe.train.trains == "head" else None
    return Study(clips=corpus.clips, targets=corpus.targets, moments=moments_of(build().front_end, corpus.clips), build=build,
                 settings=optimisation_of(recipe), seed=seed, described=said, groups=corpus.manifest["group"].to_numpy())


def chosen(corpus: Heard, fold: int, clips: int, seed: int) -> np.ndarray:
    "The clips that a draw trains on: so many of each class outside the fold, in the manifest's order."
    number = corpus.manifest["fold"].to_numpy()
    order = np.random.default_rng(seed_for(seed, "examples", fold)).permutation(len(number))
    kept = [order[(number[order] != fold) & (corpus.targets.numpy()[order] == label)][:clips] for label in range(corpus.classes)]
    return np.sort(np.concatenate(kept))


def answered(study: Study, train: np.ndarray, judged: np.ndarray, folder: Path) -> tuple[torch.Tensor, float]:
    "Logits (clips, classes) for the judged clips, and the seconds that the training took."
    state = folder / "fit.state"
    state.unlink(missing_ok=True)
    start = perf_counter()
    learner, _ = fit_part(FoldPart("final", 0, train, np.array([], dtype=np.int64)), study, state)
    took = perf_counter() - start
    return predict_logits(learner, study.clips, torch.from_numpy(judged), 64), took


def row(answers: np.ndarray, truth: np.ndarray, **about) -> dict:
    "One draw's scores and answers."
    macro = f1_score(truth, answers, average="macro", labels=np.unique(truth), zero_division=0)
    return about | {"macro_f1": round(float(macro), 4), "accuracy": round(float((answers == truth).mean()), 4), "answers": "".join(chr(97 + answer) for answer in answers)}


def one_draw(corpus: Heard, studies: dict[str, Study], name: str, clips: int, fold: int, seed: int, folder: Path) -> list[dict]:
    "Every way to learn, on the same clips."
    train, judged = chosen(corpus, fold, clips, seed), np.flatnonzero(corpus.manifest["fold"] == fold)
    truth, said, rows = corpus.targets.numpy()[judged], {}, []
    about = {"corpus": name, "clips_a_class": clips, "fold": fold, "seed": seed, "trained_on": len(train)}
    for way, study in studies.items():
        logits, took = answered(study, train, judged, folder)
        said[way] = logits.softmax(1)
        rows.append(row(logits.argmax(1).numpy(), truth, way=way, seconds=round(took, 1), **about))
        print({key: value for key, value in rows[-1].items() if key != "answers"}, flush=True)
    if {"scratch", "tuned"} <= said.keys():
        rows.append(row((said["scratch"] + said["tuned"]).argmax(1).numpy(), truth, way="together", seconds=None, **about))
        print(rows[-1]["macro_f1"], "together", flush=True)
    return rows


def measure(name: str, sizes: list[int], ways: list[str], seed: int, folder: Path, known: dict):
    "All draws of a corpus that are not there yet; each is kept at once."
    corpus = heard(name, folder / "banks")
    known["groups"] |= {name: {str(fold): pd.factorize(corpus.manifest.loc[corpus.manifest["fold"] == fold, "group"])[0].tolist() for fold in range(1, 6)}}
    known["truth"] |= {name: {str(fold): "".join(chr(97 + label) for label in corpus.targets.numpy()[corpus.manifest["fold"] == fold]) for fold in range(1, 6)}}
    studies = {way: study_of(corpus, way, seed) for way in ways}
    key = lambda found: (found["corpus"], found["clips_a_class"], found["fold"], found["seed"], found["way"])
    for clips in sizes:
        for fold in range(1, 6):
            if all((name, clips, fold, seed, way) in map(key, known["draws"]) for way in ways): continue
            rows = one_draw(corpus, studies, name, clips, fold, seed, folder)
            kept = {key(found): found for found in [*known["draws"], *rows]}
            known |= {"machine": machine(), "draws": list(kept.values())}
            write_json(PLACE, known)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--corpus", nargs="*", choices=list(CORPORA), default=list(CORPORA))
    words.add_argument("--clips", nargs="*", type=int, choices=CLIPS, default=list(CLIPS), help="of each class")
    words.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    words.add_argument("--seed", type=int, default=42)
    given = words.parse_args()
    os.environ["NONSPEECH7K_PROGRESS"] = "off"
    known = read_json(PLACE) if PLACE.exists() else {"truth": {}, "groups": {}, "draws": []}
    with tempfile.TemporaryDirectory() as scratch:
        for name in given.corpus: measure(name, given.clips, given.ways, given.seed, Path(scratch), known)


if __name__ == "__main__": main()
