# Every target builds .venv once, from constraints.txt, and reuses it.
PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.complete

.PHONY: setup demo test lint format clean

setup: $(STAMP)

# torch first: what depends on it then finds it there and asks for no other build.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt torch setuptools
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,peers]'
	touch $@

demo: $(STAMP)
	$(RUN) -m src.train +sweep=mask_rate -m
	$(RUN) -m src.report sweep=runs/mask_rate

# Two at a time, each file in one process; those on SLURM, which mostly wait, begin first (tests/slurm/conftest.py).
test: $(STAMP)
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/pyright

format: $(STAMP)
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) .cache
