# edgeopt. Needs python3 (3.11 or newer) with its venv module, and make; the rest is installed into .venv.
#
# PYTHON   the interpreter that .venv is made with, at `make venv` only: make PYTHON=python3.12 clean venv
# ARGS     more arguments for test, bench and demo: make test ARGS="-k oracle"
#
# torch: pip takes the CPU build where its configuration offers one, else the CUDA build (several GB); how to offer
# one is said in constraints.txt.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip -qq --no-input --disable-pip-version-check install -c constraints.txt

# A .venv works only in the folder it was made in, so the stamp holds that folder: one that is missing or tells
# another folder (a copied tree) is out of date, whatever its time.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

.PHONY: help venv demo test lint bench bench-simplify bench-random bench-order dist clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST))

venv: $(STAMP)  ## make .venv with everything in it, or renew it when the requirements have changed

# The stamp goes first and comes back last: what is interrupted in between starts again from an empty folder.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("edgeopt needs Python 3.11 or newer, but " + sys.executable + " is " + sys.version.split()[0] + ": name another with make PYTHON=...")'
	@if [ "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" ] && $(BIN)/python -c '' 2>/dev/null; then \
		echo "$(VENV): requirements may have changed, renewing"; rm -f $@; \
	else \
		echo "$(VENV): installing everything (takes minutes: torch is large, see constraints.txt)"; $(PYTHON) -m venv --clear $(VENV); \
	fi
	@$(PIP) pip setuptools
	@extras=$$($(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"], sep=",")') && \
		$(PIP) --no-build-isolation -e ".[$$extras]"
	@echo "$(CURDIR)" > $@
	@echo "$(VENV): ready, with $$($(BIN)/python --version)"

demo: $(STAMP)  ## run the embedded example, end to end
	@$(BIN)/edgeopt demo $(ARGS)

test: $(STAMP)  ## run the tests
	@$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

lint: $(STAMP)  ## check style, types and the import direction
	@$(BIN)/ruff check --quiet && echo "ruff check: ok"
	@$(BIN)/ruff format --check --quiet && echo "ruff format: ok"
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

bench: $(STAMP)  ## run the benchmarks (ARGS="--rivals FOLDER": beside other tools' int8 files)
	@$(BIN)/python -m tests.bench $(ARGS)

bench-simplify: $(STAMP)  ## run the benchmark of simplify (ARGS="--peers-python PATH": beside other tools)
	@$(BIN)/python -m tests.bench.simplify $(ARGS)

bench-random: $(STAMP)  ## run 5,000 random graphs through simplify (minutes)
	@$(BIN)/python -m tests.bench.random_graphs $(ARGS)

bench-order: $(STAMP)  ## report what another order of the nodes saves in memory
	@$(BIN)/python -m tests.bench.order $(ARGS)

dist: $(STAMP)  ## build the sdist and the wheel into dist/
	@rm -rf build dist *.egg-info
	@$(BIN)/python -m build --no-isolation --quiet && ls dist

clean:  ## remove everything that the targets and tools have made, .venv too
	@rm -rf $(VENV) build dist edgeopt-demo *.egg-info .coverage .hypothesis
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
