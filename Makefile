# `make` alone prints the targets below. Everything runs in .venv, made at first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a CPU build that requirements.txt admits; on a GPU machine: make run TORCH=torch
TORCH ?= torch==2.13.0
# iterations of make iterate, at most
N ?= 3

.DEFAULT_GOAL := help
.PHONY: help install run iterate test check format clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

install: $(VENV)/installed  ## .venv with everything in requirements.txt

# --no-compile: pip would compile every module of torch and its kin, used or not
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	@echo "installing into $(VENV), two minutes …"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) '$(TORCH)'
	@$(PIP) -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	@echo "installing what tests and checks need …"
	@$(PIP) -r requirements-dev.txt
	@touch $@

run: install  ## the three scripts on the sample data, twice: about 10 minutes the first time
	@$(BIN)/python examples/run_demo.py

iterate: install  ## prepare, train and evaluate in turn on the sample data, at most N iterations (make iterate N=4)
	@$(BIN)/python iterate.py --demo N=$(N)

# two workers with one thread each took a third of the time of one worker with two threads; the embedded model is trained
# before, with every thread
test: $(VENV)/installed-dev  ## every test
	@$(BIN)/python -c "from workbench import embedded; embedded.ensure()"
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(VENV)/installed-dev  ## format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/installed-dev  ## rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove the demo's outputs and caches, nothing of yours
	rm -rf datasets/demo results/demo evaluation_results/demo .cache .pytest_cache .mypy_cache .ruff_cache
