# Two commands do everything from nothing: `make demo` and `make test`.
# They need Python 3.11, g++ and make. TORCH= names another torch to install; PYTHON= another environment to use,
# WORKERS= how many processes share the tests.
TORCH ?= torch==2.13.0
VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
EXTRAS ?= dev
WORKERS ?= 2
export FASTVISION_EMULATED ?= 1
INSTALLED = $(VENV)/.installed

.PHONY: demo test bench lint format build sanitize cuda-check install clean

demo: install
	$(PYTHON) -m fastvision demo

test: install
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered

bench: install
	$(PYTHON) -m fastvision bench conv

# One environment serves all targets; with PYTHON= given, that one must have torch and the extras.
ifeq ($(PYTHON),$(VENV)/bin/python)
install: $(INSTALLED) build
else
install: build
endif

$(INSTALLED): pyproject.toml
	test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet --upgrade "pip>=24" "setuptools>=77" wheel
	$(PYTHON) -c "import torch" 2>/dev/null || $(PYTHON) -m pip install "$(TORCH)"
	$(PYTHON) -m pip install --quiet --no-build-isolation --editable ".[$(EXTRAS)]"
	touch $@

build:
	@$(PYTHON) setup.py --quiet build_ext --inplace

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	git ls-files 'csrc/*' 'tests/*' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(dir $(PYTHON))clang-format --dry-run --Werror

format: install
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	git ls-files 'csrc/*' 'tests/*' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(dir $(PYTHON))clang-format -i

sanitize: install
	$(PYTHON) tools/sanitize.py

cuda-check: install
	$(PYTHON) -m pip install --quiet nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	$(PYTHON) tools/cuda_check.py

clean:
	rm -rf build $(VENV) *.egg-info fastvision/*.so
