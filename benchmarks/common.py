"""What the benchmarks share: recordings to measure on, the library's calls put together, and figures with their spread."""
import os
import statistics
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter

import numpy as np
import soundfile
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from nonspeech7k.data.bank import open_bank
from nonspeech7k.data.manifest import paths
from nonspeech7k.data.splits import assign_folds, split_test
from nonspeech7k.models.kernels import kernels_status
from nonspeech7k.native import processor_flags
from nonspeech7k.recipe import Recipe, read_recipe, seed_for
from nonspeech7k.runs.building import learner_of, optimisation_of
from nonspeech7k.runs.corpus import read_recipe_corpus
from nonspeech7k.runs.features import moments_of
from nonspeech7k.training.crossval import Study, fit_part, fold_parts, median_rates
from nonspeech7k.training.devices import environment, resident
from nonspeech7k.training.fit import predict_logits

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

# Nonspeech7k as published: training clips, test clips, mean seconds
NONSPEECH7K = {"breath": (1690, 160, 3.79), "cough": (632, 70, 2.88), "crying": (1791, 205, 3.75),
               "laugh": (1133, 140, 3.46), "screaming": (593, 70, 3.28), "sneeze": (236, 30, 2.05),
               "yawn": (214, 50, 2.45)}

# A network and features that take next to no time; everything around them is as it always is.
TINY = ["clip.rate=16000", "clip.seconds=0.5", "front_end.n_fft=512", "front_end.hop_length=256",
        "front_end.n_mels=32", "augment.frequency_mask=4", "augment.time_mask=4",
        "network.channels=[2, 4, 4]", "network.hidden=8"]


# The library's calls

def split_corpus(recipe: Recipe):
    "A recipe's corpus as files, class numbers, and a manifest with split and fold."
    corpus = read_recipe_corpus(recipe)
    splits = recipe.splits
    manifest = split_test(corpus.manifest, splits.test, splits.test_share, seed_for(recipe.seed, "test split"))
    manifest = assign_folds(manifest, splits.kind, splits.folds, seed_for(recipe.seed, "folds"))
    return paths(corpus), [corpus.labels.index(label) for label in manifest["label"]], manifest


def study(files: list[Path], targets: list[int], manifest, classes: int, recipe: Recipe, folder: Path) -> dict:
    "All folds and the final model, judged on the test split: what `benchmarks.plain_loop.study` does, with the library."
    bank, bad = open_bank(files, recipe.clip.rate, recipe.clip.seconds, folder / "banks")
    assert not bad, bad
    clips, histories, parts = resident(bank, torch.device("cpu")), {}, fold_parts(manifest)
    measured = moments_of(learner_of(recipe, classes).front_end, clips)
    shared = Study(clips=clips, targets=torch.tensor(targets), moments=measured, build=lambda: learner_of(recipe, classes),
                   settings=optimisation_of(recipe), seed=recipe.seed)
    for part in parts:
        rates = () if part.number else median_rates(list(histories.values()))
        model, histories[part.name] = fit_part(part, shared, folder / f"{part.number}.state", rates)
    test = torch.from_numpy(np.flatnonzero(manifest["fold"].to_numpy() == 0))
    predicted = predict_logits(model, clips, test, recipe.train.batch_size).argmax(1)
    return {"histories": histories, "test_accuracy": float((predicted == torch.tensor(targets)[test]).double().mean())}


# Recordings

def real_recordings(corpus: str) -> Path:
    "Where 'deeply' or 'esc10' is: in NONSPEECH7K_DATA or beside this folder, else where the recipes look for it."
    root = Path(os.environ.get("NONSPEECH7K_DATA", ROOT.parent / "shared" / "data")) / corpus
    return root if root.is_dir() else ROOT / "data" / corpus


def deeply_recipe(changes: list[str] = ()) -> Recipe | None:
    "The recipe of the Deeply sample where its recordings are at hand, else None."
    root = Path(os.environ.get("NONSPEECH7K_DATA", ROOT.parent / "shared" / "data")) / "deeply"
    return read_recipe(ROOT / "recipes" / "deeply.yaml", [f"corpus.root={root}", *changes]) if root.is_dir() else None


def write_noise(folder: Path, clips: int, rate: int, seconds: float, classes: int = 7, seed: int = 0) -> list[Path]:
    "That many different WAV files of 16-bit noise, one folder a class; those that are there already stay."
    files = [folder / f"class{number % classes}" / f"{number:05}.wav" for number in range(clips)]
    length = round(rate * seconds)
    for number, file in enumerate(files):
        if file.exists(): continue
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng([seed, number]).integers(-3000, 3000, length, dtype=np.int16)
        soundfile.write(file, noise, rate)
    return files


# Figures

@dataclass(frozen=True)
class Figure:
    "One thing that was measured, a value for each run."
    name: str
    what: str  # a line of the table
    unit: str
    values: tuple[float, ...]
    target: float | None = None
    at_least: bool = True  # whether more is better
    note: str = ""

    def record(self, revision: str | None) -> dict:  # JSON-ready
        median = statistics.median(self.values)
        reached = None if self.target is None else bool((median >= self.target) == self.at_least or median == self.target)
        return {"what": self.what, "unit": self.unit, "median": _short(median), "min": _short(min(self.values)),
                "max": _short(max(self.values)), "runs": len(self.values),
                "values": [_short(value) for value in self.values], "target": self.target, "at_least": self.at_least,
                "reached": reached, "note": self.note, "revision": revision, "measured": date.today().isoformat()}


def _short(value: float) -> float:
    "Four significant digits; no clock here gives more."
    return float(f"{float(value):.4g}")


def seconds(action: Callable[[], object]) -> float:
    start = perf_counter()
    action()
    return perf_counter() - start


def seconds_of_steps(action: Callable[[], object]) -> float:
    "Seconds from an action's start to the end of its last optimiser step: what is kept of an epoch comes after it."
    steps = []
    hook = register_optimizer_step_post_hook(lambda *_: steps.append(perf_counter()))
    start = perf_counter()
    try: action()
    finally: hook.remove()
    return steps[-1] - start


def alternate(actions: dict[str, Callable[[], object]], runs: int, warm: bool = True,
              clock: Callable = seconds, apart: tuple[str, ...] = ()) -> dict[str, list[float]]:
    """Seconds of each action, taken in turn, so that a busy moment of the machine meets all of them alike.

    Those named in `apart` run in a process of their own, which nothing that the library sets in this one can reach;
    they must be picklable."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        def take(name: str, clock: Callable) -> float:
            return process.submit(clock, actions[name]).result() if name in apart else clock(actions[name])
        if warm:
            for name in actions: take(name, seconds)
        taken = {name: [] for name in actions}
        for _ in range(runs):
            for name in actions: taken[name].append(take(name, clock))
    return taken


def machine(device: torch.device | str = "cpu") -> dict:  # JSON-ready
    "The machine, the versions and the revision that figures belong to."
    known = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return environment(torch.device(device)) | {"instructions": [flag for flag in known if flag in processor_flags()],
                                                "memory_gib": round(memory, 1),
                                                "kernels": kernels_status(device=torch.device(device))}
