# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs/demo
REPORT ?= report

.PHONY: demo test lint env clean

demo: env  ## draw the data, train and evaluate a table's variants, write the table and the pictures
	$(BIN)/python -m ablations.train -m +table=small protocol=smoke job.runs=$(RUNS)
	$(BIN)/python -m analysis.report $(RUNS) --out $(REPORT)

test: env  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: env  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(VENV)/.installed  ## create the environment

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(None if v in [(3, 11), (3, 12)] else f"Python {v[0]}.{v[1]} will not do: \
	  call make with PYTHON=python3.11 or python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,launchers]'
	touch $@

clean:  ## remove the environment
	rm -rf $(VENV)
