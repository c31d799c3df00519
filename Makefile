# Everything a person does here starts with `make`. Each target does all of its own set-up.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Where to run what needs a cluster: auto, kind, local, existing or (demo only) none.
export CLUSTER ?= auto
# Tiers of the tests: unit, trainer, cluster, e2e.
TIERS ?= unit trainer cluster e2e
# Tiers that must not be skipped; CI names them all.
REQUIRE ?=

# Hundreds of processes import torch: where bytecode is not to be written, each would compile all of it anew.
export PYTHONDONTWRITEBYTECODE :=

UV := hack/uv
RUN := $(UV) run --frozen --all-extras

.PHONY: help
help: ## Show what can be made.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: setup
setup: ## Make the Python environment .venv from uv.lock.
	@$(UV) sync --frozen --all-extras --quiet

.PHONY: demo
demo: setup ## Fine-tune a small model on a real cluster, from nothing, and watch it.
	@$(RUN) hack/run_demo.py

.PHONY: demo-down
demo-down: setup ## Take down the cluster that the demo left up.
	@hack/cluster down

.PHONY: test
test: setup ## Run all tests that this machine can run; TIERS="unit trainer" runs some.
	@$(RUN) hack/run_tests.py $(TIERS) $(if $(REQUIRE),--require "$(REQUIRE)")

# How many stories, and which; those of a seed are the same every time.
CHAOS_EXAMPLES ?= 500
CHAOS_SEED := $(or $(CHAOS_SEED),$(shell date +%s))

.PHONY: chaos
chaos: setup ## Tell the operator CHAOS_EXAMPLES made-up stories full of faults, and be away for a minute; see docs/resilience.md.
	@echo "CHAOS_SEED=$(CHAOS_SEED)"
	@CHAOS_EXAMPLES=$(CHAOS_EXAMPLES) CHAOS_SEED=$(CHAOS_SEED) $(RUN) python -m pytest tests/chaos/test_sequences.py -n 3
	@CHAOS_OUTAGE_SECONDS=60 $(RUN) python -m pytest tests/chaos/test_api_errors.py -k outlive -n 3

.PHONY: lint
lint: setup ## Check format, style, types and layers.
	@$(RUN) ruff format --check .
	@$(RUN) ruff check .
	@$(RUN) mypy
	@$(RUN) lint-imports

.PHONY: format
format: setup ## Format the code.
	@$(RUN) ruff format .
	@$(RUN) ruff check --fix .

.PHONY: crds
crds: setup ## Generate the CustomResourceDefinition from finetune_api.
	@$(RUN) hack/generate_crds.py

.PHONY: docs
docs: setup ## Generate the pages of docs/ that follow from finetune_api.
	@$(RUN) hack/generate_docs.py
	@$(RUN) hack/generate_api_reference.py
	@$(RUN) hack/generate_report_endpoint.py
	@$(RUN) hack/generate_troubleshooting.py

.PHONY: docs-site
docs-site: setup ## Build the documentation as a site in build/site; a broken link fails it.
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet

.PHONY: gpu-check
gpu-check: setup ## Run the tests that need a GPU; where there is none, all are skipped.
	@$(RUN) python -m pytest tests/gpu tests/trainer/test_packing.py -k "gpu or split" -rs

.PHONY: test-peers
test-peers: setup ## Compare masks, packing and osft with the reference implementations.
	@$(RUN) --group peers python -m pytest tests/peers -m peers

.PHONY: bench
bench: bench-planner bench-trainer bench-checkpoint bench-osft bench-lora bench-forgetting bench-operator bench-scale ## Run all benchmarks.

.PHONY: bench-trainer
bench-trainer: setup ## Measure the trainer beside its peers; writes benchmarks/results/trainer.md.
	@$(RUN) --group bench python -m benchmarks.trainer

.PHONY: bench-checkpoint
bench-checkpoint: setup ## Measure what saving and faults cost; writes benchmarks/results/checkpoint.md.
	@$(RUN) python -m benchmarks.checkpoint

.PHONY: bench-osft
bench-osft: setup ## Measure osft beside sft and other implementations; writes benchmarks/results/osft.md.
	@$(RUN) --group peers python -m benchmarks.osft

.PHONY: bench-lora
bench-lora: setup ## Measure lora beside TRL with peft, and beside sft; writes benchmarks/results/lora.md.
	@$(RUN) --group bench python -m benchmarks.lora

.PHONY: bench-forgetting
bench-forgetting: setup ## Measure what each method forgets while it learns; writes benchmarks/results/forgetting.md.
	@$(RUN) --group bench python -m benchmarks.forgetting

.PHONY: bench-planner
bench-planner: setup ## Measure the planner of micro-batches; writes benchmarks/results/planner.md.
	@$(RUN) --group peers python -m benchmarks.planner

.PHONY: bench-scale
bench-scale: setup ## Measure the operator with thousands of jobs; writes benchmarks/results/scale.md.
	@PYTHONPATH=hack:tests $(RUN) python -m benchmarks.scale

.PHONY: bench-operator
bench-operator: setup ## Measure the operator beside bare Jobs and Kubeflow; writes benchmarks/results/operator.md.
	@PYTHONPATH=hack:tests $(RUN) python -m benchmarks.operator

.PHONY: soak
soak: setup ## An hour of jobs and faults on a cluster of its own; writes benchmarks/results/soak.md. MINUTES=5 SEED=1 …
	@PYTHONPATH=hack:tests $(RUN) python -m benchmarks.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

.PHONY: deploy
deploy: setup ## Build the images, load them into the cluster and install the chart.
	@$(RUN) hack/deploy.py
