# Two commands: `make demo` and `make test`, each complete on a machine with Python 3.11 to 3.13 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
OUT ?= runs/demo
ROWS ?= 3000
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help demo test quick check lint format types dev bench clean

help:  ## Say what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "graticule needs Python 3.11 to 3.13, $(PYTHON) is $$($(PYTHON) --version 2>&1); try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/.dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) install -q -c constraints.txt -e ".[dev]"
	@touch $@

demo: $(VENV)/.demo  ## Install, probe a language model for places and dates, write a page
	$(BIN)/graticule demo --rows $(ROWS) --out $(OUT)

dev: $(VENV)/.dev  ## Install for development, with the git hooks
	@if [ -d .git ]; then $(BIN)/pre-commit install; fi

# two workers with a thread each: most tests are small, and threads on small matrices mostly wait
test: $(VENV)/.dev  ## Install and run the whole suite, with coverage of the four rooms
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --cov=plugin --cov=hooks --cov=probes --cov=sims --cov-report=term

quick: $(VENV)/.dev  ## Install and run the tests that take less than half a second, in some two minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

lint: $(VENV)/.dev  ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

format: $(VENV)/.dev  ## Format and mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Type checkers can follow a strict editable install only, which does not see new modules: so it is made
# anew here, and the default one put back afterwards.
types: $(VENV)/.dev  ## Check types
	rm -rf build
	$(PIP) install -q --no-deps --config-settings editable_mode=strict -e .
	mkdir -p build/types && cp -rL build/__editable__*/graticule build/types/graticule
	$(BIN)/basedpyright; status=$$?; \
	$(PIP) install -q --no-deps -e . && rm -rf build && exit $$status

check: lint types test  ## What continuous integration runs

bench: $(BIN)/python  ## Install what the benchmarks compare with
	$(PIP) install -q -c constraints.txt -e ".[bench]"
	@echo "now: $(BIN)/python benchmarks/NAME.py: capture, ridge, mlp, holdouts, proximity, prompts, sims, sae, gather, language_sae, resampling, recovery, architectures"

clean:  ## Remove the environment and what was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .coverage
