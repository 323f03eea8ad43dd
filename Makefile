# Two commands do everything: `make quickstart` runs the main job, `make test` passes the tests.
# Both make a local .venv, and are quick when run again.
PYTHON ?= python3
BIN := .venv/bin
TEST_WORKERS ?= 2

.PHONY: quickstart test lint types unit test-lucene clean

quickstart: .venv/.installed-demo
	$(BIN)/ibkd quickstart

test: lint types unit

lint: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.installed-dev
	$(BIN)/mypy

unit: .venv/.installed-dev
	$(BIN)/python -m pytest -n $(TEST_WORKERS)

# Pyserini brings 2 GB of packages, so its tests have an environment of their own.
test-lucene: .venv-lucene/.installed
	.venv-lucene/bin/python -m pytest -m lucene tests/search

.venv-lucene/.installed: Makefile pyproject.toml constraints.txt
	test -x .venv-lucene/bin/python || $(PYTHON) -m venv .venv-lucene
	.venv-lucene/bin/pip install -q -c constraints.txt -e '.[cpu,bm25,pyserini,dev]'
	touch $@

.venv/.installed-demo: Makefile pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,demo]'
	touch $@

.venv/.installed-dev: Makefile pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt -e '.[cpu,demo,bm25,onnx,report,serve,static,tensorboard,dev]'
	touch $@ .venv/.installed-demo

clean:
	rm -rf .venv .venv-lucene .mypy_cache .ruff_cache .pytest_cache *.egg-info
