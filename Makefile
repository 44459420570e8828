# `make demo` and `make test` need Python 3.11 or 3.12 and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUNS ?= runs/demo
REPORT ?= report

.PHONY: demo notebooks test slow lint env clean

demo: env  ## draw the data, train and evaluate a table's variants, write the table and the pictures
	OMP_NUM_THREADS=1 $(BIN)/python -m ablations.train -m +table=ablation \
	  backbone.depth_multiplier=0.2 backbone.width_multiplier=0.25 data=glyphs_easy protocol=smoke \
	  hydra/launcher=joblib hydra.launcher.n_jobs=2 job.num_threads=1 job.runs=$(RUNS)
	$(BIN)/python -m analysis.report $(RUNS) --out $(REPORT)

notebooks: env  ## open the executed notebooks in a browser
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[notebooks]'
	$(BIN)/jupyter lab analysis/notebooks

test: env  ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

slow: env  ## run the tests that take minutes: timm's own suite on our models, the benchmark
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2 --dist loadfile

lint: env  ## lint, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(VENV)/.installed  ## create the environment

$(VENV)/.installed: pyproject.toml constraints.txt hatch_build.py $(wildcard detnet_kernels/*.[ch])
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; \
	  sys.exit(None if v in [(3, 11), (3, 12)] else f"Python {v[0]}.{v[1]} will not do: \
	  call make with PYTHON=python3.11 or python3.12")'
	@echo 'creating $(VENV) (minutes: torch is large)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev,launchers]'
	$(BIN)/python -m detnet_kernels.build > /dev/null
	touch $@

clean:  ## remove the environment
	rm -rf $(VENV)
