# EmoVerse Workflow. `make` alone prints what there is.
PYTHON ?= python3.11
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
COMPILE := uv pip compile --quiet --python-version 3.11 --generate-hashes --no-header --no-emit-index-url
# For speed, not for results, which depend on the `threads` parameters alone: in models as small as the sample's and the
# tests', two threads beside another busy process stall for seconds at a time.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help setup run docs test test-cluster test-fast lint format bench lock sample base pictures image test-containers clean

help:  ## print this help
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/.ready  ## create .venv with everything, pinned by hash

.venv/.ready: requirements/lock.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $$(grep -oE '^uv==[^ ]+' requirements/lock.txt)
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements/lock.txt
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --python $(BIN)/python --editable .
	@touch $@

run: setup  ## run the main job: the sample videos to a trained, scored, exported model and its page
	dvc pull --quiet $(wildcard data/raw/sample/*.dvc)
	dvc repro
	dvc metrics show
	@echo "the page: reports/index.html"

test: setup  ## run all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

# the unit tests that are not marked as slow, and a functional one where a package has no unit test
FAST := tests/unit tests/functional/test_doctor.py tests/functional/test_validate_suites.py tests/functional/test_submit_truth.py
test-fast: setup  ## run fast tests of every package, in under two minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile -q -m "not slow" $(FAST)

test-containers: setup  ## start a docker engine, build both images, run the sample pipeline in them (root, Debian)
	scripts/containers.sh

test-cluster: setup  ## accept the pipeline on a real Kubeflow: HOST=http://... PROFILE=FILE REMOTE=NAME (docs/kubeflow.md)
	EMOVERSE_CLUSTER_HOST="$(HOST)" EMOVERSE_CLUSTER_PROFILE="$(PROFILE)" EMOVERSE_CLUSTER_REMOTE="$(REMOTE)" \
	EMOVERSE_CLUSTER_WORKSPACE="$(WORKSPACE)" EMOVERSE_CLUSTER_CLAIM="$(CLAIM)" EMOVERSE_CLUSTER_PUBLIC="$(PUBLIC)" \
	EMOVERSE_CLUSTER_PARAMS="$(PARAMS)" EMOVERSE_CLUSTER_REPRO="$(REPRO)" \
	EMOVERSE_CLUSTER_KUBECTL="$(KUBECTL)" \
	  $(BIN)/python -m pytest tests/cluster -v --durations=0 -o faulthandler_timeout=0

lint: setup  ## check style, types, import contracts and wording
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	$(BIN)/python scripts/lint_wording.py

docs: setup  ## build the documentation into build/site, offline; a warning or a dead link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict
	@echo "the documentation: build/site/index.html; with its search: python -m http.server -d build/site"

format: setup  ## let ruff rewrite what it can
	ruff check --fix .
	ruff format .

bench: setup  ## run the benchmarks; each prints ratios against a baseline measured in the same run
	for file in benchmarks/*.py; do $(BIN)/python -m benchmarks.$$(basename $$file .py) || exit 1; done

lock: setup  ## resolve requirements/*.in: lock.txt for this machine, data.txt and train.txt for the two images
	$(COMPILE) --upgrade requirements/dev.in --output-file requirements/lock.txt
	for set in data train; do \
	  $(COMPILE) requirements/$$set.in --constraint requirements/lock.txt --output-file requirements/$$set.txt || exit 1; done

sample: setup  ## draw the sample corpora again, byte for byte
	$(BIN)/python -m emoverse.synthetic data/raw/sample

base: setup  ## train the sample's base model again (half an hour) and store it as DVC does
	$(BIN)/python scripts/sample_base.py

pictures: setup  ## take the pictures in docs/images of what `make run` has written (needs chromium)
	$(BIN)/python scripts/pictures.py
	$(BIN)/python scripts/demo_picture.py

# BASE_IMAGE: your site's own base; scripts/base-image.sh makes one where no registry can be reached.
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' emoverse/__init__.py)
image:  ## build the two images of the Kubeflow steps, emoverse-data-python and emoverse-train-python
	for target in data train; do \
	  docker build --target $$target --tag emoverse-$$target-python:$(VERSION) \
	    $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	    --build-arg REVISION="$$(git describe --always --dirty --abbrev=40 --exclude='*')" . || exit 1; done
	docker images --filter reference='emoverse-*-python:$(VERSION)'

clean:  ## remove results and scratch, keep raw data, cache and .venv
	rm -rf data/validated data/amt data/base data/stage1 data/stage2 data/scores data/onnx reports scratch
	rm -f data/*.run.json reports.run.json data/.*.lock .reports.lock
