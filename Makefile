# make demo: install and run the quickstart. make test: install and run the tests. make check: what every change must pass.
# make cluster: a whole cluster on loopback, the quickstart on it, and nights that find a planted fault.
# PYTHON names the interpreter that makes .venv: Python 3.11, 3.12 or 3.13.
PYTHON ?= python3
BIN := .venv/bin
STORE ?= results
TESTS ?=
installed := .venv/.installed

.PHONY: demo cluster test check lint types contracts constraints picture clean

demo: $(installed)
	$(BIN)/sharelm run examples/quickstart.toml --store $(STORE)

cluster: $(installed)
	infra/local-cluster/demo.sh

# One thread of torch for each of two test processes: more would wait for each other, spinning.
test: .venv/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(TESTS)

check: lint types contracts test

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/mypy

contracts: .venv/.installed-dev
	$(BIN)/lint-imports

# pip, not uv, and torch first and by version: where a CPU build of it is configured or at hand, pip takes that one.
.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "ShareLM needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	$(PYTHON) -m venv .venv

$(installed): pyproject.toml constraints.txt | .venv/bin/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@touch $@

.venv/.installed-dev: $(installed)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

# Upgrade within pyproject.toml's ranges and pin what comes.
constraints:
	$(PYTHON) -m venv build/constraints
	build/constraints/bin/pip install --quiet 'torch>=2.11,<2.14'
	build/constraints/bin/pip install --quiet '.[dev]'
	{ grep '^#' constraints.txt; build/constraints/bin/pip freeze --exclude sharelm | sed 's/^torch==\(.*\)+.*/torch==\1/'; } > build/constraints.txt
	mv build/constraints.txt constraints.txt

clean:
	rm -rf .venv build
