# One line a target where possible; what takes more lives in xtask.
# Set-up and build output go to stderr, so that `make run | jq` sees the daemon's lines alone.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
# rustup puts cargo where a root shell's PATH may not look.
export PATH := $(or $(CARGO_HOME),$(HOME)/.cargo)/bin:$(PATH)

PREFIX ?= /usr/local
XTASK := cargo run --quiet --package xtask --
PACKETWATCH := $(or $(CARGO_TARGET_DIR),target)/release/packetwatch

.DEFAULT_GOAL := help
.PHONY: run test test-kernels fuzz setup demo bench lint build install install-files help

run: setup build ## run the daemon: IFACE=eth0 (default: the default route's), ARGS='...'
	@iface='$(IFACE)' && : "$${iface:=$$($(XTASK) default-interface)}" && [ "$$iface" ] && exec $(PACKETWATCH) run --interface "$$iface" $(ARGS)

test: ## run every test; those that need root only as root
	@sh xtask/bootstrap.sh && $(XTASK) setup --for test && cargo build --bins && $(XTASK) test

test-kernels: ## the program on Debian's kernels, emulated (root, Debian; long): KERNEL=6.1 for one, TESTS=chain for some
	@sh xtask/bootstrap.sh && $(XTASK) setup && $(XTASK) test-kernels $(or $(KERNEL),all) $(TESTS)

# Safe Rust has no use for a sanitizer. The nightly tool chain need not be one for the eBPF program.
fuzz: ## fuzz what reads packets and text, FUZZ_SECONDS=60 each, FUZZ_TARGET=config for one (cargo-fuzz, nightly)
	@export PACKETWATCH_EBPF_TOOLCHAIN=$${PACKETWATCH_EBPF_TOOLCHAIN-$$(rustup show active-toolchain | cut -d' ' -f1)}; \
	for target in $(or $(FUZZ_TARGET),config lists parse requests restore rules); do \
	    mkdir -p fuzz/target/corpus/$$target && \
	    cargo +nightly fuzz run --sanitizer none --debug-assertions $$target \
	        fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(or $(FUZZ_SECONDS),60) -dict=fuzz/pieces.dict || exit; \
	done

setup: ## install what building and running need, and is missing
	@sh xtask/bootstrap.sh && $(XTASK) setup

build: setup ## build target/release/packetwatch
	@cargo build --release --package packetwatch >&2

demo: build ## two namespaces, real servers and a scanner: see a ban happen (root)
	@cargo run --release --package packetwatch-tests --bin demo

bench: build ## what the filter costs beside its peers (root): ARGS='--quick --only PARTS', ARGS=--publish
	@$(XTASK) setup --for bench && cargo run --release --package packetwatch-bench -- $(ARGS)

# Nothing is linked: libFuzzer need not be there, and without this it would be compiled, by a C++ compiler.
CHECK_FUZZ := CUSTOM_LIBFUZZER_PATH=/nonexistent/libfuzzer.a

lint: ## formatting, clippy, the eBPF crate, documentation, the fuzz targets, licences, shell scripts
	@sh xtask/bootstrap.sh && $(XTASK) setup --for lint
	cargo fmt --all --check
	cargo clippy --all-targets -- --deny warnings
	$(XTASK) lint-ebpf
	RUSTDOCFLAGS='--deny warnings' cargo doc --no-deps --document-private-items
	$(CHECK_FUZZ) cargo check --quiet --locked --manifest-path fuzz/Cargo.toml --target-dir $(or $(CARGO_TARGET_DIR),target)
	cargo deny --all-features check bans licenses sources
	shellcheck xtask/bootstrap.sh .ci/run

install: build install-files ## install daemon, unit, user and directories below PREFIX (default /usr/local)

# What is built already, PACKETWATCH=FILE. The manual pages are written by the binary itself.
install-files:
	install -D -m 755 $(PACKETWATCH) $(DESTDIR)$(PREFIX)/bin/packetwatch
	install -D -m 644 packaging/packetwatch.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/packetwatch.conf
	install -D -m 644 packaging/packetwatch.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/packetwatch.conf
	umask 022 && $(PACKETWATCH) man --dir $(DESTDIR)$(PREFIX)/share/man/man1
	sed 's|/usr/local/|$(PREFIX)/|g' packaging/packetwatch.service | install -D -m 644 /dev/stdin $(DESTDIR)$(PREFIX)/lib/systemd/system/packetwatch.service

help: ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 10
