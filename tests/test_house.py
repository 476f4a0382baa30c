"""What keeps the house easy to walk through: short rooms and functions, names that mean one thing, one way for the recipe,
and nothing that moved without leaving word, or without giving the same answers as before."""
import ast
import importlib
import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from conftest import SMALL

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nonspeech7k"
FILES = {path.relative_to(ROOT).with_suffix("").as_posix().replace("/", "."): path
         for path in sorted(PACKAGE.rglob("*.py")) if path.name not in ("__init__.py", "_modidx.py")}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def functions(module: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(TREES[module]) if isinstance(node, FUNCTIONS)]


def defined(module: str) -> set[str]:
    "The names of a module's own functions, classes and constants."
    names = set()
    for node in TREES[module].body:
        if isinstance(node, (*FUNCTIONS, ast.ClassDef)): names.add(node.name)
        for target in getattr(node, "targets", []): names |= {part.id for part in ast.walk(target) if isinstance(part, ast.Name)}
    return names


def private(name: str) -> bool: return name.startswith("_") and not name.startswith("__") and name != "_all_"  # nbdev's list of further public names


# Short

@pytest.mark.parametrize("module", FILES)
def test_module_has_at_most_500_lines(module):
    lines = len(FILES[module].read_text(encoding="utf-8").splitlines())
    assert lines <= 500, f"{module}: {lines} lines; give a part of it a room of its own"


@pytest.mark.parametrize("module", FILES)
def test_functions_have_at_most_40_lines(module):
    long = {node.name: node.end_lineno - node.lineno + 1 for node in functions(module) if node.end_lineno - node.lineno >= 40}
    assert not long, f"{module}: {long}; a function is read without scrolling"


@pytest.mark.parametrize("module", [module for module in FILES if module != "nonspeech7k.cli"])  # a command has a parameter for each flag
def test_functions_have_at_most_eight_parameters(module):
    counts = {node.name: len([part for part in node.args.posonlyargs + node.args.args + node.args.kwonlyargs if part.arg not in ("self", "cls")])
              for node in functions(module)}
    many = {name: count for name, count in counts.items() if count > 8}
    assert not many, f"{module}: {many}; what travels together is one object, made once"


# Names

@pytest.mark.parametrize("module", FILES)
def test_no_private_name_of_another_module_is_imported(module):
    taken = [f"{node.module}.{alias.name}" for node in ast.walk(TREES[module]) if isinstance(node, ast.ImportFrom) for alias in node.names
             if private(alias.name)]
    assert not taken, f"{module}: {taken}; what two rooms need is public"


def test_no_private_name_is_defined_in_two_modules():
    places = defaultdict(list)
    for module in FILES:
        for name in defined(module):
            if private(name): places[name].append(module)
    twice = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not twice, f"{twice}; say in each name what it does, or move it to where both can have it"


def target(node: ast.ImportFrom, module: str) -> str:
    "The module that an import names, with its dots written out."
    above = module.split(".")[:-node.level] if node.level else []
    return ".".join(above + ([node.module] if node.module else []))


def at_hand(module: str) -> set[str]:
    "What can be imported from a module without being fetched from elsewhere: its own names, and what it imports itself."
    taken = {alias.asname or alias.name for node in TREES[module].body if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names}
    return defined(module) | taken


@pytest.mark.parametrize("module", FILES)
def test_names_are_imported_from_where_they_stand(module):
    lost = [f"{other}.{alias.name}" for node in ast.walk(TREES[module]) if isinstance(node, ast.ImportFrom)
            for other in [target(node, module)] if other in FILES
            for alias in node.names if alias.name not in at_hand(other)]
    assert not lost, f"{module}: {lost} have moved; import them from their new places"


NAMES = dict(line.split(": ", 1) for line in (ROOT / "tests" / "public_names.txt").read_text(encoding="utf-8").splitlines())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("module", NAMES)
def test_public_names_of_version_0_1_are_found_where_they_were(module):
    room = importlib.import_module(module)
    lost = [name for name in NAMES[module].split() if not hasattr(room, name)]
    assert not lost, f"{module} has lost {lost}; see nbs/moved for how a name leaves word"


# One way for the recipe

WALK = """
import json, sys
from collections import defaultdict
from pathlib import Path
import nonspeech7k
from nonspeech7k.recipe import Recipe
from nonspeech7k.runs.folder import Run, open_run
from nonspeech7k.runs.stages import complete
home, places = str(Path(nonspeech7k.__file__).parent), defaultdict(set)
def note(frame, event, argument):
    code = frame.f_code
    if event != "call" or not code.co_filename.startswith(home): return
    names = code.co_varnames[:code.co_argcount + code.co_kwonlyargcount]
    if any(isinstance(frame.f_locals.get(name), (Recipe, Run)) for name in names if name != "self"):
        places[code.co_filename[len(home) + 1:]].add(code.co_qualname)
sys.setprofile(note)
complete(open_run("demo", sys.argv[1], json.loads(sys.argv[2])))
sys.setprofile(None)
print(json.dumps({room: sorted(names) for room, names in places.items()}))
"""


def small(demo: Path, banks: Path) -> list[str]:
    return [*SMALL[1::2], f"corpus.root={demo}", f"banks={banks}", "device=cpu"]


def test_recipe_visits_no_module_more_than_ten_times(demo, tmp_path):
    settings = {**os.environ, "NONSPEECH7K_PROGRESS": "off", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", WALK, str(tmp_path / "run"), json.dumps(small(demo, tmp_path / "banks"))],
                          capture_output=True, text=True, env=settings, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    visits = {room: len(names) for room, names in json.loads(done.stdout.splitlines()[-1]).items()}
    assert 5 < len(visits) and max(visits.values()) <= 10, f"functions that are handed the recipe or the run: {visits}"


# Same answers

# The last version whose answers these are. A change that means to give other numbers names itself here, and says so in CHANGELOG.md.
REFERENCE = "4c0bd7a51bf8"


@pytest.fixture(scope="module")
def reference(tmp_path_factory) -> Path:
    "The package as it was at the reference."
    archive = subprocess.run(["git", "archive", REFERENCE, "nonspeech7k", "recipes", "nbs"], cwd=ROOT, capture_output=True)
    if archive.returncode: pytest.skip("needs the repository's history")
    folder = tmp_path_factory.mktemp("reference")
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


RUN = """
import json, sys
try:
    from nonspeech7k.runs.folder import open_run
    from nonspeech7k.runs.stages import complete
except ImportError: from nonspeech7k.pipeline import complete, open_run
complete(open_run("demo", sys.argv[1], json.loads(sys.argv[2])))
"""


def test_predictions_are_those_of_the_reference_to_the_byte(demo, reference, tmp_path):
    answers = []
    for name, code in (("before", reference), ("now", ROOT)):
        settings = {**os.environ, "NONSPEECH7K_PROGRESS": "off", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(code)}
        done = subprocess.run([sys.executable, "-c", RUN, str(tmp_path / name), json.dumps(small(demo, tmp_path / f"{name}-banks"))],
                              capture_output=True, text=True, env=settings, cwd=code)
        assert done.returncode == 0, done.stderr
        answers.append((tmp_path / name / "predictions.csv").read_bytes())
    assert answers[0] == answers[1], f"other numbers than at {REFERENCE}"
