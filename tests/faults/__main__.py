"""`make faults`: every door many times, kills and what else befalls a run; the counts into benchmarks/results/faults.json. Some hours on two cores.

`python tests/faults --cases 20000 --kills 50 --jobs 2 [--door NAME]` does it piece by piece; what was counted for other doors stays.
"""
import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fuzzing import Found, add, make_run, run_part
from kills import attacked_runs, killed_runs
from targets import DOORS

RESULTS = Path(__file__).parents[2] / "benchmarks/results/faults.json"


def counted(name: str, cases: int, jobs: int, seed: int) -> dict:
    "The cases of one door, shared by several processes, as the results hold them."
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="faults") as folder, ThreadPoolExecutor(jobs) as pool:
        base = Path(folder)
        if "run folder" in name: make_run(base)
        size = -(-cases // (4 * jobs))
        total = Found()
        for part in pool.map(lambda first: run_part(name, seed, range(first, min(cases, first + size)), base), range(0, cases, size)): add(total, part)
    return {"door": name, "cases": total.cases, "answered": total.answered, "refused": total.refused, "escapes": len(total.escapes), "kinds": total.kinds(), "examples": total.escapes[:5],
            "seconds": round(time.perf_counter() - started)}


def keep(part: str, rows: list[dict], key: str):
    "Write rows into the results, in the place of older ones of the same name."
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept = {row[key]: row for row in known.get(part, [])} | {row[key]: row for row in rows}
    known |= {part: list(kept.values()), "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"}
    RESULTS.write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n")


def main():
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("--cases", type=int, default=20_000, help="of each door; 0: none")
    words.add_argument("--kills", type=int, default=50, help="moments at which a run is killed; 0: no run is attacked")
    words.add_argument("--jobs", type=int, default=os.cpu_count())
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--door", choices=list(DOORS), action="append", help="only this one")
    given = words.parse_args()
    for name in (given.door or DOORS) if given.cases else []:
        row = counted(name, given.cases, given.jobs, given.seed)
        keep("doors", [row], "door")
        print(f"{name}: {row['cases']:,} cases, {row['escapes']} escapes {row['kinds'] or ''} ({row['seconds']} s)", flush=True)
    if given.kills and not given.door:
        for row in rows_of_runs(given.kills, given.jobs):
            keep("runs", [row], "attack")
            print(f"{row['attack']}: {row['cases']} cases, {len(row['escapes'])} escapes {row['escapes'][:2] or ''} {row.get('stages', '')}", flush=True)


def rows_of_runs(kills: int, jobs: int) -> Iterator[dict]:
    "What befalls runs, one kind after another; of kills, what they have come to so far."
    with tempfile.TemporaryDirectory(prefix="faults") as folder: yield from attacked_runs(Path(folder))
    with tempfile.TemporaryDirectory(prefix="faults") as folder: yield from killed_runs(Path(folder), kills, jobs)


if __name__ == "__main__": main()
