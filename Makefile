# Needs Python 3.11 or newer (with venv) and make. Everything is installed into .venv.

PYTHON ?= python3
VERSION := import sys; print("%d.%d" % sys.version_info[:2])
IS_NEW_ENOUGH := import sys; sys.version_info >= (3, 11) or sys.exit("This needs Python 3.11 or newer, not %d.%d. Choose one: make PYTHON=python3.12" % sys.version_info[:2])
BIN := .venv/bin
PIP := -m pip --disable-pip-version-check
INSTALL := $(BIN)/python $(PIP) install --quiet
# uv takes a fifth of pip's time. It doesn't read pip's configuration, which may name a mirror.
UV_INSTALL = $(BIN)/uv pip install --quiet --python $(BIN)/python $(addprefix --default-index=,$(MIRROR))
MIRROR = $(or $(PIP_INDEX_URL),$(shell $(BIN)/python $(PIP) config get global.index-url 2>/dev/null))
EXAMPLES := --editable '.[langchain,llamaindex,embedded]' --requirement examples/requirements.txt
MULTILINGUAL := $(INSTALL) --no-deps --require-hashes --requirement requirements-multilingual.txt
# Installs LocalScorer's packages on Python 3.11 only; on other versions its tests are skipped.
LOCAL = $(shell $(BIN)/python -c 'import sys; print("local" * (sys.version_info[:2] == (3, 11)))')

# Without it, each of the many processes that the tests start compiles the packages again.
unexport PYTHONDONTWRITEBYTECODE

# A file is run by one worker, so that its fixtures are made once; tests/conftest.py puts the slowest
# files first.
DIST := --dist loadfile --no-loadscope-reorder

# One more than there are cores: many tests wait for a server or another process.
WORKERS = $(shell $(BIN)/python -c 'import os; print((os.cpu_count() or 1) + 1)')

.PHONY: quickstart test cluster servers pythons lowest lint format hooks notebooks docs picture table build release-check bench faults clean

# A .venv belongs to the Python that made it.
ifneq ($(MAKECMDGOALS),clean)
ifneq ($(wildcard .venv/pyvenv.cfg),)
OWN_VERSION := $(shell $(BIN)/python -c '$(VERSION)' 2>/dev/null)
ifeq ($(OWN_VERSION),)
$(error The Python that made .venv is gone. Run "make clean" and try again)
endif
ifneq ($(shell $(BIN)/python -c '$(IS_NEW_ENOUGH)' 2>&1),)
$(error .venv was made with Python $(OWN_VERSION), which is too old. Run "make clean" and try again)
endif
ifeq ($(origin PYTHON),command line)
ifneq ($(shell $(PYTHON) -c '$(VERSION)'),$(OWN_VERSION))
$(error .venv was made with Python $(OWN_VERSION), not with $(PYTHON). Run "make clean" and try again)
endif
endif
endif
endif

quickstart: .venv/examples
	$(BIN)/python examples/quickstart.py $(ARGS)

test: .venv/dev
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) $(DIST) $(ARGS)

# Tests rerank_dataset on a simulated cluster of three nodes.
cluster: .venv/dev
	$(BIN)/python -m pytest -m cluster tests/batch $(ARGS)

# Tests ServerScorer against real servers, with small random models.
servers: .venv/dev .venv/servers/llama_cpp/installed .venv/servers/infinity/installed
	HF_HUB_OFFLINE=1 LLAMA_CPP=$(CURDIR)/.venv/servers/llama_cpp/bin/python \
		INFINITY_EMB=$(CURDIR)/.venv/servers/infinity/bin/infinity_emb \
		$(BIN)/python -m pytest -ra tests/scorers/test_real_servers.py $(ARGS)

# Make all of pyenv's Pythons visible, not just the selected one.
pythons: .venv/tools
	PYENV_VERSION="$$(pyenv versions --bare 2>/dev/null | paste -sd: -)" $(BIN)/nox --session tests -- $(ARGS)

lowest: .venv/tools
	$(BIN)/nox --session lowest -- $(ARGS)

lint: .venv/lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

hooks: .venv/dev .venv/tools
	$(BIN)/pre-commit install

notebooks: .venv/dev
	$(BIN)/python notebooks/execute.py $(ARGS)

docs: .venv/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --fresh-env --quiet docs build/docs
	@echo "build/docs/index.html"

# The READMEs' pictures and tables. Update the figures with `make bench ARGS="--json benchmarks/client.json"`
# and `make faults ARGS="--json benchmarks/faults.json"`.
picture: .venv/dev
	$(BIN)/python scripts/picture.py

table: .venv/dev
	$(BIN)/python scripts/benchmark_table.py

build: .venv/release
	rm -rf dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

# Tries the wheel in empty environments. Takes several minutes.
release-check: build
	$(BIN)/python scripts/try_wheel.py $(ARGS)

bench: .venv/dev .venv/peers/installed
	$(BIN)/python benchmarks/client.py $(ARGS)

faults: .venv/dev .venv/peers/installed
	$(BIN)/python benchmarks/faults.py $(ARGS)

clean:
	rm -rf .venv .nox build dist docs/notebooks

# One stamp file per set of packages; a set is reinstalled when its prerequisites change.
.venv/examples: pyproject.toml examples/requirements.txt requirements-multilingual.txt | .venv/pip
	@echo "Installing the examples' packages into .venv …"
	@$(UV_INSTALL) $(EXAMPLES) --requirement requirements-multilingual.txt || \
		{ $(INSTALL) --no-compile $(EXAMPLES) && $(MULTILINGUAL); }
	@touch $@

.venv/lint: pyproject.toml constraints.txt requirements-multilingual.txt | .venv/pip
	@echo "Installing the development packages into .venv …"
	$(INSTALL) --constraint constraints.txt --editable '.[all]' --group dev
	$(MULTILINGUAL)
	@touch $@ .venv/examples

.venv/dev: .venv/lint
	$(if $(LOCAL),$(INSTALL) --constraint constraints.txt --editable '.[$(LOCAL)]' --group $(LOCAL))
	@touch $@

.venv/tools: pyproject.toml | .venv/pip
	@echo "Installing nox and pre-commit into .venv …"
	$(INSTALL) --group tools
	@touch $@

.venv/docs: .venv/dev
	@echo "Installing the documentation tools into .venv …"
	$(INSTALL) --group docs
	@touch $@

.venv/release: .venv/dev
	@echo "Installing the release tools into .venv …"
	$(INSTALL) --group release
	@touch $@

# The packages to compare with. They have their own environment, because versions may conflict.
.venv/peers/installed: benchmarks/peers.txt | .venv/bin/python
	@echo "Installing the packages to compare with into .venv/peers …"
	$(BIN)/python -m venv .venv/peers
	.venv/peers/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# One environment per server, because their versions conflict.
.venv/servers/%/installed: tests/support/real_%.txt | .venv/bin/python
	@echo "Installing $* into .venv/servers/$* …"
	$(BIN)/python -m venv .venv/servers/$*
	.venv/servers/$*/bin/python -m pip install --quiet --disable-pip-version-check --requirement $<
	@touch $@

# pip supports dependency groups since 25.1. Older ones also take three times as long to resolve ours.
# A pip outside installs one in half the time that ensurepip takes; it may be missing, or too old to do so.
.venv/pip: | .venv/bin/python
	@echo "Installing pip and uv into .venv …"
	@$(PYTHON) $(PIP) --python $(BIN)/python install --quiet --no-compile --only-binary uv 'pip>=25.1' uv 2>/dev/null || \
		{ $(BIN)/python -m ensurepip >/dev/null && $(INSTALL) --no-compile 'pip>=25.1' && \
		{ $(INSTALL) --no-compile --only-binary uv uv || true; }; }
	@touch $@

.venv/bin/python:
	@$(PYTHON) -c '$(IS_NEW_ENOUGH)'
	$(PYTHON) -m venv --without-pip .venv
