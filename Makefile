# `make help` says what there is. Everything runs in this folder's own .venv, installed from uv.lock.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
BIN := .venv/bin
TOOLS := .venv-tools
MLOPS := $(BIN)/airflow-mlops

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
SHELL := /bin/bash
# Without bytecode every process would compile all of its imports again.
unexport PYTHONDONTWRITEBYTECODE
unexport VIRTUAL_ENV

.PHONY: help demo up down status clean distclean setup test tests thorough test-spark test-containers test-kubernetes lint docs format bench \
    drills

help:  ## this list
	@echo 'airflow_mlops: guarded models on Apache Airflow'
	@awk 'BEGIN {FS = ":.*## "} \
	    /^## / {print "\n" substr($$0, 4)} \
	    /^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'Ports: AIRFLOW_PORT=8080 MLFLOW_PORT=5000 SERVING_GRPC_PORT=8500 SERVING_REST_PORT=8501 LOGS_PORT=8793'
	@echo 'Example: make demo AIRFLOW_PORT=18080'

## The demo
demo: setup  ## from real flights to a served prediction, on a stack that it starts; again: quick
	@$(MLOPS) demo run

up: setup  ## start the stack only: Airflow, MLflow, model server
	@$(MLOPS) stack up

down:  ## stop the stack; its data stays
	@if [ -x $(BIN)/airflow-mlops ]; then $(MLOPS) stack down; else echo 'nothing is installed, so nothing runs'; fi

status: setup  ## what runs, and where
	@$(MLOPS) stack status

clean: down  ## stop the stack and remove all that the demo and the tools wrote
	rm -rf .mlops site docs/reference .mypy_cache .ruff_cache .pytest_cache .import_linter_cache dist
	find airflow_mlops dags feature_repo tests bench -name __pycache__ -prune -exec rm -rf {} +

distclean: clean  ## clean, and remove the installed packages
	rm -rf .venv .venv-spark $(TOOLS)

## Development
setup: .venv/.installed  ## install everything into .venv, from uv.lock; nothing to do when it is current

test: setup  ## all checks and tests, side by side, the longest first
	@$(MAKE) --no-print-directory -j 2 lint tests

tests: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: setup  ## ruff, mypy, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: setup  ## the guides as a site, with a page of every class: site/index.html
	$(BIN)/sphinx-build -q -W --keep-going -b html docs site

format: setup  ## reformat, and fix what ruff can fix
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

test-spark: setup  ## the tests that need Java and pyspark (400 MB), in an environment of their own
	UV_PROJECT_ENVIRONMENT=$(CURDIR)/.venv-spark UV_PYTHON_DOWNLOADS=never $(TOOLS)/bin/uv sync --frozen --all-extras --no-extra gpu \
	    --python $(PYTHON) --project $(CURDIR)
	$(CURDIR)/.venv-spark/bin/pytest -m spark

test-containers: setup $(TOOLS)/bin/podman-compose  ## build the images, bring docker/compose.yaml up, kill each container
	PATH=$(CURDIR)/$(TOOLS)/bin:$$PATH $(BIN)/pytest -s -m containers tests/containers

test-kubernetes: setup  ## build a Kubernetes from Debian's sources, and train in its pods
	$(BIN)/pytest -s -m kubernetes tests/kubernetes

drills: setup  ## replay the outages, with all three legs of each
	$(BIN)/pytest -n 2 --dist loadfile -v -m 'drill'

thorough: setup  ## what `make test` leaves out: slow legs of drills, and property tests with all their examples
	THOROUGH=1 $(BIN)/pytest -n 2 --dist loadfile -m 'slow or property'

bench: setup  ## measure the figures that the guides quote; says which bound was missed
	@missed=; for file in bench/[a-z]*.py; do echo "== $$file"; $(BIN)/python $$file || missed="$$missed $$file"; done; \
	    test -z "$$missed" || { echo "== missed a bound:$$missed"; exit 1; }

.venv/.installed: uv.lock pyproject.toml | $(TOOLS)/bin/uv
	UV_PYTHON_DOWNLOADS=never $(TOOLS)/bin/uv sync --frozen --all-extras --no-extra spark --no-extra gpu --compile-bytecode \
	    --python $(PYTHON) --project $(CURDIR)
	@touch $@

# uv, in an environment of its own so that installing the project cannot remove it.
$(TOOLS)/bin/uv:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || { \
	    echo '$(PYTHON) is not Python 3.11, 3.12 or 3.13: install one, and name it: make $(MAKECMDGOALS) PYTHON=python3.12'; \
	    exit 1; }
	@$(PYTHON) -m venv $(TOOLS) || { \
	    echo '$(PYTHON) cannot make virtual environments: install its venv module (Debian: python3-venv)'; \
	    rm -rf $(TOOLS); exit 1; }
	@echo '*' > $(TOOLS)/.gitignore
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check 'uv>=0.8'

# What Docker has built in.
$(TOOLS)/bin/podman-compose: | $(TOOLS)/bin/uv
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check podman-compose
