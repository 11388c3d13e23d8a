# Every target installs what it needs: a fresh machine needs only Python 3.11+ and make.
# Targets share one virtual environment (.venv), in which a stamp file records the installed extras.

PYTHON  ?= python3
VENV    ?= .venv
BIN     := $(VENV)/bin
# Pinned here to the version whose CPU build we test with; the package metadata has a range.
TORCH   ?= torch==2.13.0
SEED    ?= 7
OUT     ?=
BUNDLE  ?=
# TensorRT graphs of the export, such as fp16,bf16,int8,fp8; the command's own default if empty.
PRECISION ?=
# Maximum number of test processes: each takes up to 3 GB.
JOBS    ?= 4
# TensorRT engines are built for these targets, with or without a GPU; not part of the bundle.
# None are built if it is empty.
TARGET  ?= sm80,sm89,sm120
ENGINES ?= build/engines

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-gpu lint format phantom train evaluate export bench \
        bench-check bench-gpu clean

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

# The same for a GPU. The two onnxruntime packages overwrite each other: only that for GPUs is kept.
$(VENV)/.gpu: $(VENV)/.dev
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[gpu]'
	$(BIN)/pip uninstall --quiet --yes onnxruntime onnxruntime-gpu
	$(BIN)/pip install --quiet --disable-pip-version-check 'onnxruntime-gpu>=1.24'
	touch $@

# --- what users run ---------------------------------------------------------------------------

demo: $(VENV)/.cpu  ## phantom CT study -> samihs-infer -> mask, volume, DICOM SEG (no torch)
	rm -rf demo
	$(BIN)/samihs-phantom demo/study --seed $(SEED) --slices 28 --thickness 5 --bleed intraparenchymal
	$(BIN)/samihs-infer demo/study --click-file demo/study/truth.json --out demo/result
	@echo "truth: demo/study/truth.json"

phantom: $(VENV)/.cpu  ## write phantom studies: OUT=phantoms SEED=7
	$(BIN)/samihs-phantom $(or $(OUT),phantoms) --seed $(SEED) --format both

train: $(VENV)/.dev  ## train base and adapters (QUICK=1: a trial run of 2 minutes)
	$(BIN)/samihs-train fit $(if $(QUICK),--quick) --out $(or $(OUT),runs/$(if $(QUICK),quick,vit_mini))

evaluate: $(VENV)/.dev  ## Dice and HD95 of the shipped bundle (or BUNDLE=) on unseen phantoms
	$(BIN)/samihs-evaluate $(if $(BUNDLE),--bundle $(BUNDLE))

export: $(VENV)/.dev  ## merge, export, prove, bundle, engines: the shipped weights, or CHECKPOINT= BASE= into OUT=my_bundle (PRECISION= TARGET=, OVERWRITE=1: other sites' adapters may go)
	$(BIN)/samihs-export bundle $(if $(CHECKPOINT),--checkpoint $(CHECKPOINT)) \
	    $(if $(BASE),--base $(BASE)) $(if $(OUT),--out $(OUT)) \
	    $(if $(PRECISION),--precision $(PRECISION)) $(if $(OVERWRITE),--overwrite) \
	    $(if $(TARGET),--target $(TARGET) --engines $(ENGINES))

# --- checks -----------------------------------------------------------------------------------

test: $(VENV)/.dev  ## all tests except GPU and slow ones
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

format: $(VENV)/.dev  ## let ruff fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## run the CPU benchmarks -> benchmarks/results/ and REPORT.md
	$(BIN)/python benchmarks/bench.py

bench-check: $(VENV)/.dev  ## check that nothing is slower than the committed baseline
	$(BIN)/python benchmarks/check.py

bench-gpu: $(VENV)/.gpu  ## compare every backend with torch on this GPU -> benchmarks/results/
	$(BIN)/python benchmarks/gpu.py

clean:  ## remove what the targets created, except trained runs
	rm -rf $(VENV) build dist demo phantoms .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
