# Four commands: setup, demo, test, and lint (the quick half of test). All need Python >= 3.11 and nothing else.
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
# Compiled kernels: written once by `make setup`, read by everything below.
export NUMBA_CACHE_DIR ?= $(CURDIR)/$(VENV)/cache/numba
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: setup demo test lint clean

setup: $(STAMP)

# --no-compile: Python writes the bytecode of what is really imported, a fifth of all.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Unisono needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Say which: make setup PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --no-build-isolation -e .
	$(BIN)/python -m unisono.main.warm
	@touch $@

demo: $(STAMP)
	$(BIN)/unisono demo $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/house

# The quick checks first; pytest runs the house rules of tests/house among the others.
test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
