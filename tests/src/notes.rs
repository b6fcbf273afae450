//! What a test has to say although it does not fail: that it cannot be run where it is, or what it has
//! done. libtest hides what such a test prints, and would count the first kind as passed.

use std::env;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::Location;
use std::thread;

/// Names the file to which each note adds a line: its kind, the test's name and the words, with tabs
/// between them. `make test` sets it, and tells at its end what it reads there.
const NOTES: &str = "TEST_NOTES";

/// Says that the calling test is skipped, and why; it returns then. `reason` is one line, with what
/// is missing and where it comes from.
///
/// # Panics
/// The file cannot be written.
#[track_caller]
pub fn skip(reason: &str) {
    note("skipped", reason);
}

/// Says what the calling test has done, in one line: such as how many cases of which seed.
///
/// # Panics
/// The file cannot be written.
#[track_caller]
pub fn tell(words: &str) {
    note("told", words);
}

#[track_caller]
fn note(kind: &str, words: &str) {
    // libtest gives each test a thread of its name, but with one thread for all.
    let place = Location::caller().file();
    let current = thread::current();
    let test = current.name().filter(|name| *name != "main");
    let test = test.unwrap_or(place);
    eprintln!("{test}: {kind}: {words}");
    let Some(file) = env::var_os(NOTES) else {
        return;
    };
    let opened = OpenOptions::new().create(true).append(true).open(&file);
    // In one write: other processes add theirs.
    let line = format!("{kind}\t{test}\t{words}\n");
    let written = opened.and_then(|mut opened| opened.write_all(line.as_bytes()));
    written.unwrap_or_else(|error| panic!("{NOTES}={}: {error}", file.display()));
}
