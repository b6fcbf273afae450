//! What reads text that others have written, on any bytes: it never panics, refuses in words that
//! name the place, and what it takes is within bounds and reads back the same.
//!
//! `make fuzz` runs each target under libFuzzer; the tests below run the kept inputs, and some
//! thousands of changes to them, with the compiler that everything else is built with. What either
//! of them finds becomes a file in `fuzz/corpus/TARGET`.

mod config;
mod rules;
#[cfg(test)]
mod tests;

pub use crate::api::fuzz::{lists, requests, restore};
pub use config::config;
pub(crate) use rules::assert_within_bounds;
pub use rules::rules;

/// A target by the name of its corpus.
pub type Target = (&'static str, fn(&[u8]));

/// Every target; `fuzz/fuzz_targets` has a program for each.
pub const TARGETS: [Target; 5] = [
    ("config", config),
    ("lists", lists),
    ("requests", requests),
    ("restore", restore),
    ("rules", rules),
];

/// A refusal is one line that a terminal and a log can show.
#[track_caller]
pub(crate) fn assert_plain(message: &str) {
    assert!(!message.is_empty(), "a refusal says what is wrong");
    assert!(
        !message.contains(char::is_control),
        "a refusal is one plain line: {message:?}"
    );
}
