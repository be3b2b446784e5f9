SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format docs clean

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check

# The index is stored in .venv, so that a later `make test` does not install another torch.
TORCH_INDEX ?= $(shell cat $(VENV)/torch-index 2>/dev/null)
STAMP := $(VENV)/setup-$(firstword $(shell printf '%s' '$(TORCH_INDEX)' | cksum)).stamp

# mmcv compiles its CUDA operators if torch detects a GPU, and fails without nvcc. In that case the GPU
# is hidden from the build, so that mmcv only has its CPU operators.
NVCC := $(shell command -v nvcc || ls "$${CUDA_HOME:-/usr/local/cuda}/bin/nvcc" 2>/dev/null)
HIDE_GPU := $(if $(NVCC),,CUDA_VISIBLE_DEVICES=)

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo 'setup installs torch from the index that pip is configured for, or from TORCH_INDEX, e.g.'
	@echo '  make setup TORCH_INDEX=https://download.pytorch.org/whl/cu130   for an NVIDIA GPU'
	@echo '  make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu     small, without GPU support'
	@echo 'TORCH_INDEX is remembered; TORCH_INDEX= resets it. PYTHON=... selects another Python 3.11,'
	@echo 'MAX_JOBS=... the number of concurrent compilers (about 1.5 GB of memory each).'

setup: $(STAMP) ## create .venv with all dependencies (once; compiles mmcv: about 10 minutes on 2 cores)

# Series 1 and 2 of the scenes are for training and validation, the tests use series 4.
demo: setup ## draw synthetic scenes and a video, estimate poses, make a contact sheet (in demo/)
	$(PY) tools/make_scenes.py demo/scenes --count 48 --seed 3
	$(PY) tools/batch_infer.py demo/scenes --out-dir demo/poses --overwrite --save-vis \
	  --ann-file demo/scenes/annotations.json
	$(PY) tools/make_scenes.py demo/video --videos 1 --seconds 4 --persons 3 --seed 3
	$(PY) tools/batch_infer.py demo/video --out-dir demo/video_poses --overwrite --save-vis --track \
	  --ann-file demo/video/annotations.json
	$(PY) tools/contact_sheet.py demo/poses/vis demo/video_poses/vis --out demo/contact_sheet.png

# Two workers with one thread each; the tests of a module, or of a model, run on one of them.
test: setup ## run all tests, including slow ones
	$(PY) -m pytest -m "" -n 2 --dist loadgroup

lint: setup ## check style and spelling
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m codespell_lib

format: setup ## format the code in the style that lint checks
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: setup ## write the reference of options, and build the website in site/
	$(PY) tools/write_options.py
	$(PY) -m zensical build --strict -f mkdocs.yml

clean: ## remove the files of builds, tests and the demo; keeps .venv
	rm -rf build dist demo site .cache .pytest_cache .ruff_cache *.egg-info
	find . -name $(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

define CHECK_PYTHON
import sys
if sys.version_info[:2] != (3, 11):
    found = '.'.join(map(str, sys.version_info[:3]))
    sys.exit(f'setup: needs Python 3.11, which the versions in requirements/ are tested with, but '
             f'{sys.executable} is {found}. Select another one: make setup PYTHON=python3.11')
endef

# pip caches the wheels that it built and may install one that was built for another torch or numpy.
# This is detected by loading the extension, and by mmcv having no operators for an available GPU.
define CHECK_COMPILED
import mmcv.ops, torch, xtcocotools._mask
if '$(NVCC)' and torch.cuda.is_available():
    assert mmcv.ops.get_compiling_cuda_version() != 'not available', 'mmcv lacks CUDA operators'
endef
export CHECK_PYTHON CHECK_COMPILED

# Nearly all of the time to compile one of mmcv's 77 files is spent on torch's headers and on debug
# information. With precompiled headers and without debug information, mmcv compiles in a fifth of the
# time. g++ skips a precompiled header that was made with other flags, so failures of that step are
# ignored. setuptools uses CFLAGS instead of Python's own flags, hence -O3 and the others.
PCH := $(CURDIR)/$(VENV)/torch_types.h
CXXFLAGS_MMCV := -O3 -fwrapv -DNDEBUG -fPIC -g0
define precompile
"$${CXX:-c++}" $(CXXFLAGS_MMCV) -w -std=c++17 -DTORCH_API_INCLUDE_EXTENSION_H -DTORCH_EXTENSION_NAME=_ext \
  $$($(PY) -c 'from torch.utils.cpp_extension import include_paths as f; print(*("-I" + p for p in f()))') \
  -x c++-header $(PCH) -o $(PCH).gch || true
endef

# Prints the counters of ninja and the steps of pip; the rest only goes to the log.
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
	@$(PIP) install -r requirements/runtime.txt -r requirements/engines.txt -r requirements/cluster.txt \
	  -r requirements/dev.txt
	@$(PIP) install --no-deps -r requirements/openmmlab.txt -r requirements/tracking.txt
	@echo '== mmcv and xtcocotools: compiled for this torch and numpy (complete log: $(BUILD_LOG))'
	@printf '#ifdef TORCH_EXTENSION_NAME\n#include <torch/types.h>\n#endif\n' >$(PCH)
	@$(PIP) cache list mmcv 2>/dev/null | grep ' mmcv-.*-cp311-' >/dev/null || { $(precompile); }
	@$(call compile)
	@$(PY) -W ignore -c "$$CHECK_COMPILED" 2>&1 | tail -n 1 || { \
	  echo "== pip's wheels were built for another torch or numpy: building again without its cache"; \
	  $(precompile); $(call compile,--no-cache-dir --force-reinstall); $(PY) -W ignore -c "$$CHECK_COMPILED"; }
	@echo '== mmpose_batch'
	@$(PIP) install --no-deps --no-build-isolation -e .
	@rm -f $(PCH) $(PCH).gch
	@touch $@
