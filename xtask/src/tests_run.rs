//! `xtask test`: `cargo test` with everything this user may run, and a last word on what was not.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use crate::install::is_root;

/// Runs every test of the default members; those marked as needing root only as root.
///
/// # Errors
///
/// A test failed, or there was none to run.
pub(crate) fn test() -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["test", "--no-fail-fast"]);
    if is_root() {
        command.args(["--", "--include-ignored"]);
    }
    let mut cargo = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start `cargo test`")?;
    let stdout = cargo.stdout.take().context("`cargo test` has no stdout")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read the output of `cargo test`")?;
        println!("{line}");
        tally.read(&line);
    }
    let status = cargo.wait().context("cannot wait for `cargo test`")?;
    let Tally {
        passed,
        failed,
        skipped,
    } = tally;
    println!(
        "\ntest: {passed} passed, {failed} failed, {} skipped",
        skipped.values().map(Vec::len).sum::<usize>()
    );
    for (reason, tests) in &skipped {
        println!("test: skipped, {reason}: {}", tests.join(", "));
    }
    if !status.success() {
        bail!("`cargo test` failed ({status})");
    }
    if passed == 0 {
        bail!("`cargo test` ran no test");
    }
    Ok(())
}

/// What the lines of libtest add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Names of ignored tests by the reason their attribute gives.
    skipped: BTreeMap<String, Vec<String>>,
}

impl Tally {
    pub(crate) fn read(&mut self, line: &str) {
        if let Some((name, reason)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... ignored"))
        {
            let reason = reason.trim_start_matches(", ");
            let reason = if reason.is_empty() {
                "without a reason"
            } else {
                reason
            };
            self.skipped
                .entry(reason.to_owned())
                .or_default()
                .push(name.to_owned());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let before = result.split_once(what)?.0;
                before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
            };
            self.passed += count(" passed").unwrap_or(0);
            self.failed += count(" failed").unwrap_or(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_several_suites_add_up() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        tally.read("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        assert_eq!((tally.passed, tally.failed), (15, 2));
    }

    #[test]
    fn skipped_tests_are_grouped_by_their_reason() {
        let mut tally = Tally::default();
        tally.read("test verdicts::drop ... ignored, needs root: loads the XDP program");
        tally.read("test verdicts::pass ... ignored, needs root: loads the XDP program");
        tally.read("test src/lib.rs - run (line 3) ... ignored");
        tally.read("test prefix::parse ... ok");
        assert_eq!(
            tally.skipped["needs root: loads the XDP program"],
            ["verdicts::drop", "verdicts::pass"]
        );
        assert_eq!(
            tally.skipped["without a reason"],
            ["src/lib.rs - run (line 3)"]
        );
        assert_eq!(tally.skipped.len(), 2);
    }
}
