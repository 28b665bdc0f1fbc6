.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin

help:  ## Show this help
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

.venv/installed: requirements/all.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/all.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

setup: .venv/installed  ## Create .venv with the locked dependencies

run: setup  ## Start everything: embedded servers and the four services
	@exec $(BIN)/registry run

env:  ## Write .env with fresh secrets for Compose; PUBLIC_URL=https://registry.example.com sets that too
	@$(PYTHON) deploy/env.py "$(PUBLIC_URL)"

docs: setup  ## Write the tables in docs/configuration.md from the settings
	$(BIN)/python -m tests.settings_table

test: setup  ## Run the whole test suite, with real servers on free ports; the short one on Python 3.13 too
	@$(MAKE) --no-print-directory env313 & \
	$(MAKE) --no-print-directory .venv/clients/short/installed || echo "Other systems' clients could not be installed: their tests are skipped."; \
	$(BIN)/python -m pytest --numprocesses 6 --dist worksteal || \
	{ echo "What failed beside other tests is tried once more, alone:"; $(BIN)/python -m pytest --last-failed --last-failed-no-failures none; } && \
	wait
	@$(MAKE) --no-print-directory testshort

# The images' Python, wherever it is. What pyenv has on PATH may be no more than the hint that it is not chosen.
PYTHON313 ?= $(shell for it in python3.13 $(HOME)/.pyenv/versions/3.13*/bin/python3.13; do \
	$$it -c 'import venv' 2>/dev/null && { echo $$it; break; }; done)
SHORT := tests/unit tests/contract/test_events.py tests/e2e/test_ack_v2.py

env313: setup
	@[ -z "$(PYTHON313)" ] || $(MAKE) --no-print-directory .venv/313/installed

testshort: env313  ## Unit tests and one of the whole system, on Python 3.13 if it is here
	@if [ -z "$(PYTHON313)" ]; then echo "There is no Python 3.13 here: its short tests are skipped."; else \
	PYTHONDONTWRITEBYTECODE= .venv/313/bin/python -m pytest --numprocesses 4 --dist worksteal $(SHORT); fi

# Compiled when it is used, as most of it is not.
.venv/313/installed: requirements/all.txt pyproject.toml .venv/installed
	$(PYTHON313) -m venv --clear --without-pip .venv/313
	$(PIP313) --no-compile --require-hashes -r requirements/all.txt
	$(PIP313) --no-build-isolation --editable .
	@touch $@

PIP313 := $(BIN)/python -m pip --python .venv/313/bin/python install --quiet --disable-pip-version-check --no-deps

CLIENTS := python kumacub node

clients: setup $(CLIENTS:%=.venv/clients/%/installed)  ## Other systems' clients, as people install them, with every signal: 3 minutes
	CLIENTS=full $(BIN)/python -m pytest tests/clients

.venv/clients/%/installed: tests/clients/locked/%.txt | .venv/installed
	$(PYTHON) -m venv --clear --without-pip $(@D)
	$(BIN)/python -m pip --python $(@D)/bin/python install --quiet --disable-pip-version-check --retries 1 --timeout 15 --no-compile --no-deps --require-hashes -r $<
	@touch $@

.venv/clients/node/installed: tests/clients/locked/package-lock.json
	mkdir -p $(@D) && cp tests/clients/locked/package*.json $(@D)
	npm ci --prefix $(@D) --omit-lockfile-registry-resolved --ignore-scripts --no-audit --no-fund --silent --fetch-retries 1
	@touch $@

testack: setup  ## The whole suite with a broker that replies as NATS 2.16 does
	NATS_ACK_V2=1 $(BIN)/python -m pytest --numprocesses 4 --dist worksteal

lint: setup  ## Style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive services shared

simulate: setup  ## Monitor and notifier (OF=notifier: it alone) against made-up disasters: SEEDS=100000; SEED=17 tells all of one
	$(BIN)/python -m tests.simulation $(if $(OF),--of $(OF)) $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0))

faults: setup  ## Every fault under load, then everything that always holds: 10 minutes (FAULTS_SEED=17)
	FAULTS=full $(BIN)/python -m pytest tests/faults --numprocesses 2 --dist worksteal --timeout 600

reference: setup  ## Schedules against a reckoning of their own, systemd and Debian's cron: 10 minutes (REFERENCE_SEED=19)
	REFERENCE=full $(BIN)/python -m pytest tests/reference --numprocesses 2 --dist worksteal

fuzz: setup  ## Made-up input for every parser and both APIs: FUZZ=1000 of each kind
	FUZZ=$(or $(FUZZ),1000) $(BIN)/python -m pytest --timeout 3600 tests/fuzz tests/contract/test_openapi.py

audit: .venv/audit/installed  ## Ask whether something is known against a locked dependency (needs the network)
	.venv/audit/bin/pip-audit --strict --disable-pip --require-hashes --requirement requirements/all.txt

.venv/audit/installed: requirements/audit.txt .venv/installed
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r $<
	@touch $@

bench: setup  ## Benchmarks, side by side with the floor
	$(BIN)/python -m benchmarks

lock:  ## Renew the locked requirements (needs uv, and npm for those of the tests' clients)
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --upgrade --extra otel pyproject.toml -o requirements/services.txt
	uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --prerelease allow --extra embedded --extra otel --extra apprise --extra dev \
		--no-emit-package numpy --no-emit-package shapely --no-emit-package s2sphere --no-emit-package future --no-emit-package python-dateutil \
		--no-emit-package six -c requirements/services.txt pyproject.toml -o requirements/all.txt
	echo pip-audit | uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-header --upgrade - -o requirements/audit.txt
	for it in python kumacub short; do uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --upgrade --python-version 3.11 \
		$$([ $$it != short ] || echo -c tests/clients/locked/python.txt) tests/clients/locked/$$it.in -o tests/clients/locked/$$it.txt; done
	cd tests/clients/locked && npm install --package-lock-only --omit-lockfile-registry-resolved --no-audit --no-fund --silent

.PHONY: help setup run env docs test testack env313 testshort clients lint simulate faults reference fuzz audit bench lock
