//! [`packetwatch::fuzz::config`] under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| packetwatch::fuzz::config(input));
