# Everything here runs inside $(VENV); a target that needs it builds it first. Run `make` for the list.
SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3.11
VENV   ?= .venv
RUNS   ?= runs
EXP    ?=
STUDY  ?=
ARGS   ?=
JOBS   ?= 2
PROMPT ?=
export PROMPT

BIN   := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP   := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help setup train compare study generate tensorboard miniature test test-all test-extras test-exact bench lint format clean clean-all \
        require-experiment require-study require-prompt

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  \033[36m%-12s\033[0m %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo 'Variables: EXP (a name from experiments/), STUDY (from experiments/studies/), ARGS (passed on as they are), PROMPT, JOBS, PYTHON, VENV, RUNS.'

setup: $(STAMP) ## create the virtual environment and install hn with the tested versions

# torch comes first: it is by far the largest download and its version decides which wheels fit beside it.
$(STAMP): pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || command -v $(PYTHON) >/dev/null || \
	  { echo "$(PYTHON) was not found: install Python 3.11 or name another with PYTHON=..." >&2; exit 2; }
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt $$(grep -E '^(torch|torchvision)==' constraints.txt)
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

require-experiment:
	@[ -n '$(EXP)' ] && [ -f 'experiments/$(EXP).yaml' ] || \
	  { echo "EXP='$(EXP)' names no experiment; available:" \
	         "$$(cd experiments && find . -maxdepth 1 -name '*.yaml' | sed 's|^\./||; s|\.yaml$$||' | sort | xargs)" >&2; exit 2; }

require-study:
	@[ -n '$(STUDY)' ] && [ -f 'experiments/studies/$(STUDY).yaml' ] || \
	  { echo "STUDY='$(STUDY)' names no study; available:" \
	         "$$(cd experiments/studies && ls *.yaml | sed 's|\.yaml$$||' | sort | xargs)" >&2; exit 2; }

require-prompt:
	@[ -n "$$PROMPT" ] || { echo 'PROMPT is empty: make generate EXP=... PROMPT="a photo of three stars"' >&2; exit 2; }

train: require-experiment $(STAMP) ## train an experiment: make train EXP=name [ARGS="--trainer.max_steps=100"]
	$(BIN)/hn train --config experiments/$(EXP).yaml $(ARGS)

compare: require-experiment $(STAMP) ## compare an experiment with its baselines: make compare EXP=name
	$(BIN)/hn compare --config experiments/$(EXP).yaml $(ARGS)

study: require-study $(STAMP) ## train an experiment for each value of an option: make study STUDY=rank
	$(BIN)/hn study --config experiments/studies/$(STUDY).yaml $(ARGS)

generate: require-experiment require-prompt $(STAMP) ## make images: make generate EXP=name PROMPT="a photo of three stars" [ARGS=...]
	$(BIN)/hn generate --config experiments/$(EXP).yaml --prompt "$$PROMPT" $(ARGS)

tensorboard: $(STAMP) ## look at the runs in the browser
	$(BIN)/tensorboard --logdir $(RUNS) $(ARGS)

miniature: $(STAMP) ## train what is missing of data/miniature, or all of it again, from nothing: make miniature ARGS=--force
	$(BIN)/python -m hn.miniature.recipe $(ARGS)

# One thread a process: several with two each on two cores are slower than one. Files in the order of tests/conftest.py.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: $(STAMP) ## run the fast tests, in minutes: make test [JOBS=2] [ARGS="-k resume"]
	$(PYTEST) -m 'not slow' $(ARGS)

test-all: $(STAMP) ## run all tests, also those of several processes, kills, compilers and browsers
	$(PYTEST) $(ARGS)

# Beside the environment, not in it: installed packages change what others do when they are imported.
EXTRAS := $(VENV)/extras
$(EXTRAS): constraints.txt | $(STAMP)
	$(PIP) install --no-deps -c constraints.txt --target $@ --upgrade \
	  flatbuffers ml-dtypes onnx onnx-ir onnxruntime onnxscript torch-fidelity torchao
	@touch $@

test-extras: $(STAMP) $(EXTRAS) ## run the tests that need optional packages, which are installed beside the environment
	PYTHONPATH=$(abspath $(EXTRAS)) $(PYTEST) -m extras $(ARGS)

# Vector instructions below this CPU's own, with which test-all runs them: those that it lacks would crash. Then two
# threads, which do not spin.
test-exact: $(STAMP) ## run the tests of equal bits on the kernels of several kinds of CPU, and with two threads
	@own="$$($(BIN)/python -c 'import torch; print(torch.backends.cpu.get_cpu_capability().lower())')"; \
	tests="$$(grep -rl 'pytest\.mark\.exact' tests)"; \
	run() { echo "$$*"; env OMP_NUM_THREADS=1 "$$@" -q -m exact $$tests $(ARGS); }; \
	pytest="$(BIN)/python -m pytest"; workers="-n $(JOBS) --dist loadfile"; \
	for kernels in default:SSE41 avx2:AVX2 avx512:AVX512_CORE; do \
	  [ "$${kernels%:*}" != "$$own" ] || break; \
	  run ATEN_CPU_CAPABILITY="$${kernels%:*}" ONEDNN_MAX_CPU_ISA="$${kernels#*:}" $$pytest $$workers; \
	done; \
	run HN_TEST_THREADS=2 OMP_WAIT_POLICY=PASSIVE $$pytest

bench: $(STAMP) ## measure speed and memory: make bench [ARGS="inference --rounds 20"]
	$(BIN)/python -m benchmarks $(ARGS)

lint: $(STAMP) ## check style, likely mistakes and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## mend what lint can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove build products and caches
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path './$(VENV)' -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean ## remove the virtual environment and all runs too
	rm -rf $(VENV) $(RUNS)
