"""Many spoiled files for each door, in processes of their own, watched for whatever is neither an answer nor one sentence.

An escape is an exception other than `UserError`, a sentence of more than 4,000 characters, more than five seconds, more than a gigabyte of memory, a file written outside the case's folder, a socket, a program
started, a crash, or an answer of which the door says that it is wrong.
"""
import json
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from targets import DOORS, Door, case, finished_run, write_files

SECONDS, MEGABYTES, CHARACTERS = 5, 1024, 4000 # a case may take
WORKING_SECONDS = 60 # where it may train and draw again


@dataclass
class Found:
    "What the cases of one door came to."
    cases: int = 0
    answered: int = 0
    refused: int = 0
    escapes: list[dict] = field(default_factory=list) # 'case', 'kind', 'where'

    def kinds(self) -> dict[str, int]: return dict(Counter(escape["kind"] for escape in self.escapes).most_common())


class Hanging(BaseException):
    "A case that takes too long; no ordinary `except` holds it."


def stop_it(number, frame): raise Hanging


class Watch:
    "An audit hook, which Python cannot take back, for what a case must not touch."
    def __init__(self):
        self.folder, self.seen = None, []
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple):
        if self.folder is None: return
        if event.startswith(("socket.", "subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork")): self.seen.append(f"{event} {arguments[:1]!r}"[:200])
        elif event == "open" and self._writes(arguments): self._note(event, arguments[0])
        elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.symlink", "os.link", "os.truncate", "shutil.rmtree"): self._note(event, arguments[1 if event in ("os.rename", "os.symlink") else 0])

    @staticmethod
    def _writes(arguments: tuple) -> bool:
        _, mode, flags = arguments
        if isinstance(mode, str): return any(letter in mode for letter in "wax+")
        return bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _note(self, event: str, path):
        if not isinstance(path, (str, bytes, os.PathLike)): return
        path = os.path.abspath(os.fsdecode(path))
        if not path.startswith((*self.folder, "/dev/", "/proc/")): self.seen.append(f"{event} {path}"[:200])


def where(error: BaseException) -> str:
    "The innermost place of our own in a traceback."
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "nonspeech7k" in frame.filename and "tests" not in frame.filename]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {frames[-1].name}" if frames else "outside"


def attempt(door: Door, folder: Path, prepared: object, found: Found, number: int, watch: Watch):
    "One case, with its verdict in `found`."
    from nonspeech7k.files import UserError
    def escape(kind: str, place: str = ""): found.escapes.append({"case": number, "kind": kind, "where": place[:300]})
    before, watch.seen = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    seconds = WORKING_SECONDS if door.works else SECONDS
    signal.setitimer(signal.ITIMER_PROF, seconds) # of this process; other programs may be at work
    signal.setitimer(signal.ITIMER_REAL, 6 * seconds) # and of the clock, for what waits
    try:
        wrong = door.attempt(folder, prepared)
        found.answered += 1
        if wrong: escape("a wrong answer", wrong)
    except UserError as error:
        found.refused += 1
        if len(str(error)) > CHARACTERS: escape("a long sentence", str(error)[:100])
    except Hanging as error: escape(f"more than {seconds} s", where(error))
    except BaseException as error: escape(type(error).__name__, f"{where(error)}: {error}"[:300].encode("ascii", "backslashreplace").decode())
    finally: signal.setitimer(signal.ITIMER_PROF, 0), signal.setitimer(signal.ITIMER_REAL, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    if grown > MEGABYTES: escape(f"more than {MEGABYTES} MB", f"{grown:.0f} MB")
    for seen in dict.fromkeys([] if door.works else watch.seen): escape("touched what is not its own", seen)
    found.cases += 1


def work(name: str, seed: int, numbers: range, folder: str, place, sink):
    "What a process does: some cases of a door, their results sent one by one."
    os.environ.update(NONSPEECH7K_PROGRESS="off", NONSPEECH7K_KERNELS="off", OMP_NUM_THREADS="1")
    import warnings
    warnings.simplefilter("ignore")
    import matplotlib.font_manager  # noqa: F401 writes its cache when it is imported first
    import torch
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2) # decoders of damaged files talk
    for sent in (signal.SIGALRM, signal.SIGPROF): signal.signal(sent, stop_it)
    base, door, watch = Path(folder), DOORS[name], Watch()
    own, room = base / f"own{os.getpid()}", base / f"case{os.getpid()}"
    own.mkdir()
    prepared = door.prepare(own)
    resource.setrlimit(resource.RLIMIT_AS, (int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + (8 << 30),) * 2)
    os.chdir(own)
    for number in numbers:
        place.value = number
        try: files = case(door, prepared, seed, number)
        except (ValueError, UnicodeError, RecursionError): files = None # what cannot be written is no case
        found = Found()
        if files is not None:
            write_files(room, files)
            watch.folder = (str(base), os.path.realpath(base))
            attempt(door, room, prepared, found, number, watch)
            watch.folder = None
        sink.send(found)
    sink.send(None)
    shutil.rmtree(room, ignore_errors=True)


def add(total: Found, part: Found):
    total.cases, total.answered, total.refused = total.cases + part.cases, total.answered + part.answered, total.refused + part.refused
    total.escapes += part.escapes


def run_part(name: str, seed: int, numbers: range, folder: Path) -> Found:
    "Some cases of a door; a process that crashes or hangs beyond help costs one of them."
    context, total, first = multiprocessing.get_context("spawn"), Found(), numbers.start
    while first < numbers.stop:
        place, (source, sink) = context.Value("q", first), context.Pipe(duplex=False)
        process = context.Process(target=work, args=(name, seed, range(first, numbers.stop), str(folder), place, sink))
        process.start()
        sink.close()
        patience = 120 # while it prepares
        while True:
            try: part = source.recv() if source.poll(patience) else TimeoutError
            except EOFError: part = EOFError
            if not isinstance(part, Found): break
            add(total, part)
            patience = 8 * (WORKING_SECONDS if DOORS[name].works else SECONDS)
        if part is None: process.join(); return total
        process.kill()
        process.join()
        kind = f"hangs, and no signal helps (> {patience} s)" if part is TimeoutError else f"ends the process ({process.exitcode})"
        total.escapes.append({"case": place.value, "kind": kind, "where": ""})
        total.cases, first = total.cases + 1, place.value + 1
    return total


def run_door(name: str, count: int, seed: int = 0, folder: Path | None = None) -> Found:
    "So many cases of a door, one after another."
    with tempfile.TemporaryDirectory(prefix="faults") as own:
        base = Path(folder or own)
        if "run folder" in name and not (base / "run").exists(): make_run(base)
        return run_part(name, seed, range(count), base)


def make_run(base: Path):
    "The finished run that the doors of run folders spoil."
    os.environ.update(NONSPEECH7K_PROGRESS="off", NONSPEECH7K_KERNELS="off", OMP_NUM_THREADS="1")
    process = multiprocessing.get_context("spawn").Process(target=finished_run, args=(base / "run",))
    process.start()
    process.join()
    assert process.exitcode == 0, "the run that is to be damaged could not be made"


def main(arguments: list[str]):
    "`python tests/faults/fuzzing.py DOOR COUNT [SEED]`: what escapes, and where."
    name = next(door for door in DOORS if door.startswith(arguments[0]))
    started, found = time.perf_counter(), run_door(name, int(arguments[1]), int(arguments[2]) if len(arguments) > 2 else 0)
    print(f"{name}: {found.cases} cases, {found.answered} answered, {found.refused} refused, {len(found.escapes)} escapes, {time.perf_counter() - started:.0f} s")
    kinds = Counter((escape["kind"], escape["where"][:160]) for escape in found.escapes)
    for (kind, place), count in kinds.most_common(25): print(f"  {count:5d}  {kind}: {place}")
    print(json.dumps([escape["case"] for escape in found.escapes[:30]]))


if __name__ == "__main__": main(sys.argv[1:])
