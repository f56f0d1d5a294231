# One command per job. `make demo` and `make test` set up everything they need in .venv and nothing elsewhere.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint types unit props lowest bench torture fuzz conformance clean

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# the core and nothing else: what `pip install sftdata` brings
$(VENV)/.core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP) --constraint constraints.txt --editable '.[fast]'
	touch $@

# the development set; torch first and by itself, so that its pinned build is settled before anything asks for it
$(VENV)/.dev: $(VENV)/.core
	$(PIP) --constraint constraints.txt "$$(grep -E '^torch==' constraints.txt)"
	$(PIP) --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(VENV)/.core
	@rm -rf demo
	$(BIN)/sftdata prepare examples/data/*.json* --tokenizer builtin --template chatml --max-length 1024 \
		--max-reject-rate 0.2 --eval 0.05 --clock 2026-01-01 --out demo
	@echo
	$(BIN)/sftdata inspect examples/data/messages.jsonl --record 30 --tokenizer builtin --template chatml
	@echo
	$(BIN)/sftdata verify demo

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev
	PYTHONHASHSEED=0 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 --dist loadgroup

# the laws again, with other and twenty times as many examples than `test` takes
props: $(VENV)/.dev
	PYTHONHASHSEED=0 TOKENIZERS_PARALLELISM=false $(BIN)/python -m pytest -n 2 -m hypothesis --hypothesis-profile=explore

# the core with the oldest releases that it allows, in an environment of its own; needs Python 3.12 at most
lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints-lowest.txt \
		--editable '.[fast,qa]' hypothesis pytest pytest-xdist
	PYTHONHASHSEED=0 TOKENIZERS_PARALLELISM=false $(VENV)-lowest/bin/python -m pytest -n 2 --dist loadgroup \
		tests/packing tests/shards tests/formats tests/sources tests/templates tests/tokenizers tests/cli tests/quality \
		tests/checks tests/pipeline tests/test_config.py tests/test_rules.py \
		--ignore tests/cli/test_serve_check.py  # compares with transformers, whose releases need newer ones

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks.run

torture: $(VENV)/.dev
	$(BIN)/python -m benchmarks.torture

fuzz: $(VENV)/.dev
	$(BIN)/python -m benchmarks.fuzz

conformance: $(VENV)/.dev
	$(BIN)/python -m tests.conformance.table
	$(BIN)/python -m tests.conformance.mutations

clean:
	rm -rf $(VENV) $(VENV)-lowest demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
