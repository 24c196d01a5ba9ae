# `make quickstart`: raw text to a model that writes. `make test`: everything that CI checks.
# VENV can be set to build the environment elsewhere; PYTHON to name an interpreter.
VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	if $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; exit; fi; done)
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed

.PHONY: setup quickstart lint test

setup: $(STAMP)

$(STAMP): pyproject.toml
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no Python >= 3.11 with venv was found on PATH; install one, or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; fi
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (once, and again when pyproject.toml changes) ..."
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

quickstart: $(STAMP)
	@$(BIN)/python -m llm fit --config quickstart

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest
