# Every command of this repository. `make` alone lists them.

SHELL         := bash
.SHELLFLAGS   := -euo pipefail -c
.DEFAULT_GOAL := help

# Tools are run at a pinned version and built by Go itself, so there is nothing to install and nothing to keep in step.
LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
SBOM := go run github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
BUF  := go run github.com/bufbuild/buf/cmd/buf@v1.75.0

GENERATED := message/tricklepb

# Packages to test, and further flags: make test PKG=./detector/... FLAGS='-run Brake -v'
PKG   ?= ./...
FLAGS ?=

.PHONY: help
help: ## List these commands
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Watch drift appear, be corrected, and a resync happen, on embedded parts
	@go run ./cmd/trickle demo $(FLAGS)

.PHONY: test
test: prerequisites check ## Check, then run every test with the race detector; installs what is missing where it can
ifeq ($(PKG)$(FLAGS),./...)
	@scripts/test-all
else
	go test -race -timeout 20m $(if $(filter ./...,$(PKG)),-p 1) $(FLAGS) $(PKG)  # some of all packages' want the machine to themselves
endif

.PHONY: check
check: check-format check-vet check-lint check-proto check-tidy ## Formatting, vet, lint, import direction, protobuf, go.mod

.PHONY: bench
bench: prerequisites ## Measure what comparing, verifying and resyncs cost against floors: make bench FLAGS='--rows 200000', or FLAGS=publishers
	@go run ./bench $(FLAGS)

.PHONY: screenshots
screenshots: ## Take the pictures of the live page in docs/images again, during a demo
	go test -count=1 -timeout 20m -run '^TestWholeDemo$$' ./internal/demo -screenshots $(CURDIR)/docs/images

.PHONY: build
build: ## Build the commands into bin/, static, without cgo
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/...

.PHONY: sbom
sbom: ## Write what each command is made of, as CycloneDX, into bin/
	@mkdir -p bin
	$(SBOM) app -json -licenses -main cmd/trickle -output bin/trickle.cdx.json .
	$(SBOM) app -json -licenses -main cmd/trickle-consumer -output bin/trickle-consumer.cdx.json .

.PHONY: image-check
image-check: ## Build what goes into the image, for each platform, and try it in an empty root; needs no Docker
	@scripts/image-check

.PHONY: generate
generate: ## Write again what is generated: the protobuf code from proto/, what the chart has of others, and documents
	$(BUF) generate
	go test ./deploy/helm ./internal/docs -run Generated -update

.PHONY: man
man: build ## Write man pages of both commands into man/
	bin/trickle manual man man
	bin/trickle-consumer manual man man

.PHONY: fmt
fmt: ## Format the Go code
	$(LINT) fmt

.PHONY: clean
clean: ## Remove what the other commands made here
	rm -rf bin man coverage.out

# What follows is used by the commands above; each part of check also runs alone.

.PHONY: prerequisites
prerequisites:
	@scripts/prerequisites

.PHONY: check-format
check-format:
	@bad=$$(gofmt -l .); [[ -z $$bad ]] || { printf 'not formatted (run make fmt):\n%s\n' "$$bad" >&2; exit 1; }

.PHONY: check-vet
check-vet:
	go vet ./...

.PHONY: check-lint
check-lint:
	$(LINT) run

.PHONY: check-proto
check-proto:
	$(BUF) lint
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; $(BUF) generate --output "$$fresh"; \
	diff -r --exclude=doc.go $(GENERATED) "$$fresh/$(GENERATED)" || { echo '$(GENERATED) is not what proto/ makes (run make generate)' >&2; exit 1; }

.PHONY: check-tidy
check-tidy:
	go mod tidy -diff
