# Each target sets up what it needs first. ARGS passes arguments on: make bench ARGS="--limit 50"

PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS := .venv-benchmarks
PEERS_INSTALLED := $(PEERS)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup bench bench-all claims report regression docs test check format benchmarks clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(INSTALLED)  ## create .venv with the pinned versions (PYTHON=python3.12 picks another Python)

bench: $(INSTALLED)  ## run the default suite and print its table; cells already done are not run again
	$(BIN)/bench run $(ARGS)

bench-all: $(INSTALLED)  ## run every strategy of the catalogue, and those that reason on a task for that (about an hour on two cores)
	$(BIN)/bench run all $(ARGS)
	$(BIN)/bench run reasoning $(ARGS)

# Each suite is one question; the order puts the long one first.
CLAIMS := claims-strategies claims-forgetting claims-updates claims-paraphrases claims-unknown claims-exposures claims-negatives claims-reasoning

claims: $(INSTALLED)  ## run what decides the claims of bench/claims.yaml and judge them (about 45 minutes on two cores)
	$(BIN)/bench world make-claim-tasks
	set -e; for suite in $(CLAIMS); do $(BIN)/bench run $$suite $(ARGS); done
	$(BIN)/bench claims $(addprefix results/,$(CLAIMS))

report: $(INSTALLED)  ## write the decision report of the newest run under results/ to report.html
	@run=$$(ls -t results/*/run.json 2>/dev/null | grep -v '^results/baseline/' | head -n 1); \
	if [ -z "$$run" ]; then echo "error: no run under results/; start with: make bench" >&2; exit 2; fi; \
	set -x; $(BIN)/bench report "$$(dirname "$$run")" $(ARGS)

# Too few items to tell, or another machine than the baseline's, is no failure here: both are printed.
regression: $(INSTALLED)  ## run the smoke suite and compare it with the accepted baseline (about a minute)
	$(BIN)/bench run smoke --fresh
	$(BIN)/bench check results/smoke --inconclusive-ok $(ARGS)

docs: $(INSTALLED)  ## build the site of docs/ into build/site, every link checked
	$(BIN)/python -m bench.reference docs/reference
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

test: $(INSTALLED)  ## run the test suite
	$(BIN)/python -m pytest $(ARGS)

check: $(INSTALLED)  ## lint and check types
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)  ## fix what the linter can fix
	$(BIN)/ruff check --fix .

benchmarks: $(INSTALLED) $(PEERS_INSTALLED)  ## measure speed beside the peers and write benchmarks/results.md (about 48 minutes)
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[benchmarks]'
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## remove .venv, .venv-benchmarks and caches; runs under results/ stay
	rm -rf $(VENV) $(PEERS) .benchmarks build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

# torch comes first and by its exact version: a resolve that is free to choose would take the newest build, CUDA and all.
# setuptools comes with it, so that the project itself is built with the pinned one and not with one fetched for the build.
$(INSTALLED): pyproject.toml constraints.txt
	@($(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))') 2>/dev/null || { \
	  found=$$( ($(PYTHON) --version) 2>/dev/null || echo "no program $(PYTHON)"); \
	  echo "error: Python 3.11 or newer is needed, found: $$found; choose one with: make setup PYTHON=/path/to/python3.11" >&2; exit 2; }
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt "$$(grep '^torch==' constraints.txt)" "$$(grep '^setuptools==' constraints.txt)"
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

# The peers have an environment of their own: lm-eval needs another python-dateutil. torch comes first here as well.
$(PEERS_INSTALLED): benchmarks/requirements.txt
	@$(PEERS)/bin/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install -q "$$(grep '^torch==' $<)"
	$(PEERS)/bin/python -m pip install -q -r $<
	@touch $@
