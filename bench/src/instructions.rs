//! How large the program is, and that it does not grow unnoticed.
//!
//! `instructions.json` is the record. The kernel's verifier and JIT differ between versions, so it
//! names the one it was taken on.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use packetwatch::dataplane::{AttachMode, Dataplane, Options};
use packetwatch_tests::Netns;
use serde::{Deserialize, Serialize};

use crate::{bpf, machine::Machine};

/// What a change may add without a word.
const TOLERANCE: f64 = 1.10;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Instructions {
    /// such as `6.18`
    pub(crate) kernel: String,
    /// instructions the verifier looked at; it gives up at a million
    pub(crate) verified: u32,
    /// instructions after its rewriting
    pub(crate) translated: u32,
    /// bytes of machine code
    pub(crate) jited: u32,
}

/// Loads the program as the daemon does, and asks the kernel.
pub(crate) fn measure() -> Result<Instructions> {
    // Attached, the program has an id that we learn; nothing is sent.
    let netns = Netns::new();
    let (dataplane, _events) = Dataplane::load(Options::default())?;
    let attached = netns.run(|| dataplane.attach("lo", AttachMode::Generic, None))?;
    let info = bpf::program(attached.program_id)?;
    const BYTES: u32 = 8;
    Ok(Instructions {
        kernel: series(&Machine::here()?.kernel),
        verified: info
            .verified_instruction_count()
            .context("the kernel does not count what it verifies (5.16 does)")?,
        translated: info
            .size_translated()
            .context("the kernel does not show the size of the program")?
            / BYTES,
        jited: info.size_jitted(),
    })
}

pub(crate) fn recorded() -> Result<Instructions> {
    let path = path();
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is damaged", path.display()))
}

/// Makes what is here now the record.
pub(crate) fn record(now: &Instructions) -> Result<()> {
    let path = path();
    let text = serde_json::to_string_pretty(now)? + "\n";
    fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("instructions.json")
}

/// Fails for each count that has grown by more than a tenth.
pub(crate) fn compare(recorded: &Instructions, now: &Instructions) -> Result<()> {
    let Instructions {
        kernel,
        verified,
        translated,
        jited,
    } = recorded;
    let grown: Vec<String> = [
        ("verified instructions", *verified, now.verified),
        ("translated instructions", *translated, now.translated),
        ("bytes of machine code", *jited, now.jited),
    ]
    .into_iter()
    .filter(|(_, before, after)| f64::from(*after) > f64::from(*before) * TOLERANCE)
    .map(|(what, before, after)| format!("{before} to {after} {what}"))
    .collect();
    if grown.is_empty() {
        return Ok(());
    }
    bail!(
        "the XDP program has grown by more than a tenth: from {} (record of Linux {kernel}, here is \
         {}). If that is meant, run `make bench ARGS=--record` on Linux {kernel} and commit \
         bench/instructions.json with the reason",
        grown.join(", from "),
        now.kernel
    )
}

/// `6.18.44-cloud` is of the series 6.18.
fn series(release: &str) -> String {
    release.splitn(3, '.').take(2).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_size(size: u32) -> Instructions {
        Instructions {
            kernel: "6.18".to_owned(),
            verified: 10 * size,
            translated: size,
            jited: 5 * size,
        }
    }

    #[test]
    fn a_tenth_more_is_borne_and_no_more() {
        compare(&of_size(1000), &of_size(1100)).unwrap();
        compare(&of_size(1000), &of_size(10)).unwrap();
        let grown = Instructions {
            translated: 1101,
            ..of_size(1000)
        };
        let error = compare(&of_size(1000), &grown).unwrap_err().to_string();
        assert!(error.contains("from 1000 to 1101 translated"), "{error}");
        assert!(error.contains("--record"), "{error}");
        assert!(!error.contains("verified"), "{error}");
    }

    #[test]
    fn a_series_is_two_numbers() {
        assert_eq!(series("6.18.44-cloud-amd64"), "6.18");
        assert_eq!(series("7.0"), "7.0");
    }

    #[test]
    #[ignore = "needs root: loads the XDP program"]
    fn the_program_is_no_larger_than_recorded() {
        let (recorded, now) = (recorded().unwrap(), measure().unwrap());
        compare(&recorded, &now).unwrap();
    }
}
