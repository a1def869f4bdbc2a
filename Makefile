# Everything sets itself up in .venv: `make serve` on a fresh machine is enough.
PYTHON ?= python3
BIN := .venv/bin
DISTRIBUTIONS := . plugins/lllms-mock plugins/lllms-llamacpp
STAMP := .venv/installed

.PHONY: serve test lint types bench clean

serve: $(STAMP)  ## offer the plugins' own models at http://127.0.0.1:3000
	$(BIN)/python -m lllms_core serve

test: $(STAMP)  ## run every test of the core and the plugins
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)  ## this server against the plain llama.cpp loop, as ratios taken in one run
	$(BIN)/python -m lllms_core bench --raw

clean:
	rm -rf .venv

# Installed anew only when a pyproject.toml changes. llama-cpp-python is compiled once (about 5 minutes on two cores).
$(STAMP): $(DISTRIBUTIONS:%=%/pyproject.toml)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev]' -e plugins/lllms-mock -e plugins/lllms-llamacpp
	touch $@
