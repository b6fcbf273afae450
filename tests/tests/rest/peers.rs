//! API clients from another host: what is done lest a deny cut them off.

use std::fs;

use packetwatch_tests::Family;
use packetwatch_tests::http::Request;
use packetwatch_tests::patience::until;
use serde_json::json;

use crate::secure::Scene;
use crate::stage::PROMPT;

/// An API client that a deny cuts off is named in its answer, and let in again when the trial is over.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_cuts_himself_off_is_told_and_let_in_again() {
    let scene = Scene::with("[protect]\nsessions = false\n");
    let put = scene.ask(None, "PUT", "/v1/deny/198.18.0.0/15?confirm=4s");
    assert_eq!(put.status, 201, "{put:?}");
    let put = put.json();
    assert_eq!(put["would_drop"][0]["peer"], "who asks", "{put}");
    assert!(!scene.reaches());
    let pending = scene.daemon.api("GET", "/v1/pending", None).json();
    assert_eq!(pending["pending"][0], put["pending"], "{pending}");
    let again = until(PROMPT, || scene.reaches().then_some(()));
    assert!(again.is_some(), "the trial is not over");
    assert_eq!(
        scene.ask(None, "GET", "/v1/pending").json(),
        json!({"pending": []})
    );
}

/// A client that a deny was put around goes on, though another process filters, and is told nothing but
/// in the log when it has been silent for an hour.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_was_carved_out_is_so_after_a_restart() {
    let mut scene = Scene::new();
    scene
        .daemon
        .edit_config(|text| format!("on_exit = \"keep\"\n{text}"));
    let client = scene.lan.segment().client(Family::V4, 0);
    let peers = scene.daemon.state_dir().join("peers.json");
    let is_kept =
        || fs::read_to_string(&peers).is_ok_and(|text| text.contains(&client.to_string()));
    let put = scene.ask(None, "PUT", "/v1/deny/198.18.0.0/15");
    assert_eq!(put.status, 201, "{put:?}");
    until(PROMPT, || is_kept().then_some(())).expect("who asked is not on disk");
    for is_killed in [true, false] {
        let ended = match is_killed {
            true => scene.daemon.kill(),
            false => scene.daemon.terminate(),
        };
        assert_eq!(ended.success(), !is_killed);
        scene.daemon.restart();
        assert!(scene.reaches(), "killed: {is_killed}");
        let path = format!("/v1/explain/{client}");
        let told = scene.daemon.api("GET", &path, None).json();
        assert_eq!(told["verdict"], "pass", "{told}");
    }
    // With its token goes what it was let in for.
    scene.daemon.terminate();
    fs::remove_file(&peers).expect("it is there");
    scene.daemon.restart();
    assert!(!scene.reaches(), "the deny does not stand");
}

/// What is looked at every five seconds is no reason for another answer in between.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_was_let_in_a_moment_ago_is_a_peer_in_every_write() {
    let scene = Scene::new();
    let client = |n| scene.lan.segment().client(Family::V4, n);
    let text = |method: &str, path: &str, body: &str| {
        scene.daemon.request(&Request {
            headers: vec![("Content-Type", "text/plain")],
            body: body.as_bytes().to_vec(),
            ..Request::new(method, path)
        })
    };
    for (n, method, path) in [
        (0, "PUT", format!("/v1/deny/{}", client(0))),
        (1, "POST", "/v1/deny".to_owned()),
        (2, "PUT", "/v1/deny".to_owned()),
    ] {
        let address = client(n);
        let from = scene.daemon.log().len();
        assert_eq!(scene.ask(Some(address), "GET", "/v1/status").status, 200);
        let put = match n {
            0 => scene.daemon.api(method, &path, None),
            _ => text(method, &path, &format!("192.0.2.0/24\n{address}\n")),
        };
        assert_eq!(put.status, 409, "{method} {path}: {put:?}");
        let changed = |line: &serde_json::Value| line["event.action"] == "protect-changed";
        scene.daemon.log().wait_from(from, changed, PROMPT);
    }
    // A larger one is put around him, and he is nobody whom it drops.
    let address = client(3);
    assert_eq!(scene.ask(Some(address), "GET", "/v1/status").status, 200);
    let put = scene
        .daemon
        .api("PUT", "/v1/deny/198.18.0.0/15", None)
        .json();
    let carved_out = put["carved_out"].as_array().expect("some are");
    let prefix = format!("{address}/32");
    assert!(
        carved_out.iter().any(|out| *out == prefix.as_str()),
        "{put}"
    );
    assert_eq!(put["would_drop"], serde_json::Value::Null, "{put}");
    assert_eq!(scene.ask(Some(address), "GET", "/v1/status").status, 200);
}
