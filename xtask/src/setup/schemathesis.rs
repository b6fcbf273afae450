//! Schemathesis, which makes requests up from the description of the REST API. It is Python's, and
//! lives in the target directory, so that nothing of the host's is changed.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::install::{attempt, say};

/// A release whose checks are those that the test was read with.
const VERSION: &str = "4.32.5";

/// Installs it where it is missing. The test that runs it is skipped where that fails, and says so.
pub(crate) fn schemathesis() {
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let home = target.join("schemathesis");
    let is_there = Command::new(home.join("bin/schemathesis"))
        .arg("--version")
        .output()
        .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(VERSION));
    if is_there {
        return;
    }
    say("schemathesis is missing: asking PyPI for it (about a minute)");
    if let Err(reason) = install(&home) {
        // Half of it would be taken for all of it.
        let _ = fs::remove_dir_all(&home);
        say(&format!(
            "without it the REST API is not tested against made-up requests: {reason:#}"
        ));
    }
}

fn install(home: &Path) -> Result<()> {
    let made = attempt(Command::new("python3").args(["-m", "venv"]).arg(home));
    made.context("cannot make a Python environment (python3, python3-venv)")?;
    let package = format!("schemathesis=={VERSION}");
    // pip tries again and again where there is no network.
    let mut pip = Command::new("timeout");
    pip.arg("600").arg(home.join("bin/pip"));
    pip.args([
        "install",
        "--quiet",
        "--disable-pip-version-check",
        &package,
    ]);
    if let Err(reason) = attempt(&mut pip) {
        bail!("pip cannot install {package}: {reason}");
    }
    Ok(())
}
