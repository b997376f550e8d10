# Two commands for a newcomer: `make demo` and `make test`. Each sets up .venv by itself.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SOURCES := $(shell git ls-files -co --exclude-standard -- '*.py' 2>/dev/null || find . -name '*.py' -not -path './.venv/*')
# A strict editable install links file by file, so that a new file needs a new install.
LISTING := $(shell echo $(sort $(SOURCES)) | cksum | cut -d' ' -f1)
PIP     := $(BIN)/python -m pip --disable-pip-version-check -q
# uv takes seconds where pip takes two minutes. pip installs what comes from folders that it is set up to look in.
INSTALL := $(BIN)/uv pip install -q --compile-bytecode --python $(BIN)/python
# Bytecode is kept, also where the environment forbids it: hundreds of processes import the package.
unexport PYTHONDONTWRITEBYTECODE
# Tests run make too, as anybody would: not as a part of this one.
unexport MAKEFLAGS
WAIT     = @echo "installing $(1) into $(VENV): seconds, or minutes on a slow network"
EDITABLE := --config-settings editable_mode=strict -e

.PHONY: help demo tutorial dist docs test test-minimum test-aarch64 lint typecheck fuzz llama test-oracles oracles-apart oracles-llama bench bench-peers bench-publish bench-check clean
help:
	@echo "make demo          install, run the quickstart job, show what it did"
	@echo "make tutorial      make the folder tutorial/, in which the pages of docs/tutorials work"
	@echo "make test          install and run the tests"
	@echo "make test-minimum  install the oldest dependencies that pyproject allows, run a part of the tests"
	@echo "make test-aarch64  emulate an AArch64 machine and convert there (Debian, half an hour)"
	@echo "make dist          build sdist and wheel, install each alone and recover the sample"
	@echo "make docs          build docs/ as a site, with links that all lead somewhere"
	@echo "make lint          ruff check and format"
	@echo "make typecheck     mypy, strict"
	@echo "make fuzz          atheris on every parser, FUZZ_SECONDS=20 each (installs it)"
	@echo "make llama         compile llama.cpp, for test-oracles to run it too"
	@echo "make test-oracles  bit equality with torch-based libraries (installs them)"
	@echo "make bench         kernels and end to end, as ratios to the copy and I/O floors"
	@echo "make bench-peers   the same, with the other libraries installed first"
	@echo "make bench-check   instructions and ratios of kernels against what is recorded"
	@echo "make bench-publish everything of docs/performance.md, and its plots; QUIET=0.1 waits"
	@echo "make clean         remove the virtual environment and outputs"

# Not with an f-string: this has to be read by whatever Python there is.
OLDEST := import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is \
needed, and $(PYTHON) is %d.%d; name another: make PYTHON=python3.12" % tuple(sys.version_info[:2]))

$(BIN)/python:
	@$(PYTHON) -c '$(OLDEST)'
	$(PYTHON) -m venv $(VENV)

$(BIN)/uv: | $(BIN)/python
	$(PIP) install uv

$(VENV)/run-$(LISTING): $(BIN)/uv pyproject.toml
	$(call WAIT,anamnesis and its dependencies)
	@$(INSTALL) $(EDITABLE) .
	@rm -f $(VENV)/run-* && touch $@

$(VENV)/dev-$(LISTING): $(BIN)/uv pyproject.toml
	$(call WAIT,anamnesis and what its tests need)
	@$(INSTALL) $(EDITABLE) ".[test,dev]"
	@rm -f $(VENV)/dev-* $(VENV)/run-* && touch $@ $(VENV)/run-$(LISTING)

# torch first and alone, so that nothing pulls in another build of it.
$(VENV)/peers: $(VENV)/dev-$(LISTING) tests/oracles/requirements.txt tests/oracles/packages.txt
	$(PIP) install torch==2.13.0
	$(BIN)/python -m pip freeze | grep -i '^torch==' > $(VENV)/torch.txt
	$(PIP) install -c $(VENV)/torch.txt -r tests/oracles/requirements.txt
	$(PIP) install --no-deps bitsandbytes==0.50.2 mlx==0.32.4 mlx-cpu==0.32.4 \
	  optimum-quanto==0.2.7
	$(PIP) install --no-deps --target $(VENV)/packages -r tests/oracles/packages.txt
	@touch $@

# No wheel of it is published: it compiles for about five minutes, so that CI skips what needs it.
llama: $(VENV)/peers
	$(PIP) install --no-deps llama-cpp-python==0.3.36 diskcache==5.6.3

$(VENV)/oracles: $(VENV)/peers tests/oracles/wheels.txt
	$(PIP) download --no-deps -d $(VENV)/wheels -r tests/oracles/wheels.txt
	@touch $@

demo: $(VENV)/run-$(LISTING)
	@$(INSTALL) safetensors
	@PATH="$(abspath $(BIN)):$$PATH" sh configs/demo.sh

tutorial: $(VENV)/dev-$(LISTING)
	$(BIN)/python tests/test_tutorials.py tutorial
	@echo "tutorial/ is ready: cd tutorial"

test: $(VENV)/dev-$(LISTING)
	$(BIN)/python -m pytest -q -m "not oracle" -n auto --dist loadscope

# The oldest Python and the oldest release of every dependency, with the tests that touch each.
MINIMUM := .venv-minimum
MINIMUM_PYTHON ?= $(shell command -v python3.11 || echo $(PYTHON))
MINIMUM_TESTS := tests/test_dependencies.py tests/cli/test_cli.py tests/pipeline/test_executors.py \
  tests/pipeline/test_config.py tests/kernels/test_native_cache.py tests/conformance \
  tests/readers/test_arrow_roundtrip.py tests/writers/test_arrow.py

$(MINIMUM)/installed-$(LISTING): tests/minimum.py pyproject.toml
	@$(MINIMUM_PYTHON) -m venv --clear $(MINIMUM)
	@$(MINIMUM_PYTHON) tests/minimum.py hypothesis pytest pytest-timeout pytest-xdist safetensors \
	  > $(MINIMUM)/pins.txt
	@$(MINIMUM)/bin/python -m pip --disable-pip-version-check -q install \
	  -r $(MINIMUM)/pins.txt $(EDITABLE) .
	@touch $@

test-minimum: $(MINIMUM)/installed-$(LISTING)
	ANAMNESIS_MINIMUM=1 $(MINIMUM)/bin/python -m pytest -q -n auto --dist loadscope $(MINIMUM_TESTS)

# Not of CI: see docs/testing.md for what was run, and where.
AARCH64_TESTS ?= tests/conformance tests/kernels/test_nan.py tests/pipeline/test_executors.py
test-aarch64: $(BIN)/python
	PYTHON=$(BIN)/python nice sh tests/aarch64.sh .venv-aarch64 $(AARCH64_TESTS)

$(VENV)/docs-$(LISTING): $(BIN)/uv pyproject.toml
	$(INSTALL) $(EDITABLE) ".[docs]"
	@rm -f $(VENV)/docs-* $(VENV)/run-* && touch $@ $(VENV)/run-$(LISTING)

docs: $(VENV)/docs-$(LISTING)
	$(BIN)/python -m sphinx -q -n -E -W --keep-going -b html docs docs/_build/site
	@echo docs/_build/site/index.html

dist: $(BIN)/uv
	$(INSTALL) build
	$(BIN)/python tests/distribution.py dist

lint: $(VENV)/dev-$(LISTING)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

typecheck: $(VENV)/dev-$(LISTING)
	$(BIN)/mypy -p anamnesis
	$(BIN)/mypy --strict tests/user_script.py

# Targets can be named: make fuzz TARGETS="gguf pth" FUZZ_SECONDS=240.
$(VENV)/fuzz-$(LISTING): $(BIN)/uv pyproject.toml
	$(INSTALL) $(EDITABLE) ".[fuzz]"
	@rm -f $(VENV)/fuzz-* $(VENV)/run-* && touch $@ $(VENV)/run-$(LISTING)

fuzz: $(VENV)/fuzz-$(LISTING)
	$(BIN)/python tests/fuzz/run.py $(TARGETS)

# llama.cpp's in a process of its own: its ggml and libggml-python's are two builds under one name.
# 5: nothing was collected, where it is not installed.
LLAMA := $(shell grep -l llama_cpp_or_skip tests/oracles/test_*.py)
# By name, so that no worker collects the other 16,000 tests.
ORACLES := $(filter-out $(LLAMA),$(sort $(shell grep -rl --include='test_*.py' 'mark\.oracle' tests)))
ORACLE := ANAMNESIS_ORACLES=$(abspath $(VENV)) $(BIN)/python -m pytest -q -m oracle
test-oracles: oracles-apart oracles-llama
oracles-apart: $(VENV)/oracles
	$(ORACLE) -n auto --dist loadscope $(ORACLES)
oracles-llama: $(VENV)/oracles
	$(ORACLE) $(LLAMA) || test $$? = 5

# Results of a run go to benchmarks/results; QUIET=0.1 waits until others take at most 0.1 CPUs.
BENCH := ANAMNESIS_ORACLES=$${ANAMNESIS_ORACLES:-$(abspath $(VENV))} \
  $(BIN)/python -m benchmarks $(if $(QUIET),--quiet $(QUIET))

bench: $(VENV)/dev-$(LISTING)
	$(BENCH) kernels
	$(BENCH) end-to-end

bench-peers: $(VENV)/peers
	$(BENCH) kernels
	$(BENCH) end-to-end

bench-publish: $(VENV)/peers
	$(INSTALL) $(EDITABLE) ".[test,dev,plot]"
	$(BENCH) all --publish

bench-check: $(VENV)/dev-$(LISTING)
	$(BIN)/python -m benchmarks check

clean:
	rm -rf $(VENV) $(MINIMUM) .venv-aarch64 build dist docs/_build docs/index.md docs/reference out tutorial *.egg-info .pytest_cache .mypy_cache .ruff_cache
