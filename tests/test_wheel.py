"""The wheel carries the recipes and the pipeline notebooks, and its command works in any folder, away from the repository."""
import os
import shutil
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("settings.ini", "setup.py", "pyproject.toml", "README.md", "LICENSE", "nonspeech7k", "recipes", "nbs/pipeline")


def run(*command, **settings) -> subprocess.CompletedProcess:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, **settings)


def pip(*arguments, **settings) -> None:
    done = run(sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, **settings)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    "The wheel, built from a copy of the repository, without a network and without leaving a build folder behind."
    copy = tmp_path_factory.mktemp("source")
    for source in SOURCES:
        if (ROOT / source).is_dir(): shutil.copytree(ROOT / source, copy / source, ignore=shutil.ignore_patterns("__pycache__"))
        else: shutil.copy(ROOT / source, copy / source)
    pip("wheel", ".", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", copy / "dist", cwd=copy)
    found = list((copy / "dist").glob("nonspeech7k-*.whl"))
    assert len(found) == 1, found
    return found[0]


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    "A folder that holds the installed wheel and nothing else; what it depends on comes from the environment of the tests."
    target = tmp_path_factory.mktemp("installed")
    pip("install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    return target


@pytest.fixture
def elsewhere(installed, tmp_path) -> dict:
    "Settings of a process in an empty folder that finds the installed wheel before the checkout."
    return {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(installed), "NONSPEECH7K_PROGRESS": "off"}}


def test_wheel_is_for_every_platform(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_holds_every_module_recipe_and_pipeline_notebook(wheel):
    names = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    expected = {p.relative_to(ROOT).as_posix() for p in (ROOT / "nonspeech7k").rglob("*.py")}
    expected |= {f"nonspeech7k/resources/recipes/{p.name}" for p in (ROOT / "recipes").glob("*.yaml")}
    expected |= {f"nonspeech7k/resources/pipeline/{p.name}" for p in (ROOT / "nbs" / "pipeline").glob("*.ipynb")}
    expected |= {f"nonspeech7k/resources/{name}" for name in ("kernels.cpp", "spectra.cpp", "vectors.h")}
    expected |= {f"nonspeech7k/resources/page/{name}"
                 for name in ("audit.html.jinja", "macros.html.jinja", "report.html.jinja", "style.css")}
    assert names == expected
    assert "nonspeech7k/resources/recipes/demo.yaml" in names
    stages = ("1_eda", "2_features", "3_training", "4_evaluation")
    assert {f"nonspeech7k/resources/pipeline/{stage}.ipynb" for stage in stages} <= names


def test_wheel_names_its_command_and_its_licence(wheel):
    with ZipFile(wheel) as archive:
        info = {name.split(".dist-info/")[1]: name for name in archive.namelist() if ".dist-info/" in name}
        assert "nonspeech7k=nonspeech7k.cli:main" in archive.read(info["entry_points.txt"]).decode().replace(" ", "")
        metadata = archive.read(info["METADATA"]).decode()
    assert any(name.endswith("LICENSE") for name in info)
    assert "Requires-Python: >=3.11" in metadata and "torch<2.15,>=2.8" in metadata


def test_installed_package_is_the_wheel_and_finds_what_travels_with_it(installed, elsewhere):
    code = ("import nonspeech7k.cli; from nonspeech7k.files import resource; "
            "print(nonspeech7k.cli.__file__, resource('recipes', 'demo.yaml'), resource('pipeline', '1_eda.ipynb'), "
            "resource('page', 'style.css'), sep='\\n')")
    done = run(sys.executable, "-c", code, **elsewhere)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines(): assert Path(line).is_relative_to(installed), f"{line} is not from the wheel"


def test_installed_command_works_in_any_folder(installed, elsewhere):
    command = installed / "bin" / "nonspeech7k"
    done = run(command, "--help", **elsewhere)
    assert done.returncode == 0, done.stderr
    for verb in ("run", "demo", "audit", "train", "predict"): assert verb in done.stdout, f"--help does not list {verb}"
    assert not list(elsewhere["cwd"].iterdir()), "--help must write nothing"


def test_installed_command_ends_a_mistake_with_one_line_and_exit_code_2(installed, elsewhere):
    done = run(installed / "bin" / "nonspeech7k", "run", "no-such-recipe.yaml", **elsewhere)
    assert done.returncode == 2, done.stderr
    assert "no-such-recipe.yaml" in done.stderr and "Traceback" not in done.stderr
