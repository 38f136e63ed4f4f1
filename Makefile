# finetree: `make help` lists the verbs. A fresh clone needs python3.11+, make and a package index; the tests the npm registry.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-print-directory
.ONESHELL:
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
UV := .bootstrap/bin/uv
BIN := .venv/bin
BUF := ../$(BIN)/buf
# A file's tests share a process and with it what they set up once (a running suite, a model).
PYTEST := $(BIN)/python -m pytest --quiet --dist loadfile
MEMBERS := $(wildcard protos/pyproject.toml clients/*/pyproject.toml services/*/pyproject.toml services/trainer/*/pyproject.toml)
CONTRACT := $(shell find protos/finetree_api protos/vendor -name '*.proto' 2>/dev/null)

export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv
unexport VIRTUAL_ENV
# Dozens of processes of the tests import torch: 4.6 s each where its modules are kept compiled, else 7.3.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup run test test-ci test-unit test-integration test-robustness soak upgrade conformance check check-code check-contract check-lock generate reference version build release clean

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-17s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# ---------------------------------------------------------------------------------------------------- environment

setup: .venv/.ready  ## build .venv from uv.lock (again only when the lock changed)
	@:

.bootstrap/.ready: Makefile
	@if ! $(UV) --version 2>/dev/null | grep -q '^uv $(UV_VERSION)'; then
	  echo "setup: uv $(UV_VERSION)"
	  for python in python3.11 python3.12 python3.13 python3.14 python3 none; do
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
	  done
	  [ $$python != none ] || { echo "setup: no python3.11 or newer on PATH; install one" >&2; exit 1; }
	  $$python -m venv --clear .bootstrap
	  .bootstrap/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	fi
	touch $@

# torch is installed by pip, at the locked version, so that a machine whose pip is set up with CPU wheels (find-links or
# an index of its own) takes those and leaves 3 GB of CUDA libraries out; elsewhere pip takes the index's CUDA build.
.venv/.ready: .bootstrap/.ready uv.lock pyproject.toml $(MEMBERS)
	@echo "setup: the locked environment"
	cuda="torch $$(sed -nE 's/^name = "(nvidia-.*|cuda-.*|triton)"$$/\1/p' uv.lock | grep -v '^nvidia-ml-py$$')"
	$(UV) sync --quiet --frozen --inexact --all-packages --all-groups --no-group conformance --all-extras --python .bootstrap/bin/python $$(printf ' --no-install-package %s' $$cuda)
	echo "setup: torch"
	torch="$$(sed -nE '/^name = "torch"$$/{n;s/^version = "(.*)"$$/torch==\1/p}' uv.lock)"
	.bootstrap/bin/python -m pip --python $(BIN)/python install --quiet --disable-pip-version-check --root-user-action=ignore "$$torch"
	touch $@

# The trackers that the tests of sinks talk to need other versions of common packages than ours.
.trackers/.ready: .bootstrap/.ready tests/integration/cli/trackers.txt
	@echo "setup: MLflow and W&B for the tests of sinks"
	$(UV) venv --quiet --clear --python .bootstrap/bin/python .trackers
	$(UV) pip install --quiet --python .trackers/bin/python --require-hashes -r tests/integration/cli/trackers.txt
	touch $@

# ------------------------------------------------------------------------------------------------------------ use

run: setup  ## start a demonstration of the whole suite on this machine
	@$(BIN)/finetree demo

# ---------------------------------------------------------------------------------------------------------- tests

UNIT := tests/unit tests/contract tests/conformance/buf tests/conformance/typescript
INTEGRATION := tests/integration
ROBUSTNESS := tests/robustness tests/fuzz

test: setup .trackers/.ready  ## every tier of the test suite, in one run (budget 10 min on two cores)
	@$(call tier,every tier,$(UNIT) $(INTEGRATION) $(ROBUSTNESS))

test-ci: PYTEST := $(BIN)/python tests/run_twice.py --quiet --dist loadfile
test-ci: test  ## make test, where up to five tests that failed are run once more, alone (docs/decisions/0079)

test-unit: setup  ## unit and contract tests alone
	@$(call tier,unit + contract,$(UNIT))

test-integration: setup .trackers/.ready  ## real servers and workers on loopback
	@$(call tier,integration,$(INTEGRATION))

test-robustness: setup  ## kill, fill, cut and fuzz
	@$(call tier,robustness + fuzz,$(ROBUSTNESS))

soak: setup  ## the long campaign: a thousand kills, every crash state, recipes and ladders, the seeded bugs, 10,000 seeds (an hour and more)
	@export FINETREE_RANDOM_KILLS=900 FINETREE_ROUNDS=5 FINETREE_REAL_KILLS=10 FINETREE_REAL_POINTS=99 FINETREE_CRASH_STATES=2500 FINETREE_SEED=0
	$(BIN)/python -m pytest --quiet --timeout 7200 -s tests/robustness/campaign tests/robustness/power
	unset FINETREE_CRASH_STATES FINETREE_SEED
	FINETREE_LEADER_KILLS=25 $(BIN)/python -m pytest --quiet --timeout 7200 -s tests/robustness/trainer/test_replicas.py
	FINETREE_NODE_KILLS=20 $(BIN)/python -m pytest --quiet -s tests/robustness/cluster/test_node_campaign.py
	FINETREE_RECIPES=4000 FINETREE_LADDERS=20 FINETREE_ONE_TRUTH=20 FINETREE_MESSAGES=2000 $(BIN)/python -m pytest --quiet --timeout 7200 -n 2 tests/fuzz
	$(BIN)/python tests/robustness/seeded_bugs.py
	$(BIN)/python tests/robustness/simulation/run.py 1 10000 > soak-simulation.jsonl

upgrade: setup  ## upgrade from the previous release with jobs running, both installed (two minutes)
	@$(BIN)/python tests/robustness/upgrade/upgrade.py

conformance: setup  ## the Go client too: Go from the package index, its modules from Debian or GO_MODULES=proxy
	@echo "conformance: Go"
	$(UV) sync --quiet --frozen --inexact --only-group conformance
	$(call tier,conformance,tests/conformance/go)

# $(call tier,NAME,FOLDERS): run tests and print the time they took. Four processes share two cores, since tests often
# wait for a server or a program; only the first imports the training libraries (tests/conftest.py).
define tier
	folders="$(wildcard $(2))"
	if [ -z "$$folders" ]; then echo "$(1): no folder among $(2)" >&2; exit 1; fi
	echo "== $(1)"
	start=$$SECONDS
	$(PYTEST) -n 4 $$folders
	echo "== $(1): $$((SECONDS - start)) s"
endef

# --------------------------------------------------------------------------------------------------------- checks

check: check-lock check-code check-contract  ## format, lint, types, arrows, contract, generated code, lock

check-lock: setup
	@echo "check: uv.lock"
	$(UV) lock --quiet --check

check-code: setup
	@echo "check: format"
	$(BIN)/ruff format --quiet --check .
	echo "check: lint"
	$(BIN)/ruff check --quiet .
	echo "check: types"
	$(BIN)/mypy --no-error-summary
	echo "check: arrows"
	$(BIN)/lint-imports --no-logo >.make-arrows 2>&1 || { cat .make-arrows; rm .make-arrows; exit 1; }
	rm .make-arrows

check-contract: setup
	@echo "check: contract lint"
	cd protos
	$(BUF) lint
	echo "check: contract format"
	$(BUF) format --diff --exit-code --path finetree_api
	echo "check: contract compatibility"
	[ -s released.binpb ] || { echo "protos/released.binpb is missing: there is nothing to compare the contract with" >&2; exit 1; }
	$(BUF) build --output - --path finetree_api | $(BUF) breaking - --against released.binpb --exclude-imports
	echo "check: generated code"
	../$(BIN)/python generate.py --check
	$(BUF) build --as-file-descriptor-set --output - --path finetree_api | ../$(BIN)/python -m finetree_console.openapi --check

# ------------------------------------------------------------------------------------------------------- contract

generate: setup  ## write protos/gen, typings and the OpenAPI document from the .proto files
	@$(BIN)/python protos/generate.py
	cd protos
	$(BUF) build --as-file-descriptor-set --output - --path finetree_api | ../$(BIN)/python -m finetree_console.openapi

reference: setup  ## write docs/sdk from the SDK's docstrings
	@$(BIN)/python clients/python/reference.py

# ------------------------------------------------------------------------------------------------------- packages

version: setup  ## give all distributions one version: make version VERSION=0.2.0
	@$(BIN)/python release/versions.py "$(VERSION)"
	$(UV) lock --quiet  # it names the version too

build: setup  ## build every wheel and sdist into dist/, with an SBOM and the licenses of what they need
	@$(BIN)/python release/build.py --uv $(UV)

release: setup  ## make the present contract the baseline of the compatibility check (make version first)
	@$(BIN)/python protos/generate.py --release

clean:  ## remove the environment and everything that tools left behind
	@rm -rf .venv .bootstrap .trackers tests/conformance/*/{build,gen,node_modules,src/gen,vendor} .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
