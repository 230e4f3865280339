# Every target sets up what it needs from a bare checkout, in .venv, and does its job.
# The one requirement is Python 3.11 or newer:  make test PYTHON=python3.12

PYTHON ?= python3
STORE  ?= file
SEEDS  ?= 20000
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/ready
TREES  := client sidecar tests bench examples deploy
ENGINE ?= $(shell command -v docker || command -v podman)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

.DEFAULT_GOAL := help
.PHONY: help demo test packages image sbom check lint types layers sim mutants crash saga flush rolling conformance bench e2e dashboard clean

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

demo: $(READY) ## a deploy in the middle of a run, watched: make demo STORE=file|s3
	$(BIN)/python -m examples.demo --store $(STORE)

test: $(READY) packages ## the fast suite, with its coverage gates
	$(BIN)/python -m pytest -m "not slow and not alone" -n 2 --dist loadfile --cov --cov-report=
	$(BIN)/python -m pytest -m "alone and not slow" --cov --cov-append --cov-report=
	$(BIN)/python -m coverage report --include='*/coatcheck_sidecar/core/*,*/coatcheck/wire.py' --fail-under=100
	$(BIN)/python -m coverage report --fail-under=90

packages: ## what tests need of Debian, as root; else those tests are skipped
	@.ci/debian

image: ## the sidecar's image, by docker or podman: make image BASE=python:3.13-slim@sha256:...
	BUILDAH_FORMAT=docker $(ENGINE) build $(if $(BASE),--build-arg BASE=$(BASE)) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$$(git rev-parse HEAD) --tag coatcheck:$(VERSION) .

sbom: ## what is in the image, as CycloneDX: .build/coatcheck.cdx.json
	$(ENGINE) build $(if $(BASE),--build-arg BASE=$(BASE)) --target sbom --output .build .

check: lint types layers test ## everything that a change must pass

lint: $(READY) ## style, and what may not be called where
	$(BIN)/ruff check $(TREES)
	$(BIN)/ruff format --check $(TREES)

types: $(READY) ## mypy --strict, tests included
	$(BIN)/mypy

layers: $(READY) ## who may import whom
	$(BIN)/lint-imports --no-logo

sim: $(READY) ## seeded simulation: make sim SEEDS=20000
	$(BIN)/python -m tests.sim --seeds $(SEEDS)

mutants: $(READY) ## break each rule in turn: the simulation must notice
	$(BIN)/python -m tests.sim.mutants

crash: $(READY) ## kill -9 at every point, real processes
	$(BIN)/python -m tests.e2e.crash --store all

rolling: $(READY) ## 40 agents on 8 pods, all replaced three times; then agents that never stop
	$(BIN)/python -m tests.e2e.rolling --agents 40 --pods 8 --rounds 3
	$(BIN)/python -m tests.e2e.rolling --agents 40 --pods 8 --rounds 3 --stuck --grace-s 10 --work-s 0.5-5

flush: $(READY) ## slow links and short graces, 50 rounds of each: 20 minutes
	$(BIN)/python -m tests.e2e.flush --rounds 50

saga: $(READY) ## a run is taken back by sidecars that are killed at each undo
	$(BIN)/python -m tests.e2e.saga

conformance: $(READY) ## the MCP suite, directly and through the proxy; needs npm's registry
	$(BIN)/python -m pytest tests/e2e/test_mcp_conformance.py

bench: $(READY) ## measurements beside their floors
	$(BIN)/python -m bench

e2e: $(READY) packages ## what `make test` leaves out: real processes, slow tests
	$(BIN)/python -m pytest -m "e2e or slow" --timeout=600

dashboard: $(READY) packages ## the demo scraped by a real Prometheus; every panel drawn into docs/dashboard.png
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[sidecar,dev,charts]'
	$(BIN)/python -m tests.deploy.demo --png docs/dashboard.png

clean: ## forget everything that was built
	rm -rf $(VENV) .build dist .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find $(TREES) -name __pycache__ -prune -exec rm -rf {} +

# The lines below must parse under any Python, since an old one is what they are there to refuse.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "coatcheck needs Python 3.11 or newer; $(PYTHON) is %d.%d. Name a newer one: make PYTHON=python3.12" % v[:2])'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { $(PYTHON) -c 'import sys; print("$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, apt-get install python%d.%d-venv" % sys.version_info[:2])' >&2; exit 1; }
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[sidecar,dev]'
	@touch $@
