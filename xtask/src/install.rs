//! Running the commands of a set-up step: their output on stderr, their failures with a remedy.

use std::{
    env,
    ffi::OsString,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};
use xtask::linker::on_path;

/// A line about the set-up, on stderr.
pub(crate) fn say(text: &str) {
    eprintln!("setup: {text}");
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// Runs the command of `step`, its stdout on our stderr.
///
/// # Errors
///
/// It failed: the step, the command and the remedy.
pub(crate) fn run(step: &str, command: &mut Command, remedy: &str) -> Result<()> {
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::from(io::stderr()))
        .status()
        .with_context(|| {
            format!(
                "step \"{step}\": cannot start `{}`: {remedy}",
                shown(command)
            )
        })?;
    if !status.success() {
        bail!(
            "step \"{step}\": `{}` failed ({status}): {remedy}",
            shown(command)
        );
    }
    Ok(())
}

/// Runs a command that may fail and says nothing.
///
/// # Errors
///
/// It failed; the text is the last line it left on stderr.
pub(crate) fn attempt(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(anyhow!(
        "{}",
        stderr.trim().lines().last().unwrap_or("it gave no reason")
    ))
}

/// Installs Debian packages, fetching the package index only where one of them is not in it.
///
/// # Errors
///
/// There is no apt, we are not root, or apt failed.
pub(crate) fn apt(step: &str, packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    if on_path("apt-get").is_none() {
        bail!("step \"{step}\": this is not Debian; install what it calls {names}");
    }
    if !is_root() {
        bail!("step \"{step}\" needs root: run `apt-get install {names}` as root, then try again");
    }
    if attempt(Command::new("apt-cache").arg("show").args(packages)).is_err() {
        say("fetching Debian's package index");
        run(
            step,
            apt_get().arg("update"),
            "check the network and /etc/apt/sources.list",
        )?;
    }
    say(&format!("installing {names}"));
    run(
        step,
        // Never at the price of a package that is there: rustc-web and rustc exclude each other.
        apt_get()
            .args(["install", "--yes", "--no-remove"])
            .args(packages),
        "check that the sources list has Debian's main and security archives",
    )
}

/// Installs Debian packages, each for the program it brings and where that is missing.
///
/// # Errors
///
/// As for [`apt`].
pub(crate) fn programs(wanted: &[(&str, &str)]) -> Result<()> {
    // Debian keeps /usr/sbin off an ordinary user's PATH.
    let missing = |program: &str| {
        on_path(program).is_none() && !Path::new("/usr/sbin").join(program).exists()
    };
    let packages: Vec<_> = wanted
        .iter()
        .filter(|(program, _)| missing(program))
        .map(|(_, package)| *package)
        .collect();
    if packages.is_empty() {
        Ok(())
    } else {
        apt("programs", &packages)
    }
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-o", "Dpkg::Use-Pty=0"])
        .env("DEBIAN_FRONTEND", "noninteractive");
    command
}

/// cargo, as one would type it. What `cargo run` has told this process of its own package would have
/// build scripts that look at such variables run again, and what depends on them built again, each
/// time that it is xtask that builds.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new("cargo");
    let of_package = |name: &OsString| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in env::vars_os().filter(|(name, _)| of_package(name)) {
        command.env_remove(name);
    }
    command
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_names_itself_its_command_and_the_remedy() {
        let error = run("fail", Command::new("sh").args(["-c", "exit 3"]), "do not").unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("\"fail\"") && text.contains("`sh -c exit 3`"),
            "{text}"
        );
        assert!(text.ends_with("do not"), "{text}");
    }

    #[test]
    fn a_failed_attempt_gives_the_last_line_of_stderr() {
        let mut command = Command::new("sh");
        let error =
            attempt(command.args(["-c", "echo one >&2; echo two >&2; exit 1"])).unwrap_err();
        assert_eq!(error.to_string(), "two");
    }
}
