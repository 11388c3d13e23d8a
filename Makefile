# Every target makes what it needs: a fresh machine needs Python 3.11+ and make, nothing else.
# Targets share one virtual environment (.venv); a stamp in it says which extra is installed.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
# Pinned here, a range in the package metadata: a CPU build of exactly this is what we test with.
TORCH   ?= torch==2.13.0
SEED    ?= 7
OUT     ?=
BUNDLE  ?=
# TensorRT graphs of the export, such as fp16,bf16,int8,fp8; the command's own default where empty.
PRECISION ?=
# Processes of the tests, at most: each takes up to 3 GB.
JOBS    ?= 4
# TensorRT engines are built for these, with or without a GPU; they are not part of the bundle.
TARGET  ?= sm80,sm89,sm120
ENGINES ?= build/engines

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu lint format phantom train evaluate export bench bench-gpu clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# --- environments -----------------------------------------------------------------------------

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11+ is needed")'
	$(PYTHON) -m venv $(VENV)

# The runtime alone: no torch.
$(VENV)/.cpu: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu]'
	touch $@

# Everything: training, export, tests and checks.
$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[cpu,dev]'
	touch $@ $(VENV)/.cpu

# The same with what drives a GPU. The two onnxruntimes overwrite each other: only the GPU's stays.
$(VENV)/.gpu: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[gpu]'
	$(BIN)/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(BIN)/pip install --quiet --disable-pip-version-check 'onnxruntime-gpu>=1.22'
	touch $@

# --- what users run ---------------------------------------------------------------------------

demo: $(VENV)/.cpu  ## phantom CT study -> samihs-infer -> mask, volume, DICOM SEG (no torch)
	rm -rf demo
	$(BIN)/samihs-phantom demo/study --seed $(SEED) --slices 28 --thickness 5 --bleed intraparenchymal
	$(BIN)/samihs-infer demo/study --click-file demo/study/truth.json --out demo/result
	@echo "truth: demo/study/truth.json"

phantom: $(VENV)/.cpu  ## write phantom studies: OUT=phantoms SEED=7
	$(BIN)/samihs-phantom $(or $(OUT),phantoms) --seed $(SEED) --format both

train: $(VENV)/.dev  ## train base and adapters (QUICK=1: prove the path in 2 minutes)
	$(BIN)/samihs-train fit $(if $(QUICK),--quick) --out $(or $(OUT),runs/$(if $(QUICK),quick,vit_mini))

evaluate: $(VENV)/.dev  ## Dice and HD95 of the shipped bundle (or BUNDLE=) on unseen phantoms
	$(BIN)/samihs-evaluate $(if $(BUNDLE),--bundle $(BUNDLE))

export: $(VENV)/.dev  ## merge, export, prove, bundle, engines: OUT=my_bundle, else the shipped one is replaced (CHECKPOINT= BASE= PRECISION= TARGET=)
	$(BIN)/samihs-export bundle $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) \
	    $(if $(BASE),--base $(BASE)) $(if $(OUT),--out $(OUT)) \
	    $(if $(PRECISION),--precision $(PRECISION)) \
	    --target $(TARGET) --engines $(ENGINES)

# --- checks -----------------------------------------------------------------------------------

test: $(VENV)/.dev  ## the whole suite, but for GPU and slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not gpu and not slow' -q \
	    -n auto --maxprocesses $(JOBS) --dist loadfile

test-slow: $(VENV)/.dev  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

test-gpu: $(VENV)/.gpu  ## the tests that need an NVIDIA GPU; fails without one
	$(BIN)/python -m pytest -m gpu

lint: $(VENV)/.dev  ## ruff, formatting, mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## everything measured on this CPU -> benchmarks/results/ and REPORT.md
	$(BIN)/python benchmarks/bench.py

bench-check: $(VENV)/.dev  ## has anything become slower than the committed baseline?
	$(BIN)/python benchmarks/check.py

bench-gpu: $(VENV)/.gpu  ## every backend beside torch on this GPU -> benchmarks/results/
	$(BIN)/python benchmarks/gpu.py

clean:  ## remove what the targets made (not trained runs)
	rm -rf $(VENV) build dist demo phantoms .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
