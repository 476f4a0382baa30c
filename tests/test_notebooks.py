"""The house rules: the notebooks are the source of truth, clean and small, and every module stands on the floors below its own."""
import ast
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "nonspeech7k"
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if not any(part[0] in "._" for part in p.relative_to(ROOT).parts))
PIPELINE = [p for p in NOTEBOOKS if p.parent.name == "pipeline"]
MOST_BYTES = 300_000

_parser = ConfigParser(delimiters=["="])
_parser.read(ROOT / "settings.ini", encoding="utf-8")
SETTINGS = _parser["DEFAULT"]


def name(path: Path) -> str:
    "A file as it is called in the repository, for messages and test names."
    return path.relative_to(ROOT).as_posix()


def cells(notebook: Path) -> list[dict]:
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


# Which notebook makes which module, from the notebooks' own `default_exp`. The number of the folder is the floor, the number of the
# notebook its place there, so the order of '0_ground/10_files' as text is the order in which they stand on one another.
FLOORS = {}
for _notebook in NOTEBOOKS:
    for _cell in cells(_notebook):
        _found = re.search(r"^#\|\s*default_exp\s+(\S+)", source(_cell), re.MULTILINE) if _cell["cell_type"] == "code" else None
        if _found: FLOORS[f"nonspeech7k.{_found[1]}"] = _notebook.relative_to(ROOT / "nbs").with_suffix("").as_posix()
MODULES = {module: PACKAGE.parent / (module.replace(".", "/") + ".py") for module in FLOORS}


# Notebooks and modules say the same

@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    "The package as the notebooks export it now, made in a copy that holds nothing but the notebooks."
    copy = tmp_path_factory.mktemp("export")
    shutil.copy(ROOT / "settings.ini", copy)
    for notebook in NOTEBOOKS:
        (copy / name(notebook)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebook, copy / name(notebook))
    environment = {key: value for key, value in os.environ.items() if key != "IN_TEST"}  # with it, nbdev_export does nothing
    done = subprocess.run([sys.executable, "-c", "from nbdev.doclinks import nbdev_export; nbdev_export.__wrapped__()"],
                          cwd=copy, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"nbdev_export failed:\n{done.stderr}"
    return copy / "nonspeech7k"


def test_every_notebook_makes_its_own_module():
    assert len(FLOORS) == len(set(FLOORS.values())), "a notebook with two default_exp lines"
    rooms = [p.relative_to(ROOT / "nbs").with_suffix("").as_posix() for p in NOTEBOOKS if re.match(r"\d_|moved$", p.parent.name)]
    assert sorted(FLOORS.values()) == rooms, "a notebook in a floor's folder needs a default_exp of its own, and only those have one"
    misnamed = [room for room in rooms if not room.startswith("moved/") and not re.fullmatch(r"\d_[a-z]+/[1-9]\d_[a-z0-9]+", room)]
    assert not misnamed, f"{misnamed}: a room is called FLOOR_name/PLACE_module, with one digit for the floor and two for the place"


def test_drawing_of_the_house_has_every_room():
    drawing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("```text\n 9_cli")[2].partition("```")[0]
    rooms = {module.rpartition(".")[2] for module, room in FLOORS.items() if not room.startswith("moved/")}
    assert not (missing := sorted(room for room in rooms if not re.search(rf"\b{room}\b", drawing))), f"CONTRIBUTING.md does not draw {missing}"


def test_every_place_is_taken_once():
    places = [re.match(r"\d_\w+/\d\d", room)[0] for room in FLOORS.values() if not room.startswith("moved/")]
    assert not (twice := {place for place in places if places.count(place) > 1}), f"two notebooks stand at {sorted(twice)}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_equals_what_its_notebook_exports(module, exported):
    here, there = MODULES[module], exported / MODULES[module].relative_to(PACKAGE)
    assert here.is_file(), f"{name(here)} is missing; run: make export"
    assert there.is_file(), f"{FLOORS[module]} exports nothing"
    assert here.read_bytes() == there.read_bytes(), f"{name(here)} differs from nbs/{FLOORS[module]}.ipynb; edit the notebook and run: make export"


def test_no_module_without_a_notebook(exported):
    made = {p.relative_to(exported) for p in exported.rglob("*.py")}
    stale = sorted(name(p) for p in PACKAGE.rglob("*.py") if p.relative_to(PACKAGE) not in made)
    assert not stale, f"no notebook exports these any more; delete them: {' '.join(stale)}"


def test_symbol_index_is_up_to_date(exported):
    assert (PACKAGE / "_modidx.py").read_bytes() == (exported / "_modidx.py").read_bytes(), "nonspeech7k/_modidx.py is out of date; run: make export"


def test_version_is_that_of_settings():
    assert f'__version__ = "{SETTINGS["version"]}"' in (PACKAGE / "__init__.py").read_text(encoding="utf-8").splitlines(), "run: make export"


# Notebooks are clean and small

@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_is_clean(notebook):
    from execnb.nbio import nb2str
    from nbdev.clean import clean_nb
    text = notebook.read_text(encoding="utf-8")
    content = json.loads(text)
    clean_nb(content, allowed_metadata_keys=SETTINGS["allowed_metadata_keys"].split(),
             allowed_cell_metadata_keys=SETTINGS["allowed_cell_metadata_keys"].split())
    assert nb2str(content) == text, f"{name(notebook)} is not clean; run: make export"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_is_small(notebook):
    size = notebook.stat().st_size
    assert size < MOST_BYTES, f"{name(notebook)}: {size:,} bytes, more than {MOST_BYTES:,}; draw fewer or smaller figures"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_holds_no_error(notebook):
    failed = [output.get("ename") or output["name"] for cell in cells(notebook) for output in cell.get("outputs", [])
              if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert not failed, f"{name(notebook)} was saved with {failed}; mend it and run it again"


@pytest.mark.parametrize("notebook", PIPELINE, ids=name)
def test_pipeline_notebook_has_parameters_and_exports_nothing(notebook):
    tagged = [cell for cell in cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1, f"{name(notebook)}: papermill needs one cell tagged 'parameters', here are {len(tagged)}"
    exporting = [source(cell) for cell in cells(notebook) if re.search(r"^#\|\s*(export|default_exp)", source(cell), re.MULTILINE)]
    assert not exporting, f"{name(notebook)} only calls the library; move this to a library notebook:\n{exporting[0]}"


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_links_between_pages_lead_somewhere(notebook):
    text = "\n".join(source(cell) for cell in cells(notebook) if cell["cell_type"] == "markdown")
    links = re.findall(r"\]\(([^()\s]+)\)", re.sub(r"^```.*?^```|`[^`\n]*`", "", text, flags=re.DOTALL | re.MULTILINE))
    broken = [link for link in links if not re.match(r"[a-z]+:|#", link) and not (notebook.parent / link.split("#")[0]).exists()]
    assert not broken, f"{name(notebook)} links to {broken}, which are not there"


# Notebooks show before they tell

ROOMS = [p for p in NOTEBOOKS if re.match(r"\d_", p.parent.name)]
MOST_LINES, USUAL_LINES, MOST_UNSHOWN = 40, 10, 3
# Rooms that do not keep a rule yet, and how far they have come. An entry may only shrink; one that is not needed goes.
NOT_YET: dict[str, dict[str, float]] = {}


def is_export(cell: dict) -> bool:
    return cell["cell_type"] == "code" and bool(re.search(r"^#\|\s*export", source(cell), re.MULTILINE))


def statements(cell: dict) -> list[str]:
    "A cell's lines without directives and blank ones."
    return [line for line in source(cell).splitlines() if line.strip() and not line.startswith("#|")]


def only_imports(cell: dict) -> bool:
    body = ast.parse("\n".join(statements(cell))).body
    guarded = [inner for node in body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" for inner in node.body]
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) or isinstance(node, ast.If) and guarded for node in [*body, *guarded])


def shows(cell: dict) -> bool:
    "Whether a reader sees a figure, a table or a sound player here."
    if cell["cell_type"] == "markdown": return bool(re.search(r"^\|[\s:|-]+\|$|!\[", source(cell), re.MULTILINE))
    return any({"image/png", "image/svg+xml", "text/html"} & output.get("data", {}).keys() for output in cell.get("outputs", []))


def measured(notebook: Path) -> dict[str, float]:
    "How a library notebook keeps the rules: lines of its export cells, cells that follow one another unused, cells before something is seen."
    lines, unshown, most_unshown, exports, seen = [], 0, 0, 0, None
    for cell in cells(notebook):
        if seen is None and shows(cell): seen = exports
        if cell["cell_type"] != "code": continue
        if not is_export(cell):
            unshown = 0
            continue
        lines.append(len(statements(cell)))
        if only_imports(cell): continue
        exports, unshown = exports + 1, unshown + 1
        most_unshown = max(most_unshown, unshown)
    return {"median lines": median(lines or [0]), "most lines": max(lines or [0]), "cells before a use": most_unshown,
            "cells before something is seen": exports if seen is None else seen}


LIMITS = {"median lines": USUAL_LINES, "most lines": MOST_LINES, "cells before a use": MOST_UNSHOWN, "cells before something is seen": 1}


@pytest.mark.parametrize("notebook", ROOMS, ids=name)
def test_notebook_shows_before_it_tells(notebook):
    limits = LIMITS | NOT_YET.get(name(notebook), {})
    over = {rule: (value, limits[rule]) for rule, value in measured(notebook).items() if value > limits[rule]}
    assert not over, f"{name(notebook)}: (is, at most) {over}; split its cells, and use and show what they define"


def test_ratchet_is_tight():
    slack = {path: rules for path, rules in NOT_YET.items() if rules != {rule: measured(ROOT / path)[rule] for rule in rules}
             or any(value <= LIMITS[rule] for rule, value in rules.items())}
    assert not slack, f"these rooms have come further; tighten or remove their entries in NOT_YET: {slack}"


@pytest.mark.parametrize("notebook", ROOMS, ids=name)
def test_first_cell_says_what_the_room_gives(notebook):
    first = source(cells(notebook)[0]).strip().splitlines()
    assert first[0].startswith("# ") and any(line.startswith("> ") for line in first[1:]), f"{name(notebook)} begins with a title and one sentence as a quote"


# README.md

def test_readme_is_what_the_index_makes():
    done = subprocess.run([sys.executable, "tools/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_readme_is_plain_markdown_with_links_that_lead_somewhere():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert not re.search(r"^\s*#\|", text, re.MULTILINE), "a directive of nbdev is left in README.md"
    assert "base64" not in text, "README.md holds an embedded file"
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    broken = [link for link in links if not re.match(r"[a-z]+:|#", link) and not (ROOT / link.split("#")[0]).exists()]
    assert not broken, f"README.md links to files that are not there: {broken}; mend them in nbs/index.ipynb"


# No machine's own paths

# Spelled in pieces, so that this file does not find itself.
OWN_PATH = re.compile(r"(?<![\w.)}-])/(?:" + "|".join(("home", "root", "work", "tmp", "Users")) + r")/[\w.-]+")
TEXTS = [p for pattern in ("*.md", "*.ini", "*.txt", "*.py", "*.toml", "Makefile", "recipes/*.yaml", "data/*.md", "tests/**/*.py", "tools/**/*.py",
                           "benchmarks/**/*.py", "benchmarks/**/*.json", "nonspeech7k/**/*.py", ".github/**/*.yml", ".ci/*")
         for p in sorted(ROOT.glob(pattern)) if p.is_file()]


def written(notebook: Path) -> str:
    "All that a person reads in a notebook: sources and text outputs, without pictures."
    texts = []
    for cell in cells(notebook):
        texts.append(source(cell))
        for output in cell.get("outputs", []):
            texts += ["".join(output.get("text", []))] + ["".join(value) for kind, value in output.get("data", {}).items() if kind.startswith("text/")]
    return "\n".join(texts)


@pytest.mark.parametrize("path", TEXTS + NOTEBOOKS, ids=name)
def test_no_path_of_one_machine(path):
    text = written(path) if path.suffix == ".ipynb" else path.read_text(encoding="utf-8")
    found = [line.strip()[:160] for line in text.splitlines() if OWN_PATH.search(line)]
    assert not found, f"{name(path)} holds a path that exists on one machine only:\n" + "\n".join(found)


def test_own_paths_are_recognised():
    for text in ("open('/" + "home/ann/x.wav')", "see /" + "tmp/x", "file:///" + "root/x"): assert OWN_PATH.search(text), text
    for text in ("https://example.org/" + "home/x", "../" + "work/x", "/kaggle/working/x", "{folder}/" + "tmp/x"): assert not OWN_PATH.search(text), text


# Floors

def imports(path: Path, module: str) -> list[str]:
    "Every name that a file imports, with relative imports written out; `from a import b` gives both a and a.b."
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import): names += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            above = module.split(".")[:-node.level] if node.level else []
            base = ".".join(above + ([node.module] if node.module else []))
            names += [base] + [f"{base}.{alias.name}" for alias in node.names]
    return names


def test_relative_imports_are_written_out(tmp_path):
    file = tmp_path / "splits.py"
    file.write_text("import json\nfrom ..files import UserError\nfrom . import audit\nfrom nonspeech7k.recipe import Recipe\n", encoding="utf-8")
    found = imports(file, "nonspeech7k.data.splits")
    assert found[:2] == ["json", "nonspeech7k.files"]
    assert "nonspeech7k.data.audit" in found and "nonspeech7k.recipe" in found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_imports_from_lower_floors_only(module):
    above = sorted({other for other in imports(MODULES[module], module) if other in FLOORS and FLOORS[other] >= FLOORS[module]})
    assert not above, f"{FLOORS[module]} imports {above}, which stand on its own floor or above; move the shared part down"


FORBIDDEN = {"nbdev": "many machines have no nbdev", "fastcore": "many machines have no fastcore", "execnb": "many machines have no execnb",
             "pickle": "a pickle can run code", "dill": "a pickle can run code", "cloudpickle": "a pickle can run code", "joblib": "it writes pickles"}
PICKLING = {"torch.load", "torch.save", "pd.read_pickle", "pandas.read_pickle"}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_module_needs_neither_nbdev_nor_pickle(module):
    found = {top: FORBIDDEN[top] for other in imports(MODULES[module], module) if (top := other.split(".")[0]) in FORBIDDEN}
    assert not found, f"{FLOORS[module]} imports {found}"
    calls = [node for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    pickling = [ast.unparse(call) for call in calls if ast.unparse(call.func) in PICKLING or ast.unparse(call.func).endswith(".to_pickle")
                or any(key.arg == "allow_pickle" and ast.unparse(key.value) != "False" for key in call.keywords)]
    assert not pickling, f"{FLOORS[module]} reads or writes pickles: {pickling}; use safetensors, JSON or CSV"


@pytest.mark.parametrize("module", ["nonspeech7k", "nonspeech7k.files", "nonspeech7k.progress", "nonspeech7k.recipe", "nonspeech7k.data.manifest",
                                    "nonspeech7k.data.layouts", "nonspeech7k.data.synthesis", "nonspeech7k.cli"])
def test_import_is_light(module):
    code = f"import sys, {module}; print(*sorted({{'torch', 'torchaudio', 'matplotlib'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.strip(), f"import {module} loads {done.stdout.strip()}; import it where it is used"
