# Everything a newcomer, a tester or CI calls. `make help` lists it.
VENV ?= .venv
export VENV
PY := $(VENV)/bin/python

.PHONY: help setup demo test lint types check-tests crash referee sentinel bench bench-ait lock deb deb-test clean

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## system packages, .venv, models, knowledge base: whatever is missing
	@packaging/prepare.sh

demo: setup ## set up, then watch the daemon find a played intrusion (ends by itself)
	@$(PY) -m tests.demo.run

# Not as prerequisites beside `setup`: with -j they would begin before it is done.
test: setup ## set up, then lint, types and tests
	@$(MAKE) --no-print-directory lint types check-tests

lint: ## ruff, lint and format
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: ## mypy, strict
	$(VENV)/bin/mypy

check-tests: ## pytest alone
	$(VENV)/bin/pytest

crash: setup ## 300 kill -9 at random moments, 100 each of workers and listeners (CRASH_KILLS=N, ...)
	CRASH_KILLS=$${CRASH_KILLS:-300} CRASH_WORKER_KILLS=$${CRASH_WORKER_KILLS:-99} \
	CRASH_LISTENER_KILLS=$${CRASH_LISTENER_KILLS:-100} $(VENV)/bin/pytest -v --timeout=1800 \
	tests/test_crash.py tests/test_crash_workers.py tests/test_listener_crash.py

referee: setup ## index against plain matcher, real sets and 100,000 pairs (DATA=DIR RULES=DIR)
	$(PY) -m tests.referee --data "$(DATA)" --rules "$(RULES)" --pairs $${REFEREE_PAIRS:-100000} \
	--every $${REFEREE_EVERY:-1} --seed $${REFEREE_SEED:-1}

sentinel: setup ## train the sentinel from data sets to GGUF and card (DATA=DIR WORK=DIR; SMALL=--small: minutes)
	@packaging/prepare-train.sh
	.venv-train/bin/python -m models.sentinel all --data "$(DATA)" --work "$(WORK)" $(SMALL)

bench: setup ## events per second, memory, start-up and latency, printed
	$(PY) -m benchmarks

bench-ait: setup ## incidents out of the alert files in IN=DIR, one JSON object a line in OUT=FILE
	$(PY) -m benchmarks.ait "$(IN)" "$(OUT)" $(ARGS)

lock: ## write packaging/requirements.lock anew
	@packaging/lock.sh

deb: setup ## the Debian package, in dist/
	@packaging/build-deb.sh

deb-test: setup ## install, use, upgrade and purge it on a fresh Debian (root; about 5 minutes)
	@NEW=1 packaging/test-deb.sh

clean: ## remove what was built (not .venv)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
