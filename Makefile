# The commands a newcomer needs. Each makes what it needs; only python3.11+, make and git must be there.

SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(SUPPORTED)' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
export OMP_NUM_THREADS := 1
export PYTHONSAFEPATH := 1

.PHONY: demo test test-slow check bench bench-quick bench-grid bench-engine bench-secure-sum bench-aggregate bench-sample \
	bench-utility bench-distributed bench-network bench-audit install clean

demo: install
	$(BIN)/manikin demo --out demo

test: install
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: install
	$(BIN)/python -m pytest -n 2 -m slow

check: install
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Pages and JSON lines go to benchmarks/RESULTS.md and results.jsonl; `bench` takes under 90 minutes on two cores.
BENCHES := engine secure_sum aggregate sample utility
BENCH := PYTHONSAFEPATH= $(BIN)/python benchmarks

bench: install
	set -e; for name in $(BENCHES); do $(BENCH)/$$name.py; done; $(BENCH)/utility.py --group distributed

bench-quick: install
	set -e; for name in $(BENCHES); do $(BENCH)/$$name.py --quick; done

# A night or more, case by case: stop it and run it again. ROUND=NAME goes on over commits.
bench-grid: install
	$(BENCH)/utility.py --group grid $(if $(ROUND),--round '$(ROUND)')

bench-engine bench-aggregate bench-sample bench-utility bench-network bench-audit: bench-%: install
	$(BENCH)/$*.py

bench-distributed: install
	$(BENCH)/utility.py --group distributed

bench-secure-sum: install
	$(BENCH)/secure_sum.py

install: $(VENV)/installed

# torch is installed first and pinned, so that a plain machine takes the CPU build and not gigabytes of CUDA.
$(VENV)/installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "No Python 3.11 to 3.13 was found. Try: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) build dist demo
