# What a developer types. `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: $(shell sed -n "s|^\([a-z-]*\):.*|\1|p" Makefile)
PYTHON ?= python
STUBBED = _core _derivative _dispatch _forward _loss

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

types:  ## mypy --strict, stubs against the run time, pyright's checks on the examples
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy.stubtest --ignore-missing-stub --mypy-config-file pyproject.toml $(STUBBED:%=csoftmax.%)
	$(PYTHON) -m basedpyright

docs:  ## the site, in docs/_build/html, warnings being errors
	PYTHONPATH=. $(PYTHON) -m sphinx -EnqW --keep-going docs docs/_build/html

speed:  ## measure the plot of the documentation's first page (on a quiet machine)
	PYTHONPATH=. $(PYTHON) -m csoftmax bench --plot docs/_static/speed.svg
