# What one types most. `make check` is what every change has to pass; continuous integration runs all of deploy/test.sh.
PATH := $(CURDIR)/.venv/bin:$(PATH)
CODE := cli lab services shared supervisor tests benchmarks

.PHONY: help setup check lint types imports unit fix integration e2e faults conformance all

help: ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## system packages, .venv, what the tests need of Python
	deploy/install.sh --dev

check: lint types imports unit ## all that needs no root, about two minutes

lint: ## ruff: rules and format
	ruff check .
	ruff format --check .

types: ## mypy --strict
	mypy $(CODE)

imports: ## import-linter: who may import whom
	lint-imports

unit: ## unit tests
	python -m pytest tests/unit -q

fix: ## what ruff can put right by itself
	ruff check --fix .
	ruff format .

integration: ## tests with real servers and kernels; root for some
	python -m pytest tests/integration -q

e2e: ## tests through docker client, Compose and SDKs; root
	python -m pytest tests/e2e -q

faults: ## tests that break engines, the long ones too; root
	python -m pytest tests/faults -q --slow

conformance: ## tests that ask a real Docker Engine the same; root
	python -m pytest tests/conformance -q

all: ## what continuous integration runs; installs what is missing; root
	deploy/test.sh
