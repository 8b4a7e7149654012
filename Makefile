# Needs Python 3.11 or newer and make; everything else goes into .venv.
PYTHON ?= python3
EXTRAS ?= test
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN = $(VENV)/bin
# Groups of modules, and how many changes of each are tried: tests/mutants.py.
MUTANTS ?= statistics metrics optim transforms models --number 40
# Tests spend their time compiling small programs; less optimised code, in one part, is ready sooner.
# The slow tests and CI's second leg run the code as users do. XLA refuses flags that it does not know:
# those after the first are known to be the pinned version's.
PINNED_XLA_FLAGS = --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1
TEST_XLA_FLAGS ?= --xla_backend_optimization_level=0 $(if $(CONSTRAINTS),$(PINNED_XLA_FLAGS))

.PHONY: help demo test test-slow mutants lint format bench docs clean
help:
	@echo 'make demo       train on the embedded digits, evaluate'
	@echo 'make test       run the tests (about 10 minutes on 2 cores)'
	@echo 'make test-slow  run the slow tests'
	@echo 'make mutants    change the code in random places; list what no test notices (hours)'
	@echo 'make lint       ruff and mypy'
	@echo 'make format     reformat the code'
	@echo 'make bench      run the CPU benchmarks'
	@echo 'make docs       build the documentation into site/'
	@echo 'make clean      remove .venv, caches and the demo run'

# A stamp for each set of extras, so that `make demo` does not install what only tests need.
define environment
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo 'Python 3.11 or newer is needed; try: make PYTHON=python3.12'; exit 1; }
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
@echo 'installing into $(VENV), which takes a minute or more ...'
$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(CONSTRAINTS),--constraint $(CONSTRAINTS)) --editable '.$(1)'
@touch $@
endef

$(VENV)/.installed: pyproject.toml $(CONSTRAINTS)
	$(call environment)

$(VENV)/.installed-$(EXTRAS): pyproject.toml $(CONSTRAINTS)
	$(call environment,[$(EXTRAS)])

$(VENV)/.installed-dev: pyproject.toml $(CONSTRAINTS)
	$(call environment,[dev])

$(VENV)/.installed-bench: pyproject.toml $(CONSTRAINTS)
	$(call environment,[bench])

$(VENV)/.installed-docs: pyproject.toml $(CONSTRAINTS)
	$(call environment,[docs])

demo: $(VENV)/.installed
	$(BIN)/resnet-jax train --config digits --workdir runs/demo
	$(BIN)/resnet-jax eval --workdir runs/demo --per-class
	@echo
	@echo 'Next: look at runs/demo/confusion_test.png and runs/demo/metrics.jsonl, then'
	@echo '  source $(BIN)/activate         # puts resnet-jax on the path'
	@echo '  resnet-jax models                 # what else there is'
	@echo '  resnet-jax train --help           # how to train on your own images'

test: $(VENV)/.installed-$(EXTRAS)
	XLA_FLAGS="$(strip $(TEST_XLA_FLAGS) $$XLA_FLAGS)" $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder \
		-m 'not slow' $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-$(EXTRAS)
	$(BIN)/python -m pytest -n auto --dist worksteal -m slow $(PYTEST_ARGS)

mutants: $(VENV)/.installed-$(EXTRAS) $(VENV)/.installed-dev
	XLA_FLAGS="$(strip $(TEST_XLA_FLAGS) $$XLA_FLAGS)" $(BIN)/python tests/mutants.py $(MUTANTS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# PyTorch is compared with where it is installed: make test EXTRAS=test,torch.
bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/train_step.py --repetitions 5
	$(BIN)/python benchmarks/compile_time.py --model cifar_resnet56
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/growth.py

# --strict: a page that is in no menu, or a link to nothing, is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo 'to read it: $(BIN)/python -m http.server --directory site, then open http://localhost:8000'

clean:
	rm -rf $(VENV) runs/demo build site mutants *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
