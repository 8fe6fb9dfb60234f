# The two commands of a first day are `make demo` and `make test`. Both make their own environment in .venv.
PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# Tests of what optional extras bring run where those are installed: `make test TORCH=1 GRADIO=1` installs them.
TORCH     ?=
GRADIO    ?=
COMMA     := ,
EXTRAS    := dev$(if $(TORCH),$(COMMA)torch)$(if $(GRADIO),$(COMMA)gradio)
TORCH_PIN := $(if $(TORCH),torch==2.13.0)
WORKERS ?= 2

.PHONY: demo test check bench screenshots clean

demo: $(VENV)/.base
	$(BIN)/tidemill demo

# Tests of the page run in a Chromium: one is found, or installed, or it is said why they do not run. In CI they must.
test: $(VENV)/.dev
	$(BIN)/python tests/dashboard/chromium.py || test "$$CI" != true
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

check: $(VENV)/.dev
	$(BIN)/ruff format --check src tests examples benchmarks
	$(BIN)/ruff check src tests examples benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# `make bench BENCH="--only stores page"` runs some; `BENCH=--help` says what the others need.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks $(BENCH)

# The pictures of README.md and docs/page.md; Pillow makes them smaller, and moves them.
screenshots: $(VENV)/.dev
	$(PIP) install --quiet pillow
	$(BIN)/python tests/dashboard/chromium.py
	$(BIN)/python docs/record_page.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]' $(TORCH_PIN)
	touch $@ $(VENV)/.base
