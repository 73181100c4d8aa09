# Needs Python 3.11 or later and nothing else; everything is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ATTACK ?= badnets
SEED ?= 0
ARGS ?=

.PHONY: demo test dev lint clean

demo: $(VENV)/installed  ## poison, train, purify, measure, write the card; ARGS=--full measures more
	$(BIN)/hf-backdoor demo --overwrite --attack $(ATTACK) --seed $(SEED) $(ARGS)

test: $(VENV)/installed-test  ## all tests, two at a time
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

dev: $(VENV)/installed-test
	$(BIN)/pip install -q -c constraints.txt -e ".[dev]"

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf_backdoor needs Python 3.11 or later; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# torch first and pinned: an unpinned one would pull in gigabytes for an accelerator that need not be there.
$(VENV)/installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/pip install -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) runs
