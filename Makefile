# make demo    set up, build, convert the example model and run it in llama.cpp
# make test    set up and run all tests
# make         lint, types and tests

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINNED := --constraint tests/constraints.txt
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools

.PHONY: all build lint types test demo bench clean

all: lint types test

$(READY): pyproject.toml setup.py tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel cython $(PINNED)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[eval]' $(PINNED)
	touch $@

$(TOOLS): $(READY)
	$(BIN)/python -m pip install --quiet torch $(PINNED)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[test]' $(PINNED)
	touch $@

build: $(READY)
	$(BIN)/python setup.py --quiet build_ext --inplace

lint: $(TOOLS)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(TOOLS)
	$(BIN)/mypy

test: $(TOOLS) build
	$(BIN)/python -m pytest -q -n 2

demo: build
	$(BIN)/python examples/demo.py

bench: $(TOOLS) build
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/convert.py

clean:
	rm -rf $(VENV) build dist demo *.egg-info ggufmix/*.so
