# make demo       set up, build, convert the example model and run it in llama.cpp
# make test       set up and run all tests
# make            lint, types and tests
# make sanitize   kernel tests with sanitizers
# make fuzz       every fuzzing target for FUZZ_SECONDS
# make docs       the site, into docs/build, with warnings as errors
# make serve      the same on http://localhost:8000, built anew as pages are changed
# make bench      the tables of the documents, measured on this machine

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PINNED := --constraint tests/constraints.txt
FUZZ_SECONDS ?= 4
READY := $(VENV)/.ready
TOOLS := $(VENV)/.tools
SITE := $(VENV)/.site

.PHONY: all build lint types test sanitize fuzz demo docs serve bench clean

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

# The kernels over their test data with address, undefined-behaviour and float-cast sanitizers.
sanitize: $(TOOLS)
	GGUFMIX_SANITIZE=1 $(BIN)/python setup.py --quiet build \
	  --build-base build/sanitized --build-lib build/sanitized/lib
	PYTHONSAFEPATH=1 PYTHONPATH=build/sanitized/lib:tests \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 \
	UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	$(BIN)/python -m pytest -q -n 2 -p no:cacheprovider -o "pythonpath=build/sanitized/lib tests" \
	  -k "not test_bulk and not compilers" tests/kernels tests/fp8/test_coding.py

fuzz: $(TOOLS) build
	$(BIN)/python -m pip install --quiet atheris $(PINNED)
	$(BIN)/python tests/fuzz/all.py $(FUZZ_SECONDS)

demo: build
	$(BIN)/python examples/demo.py

$(SITE): $(READY)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable '.[docs]' $(PINNED)
	touch $@

docs: $(SITE)
	$(BIN)/zensical build --strict --clean --config-file docs/zensical.toml
	$(BIN)/python docs/check.py docs/build

serve: $(SITE)
	$(BIN)/zensical serve --config-file docs/zensical.toml

bench: $(TOOLS) build
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/convert.py
	$(BIN)/python benchmarks/fp8.py
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/recipes.py
	$(BIN)/python benchmarks/reuse.py

clean:
	rm -rf $(VENV) build dist demo docs/build docs/.cache *.egg-info ggufmix/*.so
