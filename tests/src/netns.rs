//! Network namespaces that remove themselves.

use std::fs::{self, File};
use std::io::Write;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::{self, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use nix::sched::{CloneFlags, setns};
use nix::unistd::Uid;
use serde_json::Value;

/// A named network namespace with its loopback up. Clones are the same namespace; it is removed with
/// the last of them, also when the test panics.
#[derive(Clone, Debug)]
pub struct Netns {
    owned: Arc<Owned>,
}

/// The name, and the duty to remove it.
#[derive(Debug)]
struct Owned {
    name: String,
}

impl Netns {
    /// Makes a namespace whose name holds this process's id, so that test runs do not meet.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            Uid::effective().is_root(),
            "making a network namespace needs root"
        );
        let name = format!(
            "pwt-{}-{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        run_ip(&["netns", "add", &name], "");
        let netns = Self {
            owned: Arc::new(Owned { name }),
        };
        // Duplicate address detection would hold every IPv6 address back for a second or more; the
        // kernel takes the larger of `all` and the interface's own value.
        for scope in ["all", "default"] {
            netns.sysctl(&format!("net/ipv6/conf/{scope}/accept_dad"), "0");
            netns.sysctl(&format!("net/ipv6/conf/{scope}/router_solicitations"), "0");
        }
        netns.ip(["link set lo up"]);
        netns
    }

    /// The name under `/run/netns`.
    pub fn name(&self) -> &str {
        &self.owned.name
    }

    /// The file that holds the namespace open.
    pub fn path(&self) -> PathBuf {
        self.owned.path()
    }

    /// Runs `work` on a thread inside the namespace and returns its value; a panic in it goes on here.
    ///
    /// A socket stays in the namespace it was made in, so one that is returned can be used anywhere.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter();
                    work()
                })
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Moves the calling thread alone.
    fn enter(&self) {
        let path = self.path();
        let file =
            File::open(&path).unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        setns(file, CloneFlags::CLONE_NEWNET)
            .unwrap_or_else(|error| panic!("enter {}: {error}", path.display()));
    }

    /// A command that will run inside the namespace. `ip netns exec` would mount a fresh `/sys` over
    /// the bpffs that the daemon pins its maps in, therefore nsenter; it replaces itself by the program,
    /// so signals to the child reach the program.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs `ip` commands in order, stopping at the first that fails.
    pub fn ip<S: AsRef<str>>(&self, commands: impl IntoIterator<Item = S>) {
        let script: String = commands
            .into_iter()
            .map(|command| format!("{}\n", command.as_ref()))
            .collect();
        run_ip(&["-n", self.name(), "-batch", "-"], &script);
    }

    /// Writes a setting of the namespace; `key` is a path under `/proc/sys`.
    pub fn sysctl(&self, key: &str, value: &str) {
        self.run(|| {
            fs::write(format!("/proc/sys/{key}"), value)
                .unwrap_or_else(|error| panic!("set {key} to {value}: {error}"));
        });
    }

    /// What `ip -j link` says of the XDP program on an interface; `None` without one.
    pub fn xdp(&self, interface: &str) -> Option<Value> {
        self.link(interface).get("xdp").cloned()
    }

    /// The Ethernet address of an interface.
    pub fn mac(&self, interface: &str) -> [u8; 6] {
        let link = self.link(interface);
        let text = link["address"].as_str().expect("it has an address");
        let mut octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
        [(); 6].map(|()| octets.next().expect("six").expect("hexadecimal"))
    }

    /// What `ip -j -s link` says of an interface, its counters included.
    pub fn link(&self, interface: &str) -> Value {
        let answer = run_ip(
            &["-n", self.name(), "-j", "-s", "link", "show", interface],
            "",
        );
        let links: Value = serde_json::from_slice(&answer).expect("`ip -j link` prints JSON");
        links[0].clone()
    }
}

impl Default for Netns {
    fn default() -> Self {
        Self::new()
    }
}

impl Owned {
    fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let Self { name } = self;
        let status = Command::new("ip").args(["netns", "del", name]).status();
        // A panic here would hide the one that is under way.
        if !status.is_ok_and(|status| status.success()) {
            eprintln!("namespace {name} was not removed; `ip netns del {name}` does");
        }
    }
}

/// Runs `ip` with `script` on its standard input and returns what it prints.
fn run_ip(arguments: &[&str], script: &str) -> Vec<u8> {
    let mut child = Command::new("ip")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("run ip (package iproute2): {error}"));
    // A script fits the pipe's buffer, so this cannot block; `ip` may have ended before it read it,
    // and then its own words say more than the broken pipe.
    let _ = child
        .stdin
        .take()
        .expect("stdin is piped")
        .write_all(script.as_bytes());
    let output = child.wait_with_output().expect("wait for ip");
    assert!(
        output.status.success(),
        "ip {}: {}\n{script}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    output.stdout
}
