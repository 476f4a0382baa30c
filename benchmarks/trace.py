"""A picture of where one training step on the CPU spends its time, the plain loop's beside the library's: `python -m benchmarks.trace`."""
import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import plain_loop
from benchmarks.common import RESULTS, learner_of, machine, moments_of, optimisation_of
from benchmarks.cpu import Bench
from benchmarks.table import machine_line
from nonspeech7k import native
from nonspeech7k.features import spectrograms
from nonspeech7k.features.spectrograms import standardise
from nonspeech7k.files import write_bytes
from nonspeech7k.models import winograd
from nonspeech7k.training import fit as fit_module
from nonspeech7k.training.devices import resident

# Parts of a step, and what operators that belong to them have in their names; the first that fits counts. "own " stands
# before the names of the library's own kernels, which take several of PyTorch's operators at once.
PARTS = {"reading files": ("dataloader",),
         "convolution, backward": ("convolution_backward", "own convolve_back", "own first_back", "own shortcut_back",
                                   "own weights_back"),
         "convolution, forward": ("conv", "own first_forward", "own shortcut", "own weights"),
         "batch norm, backward": ("batch_norm_backward",), "batch norm, forward": ("batch_norm", "moments"),
         "rectifier and pooling": ("threshold", "relu", "clamp_min", "max_pool", "avg_pool", "own join", "own pool"),
         "Fourier transform": ("fft", "stft", "own band_powers"),
         "matrix products": ("mm", "matmul", "linear"),
         "random numbers": ("normal", "rand", "uniform", "bernoulli"),
         "optimiser and gradient norm": ("adam", "foreach", "addcdiv", "addcmul", "lerp", "norm", "sqrt"),
         "copies and layout": ("copy", "clone", "contiguous", "cat", "stack", "roll", "index", "pad", "fill", "zero")}
REST = "everything else"


def part_of(operator: str) -> str:
    return next((part for part, words in PARTS.items() if any(word in operator.lower() for word in words)), REST)


@contextmanager
def only_steps() -> Iterator:
    "A `with` in which a fit keeps no state on disk, and the library's own kernels are seen by the profiler."
    def named(kernel, *values):
        with record_function(f"own {kernel}"): return call(kernel, *values)
    call = native.call
    with (patch.object(fit_module, "save_state", lambda *_: None), patch.object(winograd, "call", named),
          patch.object(spectrograms, "call", named)): yield


def times(epoch: Callable[[], object], batches: int) -> dict[str, float]:  # ms a step
    "Milliseconds of a step in each part, by the profiler's own time of each operator; what is outside of all is the rest."
    epoch()
    with profile(activities=[ProfilerActivity.CPU], acc_events=True) as trace, record_function("all steps"): epoch()
    spent = dict.fromkeys([*PARTS, REST], 0.0)
    for event in trace.key_averages(): spent[part_of(event.key)] += event.self_cpu_time_total / 1000 / batches
    return spent


def epochs(bench: Bench) -> dict[str, Callable[[], object]]:
    "A few batches through each of the two, from where the clips lie to the changed weights."
    recipe, (files, targets) = bench.recipe("train.epochs=1"), bench.demo
    size, classes = recipe.train.batch_size, max(targets) + 1
    clips, everything = resident(bench.bank(files, recipe, "trace"), torch.device("cpu")), torch.arange(len(files))
    moments = moments_of(learner_of(recipe, classes).front_end, clips)

    def library():
        model = learner_of(recipe, classes)
        standardise(model.front_end, moments)
        with only_steps():
            fit_module.fit(fit_module.Plan(
                learner=model, clips=clips, targets=torch.tensor(targets), train=everything, valid=everything[:0],
                settings=optimisation_of(recipe), seed=1, state_path=bench.folder / "none.state", learning_rates=[1e-3]))

    dataset = plain_loop.ClipDataset(files, targets, recipe, *plain_loop.mean_and_deviation(moments.numpy()),
                                     plain_loop.Augmentation(recipe))
    loader = torch.utils.data.DataLoader(dataset, batch_size=size, shuffle=True)

    def plain():
        network = plain_loop.ResidualCNN(classes, recipe.network.channels, recipe.network.hidden, recipe.network.dropout)
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.train.lr, weight_decay=recipe.train.weight_decay)
        plain_loop.train_epoch(network, loader, nn.CrossEntropyLoss(), optimiser, recipe.train.clip_norm)
    return {"plain loop, loading in the same process": plain, "library": library}


def draw(spent: dict[str, dict[str, float]], clips: int, about: str) -> Figure:
    "Bars of milliseconds, a colour for each of the two, the largest part first."
    parts = sorted([*PARTS, REST], key=lambda part: max(values[part] for values in spent.values()))
    parts = [part for part in parts if max(values[part] for values in spent.values()) >= 1]
    figure = Figure(figsize=(8.5, 4.6), layout="constrained")
    axes, height = figure.subplots(), 0.8 / len(spent)
    for number, ((name, values), colour) in enumerate(zip(spent.items(), ("#949494", "#0173b2"))):
        total = sum(values.values())
        places = np.arange(len(parts)) + 0.4 - (number + 0.5) * height
        bars = axes.barh(places, [values[part] for part in parts], height, color=colour,
                         label=f"{name}: {total:,.0f} ms, {1000 * clips / total:.1f} clips/s")
        axes.bar_label(bars, fmt="%.0f", padding=2, fontsize=8)
    axes.set_yticks(np.arange(len(parts)), parts)
    axes.margins(x=0.08)
    axes.set_xlabel("time of one training step (ms, on all cores)")
    axes.set_title(f"One step of S1, {clips} clips\n" + about.replace(", Python", ",\nPython"), fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False, fontsize=8)
    return figure


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.trace", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that it works")
    parser.add_argument("--scratch", type=Path, help="folder of the clips, kept; default a temporary one")
    parser.add_argument("--out", type=Path, default=RESULTS / "step_cpu.png")
    given = parser.parse_args(arguments)
    os.environ["NONSPEECH7K_PROGRESS"] = "off"
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(given.scratch or Path(folder), quick=given.quick)
        size = bench.recipe().train.batch_size
        spent = {name: times(epoch, len(bench.demo[0]) // size) for name, epoch in epochs(bench).items()}
    for name, values in spent.items():
        print(name, *(f"  {part}: {value:.1f} ms" for part, value in values.items()), sep="\n", file=sys.stderr)
    with tempfile.TemporaryFile() as file:
        draw(spent, size, machine_line(machine())).savefig(file, format="png", dpi=100)
        file.seek(0)
        write_bytes(given.out, file.read())
    return 0


if __name__ == "__main__":
    sys.exit(main())
