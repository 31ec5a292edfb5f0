BENCHES := overhead engine shared_prefix local_speculation speculation stage2 balance detector embeddings memory faults scrape

.PHONY: help setup serve demo test test-all check format bench train-demo-pair
.DEFAULT_GOAL := help
BIN := .venv/bin

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-18s %s\n", $$1, $$2}'

setup:  ## create .venv and install everything (compiles llama.cpp once, about five minutes)
	@deploy/setup.sh

serve: setup  ## run the gateway on 127.0.0.1:8080, with what it finds
	@$(BIN)/tandem serve $(ARGS)

demo: setup  ## send a real request through each mode and print what happened
	@$(BIN)/tandem demo $(ARGS)

test:  ## everything but the slow tests (minutes)
	@deploy/setup.sh dev
	@tests/services.sh
	$(BIN)/pytest -m "not slow" $(ARGS)

test-all:  ## all tests, before a release
	@deploy/setup.sh dev
	@tests/services.sh
	$(BIN)/pytest $(ARGS)

check:  ## formatting, lint, types, import directions
	@deploy/setup.sh dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_imports.py

format:  ## rewrite the formatting
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## the figures this project holds itself to, printed beside its peers
	@for name in $(BENCHES); do $(BIN)/python tests/bench/$$name.py $(ARGS) || exit 1; done

train-demo-pair:  ## train the bundled model pair anew (hours; torch in an environment of its own)
	@python3 -m venv .venv-train
	.venv-train/bin/pip install --quiet "torch==2.13.0" -e ".[train,local]"
	.venv-train/bin/python -m backends.engine.demo_pair all
