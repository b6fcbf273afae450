//! The suites of tests that are run in the machine.

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result};

use crate::install::{cargo, run};

/// A suite of `tests/tests`.
#[derive(Debug)]
pub(super) struct Suite {
    pub(super) name: &'static str,
    /// What is run of it when nobody asks for less.
    tests: &'static str,
    /// What else its executable is told.
    arguments: &'static str,
}

/// What depends on the kernel: each verdict, and what passes from one program to the next.
pub(super) const SUITES: [Suite; 2] = [
    Suite {
        name: "verdict",
        tests: "",
        // The machine has no room for the greatest capacities, and to the verifier they are a number.
        arguments: "--skip load::the_greatest_capacity",
    },
    Suite {
        name: "restart",
        // The kernel's part of a restart: maps, links and program arrays that a daemon finds.
        tests: "chain:: inherit::",
        // They wait for answers, which two daemons that start beside each other would keep back.
        // Streams of packets need `tc`, and a machine that is not emulated.
        arguments: "--test-threads 1 --skip without_a_gap",
    },
];

impl Suite {
    /// Returns the executable.
    ///
    /// # Errors
    ///
    /// cargo cannot build it.
    pub(super) fn build(&self) -> Result<PathBuf> {
        let output = cargo()
            .args(["test", "--test", self.name, "--no-run"])
            .args(["--message-format", "json"])
            .stderr(Stdio::inherit())
            .output()
            .context("start cargo")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // Programs that the suite starts are built beside it, and come in any order.
        let mut suites = text
            .lines()
            .filter(|line| line.contains("\"kind\":[\"test\"]"));
        let executable = suites.find_map(|line| {
            let (_, rest) = line.split_once("\"executable\":\"")?;
            Some(PathBuf::from(rest.split_once('"')?.0))
        });
        executable.with_context(|| format!("cargo names no executable of the suite {}", self.name))
    }

    fn command(&self, words: &[&str]) -> String {
        let words = words.join(" ");
        let tests = if words.is_empty() { self.tests } else { &words };
        let Self {
            name, arguments, ..
        } = self;
        format!("/{name} --include-ignored {arguments} {tests}\necho suite {name} ended with $?\n")
    }
}

/// Builds what the tests of the daemon start.
///
/// # Errors
///
/// cargo cannot build it.
pub(super) fn build_daemon() -> Result<()> {
    run(
        "build the daemon",
        cargo().args(["build", "--bins"]),
        "see above",
    )
}

/// Runs the suites, one after the other; of their tests those that `words` are part of, if there are any.
pub(super) fn script(words: &[&str]) -> String {
    SUITES.iter().map(|suite| suite.command(words)).collect()
}

/// What the script says of a suite whose tests have all passed.
pub(super) fn good_end(suite: &Suite) -> String {
    format!("suite {} ended with 0", suite.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_take_the_place_of_what_is_run_else() {
        let all = script(&[]);
        assert!(all.contains(
            "/restart --include-ignored --test-threads 1 --skip without_a_gap chain:: inherit::\n"
        ));
        let some = script(&["load::", "kill"]);
        assert!(
            some.contains(" without_a_gap load:: kill\n") && !some.contains("inherit"),
            "{some}"
        );
        for suite in &SUITES {
            let end = good_end(suite).replace("with 0", "with $?");
            assert!(all.contains(&end), "{all}");
        }
    }
}
