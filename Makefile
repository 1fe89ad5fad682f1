SHELL  := /bin/bash
PYTHON ?= python3
BIN    := .venv/bin
TIMES  := .times
# Processes that test side by side: one per core, two to four, each with up to 4 GB.
WORKERS ?= $(shell $(PYTHON) -c 'import os; print(max(2, min(4, os.cpu_count() or 2)))')
unexport PYTHONPATH

.PHONY: help demo test test-slow repository notebooks tutorials pytest wheel lab browser chromium docs readme clean
.DEFAULT_GOAL := help

help:      # This list
	@grep -E '^[a-z-]+: .*#' Makefile | sed -E 's/^([a-z-]+):.*# */make \1\t/' | expand -t 16

# The environment: the library from this folder, with the tools of its development, in the versions of constraints.txt.
# `pip` makes it again when either file changes.
.venv/.installed: pyproject.toml constraints.txt
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -e '.[dev]' -c constraints.txt
	@touch $@

demo: .venv/.installed   # The whole method on phantoms, in minutes: demo/results.csv and demo/label_efficiency.png
	$(BIN)/refers-demo --out demo

# Every part runs with one thread a process, in a temporary folder that is removed, and notes its time in $(TIMES).
define part
@set -e; began=$$SECONDS; export OMP_NUM_THREADS=1 TMPDIR=$$(mktemp -d) PATH="$(CURDIR)/$(BIN):$$PATH"; \
trap 'rm -rf "$$TMPDIR"' EXIT; echo "== $(1)"; $(2); printf '%6d s  %s\n' $$((SECONDS - began)) '$(1)' >> $(TIMES)
endef

# What one runs before every commit: every notebook that exports, every module, the wheel. The long rest is `make test-slow`.
test:      # Everything but the long series: about ten minutes on two cores
	@rm -f $(TIMES)
	@$(MAKE) --no-print-directory repository && $(MAKE) --no-print-directory notebooks && $(MAKE) --no-print-directory pytest && $(MAKE) --no-print-directory wheel
	@echo 'Where the time went:' && cat $(TIMES) && rm -f $(TIMES)

repository: .venv/.installed # Notebooks, modules, README, pages and packaging are in step
	$(call part,repository,python -m pytest -n $(WORKERS) -m 'not slow' tests/test_repository.py)

notebooks: .venv/.installed  # Every notebook but the tutorials, from a clean kernel
	$(call part,notebooks,nbdev-test nbs --n-workers $(WORKERS) --timing --skip-folder-re '^tutorials$$')

tutorials: .venv/.installed  # Every tutorial from a clean kernel
	$(call part,tutorials,nbdev-test nbs/tutorials --n-workers $(WORKERS) --timing)

# The files that take longest go first: the processes then end at about the same time.
LONG  := tests/test_resume.py tests/test_experiments.py tests/test_baselines.py tests/test_cli.py tests/test_fuzz.py tests/test_finetune.py
FILES  = $(filter $(wildcard tests/test_*.py),$(LONG)) $(filter-out $(LONG) tests/test_repository.py tests/test_browser.py,$(wildcard tests/test_*.py))
pytest: .venv/.installed     # What a notebook cannot show: processes, kills, ranks, mutated input
	$(call part,pytest,python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m 'not slow and not browser' $(FILES))

test-slow: .venv/.installed  # The rest: the tutorials, long fuzzing, long series of kills, coverage by simulation
	@rm -f $(TIMES)
	@$(MAKE) --no-print-directory tutorials
	$(call part,slow tests,python -m pytest -n $(WORKERS) --dist worksteal -m slow tests)
	@cat $(TIMES) && rm -f $(TIMES)

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
	$(call part,wheel,( .venv-wheel/bin/python -m pip wheel -q --no-deps -w dist . && \
		.venv-wheel/bin/python -m pip install -q --no-deps --force-reinstall dist/refers_nb-*.whl && rm -rf build && \
		cd / && $(CURDIR)/.venv-wheel/bin/python -I $(CURDIR)/tests/installed.py $(CURDIR) ))

NBS ?= nbs
lab: .venv/.installed    # JupyterLab on the notebooks, reachable from this machine only; LAB="..." are further options
	$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 $(LAB) $(NBS)

.venv/.browser: .venv/.installed
	@$(BIN)/python -m pip install -q -e '.[browser]' -c constraints.txt
	@touch $@

chromium: .venv/.browser # A Chromium: the one that is there, else Debian's, else that of playwright
	@PYTHON=$(BIN)/python tests/chromium.sh --install

# Each process has a JupyterLab of its own. ONLY="quickstart or index" opens these notebooks alone.
browser: chromium        # Every tutorial in JupyterLab, and the site, in a headless Chromium; pictures of the screens in _browser
	$(call part,browser,python -m pytest -n $(WORKERS) --dist worksteal -m browser -rs --durations=0 --durations-min=1 $(if $(ONLY),-k "$(ONLY)") tests/test_browser.py)
	@cat $(TIMES) && rm -f $(TIMES)

docs: .venv/.installed   # The site: notebooks, API, data sets, gallery, search, in _docs/index.html
	$(BIN)/python nbs/_site/build.py

readme: .venv/.installed # README.md, from nbs/index.ipynb
	$(BIN)/python tests/render.py readme

clean:     # Remove what the other targets made
	rm -rf .venv .venv-wheel .times build dist _docs _browser demo *.egg-info
