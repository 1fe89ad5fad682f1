SHELL  := /bin/bash
PYTHON ?= python3
BIN    := .venv/bin
unexport PYTHONPATH

.PHONY: help demo test check wheel lab docs readme clean
.DEFAULT_GOAL := help

help:      # This list
	@grep -E '^[a-z]+: .*#' Makefile | sed -E 's/^([a-z]+):.*# */make \1\t/' | expand -t 14

# The environment: the library from this folder, with the tools of its development, in the versions of constraints.txt.
# `pip` makes it again when either file changes.
.venv/.installed: pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[dev]' -c constraints.txt
	@touch $@

demo: .venv/.installed   # The whole method on phantoms, in minutes: demo/results.csv and demo/label_efficiency.png
	$(BIN)/refers-demo --out demo

# The two halves need nothing from each other and run side by side: one core waits for the disk while the other computes.
test:      # Everything: notebooks and modules in step, every notebook, pytest, a wheel in an environment of its own
	@$(MAKE) --no-print-directory -j2 check wheel

# The files that take longest go first: two processes then end at about the same time.
LONG := tests/test_resume.py tests/test_cli.py tests/test_evaluate.py
check: export PATH := $(CURDIR)/$(BIN):$(PATH)
check: .venv/.installed  # The same without the wheel; what the notebooks and tests write goes to a folder that is removed
	@export OMP_NUM_THREADS=1 TMPDIR=$$(mktemp -d) && trap 'rm -rf "$$TMPDIR"' EXIT && set -x && \
	$(BIN)/python -m pytest tests/test_repository.py && \
	$(BIN)/nbdev-test nbs --n-workers 2 --timing && \
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(LONG) $(filter-out $(LONG) tests/test_repository.py,$(wildcard tests/test_*.py))

# A second environment, with what the library asks for and nothing else. It is emptied when the requirements change.
# torch and its CUDA libraries, 6 GB, are hard links to the files of the first one; where links cannot be, pip installs them.
.venv-wheel/.installed: .venv/.installed
	@$(PYTHON) -m venv --clear .venv-wheel
	@cd .venv/lib/python*/site-packages && cp -al torch torch-* torchgen functorch triton* nvidia* cuda* \
		$(CURDIR)/.venv-wheel/lib/python*/site-packages 2>/dev/null || true
	@rm -rf build dist
	.venv-wheel/bin/python -m pip wheel -q --no-deps -w dist .
	.venv-wheel/bin/python -m pip install -q --no-compile -c constraints.txt dist/refers_nb-*.whl
	@touch $@

wheel: .venv-wheel/.installed  # A wheel, installed elsewhere: every module imports and every command answers
	@rm -rf build dist
	.venv-wheel/bin/python -m pip wheel -q --no-deps -w dist .
	.venv-wheel/bin/python -m pip install -q --no-deps --force-reinstall dist/refers_nb-*.whl
	@rm -rf build
	cd / && $(CURDIR)/.venv-wheel/bin/python -I $(CURDIR)/tests/installed.py $(CURDIR)

lab: .venv/.installed    # JupyterLab on the notebooks, reachable from this machine only; LAB="..." are further options
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 $(LAB) nbs

docs: .venv/.installed   # The notebooks as web pages in _docs
	$(BIN)/python tests/render.py docs

readme: .venv/.installed # README.md, from nbs/index.ipynb
	$(BIN)/python tests/render.py readme

clean:     # Remove what the other targets made
	rm -rf .venv .venv-wheel build dist _docs demo *.egg-info
