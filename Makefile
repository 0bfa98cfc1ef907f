# The whole developer interface. `make run` and `make test` do all set-up themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3.11
PY := .venv/bin/python
export PYTHONUNBUFFERED := 1

.PHONY: audit faults load soak help run test lint bench bench-peers dyno lock test-ui test-clients contract fuzz
help:
	@echo "make run    serve a searchable gallery (set-up included)"
	@echo "make test   run every test that needs no browser, node or peer stack (set-up included)"
	@echo "make lint   ruff, mypy and the import contracts"
	@echo "make bench  measure speed and memory, print the table, write var/bench.json"
	@echo "make test-ui, test-clients, contract, fuzz, hostile: what make test does not run"
	@echo "make dyno   build the slug, run it as the platform would, and hold it to the guide's figures"
	@echo "make faults break the whole system in every listed way and check that nothing is lost [ONLY=… SEED=… MINUTES=… STEPS=… LIST=1]"
	@echo "make load   searches, uploads and a backfill at once for five minutes: latencies, errors, memory [SECONDS=…]"
	@echo "make soak   the same at a steady pace for half an hour, hostile pictures among it: what grows, what is lost [MINUTES=…]"
	@echo "make audit  look the locked packages up among known vulnerabilities (needs the package index's database)"
	@echo "make lock   resolve and write the three hash-locked requirement files"

.venv/.stamp: requirements-dev.txt
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) was not found. Likeness needs Python 3.11: install the package python3.11 (Debian, Ubuntu: python3.11 and python3.11-venv), or name another interpreter with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { echo "make: $(PYTHON) is not Python 3.11. Name one with PYTHON=…" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make: $(PYTHON) has no venv module. Install the package python3.11-venv." >&2; exit 1; }
	@# One set-up at a time: two at once would remove each other's .venv. The lock is on this folder; a
	@# file system without such locks, as NFS, does without. 1: somebody else has it.
	@exec 9<.; status=0; flock -n 9 2>/dev/null || status=$$?; \
	if [[ $$status == 1 ]]; then echo "make: waiting for another set-up in this folder"; flock 9; fi; \
	if [[ -e $@ && ! requirements-dev.txt -nt $@ ]]; then exit 0; fi; \
	echo "make: installing the locked packages into .venv (about a minute)"; \
	rm -rf .venv; \
	$(PYTHON) -m venv .venv; \
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.txt; \
	touch $@

run: .venv/.stamp
	@exec $(PY) -m app up

test: .venv/.stamp lint
	@$(PY) -m faces.models fetch facenet128 facenet128-int8 sface sface-int8 --samples
	@$(PY) -m pytest -n 2 --dist loadgroup -m "not browser and not clients and not atlas"
	@echo "make test: not run here: test-ui (needs a browser), test-clients (needs node), bench-peers (needs the peer stacks), contract on a real Atlas (needs MONGODB_URI), and the long ones: fuzz, hostile, faults, load, soak, dyno"

lint: .venv/.stamp
	@$(PY) -m ruff check . && $(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-cache

bench: .venv/.stamp
	@$(PY) -m faces.models fetch facenet128 facenet128-int8 --samples
	@exec $(PY) -m bench run

# The peers' packages take gigabytes: a virtual environment of their own, which make bench then uses.
bench-peers: .venv/.stamp
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check -r bench/requirements-peers.txt
	@$(PY) -m faces.models fetch facenet128 facenet128-int8 --samples
	@exec $(PY) -m bench run encode --json var/bench-peers.json

# Drives Debian's chromium and audits every state with axe-core, which npm installs below var/ui.
test-ui: .venv/.stamp
	@command -v npm >/dev/null || { echo "make test-ui: npm was not found. Install Node.js with npm (Debian, Ubuntu: nodejs and npm): it fetches axe-core, which audits the page." >&2; exit 1; }
	@mkdir -p var/ui && cp tests/ui/package.json tests/ui/package-lock.json var/ui/
	@npm ci --prefix var/ui --no-audit --no-fund --silent
	@$(PY) -m faces.models fetch facenet128 facenet128-int8 --samples
	@$(PY) -m pytest -m browser tests/ui

# Random requests against every operation, for long: make fuzz [URL=http://…]
fuzz: .venv/.stamp
	@$(PY) -m faces.models fetch facenet128 facenet128-int8 --samples
	@exec $(PY) -m tests.contract.api.fuzz $(URL)

# Every hostile input, one by one: status, code, time and memory of each. make hostile [URL=http://…]
hostile: .venv/.stamp
	@$(PY) -m faces.models fetch facenet128 facenet128-int8 --samples
	@exec $(PY) -m tests.contract.api.attack $(URL)

# boto3, the AWS CLI and the AWS SDK for JavaScript against the Rekognition dialect, and the database's
# drivers, Mongoose and LangChain against the embedded Atlas, all of them unmodified. They are installed
# below var/clients and never deployed.
test-clients: .venv/.stamp
	@for tool in node npm; do command -v $$tool >/dev/null || { echo "make test-clients: $$tool was not found. Install Node.js 20 or newer with npm (Debian, Ubuntu: nodejs and npm)." >&2; exit 1; }; done
	@test -x var/clients/venv/bin/python || $(PYTHON) -m venv var/clients/venv
	@var/clients/venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/clients/requirements.txt
	@cp tests/clients/package.json tests/clients/package-lock.json var/clients/
	@npm ci --prefix var/clients --no-audit --no-fund --silent
	@$(PY) -m faces.models fetch facenet128 facenet128-int8 --samples
	@$(PY) -m pytest -m clients tests/clients

# The whole system behind fault proxies; a row that does not hold ends it with status 1. What failed at
# random (MINUTES=…) is shrunk, and printed as the STEPS=… that fail again.
faults: .venv/.stamp
	@$(PY) -m faces.models fetch facenet128-int8 sface-int8 --samples
	@exec $(PY) -m bench faults $(if $(ONLY),--only "$(ONLY)") $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(STEPS),--steps "$(STEPS)") $(if $(LIST),--list)

load: .venv/.stamp
	@$(PY) -m faces.models fetch --samples
	@exec $(PY) -m bench load $(if $(SECONDS),--seconds $(SECONDS))

soak: .venv/.stamp
	@$(PY) -m faces.models fetch --samples
	@exec $(PY) -m bench soak $(if $(MINUTES),--minutes $(MINUTES))

# pip-audit has a virtual environment of its own. Status 2: the database did not answer, so nothing was audited.
audit: .venv/.stamp
	@test -x var/audit/bin/python || $(PYTHON) -m venv var/audit
	@var/audit/bin/python -m pip install --quiet --disable-pip-version-check -r bin/requirements-audit.txt || { echo "make audit: NOT AUDITED. pip-audit could not be installed: the package index was not reachable." >&2; exit 2; }
	@exec var/audit/bin/python bin/audit.py

dyno: .venv/.stamp
	@$(PY) -m faces.models fetch --samples
	@exec $(PY) -m bench dyno

# The $vectorSearch contract suite, on any Atlas: make contract MONGODB_URI=…
contract: .venv/.stamp
	@test -n "$(MONGODB_URI)" || { echo "make contract: name the Atlas to test in MONGODB_URI=… (without one, make test runs the same suite on the embedded Atlas)" >&2; exit 1; }
	@CONTRACT_URI="$(MONGODB_URI)" $(PY) -m pytest -o addopts="--strict-markers --import-mode=importlib -ra" -m atlas tests/contract/vectorsearch

lock: .venv/.stamp
	@$(PY) bin/lock.py
