"""A run that is killed at many moments, and what else happens to a run between two commands: each time the same bytes come out in the end, or one sentence says why not."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
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


def stage_of(folder: Path) -> str:
    "The stage in which a run was stopped."
    try: stages = json.loads((folder / "stages.json").read_text())
    except (OSError, ValueError): return "before the first stage"
    begun = [name for name, about in stages.items() if isinstance(about, dict) and not about.get("finished")]
    return begun[0] if begun else "between stages"


def results(folder: Path) -> dict[str, bytes]:
    "The bytes of all that a run is kept for."
    names = ["manifest.csv", "features.csv", "predictions.csv", *(f"models/{path.name}" for path in sorted((folder / "models").glob("*.safetensors")))]
    scores = json.loads((folder / "metrics.json").read_text())
    return {name: (folder / name).read_bytes() for name in names} | {"metrics.json": json.dumps({part: scores[part] for part in ("cv", "test", "calibration")}).encode()}


def leftovers(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*.partial")]


def killed_runs(place: Path, moments: int) -> dict:
    "Kill runs at so many moments spread over all stages, and compare what they come to with a run that nothing stopped."
    demo, whole = make_whole(place)
    found = {"attack": f"killed with -9 at {moments} moments", "cases": 0, "escapes": [], "stages": {}}
    runs = -(-moments // KILLS_OF_ONE_RUN)
    for turn in range(runs):
        folder, banks = place / f"killed{turn}", place / f"banks{turn}"
        for step in range(min(KILLS_OF_ONE_RUN, moments - found["cases"])):
            process = start(command(folder, demo, banks), place)
            share = (0.618 * (turn * KILLS_OF_ONE_RUN + step)) % 1 # spread evenly, whatever their number
            try: process.wait(whole["begins"] + (whole["seconds"] - whole["begins"]) * 0.6 * share)
            except subprocess.TimeoutExpired: kill(process)
            found["cases"] += 1
            stage = stage_of(folder)
            found["stages"][stage] = found["stages"].get(stage, 0) + 1
        code, said = finish(command(folder, demo, banks), place)
        if code: found["escapes"].append(f"run {turn}: exit code {code}: {said[-300:]}")
        elif results(folder) != whole["results"]: found["escapes"].append(f"run {turn}: other bytes in {[name for name, content in results(folder).items() if whole['results'].get(name) != content]}")
        elif leftovers(folder): found["escapes"].append(f"run {turn}: left behind {leftovers(folder)[:3]}")
        shutil.rmtree(folder)
    return found


def make_whole(place: Path) -> tuple[Path, dict]:
    "A small synthetic corpus, and what a run of it comes to."
    demo = place / "demo"
    code, said = finish([sys.executable, "-c", f"from nonspeech7k.data.synthesis import write_demo; write_demo({str(demo)!r}, seed=1, train=42, test=14, rate=8000)"], place)
    assert code == 0, said
    started = time.monotonic()
    process = start(command(place / "whole", demo, place / "banks"), place)
    while not (place / "whole/stages.json").exists() and process.poll() is None: time.sleep(0.05)
    begins = time.monotonic() - started
    said = process.communicate()[1]
    assert process.returncode == 0, said
    return demo, {"begins": begins, "seconds": time.monotonic() - started, "results": results(place / "whole")}


# What else happens between two commands: each takes a finished run's folder, and says what went wrong

def stopped_by(sent: signal.Signals) -> Callable:
    def attack(place: Path, demo: Path, whole: dict) -> str | None:
        folder = place / f"stopped{sent.value}"
        process = start(command(folder, demo, place / "banks"), place)
        until = time.monotonic() + 120
        while not (folder / "stages.json").exists() and process.poll() is None and time.monotonic() < until: time.sleep(0.02)
        time.sleep(1)
        process.send_signal(sent)
        said = process.communicate(timeout=120)[1]
        if process.returncode != 128 + sent: return f"exit code {process.returncode}"
        if "Traceback" in said or "stopped" not in said: return f"said {said[-200:]}"
        code, said = finish(command(folder, demo, place / "banks"), place)
        if code: return f"not gone on with: {said[-300:]}"
        return None if results(folder) == whole["results"] else "other bytes"
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


ATTACKS: dict[str, Callable[[Path, Path, dict], str | None]] = {
    "SIGTERM, then gone on with": stopped_by(signal.SIGTERM), "Ctrl-C, then gone on with": stopped_by(signal.SIGINT), "two processes on one run": two_at_once, "a run that was moved, its bank gone": moved,
    "a clip changed between two commands": changed_between_stops(a_clip_changed), "a clip gone between two commands": changed_between_stops(a_clip_gone), "a folder that is read-only": read_only}


def attacked_runs(place: Path) -> list[dict]:
    "Each attack, with what went wrong."
    demo, whole = make_whole(place)
    found = []
    for name, attack in ATTACKS.items():
        try: wrong = attack(place, demo, whole)
        except (OSError, subprocess.SubprocessError, AssertionError) as error: wrong = f"{type(error).__name__}: {error}"
        found.append({"attack": name, "cases": 1, "escapes": [wrong] if wrong else []})
    return found
