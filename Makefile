# `make help` lists the targets. Everything runs in .venv, which scripts/setup makes.
.DEFAULT_GOAL := help
PYTHON := .venv/bin/python
PYTEST := $(PYTHON) -m pytest

BUS_TESTS := tests/integration/skydriver_progress tests/integration/skydriver_scanner tests/acceptance/test_broker_permissions.py \
    tests/acceptance/test_scanners_on_the_bus.py \
    $(patsubst %,tests/integration/skydriver_common/test_%.py,settlement dead_letters publishing blocked_broker replay stop_signals silent_broker)

.PHONY: run test test-clients test-failover test-faults test-rabbitmq4 unit check fuzz fire chaos kube-assets test-cluster test-kube kube-chaos fmt bench setup setup-dev docs help \
    test-busy test-shuffled test-odd-environment coverage

run: setup  ## set up, start the embedded system, scan a sample event, show the result, stop everything
	$(PYTHON) -m skydriver_cli.app demo --data-dir data

test: setup-dev check  ## set up, check style and types, run all but the Kubernetes tests
	$(PYTEST) -n 2 --dist loadfile --durations=20 tests/unit tests/integration tests/acceptance
	$(PYTEST) tests/chaos

unit: setup-dev  ## the unit tests only: seconds
	$(PYTEST) tests/unit -q

check: setup-dev  ## ruff, mypy --strict, layers
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	.venv/bin/lint-imports
	cd libs/client && ../../.venv/bin/lint-imports --config pyproject.toml
	$(PYTHON) scripts/check_words.py

fuzz: setup-dev  ## requests of every kind from the OpenAPI document, for some minutes
	SKYDRIVER_TEST_FUZZ_EXAMPLES=1000 $(PYTEST) tests/acceptance/test_fuzz.py

kube-assets:  ## build a Kubernetes control plane into a cache folder: ten minutes, once
	@scripts/kube-assets

test-kube: setup-dev kube-assets  ## the dispatcher and deploy/ against a real Kubernetes control plane
	$(PYTEST) tests/kube

kube-chaos: setup-dev kube-assets  ## of test-kube only the run under kills: SCANS=200 KILLS=20 SEED=…
	SKYDRIVER_TEST_SCANS=$(or $(SCANS),200) SKYDRIVER_TEST_KILLS=$(or $(KILLS),20) SKYDRIVER_TEST_SEED=$(SEED) \
	    $(PYTEST) -s tests/kube/test_kills.py

test-clients: setup-dev  ## clients that generators make from /openapi.json, in an environment of the generators' own
	@scripts/client-generators
	$(PYTEST) tests/clients

test-rabbitmq4: setup-dev  ## the tests of the bus against RabbitMQ 4 (as root; a tree of Debian 13 is made in the cache)
	SKYDRIVER_RABBITMQ_SERVER=$$(scripts/rabbitmq4) $(PYTEST) $(BUS_TESTS)

test-cluster: setup-dev kube-assets  ## the image in containers, on the broker and database of deploy/ (as root, with containerd and buildah)
	@scripts/test-cluster

fire: setup-dev  ## 200 scanners on the bus for a minute while replicas of progress are killed
	SKYDRIVER_TEST_FIRE_SECONDS=60 $(PYTEST) -s tests/integration/skydriver_progress/test_ingest_under_kills.py

chaos: setup-dev  ## a long run under faults: SCANS=2000 FAULTS=100 SEED=… RATE=4 REPORT=chaos.json
	$(PYTHON) -m tests.chaos.run --scans $(or $(SCANS),2000) --faults $(or $(FAULTS),100) --per-second $(or $(RATE),4) \
	    $(if $(SEED),--seed $(SEED)) $(if $(REPORT),--json $(REPORT))

test-faults: setup-dev  ## every fault of a running system, seen by name and cleared: some minutes
	SKYDRIVER_TEST_FAULTS=all $(PYTEST) -s tests/acceptance/test_faults.py

test-failover: setup-dev  ## 200 scans while the database's standby is promoted 20 times
	$(PYTHON) -m tests.chaos.run --scans 200 --faults 20 --per-second 0.8 --only "promote the standby"

test-busy: setup-dev  ## the tests beside loops that keep all cores busy
	$(PYTHON) -m tests.support.busy $(PYTEST) -n 2 --dist loadfile $(or $(TESTS),tests/unit tests/integration tests/acceptance)

test-shuffled: setup-dev  ## the tests in another order: SEED=…
	SKYDRIVER_TEST_ORDER_SEED=$(or $(SEED),$(shell date +%s)) \
	    $(PYTEST) -n 2 --dist loadfile $(or $(TESTS),tests/unit tests/integration tests/acceptance)

test-odd-environment: setup-dev  ## a part of the tests as a normal user in a folder with spaces, detached, with an odd environment: TESTS=…
	$(PYTHON) -m tests.support.odd_environment $(TESTS)

coverage: setup-dev  ## which lines and branches the tests execute, in child processes too: TESTS=…
	rm -rf .coverage && mkdir .coverage
	-$(PYTHON) -m coverage run -m pytest -n 2 --dist loadfile $(or $(TESTS),tests/unit tests/integration tests/acceptance)
	$(PYTHON) -m coverage combine -q && $(PYTHON) -m coverage report

fmt: setup-dev  ## format the code
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .

bench: setup-dev  ## measure the loop; prints figures
	$(PYTHON) benchmarks/loop.py

docs: setup-dev  ## write the pages that are made from the code
	$(PYTHON) -m tests.support.reference_pages
	$(PYTHON) -m tests.support.schema_page > docs/developers/schema.sql.new && mv docs/developers/schema.sql.new docs/developers/schema.sql

setup:
	@scripts/setup run

setup-dev:
	@scripts/setup dev

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
