//! The daemon's process: its binary, its output, its end.

use std::env;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::Pid;

use super::log::Log;
use crate::patience;

/// From SIGTERM to the end of the process; what is slower is killed. A round of the reconciler over
/// 65 536 bans is brought to its end, which takes seconds in an unoptimised build beside others.
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// What of the standard error is kept; the daemon speaks there only when it cannot start.
const MAX_STDERR: u64 = 1 << 20;

/// Where every distribution mounts the BPF file system.
const BPFFS: &str = "/sys/fs/bpf";

/// The daemon under test: `PACKETWATCH_BIN`, or else the build next to this executable in the target
/// directory, of this executable's profile before the other, so that no stale build is tested.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(path) = env::var_os("PACKETWATCH_BIN") {
            let path = PathBuf::from(path);
            assert!(
                path.is_file(),
                "PACKETWATCH_BIN={} is no file",
                path.display()
            );
            return path;
        }
        let this = env::current_exe().expect("an executable knows its path");
        let profiles = if cfg!(debug_assertions) {
            ["debug", "release"]
        } else {
            ["release", "debug"]
        };
        this.ancestors()
            .skip(1)
            .flat_map(|directory| profiles.map(|profile| directory.join(profile)))
            .map(|directory| directory.join("packetwatch"))
            .find(|path| path.is_file())
            .unwrap_or_else(|| {
                panic!(
                    "no packetwatch binary in the target directory of {}: run `make test`, or \
                     `cargo build --bins` first, or set PACKETWATCH_BIN",
                    this.display()
                )
            })
    })
}

/// A daemon's process, which does not outlive its value. Each line that it logs is checked: an invalid one
/// fails the test when the value is dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Once it has ended and its output was read.
    ended: Option<ExitStatus>,
    /// What it has logged.
    pub log: Log,
    stderr: Option<JoinHandle<String>>,
}

impl Process {
    /// Starts `packetwatch run`, by whatever command.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("run nsenter (package util-linux): {error}"));
        let log = Log::collect(child.stdout.take().expect("stdout is piped"));
        let stderr = child.stderr.take().expect("stderr is piped");
        let stderr = thread::spawn(move || {
            let mut text = Vec::new();
            // What was read before an error is all the same worth printing.
            let _ = stderr.take(MAX_STDERR).read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self {
            child,
            ended: None,
            log,
            stderr: Some(stderr),
        }
    }

    /// Its id, also when it has ended.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn signal(&self, signal: Signal) {
        assert!(self.ended.is_none(), "{signal} for a daemon that has ended");
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("process ids are positive ints"));
        // Until it has been waited for, the id is its own, and a process that just ended takes signals.
        match kill(pid, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => panic!("send {signal} to the daemon: {error}"),
        }
    }

    /// The exit status if it has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("wait for the daemon");
            if self.ended.is_some() {
                self.log.finish();
            }
        }
        self.ended
    }

    /// Sends the signal and waits for the end; kills and panics when that takes too long.
    pub fn stop(&mut self, signal: Signal) -> ExitStatus {
        if let Some(status) = self.exited() {
            return status;
        }
        self.signal(signal);
        if let Some(status) = patience::until(STOP_LIMIT, || self.exited()) {
            return status;
        }
        self.signal(Signal::SIGKILL);
        let ended = patience::until(STOP_LIMIT, || self.exited());
        panic!("the daemon did not end by {signal} in {STOP_LIMIT:?}; SIGKILL: {ended:?}");
    }

    /// What it has said on the standard error, once it has ended; the first who asks is told.
    pub(super) fn stderr(&mut self) -> String {
        let read = self.stderr.take().and_then(|reader| reader.join().ok());
        read.unwrap_or_default()
    }

    fn report(&mut self) {
        eprintln!("--- the daemon's log ends with\n{}", self.log.tail());
        eprintln!("--- its standard error\n{}---", self.stderr());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            // A second panic would abort the whole test binary, and leave its namespaces behind.
            if self.exited().is_none() {
                self.signal(Signal::SIGTERM);
                if patience::until(STOP_LIMIT, || self.exited()).is_none() {
                    self.signal(Signal::SIGKILL);
                    patience::until(STOP_LIMIT, || self.exited());
                }
            }
            self.report();
        } else {
            self.stop(Signal::SIGTERM);
            self.log.check();
        }
    }
}

/// A directory for the pins of one daemon. Namespaces share the BPF file system, and interfaces of the
/// same name in two of them must not share pins.
#[derive(Debug)]
pub struct PinDirectory {
    path: PathBuf,
}

impl PinDirectory {
    /// Empty, on the host's BPF file system.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        mount_bpffs();
        let name = format!(
            "pwt-{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = Path::new(BPFFS).join(name);
        fs::create_dir(&path).unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Default for PinDirectory {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for PinDirectory {
    fn drop(&mut self) {
        // With the pins goes what a killed daemon, or one told to keep its filter, has left attached.
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} was not removed: {error}", self.path.display());
        }
    }
}

/// Mounts the BPF file system where it is not, as in a container; it stays, like systemd's own mount.
fn mount_bpffs() {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().expect("mounting does not panic");
    if statfs(BPFFS).is_ok_and(|system| system.filesystem_type() == BPF_FS_MAGIC) {
        return;
    }
    let status = Command::new("mount")
        .args(["-t", "bpf", "bpf", BPFFS])
        .status();
    if !status.as_ref().is_ok_and(|status| status.success()) {
        eprintln!("mount the BPF file system at {BPFFS}: {status:?}");
    }
}
