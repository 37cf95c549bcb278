# Every target sets up .venv by itself; `make` alone lists them.
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,$(shell \
  $(name) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null && echo $(name))))
BIN := .venv/bin
# A throw-away cluster of two virtual nodes: packages slurm-wlm, munge, slurmdbd, mariadb-server.
MINI_SLURM ?= ../shared/slurm/mini_slurm.sh

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-slurm bench check clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/ready ## set up, then train, score, prune and fine-tune a ResNet-56 on the embedded digits
	$(BIN)/python run.py model=resnet56 criterion=l1 ratio=0.5

test: .venv/ready ## set up, then run the tests (about seven minutes on two cores)
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-all: .venv/ready ## the tests, and the slow ones
	$(BIN)/python -m pytest -q -n auto --dist worksteal -m 'not gpu and not slurm'

test-slurm: .venv/ready ## sweeps on a real Slurm that is disturbed; MINI_SLURM is the script that starts and stops it (as root)
	@MS_DIR=$$(mktemp -d) && export MS_DIR && trap '$(MINI_SLURM) stop' EXIT && trap 'exit 130' INT TERM && $(MINI_SLURM) start && \
	SLURM_CONF=$$MS_DIR/etc/slurm.conf $(BIN)/python -m pytest -q -m slurm

bench: .venv/ready ## time engine, criteria, removal and sweeps against others, side by side (seven minutes on a quiet machine)
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/engine_gpu.py
	env -u OPENBLAS_CORETYPE $(BIN)/python benchmarks/criteria.py images=256 # NumPy's BLAS with all that the processor can do
	$(BIN)/python benchmarks/removal.py
	$(BIN)/python benchmarks/sweep.py ratios=1

check: .venv/ready ## ruff format, ruff check, pyright
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean: ## remove .venv (outputs/ stays)
	rm -rf .venv

.venv/ready: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11, 3.12 or 3.13 found; install one, or name it: make PYTHON=/path/to/python" >&2; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' -c constraints.txt
	@touch $@
