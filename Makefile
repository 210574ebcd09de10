# `make help` lists the commands. Everything runs from .venv with the versions of constraints.txt.

# The first of these that runs and is new enough; `make PYTHON=/path/to/python3.12 ...` overrides it.
PYTHON ?= $(shell for name in python3.11 python3.12 python3.13 python3; do \
	if $$name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$name; break; fi; done)
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP := $(RUN) -m pip --disable-pip-version-check
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test lint format clean

help:  ## list these commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP)  ## make .venv with the pinned versions (about 6 GB); redone when pyproject.toml or constraints.txt change

# Torch goes first: with it in place, nothing that follows can pull another build of it.
$(STAMP): pyproject.toml constraints.txt
	@if ! { [ -n "$(PYTHON)" ] && $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; } 2>/dev/null; then \
		echo "make: Python 3.11 or newer is needed and '$(or $(PYTHON),python3)' is not it; name one: make PYTHON=/path/to/python3.11 setup" >&2; exit 1; fi
	@test -x $(RUN) || { echo "make: creating $(VENV) with $$($(PYTHON) --version)"; $(PYTHON) -m venv $(VENV); }
	@echo "make: installing the pinned packages into $(VENV); the first time takes several minutes"
	@$(PIP) install -qq 'pip==26.3'
	@$(PIP) install -qq -c constraints.txt torch torchvision
	@$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: setup  ## run the whole pipeline on real photographs; options in ARGS, such as ARGS=--fresh
	$(RUN) -m jobs.quickstart quickstart $(ARGS)

# What needs no Ray runs in a process per core, of up to 3 GiB each; what needs it shares one cluster, behind that.
test: setup  ## run every test that needs no GPU; options for pytest in ARGS, the fast ones: ARGS="-m 'not ray and not slow'"
ifeq ($(strip $(ARGS)),)
	@failed=0; \
	$(RUN) -m pytest -m "not ray" -n logical --maxprocesses 8 --dist worksteal || failed=1; \
	$(RUN) -m pytest -m ray || failed=1; exit $$failed
else
	$(RUN) -m pytest $(ARGS)
endif

lint: setup  ## ruff, formatting, import floors and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports --no-logo
	@if command -v node > /dev/null; then echo "$(RUN) -m pyright"; $(RUN) -m pyright; \
		else echo "make: types are not checked, since pyright needs Node on the PATH" >&2; fi

format: setup  ## let ruff format and fix what it can
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

clean:  ## remove caches; keeps .venv, runs/ and data/
	rm -rf .pytest_cache .ruff_cache .import_linter_cache *.egg-info
	find glotok_ray jobs tests -name __pycache__ -type d -prune -exec rm -rf {} +
