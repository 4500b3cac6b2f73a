# make demo    speech -> teacher -> student -> wav files and a benchmark, under runs/demo; with CORPUS=FOLDER, of your
#              recordings, under runs/demo-FOLDER-HASH; DEMO=DIR names another folder
# make test    ruff, mypy, import-linter and the quick tests
# make chain   the slow tests: the whole chain at toy size
#
# Each target sets up .venv by itself, once. Without an NVIDIA GPU the CPU build of PyTorch is meant; where
# `pip install torch==$(TORCH)` would fetch the CUDA build, name the CPU index:
#     make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu

PYTHON ?= python3
TORCH ?= 2.13.0
TORCHAUDIO ?= 2.11.0
TORCH_INDEX ?=
CORPUS ?=
DEMO ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test chain lint setup clean

setup: $(STAMP)

$(STAMP): pyproject.toml recipes/setup.sh
	PYTHON=$(PYTHON) TORCH=$(TORCH) TORCHAUDIO=$(TORCHAUDIO) TORCH_INDEX=$(TORCH_INDEX) bash recipes/setup.sh $(VENV)
	touch $@

demo: $(STAMP)
	$(BIN)/python -m recipes.demo $(if $(DEMO),--out "$(DEMO)") $(if $(CORPUS),--corpus "$(CORPUS)")

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/pytest -m "not slow"

chain: $(STAMP)
	$(BIN)/pytest -m slow --durations=15

clean:
	rm -rf $(VENV) build *.egg-info
