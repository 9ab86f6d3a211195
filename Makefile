# Everything a person needs: make demo, make test, make study STUDY=...
# Each target builds the environment from the lock file first, once.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
CORES ?= all
# processes of make test; each needs up to 2 GB
TEST_PROCESSES ?= 2
# in the order of tests/conftest.py, not of the number of tests in a file
PARALLEL := -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help env demo demo-clean study test test-fast test-load lint format lock schema dag vendor

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

env: $(STAMP) ## Build the environment (.venv) from requirements.lock

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hqsm needs Python 3.11 or newer; run: make env PYTHON=/path/to/python3.11"; exit 1; }
	@echo "[env] creating $(VENV) and installing the locked packages (about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@# not compiled: of 10,000 modules most are never imported, and half a minute goes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## Simulate a small study as raw DICOM, run the whole workflow, print the headline numbers
	@$(BIN)/hqsm demo demo

demo-clean: ## Remove the demo study
	rm -rf demo

study: $(STAMP) ## Run a study folder: make study STUDY=/path/to/study
	@test -d "$(STUDY)" || { echo "there is no folder '$(STUDY)'; name the study: make study STUDY=/path/to/study"; exit 2; }
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --directory "$(STUDY)" --cores $(CORES)

test: $(STAMP) lint ## Lint and run the tests (all but test-load)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(PARALLEL) -m "not slurm and not faults" --ignore tests/workflow/test_lint.py

test-fast: $(STAMP) ## Tests without whole simulated studies
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(PARALLEL) -m "not slow and not slurm and not faults"

test-load: $(STAMP) ## The workflow under faults, and on a Slurm brought up on this machine (root; tests/slurm/cluster.sh install)
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/workflow/test_faults.py tests/workflow/test_generic_profile.py tests/slurm

lint: $(STAMP) ## What CI checks before the tests
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy & types=$$!; \
	  $(BIN)/snakefmt --check Snakefile workflow && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest tests/workflow/test_lint.py; rest=$$?; wait $$types && exit $$rest

format: $(STAMP) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/snakefmt Snakefile workflow

lock: ## Resolve the dependencies again (needs uv)
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --no-emit-find-links pyproject.toml --extra test -o requirements.lock

vendor: ## Fetch the viewer's library again (needs npm); a test compares it with its pinned hash
	cd $$(mktemp -d) && npm pack --silent @niivue/niivue@0.69.0 && tar xzf *.tgz package/dist/niivue.umd.js && \
	  cp package/dist/niivue.umd.js $(CURDIR)/src/hqsm/report/vendor/niivue.umd.js

dag: $(STAMP) ## Draw the rules (docs/figures/rules.svg); needs graphviz
	@study=$$(mktemp -d) && mkdir -p $$study/dicom/sub-01/ses-01 && touch $$study/dicom/sub-01/ses-01/a && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --directory $$study --rulegraph dot 2>/dev/null | dot -Tsvg > docs/figures/rules.svg && \
	  rm -r $$study

schema: $(STAMP) ## Write the JSON schema and the documentation of config.yaml from the parameter types
	@$(BIN)/hqsm schema > workflow/schemas/config.schema.json
	@mkdir -p config && $(BIN)/hqsm schema --markdown > config/README.md
