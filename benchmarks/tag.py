"""What labelling in bulk costs: clips per second in one process and through Ray, bytes, listing, memory. Writes `results/tag.json`,
from which the page on a billion clips computes. `python -m benchmarks.tag`; `--only ray` measures a part anew, `--folder DIR` keeps the sounds."""
import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
import soundfile
import torch

from benchmarks.common import RESULTS, ROOT, Figure, machine
from nonspeech7k.data.sounds import LABELS
from nonspeech7k.data.synthesis import write_demo
from nonspeech7k.files import read_json, write_json
from nonspeech7k.inference.bulk import tag, write_part
from nonspeech7k.inference.classifier import build_classifier, describe, save_classifier
from nonspeech7k.inference.jobs import PART, Job, list_clips, write_parts
from nonspeech7k.recipe import read_recipe

CLIPS = 240  # different sounds
MANY = 720  # names for them


def prepare(folder: Path) -> None:
    "The demo's clips as WAV and as Ogg Vorbis, under many names, and a classifier of the full size with random weights."
    if (folder / "model.safetensors").exists(): return
    demo = write_demo(folder / "demo", seed=1, train=CLIPS - 40, test=40)
    sounds = sorted(demo.rglob("*.wav"))
    for number in range(MANY):
        sound = sounds[number % CLIPS]
        for kind in ("wav", "ogg"):
            target = folder / kind / f"day{number // 100}" / f"{number:06}_{sound.stem}.{kind}"
            target.parent.mkdir(parents=True, exist_ok=True)
            if kind == "wav": os.link(sound, target)
            elif number >= CLIPS: os.link(folder / "ogg" / f"{number % CLIPS}", target)
            else:
                soundfile.write(target, *soundfile.read(sound), format="OGG", subtype="VORBIS")
                os.link(target, folder / "ogg" / f"{number}")
    for number in range(CLIPS): (folder / "ogg" / f"{number}").unlink()
    for kind in ("wav", "ogg"):
        names = sorted(path.relative_to(folder).as_posix() for path in (folder / kind).rglob(f"*.{kind}"))
        for count in (CLIPS, MANY): pd.DataFrame({"path": names[:count]}).to_csv(folder / f"{kind}{count}.csv", index=False)
    torch.manual_seed(0)
    recipe = read_recipe(ROOT / "recipes" / "nonspeech7k.yaml").model_dump()
    save_classifier(build_classifier(describe(list(LABELS), recipe)), folder / "model.safetensors")


def rate(folder: Path, manifest: str, **options) -> tuple[float, float]:
    "Clips per second, and seconds, of a job."
    with tempfile.TemporaryDirectory() as out:
        done = tag(folder / "model.safetensors", folder / manifest, Path(out) / "labels", **options)
    assert done["bad"] == 0
    return done["new"] / done["seconds"], done["seconds"]


def through_ray(folder: Path) -> tuple[float, float]:
    "Clips per second of one-thread workers, one a core, when they work; seconds until they do."
    few, many = (rate(folder, f"wav{count}.csv", ray="local", part=30)[1] for count in (CLIPS, MANY))
    steady = (MANY - CLIPS) / (many - few)
    return steady, few - CLIPS / steady


def peak(folder: Path, clips: int) -> float:
    "Largest memory in MB of a process that labels so many clips."
    code = ("import resource, sys; from nonspeech7k.inference.bulk import tag; tag(*sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    with tempfile.TemporaryDirectory() as scratch:
        job = [str(folder / "model.safetensors"), str(folder / f"wav{clips}.csv"), scratch + "/labels"]
        done = subprocess.run([sys.executable, "-c", code, *job], cwd=ROOT, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 1000


def bytes_per_clip() -> tuple[float, float]:
    "Bytes of the answers and of the list for a clip, in a part of the usual size: invented answers, names as arbitrary as video ids."
    invent = np.random.default_rng(0)
    names = [f"{invent.bytes(1).hex()}/{invent.bytes(6).hex()[:11]}_{invent.integers(300)}.wav" for _ in range(PART)]
    probabilities = invent.dirichlet(np.full(len(LABELS), 0.2), PART)
    answers = [{"label": LABELS[row.argmax()], "probabilities": dict(zip(LABELS, row)), "seconds": second, "judged_seconds": second}
               for row, second in zip(probabilities, invent.uniform(0.5, 4, PART).round(3))]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_parts(iter(names), folder, PART)
        job = Job(folder, folder, folder, LABELS, PART, PART, 1)
        write_part(job, 0, list(zip(names, answers)), [])
        return tuple(job.file(kind, 0).stat().st_size / PART for kind in ("tags", "clips"))


def listing(folder: Path) -> tuple[float, float]:
    "Names per second: of files in folders, and of rows in a Parquet manifest."
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        for number in range(20_000):
            if number % 1000 == 0: (place / "sounds" / f"{number:06}").mkdir(parents=True)
            (place / "sounds" / f"{number // 1000 * 1000:06}" / f"{number:06}.wav").touch()
        pd.DataFrame({"path": [f"{number // 1000:06}/{number:06}.wav" for number in range(400_000)]}).to_parquet(place / "many.parquet")
        speeds = []
        for corpus, count in ((place / "sounds", 20_000), (place / "many.parquet", 400_000)):
            start = perf_counter()
            assert write_parts(list_clips(corpus), place / "job", 4096)[0] == count
            speeds.append(count / (perf_counter() - start))
    return tuple(speeds)


def bytes_per_second(folder: Path) -> dict[str, float]:
    "Bytes that a second of sound takes in each file format."
    files = {kind: [folder / name for name in pd.read_csv(folder / f"{kind}{CLIPS}.csv")["path"]] for kind in ("wav", "ogg")}
    seconds = sum(soundfile.info(path).duration for path in files["wav"])
    return {kind: sum(path.stat().st_size for path in paths) / seconds for kind, paths in files.items()}


# What can be measured alone: each gives figures

def here(folder: Path, runs: int):
    rate(folder, f"wav{CLIPS}.csv")
    speeds = [(rate(folder, f"wav{CLIPS}.csv")[0], rate(folder, f"ogg{CLIPS}.csv")[0]) for _ in range(runs)]
    yield "one_process_wav", "one process, WAV at the recipe's rate", "clips/s", [wav for wav, _ in speeds]
    yield "one_process_ogg", "one process, Ogg Vorbis at the recipe's rate", "clips/s", [ogg for _, ogg in speeds]


def ray(folder: Path, runs: int):
    speeds = [through_ray(folder) for _ in range(runs)]
    yield "ray", "Ray on the same cores, one-thread workers, after their start", "clips/s", [speed for speed, _ in speeds]
    yield "ray_start", "until Ray's workers label", "s", [start for _, start in speeds]


def lists(folder: Path, runs: int):
    speeds = [listing(folder) for _ in range(runs)]
    yield "list_files", "listing a folder", "clips/s", [files for files, _ in speeds]
    yield "list_rows", "listing a Parquet manifest", "clips/s", [rows for _, rows in speeds]


def memory(folder: Path, runs: int):
    yield "peak_few", f"peak memory, {CLIPS} clips", "MB", [peak(folder, CLIPS)]
    yield "peak_many", f"peak memory, {MANY} clips", "MB", [peak(folder, MANY)]


def sizes(folder: Path, runs: int):
    (answers, names), sound = bytes_per_clip(), bytes_per_second(folder)
    yield "tags_bytes", f"Parquet of the answers, {len(LABELS)} classes", "bytes/clip", [answers]
    yield "list_bytes", "Parquet of the list", "bytes/clip", [names]
    yield "wav_bytes", "WAV, 16 bit, mono, 32 kHz", "bytes/s", [sound["wav"]]
    yield "ogg_bytes", "Ogg Vorbis of the same sounds", "bytes/s", [sound["ogg"]]


GROUPS = {"here": here, "ray": ray, "lists": lists, "memory": memory, "sizes": sizes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, help="where sounds are kept; a temporary folder if not given")
    parser.add_argument("--only", nargs="*", choices=["prepare", *GROUPS], help="what to measure; everything if not given")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    os.environ["NONSPEECH7K_PROGRESS"] = "off"
    revision = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    known = read_json(RESULTS / "tag.json")["figures"] if given.only and (RESULTS / "tag.json").exists() else {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        prepare(folder)
        for group in [name for name in GROUPS if name in (given.only or GROUPS)]:
            for name, what, unit, values in GROUPS[group](folder, given.runs):
                known[name] = Figure(name, what, unit, tuple(values)).record(revision or None)
                print(f"{what:62} {statistics.median(values):12,.1f} {unit}", flush=True)
            write_json(RESULTS / "tag.json", {"machine": machine(), "figures": known})


if __name__ == "__main__": main()
