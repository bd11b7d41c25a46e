# A Kubernetes DRA workshop for NVIDIA GPUs. `make help` lists the targets; each can be used alone.

SHELL := /bin/bash -euo pipefail
STACK ?= phase1
KUBERNETES ?= 1.34
ACTIVATE := source ./activate
# Files of tests side by side: two with a cluster, and one that needs none (tests/side_by_side.py). WORKERS=4 has three
# with a cluster, for which a user needs 256 inotify instances; WORKERS=0 runs them one after another.
WORKERS ?= 3
SIDE_BY_SIDE = --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
# Our own Go programs that have tests.
GO_TESTED = images/mps-daemon/src toolchain/go/pulumi-resource-command toolchain/go/runc-bounded
export STACK
# A shell may have these for other projects: `cd` would go elsewhere, `docker` take images of another platform,
# `python -m` not look into this folder, and `assert` not be executed. Files here are UTF-8, whatever the locale.
unexport CDPATH DOCKER_DEFAULT_PLATFORM PYTHONSAFEPATH PYTHONOPTIMIZE
export PYTHONUTF8 := 1

# Runs a command of pulumi's on the stack, which is made empty where it is new.
define on_the_stack
{ pulumi stack select --create $(STACK) && $(1) --stack $(STACK); } || { \
	[ -z "$$PULUMI_CONFIG_PASSPHRASE" ] || echo "PULUMI_CONFIG_PASSPHRASE is set: if the passphrase is what is wrong" \
	"above, it is another project's; the stacks of this checkout have the empty one (\`unset PULUMI_CONFIG_PASSPHRASE\`)" >&2; exit 1; }
endef

# Makes what only a stack like this one runs, such as an older driver.
define make_optional
needed=$$(python -m machine.optional --stack $(STACK)) && { [ -z "$$needed" ] || python -m toolchain setup --with "$$needed"; }
endef
# Tests bring up stacks of every kind.
test unit e2e bench: WITH ?= all

.DEFAULT_GOAL := help
.PHONY: help setup python browser up doctor verify report trace measure preview tables down test lint types unit golden e2e bench go-test vllm-image node-image image-size stop-engine clean clean-cache bundle bundle-test

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

python:
	@if [ -f bundle/manifest.json ] && [ -z "$${SOURCE:-}" ]; then toolchain/bundle-python; else toolchain/bootstrap; fi

setup: python ## make or find tools, plugins and images; does nothing the second time (SOURCE=stock|built|auto)
	@.venv/bin/python -m toolchain setup $(if $(WITH),--with "$(WITH)")

up: setup ## bring up a stack (STACK=phase1; MODULES="01 02": these, and what they require, from now on)
	@$(ACTIVATE) && $(if $(MODULES),python -m settings.choose --stack $(STACK) $(MODULES) &&) $(make_optional) && $(call on_the_stack,pulumi up --yes --skip-preview)

preview: setup ## show what `make up` would change
	@$(ACTIVATE) && $(make_optional) && $(call on_the_stack,pulumi preview --diff)

doctor: python ## every prerequisite of a stack as a table, before and after set-up (STACK=phase1)
	@$(ACTIVATE) && python -m machine --stack $(STACK)

verify: setup ## run the checks of the modules that are on against the stack that is up (MODULE=05 CHECK=curve: some)
	@$(ACTIVATE) && python -m checks.verify --stack $(STACK) $(addprefix --module ,$(MODULE)) $(if $(CHECK),--check "$(CHECK)")

report: setup ## one page and JSON of the last `make verify` (STACK=phase1)
	@$(ACTIVATE) && python -m checks.report --stack $(STACK)

trace: setup ## which container has which MIG device, and by which claim (with STACK=phase3)
	@$(ACTIVATE) && python -m checks.trace --stack $(STACK)

measure: setup ## measure every stack of a real GPU, one after the other (STACKS="gpu-... ..." MEASURE=options)
	@$(ACTIVATE) && python -m checks.measure --stacks $(STACKS) $(MEASURE)

tables: python ## write what pages have of the catalog and the checks: tables of modules, pages of reference
	@.venv/bin/python -m checks.report.reference
	@.venv/bin/python -m checks.report.modules

down: setup ## take the stack down; leaves nothing of it
	@$(ACTIVATE) && { pulumi destroy --yes --skip-preview --stack $(STACK) || { python -m components.commands.left_behind $(STACK); exit 1; }; }

lint: python ## ruff: check and format; import-linter: the direction of imports
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && PYTHONPATH=. .venv/bin/lint-imports --no-logo

types: python ## pyrefly
	@.venv/bin/pyrefly check

browser: python ## a browser and Mermaid, for the tests that look at pages
	@.venv/bin/python -m toolchain browser

unit: setup browser ## unit and golden tests; no cluster
	@$(ACTIVATE) && pytest tests/unit tests/golden --cov --cov-report=term-missing:skip-covered

go-test: setup ## tests of our own Go programs
	@# As the toolchain builds them, so that what is compiled serves both.
	@$(ACTIVATE); export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false -gcflags=all=-dwarf=false"; for folder in $(GO_TESTED); do (cd $$folder && go vet ./... && go test ./...); done

e2e: setup ## bring up stacks of their own, check them, take them down
	@$(ACTIVATE) && pytest tests/e2e -m e2e $(SIDE_BY_SIDE)

test: lint types go-test browser ## everything: lint, types, unit, golden, end to end on a live cluster
	@$(ACTIVATE) && pytest tests -m "not bench and not slow" $(SIDE_BY_SIDE) --durations=30 --durations-min=10 --cov --cov-report=term-missing:skip-covered

bench: setup ## benchmarks, each beside a baseline in the same run
	@$(ACTIVATE) && pytest tests/bench -m bench -s

vllm-image: setup ## make an image of vLLM from wheels, for machines without a container registry (8 GB)
	@$(ACTIVATE) && python -m toolchain vllm-image

node-image: setup ## make a node image with an older Kubernetes, for cluster.nodeImage (KUBERNETES=1.34, 1.35 or 1.36)
	@$(ACTIVATE) && python -m toolchain node-image $(KUBERNETES)

image-size: setup ## the node image's size as it travels: zstd -19
	@ref=$$(python3 -c 'import json; print(json.load(open(".tools/images.json"))["node"])'); \
	docker save "$$ref" | zstd -19 -T0 -q -c | wc -c | awk '{ printf "node image: %.0f MiB at zstd -19\n", $$1 / 1048576 }'

bundle: setup ## everything for a machine without a network, in dist/ (PIECES=60M cuts it; WITH=dra-driver-0.4.1 adds)
	@.venv/bin/python -m toolchain bundle $(if $(PIECES),--piece-size $(PIECES)) $(if $(WITH),--with "$(WITH)")

bundle-test: bundle ## unpack the bundle on a root of its own without network, engine or make, and bring up a stack there
	@$(ACTIVATE) && BUNDLE=dist pytest tests/e2e/test_bundle.py -m e2e -s

stop-engine: python ## stop the Docker Engine if `make setup` started it
	@.venv/bin/python -m toolchain stop-engine

clean: ## remove what set-up laid into this checkout; stacks have to be down
	@if [ -d .state/.pulumi ]; then $(ACTIVATE); up=$$(pulumi stack ls --json | python -c 'import json, sys; print(*(s["name"] for s in json.load(sys.stdin) if s.get("resourceCount")))'); \
	if [ -n "$$up" ]; then echo "still up: $$up; run make down STACK=... for each first" >&2; exit 1; fi; fi
	@for mark in .state/*/incarnation; do if [ -e "$$mark" ]; then echo "still up: $$(basename $$(dirname $$mark)); run make down STACK=... first" >&2; exit 1; fi; done
	@# Measurements on a real GPU, which are committed, stay.
	@rm -rf .tools .venv .state results/*/

clean-cache: python ## remove the finished steps that all checkouts of this user share
	@rm -rf "$$(.venv/bin/python -m toolchain where)"
