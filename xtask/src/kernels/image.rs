//! A file system in memory: what a machine boots into, runs and powers off by.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::install::run;

/// Runs the tests, then the daemon until it says that it filters. Its lines are read by
/// `Outcome::read`.
const INIT: &str = "#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
# The firmware leaves its last line open.
echo
echo kernel $(uname -r)
/packetwatch run --interface lo --state-dir /tmp/state --on-exit detach > /tmp/log 2>&1 &
daemon=$!
for second in $(seq 120); do
    grep -q '\"event.action\":\"started\"' /tmp/log && break
    sleep 1
done
cat /tmp/log
started=$(grep -c '\"event.action\":\"started\"' /tmp/log)
grep Seccomp: /proc/$daemon/status
kill $daemon
wait $daemon
echo daemon ended with $? after it $([ $started = 1 ] && echo started || echo failed)
# The machine has no room for the greatest capacities, and to the verifier they are a number.
/suite --include-ignored --skip load::the_greatest_capacity
poweroff -f
";

/// The suite and the daemon, with the libraries that they are linked with, and busybox.
pub(super) fn build(root: &Path, image: &Path, binaries: &[PathBuf; 2]) -> Result<PathBuf> {
    let tree = root.with_extension("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree)?;
    }
    fs::create_dir_all(tree.join("bin"))?;
    let [suite, daemon] = binaries;
    copy(suite, &tree.join("suite"))?;
    copy(daemon, &tree.join("packetwatch"))?;
    for binary in binaries {
        for library in libraries(binary)? {
            let below = library.strip_prefix("/").unwrap_or(&library);
            copy(&library, &tree.join(below))?;
        }
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].map(Path::new);
    let busybox = busybox.into_iter().find(|path| path.exists());
    copy(
        busybox.context("there is no busybox")?,
        &tree.join("bin/busybox"),
    )?;
    fs::write(tree.join("init"), INIT)?;
    fs::set_permissions(tree.join("init"), fs::Permissions::from_mode(0o755))?;
    let pack = "cd \"$1\" && find . | cpio --quiet -o -H newc | gzip -1 > \"$2\"";
    run(
        "pack the file system in memory",
        Command::new("sh")
            .args(["-c", pack, "sh"])
            .arg(&tree)
            .arg(image),
        "see above",
    )?;
    Ok(image.to_owned())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}

/// By `ldd`, the loader among them.
fn libraries(binary: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd")
        .arg(binary)
        .output()
        .context("start ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let words = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(words.map(PathBuf::from).collect())
}
