# Every target sets up what it needs on a fresh machine: git, make and Python >= 3.11 are enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lab app lint bench fuzz chaos clean
.DEFAULT_GOAL := help

.PHONY: help
help:
	@echo "make demo    phantoms, the demo study, its table, figure and report"
	@echo "make test    every test, every notebook"
	@echo "make lab     JupyterLab"
	@echo "make app     the model on a web page on this machine"
	@echo "make lint    ruff on code and notebooks, mypy on lib and benchmarks"
	@echo "make bench   speed, as ratios measured in one run"
	@echo "             SECTION=NAME measures one section; make bench scale: 112,120 films"
	@echo "make fuzz    N=10000 mutated files of every kind: all are used, or refused by name"
	@echo "make chaos   MINUTES=20 of studies whose processes are killed: nothing is lost"

# The stamp is newer than what decides the environment: a change of either installs again.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version). Try: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): torch and the rest, 5 to 7 GB; a few minutes"
	@$(PIP) torch torchvision
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	@$(BIN)/cxr data phantom dataset_phantom
	@$(BIN)/cxr run studies/demo.yaml --jobs 2
	@$(BIN)/cxr report studies/demo.yaml

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lab: $(VENV)/.installed
	$(BIN)/jupyter lab

app: $(VENV)/.installed
	@$(BIN)/python app/prepare.py
	@$(BIN)/streamlit run app/app.py

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# `make bench scale`: the second goal names the section
SECTION ?= $(filter scale,$(MAKECMDGOALS))
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks.run $(SECTION)

.PHONY: scale
scale: bench
	@:

N ?= 10000
FUZZ_SEED ?= 0
fuzz: $(VENV)/.installed
	OMP_NUM_THREADS=1 PYTHONPATH=tests $(BIN)/python -m fuzz.run --count $(N) --seed $(FUZZ_SEED) --out results/fuzz.csv

MINUTES ?= 20
chaos: $(VENV)/.installed
	PYTHONPATH=. $(BIN)/python tests/chaos.py --minutes $(MINUTES)

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
