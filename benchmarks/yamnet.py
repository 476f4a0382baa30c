"""How fast YAMNet hears: seconds of sound a second, as PyTorch runs it plainly, with folded batch norms, in the precision that answers
are given in, and as ONNX Runtime runs its exported file; side by side, round by round. Writes `results/yamnet.json`. `python -m benchmarks.yamnet`."""
import argparse
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

from benchmarks.common import RESULTS, ROOT, Figure, machine
from nonspeech7k.data.sounds import LABELS
from nonspeech7k.files import write_json
from nonspeech7k.inference.classifier import Classifier, build_classifier, describe, for_inference
from nonspeech7k.inference.portable import export_onnx
from nonspeech7k.recipe import read_recipe

CLIPS, SECONDS = 32, 4.0  # of a batch
TARGET = 300  # seconds of sound a second, on two cores


def classifier() -> Classifier:
    "YAMNet with random numbers, which take as long as others, on the clips of the recipe for a few dozen examples."
    torch.manual_seed(0)
    recipe = read_recipe(ROOT / "recipes" / "folders.yaml", ["network.weights=none", f"clip.seconds={SECONDS}"])
    return build_classifier(describe(list(LABELS), recipe.model_dump()))


def through_onnx(model: Classifier, folder: Path) -> Callable[[torch.Tensor], object]:
    "What judges a batch by the exported file."
    import onnxruntime
    export_onnx(model, folder / "yamnet.onnx")
    session = onnxruntime.InferenceSession(str(folder / "yamnet.onnx"), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda waveforms: session.run(None, {name: waveforms.numpy()})


def ways(folder: Path) -> dict[str, tuple[str, Callable[[torch.Tensor], object]]]:
    "Each way to judge a batch, by its name, with a line about it."
    model = classifier()
    return {"plain": ("PyTorch, as it is trained", model),
            "folded": ("PyTorch, batch norms folded, channels last, float32", for_inference(model, torch.float32)),
            "inference": ("PyTorch, as `predict` runs it: bfloat16 where the processor has it", for_inference(model)),
            "onnx": ("ONNX Runtime, the exported file", through_onnx(model, folder))}


@torch.inference_mode()
def measured(rounds: int, folder: Path) -> list[Figure]:
    "Seconds of sound a second of every way, once in each round."
    waveforms = torch.from_numpy(np.random.default_rng(0).standard_normal((CLIPS, round(16000 * SECONDS)), dtype=np.float32)) * 0.1
    found = ways(folder)
    speeds = {name: [] for name in found}
    for number in range(rounds + 1):
        for name, (_, judge) in found.items():
            start = perf_counter()
            judge(waveforms)
            if number: speeds[name].append(CLIPS * SECONDS / (perf_counter() - start))  # the first round warms up
    return [Figure(name, what, "s of sound/s", tuple(speeds[name]), TARGET if name == "inference" else None) for name, (what, _) in found.items()]


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--rounds", type=int, default=7)
    given = words.parse_args()
    os.environ["NONSPEECH7K_PROGRESS"] = "off"
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    with tempfile.TemporaryDirectory() as scratch: figures = measured(given.rounds, Path(scratch))
    for figure in figures: print(f"{figure.what:70} {np.median(figure.values):8,.0f} {figure.unit}")
    write_json(RESULTS / "yamnet.json", {"machine": machine(), "figures": {figure.name: figure.record(revision or None) for figure in figures}})


if __name__ == "__main__": main()
