"""What a function touches while it works: every file that is opened, every folder that is listed, every socket, process and library, told by Python's audit hooks in a fresh interpreter.

    from doors import opened
    answer, events = opened("module:function", "an argument", 2)
    assert not foreign(events, own=[the_file])

The function is named, not handed over, because an audit hook stays for the life of a process. Arguments and answer are what JSON can hold. Files of the interpreter and of installed packages are not told: that is how imports come about. Some packages look around the machine while they are imported (PyTorch goes through all of sys.path for libraries of CUDA); name them in `before`, and they are imported before the watch begins."""
import json
import os
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parent
MACHINE = ("/proc/self/maps", "/proc/stat", "/proc/cpuinfo", "/proc/meminfo", "/sys/", "/dev/null") # what libraries ask it
PLACES = ("open", "os.listdir", "os.scandir", "glob.glob", "glob.glob/2")
WATCHED = ("socket.", "subprocess.", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile",
           "pty.", "urllib.", "http.", "ftplib.", "smtplib.", "imaplib.", "poplib.", "telnetlib.", "sqlite3.", "pickle.find_class",
           "os.mkdir", "os.remove", "os.rmdir", "os.rename", "os.link", "os.symlink", "os.truncate", "os.chmod", "os.chown",
           "shutil.", "tempfile.", "webbrowser.")


def _installed() -> tuple[str, ...]:
    "Folders of the interpreter, of packages and of this one."
    folders = {sys.prefix, sys.base_prefix, sys.exec_prefix, os.path.realpath(sys.base_prefix), str(TESTS.parent / "nonspeech7k"), str(TESTS),
               str(TESTS.parent / "nonspeech7k.egg-info")} # the last: how an editable installation tells of this package
    return tuple(folder.rstrip("/") + "/" for folder in sorted(folders))


def watch(events:list) -> None:
    "From now on, add what is touched to a list: [event, what]."
    installed = _installed()

    def hook(event:str, arguments:tuple) -> None:
        if event in PLACES:
            place = arguments[0] if arguments else None
            if isinstance(place, int): return # a file that is open already
            place = os.fsdecode(os.fspath(place)) if place is not None else "."
            if not (os.path.abspath(place) + "/").startswith(installed + MACHINE): events.append([event, place])
        elif event.startswith(WATCHED): events.append([event, repr(arguments)[:200]])
    sys.addaudithook(hook)


def opened(function:str, *arguments, before:tuple[str, ...]=("torch", "pandas"), seconds:float=300, **environment:str) -> tuple[object, list[list[str]]]:
    "Run 'module:function' with arguments in a fresh interpreter: its answer, and what it touched."
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "PYTHONDONTWRITEBYTECODE": "1",
                "NONSPEECH7K_PROGRESS": "off", **environment}
    asked = json.dumps([function, list(before), [str(one) if isinstance(one, Path) else one for one in arguments]])
    command = [sys.executable, "-P", "-c", "import doors; doors.answer()"]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, env=settings, timeout=seconds)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def answer() -> None:
    "What the fresh interpreter does."
    from importlib import import_module
    (name, before, arguments), events = json.loads(sys.stdin.read()), []
    for package in before: import_module(package)
    watch(events)
    module, function = name.split(":")
    found = getattr(import_module(module), function)(*arguments)
    print("\n" + json.dumps([found, list(events)]))


def foreign(events:list[list[str]], own:list[Path]=()) -> list[list[str]]:
    "What was touched besides these files and folders, and what lies in them."
    places = [os.path.abspath(place) for place in own]
    inside = lambda what: any(what == place or what.startswith(place.rstrip("/") + "/") for place in places)
    return [[event, what] for event, what in events if event not in PLACES or not inside(os.path.abspath(what))]
