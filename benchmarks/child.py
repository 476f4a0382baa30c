"""What `benchmarks.cpu` starts in processes of their own: `python -m benchmarks.child memory|first_step FOLDER CHANGE...`."""
import sys
import time
from pathlib import Path


def memory(folder: Path, changes: list[str]):
    "A study at its full number of clips, its epochs cut to a few batches: bank, features, two fits, judging."
    import numpy as np
    import torch

    from nonspeech7k.runs.building import learner_of, optimisation_of
    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure, open_clips, targets_of
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.training.crossval import FoldPart, Study, fit_part, fold_parts
    from nonspeech7k.training.fit import predict_logits
    run = open_run("nonspeech7k", folder, [*changes, "train.epochs=1"])
    explore(run)
    moments = torch.from_numpy(measure(run)[["mean", "square"]].to_numpy(copy=True))
    clips, size = open_clips(run), run.recipe.train.batch_size
    study = Study(clips=clips, targets=targets_of(run), moments=moments, build=lambda: learner_of(run.recipe, len(run.labels)),
                  settings=optimisation_of(run.recipe), seed=run.recipe.seed)
    first, *_, final = fold_parts(run.manifest)
    rng = np.random.default_rng(0)
    for part in (first, final):
        short = [rng.permutation(part.train)[:6 * size], rng.permutation(part.valid)[:4 * size]]
        model, _ = fit_part(FoldPart(part.name, part.number, *short), study, folder / f"{part.name}.state",
                            [1e-3] if part is final else ())
    predict_logits(model, clips, torch.arange(min(len(clips), 256)), 64)


class Reached(Exception):
    "The first step of training."


def first_step(folder: Path, changes: list[str]):
    "Two runs up to the first step of their first fit. Prints when the first got there, and the seconds of the second."
    from torch.optim.optimizer import register_optimizer_step_pre_hook

    from nonspeech7k.runs.corpus import explore
    from nonspeech7k.runs.features import measure
    from nonspeech7k.runs.fits import train
    from nonspeech7k.runs.folder import open_run
    def stop(*_): raise Reached
    register_optimizer_step_pre_hook(stop)
    for name in ("first", "second"):
        start = time.time()
        try:
            run = open_run("nonspeech7k", folder / name, changes)
            explore(run), measure(run), train(run)
        except Reached: print(time.time() if name == "first" else time.time() - start, flush=True)


if __name__ == "__main__":
    {"memory": memory, "first_step": first_step}[sys.argv[1]](Path(sys.argv[2]), sys.argv[3:])
