//! What stays in force when the daemon is gone, and when it returns.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use packetwatch_tests::patience::until;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::scene::{PORTS, PROMPT, Scene, failed};

/// What the journal writes by group commit is on disk after 50 ms; a loaded machine may take longer.
const GROUP_COMMIT: Duration = Duration::from_millis(500);

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_was_acknowledged_is_in_force_after_kill_9() {
    let mut scene = Scene::new("10m");
    let [scanner, allowed, denied] = [0, 1, 2].map(|n| scene.address(n));
    let ban = scene.scan_into_ban(0);
    std::thread::sleep(GROUP_COMMIT);
    let reason = json!({"reason": "ours", "ttl": "1h"});
    let entry = scene.expect(201, "PUT", &format!("/v1/allow/{allowed}"), Some(reason));
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    let feed: Vec<_> = (0..100)
        .map(|n| json!({"prefix": format!("192.0.2.{n}")}))
        .collect();
    scene.expect(200, "POST", "/v1/deny", Some(json!(feed)));
    let rules = json!({"rules": [
        {"name": "two-ports", "distinct_ports": 2, "within": "5s", "ban": "10m"},
    ]});
    scene.expect(200, "PUT", "/v1/rules", Some(rules));
    // Acknowledged last, so nothing but the answer lies between the write and the kill.
    scene.expect(201, "PUT", "/v1/deny/203.0.113.0/24", None);
    scene.daemon.kill();

    scene.daemon.restart();
    // Ready means in force: the first packets are judged by all of it.
    scene.assert_silence(0);
    scene.assert_silence(2);
    scene.assert_served(1, &[PORTS, PORTS].concat());
    scene.assert_served(3, &PORTS[..2]);
    scene.assert_silence(3);

    let bans = scene.expect(200, "GET", &format!("/v1/bans?contains={scanner}"), None);
    let kept = &bans["entries"][0];
    assert_eq!(kept["prefix"], ban["prefix"], "{bans}");
    let drift = time(&kept["expires_at"]) - time(&ban["expires_at"]);
    assert!(
        drift.abs() < time::Duration::seconds(1),
        "the end moved by {drift}"
    );
    let allow = scene.expect(200, "GET", &format!("/v1/allow?contains={allowed}"), None);
    for key in ["prefix", "reason", "created_at"] {
        assert_eq!(allow["entries"][0][key], entry[key], "{key}: {allow}");
    }
    let deny = scene.expect(200, "GET", "/v1/deny?limit=10000", None);
    assert_eq!(deny["entries"].as_array().map(Vec::len), Some(102));
    let rules = scene.expect(200, "GET", "/v1/rules", None);
    assert_eq!(rules["rules"][0]["name"], "two-ports");
    assert_eq!(rules["rules_from"], "api");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn an_orphaned_filter_keeps_its_bans_to_their_ends() {
    let mut scene = Scene::new("5s");
    let denied = scene.address(1);
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    let briefly = scene.address(2);
    let ttl = Some(json!({"ttl": "4s"}));
    scene.expect(201, "PUT", &format!("/v1/deny/{briefly}"), ttl);
    let ban = scene.scan_into_ban(0);
    let end = time(&ban["expires_at"]);
    scene.daemon.kill();

    assert!(scene.is_filtered());
    let pinned = scene.lan.host.xdp("pw0");
    scene.assert_silence(0);
    scene.assert_silence(1);
    scene.assert_served(3, &PORTS[..1]);
    let before = OffsetDateTime::now_utc();
    scene.wait_until_served(0);
    let after = OffsetDateTime::now_utc();
    assert!(after >= end, "the ban ended at {after}, before {end}");
    assert!(before < end, "the ban was over before anybody looked");
    scene.wait_until_served(2);
    // What has no end goes on, and so does the limiter: nobody is banned any more.
    scene.assert_silence(1);
    scene.assert_served(4, &PORTS);
    scene.assert_silence(4);
    assert_eq!(scene.lan.host.xdp("pw0"), pinned);

    // The next daemon takes over without a gap, and has another program.
    scene.daemon.restart();
    assert!(scene.is_filtered());
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
        "the ban is over for the journal as well"
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn detach_takes_an_orphaned_filter_off() {
    let mut scene = Scene::new("10m");
    let denied = scene.address(1);
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    for arguments in [&[][..], &["--interface", "pw0"]] {
        let words = failed(&scene.detach(arguments));
        assert!(
            words.contains("pw0 is filtered by another packetwatch process"),
            "{words}"
        );
        assert!(scene.is_filtered());
    }
    scene.daemon.kill();
    scene.assert_silence(1);

    // Who may not see it is not told that there is none.
    let pins = scene.daemon.bpffs().join("packetwatch");
    let permit = |mode| {
        fs::set_permissions(&pins, Permissions::from_mode(mode)).expect("change the permissions");
    };
    permit(0o000);
    let words = failed(&scene.detach_without_rights());
    permit(0o700);
    let unseen = format!("cannot see {}", pins.display());
    assert!(words.contains(&unseen), "{words}");
    assert!(words.contains("run this as root"), "{words}");
    assert!(scene.is_filtered());

    let words = failed(&scene.detach(&["--interface", "pw1"]));
    assert!(words.contains("pw1"), "{words}");
    assert!(scene.is_filtered(), "another interface was meant");
    let detached = scene.detach(&[]);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    assert!(
        String::from_utf8_lossy(&detached.stdout).contains("pw0"),
        "{detached:?}"
    );
    assert!(!scene.is_filtered());
    scene.assert_served(1, &PORTS);

    let words = failed(&scene.detach(&[]));
    assert!(words.contains("no interface"), "{words}");
    failed(&scene.detach(&["--interface", "pw0"]));
    // What the journal holds is in force again with the next daemon.
    scene.daemon.restart();
    scene.assert_silence(1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn on_exit_keep_leaves_the_filter() {
    let mut scene = Scene::with("10m", |builder| builder.arg("--on-exit").arg("keep"));
    scene.scan_into_ban(0);
    let kept = scene.lan.host.xdp("pw0");
    let status = scene.daemon.terminate();
    assert_eq!(status.code(), Some(0), "{status}");
    let detached = |line: &Value| line["event.action"] == "detached";
    assert!(!scene.daemon.lines().iter().any(detached));
    assert!(kept.is_some());
    assert_eq!(scene.lan.host.xdp("pw0"), kept);
    scene.assert_silence(0);
    scene.assert_served(1, &PORTS[..1]);

    scene.daemon.restart();
    scene.assert_silence(0);
    scene.daemon.terminate();
    let detached = scene.detach(&["--interface", "pw0"]);
    assert_eq!(detached.status.code(), Some(0), "{detached:?}");
    let free = until(PROMPT, || (!scene.is_filtered()).then_some(()));
    assert!(free.is_some());
    scene.assert_served(0, &PORTS);
}

fn time(value: &Value) -> OffsetDateTime {
    let text = value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no time"));
    OffsetDateTime::parse(text, &Rfc3339).unwrap_or_else(|error| panic!("{text}: {error}"))
}
