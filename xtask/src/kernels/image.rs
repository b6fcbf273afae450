//! A file system in memory: what a machine boots into, runs and powers off by.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use xtask::linker::on_path;

use crate::install::run;

/// Runs the daemon until it says that it filters, then the tests. Its lines are read by
/// `Outcome::read`.
const INIT: &str = "#!/bin/busybox sh
export PATH=/usr/bin:/bin PACKETWATCH_BIN=/packetwatch PATIENCE=10
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t bpf bpf /sys/fs/bpf
insmod /veth.ko
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
";

/// Programs that the tests run, where busybox's do less.
const PROGRAMS: [&str; 2] = ["ip", "nsenter"];

/// What a machine boots into: executables with the libraries that they are linked with, and busybox.
pub(super) struct Image {
    tree: PathBuf,
}

impl Image {
    /// With the programs that the tests run, and what a kernel unpacked at `root` needs for them.
    ///
    /// # Errors
    ///
    /// A program is missing, or a file cannot be written.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let tree = root.with_extension("tree");
        if tree.exists() {
            fs::remove_dir_all(&tree)?;
        }
        let image = Self { tree };
        let busybox = on_path("busybox").context("there is no busybox")?;
        copy(&busybox, &image.tree.join("bin/busybox"))?;
        for name in PROGRAMS {
            let sbin = Path::new("/usr/sbin").join(name);
            let program = on_path(name).or_else(|| sbin.exists().then_some(sbin));
            let program = program.with_context(|| format!("there is no {name}"))?;
            copy(&program, &image.tree.join("usr/bin").join(name))?;
            image.add_libraries(&program)?;
        }
        let (module, unpacked) = (veth(root)?, image.tree.join("veth.ko"));
        if module.extension().is_some_and(|suffix| suffix == "xz") {
            let script = "xz --decompress --stdout \"$1\" > \"$2\"";
            shell("unpack a module", script, &[&module, &unpacked])?;
        } else {
            copy(&module, &unpacked)?;
        }
        Ok(image)
    }

    /// Puts an executable there, as `/NAME`, without what a debugger would want: it is held in memory.
    ///
    /// # Errors
    ///
    /// It cannot be copied.
    pub(super) fn add_binary(&mut self, name: &str, binary: &Path) -> Result<()> {
        run(
            "take a binary's debug information off",
            Command::new("strip")
                .args(["--strip-debug", "-o"])
                .args([&self.tree.join(name), binary]),
            "it comes with the C linker, in binutils",
        )?;
        self.add_libraries(binary)
    }

    /// By `ldd`, the loader among them.
    fn add_libraries(&self, binary: &Path) -> Result<()> {
        let output = Command::new("ldd")
            .arg(binary)
            .output()
            .context("start ldd")?;
        let text = String::from_utf8_lossy(&output.stdout);
        for library in text.split_whitespace().filter(|word| word.starts_with('/')) {
            let below = library.trim_start_matches('/');
            copy(Path::new(library), &self.tree.join(below))?;
        }
        Ok(())
    }

    /// Writes it to `file`; `script` is what is run at its end.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub(super) fn pack(&self, script: &str, file: &Path) -> Result<()> {
        let init = self.tree.join("init");
        fs::write(&init, format!("{INIT}{script}poweroff -f\n"))?;
        fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
        let pack = "cd \"$1\" && find . | cpio --quiet -o -H newc | gzip -1 > \"$2\"";
        shell("pack the file system in memory", pack, &[&self.tree, file])
    }
}

/// The kernel's module of the links between namespaces; it depends on none.
fn veth(root: &Path) -> Result<PathBuf> {
    let kernels = fs::read_dir(root.join("lib/modules")).context("the package has no modules")?;
    let directories = kernels.filter_map(|kernel| Some(kernel.ok()?.path()));
    let mut files = directories.flat_map(|directory| {
        ["veth.ko", "veth.ko.xz"].map(|name| directory.join("kernel/drivers/net").join(name))
    });
    files
        .find(|file| file.exists())
        .context("the package has no veth.ko")
}

fn shell(step: &str, script: &str, arguments: &[&Path]) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", script, "sh"]).args(arguments);
    run(step, &mut command, "see above")
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}
