//! Tests that cannot be run where they are: libtest would count them as passed.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::Location;
use std::thread;

/// Names the file to which a test that is skipped adds a line: its name, a tab and the reason. `make
/// test` sets it, and tells at its end what it reads there. libtest hides what a test prints that
/// returns.
const SKIPPED: &str = "SKIPPED_TESTS";

/// Says that the calling test is skipped, and why; it returns then. `reason` is one line, with what
/// is missing and where it comes from.
///
/// # Panics
/// The file cannot be written.
#[track_caller]
pub fn skip(reason: &str) {
    // libtest gives each test a thread of its name, but with one thread for all.
    let place = Location::caller().file();
    let current = thread::current();
    let test = current.name().filter(|name| *name != "main");
    let test = test.unwrap_or(place);
    eprintln!("{test} is skipped: {reason}");
    let Some(file) = env::var_os(SKIPPED) else {
        return;
    };
    let opened = OpenOptions::new().create(true).append(true).open(&file);
    // In one write: other processes add theirs.
    let line = format!("{test}\t{reason}\n");
    let written = opened.and_then(|mut opened| opened.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{SKIPPED}={}: {error}", file.display()));
}
