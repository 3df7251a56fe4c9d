PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.complete
# Two files at a time, in the order that tests/conftest.py gives them.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# Small tensors on two cores that other work shares: a thread that has nothing to do gives way.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(RUN) -m pytest

.PHONY: setup demo check fast test test-all lint format clean

setup: $(STAMP)

# torch first: what depends on it then finds it there and asks for no other build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch setuptools
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,peers]'
	touch $@

demo: $(STAMP)
	$(RUN) -m src.train +sweep=demo -m
	$(RUN) -m src.report sweep=runs/demo

# For the loop of change and test: lint, types, and the tests that need no SLURM, browser or server and take no patience.
check: $(STAMP)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint fast

fast: $(STAMP)
	$(PYTEST) $(TWO) -m "not slurm and not browser and not server and not slow and not long"

test: $(STAMP)
	$(PYTEST) $(TWO) -m "not long"

test-all: $(STAMP)
	$(PYTEST) $(TWO)

lint: $(STAMP)
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/ruff format --check --quiet
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/pyright

format: $(STAMP)
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) .cache
