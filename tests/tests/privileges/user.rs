//! The daemon as another user: what it reaches after it has given root's rights up.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::Signal;
use nix::unistd::User;
use packetwatch_tests::daemon::{Builder, binary, refused};
use packetwatch_tests::patience::until;
use packetwatch_tests::{Daemon, Family, Lan, answered, serve_http};
use serde_json::Value;
use tempfile::TempDir;

use crate::status::assert_reduced;

/// A user that every host has.
pub(crate) const NOBODY: &str = "nobody";

pub(crate) const PROMPT: Duration = Duration::from_secs(30);

/// Shorter than the second after which TCP would try again.
const SILENCE: Duration = Duration::from_millis(700);

pub(crate) fn nobody() -> u32 {
    let user = User::from_name(NOBODY).expect("ask for users");
    user.expect("every host has nobody").uid.as_raw()
}

pub(crate) fn daemon(lan: &Lan) -> Builder {
    Daemon::builder(&lan.host)
        .interface("pw0")
        .env("PACKETWATCH_USER", NOBODY)
}

#[track_caller]
fn expect(daemon: &Daemon, status: u16, method: &str, path: &str) {
    let answer = daemon.api(method, path, None);
    assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
}

fn is_answered(lan: &Lan) -> bool {
    let segment = lan.segment();
    let (caller, host) = (segment.client(Family::V4, 0), segment.host(Family::V4));
    answered(&segment.client, Some(caller), (host, 8086).into(), SILENCE)
}

fn owners(directory: &Path) -> Vec<u32> {
    let entries = fs::read_dir(directory).expect("read a directory");
    let entries = entries.map(|entry| entry.expect("read a directory").path());
    let all = entries.chain([directory.to_owned()]);
    all.map(|path| fs::symlink_metadata(path).expect("it is there").uid())
        .collect()
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn another_user_filters_attaches_anew_and_reloads() {
    let lan = Lan::with_interfaces(1);
    let host = lan.segment().host(Family::V4);
    let _server = serve_http(&lan.host, host, 8086);
    let daemon = daemon(&lan).start();
    assert_reduced(daemon.pid(), nobody());

    // Maps are written.
    assert!(is_answered(&lan));
    let caller = lan.segment().client(Family::V4, 0);
    expect(&daemon, 201, "PUT", &format!("/v1/deny/{caller}"));
    assert!(!is_answered(&lan));
    // An index of another size is a new map.
    let lines: String = (0..3000u32)
        .map(|n| format!("203.0.{}.{}\n", n / 256, n % 256))
        .collect();
    let answer = daemon.request(&packetwatch_tests::http::Request {
        headers: vec![("Content-Type", "text/plain")],
        body: lines.into_bytes(),
        ..packetwatch_tests::http::Request::new("PUT", "/v1/deny")
    });
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(is_answered(&lan), "the list was replaced");

    // An interface that is removed and comes back.
    let attached = |daemon: &Daemon| {
        let status = daemon.api("GET", "/v1/status", None).json();
        status["interfaces"][0]["state"].as_str().map(str::to_owned)
    };
    lan.host
        .ip(["link set pw0 down", "link set pw0 name away0"]);
    lan.host
        .ip(["link add pw0 type veth peer name far0", "link set pw0 up"]);
    let again = until(PROMPT, || lan.host.xdp("pw0"));
    assert!(again.is_some(), "{:?}", attached(&daemon));

    // The configuration is root's, and readable by others here.
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(|line| line["event.action"] == "reloaded", PROMPT);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_configuration_that_only_root_reads_is_told_at_the_start() {
    let lan = Lan::with_interfaces(1);
    let mut daemon = daemon(&lan).start();
    let file = daemon.state_dir().with_file_name("packetwatch.toml");
    fs::set_permissions(&file, Permissions::from_mode(0o600)).expect("its mode");
    daemon.restart();
    let told = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        message.starts_with("SIGHUP will be refused: nobody may not read")
            && message.contains(&file.display().to_string())
    };
    daemon.wait_for(told, PROMPT);
    daemon.signal(Signal::SIGHUP);
    daemon.wait_for(|line| line["event.action"] == "reload-failed", PROMPT);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn files_change_hands_with_the_user_and_no_filter_is_lost() {
    let lan = Lan::with_interfaces(1);
    let mut daemon = daemon(&lan).arg("--on-exit").arg("keep").start();
    let id = |lan: &Lan| lan.host.xdp("pw0").map(|xdp| xdp["prog"]["id"].clone());
    expect(&daemon, 201, "PUT", "/v1/deny/192.0.2.1");
    // The journal, the token, the tokens' hashes, and where they lie.
    assert_eq!(owners(&daemon.state_dir()), [nobody(); 4]);
    let first = id(&lan);

    for (user, uid) in [("root", 0), (NOBODY, nobody())] {
        // As if it had crashed: locks, socket and pin are left behind.
        daemon.kill();
        assert!(id(&lan).is_some());
        daemon.set_env("PACKETWATCH_USER", user);
        daemon.restart();
        assert_reduced(daemon.pid(), uid);
        assert_eq!(owners(&daemon.state_dir()), [uid; 4]);
        let deny = daemon.api("GET", "/v1/deny", None).json();
        assert_eq!(deny["entries"][0]["prefix"], "192.0.2.1/32", "{deny}");
        let taken_over = id(&lan);
        assert!(taken_over.is_some() && taken_over != first);
    }
}

/// As systemd mounts it: for root alone.
pub(crate) struct Private(TempDir);

impl Private {
    pub(crate) fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).expect("its mode");
        let at = dir.path().join("bpf");
        fs::create_dir(&at).expect("a directory");
        mount(
            Some("bpf"),
            &at,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .expect("mount");
        Self(dir)
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.0.path().join("bpf")
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn pins_on_a_file_system_for_root_alone_are_reached_under_their_own_path() {
    let lan = Lan::with_interfaces(1);
    let bpffs = Private::new();
    let mut daemon = daemon(&lan)
        .bpffs(bpffs.path())
        .arg("--on-exit")
        .arg("keep")
        .start();
    assert_reduced(daemon.pid(), nobody());
    // Seen by root at the path that the daemon knows.
    let pins = bpffs.path().join("packetwatch");
    let pinned = |pins: &Path| -> Option<std::path::PathBuf> {
        let version = fs::read_dir(pins).ok()?.next()?.ok()?.path();
        let namespace = fs::read_dir(version).ok()?.next()?.ok()?.path();
        let pins = fs::read_dir(namespace).ok()?.flatten();
        pins.map(|pin| pin.path()).find(|pin| !pin.is_dir())
    };
    let pin = pinned(&pins).expect("the link is pinned");
    assert!(pin.ends_with("pw0"), "{}", pin.display());
    assert_eq!(
        fs::metadata(bpffs.path()).expect("it is there").mode() & 0o777,
        0o700
    );
    // Taken away, it is pinned again by who is not root.
    let mark = daemon.log().len();
    let version = pin.ancestors().nth(2).expect("three directories");
    fs::remove_dir_all(version).expect("remove the pins");
    let restored = |line: &Value| line["event.action"] == "pins-restored";
    daemon.log().wait_from(mark, restored, PROMPT);
    assert_eq!(pinned(&pins).as_ref(), Some(&pin));
    // The next one finds and takes it over.
    daemon.kill();
    daemon.restart();
    assert_reduced(daemon.pid(), nobody());
    let inherited = daemon.wait_for(|line| line["event.action"] == "inherited", PROMPT);
    let message = inherited["message"].as_str().unwrap_or_default();
    assert!(message.contains("its callers and bans go on"), "{message}");
    daemon.terminate();
    assert!(lan.host.xdp("pw0").is_some());
    let mut detach = lan.host.command(binary());
    detach.arg("detach").arg("--bpffs").arg(bpffs.path());
    let detached = detach.output().expect("run nsenter (package util-linux)");
    assert!(detached.status.success(), "{detached:?}");
    assert!(lan.host.xdp("pw0").is_none());
    // Its unit could not start without the directory, and it could not make another.
    assert!(pins.is_dir() && pinned(&pins).is_none());
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_user_that_is_not_there_or_cannot_reach_its_state_is_told_with_the_remedy() {
    let lan = Lan::with_interfaces(1);
    let home = TempDir::new().expect("a directory");
    let bpffs = Private::new();
    let start = |user: &str, state: &Path| -> String {
        let mut command: Command = lan.host.command(binary());
        command
            .args([
                "run",
                "--interface",
                "pw0",
                "--api",
                "off",
                "--socket",
                "off",
            ])
            .arg("--bpffs")
            .arg(bpffs.path())
            .arg("--state-dir")
            .arg(state)
            .env("PACKETWATCH_USER", user);
        let words = refused(command, &[]);
        assert!(lan.host.xdp("pw0").is_none());
        let left = fs::read_dir(bpffs.path().join("packetwatch"));
        assert_eq!(left.into_iter().flatten().count(), 0, "directories of pins");
        words
    };
    let missing = start("no-such-user", &home.path().join("state"));
    for word in ["no user no-such-user", "useradd --system no-such-user"] {
        assert!(missing.contains(word), "{missing}");
    }
    fs::set_permissions(home.path(), Permissions::from_mode(0o700)).expect("its mode");
    let state = home.path().join("state");
    let closed = start(NOBODY, &state);
    for word in [
        "user nobody cannot reach",
        &state.display().to_string(),
        "o+x",
    ] {
        assert!(closed.contains(word), "{closed}");
    }
    // Somebody's directory is not taken, nor what is in it.
    let others = TempDir::new().expect("a directory");
    fs::set_permissions(others.path(), Permissions::from_mode(0o755)).expect("its mode");
    fs::write(others.path().join("letter"), "").expect("write");
    let kept = start(NOBODY, others.path());
    assert!(kept.contains("user nobody cannot reach"), "{kept}");
    assert_eq!(owners(others.path()), [0; 2]);
}

/// Root has given up its right to give files away, and is no member of the group.
#[test]
#[ignore = "needs root: network namespaces, BPF and mounts"]
fn root_gives_the_socket_to_the_group_where_the_host_has_no_user() {
    const GROUP: u32 = 64_999;
    let lan = Lan::with_interfaces(1);
    let mut daemon = Daemon::builder(&lan.host)
        .interface("pw0")
        .env("PACKETWATCH_USER", "root")
        .start();
    daemon.terminate();
    let directory = TempDir::new().expect("a directory");
    let [groups, wrapped] = ["group", "wrapped"].map(|name| directory.path().join(name));
    let others = fs::read_to_string("/etc/group").expect("every host has groups");
    let others = others
        .lines()
        .filter(|line| !line.starts_with("packetwatch:"));
    let mut listed: String = others.map(|line| format!("{line}\n")).collect();
    listed.push_str(&format!("packetwatch:x:{GROUP}:\n"));
    fs::write(&groups, listed).expect("write it");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount sh -c 'mount --bind {} /etc/group && exec {} \"$@\"' sh \"$@\"\n",
        groups.display(),
        binary().display()
    );
    fs::write(&wrapped, script).expect("write it");
    fs::set_permissions(&wrapped, Permissions::from_mode(0o755)).expect("it is ours");
    daemon.set_binary(&wrapped);
    daemon.restart();
    let socket = fs::metadata(daemon.socket()).expect("it listens");
    assert_eq!((socket.uid(), socket.gid()), (0, GROUP));
    assert_eq!(socket.mode() & 0o7777, 0o660);
    expect(&daemon, 200, "GET", "/readyz");
}
