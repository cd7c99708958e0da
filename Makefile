# Everything here works on a machine with Python 3.11 or newer, make and git.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
HOME_DIR ?= .tidemill
PORT ?= 8000
MLFLOW_PORT ?= 5000
# Number of test processes; 0 runs the tests in one process.
TEST_PROCESSES ?= 2
PYTEST_ARGS ?=
# Without this, each new process compiles its imports again, which takes seconds with MLflow.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: docs screenshots help up demo test test-all lint format bench-serving bench-drift bench-retraining clean

help:  ## List the targets.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

up: $(VENV)/.standard  ## Start MLflow, the API and a worker; train, promote and serve a first model.
	@$(BIN)/tidemill up --home $(HOME_DIR) --port $(PORT) --mlflow-port $(MLFLOW_PORT)

demo: $(VENV)/.standard  ## Run the whole workflow once in a temporary folder and print the results.
	@$(BIN)/tidemill demo

test: $(VENV)/.dev  ## Run the test suite (without slow and chaos tests).
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile -m "not slow and not chaos" $(PYTEST_ARGS)

test-all: $(VENV)/.dev  ## Run every test.
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.dev  ## Check style, types and import layers.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## Format the code.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-serving: $(VENV)/.dev  ## Benchmark serving against all peers (installs them; slow).
	$(BIN)/python -m benchmarks.serving

bench-drift: $(VENV)/.dev  ## Measure false alarms and power of the drift checks.
	$(BIN)/python -m benchmarks.drift

docs: $(VENV)/.dev  ## Build the site of docs/ into site/; warnings are errors.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --clean

screenshots: $(VENV)/.dev  ## Take screenshots of all console pages into screenshots/ (needs Chromium).
	$(BIN)/python scripts/screenshots.py --out screenshots --docs docs

bench-retraining: $(VENV)/.dev  ## Benchmark retraining policies on streams with known drift.
	$(BIN)/python -m benchmarks.retraining

clean:  ## Remove the environment and generated files.
	rm -rf $(VENV) .venv-slim .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/.standard $(VENV)/.dev: $(VENV)/.%: pyproject.toml | $(VENV)/bin/python
	@sh scripts/install.sh $(VENV) $*
	@touch $@
	@if [ $* = dev ]; then touch $(VENV)/.standard; fi

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Tidemill needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@$(PYTHON) -m venv $(VENV)
