# Everything a person types here. `make` alone lists it.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
XLA := .venv-xla/bin
XLA_INSTALLED := .venv-xla/.installed

.DEFAULT_GOAL := help
.PHONY: help run test lint test-xla faults venv export readme bench baselines clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

run: $(INSTALLED) ## install, make the demo corpus and take it through the whole pipeline
	@echo "== The demo corpus, in data/demo"
	@$(BIN)/nonspeech7k demo data/demo
	@echo "== The pipeline with recipes/demo.yaml, in runs/demo"
	@$(BIN)/nonspeech7k run recipes/demo.yaml --out runs/demo

test: export NONSPEECH7K_PROGRESS = off
test: lint ## install and test: style and types, the notebooks, then whole runs, packaging and house rules
	@echo "== The notebooks, two at a time (nbdev_test)"
	@OMP_NUM_THREADS=1 $(BIN)/nbdev_test --path nbs --n_workers 2 --do_print
	@echo "== What no notebook can hold, two files at a time (pytest tests)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests -n 2 --dist loadfile

lint: $(INSTALLED) ## look over notebooks and tests (ruff) and the types of the package (pyrefly), in seconds
	@echo "== Style (ruff) and types (pyrefly)"
	@$(BIN)/ruff check --quiet
	@$(BIN)/pyrefly check --summary=none --output-format=min-text

test-xla: $(XLA_INSTALLED) ## install torch_xla into .venv-xla and test training on it, with a CPU in the TPU's place
	@$(XLA)/python -m pytest tests_xla

faults: $(INSTALLED) ## spoil 20,000 files for every door and attack runs; counts into benchmarks/results, some hours
	@OMP_NUM_THREADS=1 NONSPEECH7K_PROGRESS=off $(BIN)/python tests/faults

bench: $(INSTALLED) ## measure this machine's speeds against a plain loop into benchmarks/results, about half an hour
	@$(BIN)/python -m benchmarks.cpu
	@$(BIN)/python -m benchmarks.trace

baselines: $(INSTALLED) ## train every network on the same folds of real recordings into benchmarks/results, some hours
	@$(BIN)/python -m benchmarks.baselines
	@$(BIN)/python -m benchmarks.baselines --speed

venv: $(INSTALLED) ## install into .venv; done by `run` and `test` where needed

# The stamp is written last, so an installation that was broken off is taken up again.
$(INSTALLED): constraints.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ...")'
	@echo "== Installing into .venv: about 5 GB, most of it PyTorch; pip says nothing for some minutes"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# An environment of its own: torch_xla fits one version of PyTorch only, and not the newest. Linux on x86_64.
$(XLA_INSTALLED): constraints-xla.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 14) else "torch_xla needs Python 3.11 to 3.13; say which: make PYTHON=python3.12 test-xla")'
	@echo "== Installing into .venv-xla: about 8 GB, most of it PyTorch; pip says nothing for some minutes"
	@$(PYTHON) -m venv .venv-xla
	@$(XLA)/python -m pip install -q --disable-pip-version-check -c constraints-xla.txt -e . torch_xla pytest
	@touch $@

export: $(INSTALLED) ## write the modules of nonspeech7k/ from the notebooks, and clean the notebooks
	@$(BIN)/nbdev_export
	@$(BIN)/nbdev_clean

readme: $(INSTALLED) ## write README.md from nbs/index.ipynb
	@$(BIN)/python tools/readme.py

clean: ## remove the demo corpus, the demo run and build leftovers; no other run, recording or .venv
	rm -rf data/demo runs/demo build dist .pytest_cache
	find nonspeech7k nbs tests tests_xla tools -name __pycache__ -type d -prune -exec rm -rf {} +
