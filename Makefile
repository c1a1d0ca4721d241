# On a fresh machine: `make demo` and `make test`. Everything is installed into .venv and built into build/.
#
#   PYTHON=python3.12 make demo          another interpreter (3.10 to 3.13)
#   TORCH="torch torchvision" make test  another PyTorch; pip's own configuration says where wheels come from,
#                                        e.g. the smaller CPU builds
#   ARGS="-k octree" make test           arguments for pytest

.DEFAULT_GOAL := help
PYTHON ?= python3
# PyTorch serves export, training and tests only. torch and torchvision must be of one release and one build: a known pair,
# installed in one step before anything else can choose one of them alone.
TORCH ?= torch==2.14.1 torchvision==0.29.1
ARGS ?=

VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check
VIEW := .cache/view
PACKAGES := export runtime kernels calibration
BUILD := pyproject.toml CMakeLists.txt kernels/CMakeLists.txt $(shell find kernels -name '*.cpp' -o -name '*.h')

.PHONY: help demo test lint benchmark benchmark-quick figures install install-dev wheel clean

help:
	@echo "make demo              simulated camera -> pipeline -> out/demo"
	@echo "make test              all tests"
	@echo "make lint              ruff and mypy"
	@echo "make benchmark         the tables of the README (benchmark-quick: the same code, small)"
	@echo "make figures           the pictures under docs/"
	@echo "make install           .venv with the package, editable (install-dev: and what tests need)"
	@echo "make wheel             a wheel into dist/"
	@echo "make clean             remove .venv, caches and build output"

demo: $(VENV)/.installed
	$(VENV)/bin/zerograsp-edge demo $(ARGS)

test: $(VENV)/.installed-dev
	$(VENV)/bin/python -m pytest $(ARGS)

# mypy needs the folders as the packages they become.
lint: $(VENV)/.installed-dev
	$(VENV)/bin/ruff check .
	mkdir -p $(VIEW)/zerograsp_edge
	for part in $(PACKAGES); do ln -sfn ../../../$$part $(VIEW)/zerograsp_edge/$$part; done
	MYPYPATH=$(VIEW) $(VENV)/bin/mypy --explicit-package-bases --cache-dir .cache/mypy \
	  $(PACKAGES:%=-p zerograsp_edge.%)

benchmark: $(VENV)/.installed-dev
	$(VENV)/bin/python benchmarks/kernels.py
	$(VENV)/bin/python benchmarks/pipeline.py
	$(VENV)/bin/python benchmarks/reconstruction.py --grasps
	$(VENV)/bin/python benchmarks/segmentation.py --reconstruct 25
	$(VENV)/bin/python benchmarks/grasp_labels.py
	$(VENV)/bin/python benchmarks/picking.py
	$(VENV)/bin/python benchmarks/camera.py
	$(VENV)/bin/python benchmarks/hand_eye.py
	$(VENV)/bin/python benchmarks/franka.py
	$(VENV)/bin/python benchmarks/roofline.py
	$(VENV)/bin/python benchmarks/precision.py
	$(VENV)/bin/python benchmarks/live.py
	$(VENV)/bin/python benchmarks/install_size.py
	if command -v nvcc > /dev/null; then $(VENV)/bin/python benchmarks/cuda_resources.py; fi

benchmark-quick: $(VENV)/.installed-dev
	$(VENV)/bin/python benchmarks/kernels.py --quick
	$(VENV)/bin/python benchmarks/pipeline.py --quick
	$(VENV)/bin/python benchmarks/reconstruction.py --quick --grasps
	$(VENV)/bin/python benchmarks/segmentation.py --quick
	$(VENV)/bin/python benchmarks/grasp_labels.py --quick
	$(VENV)/bin/python benchmarks/picking.py --quick
	$(VENV)/bin/python benchmarks/camera.py --quick
	$(VENV)/bin/python benchmarks/hand_eye.py --quick
	$(VENV)/bin/python benchmarks/franka.py --quick
	$(VENV)/bin/python benchmarks/roofline.py --quick
	$(VENV)/bin/python benchmarks/precision.py --quick
	$(VENV)/bin/python benchmarks/live.py --quick

figures: $(VENV)/.installed-dev
	$(VENV)/bin/python benchmarks/figures/overview.py
	if command -v chromium > /dev/null; then $(VENV)/bin/python benchmarks/figures/view.py; fi

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

wheel: $(VENV)/.base
	$(PIP) wheel --no-deps --no-build-isolation --wheel-dir dist .

# A stamp is newer than what it was made from; a changed C++ source builds again, only what changed.
$(VENV)/.base:
	@$(PYTHON) -c "import sys; assert sys.version_info >= (3, 10)" || { \
	  echo "Python 3.10 or newer is needed: PYTHON=python3.12 make ..."; exit 1; }
	@command -v g++ > /dev/null && $(PYTHON) -c "import os, sysconfig, venv, ensurepip; \
	  os.stat(os.path.join(sysconfig.get_path('include'), 'Python.h'))" || { \
	  echo "a compiler, Python's headers or venv are missing: sudo apt-get install g++ python3-dev python3-venv"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade pip
	$(PIP) install --quiet 'scikit-build-core>=0.10' 'nanobind>=2.2' 'cmake>=3.18' 'ninja>=1.10'
	touch $@

# Where no build of the pair exists (another Python or processor), pip chooses a matching one.
$(VENV)/.torch: $(VENV)/.base
	$(PIP) install $(TORCH) || $(PIP) install torch torchvision
	touch $@

$(VENV)/.installed: $(VENV)/.base $(BUILD)
	$(PIP) install --quiet --no-build-isolation --editable '.[mesh,sim]'
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed $(VENV)/.torch
	$(PIP) install --quiet --no-build-isolation --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
