# `make run` and `make test` need make and Python 3.11, 3.12 or 3.13, nothing else. Everything is installed into .venv;
# `make test PYTHON3=python3.13` has a folder of its own, .venv-3.13.
PYTHON3 := $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
VERSIONS := 3.11 3.12 3.13
VERSION := $(shell $(PYTHON3) -c "import sys; print('%d.%d' % sys.version_info[:2])")
VENV := .venv$(if $(filter command%,$(origin PYTHON3)),-$(VERSION))
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
RESULTS ?= results/quickstart
export OMP_NUM_THREADS ?= 1
# What pip says, the names alone.
NAMES := 's/^Collecting \([^ ]*\).*/  \1/p; s/^Installing collected.*/  all of them are here, and are installed now/p'

.PHONY: run test test-all faults check docs report bench bench-methods bench-learning clean

run: $(STAMP)  ## The quickstart study and its report; started again, it goes on where it stopped.
	$(PY) run_tune.py $(if $(wildcard results/quickstart/study.yaml),--resume)

test: $(STAMP)  ## The fast tests, then the smoke studies through the command line.
	$(PY) -m pytest -q -n 2 --dist loadfile -m "not slow"
	rm -rf .smoke
	$(PY) run_tune.py tune_configs/smoke.yaml --results-dir .smoke
	$(PY) run_tune.py tune_configs/tuning_smoke.yaml --results-dir .smoke

test-all: test  ## Also the slow tests and the quickstart.
	$(PY) -m pytest -q -m slow
	$(MAKE) run

faults: $(STAMP)  ## Every fault of docs/faults.md, and the table there (about half an hour).
	$(PY) -m tests.faults --json fault_report.json
	$(PY) -m docs.faults fault_report.json

check: $(STAMP)  ## Format, lint, types, the direction of imports, the script, the drawing of them, the tables of docs/.
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy .
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/shellcheck cluster/start.sh
	$(PY) -m docs.architecture --check
	$(PY) -m docs.tables --check

docs: $(STAMP)  ## The pages of docs/ as HTML in build/docs; a dead link or a missing name fails.
	$(PY) -m sphinx -q -E -n -W --keep-going docs build/docs

report: $(STAMP)  ## Tables and figures of finished runs: make report RESULTS=results/NAME
	$(PY) -m analysis report $(RESULTS)

bench: $(STAMP)  ## Throughput against stock RLlib and a plain PyTorch loop (about 40 minutes).
	$(PY) -m benchmarks.throughput

bench-methods: $(STAMP)  ## What each method costs next to SAC: time, parameters, bytes, steps (about 5 minutes).
	$(PY) -m benchmarks.methods

bench-learning: $(STAMP)  ## Learning curves of SAC beside a plain loop in CleanRL's order (hours); again: goes on.
	$(PY) -m benchmarks.learning --resume results/learning.json

clean:  ## Remove the environment and caches; results stay.
	rm -rf .venv .venv-* .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .smoke

$(STAMP): requirements.txt
	@echo "Installing into $(VENV), a few minutes the first time"
	@$(if $(filter $(VERSION),$(VERSIONS)),:,echo "error: $(PYTHON3) is Python $(VERSION); allowed: $(VERSIONS)"; exit 4)
	@bash -o pipefail -c "SECONDS=0; \
	  echo '1 of 2: a virtual environment of Python $(VERSION)' && $(PYTHON3) -m venv $(VENV) && \
	  echo \"  \$$SECONDS s\" && SECONDS=0 && echo '2 of 2: packages, by name as they come' && \
	  $(PY) -m pip install --disable-pip-version-check --progress-bar off -r requirements.txt | sed -un $(NAMES) && \
	  echo \"  \$$SECONDS s\""
	@touch $@
