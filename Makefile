# The commands that people and CI share. Every target sets up what it needs; `make` alone lists them.
#
# pip decides where packages come from: its configuration and PIP_INDEX_URL / PIP_EXTRA_INDEX_URL are honoured, none is
# set here. constraints.txt pins torch exactly, so that an index that offers a CPU build under that version is used.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG := $(VENV)/install.log

# Ray turns token authentication on by itself once a token file exists; here everything stays on this machine.
RAY_AUTH_MODE ?= disabled
MLFLOW_DISABLE_TELEMETRY ?= true
export RAY_AUTH_MODE MLFLOW_DISABLE_TELEMETRY

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help install demo test check docs bench

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: $(STAMP) ## build .venv (again only when pyproject.toml or constraints.txt change)

demo: $(STAMP) ## post-train the embedded model and show before and after
	@$(BIN)/rl-motion demo

test: export HF_HUB_OFFLINE = 1
test: $(STAMP) ## run the tests (those that need a GPU are skipped without one)
	@$(BIN)/pytest -q

check: $(STAMP) ## lint, formatting, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(STAMP) ## measure speed and memory against the goals, half an hour on two idle cores (docs/benchmarks.md)
	@$(BIN)/python jobs/bench/bench.py

docs: $(STAMP) ## check the documents: links resolve, commands in the README exist
	@$(BIN)/pytest -q tests/unit/test_docs.py

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "got $$($(PYTHON) --version 2>&1 || true); want Python 3.11 or newer; do: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "got $(PYTHON) without venv and ensurepip; want both; do: apt-get install python3-venv, or make $(MAKECMDGOALS) PYTHON=<another Python>" >&2; exit 2; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "creating $(VENV)"; $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing into $(VENV): about 2.5 GB with a CPU build of torch, a few minutes (details: $(LOG))"
	@set -o pipefail; \
	$(BIN)/python -m pip install --no-input --progress-bar off -c constraints.txt -e '.[dev]' 2>&1 | tee $(LOG) | { \
	  n=0; while read -r line; do case "$$line" in \
	    Collecting*|Processing*) n=$$((n + 1)); if [ $$((n % 25)) = 0 ]; then echo "  $$n packages found"; fi ;; \
	    "Installing collected"*) echo "  $$n packages found, unpacking" ;; \
	    ERROR*) echo "  $$line" >&2 ;; esac; done; } || { \
	  echo "pip could not install; want every line of constraints.txt from your index; do: read $(LOG), set PIP_INDEX_URL or PIP_EXTRA_INDEX_URL, and run make again" >&2; exit 1; }
	@touch $@
