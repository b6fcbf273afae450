//! The daemon as the unit starts it: as its user, behind what systemd puts around it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use packetwatch_tests::daemon::validate;
use packetwatch_tests::patience::until;
use packetwatch_tests::systemd::Systemd;
use packetwatch_tests::{Family, Lan, answered, serve_http, skip};

use crate::unit::install;

const UNIT: &str = "packetwatch.service";
const LOG: &str = "/run/packetwatch.log";
const PORT: u16 = 8086;
const PROMPT: Duration = Duration::from_secs(60);
const SILENCE: Duration = Duration::from_millis(700);

/// What an administrator adds: the journal is not there to take the lines, and what feeds a watchdog of
/// half a minute is waited for.
const DROP_IN: &str = "[Service]\nStandardOutput=append:/run/packetwatch.log\nStandardError=inherit\nWatchdogSec=20\n";

/// One that is ordered as sshd and others are.
const SERVER: &str = "server.service";
/// Starts both in one transaction, as a boot does.
const BOOT: &str = "boot.target";
const SERVER_UNIT: &str = "[Unit]\nAfter=network.target\n[Service]\nExecStart=sleep infinity\n";

fn stage(files: &Path) {
    install(&[format!("DESTDIR={}", files.display())]);
    let write = |path: &str, text: &str| {
        let path = files.join(path);
        let directory = path.parent().expect("it has one");
        fs::create_dir_all(directory).expect("make directories");
        fs::write(path, text).expect("write a file");
    };
    let drop_in = format!("etc/systemd/system/{UNIT}.d/test.conf");
    write(&drop_in, DROP_IN);
    write(
        "etc/packetwatch/packetwatch.toml",
        "interfaces = [\"pw0\"]\n",
    );
    write(&format!("etc/systemd/system/{SERVER}"), SERVER_UNIT);
    let boot = format!("[Unit]\nWants={SERVER} {UNIT}\n");
    write(&format!("etc/systemd/system/{BOOT}"), &boot);
}

#[test]
#[ignore = "needs root: namespaces, BPF and systemd"]
fn the_unit_filters_feeds_the_watchdog_comes_back_and_stops() {
    if !Systemd::is_installed() {
        skip("there is no systemd (package systemd)");
        return;
    }
    let lan = Lan::new();
    let segment = lan.segment();
    let server = serve_http(&lan.host, segment.host(Family::V4), PORT);
    let systemd = Systemd::start(&lan.host, stage);
    let is_answered = |n, limit| {
        let from = Some(segment.client(Family::V4, n));
        answered(&segment.client, from, server.address, limit)
    };
    let assert_filtered = |when: &str| {
        assert!(is_answered(1, PROMPT), "{when}: client 1 is not answered");
        assert!(!is_answered(0, SILENCE), "{when}: client 0 is answered");
    };
    let property = |name: &str| systemd.property(UNIT, name);
    let assert_active = || {
        assert_eq!(property("ActiveState"), "active", "{}", log(&systemd));
        assert_eq!(property("StatusText"), "filters pw0");
    };

    // It succeeds when the daemon has said READY=1.
    let started = systemd.run(&["systemctl", "start", UNIT]);
    assert!(started.status.success(), "{started:?}:\n{}", log(&systemd));
    assert_active();
    assert!(lan.host.xdp("pw0").is_some());
    assert!(is_answered(0, PROMPT));
    let denied = segment.client(Family::V4, 0).to_string();
    systemd.done(&["packetwatch", "deny", "add", &denied]);
    assert_filtered("it runs");
    assert_confined(&systemd);

    let fed = || property("WatchdogTimestampMonotonic").parse::<u64>();
    let before = fed().expect("a time");
    let again = until(PROMPT, || fed().ok().filter(|fed| *fed > before));
    assert!(again.is_some(), "the watchdog is not fed");
    systemd.done(&["systemctl", "reload", UNIT]);
    assert_active();

    // Killed, it is started again; the filter stays meanwhile.
    assert_eq!(property("NRestarts"), "0");
    let first = property("MainPID");
    systemd.done(&["systemctl", "kill", "--signal=KILL", UNIT]);
    assert_filtered("it is killed");
    let back = until(PROMPT, || {
        let is_back = property("NRestarts") == "1" && property("ActiveState") == "active";
        is_back.then_some(())
    });
    assert!(back.is_some(), "{}", log(&systemd));
    assert_ne!(property("MainPID"), first);
    assert_active();
    assert_filtered("it is back");

    systemd.done(&["systemctl", "stop", UNIT]);
    assert_eq!(property("Result"), "success");
    assert_eq!(property("ExecMainStatus"), "0");
    assert_filtered("it has stopped");
    assert_told(&log(&systemd));
}

#[test]
#[ignore = "needs root: namespaces, BPF and systemd"]
fn servers_start_behind_the_filter_and_wait_for_no_interface() {
    if !Systemd::is_installed() {
        skip("there is no systemd (package systemd)");
        return;
    }
    let lan = Lan::new();
    let systemd = Systemd::start(&lan.host, stage);
    let property = |unit: &str, name: &str| systemd.property(unit, name);
    let started_at = |unit: &str, event: &str| {
        let time = property(unit, &format!("{event}Monotonic"));
        time.parse::<u64>().expect("microseconds")
    };
    systemd.done(&["systemctl", "start", BOOT]);
    let filtered = started_at(UNIT, "ActiveEnterTimestamp");
    let served = started_at(SERVER, "ExecMainStartTimestamp");
    assert!(served > filtered, "{served} is not after {filtered}");

    // `detach`, as after a boot nothing is filtered.
    systemd.done(&["systemctl", "stop", BOOT, UNIT, SERVER, "network.target"]);
    systemd.done(&["packetwatch", "detach"]);
    lan.host.ip(["link set pw0 name later"]);
    systemd.done(&["systemctl", "start", BOOT]);
    assert_eq!(property(SERVER, "ActiveState"), "active");
    assert_ne!(property(UNIT, "ActiveState"), "active");
    lan.host.ip(["link set later name pw0"]);
    let is_filtered = || property(UNIT, "ActiveState") == "active";
    let filtered = until(PROMPT, || is_filtered().then_some(()));
    assert!(filtered.is_some(), "{}", log(&systemd));
    assert!(lan.host.xdp("pw0").is_some());
}

/// What the daemon has logged; nothing, if it was not started.
fn log(systemd: &Systemd) -> String {
    let output = systemd.run(&["cat", LOG]);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the unit adds to what the daemon gives up by itself.
#[track_caller]
fn assert_confined(systemd: &Systemd) {
    let pid = systemd.property(UNIT, "MainPID");
    let status = systemd.done(&["cat", &format!("/proc/{pid}/status")]);
    let field = |name: &str| {
        let mut lines = status.lines();
        let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value
            .unwrap_or_else(|| panic!("no {name}: {status}"))
            .trim()
    };
    let user = systemd.done(&["id", "-u", "packetwatch"]);
    assert_eq!(field("Uid").split('\t').next(), Some(user.trim()));
    assert_eq!(field("NoNewPrivs"), "1");
    // The daemon's own list is one.
    let filters: u32 = field("Seccomp_filters").parse().expect("a number");
    assert!(filters > 1, "{status}");
    let within = |command: &[&str]| {
        let enter = ["nsenter", "--target", &pid, "--mount", "--"];
        systemd.run(&[&enter, command].concat()).status.success()
    };
    assert!(within(&["touch", "/var/lib/packetwatch/new"]));
    for closed in ["/etc/new", "/usr/local/new", "/var/new", "/sys/fs/bpf/new"] {
        assert!(!within(&["touch", closed]), "{closed} can be written");
    }
}

/// Every line is as promised, and none tells of a failure.
#[track_caller]
fn assert_told(log: &str) {
    let lines = log.lines().map(|line| {
        let line = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        validate(&line).unwrap_or_else(|fault| panic!("{fault}"));
        line
    });
    let lines: Vec<serde_json::Value> = lines.collect();
    let count = |action: &str| {
        let found = lines.iter().filter(|line| line["event.action"] == action);
        found.count()
    };
    assert_eq!((count("started"), count("stopped")), (2, 1), "{log}");
    let failed = lines.iter().find(|line| line["log.level"] == "error");
    assert_eq!(failed, None);
}
