# Everything is built and tested from here. "make help" lists what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
FUZZTIME ?= 5s

# Debugging tables stay behind. The version is in the binary: "fieldgate version"
# reads what the Go tool noted there.
GOFLAGS_SHIP := -trimpath -ldflags='-s -w -buildid='

##@ Build

.PHONY: build
build: ## bin/fieldgate, bin/hubsim and bin/leafsim for this machine
	$(GO) build -o bin/fieldgate ./cmd/fieldgate
	$(GO) build -o bin/hubsim ./test/cmd/hubsim
	$(GO) build -o bin/leafsim ./test/cmd/leafsim

.PHONY: arm64
arm64: ## bin/fieldgate-arm64, static, as it goes onto the board
	CGO_ENABLED=0 GOOS=linux GOARCH=arm64 $(GO) build $(GOFLAGS_SHIP) -o bin/fieldgate-arm64 ./cmd/fieldgate

.PHONY: demo
demo: build ## show the main job in half a minute: leaves, hub, a cut link, a kill -9
	bin/leafsim demo --bin bin

##@ Test

.PHONY: test
test: setup lint build race full ## install what the tests need and run every test
	@echo "all tests passed"

.PHONY: check
check: lint ## what a commit must pass, quick
	$(GO) test -short ./...

.PHONY: race
race: ## every test that is quick, with the race detector
	$(GO) test -race -short -timeout 8m ./...

.PHONY: full
full: ## every test, also the long ones: power cuts, many leaves, vendor SDKs, arm64
	$(GO) test -timeout 10m ./...

.PHONY: lint
lint: ## formatting, vet, staticcheck, what go fix would change, import directions
	@unformatted=$$($(GO) tool gofumpt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) fix -diff ./...
	$(GO) test ./test/arch

.PHONY: fmt
fmt: ## format all Go files
	$(GO) tool gofumpt -l -w $$($(GO) list -f '{{.Dir}}' ./...)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME (5s)
	@for package in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz' || true); do \
			echo "fuzz $$package $$target"; \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$package; \
		done; \
	done

.PHONY: bench
bench: ## every benchmark, with memory
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: nightly
nightly: ## everything, longer: all tests with the race detector, five minutes of fuzzing per target
	$(GO) test -race -timeout 60m ./...
	$(MAKE) fuzz FUZZTIME=5m

.PHONY: setup
setup: ## install what the tests use beside Go, where it is missing
	test/setup.sh

##@ Rest

.PHONY: clean
clean: ## remove what was built
	rm -rf bin

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
