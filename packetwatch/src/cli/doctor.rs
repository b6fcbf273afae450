//! `packetwatch doctor`: what the daemon needs of this host.

use std::{fs, path::Path};

use anyhow::bail;
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use serde::Serialize;

use super::{
    Asking,
    client::Client,
    output::{Format, table},
};
use crate::{
    api::Status,
    dataplane::{self, OLDEST_KERNEL},
};

#[derive(Debug, PartialEq, Serialize)]
struct Finding {
    check: &'static str,
    ok: bool,
    /// What was found, and the remedy if it will not do.
    found: String,
}

pub(super) async fn run(asking: Asking) -> anyhow::Result<()> {
    let (client, mut out) = asking.open()?;
    let findings = [
        kernel(),
        btf(),
        bpffs(Path::new("/sys/fs/bpf")),
        daemon(&client).await,
    ];
    match out.format {
        Format::Json => out.json(&findings)?,
        Format::Jsonl => findings.iter().try_for_each(|finding| out.json(finding))?,
        Format::Table => {
            let rows = findings.iter().map(|finding| {
                let state = if finding.ok { "ok" } else { "failed" };
                vec![
                    finding.check.to_owned(),
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

fn finding(check: &'static str, result: Result<String, String>) -> Finding {
    Finding {
        check,
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

async fn daemon(client: &Client) -> Finding {
    let answer = client.get::<Status>("/v1/status").await;
    let found = match answer {
        Ok(status) => Ok(format!(
            "version {} runs in {} mode",
            status.version, status.mode
        )),
        Err(error) => Err(error.to_string()),
    };
    finding("daemon", found)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn another_file_system_is_not_taken_for_bpf() {
        let directory = tempfile::tempdir().unwrap();
        let finding = bpffs(directory.path());
        assert!(
            !finding.ok && finding.found.contains("mount -t bpf"),
            "{finding:?}"
        );
    }
}
