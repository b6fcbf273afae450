//! The reference's parser under libFuzzer.
#![no_main]

use libfuzzer_sys::{Corpus, fuzz_target};

// The files alone: the tests' crate would bring all that the tests stand on along.
#[path = "../../tests/src/reference/parse.rs"]
mod parse;
#[path = "../../tests/src/reference/seen.rs"]
mod seen;

fuzz_target!(|input: &[u8]| -> Corpus {
    match seen::seen(input) {
        true => Corpus::Keep,
        false => Corpus::Reject,
    }
});
