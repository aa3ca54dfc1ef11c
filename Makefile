# make demo: set up, then learn a placement for a real graph. make test: set up, then check everything.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.stamp
INTEROP := .venv-interop/bin
INTEROP_STAMP := .venv-interop/.stamp

.PHONY: setup demo test interop workloads readme results policy clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "placer needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	rm -rf runs/demo
	$(BIN)/placer train --workload rnnlm --cluster p100x4 --evaluations 4000 --out runs/demo
	$(BIN)/placer plot runs/demo --out runs/demo/reward.png

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# another library's agents train on the environments; torch is heavy, so they live in a venv of their own
interop: $(INTEROP_STAMP)
	$(INTEROP)/python -m pytest --override-ini addopts= --confcutdir tests/interop tests/interop

# torch first, so that its build is chosen before anything that depends on it
$(INTEROP_STAMP): constraints-interop.txt
	$(PYTHON) -m venv .venv-interop
	$(INTEROP)/python -m pip install --quiet --constraint constraints-interop.txt torch
	$(INTEROP)/python -m pip install --quiet --constraint constraints-interop.txt \
		stable-baselines3 sb3-contrib gymnasium msgspec networkx numba pymetis pytest
	@touch $(INTEROP_STAMP)

# runs everything that README and docs/cli.md show, and rewrites table, picture and output
readme: $(STAMP)
	$(BIN)/python -m experiments.showcase

# trains the policy that placer brings along, for some ten minutes
policy: $(STAMP)
	rm -f policies/bundled.npz
	$(BIN)/placer pretrain --out policies/bundled.npz --steps 3000 \
	  --workload rnnlm --workload inception_v3 --workload transformer \
	  --cluster p100x4 --cluster k80x4 --cluster v100x8

# compares all methods on all workloads, for hours, and rewrites docs/results.md; goes on where it was stopped
results: $(STAMP)
	$(BIN)/python -m experiments.results --jobs 2

# traces the workloads anew and rewrites their bundled graphs
workloads: $(STAMP)
	$(BIN)/python -m experiments.workloads

clean:
	rm -rf .venv .venv-interop runs build dist *.egg-info
