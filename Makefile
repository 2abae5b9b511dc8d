# What a developer types. `make` alone lists it.
.DEFAULT_GOAL := help
.PHONY: $(shell sed -n "s|^\([a-z-]*\):.*|\1|p" Makefile)
export PYTHON ?= python
STUBBED = api.derivative api.forward api.loss runtime.core runtime.dispatch

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

types:  ## mypy --strict, stubs against the run time, pyright's checks on the examples
	$(PYTHON) -m mypy
	$(PYTHON) -m mypy.stubtest --ignore-missing-stub --mypy-config-file pyproject.toml $(STUBBED:%=csoftmax.%)
	$(PYTHON) -m basedpyright

docs:  ## the site, in docs/_build/html, warnings being errors
	PYTHONPATH=. $(PYTHON) -m sphinx -EnqW --keep-going docs docs/_build/html

speed:  ## measure the plot of the documentation's first page (on a quiet machine)
	PYTHONPATH=. $(PYTHON) -m csoftmax bench --plot docs/_static/speed.png

test:  ## the tests, at every ISA level this CPU has
	$(PYTHON) -m pytest

lint:  ## every static check but types
	ruff check .
	cython-lint csoftmax
	$(PYTHON) tools/capi.py --check
	codespell
	clang-format --dry-run -Werror $(wildcard csoftmax/include/csoftmax/csoftmax.h) </dev/null
	zizmor --offline -q .github
	check-jsonschema -q --builtin-schema vendor.github-workflows .github/workflows/*.yml
	check-jsonschema -q --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml
	sp-repo-review .

budgets:  ## copies of the exponential and bytes of the kernels that are built, against their budgets
	$(PYTHON) tools/budgets.py

PYTHONS ?= python3.11 python3.12 python3.13

wheels:  ## build, repair and test a wheel for each of PYTHONS
	rm -rf dist
	tools/build_wheels.sh $(PYTHONS)
	for python in $(PYTHONS); do \
	    tag=$$($$python -c 'import sys; print("cp%d%d" % sys.version_info[:2])'); \
	    tools/test_wheel.sh $$python dist/csoftmax-*-$$tag-*.whl || exit 1; \
	done

coverage:  ## coverage of Python and Cython lines, in a build of its own
	tools/in_a_copy.sh tools/coverage.sh

trust:  ## every hazard that docs/reliability.md tells of, in its short form; it writes that page and docs/accuracy.md
	$(PYTHON) tools/trust.py

mutants:  ## wrong changes of kernels, plan and threads: which do the tests not notice? (minutes to hours)
	$(PYTHON) tools/mutants.py

slow: types lint docs wheels coverage  ## all of the above that takes minutes
