//! `packetwatch doctor`: what the daemon needs of this host, and what it takes of it.

use std::{fs, path::Path};

use anyhow::bail;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;

use super::{
    Asking,
    client::Client,
    memory,
    output::{Format, table},
    status::{handed_on, left_on, shown_until},
};
use crate::{
    api::{CertificateStatus, ChainedStatus, Memory, Status},
    dataplane::{self, OLDEST_KERNEL},
};

#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    check: String,
    ok: bool,
    /// What was found, and the remedy if it will not do.
    found: String,
}

pub(super) async fn run(asking: Asking) -> anyhow::Result<()> {
    let (client, mut out) = asking.open()?;
    let mut findings = vec![kernel(), btf(), bpffs(Path::new("/sys/fs/bpf"))];
    findings.extend(daemon(&client).await);
    match out.format {
        Format::Json => out.json(&findings)?,
        Format::Jsonl => findings.iter().try_for_each(|finding| out.json(finding))?,
        Format::Table => {
            let rows = findings.iter().map(|finding| {
                let state = if finding.ok { "ok" } else { "failed" };
                vec![
                    finding.check.clone(),
                    state.to_owned(),
                    finding.found.clone(),
                ]
            });
            out.line(&table(&["CHECK", "STATE", "FOUND"], rows).unwrap_or_default())?;
        }
    }
    out.flush()?;
    let failed = findings.iter().filter(|finding| !finding.ok).count();
    if failed > 0 {
        bail!("{failed} of {} checks failed", findings.len());
    }
    Ok(())
}

fn finding(check: &str, result: Result<String, String>) -> Finding {
    Finding {
        check: check.to_owned(),
        ok: result.is_ok(),
        found: result.unwrap_or_else(|found| found),
    }
}

fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    finding("kernel", judge_kernel(release.trim()))
}

fn judge_kernel(release: &str) -> Result<String, String> {
    let Some(version) = dataplane::version(release) else {
        return Err(format!("{release:?} is no version that is known"));
    };
    if version >= OLDEST_KERNEL {
        return Ok(release.to_owned());
    }
    let (major, minor) = OLDEST_KERNEL;
    Err(format!(
        "{release} is too old: use {major}.{minor} or later"
    ))
}

fn btf() -> Finding {
    let path = "/sys/kernel/btf/vmlinux";
    let found = match Path::new(path).exists() {
        true => Ok(path.to_owned()),
        false => Err(format!(
            "there is no {path}: use a kernel with CONFIG_DEBUG_INFO_BTF"
        )),
    };
    finding("kernel types", found)
}

fn bpffs(path: &Path) -> Finding {
    let shown = path.display();
    let found = match statfs(path) {
        Ok(mounted) if mounted.filesystem_type() == BPF_FS_MAGIC => Ok(shown.to_string()),
        Ok(_) => Err(format!(
            "no BPF file system at {shown}: mount -t bpf bpf {shown}"
        )),
        Err(errno) => Err(format!("cannot look at {shown}: {errno}")),
    };
    finding("BPF file system", found)
}

/// Whether it answers, and what it takes.
async fn daemon(client: &Client) -> Vec<Finding> {
    let status = match client.get::<Status>("/v1/status").await {
        Ok(status) => status,
        Err(error) => return vec![finding("daemon", Err(error.to_string()))],
    };
    let Status { version, mode, .. } = &status;
    let runs = format!("version {version} runs in {mode} mode");
    let mut findings = vec![finding("daemon", Ok(runs))];
    let leftovers = status.leftovers.iter();
    findings.extend(leftovers.map(|left| finding("leftover", Err(left_on(left)))));
    findings.extend(status.chain.as_ref().map(chain));
    findings.extend(status.certificate.as_ref().map(certificate));
    findings.extend(of_memory(&status.memory));
    findings
}

fn chain(chain: &ChainedStatus) -> Finding {
    let found = handed_on(chain);
    let is_up = chain.program_id.is_some();
    finding("chain", if is_up { Ok(found) } else { Err(found) })
}

/// One that is due is a fault: it is too late when it has ended.
fn certificate(certificate: &CertificateStatus) -> Finding {
    let found = shown_until(certificate);
    let is_over = matches!(certificate.state.as_str(), "due" | "ended");
    finding("certificate", if is_over { Err(found) } else { Ok(found) })
}

/// The whole, and each map; a full one is a fault.
fn of_memory(memory: &Memory) -> Vec<Finding> {
    let mut findings = vec![finding("memory", Ok(memory::whole(memory)))];
    findings.extend(memory.maps.iter().map(|map| Finding {
        check: format!("map {}", map.map),
        ..finding("", memory::used(map))
    }));
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MapStatus;

    #[test]
    fn kernels_at_the_bound() {
        for good in ["5.18.0", "5.18", "6.1.0-18-amd64", "10.0-rc1"] {
            assert!(judge_kernel(good).is_ok(), "{good}");
        }
        for bad in ["5.17.9", "4.19.0-26-amd64", "", "linux"] {
            assert!(judge_kernel(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_map_is_told_and_a_full_one_is_a_fault() {
        let map = |name: &str, entries| MapStatus {
            map: name.to_owned(),
            entries,
            capacity: 8,
            bytes: 2048,
        };
        let findings = of_memory(&Memory {
            resident_bytes: Some(1024),
            maps_bytes: 6144,
            maps: vec![
                map("callers", Some(7)),
                map("bans", Some(8)),
                map("calls", None),
                MapStatus {
                    bytes: 0,
                    ..map("protected", Some(3))
                },
                map("protected", Some(8)),
            ],
        });
        let told: Vec<_> = findings
            .iter()
            .map(|finding| (finding.check.as_str(), finding.ok, finding.found.as_str()))
            .collect();
        let full = "full with 8 entries, 2.0 KiB: raise capacity.bans in the configuration";
        let unprotected = "full with 8 entries, 2.0 KiB: take some out of protect.extra, or switch \
                           protect.self, protect.gateway or protect.sessions off";
        let expected = [
            ("memory", true, "daemon 1.0 KiB, maps 6.0 KiB"),
            ("map callers", true, "7 of 8 entries, 2.0 KiB"),
            ("map bans", false, full),
            ("map calls", true, "2.0 KiB"),
            ("map protected", true, "3 of 8 entries"),
            ("map protected", false, unprotected),
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_chain_that_is_broken_is_a_fault() {
        let found = |program_id| {
            let finding = chain(&ChainedStatus {
                path: "/sys/fs/bpf/own".to_owned(),
                state: "gone".to_owned(),
                program_id,
                program: program_id.map(|_| "own".to_owned()),
                error: None,
            });
            (finding.check, finding.ok)
        };
        assert_eq!(found(None), ("chain".to_owned(), false));
        assert_eq!(found(Some(7)), ("chain".to_owned(), true));
    }

    #[test]
    fn a_certificate_that_is_due_is_a_fault() {
        let is_ok = |state: &str| {
            let expires_at = Some(time::OffsetDateTime::UNIX_EPOCH);
            certificate(&CertificateStatus {
                path: "/etc/cert.pem".to_owned(),
                expires_at,
                state: state.to_owned(),
            })
            .ok
        };
        let expected = [true, true, false, false];
        assert_eq!(["valid", "unknown", "due", "ended"].map(is_ok), expected);
    }

    #[test]
    fn another_file_system_is_not_taken_for_bpf() {
        let directory = tempfile::tempdir().unwrap();
        let finding = bpffs(directory.path());
        assert!(
            !finding.ok && finding.found.contains("mount -t bpf"),
            "{finding:?}"
        );
    }
}
