#!/bin/sh
# What must be there before xtask itself can be built: cargo, a recent compiler and a C linker.
set -eu

fail() {
    echo "setup: $1" >&2
    exit 1
}

command -v cargo >/dev/null ||
    fail 'cargo is missing: install Rust with rustup (https://rustup.rs), then try again'

oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
version=$(rustc --version | cut -d ' ' -f 2)
[ "$(printf '%s\n' "$oldest" "$version" | sort -V | head -n 1)" = "$oldest" ] ||
    fail "rustc is $version and Packetwatch needs $oldest: run \`rustup update stable\`"

command -v cc >/dev/null && exit 0
command -v apt-get >/dev/null || fail 'a C linker (cc) is missing: install gcc or clang'
[ "$(id -u)" = 0 ] ||
    fail 'a C linker (cc) is missing: run "apt-get install build-essential" as root, then try again'
echo 'setup: a C linker (cc) is missing: installing build-essential' >&2
export DEBIAN_FRONTEND=noninteractive
{
    apt-cache show build-essential >/dev/null 2>&1 || apt-get -qq update
    apt-get -qq install --yes --no-remove build-essential
} >&2 || fail 'apt-get could not install build-essential: check the network and /etc/apt/sources.list'
