SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format docs clean

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

# The choice is kept in the environment, so that a later `make test` does not bring another torch back.
TORCH_INDEX ?= $(shell cat $(VENV)/torch-index 2>/dev/null)
STAMP := $(VENV)/setup-$(firstword $(shell printf '%s' '$(TORCH_INDEX)' | cksum)).stamp

# mmcv compiles its CUDA operators as soon as torch sees a GPU, and fails where there is no nvcc. Then
# the GPU is hidden from the build, which gives mmcv's CPU operators.
NVCC := $(shell command -v nvcc || ls "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
HIDE_GPU := $(if $(NVCC),,CUDA_VISIBLE_DEVICES=)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'setup takes torch from the index that pip is configured for, or from the one given, e.g.'
	@echo '  make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130   for an NVIDIA GPU'
	@echo '  make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu     small, without one'
	@echo 'and remembers it; TORCH_INDEX= goes back. PYTHON=... names another Python 3.11, MAX_JOBS=...'
	@echo 'the number of compilers at a time (each takes about 1.5 GB).'

setup: $(STAMP) ## make .venv with all that is needed (once; compiles mmcv: about 10 minutes on 2 cores)

# Series 1 and 2 of the scenes were the training's, the tests draw from 4.
demo: setup ## draw people that no model has seen, find their poses, put a dozen on one sheet: demo/
	$(PY) tools/make_scenes.py demo/scenes --count 48 --seed 3
	$(PY) tools/batch_infer.py demo/scenes --out-dir demo/poses --overwrite --save-vis \
	  --ann-file demo/scenes/annotations.json
	$(PY) tools/contact_sheet.py demo/poses/vis --out demo/contact_sheet.png

# Two workers of one thread each; tests of a module, or of a model, follow each other on one of them.
test: setup ## run all tests, the slow ones too
	$(PY) -m pytest -m "" -n 2 --dist loadgroup

lint: setup ## check style and spelling
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib

format: setup ## bring the code into the style that lint checks
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup ## write the reference of the options, and build the website in site/
	$(PY) tools/write_options.py
	$(PY) -m zensical build --strict -f mkdocs.yml

clean: ## remove what builds, tests and the demo left; .venv stays
	rm -rf build dist demo site .cache .pytest_cache .ruff_cache *.egg-info
	find . -name $(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

define CHECK_PYTHON
import sys
if sys.version_info[:2] != (3, 11):
    found = '.'.join(map(str, sys.version_info[:3]))
    sys.exit(f'setup: needs Python 3.11 (the versions in requirements/ are those tried with it), but '
             f'{sys.executable} is {found}. Name another one: make setup PYTHON=python3.11')
endef

# pip keeps the wheels that it built and may hand out one that was built for another torch or numpy:
# it shows when the extension is loaded, or when a GPU is there and mmcv has no operators for it.
define CHECK_COMPILED
import mmcv.ops, torch, xtcocotools._mask
if '$(NVCC)' and torch.cuda.is_available():
    assert mmcv.ops.get_compiling_cuda_version() != 'not available', 'mmcv lacks CUDA operators'
endef
export CHECK_PYTHON CHECK_COMPILED

# Nearly all the time that one of mmcv's 77 files takes goes into torch's headers and debug information.
# With the headers precompiled and without debug information mmcv takes a fifth of the time. g++ passes
# over a precompiled header that was made with other flags, so no failure of that step counts. setuptools
# takes CFLAGS in place of Python's own flags, hence -O3 and the others.
PCH := $(CURDIR)/$(VENV)/torch_types.h
CXXFLAGS_MMCV := -O3 -fwrapv -DNDEBUG -fPIC -g0
define precompile
"$${CXX:-c++}" $(CXXFLAGS_MMCV) -w -std=c++17 -DTORCH_API_INCLUDE_EXTENSION_H -DTORCH_EXTENSION_NAME=_ext \
  $$($(PY) -c 'from torch.utils.cpp_extension import include_paths as f; print(*("-I" + p for p in f()))') \
  -x c++-header $(PCH) -o $(PCH).gch || true
endef

# The counters of ninja and the steps of pip as they come; all the rest goes to the log only.
BUILD_LOG := $(VENV)/mmcv-build.log
PROGRESS := sed -unE -e 's|^ *(\[[0-9]+/[0-9]+\]).*/([^/ ]+)\.o .*|  compiled \1 \2|p' \
                     -e '/^(Collecting|Building wheel|Successfully|ERROR|error:)/p'
define compile
CFLAGS="$(CXXFLAGS_MMCV) -include $(PCH)" $(HIDE_GPU) \
  $(PIP) install -v --no-deps --no-build-isolation -r requirements/source.txt $(1) 2>&1 \
  | tee $(BUILD_LOG) | $(PROGRESS) \
  || { tail -n 40 $(BUILD_LOG) | cut -c 1-300; echo '...'; \
       grep -E '([Ee]rror|FAILED): ' $(BUILD_LOG) | cut -c 1-300 | tail -n 10; \
       echo 'setup: mmcv or xtcocotools did not build, see $(BUILD_LOG)'; exit 1; }
endef

$(STAMP): $(wildcard requirements/*.txt) setup.py pyproject.toml
	@$(PY) -m pip --version >/dev/null 2>&1 || \
	  { $(PYTHON) -c "$$CHECK_PYTHON"; echo '== environment'; $(PYTHON) -m venv $(VENV); }
	@$(PY) -c "$$CHECK_PYTHON"
	@command -v "$${CXX:-c++}" >/dev/null || \
	  { echo 'setup: needs a C++ compiler to build mmcv, e.g. apt install g++'; exit 1; }
	@rm -f $(VENV)/setup-*.stamp
	@echo '== build tools'
	@$(PIP) install -r requirements/build.txt
	@echo '== torch'
	@if [ "$$(cat $(VENV)/torch-index 2>/dev/null)" != '$(TORCH_INDEX)' ]; then \
	  $(PIP) uninstall -y torch mmcv; fi
	@$(if $(TORCH_INDEX),PIP_INDEX_URL='$(TORCH_INDEX)') $(PIP) install -r requirements/torch.txt
	@printf '%s' '$(TORCH_INDEX)' >$(VENV)/torch-index
	@echo '== libraries'
	@$(PIP) install -r requirements/runtime.txt -r requirements/engines.txt -r requirements/dev.txt
	@$(PIP) install --no-deps -r requirements/openmmlab.txt
	@echo '== mmcv and xtcocotools: compiled for this torch and numpy (the whole log: $(BUILD_LOG))'
	@printf '#ifdef TORCH_EXTENSION_NAME\n#include <torch/types.h>\n#endif\n' >$(PCH)
	@$(PIP) cache list mmcv 2>/dev/null | grep ' mmcv-.*-cp311-' >/dev/null || { $(precompile); }
	@$(call compile)
	@$(PY) -W ignore -c "$$CHECK_COMPILED" 2>&1 | tail -n 1 || { \
	  echo "== pip's wheels were built for another torch or numpy: once more, without its cache"; \
	  $(precompile); $(call compile,--no-cache-dir --force-reinstall); $(PY) -W ignore -c "$$CHECK_COMPILED"; }
	@echo '== mmpose_batch'
	@$(PIP) install --no-deps --no-build-isolation -e .
	@rm -f $(PCH) $(PCH).gch
	@touch $@
