//! A chained program, for a daemon that is another user than who has pinned it.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use packetwatch_tests::patience::until;
use packetwatch_tests::{Daemon, Lan, Program};
use serde_json::Value;

use crate::status::assert_reduced;
use crate::user::{NOBODY, PROMPT, Private, daemon, nobody};

fn chain(daemon: &Daemon) -> Value {
    daemon.api("GET", "/v1/status", None).json()["chain"].clone()
}

#[track_caller]
fn wait_for(daemon: &Daemon, state: &str) -> Value {
    let found = until(PROMPT, || {
        Some(chain(daemon)).filter(|chain| chain["state"] == state)
    });
    found.unwrap_or_else(|| panic!("not {state} in {PROMPT:?}: {}", chain(daemon)))
}

/// The last words of a start that must fail.
#[track_caller]
fn refused(daemon: &Daemon, chain: &Path) -> String {
    let mut start = daemon.command();
    start.env("PACKETWATCH_CHAIN", chain);
    packetwatch_tests::daemon::refused(start, &[])
}

/// Where the daemon's user sees what root pins, and a start as root gives it.
fn ours(bpffs: &Path) -> PathBuf {
    let directory = bpffs.join("packetwatch/chain");
    fs::create_dir_all(&directory).expect("a directory");
    directory.join("own")
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pin_below_the_daemons_own_directory_is_given_to_its_user() {
    let lan = Lan::with_interfaces(1);
    let bpffs = Private::new();
    let pin = ours(&bpffs.path());
    Program::passing().pin(&pin);
    let daemon = daemon(&lan)
        .bpffs(bpffs.path())
        .env("PACKETWATCH_CHAIN", pin.display().to_string())
        .start();
    assert_reduced(daemon.pid(), nobody());
    assert_eq!(chain(&daemon)["state"], "up", "{}", chain(&daemon));
    // It is followed with what rights are left, and needs the new pin to be given.
    fs::remove_file(&pin).expect("remove the pin");
    wait_for(&daemon, "gone");
    Program::passing().pin(&pin);
    let error = wait_for(&daemon, "refused")["error"].to_string();
    assert!(error.contains("`chown nobody`"), "{error}");
    chown(&pin, Some(nobody()), None).expect("give the pin");
    let plain = wait_for(&daemon, "up");
    assert_eq!(plain["program"], "passing", "{plain}");
    // So is one of the other kind, for which the filter on the interface changes.
    let attached = lan.host.xdp("pw0");
    fs::remove_file(&pin).expect("remove the pin");
    wait_for(&daemon, "gone");
    Program::passing().with_frags().pin(&pin);
    chown(&pin, Some(nobody()), None).expect("give the pin");
    wait_for(&daemon, "up");
    assert_ne!(lan.host.xdp("pw0"), attached);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_pin_that_the_daemons_user_cannot_open_is_told_with_the_way_out() {
    let lan = Lan::with_interfaces(1);
    let mut open = daemon(&lan).start();
    open.terminate();
    let pin = open.bpffs().join("own");
    Program::passing().pin(&pin);
    open.set_env("PACKETWATCH_CHAIN", &pin.display().to_string());
    open.restart_lacking();
    assert!(lan.host.xdp("pw0").is_some());
    let words = open.api("GET", "/readyz", None).text().to_owned();
    for word in [NOBODY, &pin.display().to_string(), "`chown nobody`"] {
        assert!(words.contains(word), "{words}");
    }
    chown(&pin, Some(nobody()), None).expect("give the pin");
    wait_for(&open, "up");
    drop(open);

    // On a file system for root alone no owner helps, nor would time.
    let bpffs = Private::new();
    let mut closed = daemon(&lan).bpffs(bpffs.path()).start();
    closed.terminate();
    let pin = bpffs.path().join("own");
    Program::passing().pin(&pin);
    chown(&pin, Some(nobody()), None).expect("give the pin");
    let words = refused(&closed, &pin);
    let directory = bpffs.path().join("packetwatch").display().to_string();
    for word in [NOBODY, &pin.display().to_string(), &directory] {
        assert!(words.contains(word), "{words}");
    }
    assert!(lan.host.xdp("pw0").is_none());

    // Who owns a directory that the daemon sees stops no start by where a link in it leads.
    let ours = ours(&bpffs.path());
    std::os::unix::fs::symlink(&pin, &ours).expect("a link");
    closed.set_env("PACKETWATCH_CHAIN", &ours.display().to_string());
    closed.restart();
    assert_eq!(chain(&closed)["state"], "gone", "{}", chain(&closed));
}
