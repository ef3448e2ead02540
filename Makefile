# SPDX-License-Identifier: Apache-2.0

SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= 0.1.0
IMAGE   ?= fairlead:$(VERSION)
LAB     ?= default
NODES   ?= 3
SCHEDULES ?= 100000
BFD_FOR   ?= 10m


.PHONY: help
help: ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: build ## Start a three-node lab, announce a Service, take its node away, clean up
	go run ./test/demo

.PHONY: test
test: lint unit e2e ## Run every check and test; installs and builds what it needs

.PHONY: unit
unit: ## Run the unit tests with the race detector
	go test -race $$(go list ./... | grep -v /test/) ./test/imports ./test/failover/...

.PHONY: e2e
e2e: build ## Run the lab's own tests and the end-to-end suite on a lab
	go test -race -count=1 -timeout 20m -p 1 ./test/lab/...
	go test -count=1 -timeout 60m -p 1 ./test/e2e/... ./test/examples

.PHONY: simulate
simulate: ## Run 100,000 random schedules of failures against the mesh (SCHEDULES=n)
	go test -v -count=1 -timeout 3h -run TestSchedules ./speaker/mesh -schedules $(SCHEDULES)

.PHONY: crash
crash: build ## Kill the controller at random moments of 500 operations, 20 times over
	FAIRLEAD_E2E_BIN=$(CURDIR)/bin FAIRLEAD_E2E_CRASH_ROUNDS=20 go test -v -count=1 -timeout 30m ./test/e2e -ginkgo.focus 'killed again and again'

.PHONY: bench
bench: build ## Run the benchmarks, 5,000 Services at once, a speaker with 15,000 addresses and 99 peers, 10,000 routes by BGP, and BFD (BFD_FOR=1m)
	go test -run '^$$' -bench . -benchmem ./ipam ./plan ./speaker/l2 ./speaker/mesh ./speaker/bgp/gobgp ./speaker/routing
	go run ./test/bench
	go run ./test/bench/speaker
	go run ./test/bench/bgp
	go run ./test/bench/bfd -duration $(BFD_FOR)

.PHONY: bench-failover
bench-failover: build ## Break nodes, links and speakers of labs, 20 times each, and print what clients notice (ROWS=cable,kill RUNS=5)
	go run ./test/failover $(if $(ROWS),-rows $(ROWS)) $(if $(RUNS),-runs $(RUNS))

.PHONY: bench-failover-bgp
bench-failover-bgp: build ## Do the same to nodes that announce by BGP, to FRR and BIRD (ROWS=port,rolling RUNS=5)
	go run ./test/failover bgp $(if $(ROWS),-rows $(ROWS)) $(if $(RUNS),-runs $(RUNS))

.PHONY: chaos
chaos: build ## Break links and pause speakers at random for 10 minutes, and check what was answered
	go run ./test/failover chaos

.PHONY: loaded
loaded: build ## Compile on every core for 10 minutes, and count rescues that nothing called for
	go run ./test/failover loaded

.PHONY: build
build: ## Build the programs into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/fairlead-controller ./cmd/controller
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/fairlead-speaker ./cmd/speaker

.PHONY: lint
lint: ## Run gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "not formatted:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	go vet ./...
	go tool staticcheck ./...

.PHONY: generate
generate: ## Regenerate deepcopy functions, CRDs and the tables of docs/reference
	go tool controller-gen object paths=./api/... output:object:dir=api/v1alpha1
	go tool controller-gen crd:maxDescLen=300 paths=./api/... output:crd:dir=charts/fairlead/crds
	go run ./docs/generate

.PHONY: verify
verify: generate ## Fail if generated files or go.mod are not up to date
	go mod tidy
	@test -z "$$(git status --porcelain)" || { echo "the tree differs from what is committed:"; git status --short; exit 1; }

.PHONY: image
image: build ## Build the container image with both programs
	docker build -t $(IMAGE) .

.PHONY: lab-up
lab-up: build ## Start a lab that stays, with Fairlead installed (LAB=name NODES=3)
	go run ./test/lab up --name $(LAB) --nodes $(NODES)
	go run ./test/lab install --name $(LAB)

.PHONY: lab-down
lab-down: ## Stop that lab
	go run ./test/lab down --name $(LAB)

.PHONY: clean
clean: ## Remove what was built in the tree; the cache of lab programs stays
	rm -rf bin dist
