# make demo    set up, build, convert the example model and run it in llama.cpp
# make test    set up and run all tests
# make         build, lint, types and tests in an environment that is already set up

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: all build lint types test demo bench clean

all: lint types test

$(READY): pyproject.toml setup.py tests/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel cython -c tests/constraints.txt
	$(BIN)/python -m pip install --quiet -c tests/constraints.txt torch
	$(BIN)/python -m pip install --quiet -c tests/constraints.txt --no-build-isolation --editable '.[test]'
	touch $@

build: $(READY)
	$(BIN)/python setup.py --quiet build_ext --inplace

lint: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY)
	$(BIN)/mypy

test: build
	$(BIN)/python -m pytest -q -n 2

demo: build
	$(BIN)/python examples/demo.py

bench: build
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/convert.py

clean:
	rm -rf $(VENV) build dist demo *.egg-info ggufmix/*.so
