# Everything runs in environments made here; PYTHON chooses the interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# One stamp an environment: rebuilt only when what it holds changes, or another interpreter is asked for.
WHICH := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

# The experiments in earnest, in runs/NAME: about 3 hours on two CPU cores, an estimate. What
# is finished is not carried out again. EXPERIMENTS="rates stages" makes some of them.
EXPERIMENTS ?= rates schedules stages data_efficiency continual scaling safety constitution arithmetic_rl transfer methods images
SEEDS ?= 3

.PHONY: demo experiments claims test test-heavy test-full live bench beam trackers buckets clusters browser lint docs models-table install clean check-python

demo: $(VENV)/.installed-$(WHICH)
	$(BIN)/python -m experiments.transfer --out=runs/demo

experiments: $(VENV)/.installed-$(WHICH)
	for name in $(EXPERIMENTS); do $(BIN)/python -m experiments.$$name --out=runs/$$name --seeds=$(SEEDS) || exit 1; done

# Every claim of experiments/claims, and the table of docs/claims.md. CLAIMS=next_word,hallucination makes some of them.
claims: $(VENV)/.installed-$(WHICH)
	$(BIN)/python -m experiments.claims --out=runs/claims --seeds=$(SEEDS) --only=$(CLAIMS) --docs=docs/claims.md

test: $(VENV)/.test-$(WHICH)
	$(BIN)/python -m pytest tests -m "not slow and not live and not heavy" -n 2 --dist worksteal -q

# The commands of the README and the demo at toy size, as users run them, and other long tests.
test-heavy: $(VENV)/.test-$(WHICH)
	$(BIN)/python -m pytest tests -m "heavy and not slow" -n 2 --dist worksteal -q

test-full: $(VENV)/.parity-$(WHICH)
	$(BIN)/python -m pytest tests -n 2 --dist worksteal -q

# The comparisons with independent implementations, run live.
live: $(VENV)/.parity-$(WHICH)
	$(BIN)/python -m pytest tests -m "live and not slow" -n 2 --dist worksteal -q

# Style and types, as pyproject.toml has them.
lint: $(VENV)/.test-$(WHICH)
	$(BIN)/python -m ruff check
	$(BIN)/python -m ruff format --check
	$(BIN)/python -m mypy

# The site, in build/site; what a page says of links and names that are not there is an error. Nothing is fetched.
docs: $(VENV)/.docs-$(WHICH)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean

# Preparation of data on Apache Beam, in an environment of its own: Beam needs protobuf 6 (see setup.py).
beam: check-python
	$(PYTHON) -m venv $(VENV)-beam
	$(VENV)-beam/bin/python -m pip install --quiet --disable-pip-version-check -e ".[beam,test]"
	$(VENV)-beam/bin/python -m pytest tests/data/prepare -n 2 --dist worksteal -q

# Services that track experiments, with their own clients and without a network.
trackers: check-python
	$(PYTHON) -m venv $(VENV)-trackers
	$(VENV)-trackers/bin/python -m pip install --quiet --disable-pip-version-check -e ".[wandb,mlflow,aim,test]"
	$(VENV)-trackers/bin/python -m pytest tests/reporting/test_trackers_live.py -q

# Data and runs in buckets, from a server of S3 and an emulator of Google Cloud Storage on this machine.
buckets: check-python
	$(PYTHON) -m venv $(VENV)-buckets
	$(VENV)-buckets/bin/python -m pip install --quiet --disable-pip-version-check -e ".[s3,gcs,test]" "moto[server]>=5" gcp-storage-emulator
	$(VENV)-buckets/bin/python -m pytest tests/data/records/test_buckets_live.py tests/runs/test_bucket_live.py -q

# Experiments on clusters: a Ray cluster of several nodes on this machine, and submitit's jobs, in an environment of its own.
clusters: check-python
	$(PYTHON) -m venv $(VENV)-clusters
	$(VENV)-clusters/bin/python -m pip install --quiet --disable-pip-version-check -e ".[ray,slurm,test]"
	$(VENV)-clusters/bin/python -m pytest tests/experiments/test_clusters.py -q

# The dashboard in a real browser: the system's Chromium, else one that playwright has installed.
browser: $(VENV)/.test-$(WHICH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright
	$(BIN)/python -m pytest tests/dashboard/test_browser.py -q

# docs/benchmarks.md: ours beside PyTorch, transformers, PEFT and TRL, in an environment of its own. BENCH="4x128 start" measures
# only these, and QUALITY=FOLDER adds what `python -m experiments.characters` found.
bench: $(VENV)-bench/.installed-$(WHICH)
	$(VENV)-bench/bin/ptft bench $(BENCH) --out=docs --quality=$(QUALITY)

$(VENV)-bench/.installed-$(WHICH): setup.py requirements.txt | check-python
	$(PYTHON) -m venv --clear $(VENV)-bench
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(VENV)-bench/bin/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	touch $@

# docs/models.md from what the comparisons of models find.
models-table: $(VENV)/.parity-$(WHICH)
	rm -rf build/parity
	PTFT_PARITY_RESULTS=build/parity $(BIN)/python -m pytest tests/interop -m live -n 2 --dist worksteal -q
	$(BIN)/python -m tests.parity.models_table build/parity docs/models.md

install: $(VENV)/.installed-$(WHICH)

check-python:
	@test -n "$(WHICH)" || { echo "error: no interpreter $(PYTHON); set PYTHON=..."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is $(WHICH), ptft_jax needs 3.11 or newer; set PYTHON=..."; exit 1; }

$(VENV)/.installed-$(WHICH): setup.py requirements.txt | check-python
	rm -f $(VENV)/.installed-* $(VENV)/.test-* $(VENV)/.docs-* $(VENV)/.parity-*
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[all]"
	touch $@

$(VENV)/.test-$(WHICH): $(VENV)/.installed-$(WHICH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[test]"
	touch $@

$(VENV)/.docs-$(WHICH): $(VENV)/.installed-$(WHICH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[docs]"
	touch $@

# torch by version: the plain name brings gigabytes of GPU libraries.
$(VENV)/.parity-$(WHICH): $(VENV)/.test-$(WHICH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[parity]"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-beam $(VENV)-clusters $(VENV)-bench build dist *.egg-info
