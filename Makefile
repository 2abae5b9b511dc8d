# What a developer types. `make` alone lists it.
.DEFAULT_GOAL := help
PYTHON ?= python
STUBBED = _core _derivative _dispatch _forward _loss

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

types:  ## mypy --strict, stubs against the run time, pyright's checks on the examples
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy.stubtest --ignore-missing-stub --mypy-config-file pyproject.toml $(STUBBED:%=csoftmax.%)
	$(PYTHON) -m basedpyright
