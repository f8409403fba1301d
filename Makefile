# Two environments: .venv is what a user gets (no torch), .venv-dev has what tests and training need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BASE := .venv
DEV := .venv-dev
T4 := .venv-transformers4
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check -c constraints.txt

AGIQA ?= data/agiqa3k

.PHONY: demo test test-all test-transformers4 lint check bench nano nano-held-out clean

demo: $(BASE)/.installed  ## Render sample generations and rank them with the embedded model.
	$(BASE)/bin/python examples/render_generations.py examples/generations
	$(BASE)/bin/artimuse-curate examples/generations --top 10%

test: $(DEV)/.installed  ## The tests that take minutes.
	HF_HUB_OFFLINE=1 $(DEV)/bin/python -m pytest

test-all: $(DEV)/.installed  ## The slow ones too.
	HF_HUB_OFFLINE=1 $(DEV)/bin/python -m pytest -m ''

test-transformers4: $(T4)/.installed  ## What touches transformers, on the last of its 4 series; optimum.
	HF_HUB_OFFLINE=1 $(T4)/bin/python -m pytest tests/test_checkpoint.py tests/test_models.py \
		tests/test_critic.py tests/test_scorer.py tests/test_prompts.py tests/test_score_tokens.py \
		tests/test_export.py

lint: $(DEV)/.installed  ## ruff and mypy.
	$(DEV)/bin/ruff check .
	$(DEV)/bin/ruff format --check .
	# mypy wants the root under its package name, see docs/decisions/0001.
	@links=$$(mktemp -d) && ln -s "$$PWD" $$links/artimuse && \
		MYPYPATH=$$links $(DEV)/bin/mypy -p artimuse.artimuse_core -p artimuse.curation \
		-p artimuse.commands; \
		status=$$?; rm -r $$links; exit $$status

check: lint test  ## Everything a change must pass.

bench: $(DEV)/.installed  ## The figures in README and docs; AGIQA=… is the folder of AGIQA-3K.
	$(DEV)/bin/python benchmarks/nano_quality.py --data $(AGIQA)
	$(DEV)/bin/python benchmarks/nano_words.py --data $(AGIQA)
	$(DEV)/bin/python benchmarks/engine_speed.py
	$(DEV)/bin/python benchmarks/curate_speed.py
	$(DEV)/bin/python benchmarks/export.py
	$(DEV)/bin/python benchmarks/curate_scale.py
	$(DEV)/bin/python benchmarks/decoders.py --images $(AGIQA)

# glibc returns each batch's memory and fetches it again, page by page; kept, a step takes a quarter less.
TRAIN_NANO = MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8000000000 \
	$(DEV)/bin/python -m artimuse.training.nano --data $(AGIQA) --resume

nano: $(DEV)/.installed  ## Train the embedded model from nothing, 2¼ hours on 2 slow cores; resumes.
	$(TRAIN_NANO) --output build/nano
	rm -rf build/nano-onnx
	$(DEV)/bin/artimuse export onnx --model build/nano --output build/nano-onnx --name nano --critique \
		--whole-pixels
	cp build/nano/*.json build/nano/model.safetensors artimuse_core/nano/
	cp build/nano-onnx/* artimuse_core/nano/  # its tokenizer.json is the one with a hash

nano-held-out: $(DEV)/.installed  ## The same without a fifth of the prompts: what nano is measured by.
	$(TRAIN_NANO) --output build/nano-held-out --hold-out test
	cp build/nano-held-out/*.json build/nano-held-out/model.safetensors benchmarks/nano_held_out/

$(BASE)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python $(PIP_INSTALL) -e .
	touch $@

$(DEV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV)
	# torch first and pinned: as somebody's dependency it would bring CUDA.
	$(DEV)/bin/python $(PIP_INSTALL) torch
	$(DEV)/bin/python $(PIP_INSTALL) -e '.[curate,torch,quantize,export,critique,train,annotate,serve,client,ray,examples,dev]'
	touch $@

$(T4)/.installed: pyproject.toml constraints-transformers4.txt
	$(PYTHON) -m venv $(T4)
	$(T4)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-transformers4.txt torch
	$(T4)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-transformers4.txt \
		-e '.[torch,export,train,optimum,dev]'
	touch $@

clean:  ## Remove environments, caches and rendered samples.
	rm -rf $(BASE) $(DEV) $(T4) build artimuse.egg-info examples/generations .mypy_cache .ruff_cache .pytest_cache
