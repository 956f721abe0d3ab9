# From a bare Python 3.11 or newer: the first call makes .venv, later ones use it again.
# In an environment that has everything already: make test PYTHON=python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BASE_PYTHON ?= $(firstword $(foreach name,python3 python3.11 python3.12 python3.13,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
ifeq ($(origin PYTHON),command line)
INSTALLED :=
else
PYTHON := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
endif
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help install demo test lint bench soak clean
help:
	@echo "make demo | test | lint | bench | soak | clean"

install: $(INSTALLED)

# torch first and alone: a version that is installed or on disk is taken as it is, and nothing larger fetched.
$(VENV)/installed: pyproject.toml
	@test -n "$(BASE_PYTHON)" || { echo "Python 3.11 or newer is needed (or: make BASE_PYTHON=...)"; exit 2; }
	test -x $(VENV)/bin/python || $(BASE_PYTHON) -m venv $$($(BASE_PYTHON) -c 'import torch' 2>/dev/null \
		&& echo --system-site-packages) $(VENV)
	$(PYTHON) -c 'import torch' 2>/dev/null || $(PYTHON) -m pip install --quiet "$(TORCH)"
	$(PYTHON) -m pip install --quiet --editable ".[dev]"
	@touch $@

demo: install
	$(PYTHON) -m node.cli demo

# Two at a time, a file each: many tests wait for processes of their own.
test: lint
	$(PYTHON) -m pytest --numprocesses 2 --dist loadfile

lint: install
	$(PYTHON) -m ruff check .
	$(PYTHON) -m mypy

bench: install
	$(PYTHON) -m node.cli bench

# Hours: what is too long for `make test`, one after the other. Each line also runs by itself.
soak: install
	$(PYTHON) -m pytest -m slow --timeout 1200
	$(PYTHON) scripts/kill_replicas.py --epochs 120
	$(PYTHON) scripts/kill_replicas.py --epochs 40 --beyond
	$(PYTHON) scripts/soak.py --minutes 30
	$(PYTHON) scripts/fuzz.py --inputs 1000000
	$(PYTHON) scripts/byzantine_demo.py --seeds 3
	$(PYTHON) -m node.cli simulate --seeds 8500
	$(PYTHON) -m node.cli simulate --seeds 1500 --replicas 7 --byzantine 2

clean:
	rm -rf $(VENV) demo-run kill-run soak-run byzantine-run build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
