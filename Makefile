# Everything works on a machine that has only Python 3.11 (or newer) and make.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
SYSTEM ?=
REPORT ?=
BASE   ?= python:3.11-slim
INPUTS ?= 100000
SEED   ?= 0
ONLY   ?=
UCI    ?=

.PHONY: help setup dev demo test check format faults bench fuzz learn rivals docs browse image pretrained tables pictures clean

help:            ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "phlogiston needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	@touch $@

setup: $(VENV)/.runtime  ## create .venv and install what requirements.txt pins
dev: $(VENV)/.dev        ## the same with the tools for tests and checks

demo: setup      ## train at CPU scale on built-in data and write runs/demo/report.html
	$(BIN)/phlogiston demo --out runs/demo

test: dev        ## the test suite: correctness, and learning checks of seconds
	OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest -n 2

check: dev       ## lint, format check, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: dev      ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: dev      ## the fault suite: kills, full disks, lost folders; rewrites docs/results/faults.json and the tables
	PHLOGISTON_FAULTS=1 OMP_NUM_THREADS=1 $(BIN)/python -P -m pytest tests/faults -m "faults or not faults"
	$(BIN)/python docs/tables.py

bench: dev       ## speed ratios within one run; rewrites docs/results/bench.json and its table
	$(BIN)/python -P -m pytest benchmarks -m bench -q -s; \
	reached=$$?; $(BIN)/python docs/tables.py && exit $$reached

fuzz: dev        ## damaged files for every reader (INPUTS=1000000 SEED=1); what gets out is reported by kind
	OMP_NUM_THREADS=1 $(BIN)/python -P tests/fuzz/fuzz.py --inputs $(INPUTS) --seed $(SEED)

learn: dev       ## the full CPU recipes (SYSTEM=drmm selects one); rewrites docs/results and the tables
	$(BIN)/python -P -m pytest tests/learn -m learn --timeout 0 -s $(if $(SYSTEM),-k $(SYSTEM)); \
	reached=$$?; $(BIN)/python docs/tables.py && exit $$reached

rivals:          ## NGBoost, CatBoost, CTGAN and a copula in an environment of their own (UCI=FOLDER of the tables); rewrites docs/results/rivals.json
	$(PYTHON) -m venv .rivals
	.rivals/bin/python -m pip install --quiet -r requirements-rivals.txt
	cd benchmarks/rivals && OMP_NUM_THREADS=1 ../../.rivals/bin/python tables.py
	$(if $(UCI),cd benchmarks/rivals && OMP_NUM_THREADS=1 ../../.rivals/bin/python regression.py $(abspath $(UCI)))

docs: dev        ## the documentation site, build/site/index.html; warnings are errors
	$(BIN)/python -m pip install --quiet -r requirements-docs.txt
	$(BIN)/python -P -m sphinx -q -W --keep-going -b html -c docs . build/site

browse:          ## the site (and REPORT=runs/x/report.html) in headless Chromium: console, layout, accessibility
	$(BIN)/python -m pip install --quiet -r requirements-browse.txt
	$(BIN)/python -P docs/check_site.py build/site $(REPORT)

image:           ## the Docker image that runs the demo, where docker and its base image can be had
	@if ! docker info >/dev/null 2>&1; then echo "image not built: no docker daemon here"; \
	elif ! docker image inspect $(BASE) >/dev/null 2>&1 && ! docker pull --quiet $(BASE); then \
	  echo "image not built: $(BASE) is not here and cannot be pulled"; \
	else docker build --tag phlogiston . && docker run --rm phlogiston phlogiston systems; fi

pretrained: setup ## train the systems that come with the package (ONLY=drmm/poses selects some); an hour on one core. QUICK=1 tries every recipe in a minute and keeps nothing
	OMP_NUM_THREADS=1 $(BIN)/python -P -m phlogiston.systems.pretrained.make $(if $(QUICK),--quick) $(ONLY)
	$(if $(QUICK),,$(BIN)/python docs/tables.py)

tables: setup    ## rewrite the tables of README and docs from docs/results, the checklist, the ways through the code
	$(BIN)/python docs/tables.py
	$(BIN)/python docs/checklist.py
	$(BIN)/python -P docs/traces.py

pictures: setup  ## redraw the pictures of README and docs from real runs
	$(BIN)/python docs/pictures.py

clean:           ## remove caches and build leftovers (never runs/)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
