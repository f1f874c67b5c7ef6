# make help says what there is. Each target works on a fresh machine that has python3 (3.11 or newer) and make.

ifeq ($(filter oneshell,$(.FEATURES)),)
$(error GNU Make 3.82 or newer is needed; on macOS: brew install make, then gmake)
endif

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

PYTHON ?= python3
STATE := $(abspath $(or $(SLIMCART_STATE),.slimcart))
BENCHMARKS = $(patsubst benchmarks/%.py,%,$(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_ROOT_USER_ACTION := ignore
# What a shell may hold about another environment or another cluster is not ours; what is imported is compiled once.
unexport VIRTUAL_ENV PYTHONHOME PYTHONPATH PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install lint test test-quick test-slow test-parallel test-faults up down status demo bench clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r target what; do
		printf '%-18s %s\n' "$$target" "$$what"
	done

install: .venv/installed  ## make .venv with the versions of requirements.lock (again only where it or pyproject.toml changed)

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
		echo "$(PYTHON) is not Python 3.11 or newer; give one with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	if [ ! -x .venv/bin/python ] || ! .venv/bin/python -m pip --version > /dev/null 2>&1; then
		$(PYTHON) -m venv .venv || { echo "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	fi
	echo "installing requirements.lock into .venv (some minutes)"
	# The lock names everything, so nothing is resolved. Most of what is installed is never imported, hence not compiled.
	# One pip keeps one core busy: two install every other line each.
	lists=$$(mktemp -d)
	for half in 0 1; do awk "NR % 2 == $$half" requirements.lock > "$$lists/$$half"; done
	pip=(.venv/bin/python -m pip install -qq --no-deps --no-compile -r)
	status=0
	"$${pip[@]}" "$$lists/0" & beside=$$!
	"$${pip[@]}" "$$lists/1" || status=1
	wait $$beside || status=1
	rm -r "$$lists"
	[ $$status = 0 ]
	.venv/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
	touch $@

lint: install  ## ruff and pyright
	@status=0
	.venv/bin/ruff check --quiet || status=1
	.venv/bin/pyright --project pyproject.toml || status=1
	exit $$status

# What needs the shared cluster leaves a core free most of the time: the other tests and then lint run beside it.
test: install  ## lint and all tests; fails where any of them does
	@status=0 log=$$(mktemp)
	{
		rest=0
		.venv/bin/python -m pytest -q -m "not cluster and not parallel and not often" || rest=1
		$(MAKE) lint || { rest=1; echo "make lint failed"; }
		exit $$rest
	} > "$$log" 2>&1 & beside=$$!
	.venv/bin/python -m pytest -q -m "cluster and not parallel and not often" || status=1
	wait $$beside || status=1
	cat "$$log"
	rm "$$log"
	exit $$status

# Files, not tests, are dealt out: what a file's tests share is made once.
test-quick: install  ## for the inner loop: tests without servers, workers and whole models (three minutes on two cores)
	@.venv/bin/python -m pytest -q -m "not cluster and not slow and not parallel and not often" -n 2 --dist loadfile

test-slow: install  ## all that make test leaves out: four workers, layouts, and faults again and again (half an hour or more)
	@.venv/bin/python -m pytest -q -m "parallel or often"

test-parallel: install  ## the long tests, most with four training workers (a quarter of an hour)
	@.venv/bin/python -m pytest -q -m parallel

test-faults: install  ## kills, damages, full disks and servers away, often; a table of what held (half an hour)
	@.venv/bin/python -m pytest -q -m fault -n 2 --dist loadfile

up: install  ## start Ray and MLflow on this machine; then: source .slimcart/env
	@.venv/bin/python -m cluster.local up --state "$(STATE)"

down:  ## end them; data, runs and models stay
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m cluster.local down --state "$(STATE)"; else echo "nothing was running"; fi

status:  ## what runs, and where
	@if [ -x .venv/bin/python ]; then .venv/bin/python -m cluster.local status --state "$(STATE)"; else echo "not installed: make install"; fi

demo: up  ## the whole way on the embedded default: optimise, deploy, ask the endpoint a question
	@source "$(STATE)/env"
	# A submitted job runs in a copy without .git, so its commit goes along.
	commit=$$(git rev-parse --verify --quiet HEAD 2> /dev/null || true)
	if [ -n "$$commit" ] && [ -n "$$(git status --porcelain)" ]; then commit="$$commit-dirty"; fi
	environment="{}"
	if [ -n "$$commit" ]; then environment="{\"env_vars\": {\"SLIMCART_COMMIT\": \"$$commit\"}}"; fi
	log="$(STATE)/logs/demo.log"
	.venv/bin/ray job submit --working-dir . --runtime-env-json "$$environment" -- \
		python -m jobs.optimize --config configs/demo.yaml deploy=true | tee "$$log"
	endpoint=$$(sed -n 's/^RESULT //p' "$$log" | tail -n 1 | .venv/bin/python -c 'import json, sys; print(json.load(sys.stdin)["endpoint"])')
	question='{"inputs": ["My parcel was due on Monday and it is still not here."]}'
	printf '\n$$ curl -d '"'%s'"' %s\n' "$$question" "$$endpoint"
	curl --fail-with-body --silent --show-error --noproxy '*' -H 'Content-Type: application/json' -d "$$question" "$$endpoint"
	printf '\n\n'
	.venv/bin/python -m cluster.local status --state "$(STATE)"
	echo "the Ray dashboard asks for the token in $(STATE)/ray/auth_token"

bench: install  ## the side-by-side measurements of benchmarks/, one JSON line a row
	@if [ -z "$(BENCHMARKS)" ]; then echo "benchmarks/ holds no measurement yet"; fi
	status=0
	for name in $(BENCHMARKS); do .venv/bin/python -m benchmarks.$$name || { echo "benchmarks.$$name failed" >&2; status=1; }; done
	exit $$status

clean:  ## remove caches and leftovers of builds; with state=yes also .slimcart/: runs, models and results
	@if [ "$(state)" = yes ] && [ -d "$(STATE)" ]; then
		if [ -e "$(STATE)/cluster.json" ]; then echo "a cluster runs from $(STATE), or was not ended: make down first" >&2; exit 1; fi
		# SLIMCART_STATE may be any folder: only what `up` makes is removed, and nothing where there is more.
		made=(env lock logs ray mlflow home)
		more=$$(find "$(STATE)/" -mindepth 1 -maxdepth 1 $$(printf -- '-not -name %s ' "$${made[@]}"))
		if [ ! -f "$(STATE)/lock" ] || [ -n "$$more" ]; then echo "$(STATE) is not, or not only, of slimcart: nothing is removed" $$more >&2; exit 1; fi
		(cd "$(STATE)" && rm -rf -- "$${made[@]}")
		rmdir "$(STATE)"
	fi
	rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
