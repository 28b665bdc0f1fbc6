.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

help:  ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

.venv/installed: requirements/all.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/all.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/installed  ## Create .venv with the locked dependencies

run: setup  ## Start everything: embedded servers and the four services
	@exec $(BIN)/registry run

test: setup  ## Run the whole test suite, with real servers on free ports
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

lint: setup  ## Style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

simulate: setup  ## The monitor against made-up disasters: SEEDS=100000, or SEED=17 with all that happened in it
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0))

faults: setup  ## Every fault under load, then everything that always holds: 15 minutes (FAULTS_SEED=17)
	FAULTS=full $(BIN)/python -m pytest tests/faults --numprocesses 2 --dist worksteal --timeout 600

bench: setup  ## Benchmarks, side by side with the floor
	$(BIN)/python -m benchmarks

lock:  ## Renew the locked requirements (needs uv)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --upgrade --extra otel pyproject.toml -o requirements/services.txt
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --prerelease allow --extra embedded --extra otel --extra apprise --extra dev \
		--no-emit-package numpy --no-emit-package shapely --no-emit-package s2sphere --no-emit-package future --no-emit-package python-dateutil \
		--no-emit-package six -c requirements/services.txt pyproject.toml -o requirements/all.txt

.PHONY: help setup run test lint simulate faults bench lock
