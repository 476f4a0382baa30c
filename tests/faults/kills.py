"""A run that is killed at many moments, and what else happens to a run between two commands: each time the same bytes come out in the end, or one sentence says why not."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

SMALL = ["splits.folds=2", "train.epochs=2", "clip.rate=8000", "clip.seconds=1.0", "front_end.n_fft=256", "front_end.hop_length=128", "front_end.n_mels=16", "augment.frequency_mask=2", "augment.time_mask=4",
         "network.channels=[4, 4, 4]", "network.hidden=8"]
PROGRAM = [sys.executable, "-c", "import sys; from nonspeech7k.cli import main; sys.exit(main())"]
QUIET = {"NONSPEECH7K_PROGRESS": "off", "NONSPEECH7K_KERNELS": "off", "OMP_NUM_THREADS": "1"}
KILLS_OF_ONE_RUN = 5


def command(folder: Path, demo: Path, banks: Path, *more: str) -> list[str]:
    changes = [*SMALL, f"corpus.root={demo}", f"banks={banks}"]
    return [*PROGRAM, "run", "demo", "--out", str(folder), *(part for change in changes for part in ("--set", change)), *more]


def start(arguments: list[str], cwd: Path) -> subprocess.Popen:
    return subprocess.Popen(arguments, cwd=cwd, env={**os.environ, **QUIET}, start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


def finish(arguments: list[str], cwd: Path, limit: float = 300) -> tuple[int, str]:
    "Exit code and standard error of a command."
    done = subprocess.run(arguments, cwd=cwd, env={**os.environ, **QUIET}, capture_output=True, text=True, timeout=limit)
    return done.returncode, done.stderr


def kill(process: subprocess.Popen):
    "End the program and all that it started at one moment, as a power cut does."
    try: family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess: return
    for sent in (signal.SIGSTOP, signal.SIGKILL):
        for member in family:
            try: member.send_signal(sent)
            except psutil.NoSuchProcess: pass
    process.communicate()
    psutil.wait_procs(family, timeout=10)


STAGES = ("1_eda", "2_features", "3_training", "4_evaluation")
FIRST = "before the first stage"
PLANS = ((FIRST, *STAGES), ("1_eda", "3_training", "3_training", "4_evaluation", "4_evaluation")) # where one run is killed, one time after another


def records(folder: Path) -> dict[str, dict]:
    "What a run has noted of its stages."
    try: return json.loads((folder / "stages.json").read_text())
    except FileNotFoundError: return {}


def begun(folder: Path, stage: str) -> int:
    "How often a stage has begun, or gone on."
    try: return (folder / "training.log").read_text().count(f"  {stage} begins")
    except FileNotFoundError: return 0


def stage_of(folder: Path) -> str:
    "The stage in which a run was stopped."
    stages = records(folder)
    unfinished = [name for name in STAGES if name in stages and not stages[name]["finished"]]
    if unfinished: return unfinished[0]
    return f"after {list(stages)[-1]}" if stages else FIRST


def kill_in(arguments: list[str], place: Path, folder: Path, stage: str, seconds: float, limit: float = 300) -> bool:
    "Kill a run so long after a stage has begun or gone on; False where it ended before."
    before, until = begun(folder, stage), time.monotonic() + limit
    process = start(arguments, place)
    while stage != FIRST and process.poll() is None and begun(folder, stage) == before and time.monotonic() < until: time.sleep(0.01)
    try: process.wait(seconds)
    except subprocess.TimeoutExpired:
        kill(process)
        return True
    process.communicate()
    return False


def results(folder: Path) -> dict[str, bytes]:
    "The bytes of all that a run is kept for."
    names = ["manifest.csv", "features.csv", "predictions.csv", *(f"models/{path.name}" for path in sorted((folder / "models").glob("*.safetensors")))]
    scores = json.loads((folder / "metrics.json").read_text())
    return {name: (folder / name).read_bytes() for name in names} | {"metrics.json": json.dumps({part: scores[part] for part in ("cv", "test", "calibration")}).encode()}


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.partial")]


def killed_runs(place: Path, moments: int, jobs: int = 1) -> Iterator[dict]:
    "Kill runs at so many moments or a few more, spread over all stages, and compare what they come to with a run that nothing stopped; what is known after each run."
    demo, whole = make_whole(place)
    found = {"attack": "killed with -9, then gone on with", "cases": 0, "escapes": [], "stages": {}, "ended_before": 0}
    with ThreadPoolExecutor(jobs) as pool:
        for first in range(0, 1 + moments, jobs): # a run may end before its kill, so that more of them are needed than moments
            if found["cases"] >= moments: return
            for one in pool.map(lambda turn: killed_run(place, demo, whole, turn, KILLS_OF_ONE_RUN), range(first, first + jobs)):
                for key in ("cases", "escapes", "ended_before"): found[key] += one[key]
                for stage, count in one["stages"].items(): found["stages"][stage] = found["stages"].get(stage, 0) + count
                yield found


def killed_run(place: Path, demo: Path, whole: dict, turn: int, kills: int) -> dict:
    "Kill one run some times, let it come to its end, and compare."
    folder, banks = place / f"killed{turn}", place / f"banks{turn}"
    found = {"cases": 0, "escapes": [], "stages": {}, "ended_before": 0}
    for number, stage in enumerate(PLANS[turn % len(PLANS)][:kills]):
        share = 0.618 * (turn * KILLS_OF_ONE_RUN + number) % 1 # spread evenly, whatever their number
        if records(folder).get(stage, {}).get("finished"): stage = next((name for name in STAGES if not records(folder).get(name, {}).get("finished")), STAGES[-1])
        killed = kill_in(command(folder, demo, banks), place, folder, stage, share * whole["lasting"][stage])
        found["cases" if killed else "ended_before"] += 1
        at = stage_of(folder)
        if killed: found["stages"][at] = found["stages"].get(at, 0) + 1
    wrong = gone_on_with(place, command(folder, demo, banks), folder, whole)
    if wrong: found["escapes"].append(f"run {turn}: {wrong}")
    shutil.rmtree(folder), shutil.rmtree(banks)
    return found


def gone_on_with(place: Path, arguments: list[str], folder: Path, whole: dict) -> str | None:
    "What is wrong with a run that the same command ends, None where it is what it should be."
    code, said = finish(arguments, place)
    if code or "Traceback" in said: return f"not gone on with, exit code {code}: {said[-300:]}"
    now = results(folder)
    if now != whole["results"]: return f"other bytes in {[name for name in {**now, **whole['results']} if whole['results'].get(name) != now.get(name)]}"
    return f"left behind {leftovers(folder)[:3]}" if leftovers(folder) else None


def make_whole(place: Path) -> tuple[Path, dict]:
    "A small synthetic corpus, and what a run of it comes to."
    demo = place / "demo"
    code, said = finish([sys.executable, "-c", f"from nonspeech7k.data.synthesis import write_demo; write_demo({str(demo)!r}, seed=1, train=42, test=14, rate=8000)"], place)
    assert code == 0, said
    started = time.monotonic()
    process = start(command(place / "whole", demo, place / "banks"), place)
    while process.poll() is None and not begun(place / "whole", STAGES[0]): time.sleep(0.01)
    lasting = {FIRST: time.monotonic() - started}
    said = process.communicate()[1]
    assert process.returncode == 0, said
    lasting |= {name: 1.1 * about["seconds"] for name, about in records(place / "whole").items()} # and a little of what lies between two
    return demo, {"lasting": lasting, "results": results(place / "whole")}


# What else happens between two commands: each takes a finished run's folder, and says what went wrong

def stopped_by(sent: signal.Signals) -> Callable:
    def attack(place: Path, demo: Path, whole: dict) -> str | None:
        folder = place / f"stopped{sent.value}"
        process = start(command(folder, demo, place / "banks"), place)
        until = time.monotonic() + 300
        while process.poll() is None and not begun(folder, "3_training") and time.monotonic() < until: time.sleep(0.02)
        process.send_signal(sent)
        said = process.communicate(timeout=120)[1]
        if process.returncode != 128 + sent: return f"exit code {process.returncode}"
        if "Traceback" in said or "stopped" not in said: return f"said {said[-200:]}"
        return gone_on_with(place, command(folder, demo, place / "banks"), folder, whole)
    return attack


def two_at_once(place: Path, demo: Path, whole: dict) -> str | None:
    folder = place / "two"
    both = [start(command(folder, demo, place / "banks2"), place) for _ in range(2)]
    said = [process.communicate(timeout=300)[1] for process in both]
    codes = sorted(process.returncode for process in both)
    if codes not in ([0, 2], [0, 0]): return f"exit codes {codes}: {said[0][-200:]} {said[1][-200:]}"
    return None if results(folder) == whole["results"] else "other bytes"


def moved(place: Path, demo: Path, whole: dict) -> str | None:
    shutil.copytree(place / "whole", place / "moved")
    code, said = finish(command(place / "moved", demo, place / "elsewhere"), place)
    if code not in (0, 2) or "Traceback" in said: return f"exit code {code}: {said[-300:]}"
    return None if results(place / "moved") == whole["results"] else "other bytes"


def changed_between_stops(change: Callable[[Path], None]) -> Callable:
    "A clip of the corpus is changed after the run: the answer is one sentence, or the numbers of a run that is made anew."
    def attack(place: Path, demo: Path, whole: dict) -> str | None:
        other, folder = place / f"other-{change.__name__}", place / f"changed-{change.__name__}"
        shutil.copytree(demo, other)
        code, said = finish(command(folder, other, place / "banks"), place)
        if code: return f"exit code {code}: {said[-300:]}"
        change(other)
        code, said = finish(command(folder, other, place / "banks"), place)
        if code == 2 and "Traceback" not in said: return None
        if code: return f"exit code {code}: {said[-300:]}"
        finish(command(place / f"anew-{change.__name__}", other, place / "banks"), place)
        return None if results(folder) == results(place / f"anew-{change.__name__}") else "the old answer for new data"
    return attack


def a_clip_changed(demo: Path):
    one, two = sorted(demo.rglob("train/**/*.wav"))[:2]
    one.write_bytes(two.read_bytes())


def a_clip_gone(demo: Path): sorted(demo.rglob("train/**/*.wav"))[0].unlink()


def read_only(place: Path, demo: Path, whole: dict) -> str | None:
    "A folder that nobody may write into; root may, and then there is nothing to see."
    folder = place / "closed"
    folder.mkdir(mode=0o555)
    code, said = finish(command(folder / "run", demo, place / "banks"), place)
    if os.geteuid() == 0: return None if code == 0 else f"exit code {code}: {said[-200:]}"
    return None if code == 2 and "Traceback" not in said else f"exit code {code}: {said[-300:]}"


def full_disk(place: Path, demo: Path, whole: dict) -> str | None:
    "A disk that is full in the middle, and has room again; where nobody may mount one there is nothing to see."
    disk = place / "disk"
    disk.mkdir()
    size = sum(path.stat().st_size for path in (place / "whole").rglob("*") if path.is_file())
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "faults", str(disk)], capture_output=True).returncode: return None
    try:
        code, said = finish(command(disk / "run", demo, place / "banks"), place)
        if code != 2 or "Traceback" in said or "the disk is full" not in said: return f"exit code {code}: {said[-300:]}"
        subprocess.run(["mount", "-o", f"remount,size={8 * size}", str(disk)], check=True)
        return gone_on_with(place, command(disk / "run", demo, place / "banks"), disk / "run", whole)
    finally: subprocess.run(["umount", str(disk)], check=True)


ATTACKS: dict[str, Callable[[Path, Path, dict], str | None]] = {
    "SIGTERM, then gone on with": stopped_by(signal.SIGTERM), "Ctrl-C, then gone on with": stopped_by(signal.SIGINT), "two processes on one run": two_at_once, "a run that was moved, its bank gone": moved,
    "a clip changed between two commands": changed_between_stops(a_clip_changed), "a clip gone between two commands": changed_between_stops(a_clip_gone), "a folder that is read-only": read_only, "a disk that is full, then has room": full_disk}


def attacked_runs(place: Path) -> Iterator[dict]:
    "Each attack, with what went wrong."
    demo, whole = make_whole(place)
    for name, attack in ATTACKS.items():
        try: wrong = attack(place, demo, whole)
        except (OSError, subprocess.SubprocessError, AssertionError) as error: wrong = f"{type(error).__name__}: {error}"
        yield {"attack": name, "cases": 1, "escapes": [wrong] if wrong else []}
