# Everything is built and tested from here. "make help" lists what there is.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

GO       ?= go
FUZZTIME ?= 5s
MINUTES  ?= 30

# Tables that long tests measured; go test itself shows nothing of what passed.
REPORTS := $(CURDIR)/bin/reports

# Debugging tables stay behind. The version is in the binary: "fieldgate version"
# reads what the Go tool noted there.
GOFLAGS_SHIP := -trimpath -ldflags='-s -w -buildid='

##@ Build

# As it is shipped, tests too: so nothing is compiled twice but for the race detector.
build arm64 amd64 lint check full nightly: export CGO_ENABLED := 0

.PHONY: build
build: ## bin/fieldgate and the test programs hubsim, leafsim and faultproxy for this machine
	$(GO) build -o bin/fieldgate ./cmd/fieldgate
	$(GO) build -o bin/hubsim ./test/cmd/hubsim
	$(GO) build -o bin/leafsim ./test/cmd/leafsim
	$(GO) build -o bin/faultproxy ./test/cmd/faultproxy

.PHONY: arm64 amd64
arm64: ## bin/fieldgate-arm64, static, as it goes onto the board
amd64: ## bin/fieldgate-amd64, the same for a PC
arm64 amd64:
	GOOS=linux GOARCH=$@ $(GO) build $(GOFLAGS_SHIP) -o bin/fieldgate-$@ ./cmd/fieldgate

PREFIX ?= /usr/local
ARCH   ?= $(shell $(GO) env GOARCH)
.PHONY: install
install: ## bin/fieldgate-ARCH and its units into DESTDIR, below PREFIX (/usr/local), built before by make ARCH; APPLIANCE=1: as on the image
	@test -x bin/fieldgate-$(ARCH) || { echo "there is no bin/fieldgate-$(ARCH): run make $(ARCH) first"; exit 1; }
	systemd/install.sh bin/fieldgate-$(ARCH) "$(DESTDIR)" "$(PREFIX)" $(if $(APPLIANCE),appliance)

# The image: what is in it is described in buildroot/README.md.
IMAGE := bin/image/$(BOARD)

.PHONY: image
image: ## the card image of BOARD, with a Buildroot tree BUILDROOT (hours; see buildroot/README.md)
	@test -n "$(BOARD)" -a -e buildroot/configs/fieldgate_$(BOARD)_defconfig || { echo "BOARD is one of: $$(ls buildroot/configs | sed -n 's/^fieldgate_\(.*\)_defconfig/\1/p' | tr '\n' ' ')"; exit 2; }
	@test -e "$(BUILDROOT)/Makefile" || { echo "BUILDROOT must name a tree of Buildroot 2025.02.x"; exit 2; }
	rm -rf bin/image/source && mkdir -p bin/image/source $(IMAGE)
	git archive HEAD | tar -x -C bin/image/source
	cd bin/image/source && $(GO) mod vendor
	board/common/keys.sh bin/image/keys
	cat buildroot/configs/common.fragment buildroot/configs/fieldgate_$(BOARD)_defconfig >$(IMAGE)/defconfig
	$(MAKE) -C $(BUILDROOT) O=$(CURDIR)/$(IMAGE) BR2_EXTERNAL=$(CURDIR)/buildroot BR2_DEFCONFIG=$(CURDIR)/$(IMAGE)/defconfig defconfig
	VERSION=$$(board/common/version.sh) RAUC_CA=$(CURDIR)/bin/image/keys/ca.pem RAUC_CERT=$(CURDIR)/bin/image/keys/sign.pem \
		RAUC_KEY=$(CURDIR)/bin/image/keys/sign.key $(MAKE) -C $(BUILDROOT) O=$(CURDIR)/$(IMAGE)

TWIN := bin/twin
.PHONY: image-twin
image-twin: arm64 ## the twin of the card image, of packages of Debian 13, with an update bundle (minutes); BOARD=rpi4: a card for that board
	VERSION=$$(board/common/version.sh) test/image/twin.sh bin/fieldgate-arm64 $(TWIN) $(BOARD)

.PHONY: demo
demo: build ## show the main job in half a minute: leaves, hub, a cut link, a kill -9
	bin/leafsim demo --bin bin

# A release is tagged; what is between releases sorts behind the last one, and before any.
DEB_VERSION ?= $(shell git describe --tags --match 'v[0-9]*' 2>/dev/null | sed 's/^v//; s/-/+/g' | grep . || \
	git log -1 --format='0~%cd.%h' --date=format:%Y%m%d)
.PHONY: deb
deb: arm64 amd64 ## Debian packages for arm64 and amd64, bin/fieldgate_VERSION_ARCH.deb
	for arch in arm64 amd64; do \
		SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) systemd/deb.sh bin/fieldgate-$$arch $$arch $(DEB_VERSION) bin/fieldgate_$(DEB_VERSION)_$$arch.deb; \
	done
	@ls -l bin/*.deb

##@ Test

# The twin of the card image is put together by Debian's tools: without them nobody boots it.
BOOT = $(if $(or $(CI),$(shell type -P apt-get rauc genimage mksquashfs mcopy qemu-system-aarch64 >/dev/null && echo all)),image-boot,no-boot)

# A target of its own, for make looks for them when it reads this: after setup in make test.
.PHONY: boot no-boot
boot: $(BOOT)
no-boot:
	@echo "the card image's twin is not booted: it needs apt-get, rauc, genimage, mksquashfs, mcopy and qemu-system-aarch64"

.PHONY: test
test: ## install what the tests need and run every test
	@$(MAKE) --no-print-directory -j2 -Otarget setup lint
	@$(MAKE) --no-print-directory build race full boot
	@echo "all tests passed"

.PHONY: check
check: lint ## what a commit must pass, quick
	$(GO) test -short ./...

# Tests of the race pass wait more than they work, for a hub's pause or a link's timeout,
# so that packages run side by side, one more than there are cores; go test starts them in
# the order in which they are named, so that the longest come first and none is alone in
# the end. Those of the full pass drive whole programs, and run one for each core: with
# more, waits of a minute were not enough. Their code has been vetted, see lint.
WHOLE := -timeout 40m -vet=off
SIDE_BY_SIDE := -p $(shell echo $$((1 + $$(nproc)))) $(WHOLE)

# Each package is tested in one of three ways; a new one belongs to the first by itself:
#
#  - with the race detector, whole, for it has nothing that is left out where tests are to
#    be short;
#  - in AS_SHIPPED without it: these tests build the programs as they are shipped and
#    drive them from outside, and the race detector would watch only the test;
#  - in TWICE short with it and whole without: where a campaign would take it many
#    minutes, and where a build tag says that it is there.
#
# nightly runs every test whole in both ways.
AS_SHIPPED := ./test/powercut ./test/e2e ./test/e2e/bounds ./test/truebluez ./test/e2e/link \
	./test/e2e/rows ./test/e2e/clock ./test/image ./test/systemd ./test/trueboard
TWICE = ./test/suite/uplink ./gateway/uplink/amqp ./gateway/store ./cmd/fieldgate ./gateway/broker \
	$(patsubst %/,%,$(sort $(dir $(shell grep -rlE --include='*.go' --exclude-dir=node_modules '^//go:build !?race' .))))
LINT := ./test/arch
LONG := ./test/suite/uplink ./test/hubsim ./gateway/uplink/amqp ./gateway/store ./cmd/fieldgate ./gateway/upload
PACKAGES = $(or $(patsubst github.com/fieldgate/fieldgate/%,./%,$(shell $(GO) list ./...)),$(error go list finds no packages))

# The race detector needs cgo. It has a program sleep for a second before it exits, and
# scripts start some hundreds one after the other: what races has been seen by then.
# A password's hash works on memory of its own; watched, it takes 15 times as long, half
# a minute in gateway/pairing alone.
RACE := CGO_ENABLED=1 GORACE=atexit_sleep_ms=0 $(GO) test -race -gcflags=golang.org/x/crypto/blowfish=-race=false

.PHONY: race
race: ## with the race detector: every test but those of the programs as shipped; the longest campaigns short
	$(RACE) $(SIDE_BY_SIDE) -short $(LONG) $(filter-out $(LONG) $(AS_SHIPPED) $(LINT),$(PACKAGES))

.PHONY: full
full: ## without it: power cuts, many leaves, vendor SDKs, arm64, and the campaigns whole
	FIELDGATE_REPORTS=$(REPORTS) $(GO) test $(WHOLE) $(AS_SHIPPED) $(TWICE)
	@cat $(REPORTS)/*.txt

.PHONY: image-check
image-check: ## nothing that is asked of Buildroot, Linux or U-Boot is dropped (BUILDROOT=TREE: ask Buildroot itself)
	BUILDROOT=$(abspath $(BUILDROOT)) $(GO) test -count=1 -v ./test/image -run 'Line'

.PHONY: image-lock
image-lock: ## write buildroot/symbols.lock anew, as the tree BUILDROOT has it
	BUILDROOT=$(abspath $(BUILDROOT)) $(GO) test -count=1 ./test/image -run 'TestBuildroot' -update

# Whose cards these are does not depend on what somebody names BOARD.
image-boot image-test image-card image-update image-cut: override BOARD := qemu_aarch64

.PHONY: image-boot
image-boot: image-twin ## build the twin, and boot it once, blank, to a leaf's message at the hub; part of make test
	FIELDGATE_TWIN=$(abspath $(TWIN)) $(GO) test -count=1 -v -timeout 60m ./test/image -run '^TestBoot$$'

.PHONY: image-test
image-test: image-twin ## the same, and see that no key stops it and that bad updates are refused
	FIELDGATE_TWIN=$(abspath $(TWIN)) $(GO) test -count=1 -v -timeout 60m ./test/image -run '^(TestBoot|TestNoKeyStopsIt|TestRefused)$$'

.PHONY: image-rpi
image-rpi: override BOARD := rpi3
image-rpi: image-twin ## the card of the Raspberry Pi 3, in QEMU: starts are counted, no key stops it, and a leaf's message is at the hub
	FIELDGATE_NIGHTLY=1 FIELDGATE_TWIN=$(abspath $(TWIN)) $(GO) test -count=1 -v -timeout 150m ./test/image -run '^TestRaspberryPi'

.PHONY: image-card
image-card: image-twin ## what the card says of a wrong file, key or hub; a reset; 128 MiB of memory (seven boots)
	FIELDGATE_NIGHTLY=1 FIELDGATE_TWIN=$(abspath $(TWIN)) $(GO) test -count=1 -v -timeout 3h ./test/image -run '^(TestSmall|TestStatusOnTheCard)$$'

.PHONY: image-update
image-update: image-twin ## updates under load: from A to B, a broken one, and by itself back to B (eight boots)
	FIELDGATE_NIGHTLY=1 FIELDGATE_TWIN=$(abspath $(TWIN)) $(GO) test -count=1 -v -timeout 6h ./test/image -run '^TestUpdate$$'

CUTS ?= 20
.PHONY: image-cut
image-cut: image-twin ## the power goes: 20 times under load, and at every twentieth part of an update (42 boots)
	FIELDGATE_NIGHTLY=1 FIELDGATE_TWIN=$(abspath $(TWIN)) $(GO) test -count=1 -v -timeout 14h ./test/image -run '^(TestPowerCut|TestUpdateIsCut)$$' -cuts $(CUTS) $(if $(AT),-at $(AT))

.PHONY: link
link: ## every row of the bad links to the hub, in full, with its table (a quarter of an hour)
	FIELDGATE_NIGHTLY=1 $(GO) test -count=1 -v -timeout 60m ./test/e2e/link

.PHONY: backlog
backlog: ## a backlog of 1,000,000 messages: memory, start, drain, disk
	FIELDGATE_NIGHTLY=1 $(GO) test -count=1 -v -timeout 30m -run '^TestBacklog$$' ./test/e2e/bounds

.PHONY: soak
soak: ## the gateway under random faults for MINUTES (30): memory, files and goroutines
	FIELDGATE_SOAK_MINUTES=$(MINUTES) $(GO) test -count=1 -v -timeout 0 -run '^TestSoak$$' ./test/e2e/bounds

.PHONY: rows
rows: ## every row of the hub's contract, with 150 breaks and kills in the middle of all (15 minutes)
	FIELDGATE_NIGHTLY=1 $(GO) test -count=1 -v -timeout 60m -run '^TestRows$$' ./test/e2e/rows

.PHONY: button
button: ## the board's button on a true GPIO chip, in a virtual arm64 machine (half a minute; fetches 60 MB)
	test/trueboard/fetch.sh
	FIELDGATE_NIGHTLY=1 $(GO) test -count=1 -v ./test/trueboard

N ?= 1000
.PHONY: powercut
powercut: ## cut the power of the gateway N times (1000) and print what was lost
	$(GO) test -count=1 -timeout 0 ./test/powercut -run 'TestPowerCut$$' -v -rounds $(N) | grep -Ev '^ *(===|--- PASS)'

.PHONY: lint
lint: ## formatting, vet, staticcheck, what go fix would change, import directions
	@unformatted=$$($(GO) tool gofumpt -l $$($(GO) list -f '{{.Dir}}' ./...)); \
	if [ -n "$$unformatted" ]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) tool staticcheck ./...
	$(GO) fix -diff ./...
	$(GO) test $(LINT)

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
bench: build ## measure beside a mosquitto bridge, write test/bench/RESULTS.md (10 minutes)
	$(GO) build -o bin/bench ./test/cmd/bench
	bin/bench --bin bin --out test/bench/RESULTS.md
	@cat test/bench/RESULTS.md

.PHONY: others
others: build ## measure what one leaf that floods does to the others (75 minutes; as root, whatever else the machine does)
	$(GO) build -o bin/bench ./test/cmd/bench
	$(if $(filter 0,$(shell id -u)),chrt --rr 20) bin/bench --bin bin --only '^others$$'

.PHONY: microbench
microbench: ## every benchmark of a package, with memory
	$(GO) test -run '^$$' -bench . -benchmem ./...

.PHONY: nightly
nightly: ## everything, longer: all tests with the race detector and without, five minutes of fuzzing per target
	$(RACE) -timeout 60m ./...
	$(GO) test -timeout 60m ./...
	FIELDGATE_KILL_ROUNDS=2500 $(GO) test -timeout 4h -run '^TestKillNine$$' ./test/e2e
	FIELDGATE_DAMAGE=2000 $(GO) test -timeout 1h -run '^TestDamageCampaign$$' ./gateway/store
	FIELDGATE_DAMAGE=300 $(GO) test -timeout 1h -run '^(TestInterrupted|TestLastCommitIsDamaged)$$' ./gateway/store
	$(MAKE) powercut
	$(GO) test -count=1 -timeout 0 ./test/powercut -run TestFault -v -every-fault
	$(MAKE) link
	$(MAKE) rows
	$(MAKE) button
	FIELDGATE_NIGHTLY=1 $(GO) test -timeout 30m -run '^TestThroughProxy$$' ./test/suite/uplink
	FIELDGATE_NIGHTLY=1 $(GO) test -timeout 2h -run '^(TestApplyIsKilled|TestBrokenPackets)$$' ./test/e2e
	$(MAKE) backlog
	$(MAKE) others
	$(MAKE) image-test
	$(MAKE) image-rpi
	$(MAKE) image-card
	$(MAKE) image-update
	$(MAKE) image-cut
	$(MAKE) soak
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
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
