# Two commands do everything: `make quickstart` runs the main job, `make test` passes the tests.
# Both make a local .venv, and are quick when run again.
PYTHON ?= python3
BIN := .venv/bin
TEST_WORKERS ?= 2
SETUP := Makefile pyproject.toml setup.py constraints.txt

.PHONY: quickstart test test-fast test-lucene test-cluster lint types unit coverage fix docs clean

quickstart: .venv/.installed-demo
	$(BIN)/ibkd quickstart

test: lint types unit

# The same without the tests that are marked slow, for use while writing.
test-fast: .venv/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not slow and not lucene and not cluster"

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/mypy

unit: .venv/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not lucene and not cluster"

# Prints the share of the lines and branches that the tests run; lines run by other processes are not counted.
coverage: .venv/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS) -m "not lucene and not cluster" --cov --cov-report=term:skip-covered

fix: .venv/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pages of docs/ as a site with search, in site/; a link that leads nowhere is an error.
docs: .venv/.installed-docs
	$(BIN)/mkdocs build --strict

# Pyserini brings 2 GB of packages, so its tests have an environment of their own.
test-lucene: .venv-lucene/.installed
	.venv-lucene/bin/python -m pytest -m lucene tests/search

# Ray's tests take minutes. `make test` has one that is quick.
test-cluster: .venv-cluster/.installed
	.venv-cluster/bin/python -m pytest -m cluster

.venv-cluster/.installed: $(SETUP)
	test -x .venv-cluster/bin/python || $(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/pip install -q -c constraints.txt -e '.[cpu,ray,demo,dev]'
	touch $@

.venv-lucene/.installed: $(SETUP)
	test -x .venv-lucene/bin/python || $(PYTHON) -m venv .venv-lucene
	.venv-lucene/bin/pip install -q -c constraints.txt -e '.[cpu,bm25,pyserini,dev]'
	touch $@

.venv/.installed-demo: $(SETUP)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,demo]'
	touch $@

.venv/.installed-dev: $(SETUP)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,demo,bm25,onnx,report,serve,static,store,tensorboard,dev]'
	touch $@ .venv/.installed-demo

.venv/.installed-docs: $(SETUP)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv .venv-lucene .venv-cluster .mypy_cache .ruff_cache .pytest_cache .coverage site *.egg-info
