//! A host with three servers behind a daemon, and callers with real TCP.

use std::net::{IpAddr, SocketAddr};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use packetwatch_tests::daemon::Builder;
use packetwatch_tests::patience::until;
use packetwatch_tests::{Daemon, Family, Lan, Server, answered, serve_http};
use serde_json::Value;

pub(crate) const PORTS: [u16; 3] = [8086, 8087, 8088];

/// For what must happen, however busy the machine is with other tests and compilers.
pub(crate) const PROMPT: Duration = Duration::from_secs(30);

/// For what must not happen: shorter than the second after which TCP would try again.
pub(crate) const SILENCE: Duration = Duration::from_millis(700);

/// Three ports in five seconds, with bans of this length.
pub(crate) fn rule(ban: &str) -> String {
    format!(
        "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"5s\"\nban = \"{ban}\"\n"
    )
}

pub(crate) struct Scene {
    // In the order of their end.
    pub(crate) daemon: Daemon,
    _servers: Vec<Server>,
    pub(crate) lan: Lan,
}

impl Scene {
    /// A daemon on `pw0` whose bans have this length.
    pub(crate) fn new(ban: &str) -> Self {
        Self::with(ban, |builder| builder)
    }

    /// There is an interface `pw1` besides, which nobody filters.
    pub(crate) fn with(ban: &str, configure: impl FnOnce(Builder) -> Builder) -> Self {
        let lan = Lan::with_interfaces(2);
        let host = lan.segment().host(Family::V4);
        let servers = PORTS.map(|port| serve_http(&lan.host, host, port)).into();
        let builder = Daemon::builder(&lan.host)
            .interface("pw0")
            .rules_toml(rule(ban));
        Self {
            daemon: configure(builder).start(),
            _servers: servers,
            lan,
        }
    }

    /// The client's `n`-th address.
    pub(crate) fn address(&self, n: u8) -> IpAddr {
        self.lan.segment().client(Family::V4, n)
    }

    pub(crate) fn is_answered(&self, n: u8, port: u16, limit: Duration) -> bool {
        let segment = self.lan.segment();
        let server = SocketAddr::new(segment.host(Family::V4), port);
        answered(&segment.client, Some(self.address(n)), server, limit)
    }

    #[track_caller]
    pub(crate) fn assert_served(&self, n: u8, ports: &[u16]) {
        for port in ports {
            assert!(
                self.is_answered(n, *port, PROMPT),
                "client {n} got no answer from {port}"
            );
        }
    }

    /// Whether the client's `n`-th address gets an answer before TCP would try again.
    pub(crate) fn is_served(&self, n: u8) -> bool {
        self.is_answered(n, PORTS[0], SILENCE)
    }

    #[track_caller]
    pub(crate) fn assert_silence(&self, n: u8) {
        self.assert_silence_at(n, PORTS[0]);
    }

    #[track_caller]
    pub(crate) fn assert_silence_at(&self, n: u8, port: u16) {
        let answered = self.is_answered(n, port, SILENCE);
        assert!(!answered, "client {n} was answered by {port}");
    }

    /// Calls until there is an answer.
    #[track_caller]
    pub(crate) fn wait_until_served(&self, n: u8) {
        let served = until(PROMPT, || {
            self.is_answered(n, PORTS[0], SILENCE).then_some(())
        });
        assert!(served.is_some(), "client {n} is not served in {PROMPT:?}");
    }

    /// Scans as the client's `n`-th address until its ban can be read.
    #[track_caller]
    pub(crate) fn scan_into_ban(&self, n: u8) -> Value {
        self.assert_served(n, &PORTS);
        self.assert_silence(n);
        let path = format!("/v1/bans?contains={}", self.address(n));
        let ban = until(PROMPT, || {
            let page = self.daemon.api("GET", &path, None).json();
            page["entries"].get(0).cloned()
        });
        ban.unwrap_or_else(|| panic!("client {n} is not banned"))
    }

    /// Calls the API and asserts the status.
    #[track_caller]
    pub(crate) fn expect(
        &self,
        status: u16,
        method: &str,
        path: &str,
        body: Option<Value>,
    ) -> Value {
        let answer = self.daemon.api(method, path, body.as_ref());
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        if answer.body.is_empty() {
            Value::Null
        } else {
            answer.json()
        }
    }

    /// All entries of a list, page by page.
    #[track_caller]
    pub(crate) fn all(&self, path: &str) -> Vec<Value> {
        let mut all = Vec::new();
        let mut page = self.expect(200, "GET", &format!("{path}?limit=1000"), None);
        loop {
            all.extend_from_slice(page["entries"].as_array().expect("entries"));
            let Some(next) = page["next"].as_str() else {
                return all;
            };
            let path = format!("{path}?limit=1000&cursor={next}");
            page = self.expect(200, "GET", &path, None);
        }
    }

    /// `packetwatch detach` on the daemon's pins.
    pub(crate) fn detach(&self, arguments: &[&str]) -> Output {
        let command = self.lan.host.command(packetwatch_tests::daemon::binary());
        self.detached_by(command, arguments)
    }

    /// As [`Scene::detach`], by root without a capability, whom permissions bind.
    pub(crate) fn detach_without_rights(&self) -> Output {
        let mut command = self.lan.host.command("setpriv");
        command.args(["--inh-caps=-all", "--bounding-set=-all"]);
        command.arg(packetwatch_tests::daemon::binary());
        self.detached_by(command, &[])
    }

    fn detached_by(&self, mut command: Command, arguments: &[&str]) -> Output {
        command
            .arg("detach")
            .args(arguments)
            .arg("--bpffs")
            .arg(self.daemon.bpffs());
        ended(command)
    }

    /// The links that are pinned, as paths below the BPF file system, in order.
    pub(crate) fn pins(&self) -> Vec<String> {
        let mut pins = self.all_pins();
        pins.retain(|pin| !pin.contains(":maps/"));
        pins
    }

    /// What is pinned, links and maps.
    pub(crate) fn all_pins(&self) -> Vec<String> {
        let mut pins = Vec::new();
        let mut directories = vec![self.daemon.bpffs().to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).expect("read a directory") {
                let path = entry.expect("read a directory").path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    let path = path.strip_prefix(self.daemon.bpffs()).expect("below it");
                    pins.push(path.display().to_string());
                }
            }
        }
        pins.sort();
        pins
    }

    /// The path of a pin of the host's namespace below the BPF file system.
    pub(crate) fn pin(&self, abi: u32, interface: &str) -> String {
        format!("packetwatch/abi-{abi}/{}/{interface}", self.pin_namespace())
    }

    /// Moves a pin, and makes the directory that it comes to.
    pub(crate) fn move_pin(&self, from: &str, to: &str) {
        let [from, to] = [from, to].map(|path| self.daemon.bpffs().join(path));
        std::fs::create_dir_all(to.parent().expect("a directory")).expect("make it");
        std::fs::rename(from, to).expect("move the pin");
    }

    pub(crate) fn pin_namespace(&self) -> String {
        format!("netns-{}", self.namespace())
    }

    /// The inode of the host's namespace.
    pub(crate) fn namespace(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let path = format!("/run/netns/{}", self.lan.host.name());
        std::fs::metadata(path)
            .expect("the namespace is there")
            .ino()
    }

    /// Sets keys at the top of the configuration, for the next start.
    pub(crate) fn set(&self, key: &str, value: &str) {
        self.daemon.edit_config(|text| {
            let kept = text.lines().filter(|line| !line.starts_with(key));
            let kept: Vec<_> = kept.collect();
            format!("{key} = {value}\n{}\n", kept.join("\n"))
        });
    }

    pub(crate) fn is_filtered(&self) -> bool {
        self.lan.host.xdp("pw0").is_some()
    }
}

/// Runs a command that must end by itself; it says little.
#[track_caller]
pub(crate) fn ended(mut command: Command) -> Output {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut running = Running(command.spawn().expect("run nsenter (package util-linux)"));
    running.wait();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let read = |pipe: Option<&mut dyn std::io::Read>, text: &mut Vec<u8>| {
        let pipe = pipe.expect("the output is piped");
        pipe.read_to_end(text).expect("read the output");
    };
    read(running.0.stdout.as_mut().map(|pipe| pipe as _), &mut stdout);
    read(running.0.stderr.as_mut().map(|pipe| pipe as _), &mut stderr);
    Output {
        status: running.wait(),
        stdout,
        stderr,
    }
}

/// Standard error of a command that must fail with status 1.
#[track_caller]
pub(crate) fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A process that does not outlive its value.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("process ids are positive ints");
        kill(Pid::from_raw(pid), signal).expect("the process has not been waited for");
    }

    /// Its exit status; panics when it runs on.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let ended = until(PROMPT, || self.0.try_wait().expect("wait for it"));
        ended.unwrap_or_else(|| panic!("it still runs after {PROMPT:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
