# Development, tests and demos. `make` lists the targets.
#
# A fresh machine needs Python 3.11 or later with venv and pip, make and git; the targets install the rest below CACHE.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.ONESHELL:
.DEFAULT_GOAL := help

CACHE ?= .cache
VENV ?= $(CACHE)/venv
PYTHON ?= python3.11
# Further arguments of the demo, test or benchmark script.
ARGS ?=

# `make test-device PYTHON=python3.10` names the device's interpreter, not the development environment's.
BASE_PYTHON := $(if $(filter test-device,$(MAKECMDGOALS)),python3.11,$(PYTHON))
RUN := $(VENV)/bin/python
BUNDLES := $(CACHE)/bundles
# Two test processes; tests/conftest.py says what each takes next.
SIDE_BY_SIDE := -n 2
NEWEST := $(CACHE)/newest

export FIELDTUNE_CACHE := $(abspath $(CACHE))
export FIELDTUNE_TEST_BUNDLES := $(abspath $(BUNDLES))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Dozens of processes read the same modules: they are compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## list the targets
	@echo "make TARGET, with"
	@sed -nE 's/^([a-z0-9-]+):[^#]*## (.*)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

.PHONY: demo
demo: venv ## adapt MiniLM to movie reviews in a device-only environment, with a report (ARGS: see demo/reviews.py --help)
	$(RUN) demo/reviews.py --cache $(CACHE) $(ARGS)

.PHONY: demo-chat
demo-chat: venv ## adapt SmolLM2 to technical questions, its answers before and after (ARGS: see demo/chat.py --help)
	$(RUN) demo/chat.py --cache $(CACHE) $(ARGS)

.PHONY: demo-fpga
demo-fpga: venv ## adapt EfficientNet-Lite0 on emulated FPGAs: quantize, split, compile, train (ARGS: see demo/fpga.py --help)
	$(RUN) demo/fpga.py --cache $(CACHE) $(ARGS)

.PHONY: check
check: lint contracts types ## the inner loop: lint, contracts, types, unit, property and golden tests; no bundle is built
	$(RUN) -m pytest $(SIDE_BY_SIDE) -q tests/unit tests/property tests/golden $(ARGS)

.PHONY: test
test: lint contracts types tiny-bundles ## everything: what check does, all tests, the device half on other Pythons and ONNX Runtimes
	$(RUN) -m pytest $(SIDE_BY_SIDE) $(ARGS)
	$(RUN) tests/real_bundles.py $(BUNDLES) --cache $(CACHE)
	$(RUN) tests/device.py --bundles $(BUNDLES) --cache $(CACHE)

.PHONY: lint
lint: venv ## ruff: rules and formatting
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check

.PHONY: contracts
contracts: venv ## import-linter: imports go downwards only; and the figures of the house
	$(VENV)/bin/lint-imports --no-logo
	$(RUN) tools/house.py

.PHONY: types
types: venv ## mypy, strict
	$(VENV)/bin/mypy

.PHONY: test-device
test-device: tiny-bundles ## the device half alone; PYTHON=python3.10 ORT=1.16.3 for one combination, else the default ones
	$(RUN) tests/device.py --bundles $(BUNDLES) --cache $(CACHE) \
	    $(if $(filter-out file default,$(origin PYTHON)),--python "$(PYTHON)") $(if $(ORT),--ort "$(ORT)")

.PHONY: test-ort-training
test-ort-training: tiny-bundles real-bundles ## the device half with ONNX Runtime's training build, both backends on real models
	$(RUN) tests/device.py --training --bundles $(BUNDLES) --cache $(CACHE)

.PHONY: test-arm64
test-arm64: tiny-bundles ## train on emulated 64-bit ARM and compare (Linux with debootstrap and qemu-user-static)
	$(RUN) tests/arm64.py --bundles $(BUNDLES) --cache $(CACHE)

.PHONY: bench
bench: venv ## training steps and whole runs beside torch and PEFT, methods, memory, the cache, adapters on an INT8 prefix
	$(RUN) benchmarks/train_step.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/methods.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/parity_run.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/preflight_memory.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/activation_cache.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/adapter_swap.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/int8_prefix.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/entities.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/questions.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/decoding.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/packed_base.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/packed_products.py --cache $(CACHE) $(ARGS)
	$(RUN) benchmarks/packed_quality.py --cache $(CACHE) $(ARGS)

.PHONY: tiny-bundles
tiny-bundles: venv
	$(RUN) tests/tiny_bundles.py $(BUNDLES)

.PHONY: real-bundles
real-bundles: venv
	$(RUN) tests/real_bundles.py $(BUNDLES) --cache $(CACHE)

.PHONY: venv
venv: $(VENV)/installed ## the development environment, in VENV

# A shell's lines that set python to the interpreter that environments are made from.
define find-python
python=
for candidate in "$(BASE_PYTHON)" python3; do
  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi
done
if [ -z "$$python" ]; then
  echo "Python 3.11 or later is needed, and neither $(BASE_PYTHON) nor python3 on PATH is one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2
  exit 1
fi
if ! "$$python" -c 'import ensurepip, venv'; then
  echo "$$python cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2
  exit 1
fi
endef

# requirements/locks.py says what is installed, from which file, and in which order.
$(VENV)/installed: pyproject.toml requirements/torch.txt requirements/dev.txt
	@$(find-python)
	echo "making the development environment $(VENV) with $$("$$python" --version) …"
	rm -rf $(VENV)
	"$$python" -m venv $(VENV)
	$(RUN) requirements/locks.py
	touch $@

.PHONY: lock
lock: $(CACHE)/uv/installed ## renew the lock files in requirements/, all or ARGS="dev device" (see requirements/README.md)
	$(CACHE)/uv/bin/python requirements/renew.py $(ARGS)

$(CACHE)/uv/installed: requirements/uv.txt
	@$(find-python)
	rm -rf $(CACHE)/uv
	"$$python" -m venv $(CACHE)/uv
	$(CACHE)/uv/bin/python -m pip install -qq --no-deps --require-hashes --only-binary :all: -r requirements/uv.txt
	touch $@

.PHONY: test-newest
test-newest: ## all tests with the newest versions that pyproject.toml allows, warnings shown and not raised
	@$(find-python)
	[ -x $(NEWEST)/bin/python ] || "$$python" -m venv $(NEWEST)
	$(NEWEST)/bin/python requirements/newest.py
	export FIELDTUNE_TEST_BUNDLES=$(abspath $(NEWEST)/bundles)
	$(NEWEST)/bin/python tests/tiny_bundles.py $(NEWEST)/bundles
	$(NEWEST)/bin/python -m pytest $(SIDE_BY_SIDE) -o filterwarnings=default $(ARGS)

.PHONY: clean
clean: ## remove what was built; downloads and converted models stay (rm -rf .cache removes them too)
	rm -rf $(VENV) $(NEWEST) $(CACHE)/uv $(CACHE)/environments $(CACHE)/wheels $(CACHE)/bundles $(CACHE)/arm64
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -not -path './.cache/*' -prune -exec rm -rf {} +
