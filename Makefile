# make demo and make test do all set-up themselves. Variables:
#   PYTHON       the interpreter the environment is made with (default python3, 3.11 or later)
#   TORCH_INDEX  index to take torch from; https://download.pytorch.org/whl/cpu gives the small CPU build on Linux
#   PYTEST_ARGS  further arguments for pytest
#   JOBS         test processes, each with one thread (default 2)
#   BENCH_ARGS   further arguments for augrec bench, such as --rows epoch
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
TORCH_INDEX ?=
TORCH := $(shell grep -E '^torch==' constraints.txt)
JOBS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 POLARS_MAX_THREADS=1

.PHONY: help venv demo test lint format pytest oldest bench soak clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

venv: $(READY) ## make .venv with everything pinned in constraints.txt

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "augrec needs Python 3.11 or later; '$(PYTHON)' is missing or older. Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "'$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: sudo apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "Setting up $(VENV) (once; a few minutes)"
ifeq ($(strip $(TORCH_INDEX)),)
	$(PIP) install --quiet --quiet --constraint constraints.txt "$(TORCH)" hatchling editables
else
	# That index carries torch itself; everything torch needs then comes from the usual index, at the pinned versions.
	$(PIP) install --quiet --quiet --no-deps --index-url "$(TORCH_INDEX)" "$(TORCH)"
	$(PIP) install --quiet --quiet --constraint constraints.txt hatchling editables
endif
	$(PIP) install --quiet --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,report]'
	$(PIP) check
	@touch $@

demo: $(READY) ## train on Beauty plain and with plug-ins, print one table
	$(BIN)/python examples/demo.py

test: lint pytest ## lint and every test but the soak tests

lint: $(READY) ## ruff, mypy --strict, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/lint-imports

format: $(READY) ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

pytest: $(READY) ## the tests without the linters
	$(ONE_THREAD) $(BIN)/python -m pytest -m "not soak" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

oldest: ## the tests in .venv-oldest, with the oldest releases that pyproject.toml allows (torch as ever; Python 3.11 or 3.12)
	@$(OLDEST)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(OLDEST)
	$(PYTHON) scripts/oldest.py >$(OLDEST)/constraints.txt
	$(subst $(VENV)/,$(OLDEST)/,$(PIP)) install --quiet $(if $(strip $(TORCH_INDEX)),--no-deps --index-url "$(TORCH_INDEX)") "$(TORCH)"
	$(subst $(VENV)/,$(OLDEST)/,$(PIP)) install --quiet --constraint $(OLDEST)/constraints.txt --editable '.[dev,report,tune,serve,ann]'
	$(ONE_THREAD) PATH="$(CURDIR)/$(OLDEST)/bin:$$PATH" $(OLDEST)/bin/python -m pytest -m "not soak" -n $(JOBS) --dist loadfile $(PYTEST_ARGS)

bench: $(READY) ## us, other libraries and naive references side by side (hours; BENCH_ARGS=--resume goes on; peers in .venv-peers, Python 3.11)
	$(BIN)/augrec bench --out bench-output --peers-dir .venv-peers --curves results $(BENCH_ARGS)

soak: $(READY) ## the long tests: minutes and gigabytes
	$(ONE_THREAD) $(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

clean: ## remove the environment, caches and build results; runs and data stay
	rm -rf $(VENV) $(OLDEST) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .benchmarks
	find src tests examples scripts -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
