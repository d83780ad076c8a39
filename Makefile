# Everything from nothing: each target makes the virtual environment and fetches what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The demo needs neither torch nor the tools.
DEMO := $(VENV)/.demo

.PHONY: help demo test test-slow bench-speed vllm check clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

demo: $(DEMO) ## Watch the embedded pair answer a question through LangChain
	@echo "== fetching the embedded pair (1.6 GB, once)"
	@$(BIN)/glimp pull
	@echo "== asking it through LangChain"
	@$(BIN)/python examples/langchain/demo.py

test: $(STAMP) ## Run the test suite (fetches the embedded pair on first use)
	@echo "== fetching the embedded pair (1.6 GB, once)"
	@$(BIN)/glimp pull
	@echo "== testing"
	@$(BIN)/pytest

test-slow: $(STAMP) ## Run the longer proofs
	@$(BIN)/glimp pull
	$(BIN)/pytest -m slow -s

bench-speed: $(STAMP) ## Measure speed: the pair here, the laboratory, the client (an hour)
	@$(BIN)/glimp pull
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.lab.run --steps 175 --answer-tokens 600
	$(BIN)/python -m benchmarks.lab.crowd
	$(BIN)/python -m benchmarks.client_cost

vllm: $(STAMP) ## Install the real vLLM beside it, serve the pair's weights and route against it
	$(BIN)/python -m benchmarks.real_vllm install
	$(BIN)/python -m benchmarks.real_vllm convert
	$(BIN)/python -m benchmarks.real_vllm prove

check: $(STAMP) ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## Remove the virtual environment and caches (weights are kept)
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "== making the virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml | $(BIN)/python
	@echo "== installing (a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[langchain,llamacpp]'
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	@echo "== installing, torch included (a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(DEMO)
