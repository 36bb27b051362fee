PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench setup clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: setup
	$(BIN)/python -P jetson/demo.py

test: setup
	$(BIN)/pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

bench: setup
	$(BIN)/saymask bench bundles/evf-sam-mini-int8 --compare bundles/evf-sam-mini-fp32

clean:
	rm -rf .venv build out bundles
