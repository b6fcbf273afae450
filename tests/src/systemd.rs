//! systemd as the first process of namespaces of its own, where units are started as on a host.
//!
//! It has the host's `/usr`, read-only, and nothing else of its files; what is staged for it lies over
//! that. It starts no unit by itself.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::netns::Netns;
use crate::patience::until;

/// The service manager, where Debian and others put it.
const MANAGER: &str = "/lib/systemd/systemd";

/// For its start and its end, on a machine that is busy otherwise.
const PROMPT: Duration = Duration::from_secs(60);

/// Answers `running` once it is up.
const STATE: &[&str] = &["systemctl", "is-system-running"];

/// Builds the root directory, puts this process into a control group of its own, and becomes the
/// manager. `$1` is the stage, `$2` the group, `$3` the manager.
const BOOT: &str = r#"
set -eu
stage=$1 group=$2 manager=$3
root=$stage/root
mkdir $root
mount -t tmpfs -o mode=755 root $root
cd $root
mkdir -p usr etc proc sys dev run tmp var/lib root old
chmod 1777 tmp
for name in bin sbin lib lib32 lib64; do
    if [ -L /$name ]; then
        cp -P /$name .
    elif [ -d /$name ]; then
        mkdir $name
        mount --bind /$name $name
    fi
done
mount --bind /usr usr
mount -o remount,bind,ro usr
mount --bind $stage/files/usr/local usr/local
cp /etc/ld.so.cache etc
cp -r $stage/files/etc/. etc
: > etc/machine-id
mount -t proc proc proc
mount -t sysfs sys sys
mount -t bpf -o mode=700 bpf sys/fs/bpf
mount -t tmpfs -o mode=755 run run
mount -t tmpfs -o mode=755 dev dev
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
for name in null zero full random urandom tty; do
    : > dev/$name
    mount --bind /dev/$name dev/$name
done
mount -t tmpfs cgroup sys/fs/cgroup
mount -t cgroup2 cgroup2 sys/fs/cgroup
mkdir sys/fs/cgroup/$group
echo 0 > sys/fs/cgroup/$group/cgroup.procs
exec unshare --cgroup sh -euc '
    umount sys/fs/cgroup
    mount -t cgroup2 cgroup2 sys/fs/cgroup
    pivot_root . old
    umount -l old
    cd /
    SYSTEMD_LOG_LEVEL=warning systemd-sysusers /usr/local/lib/sysusers.d/*
    systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/*
    echo inside
    exec env -i PATH=/usr/sbin:/usr/bin container=packetwatch-test \
        SYSTEMD_UNIT_PATH=/etc/systemd/system:/usr/local/lib/systemd/system \
        "$1" --system --log-target=null --show-status=no
' sh $manager
"#;

/// A manager that runs. Dropping it ends it and all that it has started.
#[derive(Debug)]
pub struct Systemd {
    /// `unshare`, whose only child is the manager.
    outside: Child,
    group: String,
    stage: TempDir,
}

impl Systemd {
    /// Whether this host has a manager to start.
    pub fn is_installed() -> bool {
        Path::new(MANAGER).exists()
    }

    /// Starts one in the network namespace. `install` puts files below a directory, as for `DESTDIR`:
    /// `/usr/local`, whose users, temporary files and units are made, and `/etc`.
    pub fn start(netns: &Netns, install: impl FnOnce(&Path)) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let stage = TempDir::with_prefix("packetwatch-systemd-").expect("make a directory");
        let files = stage.path().join("files");
        prepare(&files);
        install(&files);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let group = format!("pwt-{}-{next}", process::id());
        let mut command = netns.command("unshare");
        command
            .args(["--mount", "--propagation", "private", "--uts", "--ipc"])
            .args(["--pid", "--fork", "--kill-child"])
            .args(["sh", "-c", BOOT, "sh"])
            .arg(stage.path())
            .args([&group, MANAGER])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let outside = command.spawn().expect("run nsenter (package util-linux)");
        let mut systemd = Self {
            outside,
            group,
            stage,
        };
        // Before that line a command would come to the host's manager.
        let stdout = systemd.outside.stdout.take().expect("it is piped");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        assert!(
            lines.any(|line| line == "inside"),
            "the namespaces of systemd cannot be set up: see above"
        );
        let is_up = || {
            let state = systemd.run(STATE);
            state.stdout.starts_with(b"running").then_some(())
        };
        let up = until(PROMPT, is_up);
        assert!(up.is_some(), "systemd is not up: {:?}", systemd.run(STATE));
        systemd
    }

    /// What a command says that is run beside the manager.
    pub fn run(&self, command: &[&str]) -> Output {
        let namespaces = format!("/proc/{}/ns", self.outside.id());
        let mut enter = Command::new("nsenter");
        enter
            .arg(format!("--mount={namespaces}/mnt"))
            .arg(format!("--net={namespaces}/net"))
            .arg(format!("--pid={namespaces}/pid_for_children"))
            .arg("--")
            .args(command)
            .env("PATH", "/usr/sbin:/usr/bin:/usr/local/bin");
        enter.output().expect("run nsenter (package util-linux)")
    }

    /// The standard output of a command that has to succeed.
    #[track_caller]
    pub fn done(&self, command: &[&str]) -> String {
        let output = self.run(command);
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A property of a unit.
    #[track_caller]
    pub fn property(&self, unit: &str, name: &str) -> String {
        let text = self.done(&["systemctl", "show", "--value", "-p", name, unit]);
        text.trim().to_owned()
    }

    fn remove_group(&self) -> bool {
        let script = "mount -t cgroup2 cgroup2 \"$1\" && cd \"$1\" && [ ! -e \"$2\" ] || \
                      find \"$2\" -depth -type d -exec rmdir {} +";
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation", "private"])
            .args(["sh", "-c", script, "sh"])
            .arg(self.stage.path().join("files"))
            .arg(&self.group)
            .stderr(Stdio::null());
        command.status().is_ok_and(|status| status.success())
    }
}

impl Drop for Systemd {
    fn drop(&mut self) {
        // The kernel ends the manager with it, and everything else with the manager.
        let _ = self.outside.kill();
        let _ = self.outside.wait();
        let removed = until(PROMPT, || self.remove_group().then_some(()));
        // A panic here would hide the one that is under way.
        if removed.is_none() {
            eprintln!("the control group {} was not removed", self.group);
        }
    }
}

/// Users, and the targets that units are ordered by, without anything that they would start.
fn prepare(files: &Path) {
    let etc = files.join("etc");
    let units = etc.join("systemd/system");
    fs::create_dir_all(&units).expect("make directories");
    let write = |path: PathBuf, text: &str| fs::write(path, text).expect("write a file");
    write(etc.join("passwd"), "root:x:0:0::/root:/bin/sh\n");
    write(etc.join("group"), "root:x:0:\n");
    let ordering = [
        "sysinit",
        "basic",
        "network-pre",
        "network",
        "network-online",
    ];
    for target in ordering.into_iter().chain(["shutdown", "default"]) {
        let text = "[Unit]\nDefaultDependencies=no\n";
        write(units.join(format!("{target}.target")), text);
    }
}
