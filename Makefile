# Run `make` for the list of targets. Everything works from a fresh clone, as root or not; what is downloaded goes to .cache.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help deps build test test-postgres test-jobs test-large vet demo bench bench-batch generate lint fuzz clean distclean

# Where git tells nothing (an archive, somebody else's clone) the version is dev.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION)
GO_BUILD := go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)'

# PG=18 runs the tests on the PostgreSQL 18 of an npm package, PG=15 on the one installed in /usr/lib/postgresql/15; else on what is there.
PG ?=
ifeq ($(PG),18)
export ROWCAST_PG_BIN := $(CURDIR)/.cache/postgres-18/bin
else ifneq ($(PG),)
export ROWCAST_PG_BIN := /usr/lib/postgresql/$(PG)/bin
endif
export PG

# FUZZTIME is for each fuzz target.
FUZZTIME ?= 10m
TESTFLAGS ?=
# Of one package, on a machine that does other things besides.
TIMEOUT := -timeout 25m
# BENCHFLAGS=--json for machines; --only scalar,pgbench,parallel,cold,memory for a part; of bench-batch --only trees,linear,rows,large,plots, and
# --readme README.md to write its table there.
BENCHFLAGS ?=

# The race detector where goroutines share state; elsewhere it only costs time.
RACE := gateway predict score server onnx
RACE_PACKAGES := $(patsubst %,./internal/%/...,$(RACE))
# Packages that open a PostgreSQL cluster, for a second version of PostgreSQL.
POSTGRES_PACKAGES = $(shell go list -f '{{join .TestImports " "}} {{join .XTestImports " "}} {{.ImportPath}}' ./... | grep -E 'internal/postgres' | awk '{print $$NF}')

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-15s %s\n", $$1, $$2}'
	@echo '  Variables: PG=18 (PostgreSQL for the tests), FUZZTIME=10m, TESTFLAGS='

deps: ## Find or fetch what is needed: C compiler, ONNX Runtime 1.32.0 and a PostgreSQL server (15 or newer)
	@build/check-toolchain.sh
	@build/fetch-onnxruntime.sh
	@build/fetch-postgres.sh

build: ## Build bin/rowcast (fetches ONNX Runtime where it is missing)
	@build/check-toolchain.sh
	@build/fetch-onnxruntime.sh
	@$(GO_BUILD) -o bin/rowcast ./cmd/rowcast
	@echo 'rowcast: built bin/rowcast, version $(VERSION)'

vet:
	@go vet ./...

test: deps build vet ## Run all tests, with the race detector where it matters; PG=18 runs them on PostgreSQL 18
	@echo 'rowcast: testing'
	@go test $(TIMEOUT) $(TESTFLAGS) $$(go list ./... | grep -vE '/internal/($(subst $() ,|,$(strip $(RACE))))(/|$$)')
	@echo 'rowcast: testing with the race detector'
	@go test -race $(TIMEOUT) $(TESTFLAGS) $(RACE_PACKAGES)

test-postgres: deps build ## Run only the tests that use PostgreSQL (for a second version: PG=18)
	@echo 'rowcast: testing on PostgreSQL $(PG)'
	@go test $(TIMEOUT) $(TESTFLAGS) $(POSTGRES_PACKAGES)

test-large: deps ## Upload, resume and register a model file of 1 GB (needs 4 GB of disk and 8 GB of memory)
	@ROWCAST_LARGE=1 go test -count=1 -v $(TIMEOUT) -run LargeArtifact ./internal/modelmigrate

test-jobs: deps build ## Kill sidecars 50 times in scoring jobs of 1,000,000 rows, and restart PostgreSQL under them
	@ROWCAST_JOB_ROWS=1000000 ROWCAST_JOB_KILLS=50 go test $(TIMEOUT) -v $(TESTFLAGS) -run 'TestKilledSidecars|TestARestartOfPostgreSQL' ./internal/server

demo: deps build ## Show the product: models registered, predictions in psql compared with their framework's
	@examples/demo/run.sh

bench: deps build ## Measure what the README promises, as ratios in one run
	@bin/rowcast dev -- go run ./internal/bench $(BENCHFLAGS)

bench-batch: deps build ## Measure scoring jobs and predict_rows against Python, PostgreSQL and ONNX Runtime, and draw the plots in docs/
	@bin/rowcast dev -- go run ./internal/benchbatch --docs docs $(BENCHFLAGS)

generate: ## Generate db/ from queries/ with sqlc
	@build/fetch-tools.sh sqlc
	@.cache/bin/sqlc generate

lint: ## Check style, errors and the layer rules with golangci-lint
	@build/fetch-tools.sh golangci-lint
	@.cache/bin/golangci-lint run ./...

fuzz: deps ## Fuzz every target for FUZZTIME
	@build/fuzz.sh '$(FUZZTIME)'

clean: ## Remove what was built (downloads stay)
	@rm -rf bin

distclean: clean ## Remove what was built and downloaded
	@rm -rf .cache
