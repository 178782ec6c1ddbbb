# manyhost: from two GPU hosts to a checked, running and measured LLM service.
# Everything here needs python3 (3.11 or newer, with venv), make and git; the rest is installed into .venv.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
ENV ?=
RECIPE ?=
MODEL ?=
VERSION ?=
ENGINE ?= vllm
TESTS ?= tests
DURATION ?= 240
SEED ?= 1
SCHEDULES ?= 100000
E2E ?=

# The recipe that ENV, RECIPE and MODEL name, as the command line wants it.
# RECIPE alone may be <environment>/<recipe>.
named = $(if $(findstring /,$(RECIPE)),$(RECIPE),$(ENV)$(if $(RECIPE),$(if $(ENV),/)$(RECIPE)))
picked = $(named) $(if $(MODEL),--model $(MODEL))

.PHONY: help
help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environment ----------------------------------------------------------------------------------
$(BIN)/uv:
	@command -v $(PYTHON) >/dev/null || { echo "manyhost: $(PYTHON) not found" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "manyhost: Python 3.11 or newer is needed; set PYTHON=python3.X" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# What rendering needs; a stamp each, so that nothing is checked twice.
$(VENV)/.render: $(BIN)/uv pyproject.toml uv.lock
	$(BIN)/uv sync --quiet --frozen --no-dev --inexact --python $(BIN)/python
	@touch $@

$(VENV)/.dev: $(BIN)/uv pyproject.toml uv.lock
	$(BIN)/uv sync --quiet --frozen --python $(BIN)/python
	@touch $@ $(VENV)/.render

.PHONY: setup
setup: $(VENV)/.dev ## Install everything for development into .venv

.PHONY: tools
tools: .tools/helm3 .tools/helm4 ## Unpack the Helm 3 and Helm 4 binaries that tests compare

.tools/helm3 .tools/helm4: tools/unpack_helm.py | $(VENV)/.dev
	$(BIN)/python tools/unpack_helm.py .tools

# The docs site's generator, apart from .venv.
.tools/docs/.installed: $(BIN)/uv pyproject.toml uv.lock
	UV_PROJECT_ENVIRONMENT=$(CURDIR)/.tools/docs $(BIN)/uv sync --quiet --frozen --only-group docs --python $(BIN)/python
	@touch $@

# --- use ------------------------------------------------------------------------------------------
.PHONY: render
render: $(VENV)/.render ## Render a recipe: make render ENV=a3mega [RECIPE=...] [MODEL=...]
	@case "$(ENV):$(RECIPE)" in :*|*:$(ENV)/*|*:recipes/$(ENV)/*) ;; *:*/*) \
	  echo "manyhost: ENV=$(ENV) and RECIPE=$(RECIPE) name two environments; leave one out" >&2; exit 2;; esac
	@$(BIN)/manyhost render $(picked)

.PHONY: check
check: $(VENV)/.render ## Check all rendered manifests under build/
	@files=$$(find build -name manifests.yaml 2>/dev/null | sort); \
	test -n "$$files" || { echo "manyhost: nothing rendered yet: make render ENV=a3mega" >&2; exit 2; }; \
	$(BIN)/manyhost check $$files

.PHONY: demo
demo: $(VENV)/.dev ## Deploy, chat, kill a worker, measure, clean up: real engine, no GPU, no account
	@$(BIN)/python -m tools.demo

.PHONY: walkthrough
walkthrough: $(VENV)/.dev tools gcs ## Run walkthrough.md with stand-ins for cloud and GPUs: real cluster, real engine (3 minutes)
	@$(BIN)/python -m tools.walkthrough

.PHONY: cluster-up
cluster-up: $(VENV)/.dev ## Start the test cluster (Linux, root)
	@$(BIN)/python -m testbed up

.PHONY: cluster-down
cluster-down: $(VENV)/.dev ## Remove the test cluster without a trace
	@$(BIN)/python -m testbed down

# --- tests ----------------------------------------------------------------------------------------
# Without Go the tests that stage into a bucket are skipped; CI has it.
.PHONY: gcs
gcs: $(VENV)/.dev ## Build the Cloud Storage emulator that tests stage into (needs Go)
	@! command -v go >/dev/null || $(BIN)/python -m testbed.gcs >/dev/null

.PHONY: s3
s3: $(VENV)/.dev ## Build the S3 gateway that tests stage onto a network volume through (needs Go)
	@! command -v go >/dev/null || $(BIN)/python -m testbed.s3 >/dev/null

.PHONY: prometheus
prometheus: $(VENV)/.dev ## Build the Prometheus that alerts and dashboards are tested on (needs Go)
	@! command -v go >/dev/null || $(BIN)/python -m testbed.prometheus >/dev/null

.PHONY: kill-stage
kill-stage: $(VENV)/.dev gcs s3 ## Kill staging at 100 random points, in a folder, a bucket and a network volume
	MANYHOST_KILLS=100 $(BIN)/python -m pytest -q -s tests/unit/weights/test_kill.py

# Tests start hundreds of Python programs: what these import is compiled once, whatever is set elsewhere.
# They render thousands of times, with Helm as a library: a fifth less of the time goes into Go's garbage collection.
.PHONY: test
test: $(VENV)/.dev tools gcs s3 prometheus ## Run all tests that need no cluster
	PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(CURDIR)/.pytest_cache/bytecode GOGC=400 \
	  $(BIN)/python -m pytest -q -n auto --maxschedchunk 8 -m "not e2e and not engine" $(TESTS)

.PHONY: property
property: $(VENV)/.dev tools ## Render 10,000 random recipes, 500 of them with Helm 3 and Helm 4 too (15 minutes)
	MANYHOST_RECIPES=10000 MANYHOST_HELM_RECIPES=500 \
	  $(BIN)/python -m pytest -q -n 3 --timeout 3600 tests/property/test_recipes.py

.PHONY: simulate
simulate: $(VENV)/.dev ## Run the launcher's decisions through 100,000 schedules of faults (5 minutes on 2 processors)
	@$(BIN)/python -m tests.simulation $(SCHEDULES) $(SEED)

.PHONY: e2e
e2e: $(VENV)/.dev tools ## Run the tests on a real cluster ($KUBECONFIG, kind, or the test cluster)
	$(BIN)/python -m pytest -q -m "(e2e or engine) and not more" --timeout 900 --durations 15 $(E2E) tests/e2e tests/testbed

.PHONY: e2e-runpod
e2e-runpod: $(VENV)/.dev tools ## Rent, serve, measure and give back at a stand-in of RunPod, whose pods are processes, with NVIDIA Dynamo too (18 minutes)
	$(BIN)/python -m pytest -q -s -m "e2e or engine" --timeout 900 tests/e2e/test_runpod.py tests/e2e/test_runpod_dynamo.py tests/e2e/test_runpod_experiment.py \
	  tests/testbed/test_runpod.py

.PHONY: pairs
pairs: $(VENV)/.dev tools ## Plant 60 random pairs of faults in the test cluster, and 60 faults that stop a group (10 minutes)
	MANYHOST_PAIRS=60 $(BIN)/python -m pytest -q -rA -m e2e --timeout 900 tests/e2e/test_pairs.py

.PHONY: soak
soak: $(VENV)/.dev ## Harm a group of the test cluster at random for half an hour, under a steady stream of requests
	MANYHOST_SOAK_SECONDS=1800 $(BIN)/python -m pytest -q -s -m engine tests/e2e/test_soak.py

.PHONY: bench-long
bench-long: $(VENV)/.dev ## Kill a benchmark of the test cluster at 20 random points, and let one run for ten minutes
	MANYHOST_BENCH_KILLS=20 MANYHOST_BENCH_SECONDS=600 $(BIN)/python -m pytest -q -s -m engine tests/e2e/test_bench_long.py

.PHONY: mutate
mutate: $(VENV)/.dev ## Change the product in many places and list what no test notices; not part of CI
	@$(BIN)/python -m tools.mutate --seconds $(DURATION) --seed $(SEED)

.PHONY: lint
lint: $(VENV)/.dev ## Check style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/shellcheck charts/llm-multihost/launcher/*.sh charts/llm-multihost/launcher/*/*.sh docker/vllm/*.sh \
	  generator/manyhost/runpod/boot/*.sh
	$(BIN)/hadolint docker/vllm/Dockerfile
	$(BIN)/python -m tools.generate --check

.PHONY: generate
generate: $(VENV)/.dev ## Write every generated file: committed values, goldens, schemas, chart README, docs
	$(BIN)/python -m tools.generate

.PHONY: engine-flags
engine-flags: $(VENV)/.dev ## Write the flags of an engine version (network, some GB): make engine-flags VERSION=0.33.0 [ENGINE=sglang]
	@test -n "$(VERSION)" || { echo "manyhost: say which: make engine-flags VERSION=0.33.0" >&2; exit 2; }
	$(BIN)/python -m tools.extract_engine_flags $(VERSION) --engine $(ENGINE)

.PHONY: freshness
freshness: $(VENV)/.dev ## Say which releases of vLLM, SGLang, Dynamo and LeaderWorkerSet are not covered (network); not part of CI
	@$(BIN)/python -m tools.freshness

# All pages anew each time: Sphinx warns only of those that it reads.
.PHONY: docs
docs: .tools/docs/.installed ## Build the docs site into build/site; a dead link fails it
	rm -rf build/site
	.tools/docs/bin/sphinx-build --quiet --no-color --fresh-env --fail-on-warning --keep-going -c docs/site \
	  -d build/doctrees . build/site
	@echo "written: build/site/index.html"

.PHONY: package
package: $(VENV)/.dev tools ## Build wheel, sdist and chart archives into dist/, the same bytes each time
	@$(BIN)/python -m tools.package dist

.PHONY: bench-render
bench-render: $(VENV)/.dev tools ## Measure rendering against helm template, as ratios
	$(BIN)/python benchmarks/render.py

.PHONY: bench-cluster
bench-cluster: $(VENV)/.dev ## Measure doctor and status on 1,000 nodes against kubectl get
	$(BIN)/python benchmarks/cluster.py

.PHONY: bench-client
bench-client: $(VENV)/.dev ## Measure the benchmark's clients against a server with known token times
	$(BIN)/python benchmarks/client.py

.PHONY: bench-runners
bench-runners: $(VENV)/.dev ## Measure the same load with each load generator (15 minutes)
	$(BIN)/python benchmarks/runners.py

.PHONY: bench-weights
bench-weights: $(VENV)/.dev gcs ## Measure staging against plain copies by the same clients (17 GB of disk)
	$(BIN)/python benchmarks/weights.py

.PHONY: bench-plan
bench-plan: $(VENV)/.dev ## Compare what the planner says with what was published and measured
	$(BIN)/python -m benchmarks.plan.bench

.PHONY: fit-plan
fit-plan: $(VENV)/.dev ## Fit the planner's performance model anew, and compare
	$(BIN)/python -m benchmarks.plan.bench --fit

.PHONY: bench-router
bench-router: $(VENV)/.dev ## Measure the router before prefill and decode groups against engines alone
	$(BIN)/python benchmarks/router.py

.PHONY: clean
clean: ## Remove what make has made, but not values/local.yaml
	rm -rf build dist .tools $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
