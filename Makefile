# Every target installs what it needs into .venv first, once: again only after pyproject.toml or constraints.txt changed.
#   make test PYTHON=python3.12    another Python for a .venv that does not exist yet
# What pyproject.toml allows is tested in environments of their own below build/, made anew every time by uv.
#   make test-lowest LOWEST_PYTHON=/opt/python3.10/bin/python    where uv does not find Python 3.10, and may not load it

PYTHON ?= python3
LOWEST_PYTHON ?= 3.10
NEWEST_PYTHON ?= 3.13
VENV := .venv
BIN := $(VENV)/bin
CORE := $(VENV)/.installed-core
DEV := $(VENV)/.installed-dev
DECLARED := pyproject.toml constraints.txt
# Test processes at once. Two cores, the whole suite: about a quarter of an hour with two.
WORKERS ?= 2

# The theme warns of a version that pyproject.toml does not allow.
MKDOCS := DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-lowest test-newest coverage lint types docs docs-serve notebooks bench gpu release-check clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(CORE) ## both stages of the method on rendered streets; leaves demo.png
	$(BIN)/hybrid-encoder demo --output demo.png

test: $(DEV) ## run the tests; ARGS="-m 'not slow'" for the quick ones
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

test-lowest: $(BIN)/uv ## the same on the lowest versions that pyproject.toml allows, on Python 3.10
	$(call test-on,build/lowest,$(LOWEST_PYTHON),lowest-direct)

test-newest: $(BIN)/uv ## the same on the newest versions that there are, on Python 3.13
	$(call test-on,build/newest,$(NEWEST_PYTHON),highest)

coverage: $(DEV) ## run the tests, and fail where they reach too few lines; build/coverage/html shows which
	$(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term --cov-report=html $(ARGS)

define test-on
	$(BIN)/uv venv --quiet --clear --seed --python $(2) $(1)
	$(BIN)/uv pip install --quiet --python $(1)/bin/python --resolution $(3) -e '.[dev]'
	$(1)/bin/python -m pytest -n $(WORKERS) $(ARGS)
endef

lint: $(DEV) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory types

types: $(DEV) ## mypy alone
	$(BIN)/mypy
	$(BIN)/mypy tests benchmarks tools setup.py

docs: $(DEV) ## build the documentation site into build/site; a warning is an error
	$(MKDOCS) build --strict

docs-serve: $(DEV) ## show the site at http://localhost:8000, and again whenever a page changes
	$(MKDOCS) serve

notebooks: $(DEV) ## run the scripts behind docs/notebooks, and write these with their outputs
	$(BIN)/python tests/test_notebooks.py

bench: $(DEV) ## measure speed
	$(BIN)/python -m benchmarks

gpu: $(DEV) ## on a machine with a GPU: its tests, speed, training steps; into gpu-results
	$(BIN)/python -m benchmarks gpu

release-check: $(DEV) $(BIN)/uv ## what must hold before a release; REPOSITORY=https://... DATE=YYYY-MM-DD to rehearse
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[release]'
	$(BIN)/python tools/release_check.py --repository "$(REPOSITORY)" --date "$(DATE)" --tag "$(TAG)"

clean: ## remove .venv and everything that was built
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src adapters tests -name __pycache__ -type d -prune -exec rm -rf {} +

# Distributions may leave ensurepip out of venv; the pip outside can fill in. Editable installs need pip 21.3.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
	    $(PYTHON) -m pip --python $(BIN)/python install --quiet pip; }
	$(BIN)/python -m pip install --quiet 'pip>=23.1'

$(BIN)/uv: | $(BIN)/python
	$(BIN)/python -m pip install --quiet uv

$(CORE): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(DEV): $(DECLARED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $(CORE) $@
