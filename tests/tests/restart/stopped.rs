//! A daemon that is stopped for a while, as by a debugger or a machine without memory: the filter goes
//! on by itself.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use packetwatch_tests::environment::number;
use packetwatch_tests::patience::until;
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene};

/// How long the daemon is stopped in a CI run, in seconds: longer than a ban lasts.
const SECONDS: u64 = 5;
/// The client that goes beyond the rule just before the daemon goes on.
const LAST: u8 = 4;

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_stopped_daemon_changes_no_verdict_and_catches_up() {
    let stopped_for = Duration::from_secs(number("STOP_SECONDS").unwrap_or(SECONDS));
    let mut scene = Scene::new("4s");
    let [denied, briefly] = [1, 2].map(|n| scene.address(n));
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    let ttl = Some(json!({"ttl": "3s"}));
    scene.expect(201, "PUT", &format!("/v1/deny/{briefly}"), ttl);
    scene.scan_into_ban(0);
    let told = scene.daemon.lines().len();

    scene.daemon.signal(Signal::SIGSTOP);
    let end = Instant::now() + stopped_for;
    scene.assert_silence(0);
    scene.assert_silence(1);
    // Calls beyond the threshold are dropped with nobody to ban the caller.
    scene.assert_served(3, &PORTS);
    scene.assert_silence(3);
    // What has an end ends, what has none does not.
    scene.wait_until_served(0);
    scene.wait_until_served(2);
    while Instant::now() < end {
        scene.assert_silence(1);
        scene.assert_served(5, &PORTS[..1]);
    }
    scene.assert_served(LAST, &PORTS);
    scene.assert_silence(LAST);

    scene.daemon.signal(Signal::SIGCONT);
    let banned = until(PROMPT, || {
        let path = format!("/v1/bans?contains={}", scene.address(LAST));
        let page = scene.daemon.api("GET", &path, None).json();
        page["entries"].get(0).cloned()
    });
    assert!(
        banned.is_some(),
        "what was beyond the rule meanwhile is not banned"
    );
    scene.expect(200, "GET", "/readyz", None);
    scene.assert_silence(1);
    let bans = scene.expect(
        200,
        "GET",
        &format!("/v1/bans?contains={}", scene.address(0)),
        None,
    );
    assert_eq!(
        bans["entries"],
        json!([]),
        "it was over while the daemon stood still"
    );
    // Nothing that it finds is a fault of others.
    let level = |line: &Value| line["log.level"].as_str().map(str::to_owned);
    let lines = scene.daemon.lines().split_off(told);
    let wrong: Vec<_> = lines
        .iter()
        .filter(|line| {
            ["warn", "error"]
                .map(|it| Some(it.to_owned()))
                .contains(&level(line))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(scene.daemon.terminate().code(), Some(0));
}
