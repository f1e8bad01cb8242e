# Needs Python 3.11 or newer, make and a package registry, nothing else. `make help` lists what there is.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
PY := $(BIN)/python
# Two workers on two cores, at most four: each may start a PostgreSQL server of its own.
PYTEST := $(PY) -m pytest -v -o faulthandler_timeout=300
SIM_SEEDS ?= 1000

.PHONY: help setup demo demo-engines up test check sim test-chaos test-slurm test-containers test-distributed test-k8s test-kueue test-engines test-gpu bench openapi migration lock clean

help: ## List what make can do
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name words; do \
		printf '  make %-16s %s\n' "$$name" "$$words"; done

setup: ## Make .venv from the hashed lock (PYTHON=... names the interpreter); quick when nothing has changed
	@./requirements/setup.sh

demo: setup ## Train, kill, resume, register, deploy, ask and bill a model on this machine
	@$(PY) demo/run.py $(ARGS)

demo-engines: setup ## Train, kill and resume on this machine, a real Slurm and a real Kubernetes at once, as root
	@PYTHONPATH="$(CURDIR)" $(PY) demo/engines.py $(ARGS)

# Jobs inherit the platform's PATH: so `python` is the one that has what the examples import.
up: setup ## Start the platform and stay; Ctrl-C stops it, jobs go on (ARGS="--port 8080 --simulate 64x8")
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dujiang up $(ARGS)

test: setup ## Run all tests but those of minutes (chaos, slow) and of a GPU (ARGS="tests/pool -x")
	@SIM_SEEDS=25 $(PYTEST) -n logical --maxprocesses 4 -m "not slow and not chaos and not gpu and not slurm and not containers and not distributed and not kubernetes and not kueue" $(ARGS)

check: setup ## Format, lint, types, import contracts, published API, tidiness
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(PY) docs/openapi.py --check
	$(PYTEST) -p no:xdist tests/test_tidy.py

sim: setup ## Simulate the control plane under faults: SIM_SEEDS=1000 seeds, or one with SEED=7
	@SIM_SEEDS=$(SIM_SEEDS) SIM_SEED=$(SEED) $(PYTEST) -n logical --maxprocesses 4 -m sim tests/sim $(ARGS)

test-chaos: setup ## Kill the platform with SIGKILL while real jobs run, and the other tests of minutes
	@$(PYTEST) -p no:xdist -m "(chaos or slow) and not gpu" $(ARGS)

test-slurm: setup ## Run the Slurm engine against a real Slurm, which root installs from Debian where it is missing
	@$(PYTEST) -p no:xdist -m slurm tests/slurm $(ARGS)

test-k8s: setup ## Run against a real Kubernetes, compiled by Go the first time; root installs containerd where missing
	@$(PYTEST) -p no:xdist -m kubernetes tests/kubernetes $(ARGS)

test-kueue: setup ## Run the Kubernetes engine behind a real Kueue, compiled by Go the first time; else as test-k8s
	@$(PYTEST) -p no:xdist -m kueue tests/kubernetes $(ARGS)

test-engines: setup ## Run one platform over this machine, a real Slurm and a real Kubernetes, both as in their own tests
	@$(PYTEST) -p no:xdist -m "slurm and kubernetes" tests/e2e $(ARGS)

test-distributed: setup ## Run PyTorch, Open MPI and jax on several processes; root installs them from Debian where they are missing
	@$(PYTEST) -p no:xdist -m distributed tests/distributed $(ARGS)

test-containers: setup ## Run jobs in images of podman, containerd and Docker, which root installs from Debian where missing
	@$(PYTEST) -p no:xdist -m containers tests/containers $(ARGS)

test-gpu: setup ## Run the tests that need an NVIDIA GPU
	@$(PYTEST) -p no:xdist -m gpu $(ARGS)

bench: setup ## List the benchmarks, or run one (B=health_scan ARGS="1000")
	@$(PY) benchmarks $(B) $(ARGS)

openapi: setup ## Write docs/openapi.json anew; fails when it was not current
	@$(PY) docs/openapi.py

migration: setup ## Write the next migration of the database (M="add quota")
	@test -n "$(M)" || { echo 'Say what it does: make migration M="add quota"' >&2; exit 2; }
	@$(PY) -m dujiang.migrations "$(M)"

lock: setup ## Write the hashed locks anew from pyproject.toml (ARGS="--upgrade")
	@./requirements/lock.sh $(ARGS)

clean: ## Remove caches and builds; .venv and the state of the platform stay
	@rm -rf dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find src tests benchmarks examples demo -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
