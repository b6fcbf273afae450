//! `xtask test`: `cargo test` with everything this user may run, and a last word on what was not, and on
//! what tests that passed have to say.

use std::{
    collections::BTreeMap,
    env, fmt,
    fs::{self, Permissions},
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{self, Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::install::{cargo, is_root};

/// Names the file to which tests add a line that find that they cannot be run, or have something to say
/// (`tests/src/notes.rs`).
const NOTES: &str = "TEST_NOTES";

/// Has cargo start each test as anybody but root, with none of its groups.
const AS_NOBODY: &str = "target.'cfg(all())'.runner = ['setpriv', '--reuid=65534', \
     '--regid=65534', '--clear-groups']";

/// What libtest reads. By itself it starts a test for each processor, and most of ours wait: for a daemon,
/// a ban's end, a timer.
const THREADS: &str = "RUST_TEST_THREADS";

/// Tests at once for each processor.
const AT_ONCE: usize = 2;

/// The tests over journals in memory: they take a minute, and it is nothing to them who runs them.
const ALIKE: &str = "lists::tests::";

/// Runs every test of the default members; those marked as needing root only as root. As root, first as
/// somebody who is not: that what needs no root works, and the rest says so.
///
/// # Errors
///
/// A test failed, or there was none to run.
pub(crate) fn test() -> Result<()> {
    if !is_root() {
        return run(cargo().args(["test", "--no-fail-fast"]));
    }
    match closed_to_nobody()? {
        None => {
            let mut command = cargo();
            command.args(["test", "--config", AS_NOBODY, "--no-fail-fast", "--tests"]);
            command.args(["--", "--skip", ALIKE]);
            // What root's runs have left in a directory of this name is root's.
            let own = env::temp_dir().join(format!("packetwatch-nobody-{}", process::id()));
            fs::create_dir(&own)?;
            fs::set_permissions(&own, Permissions::from_mode(0o777))?;
            let done = run(command.env("TMPDIR", &own));
            fs::remove_dir_all(&own)?;
            done.context("as nobody")?;
        }
        Some(path) => println!(
            "test: not run as nobody, who cannot come to {}: clone to where everybody may search",
            path.display()
        ),
    }
    run(cargo().args(["test", "--no-fail-fast", "--", "--include-ignored"]))
}

/// A directory on the way to this repository, or to its executables, that only some may search.
fn closed_to_nobody() -> Result<Option<PathBuf>> {
    let here = env::current_dir()?;
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| here.clone(), PathBuf::from);
    for path in [here, target] {
        for directory in path.ancestors().filter(|path| path.is_dir()) {
            if fs::metadata(directory)?.permissions().mode() & 0o001 == 0 {
                return Ok(Some(directory.to_owned()));
            }
        }
    }
    Ok(None)
}

fn run(command: &mut Command) -> Result<()> {
    let notes = env::temp_dir().join(format!("packetwatch-notes-{}", process::id()));
    fs::write(&notes, "")?;
    fs::set_permissions(&notes, Permissions::from_mode(0o666))?;
    if env::var_os(THREADS).is_none() {
        let processors =
            thread::available_parallelism().context("how many processors there are")?;
        command.env(THREADS, (AT_ONCE * processors.get()).to_string());
    }
    let mut cargo = command
        .env(NOTES, &notes)
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
    let lines = fs::read_to_string(&notes).with_context(|| notes.display().to_string())?;
    fs::remove_file(&notes)?;
    tally.read_notes(&lines);
    println!("\n{tally}");
    if !status.success() {
        bail!("`cargo test` failed ({status})");
    }
    if tally.passed == 0 {
        bail!("`cargo test` ran no test");
    }
    Ok(())
}

/// What the lines of libtest add up to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// Names of tests that were not run, by the reason: that of their attribute, or their own.
    skipped: BTreeMap<String, Vec<String>>,
    /// What tests have to say, with their names before it.
    told: Vec<String>,
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
            self.skip(name, reason);
        } else if let Some(result) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let before = result.split_once(what)?.0;
                before.trim_end().rsplit(' ').next()?.parse::<u64>().ok()
            };
            self.passed += count(" passed").unwrap_or(0);
            self.failed += count(" failed").unwrap_or(0);
        }
    }

    /// Lines of tests that returned because they cannot be run, which libtest counts as passed, and of
    /// those that say what they have done.
    fn read_notes(&mut self, lines: &str) {
        for line in lines.lines() {
            let parts: Vec<&str> = line.splitn(3, '\t').collect();
            match parts[..] {
                ["skipped", name, reason] => {
                    self.skip(name, reason);
                    self.passed = self.passed.saturating_sub(1);
                }
                ["told", name, words] => self.told.push(format!("{name}: {words}")),
                _ => {}
            }
        }
        self.told.sort();
    }

    fn skip(&mut self, name: &str, reason: &str) {
        let names = self.skipped.entry(reason.to_owned()).or_default();
        names.push(name.to_owned());
    }
}

/// The last lines of a run: what tests have told, the totals, then each reason with the tests that were
/// not run for it.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
            told,
        } = self;
        for line in told {
            writeln!(f, "test: {line}")?;
        }
        let count: usize = skipped.values().map(Vec::len).sum();
        write!(f, "test: {passed} passed, {failed} failed, {count} skipped")?;
        for (reason, tests) in skipped {
            write!(f, "\ntest: skipped, {reason}: {}", tests.join(", "))?;
        }
        Ok(())
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

    #[test]
    fn a_test_that_says_that_it_is_skipped_has_not_passed() {
        let mut tally = Tally::default();
        tally.read("test verdicts::drop ... ignored, needs root");
        tally.read("test steps::year ... ok");
        tally.read("test made_up::requests ... ok");
        tally.read("test prefix::parse ... ok");
        tally.read("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        tally.read_notes(
            "skipped\tsteps::year\tno libfaketime\nskipped\tmade_up::requests\tno schemathesis\n",
        );
        assert_eq!(
            tally.to_string(),
            "test: 1 passed, 0 failed, 3 skipped\n\
             test: skipped, needs root: verdicts::drop\n\
             test: skipped, no libfaketime: steps::year\n\
             test: skipped, no schemathesis: made_up::requests"
        );
    }

    #[test]
    fn what_a_test_tells_is_told_again_and_it_has_passed() {
        let mut tally = Tally::default();
        tally.read("test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s");
        tally.read_notes("told\tlookups\tLISTS_SEED=2\ntold\tagree\tDIFFERENTIAL_SEED=1: a\ttab\n");
        assert_eq!(
            tally.to_string(),
            "test: agree: DIFFERENTIAL_SEED=1: a\ttab\n\
             test: lookups: LISTS_SEED=2\n\
             test: 2 passed, 0 failed, 0 skipped"
        );
    }
}
