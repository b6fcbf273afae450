//! What the service manager is told: a datagram socket in its place.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use packetwatch_tests::daemon::{Builder, binary, refused};
use packetwatch_tests::intruder::occupy;
use packetwatch_tests::patience::uninterrupted;
use packetwatch_tests::{Daemon, Lan};
use tempfile::TempDir;

const PROMPT: Duration = Duration::from_secs(30);

struct Manager {
    socket: UnixDatagram,
    directory: TempDir,
}

impl Manager {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        let socket = UnixDatagram::bind(directory.path().join("notify")).expect("bind");
        Self { socket, directory }
    }

    /// The variables that a manager sets, with a watchdog of two seconds.
    fn environment(&self) -> [(&'static str, String); 2] {
        let path = self.directory.path().join("notify");
        [
            ("NOTIFY_SOCKET", path.display().to_string()),
            ("WATCHDOG_USEC", "2000000".to_owned()),
        ]
    }

    fn start(&self, builder: Builder) -> Daemon {
        let add = |builder: Builder, (name, value)| builder.env(name, value);
        self.environment().into_iter().fold(builder, add).start()
    }

    /// The next datagram's lines, if there is one by `end`.
    fn next(&self, end: Instant) -> Option<Vec<String>> {
        let left = end.saturating_duration_since(Instant::now());
        let left = left.max(Duration::from_millis(1));
        self.socket.set_read_timeout(Some(left)).expect("a limit");
        let mut datagram = [0; 4096];
        match uninterrupted(|| self.socket.recv(&mut datagram)) {
            Ok(length) => {
                let text = String::from_utf8_lossy(&datagram[..length]);
                Some(text.lines().map(str::to_owned).collect())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// All datagrams up to the first with a line that `is_it`.
    #[track_caller]
    fn until(&self, is_it: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
        let end = Instant::now() + PROMPT;
        let mut told = Vec::new();
        while let Some(lines) = self.next(end) {
            let found = lines.iter().any(|line| is_it(line));
            told.push(lines);
            if found {
                return told;
            }
        }
        panic!("not told in {PROMPT:?}: {told:?}");
    }
}

fn has(told: &[Vec<String>], line: &str) -> bool {
    told.iter().flatten().any(|told| told == line)
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_watchdog_is_fed_while_everything_is_filtered() {
    let lan = Lan::with_interfaces(2);
    let manager = Manager::new();
    let builder = Daemon::builder(&lan.host).interface("pw0").interface("pw1");
    let mut daemon = manager.start(builder);

    let before = manager.until(|line| line == "READY=1");
    assert!(!has(&before, "WATCHDOG=1"), "{before:?}");
    assert!(lan.host.xdp("pw0").is_some() && lan.host.xdp("pw1").is_some());
    assert!(has(&before, "STATUS=filters pw0, pw1"), "{before:?}");
    manager.until(|line| line == "WATCHDOG=1");

    // It is told of each loss when it would be fed: in one datagram with the food, if there is any. A
    // daemon that is started anew filters no interface that is not there, while another is.
    for (name, status, is_fed) in [
        ("pw0", "STATUS=filters pw1, but", true),
        ("pw1", "STATUS=does not protect", false),
    ] {
        lan.host.ip([format!("link del {name}")]);
        let told = manager.until(|line| line.starts_with(status) && line.contains(name));
        let loss = told.last().expect("the one that was waited for");
        assert_eq!(loss.contains(&"WATCHDOG=1".to_owned()), is_fed, "{loss:?}");
    }
    lan.host.ip([
        "link add pw0 type veth peer name far0",
        "link add pw1 type veth peer name far1",
    ]);
    let unfed = manager.until(|line| line == "STATUS=filters pw0, pw1");
    let (back, unfed) = unfed.split_last().expect("the one that was waited for");
    assert!(!has(unfed, "WATCHDOG=1"), "{unfed:?}");
    assert!(back.contains(&"WATCHDOG=1".to_owned()), "{back:?}");

    daemon.signal(Signal::SIGHUP);
    let reload = manager.until(|line| line == "RELOADING=1");
    let begun = reload.last().expect("the one that was waited for");
    assert!(
        begun.iter().any(|line| line.starts_with("MONOTONIC_USEC=")),
        "{begun:?}"
    );
    manager.until(|line| line == "READY=1");

    daemon.terminate();
    manager.until(|line| line == "STOPPING=1");
}

/// A daemon that is started anew would not have it either, and would be without rules and bans meanwhile.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_watchdog_is_fed_while_another_program_holds_one_of_several() {
    let lan = Lan::with_interfaces(2);
    let manager = Manager::new();
    let builder = Daemon::builder(&lan.host).interface("pw0").interface("pw1");
    let _daemon = manager.start(builder);
    manager.until(|line| line == "STATUS=filters pw0, pw1");
    lan.host.ip(["link del pw1"]);
    let missing = |line: &str| line.starts_with("STATUS=filters pw0, but");
    manager.until(missing);

    // One of its name that comes with somebody else's program.
    lan.host.ip(["link add new1 type veth peer name far1"]);
    let other = lan
        .host
        .run(|| occupy(nix::net::if_::if_nametoindex("new1").unwrap()));
    let other = other.expect("the interface is free");
    lan.host.ip(["link set new1 name pw1"]);
    let told = manager.until(|line| line.contains("another XDP program holds pw1"));
    let held = told.last().expect("the one that was waited for");
    let status = held.iter().any(|line| missing(line));
    assert!(status, "{held:?}");
    assert!(held.contains(&"WATCHDOG=1".to_owned()), "{held:?}");
    for _ in 0..3 {
        manager.until(|line| line == "WATCHDOG=1");
    }
    drop(other);
    manager.until(|line| line == "STATUS=filters pw0, pw1");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_start_that_fails_is_never_ready() {
    let lan = Lan::with_interfaces(1);
    let manager = Manager::new();
    let home = TempDir::new().expect("a directory");
    let mut command = lan.host.command(binary());
    command
        .args([
            "run",
            "--interface",
            "nope0",
            "--api",
            "off",
            "--socket",
            "off",
        ])
        .arg("--state-dir")
        .arg(home.path())
        .envs(manager.environment());
    refused(command, &["nope0"]);
    let mut told = Vec::new();
    while let Some(lines) = manager.next(Instant::now()) {
        told.push(lines);
    }
    assert!(!has(&told, "READY=1"), "{told:?}");
}
