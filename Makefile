# Everything this project does, from a clean clone. `make help` lists it.
#
# The environment is the active virtual or conda environment, or else .venv, which is made here.
# Conda's base is left alone: it belongs to conda. The environment made here goes by a relative
# name, so that the path of the checkout may hold spaces, of which make would make several names.

ACTIVE := $(or $(VIRTUAL_ENV),$(if $(filter-out base,$(CONDA_DEFAULT_ENV)),$(CONDA_PREFIX)))
ENV := $(patsubst ./%,%,$(subst $(CURDIR)/,./,$(or $(ACTIVE),$(CURDIR)/.venv)))
ifneq ($(words $(ENV)),1)
$(error environment = $(ENV): has a space in its path; deactivate it, and make uses .venv here)
endif
BIN := $(ENV)/bin
PY := $(BIN)/python
STAMP := $(ENV)/.moe-leverage-installed
PIP := $(PY) -m pip --disable-pip-version-check
PYTHON ?= $(firstword $(foreach v,3.11 3.12 3.13 3,\
  $(shell command -v python$(v) >/dev/null 2>&1 && echo python$(v))))

# what draws the formulas of the site and checks its scripts; what the C++ peer of that looks at
NODE_STAMP := node_modules/.moe-leverage-installed
BIOME := node_modules/.bin/biome
CPP := $(wildcard src/moe_leverage/model/native/cpp/*)

PYTEST_FLAGS ?=
BENCH ?=
PORT ?= 8000
# the version that trained the runs of data/ledger; make lock moves everything else
TORCH := torch==2.13.0
HASHED := $(wildcard requirements/*.txt)
BY_HASH := --no-deps --require-hashes --requirement
# Every package for every system and Python of ours, with the hashes of all its files
COMPILE = build/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-annotate --custom-compile-command 'make hashes'

.DEFAULT_GOAL := help
.PHONY: help env corpus book test serve release screenshots lock hashes lint format sync bench fits clean FORCE

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | column -t -s '|' 2>/dev/null \
	  || sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1: \2/p' $(MAKEFILE_LIST)

env: $(STAMP) ## install the package and the pinned versions, once for each lock

$(PY):
	@test -n "$(PYTHON)" || { echo "make: python = none found: install Python 3.11, 3.12 or 3.13" >&2; exit 2; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v[:2] < (3, 14))' \
	  || { echo "make: python = $$("$(PYTHON)" -V): use 3.11, 3.12 or 3.13: make PYTHON=python3.11" >&2; exit 2; }
	"$(PYTHON)" -m venv $(ENV)

# Every file is held to its hash, and the lists are whole, so pip follows no dependency. PyTorch goes
# first: its build for CPUs where the index at hand offers it, else PyPI's with what that brings. One
# that is there already stays, whatever it was built for.
$(STAMP): $(HASHED) requirements.lock pyproject.toml | $(PY)
	@$(PIP) freeze 2>/dev/null | grep -q '^$(TORCH)' \
	  || $(PIP) install --quiet $(BY_HASH) requirements/torch-cpu.txt 2>/dev/null \
	  || $(PIP) install --quiet $(BY_HASH) requirements/torch.txt
	$(PIP) install --quiet $(BY_HASH) requirements/all-but-torch.txt
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@pwd -P > $@

# an environment that was last installed for another checkout is installed anew
ifneq "$(shell cat $(STAMP) 2>/dev/null)" "$(shell pwd -P)"
$(STAMP): FORCE
endif

corpus: env ## fetch the small corpus that the chapters train on, hashes checked
	@$(BIN)/moe-leverage corpus build --tier smoke

book: env corpus $(NODE_STAMP) ## execute the chapters that changed and render build/html; SEED=1 for their seed
	@$(PY) book/build.py $(if $(SEED),-p seed $(SEED))

test: env corpus ## run every test; those of the site need `make book` first, else they are skipped
	@$(PY) -m pytest --numprocesses logical --maxprocesses 4 $(PYTEST_FLAGS)

serve: env ## show the site on this machine
	@$(PY) book/serving.py '$(PORT)'

release: env ## make build/release: the site as one file to read offline, the book as one PDF
	@$(PY) book/release.py

screenshots: env ## take the pictures of the README anew from build/html
	@$(PY) book/screenshots.py

$(NODE_STAMP): package.json
	@command -v npm >/dev/null || { echo "make: npm = none found: install Node.js with npm, 18 or later" >&2; exit 2; }
	npm install --silent --no-package-lock --no-audit --no-fund
	@touch $@

lint: env $(NODE_STAMP) ## style and types of the Python, style and faults of the JavaScript and the C++
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIOME) check --error-on-warnings
	$(BIN)/clang-format --dry-run -Werror $(CPP)
	$(BIN)/clang-tidy --quiet $(filter %.cpp,$(CPP)) --

format: env $(NODE_STAMP) ## put the code into the house style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIOME) check --write
	$(BIN)/clang-format -i $(CPP)

sync: env ## bring both halves of each chapter in step, the newer one wins
	@$(PY) book/chapters.py

bench: env corpus ## time the package beside its peers; BENCH=training for one of them
	@$(PY) -m bench $(BENCH)

fits: env ## fit the laws that the book reads to the ledger and write data/fits
	@$(BIN)/moe-leverage study pin
	@$(BIN)/moe-leverage fits

lock: ## resolve the dependencies anew and write requirements.lock
	rm -rf build/lock
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet --upgrade pip
	build/lock/bin/python -m pip install --quiet --editable '.[book,dev,dask,ray]' 'setuptools>=77' '$(TORCH)'
	@{ echo "# Every version the project runs with, for Python 3.11. Written by make lock."; \
	  build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	  | grep -v -E '^(nvidia|cuda|triton)' | sed 's/+[a-z0-9.]*$$//'; } > requirements.lock.partial
	@mv requirements.lock.partial requirements.lock
	@$(MAKE) --no-print-directory hashes

hashes: ## write requirements/, the versions of requirements.lock with the hashes of their files
	@test -d build/lock || "$(PYTHON)" -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	mkdir -p build/lock/torch requirements
	echo '$(TORCH)' > build/lock/torch.in
	echo "torch ; sys_platform == 'none'" > build/lock/no-torch.in
	$(COMPILE) --constraints requirements.lock --output-file requirements/torch.txt build/lock/torch.in
	$(COMPILE) --overrides build/lock/no-torch.in --no-emit-package torch \
	  --output-file requirements/all-but-torch.txt requirements.lock
	@rm -f requirements/torch-cpu.txt
	@build/lock/bin/python -m pip download --quiet --no-deps --dest build/lock/torch '$(TORCH)+cpu' \
	  || { echo "make: requirements/torch-cpu.txt = not written: no index here offers $(TORCH)+cpu" >&2; exit 0; }; \
	{ echo "# PyTorch's build for CPUs, which PyPI does not hold, for Linux on x86-64 with Python 3.11."; \
	  echo "# Written by make hashes. Where it is not to be had, make env installs torch.txt."; \
	  printf '%s \\\n' '$(TORCH)+cpu'; build/lock/bin/python -m pip hash build/lock/torch/*.whl \
	  | sed -n 's/^--hash/    --hash/p'; } > requirements/torch-cpu.txt
	rm -rf build/lock

clean: ## remove everything built, but not the environment and the corpus
	rm -rf build .pytest_cache .mypy_cache .ruff_cache
