# make help lists the targets.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --warn-undefined-variables --no-builtin-rules
.DEFAULT_GOAL := all

# The tools, each at one version, built into .tools.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK := golang.org/x/vuln/cmd/govulncheck@v1.9.0
BUF := github.com/bufbuild/buf/cmd/buf@v1.59.0
PROTOC_GEN_GO := google.golang.org/protobuf/cmd/protoc-gen-go@v1.36.12
PROTOC_GEN_GO_GRPC := google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.1

TOOLS := $(CURDIR)/.tools
GENERATORS := $(TOOLS)/buf $(TOOLS)/protoc-gen-go $(TOOLS)/protoc-gen-go-grpc
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
PLUGINS := ping echo serverinfo usercount listcommands
FUZZTIME ?= 10s
BENCHTIME ?= 1s

.PHONY: all
all: build test lint ## Build, test and lint (the default)

.PHONY: help
help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: need-gcc ## Build the server and the plugins into bin
	CGO_ENABLED=1 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/plugboard ./cmd/plugboard
	for p in $(PLUGINS); do CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o bin/plugins/$$p ./plugins/$$p; done
	chmod -R go-w bin # the server runs no plugin that others could change, whatever the umask
	@for d in . ..; do if [ -n "$$(find $$d -maxdepth 0 -perm /022 ! -perm -1000)" ]; then \
	  echo "*** $$(cd $$d && pwd) may be written by others, so the server will not run plugins below it: chmod go-w it ***" >&2; fi; done

.PHONY: run
run: build ## Build and start a server on 127.0.0.1:8080, data in ./data
	exec bin/plugboard serve

.PHONY: test
test: need-gcc ## All tests, with the race detector, in random order
	CGO_ENABLED=1 go test -race -shuffle=on -timeout 5m ./...

.PHONY: script
script: need-gcc ## Only the whole-system scenarios
	CGO_ENABLED=1 go test -race -run Script ./cmd/plugboard

.PHONY: bench
bench: need-gcc ## The benchmarks
	CGO_ENABLED=1 go test -run '^$$' -bench . -benchmem -benchtime $(BENCHTIME) ./...

.PHONY: chaos
chaos: need-gcc ## Plugins replaced 200 times, killed 50 times and hostile, under load, with figures
	CHAOS_ROUNDS=200 CGO_ENABLED=1 go test -count=1 -timeout 20m -v -run 'ReplacementsLoseNoCall' ./core/server
	CHAOS_ROUNDS=50 CGO_ENABLED=1 go test -count=1 -timeout 20m -v -run 'KilledPluginIsBack|HostilePlugins' ./core/server

.PHONY: sandbox-attacks
sandbox-attacks: need-gcc ## What a hostile plugin tries, with and without the sandbox
	CGO_ENABLED=1 go test -count=1 -v ./core/pluginhost/sandbox

.PHONY: cover
cover: need-gcc ## Coverage per function
	CGO_ENABLED=1 go test -timeout 5m -coverprofile=coverage.out -coverpkg=./... ./...
	go tool cover -func=coverage.out

.PHONY: fuzz
fuzz: need-gcc ## Every fuzz target for FUZZTIME
	@grep -rHo --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's/:func / /' | sort | while read -r file name; do \
	  echo "=== $$name in $$(dirname "$$file"), $(FUZZTIME)"; \
	  CGO_ENABLED=1 go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")" </dev/null; done

.PHONY: lint
lint: need-gcc $(TOOLS)/golangci-lint $(TOOLS)/staticcheck ## gofmt, vet, staticcheck, golangci-lint, govulncheck
	test -z "$$(gofmt -l . | tee /dev/stderr)"
	CGO_ENABLED=1 go vet ./...
	$(TOOLS)/staticcheck ./...
	$(TOOLS)/golangci-lint run
	@$(MAKE) --no-print-directory vuln

.PHONY: vuln
vuln: $(TOOLS)/govulncheck ## Known vulnerabilities; skipped, and said so, where the database cannot be fetched
	@code=0; out=$$($(TOOLS)/govulncheck ./... 2>&1) || code=$$?; printf '%s\n' "$$out"; \
	if [ $$code -ne 0 ] && grep -q '^govulncheck: fetching vulnerabilities: ' <<<"$$out"; then \
	  echo '*** SKIPPED: govulncheck could not fetch its database; known vulnerabilities are NOT checked ***' >&2; \
	else exit $$code; fi

.PHONY: generate
generate: $(GENERATORS) ## Generated code and the example configuration anew
	export PATH="$(TOOLS):$$PATH"; buf lint; buf generate
	go test ./config -run '^TestExample' -update

.PHONY: check-generate
check-generate: $(GENERATORS) ## Fail when generated code is not current
	export PATH="$(TOOLS):$$PATH"; buf lint; \
	fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; buf generate -o "$$fresh"; \
	for f in sdk/pluginpb/*.pb.go; do test -e "$$fresh/$$f" || { echo "$$f: nothing generates it" >&2; exit 1; }; done; \
	for f in "$$fresh"/sdk/pluginpb/*; do diff -u "sdk/pluginpb/$$(basename "$$f")" "$$f"; done
	go test ./config -run '^TestExample'

.PHONY: tidy-check
tidy-check: ## Fail when go.mod is not tidy
	go mod tidy -diff

.PHONY: clean
clean: ## Remove what was built
	rm -rf bin .tools coverage.out

.PHONY: need-gcc
need-gcc: ## Find gcc, or install it where apt-get may
	@command -v gcc >/dev/null || { \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then apt-get update && apt-get install -y gcc libc6-dev; \
	  else echo '*** MISSING: gcc (SQLite and the race detector need it) ***' >&2; exit 1; fi; }

install = GOBIN=$(TOOLS) CGO_ENABLED=0 go install $(1)
$(TOOLS)/golangci-lint: Makefile
	$(call install,$(GOLANGCI_LINT)) && touch $@
$(TOOLS)/staticcheck: Makefile
	$(call install,$(STATICCHECK)) && touch $@
$(TOOLS)/govulncheck: Makefile
	$(call install,$(GOVULNCHECK)) && touch $@
$(TOOLS)/buf: Makefile
	$(call install,$(BUF)) && touch $@
$(TOOLS)/protoc-gen-go: Makefile
	$(call install,$(PROTOC_GEN_GO)) && touch $@
$(TOOLS)/protoc-gen-go-grpc: Makefile
	$(call install,$(PROTOC_GEN_GO_GRPC)) && touch $@
