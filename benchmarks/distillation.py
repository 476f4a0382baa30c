"""What a small network gains from a large teacher: `python -m benchmarks.distillation`, on real recordings.

For each of three seeds, and on the same folds by speaker of the Deeply sample: S1's network as the teacher, a student of
a fiftieth of its size trained from the labels alone, and the same student trained from labels and the teacher's soft
answers, each fold's student from the teacher of that fold. Both students have the same first weights, order of clips
and length of training. The difference is paired over clips, its interval over groups; all settings were fixed before."""
import argparse
from pathlib import Path

from benchmarks.baselines import RECIPE
from benchmarks.common import RESULTS, machine, real_recordings
from nonspeech7k.evaluation.comparison import spread_over_seeds
from nonspeech7k.files import write_json
from nonspeech7k.recipe import read_recipe
from nonspeech7k.runs.comparing import compare_runs
from nonspeech7k.runs.folder import enter_run
from nonspeech7k.runs.stages import complete

PLACE = RESULTS / "distillation.json"
SEEDS = (42, 43, 44)
STUDENT = ["network.channels=[8, 16, 32, 32]", "network.hidden=32", "network.dropout=0.1"]


def judged(folder: Path, changes: list[str]) -> dict:
    "The metrics of one run, trained and judged in this process; goes on where it was stopped."
    recipe = read_recipe(RECIPE, [f"corpus.root={real_recordings('deeply')}", *changes])
    return complete(enter_run(recipe, folder))


def one_seed(seed: int, epochs: int, runs: Path) -> dict:
    "Teacher, student and taught student of one seed, and what teaching changed."
    place, same = runs / f"seed{seed}", [f"seed={seed}", f"train.epochs={epochs}"]
    teacher = judged(place / "teacher", same)
    student = judged(place / "student", [*same, *STUDENT])
    taught = judged(place / "taught", [*same, *STUDENT, f"train.distil={{teacher: {place / 'teacher'}}}"])
    compared = compare_runs(place / "student", place / "taught")["validation"]
    return {"seed": seed, "metrics": {"teacher": teacher, "student": student, "taught": taught}, "taught_minus_student": compared}


def summary(found: list[dict]) -> dict:
    "Scores of the three, over seeds, and the differences."
    names = ("teacher", "student", "taught")
    runs = {name: [one["metrics"][name] for one in found] for name in names}
    return {"machine": machine(), "corpus": "deeply, 3 folds by group, all clips", "study": runs["teacher"][0]["study"],
            "parameters": {name: runs[name][0]["study"]["parameters"] for name in names},
            "seeds": [one["seed"] for one in found],
            "scores": {name: spread_over_seeds(runs[name])["cv"] for name in names},
            "taught_minus_student": [one["taught_minus_student"] for one in found]}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--epochs", type=int, default=20)
    arguments.add_argument("--runs", type=Path, default=Path("runs/distillation"))
    given = arguments.parse_args()
    found = summary([one_seed(seed, given.epochs, given.runs) for seed in SEEDS])
    write_json(PLACE, found)
    for name, scores in found["scores"].items():
        print(f"{name}: macro-F1 {scores['macro_f1']['mean']:.3f} ± {scores['macro_f1']['std'] or 0:.3f}")


if __name__ == "__main__":
    main()
