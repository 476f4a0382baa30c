"""The S1 study at full size on whatever device there is: `python -m benchmarks.study`, shortened with `--epochs` and `--share`.

6,289 + 725 clips with Nonspeech7k's own class counts and durations, synthetic content, 3 folds and a final fit of 50 epochs
each. Before it trains, it measures what the device can do at best (matrix products, copies) and computes from the
network's layers how long the study would take at that: the floor. Scores on this content mean nothing."""
import argparse
import os
import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import torch
from torch import nn

from benchmarks import plain_loop
from benchmarks.common import NONSPEECH7K, RESULTS, ROOT, learner_of, machine, moments_of, optimisation_of
from nonspeech7k.data.splits import assign_folds
from nonspeech7k.files import write_json
from nonspeech7k.recipe import Recipe, read_recipe, seed_for
from nonspeech7k.training.crossval import Study, fit_part, fold_parts, median_rates
from nonspeech7k.training.devices import Resident, choose_device
from nonspeech7k.training.fit import Learner, predict_logits, trained_clips

CLIPS_A_RECORDING = 3.3


# A corpus without files

def durations(mean: float, clips: int, rng: np.random.Generator) -> np.ndarray:  # (clips,) s
    "Durations from 0.5 to 4 s with this mean: a beta distribution, most of its weight at the long end where the mean is."
    middle = (mean - 0.5) / 3.5
    return 0.5 + 3.5 * rng.beta(2 * middle, 2 * (1 - middle), clips)


def plan(share: float, seed: int) -> pd.DataFrame:  # label, group, split, duration
    "The clips of a study: class counts and mean durations as published, 3.3 clips a recording."
    rows, rng = [], np.random.default_rng(seed)
    for label, (train, test, mean) in NONSPEECH7K.items():
        for split, count in (("train", train), ("test", test)):
            count = max(6, round(share * count))
            recordings = rng.integers(0, max(6, round(count / CLIPS_A_RECORDING)), count)
            groups = [f"{split}/{label}/{recording}" for recording in recordings]
            rows.append(pd.DataFrame({"label": label, "group": groups, "split": split,
                                      "duration": durations(mean, count, rng)}))
    return pd.concat(rows, ignore_index=True).assign(fold=0)


def synthetic_clips(manifest: pd.DataFrame, recipe: Recipe, device: torch.device) -> Resident:
    "A bank on the device: noise that swells and fades at a rate of each class's own, silence after each clip's end."
    length = round(recipe.clip.rate * recipe.clip.seconds)
    samples, moment = np.zeros((len(manifest), length), np.int16), np.arange(length) / recipe.clip.rate
    speeds = {label: 1.5 * 1.6**number for number, label in enumerate(NONSPEECH7K)}
    swells = {label: np.sin(np.pi * speed * moment, dtype=np.float32) for label, speed in speeds.items()}
    for row, (label, duration) in enumerate(zip(manifest["label"], manifest["duration"])):
        stop = min(length, round(duration * recipe.clip.rate))
        noise = np.random.default_rng([recipe.seed, row]).integers(-6000, 6000, stop, dtype=np.int16)
        samples[row, :stop] = noise * swells[label][:stop]
    count = len(manifest)
    return Resident(torch.from_numpy(samples).to(device), torch.full((count,), 1 / 32767, device=device),
                    torch.arange(count, device=device))


# What the device can do, and the floor that follows

def finish(device: torch.device):
    "Wait for the device."
    if device.type == "cuda": torch.cuda.synchronize(device)
    if device.type == "xla":
        import torch_xla
        torch_xla.sync(wait=True)


def best_seconds(action: Callable[[], object], device: torch.device, runs: int = 10) -> float:
    taken = []
    for _ in range(runs + 2):
        finish(device)
        start = perf_counter()
        action()
        finish(device)
        taken.append(perf_counter() - start)
    return min(taken[2:])


def ceilings(device: torch.device, dtype: torch.dtype) -> dict:
    "The rate of large matrix products in the precision of training (FLOP/s), and of copies (bytes/s, read and written)."
    size = 8192 if device.type == "cuda" else 2048
    # oneDNN without bfloat16 instructions is slower than float32: the ceiling is the faster of the two
    rates = {}
    for kind in {dtype, torch.float32 if device.type == "cpu" else dtype}:
        left, right = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
        rates[str(kind).removeprefix("torch.")] = 2 * size**3 / best_seconds(lambda: left @ right, device)
    source = torch.empty(2**30 if device.type == "cuda" else 2**27, dtype=torch.uint8, device=device).fill_(1)
    target = torch.empty_like(source)
    copied = 2 * source.numel() / best_seconds(lambda: target.copy_(source), device)
    return {"matrix_size": size, "flops": rates, "bytes": copied}


def work(recipe: Recipe, features: torch.Tensor) -> dict:
    """FLOPs of one clip, and the numbers that are moved between the products, from the layers' own sizes.

    A multiplication and an addition are two FLOPs, and the backward pass costs twice the forward pass. What lies between
    the products reads what it takes and writes what it gives, batch normalisation reads twice, the sum of a block and its
    shortcut goes through the rectifier at once; backward moves twice as much. Fusing layers can go below this. The
    layers are counted in the plain loop's network, which is the same one written with PyTorch's own modules."""
    network = plain_loop.ResidualCNN(len(NONSPEECH7K), recipe.network.channels, recipe.network.hidden).eval()
    flops, elements = [0], [0]
    def product(layer, inputs, output):
        flops[0] += 2 * output.numel() * layer.weight.numel() // layer.weight.shape[0]
    def between(layer, inputs, output):
        reads = 2 if isinstance(layer, nn.BatchNorm2d) else 1
        elements[0] += reads * inputs[0].numel() + output.numel()
    def summed(layer, inputs, output): elements[0] += 3 * output.numel()
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)): layer.register_forward_hook(product)
        elif isinstance(layer, (nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d)): layer.register_forward_hook(between)
        elif isinstance(layer, plain_loop.ResidualBlock): layer.register_forward_hook(summed)
    with torch.no_grad(): network(features)
    return {"forward_flops": flops[0], "training_flops": 3 * flops[0], "forward_elements": elements[0],
            "training_elements": 3 * elements[0]}


def floor(clip: dict, top: dict, dtype: torch.dtype, trained: int, judged: int) -> dict:
    "Seconds of a study at the ceilings: products alone, what lies between them alone, and one after the other."
    size, matrix = torch.empty((), dtype=dtype).element_size(), max(top["flops"].values())
    products = (trained * clip["training_flops"] + judged * clip["forward_flops"]) / matrix
    between = size * (trained * clip["training_elements"] + judged * clip["forward_elements"]) / top["bytes"]
    return {"products_s": products, "between_s": between, "one_after_the_other_s": products + between}


# The study

def run(recipe: Recipe, manifest: pd.DataFrame, clips: Resident, compiled: bool, folder: Path) -> dict:
    "Moments, folds, final fit and the test split: seconds of each, clips trained and judged."
    device, labels = clips.device, list(NONSPEECH7K)
    targets = torch.tensor([labels.index(label) for label in manifest["label"]])
    def build() -> Learner:
        model = learner_of(recipe, len(labels), device)
        if compiled: model.network.compile()
        return model
    taken, histories, trained, judged = {}, {}, 0, 0
    def lap(name: str, since: float) -> float:
        finish(device)
        taken[name] = perf_counter() - since
        print(f"{name}: {taken[name]:.1f} s", file=sys.stderr, flush=True)
        return perf_counter()
    since = perf_counter()
    moments = moments_of(learner_of(recipe, len(labels), device).front_end, clips)
    since = lap("features' moments", since)
    shared = Study(clips=clips, targets=targets, moments=moments, build=build, settings=optimisation_of(recipe), seed=recipe.seed)
    for part in fold_parts(manifest):
        rates = () if part.number else median_rates(list(histories.values()))
        model, histories[part.name] = fit_part(part, shared, folder / f"{part.number}.state", rates)
        since = lap(part.name, since)
        trained += recipe.train.epochs * trained_clips(len(part.train), recipe.train.batch_size)
        judged += recipe.train.epochs * len(part.valid)
    test = torch.from_numpy(np.flatnonzero(manifest["split"] == "test")).to(device)
    predicted = predict_logits(model, clips, test, recipe.train.batch_size).argmax(1)
    lap("test", since)
    right = (predicted.cpu() == targets[test.cpu()]).double().mean().item()
    return {"seconds": taken, "trained_clips": trained, "judged_clips": judged + len(test),
            "last_train_loss": histories["final"][-1]["train_loss"], "test_accuracy_on_synthetic_content": right}


def peak_memory(device: torch.device) -> dict:  # GB
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6 / (1000 if sys.platform == "darwin" else 1)
    on_device = torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None
    return {"process": round(process, 2), "device": on_device and round(on_device, 2)}


def measured(recipe: Recipe, manifest: pd.DataFrame, clips: Resident, compiled: bool, top: dict) -> dict:
    "One study, with its floor computed before it and its shares of the ceilings after."
    device, model = clips.device, learner_of(recipe, len(NONSPEECH7K), clips.device)
    dtype, front_end = model.dtype, model.front_end
    clip = work(recipe, front_end(clips.waveforms(torch.arange(1, device=device))).cpu())
    parts, part = fold_parts(manifest), recipe.train
    trained = part.epochs * sum(trained_clips(len(fold.train), part.batch_size) for fold in parts)
    judged = part.epochs * sum(len(fold.valid) for fold in parts) + int((manifest["split"] == "test").sum())
    least = floor(clip, top, dtype, trained, judged)
    print(f"floor: {least['products_s']:.3g} s of products, {least['between_s']:.3g} s between them", file=sys.stderr)
    if device.type == "cuda": torch.cuda.reset_peak_memory_stats(device)
    with tempfile.TemporaryDirectory() as folder: result = run(recipe, manifest, clips, compiled, Path(folder))
    total = sum(result["seconds"].values())
    return {"batch_size": part.batch_size, "lr": part.lr, "epochs": part.epochs, "compiled": compiled,
            "precision": str(dtype).removeprefix("torch."), "clip": clip, "floor": least, **result,
            "total_s": total, "clips_per_s": (result["trained_clips"] + result["judged_clips"]) / total,
            "share_of_matrix_ceiling": least["products_s"] / total,
            "share_of_memory_ceiling": least["between_s"] / total, "peak_memory_gb": peak_memory(device)}


def shown(result: dict, full: bool, name: str) -> str:
    "A study in a few lines."
    floor_s, memory = result["floor"], result["peak_memory_gb"]
    lines = [f"{'The whole study' if full else 'A SHORTENED study'} on {name}, {result['precision']}"
             f"{', compiled' if result['compiled'] else ''}",
             f"  batch {result['batch_size']}, learning rate {result['lr']:.3g}, {result['epochs']} epochs a fit",
             f"  {result['total_s']:.1f} s; {result['clips_per_s']:,.0f} clips/s, {result['trained_clips']:,} trained "
             f"and {result['judged_clips']:,} judged",
             f"  floor, computed beforehand: {floor_s['products_s']:.3g} s for the products, {floor_s['between_s']:.3g} s "
             f"for what lies between them",
             f"  {result['share_of_matrix_ceiling']:.1%} of the measured matrix ceiling, "
             f"{result['share_of_memory_ceiling']:.1%} of the memory ceiling",
             f"  peak memory: {memory['process']:g} GB of the process"
             + (f", {memory['device']:g} GB of the device" if memory["device"] else "")]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.study", description=__doc__.splitlines()[0],
                                     epilog="The learning rate grows with the square root of the batch size, the rule "
                                     "for Adam (Malladi et al. 2022): 2.8e-3 at batch 256.")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or xla")
    parser.add_argument("--batch", type=int, nargs="+", default=[32, 256], help="batch sizes, a study each")
    parser.add_argument("--epochs", type=int, default=50, help="of each fit")
    parser.add_argument("--share", type=float, default=1.0, help="of the clips")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile, beside each study without it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="other keys of the recipe")
    given = parser.parse_args(arguments)
    os.environ.setdefault("NONSPEECH7K_PROGRESS", "lines")
    full = given.epochs == 50 and given.share == 1 and not given.set
    device = choose_device(given.device)
    recipe = read_recipe(ROOT / "recipes" / "nonspeech7k.yaml", [f"train.epochs={given.epochs}", *given.set])
    manifest = assign_folds(plan(given.share, recipe.seed), "grouped", recipe.splits.folds, seed_for(recipe.seed, "folds"))
    about = machine(device)
    name = about["device_name"]
    print(f"on {name}, {len(manifest):,} synthetic clips", file=sys.stderr, flush=True)
    clips, top = synthetic_clips(manifest, recipe, device), ceilings(device, learner_of(recipe, len(NONSPEECH7K), device).dtype)
    print("ceilings: " + ", ".join(f"{rate / 1e12:.3g} TFLOP/s {kind}" for kind, rate in top["flops"].items())
          + f", copies {top['bytes'] / 1e9:.4g} GB/s", file=sys.stderr, flush=True)
    studies = []
    for batch in given.batch:
        rate = recipe.train.lr * (batch / recipe.train.batch_size) ** 0.5
        part = recipe.train.model_copy(update={"batch_size": batch, "lr": rate})
        for compiled in ([False, True] if given.compile else [False]):
            settings = recipe.model_copy(update={"train": part})
            studies.append(measured(settings, manifest, clips, compiled, top))
            print(shown(studies[-1], full, name), flush=True)
    if full:
        file = RESULTS / f"study_{''.join(c if c.isalnum() else '-' for c in name).strip('-').lower()}.json"
        write_json(file, {"machine": about, "ceilings": top, "studies": studies})
        print(f"written to {file.relative_to(ROOT)}", file=sys.stderr)
    else: print("shortened, so nothing is written to benchmarks/results", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
