"""The speeds that the README states, measured on this machine's CPU: `make bench`, or `python -m benchmarks.cpu --only bank start`.

Whatever is compared runs in turn, in this process or in processes that it starts; a figure is the median of
its runs, and the smallest and largest stand beside it. Nothing is compared with a number from another machine."""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain_loop
from benchmarks.common import (
    RESULTS,
    ROOT,
    TINY,
    Figure,
    alternate,
    deeply_recipe,
    learner_of,
    machine,
    moments_of,
    optimisation_of,
    seconds,
    seconds_of_steps,
    split_corpus,
    study,
    write_noise,
)
from benchmarks.table import table
from nonspeech7k.data.bank import open_bank
from nonspeech7k.data.synthesis import write_demo
from nonspeech7k.features.spectrograms import standardise
from nonspeech7k.files import read_json, write_json
from nonspeech7k.inference.classifier import Classifier, describe, for_inference, load_classifier, save_classifier
from nonspeech7k.recipe import Recipe, read_recipe
from nonspeech7k.training.devices import resident
from nonspeech7k.training.fit import Plan, fit


@dataclass(frozen=True)
class Bench:
    "Where and how much is measured."
    folder: Path  # for corpora and banks, about 6 GB
    runs: int = 5
    quick: bool = False  # everything tiny: shows that it works, and measures nothing

    def recipe(self, *changes: str) -> Recipe:
        return read_recipe(ROOT / "recipes" / "nonspeech7k.yaml", [*(TINY if self.quick else []), *changes])

    @cached_property
    def demo(self) -> tuple[list[Path], list[int]]:
        "Four batches of synthetic clips at the recipe's rate, and their class numbers."
        root = write_demo(self.folder / "demo", seed=1, train=128, test=14, rate=self.recipe().clip.rate)
        files, targets, manifest = split_corpus(self.recipe(f"corpus.root={root}"))
        train = np.flatnonzero(manifest["split"] == "train")[:64 if self.quick else 128]
        return [files[index] for index in train], [targets[index] for index in train]

    @cached_property
    def whole(self) -> list[str]:
        "Changes of the recipe that make it one of as many clips as Nonspeech7k has, of noise, in files."
        clip = self.recipe().clip
        write_noise(self.folder / "whole", 70 if self.quick else 7014, clip.rate, clip.seconds)
        return [*(TINY if self.quick else []), f"corpus.root={self.folder / 'whole'}", "corpus.layout=folders",
                "splits.test=none", "splits.kind=stratified", f"banks={self.folder / 'banks'}"]

    def bank(self, files: list[Path], recipe: Recipe, name: str):
        bank, bad = open_bank(files, recipe.clip.rate, recipe.clip.seconds, self.folder / "banks" / name)
        assert not bad, bad
        return bank


# Training

def training(bench: Bench) -> list[Figure]:
    "An epoch of S1 over the same few batches of clips, with all that either way needs for it."
    recipe, (files, targets) = bench.recipe("train.epochs=1"), bench.demo
    clips, classes = resident(bench.bank(files, recipe, "training"), torch.device("cpu")), max(targets) + 1
    everything, nothing = torch.arange(len(files)), torch.tensor([], dtype=torch.long)
    measured = moments_of(learner_of(recipe, classes).front_end, clips)

    def library():
        model, state = learner_of(recipe, classes), bench.folder / "training.state"
        standardise(model.front_end, measured)
        fit(Plan(learner=model, clips=clips, targets=torch.tensor(targets), train=everything, valid=nothing,
                 settings=optimisation_of(recipe), seed=1, state_path=state, learning_rates=[1e-3]))
        state.unlink()

    plain = partial(plain_loop.train_part, files, targets, measured.numpy(), everything.numpy(), nothing.numpy(), classes,
                    recipe)
    taken = alternate({"plain": plain, "library": library}, bench.runs, clock=seconds_of_steps, apart=("plain",))
    return ratio_figures("training", "S1 training, clips/s over the plain loop", "S1 training", taken, len(files), 4)


def ratio_figures(name: str, what: str, short: str, taken: dict[str, list[float]], clips: int,
                  target: float) -> list[Figure]:
    "How many times faster the library is, run for run, and both rates."
    plain, library = (np.array(taken[key]) for key in ("plain", "library"))
    rates = {"library": clips / library, "plain loop": clips / plain}
    return [Figure(name, what, "×", tuple(plain / library), target)] + [
        Figure(f"{name}, {key}", f"{short}, {key}", "clips/s", tuple(rate)) for key, rate in rates.items()]


def whole_study(bench: Bench, rate: int = 32_000) -> list[Figure]:
    "Three folds and the final model on the Deeply sample, from files to the test split's accuracy, one epoch each."
    recipe = deeply_recipe(["train.epochs=1", f"clip.rate={rate}", *(TINY if bench.quick else [])])
    if not recipe:
        print("study: no recordings of the Deeply sample here (NONSPEECH7K_DATA); left out", file=sys.stderr)
        return []
    files, targets, manifest = split_corpus(recipe)
    classes, fold, folder = max(targets) + 1, manifest["fold"].to_numpy(), bench.folder / "study"

    def library():
        shutil.rmtree(folder, ignore_errors=True)
        study(files, targets, manifest, classes, recipe, folder)

    plain = partial(plain_loop.study, files, targets, fold, classes, recipe)
    trained = sum(int(((fold > 0) & (fold != number)).sum()) for number in sorted(set(fold)))
    taken = alternate({"plain": plain, "library": library}, bench.runs, warm=False, apart=("plain",))
    sounds = f"`deeply` at {rate // 1000} kHz"
    return ratio_figures(f"study {rate // 1000} kHz", f"a whole S1 study on {sounds}, wall time, over the plain loop",
                         f"S1 study on {sounds}, trained clips over all its time", taken, trained, 5)


# Parts

def banks(bench: Bench) -> list[Figure]:
    "Files to a clip bank: read, decoded, resampled where needed, written."
    clip, clips, figures = bench.recipe().clip, 20 if bench.quick else 1000, []
    for rate, words, target in ((clip.rate, "the recipe's rate", 2000), (44_100, "44.1 kHz", 600)):
        files = write_noise(bench.folder / f"wav{rate}", clips, rate, clip.seconds, seed=rate)
        taken = []
        for _ in range(bench.runs):
            taken.append(seconds(lambda: bench.bank(files, bench.recipe(), "fresh")))
            shutil.rmtree(bench.folder / "banks" / "fresh")
        figures.append(Figure(f"bank, {words}", f"clip bank from WAV at {words}", "clips/s",
                              tuple(clips / value for value in taken), target))
    return figures


def noise(recipe: Recipe, batch: int) -> torch.Tensor:
    samples = round(recipe.clip.rate * recipe.clip.seconds)
    return 0.1 * torch.randn(batch, samples, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def front_end(bench: Bench) -> list[Figure]:
    "A batch of waveforms to features; and the same batch through nothing but the FFT and the matrix product."
    recipe, batch = bench.recipe(), 64
    module, waveforms = learner_of(recipe, 7).front_end, noise(bench.recipe(), batch)
    part, window = recipe.front_end, torch.hann_window(recipe.front_end.n_fft)
    padded = torch.nn.functional.pad(waveforms, (part.n_fft // 2, part.n_fft // 2), mode="reflect")
    frames = (padded.unfold(1, part.n_fft, part.hop_length) * window).contiguous()
    power = torch.fft.rfft(frames).abs().square().flatten(0, 1)
    filters = torch.rand(power.shape[1], part.n_mels)
    # the FFT in parts, which stay in the cache: quicker than the whole batch at once
    actions = {"front end": lambda: module(waveforms), "FFT": lambda: [torch.fft.rfft(part) for part in frames.split(8)],
               "product": lambda: power @ filters}
    taken = {name: np.array(values) for name, values in alternate(actions, 3 * bench.runs).items()}
    alone = taken["FFT"] + taken["product"]
    return [Figure("front end", f"front end, batch of {batch} clips of {recipe.clip.seconds:g} s", "clips/s",
                   tuple(batch / taken["front end"]), 700),
            Figure("front end, ratio", "its time over that of the FFT and the matrix product alone", "×",
                   tuple(taken["front end"] / alone), 1.3, at_least=False)]


def fresh_classifier(recipe: Recipe, path: Path) -> Path:
    "The file of an untrained classifier of seven classes."
    model = learner_of(recipe, 7)
    standardise(model.front_end, torch.tensor([[-18.62, 18.62**2 + 18.81**2]]))
    whole = Classifier(model.front_end, model.network, describe(list("abcdefg"), recipe.model_dump()))
    return save_classifier(whole, path)


def classifier(bench: Bench) -> list[Figure]:
    "Raw waveforms to probabilities, in batches."
    recipe, batch = bench.recipe(), 64
    judge = for_inference(load_classifier(fresh_classifier(recipe, bench.folder / "fresh.safetensors")))
    waveforms = noise(recipe, batch)
    taken = alternate({"judge": lambda: judge.probabilities(waveforms)}, 2 * bench.runs)["judge"]
    rate = tuple(batch / value for value in taken)
    return [Figure("classifier", f"classifier, raw waveform to label, batches of {batch}", "clips/s", rate, 250),
            Figure("classifier, real time", "the same, in seconds of sound a second", "s/s",
                   tuple(value * recipe.clip.seconds for value in rate))]


# Whole processes

def environment_of_child() -> dict:
    return os.environ | {"NONSPEECH7K_PROGRESS": "off"}


def child(*arguments: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "benchmarks.child", *map(str, arguments)], cwd=ROOT,
                            env=environment_of_child(), stdout=subprocess.PIPE, text=True)


def private_memory(process: int) -> int:  # bytes; 0 where it has ended
    "What a process holds for itself, without files that it has mapped."
    try: lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError: return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def memory(bench: Bench) -> list[Figure]:
    "The most private memory of a study of as many clips as Nonspeech7k has, from building its bank to judging."
    if not Path("/proc/self/status").exists():
        print("memory: this system does not say what a process holds; left out", file=sys.stderr)
        return []
    peaks = []
    for number in range(1 if bench.quick else min(3, bench.runs)):
        changes, banks = bench.whole, bench.folder / "banks"
        folder = bench.folder / f"memory{number}"
        for left in (banks, folder): shutil.rmtree(left, ignore_errors=True)
        process, most = child("memory", folder, *changes), 0
        while process.poll() is None:
            most = max(most, private_memory(process.pid))
            time.sleep(0.02)
        assert process.returncode == 0, "the memory benchmark's process failed"
        peaks.append(most / 1e9)
    return [Figure("memory", "memory of a 7,014-clip study beyond the bank's mapping", "GB", tuple(peaks), 2, False)]


def second_run(bench: Bench) -> list[Figure]:
    "To the first step of training on a corpus of which the bank exists: from a process's start, and in one that goes on."
    changes, taken = bench.whole, []
    for number in range(bench.runs + 1):
        folder = bench.folder / f"second{number}"
        shutil.rmtree(folder, ignore_errors=True)
        start = time.time()
        reached, again = map(float, child("first_step", folder, *changes).communicate()[0].split()[-2:])
        taken.append((reached - start, again))
        shutil.rmtree(folder)
    fresh, again = zip(*taken[1:])
    return [Figure("second run", "second run on 7,014 known clips: process start to first training step", "s",
                   fresh, 3, at_least=False),
            Figure("second run, same process", "second run in a process that has run before: call to first training step", "s",
                   again, 3, at_least=False)]


def start(bench: Bench) -> list[Figure]:
    "Import, help and a first prediction, each in a fresh process."
    model, sound = fresh_classifier(bench.recipe(), bench.folder / "start.safetensors"), bench.demo[0][0]
    program = [sys.executable, "-c", "import sys; from nonspeech7k.cli import main; sys.exit(main())"]
    commands = {"`import nonspeech7k`": ([sys.executable, "-c", "import nonspeech7k"], 0.1),
                "`nonspeech7k --help`": ([*program, "--help"], 0.4),
                "first `predict` of one file": ([*program, "predict", str(model), str(sound)], 4)}

    def run(command):
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment_of_child())
    taken = alternate({name: (lambda command=command: run(command)) for name, (command, _) in commands.items()},
                      bench.runs)
    return [Figure(f"start, {name}", f"{name}, a fresh process", "s", tuple(taken[name]), target, at_least=False)
            for name, (_, target) in commands.items()]


def linear(bench: Bench) -> list[Figure]:
    "What a clip costs in corpora of growing size: bank, features, and an epoch of a tiny network."
    sizes = (64, 128) if bench.quick else (1000, 2000, 4000, 8000)
    recipe = bench.recipe(*TINY, "train.epochs=1", "train.batch_size=64")
    files = write_noise(bench.folder / "linear", sizes[-1], recipe.clip.rate, recipe.clip.seconds, seed=1)
    nothing, folder = torch.tensor([], dtype=torch.long), bench.folder / "banks" / "linear"

    def go(count: int):
        shutil.rmtree(folder, ignore_errors=True)
        clips = resident(bench.bank(files[:count], recipe, "linear"), torch.device("cpu"))
        model, state = learner_of(recipe, 7), bench.folder / "linear.state"
        standardise(model.front_end, moments_of(model.front_end, clips))
        fit(Plan(learner=model, clips=clips, targets=torch.arange(count) % 7, train=torch.arange(count), valid=nothing,
                 settings=optimisation_of(recipe), seed=1, state_path=state, learning_rates=[1e-3]))
        state.unlink()

    taken = alternate({str(size): (lambda size=size: go(size)) for size in sizes}, bench.runs)
    cost = {size: 1000 * np.array(taken[str(size)]) / size for size in sizes}
    few, many = sizes[0], sizes[-1]
    figures = [Figure("linear", f"cost of a clip among {many:,} over that among {few:,}, tiny network", "×",
                      tuple(cost[many] / cost[few]), 1.1, at_least=False)]
    return figures + [Figure(f"linear, {size:,}", f"cost of a clip among {size:,}, tiny network", "ms",
                             tuple(cost[size])) for size in sizes]


GROUPS = {"training": training, "study": whole_study, "study_16k": partial(whole_study, rate=16_000), "bank": banks,
          "front_end": front_end, "classifier": classifier, "memory": memory, "start": start, "linear": linear,
          "second_run": second_run}


def measure(bench: Bench, names: list[str]) -> dict:  # JSON-ready
    "The machine and the figures of these groups."
    about, figures = machine(), {}
    for name in names:
        begun = time.perf_counter()
        for figure in GROUPS[name](bench):
            figures[figure.name] = figure.record(about["revision"])
            print(f"{figure.name}: {figures[figure.name]['median']:g} {figure.unit}", file=sys.stderr, flush=True)
        print(f"-- {name}: {time.perf_counter() - begun:.0f} s", file=sys.stderr, flush=True)
    return {"machine": about, "figures": figures}


def joined(before: dict, now: dict) -> dict:
    "New figures in the place of old ones; old ones of another machine or other versions are dropped."
    def same(results):
        return {key: value for key, value in results["machine"].items() if key != "revision"}
    kept = before["figures"] if before and same(before) == same(now) else {}
    return now | {"figures": kept | now["figures"]}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cpu", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=GROUPS, metavar="NAME", default=list(GROUPS),
                        help=f"some of: {', '.join(GROUPS)}")
    parser.add_argument("--runs", type=int, default=5, help="of each thing compared")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything works")
    parser.add_argument("--out", type=Path, help="JSON file; default benchmarks/results/cpu.json, with --quick none")
    parser.add_argument("--scratch", type=Path, help="folder for corpora and banks, kept; default a temporary one")
    given = parser.parse_args(arguments)
    os.environ["NONSPEECH7K_PROGRESS"] = "off"
    with tempfile.TemporaryDirectory(prefix="nonspeech7k-bench-") as folder:
        if given.scratch: given.scratch.mkdir(parents=True, exist_ok=True)
        results = measure(Bench(given.scratch or Path(folder), given.runs, given.quick), given.only)
    out = given.out or (None if given.quick else RESULTS / "cpu.json")
    if out:
        results = joined(read_json(out) if out.exists() else {}, results)
        write_json(out, results)
    print(table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
