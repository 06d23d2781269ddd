# The front door. `make help` lists what there is; .ci/run calls only these.
#
# Everything Python lives in .venv, everything built in build/. Only setup, test, asan, tsan, fuzz and peers may install or
# download something; none of them asks a question.

PYTHON ?= python3
SECONDS ?= 60
JOBS ?= 2
ARGS ?=
PEERS := $(or $(FASTKV_PEERS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fastkv/peers)

PY := .venv/bin/python
CORE := $(shell find cpp src -not -path 'cpp/tests/*' -not -path 'cpp/fuzz/*' \
          \( -name '*.cc' -o -name '*.h' -o -name '*.pyx' -o -name '*.pxd' \))
CXX_FILES = $(shell find cpp bench -name '*.cc' -o -name '*.h')

# The tests find the real etcds by these: FASTKV_ETCD37 is the 3.7 server, the rest comes from PATH.
export FASTKV_PEERS := $(PEERS)
export PATH := $(PATH):$(PEERS)/debian/usr/bin:$(PEERS)/tools
ifneq ($(wildcard $(PEERS)/3.7.3/bin/etcd),)
export FASTKV_ETCD37 ?= $(PEERS)/3.7.3/bin/etcd
endif

.PHONY: help setup run test huge lint format bench bench-server bench-cluster asan tsan fuzz sim wheel peers clean system-test
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' | awk -F'\t' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: build/.built  ## install what is missing, build; ends with a working .venv/bin/fastkv
	@echo "ready: .venv/bin/fastkv"

.venv/.installed: pyproject.toml
	@PYTHON=$(PYTHON) bash tools/system.sh build
	@test -x $(PY) || { echo "making .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing Python packages into .venv and building (a minute or two the first time)"
	@$(PY) -m pip install -q --disable-pip-version-check 'setuptools>=77' 'Cython>=3.3,<4'
	@$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[server,cli,dev]'
	@touch $@

build/.built: .venv/.installed setup.py $(CORE)
	@echo "building the native engine"
	@$(PY) setup.py -q build_ext --inplace
	@mkdir -p build && touch $@

run: setup  ## start a node on 127.0.0.1:2379 (ARGS="--data-dir x ..." are passed on)
	@exec .venv/bin/fastkv serve $(ARGS)

system-test:
	@PYTHON=$(PYTHON) bash tools/system.sh test

test: setup system-test  ## all tests, the C++ ones and short fuzz runs included (JOBS=2 files at a time; ARGS="-k name" are pytest's)
	$(PY) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

huge: setup  ## values of up to 2 GiB: some 10 GiB of memory and a few minutes
	$(PY) -m pytest -m huge tests/embedded/test_huge.py $(ARGS)

lint: setup  ## ruff, mypy, clang-format: quiet or failed
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	@.venv/bin/clang-format --dry-run -Werror $(CXX_FILES) && echo "clang-format: $(words $(CXX_FILES)) files are as they should be"

format: setup  ## let ruff and clang-format rewrite what they can
	$(PY) -m ruff check --fix-only -q .
	$(PY) -m ruff format -q .
	@.venv/bin/clang-format -i $(CXX_FILES)

bench: setup  ## the embedded store beside lmdb, sqlite3, rocksdict, dict and the Python engine (ARGS="--keys 100000 ...")
	@$(PY) -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[bench]'
	$(PY) bench/embedded.py --svg build/embedded.svg $(ARGS)

bench-server: setup  ## the server beside a real etcd 3.7 (from `make peers`), an hour (ARGS="--quick": minutes)
	$(PY) bench/server.py --svg build/server.svg --json build/server.json $(ARGS)

bench-cluster: setup  ## three members beside three of a real etcd 3.7, some ten minutes (ARGS="--rounds 1 --seconds 3": a first look)
	$(PY) bench/cluster.py --json build/cluster.json $(ARGS)

asan: system-test  ## the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@$(MAKE) --no-print-directory cpp-tests-$@

tsan: system-test  ## the C++ tests under ThreadSanitizer
	@$(MAKE) --no-print-directory cpp-tests-$@

cpp-tests-%:
	@cd cpp && cmake --preset $* >/dev/null
	@cmake --build build/cpp/$* -j$$(getconf _NPROCESSORS_ONLN) -- -s
	@ctest --test-dir build/cpp/$* --output-on-failure --no-tests=error

fuzz: system-test  ## every fuzz target for SECONDS (default 60) each; the corpus stays in build/corpus
	@cd cpp && cmake --preset fuzz >/dev/null
	@cmake --build build/cpp/fuzz -j$$(getconf _NPROCESSORS_ONLN) -- -s
	@set -e; for target in build/cpp/fuzz/*_fuzz; do \
	  name=$$(basename $$target); mkdir -p build/corpus/$$name; echo "== $$name, $(SECONDS) s"; \
	  $$target -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix=build/$$name- \
	    build/corpus/$$name 2>&1 | tail -n 12; \
	  test $${PIPESTATUS[0]} -eq 0; done
fuzz: SHELL := /bin/bash

sim: SECONDS_SIM = $(if $(filter file,$(origin SECONDS)),3600,$(SECONDS))
sim: setup  ## simulated clusters for SECONDS (default 3600), or one run: SEED=7 KIND=log FAULTS=crash,loss (docs/simulation.md)
	@PYTHONPATH=tests $(PY) -m sim SECONDS=$(SECONDS_SIM) SEED=$(SEED) KIND=$(KIND) FAULTS=$(FAULTS) CANARY=$(CANARY) TRACE=$(TRACE)

wheel: setup  ## source distribution, a wheel from it, and that wheel tried in an empty environment
	@rm -rf dist build/wheel-venv
	@$(PY) -m build -q --no-isolation --outdir dist .
	@$(PY) -m venv build/wheel-venv
	@build/wheel-venv/bin/python -m pip install -q --disable-pip-version-check --no-index dist/*.whl
	@cd build/wheel-venv && bin/python -I ../../tests/smoke/smoke.py
	@ls -l dist

peers:  ## the real etcds that tests compare with (3.7 needs Go, Debian's) and a Go client, into ~/.cache/fastkv/peers
	@bash tools/peers.sh

clean:  ## remove what was built (.venv and downloaded peers stay)
	@rm -rf build dist src/*.egg-info src/fastkv/_core*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
