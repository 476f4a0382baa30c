"""Packaging. Everything about the package stands in settings.ini; the recipes and the pipeline notebooks,
which live outside the package in the repository, are copied into the wheel here."""
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent
_parser = ConfigParser(delimiters=["="])
_parser.read(HERE / "settings.ini", encoding="utf-8")
settings = _parser["DEFAULT"]
EXTRAS = {key.removesuffix("_requirements"): value.split() for key, value in settings.items()
          if key.endswith("_requirements") and key != "dev_requirements"}
# what converts to TensorFlow Lite asks for older versions of what the rest needs: an environment of its own
ALL = sum((EXTRAS[name] for name in EXTRAS if name != "tflite"), [])


class BuildWithNotebooks(build_py):
    """Adds `recipes/` and `nbs/pipeline/` to the package, where `nonspeech7k.files.resource` finds them."""

    def run(self):
        super().run()
        for source, pattern in (("recipes", "*.yaml"), ("nbs/pipeline", "*.ipynb")):
            target = Path(self.build_lib) / settings["lib_name"] / "resources" / Path(source).name
            target.mkdir(parents=True, exist_ok=True)
            for path in sorted((HERE / source).glob(pattern)):
                shutil.copy2(path, target / path.name)


setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=settings["keywords"],
    author=settings["author"],
    author_email=settings["author_email"],
    url=settings["git_url"],
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Sound/Audio :: Analysis",
    ],
    packages=find_packages(include=["nonspeech7k", "nonspeech7k.*"]),
    package_data={settings["lib_name"]: ["resources/*.cpp", "resources/*.h", "resources/page/*"]},
    cmdclass={"build_py": BuildWithNotebooks},
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require=EXTRAS | {"all": ALL, "dev": settings["dev_requirements"].split() + ALL},  # the tests use all of it
    entry_points={"console_scripts": settings["console_scripts"].split(), "nbdev": ["nonspeech7k=nonspeech7k._modidx:d"]},
    zip_safe=False,
)
