# `make repro` tunes the model, `make test` checks the code. Both set up .venv first, and again when a pin changes.
PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup repro test lint clean

help:  ## show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## / — /'

setup: .venv/.ready  ## create .venv with the pinned dependencies

repro: setup  ## run the pipeline: whatever changed since the last run, and nothing else
	dvc repro

# Tiny models: a second thread only waits, and on a busy machine for long. A second process does not; each takes 2 GiB.
test: export OMP_NUM_THREADS := 1
test: .venv/.ready-dev  ## run every test
	python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: .venv/.ready-dev  ## style and types
	ruff check .
	ruff format --check .
	mypy

clean:  ## remove the environment, checkpoints and what validate and split remember; data, models and DVC's cache stay
	rm -rf .venv .ckpt .cache

.venv/.ready: pyproject.toml constraints.txt requirements-base.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Retune needs Python 3.11 or newer; name one with make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv
	python -m pip install --quiet -c constraints.txt --upgrade pip
	python -m pip install -c constraints.txt --group pipeline
	python -m pip install --no-deps --require-hashes -r requirements-base.txt
	python -m tools.plots_template
	touch $@

.venv/.ready-dev: .venv/.ready
	python -m pip install -c constraints.txt --group dev
	touch $@
