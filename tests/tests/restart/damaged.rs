//! A state directory with damaged files: the daemon starts without what it cannot understand, keeps the
//! rest, filters, and says where the file lies.

use std::fs;
use std::net::SocketAddr;

use packetwatch_tests::connect;
use packetwatch_tests::http::Request;
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene};

const TCP: &str = "127.0.0.1:7300";

/// Under which nobody here is banned.
fn many(name: &str) -> Option<Value> {
    let rule = json!({"name": name, "distinct_ports": 60, "within": "5s", "ban": "10m"});
    Some(json!({"rules": [rule]}))
}

fn damage(scene: &Scene, name: &str) -> Vec<u8> {
    let path = scene.daemon.state_dir().join(name);
    let whole = fs::read(&path).expect("read what is there");
    let half = whole[..whole.len() / 2].to_vec();
    fs::write(&path, &half).expect("damage it");
    half
}

/// The line of a file that this start has set aside, which lies there as it was.
#[track_caller]
fn told(scene: &Scene, name: &str, was: &[u8]) -> Value {
    let path = scene.daemon.state_dir().join(name);
    let is_of_it = |line: &Value| {
        let aside = line["file.path"].as_str().unwrap_or_default();
        let prefix = format!("{}.damaged-", path.display());
        line["event.action"] == "state-set-aside" && aside.starts_with(&prefix)
    };
    let line = scene.daemon.wait_for(is_of_it, PROMPT);
    assert_eq!(line["log.level"], "error");
    let aside = line["file.path"].as_str().expect("a path");
    assert_eq!(fs::read(aside).expect("read what was set aside"), was);
    line
}

/// The status that `/v1/status` answers to this token over TCP.
fn over_tcp(scene: &Scene, token: &str) -> u16 {
    let bearer = format!("Bearer {}", token.trim());
    let request = Request {
        headers: vec![("Authorization", &bearer)],
        ..Request::new("GET", "/v1/status")
    };
    let address: SocketAddr = TCP.parse().expect("an address");
    let stream = connect(&scene.lan.host, None, address, PROMPT).expect("connect");
    stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
    request.exchange(stream).expect("an answer").status
}

/// The rule's name, who has set the rules, the mode, and who has set that.
fn standing(scene: &Scene) -> [String; 4] {
    let rules = scene.expect(200, "GET", "/v1/rules", None);
    let mode = scene.expect(200, "GET", "/v1/mode", None);
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    [
        text(&rules["rules"][0]["name"]),
        text(&rules["rules_from"]),
        text(&mode["mode"]),
        text(&mode["mode_from"]),
    ]
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn damaged_rules_and_mode_are_the_configurations_and_the_rest_is_kept() {
    let mut scene = Scene::new("10m");
    scene.expect(201, "PUT", "/v1/deny/192.0.2.1", None);
    scene.expect(200, "PUT", "/v1/rules", many("mine"));
    scene.expect(200, "PUT", "/v1/mode", Some(json!({"mode": "observe"})));
    scene.daemon.terminate();

    let was = damage(&scene, "rules.toml");
    scene.daemon.restart();
    let line = told(&scene, "rules.toml", &was);
    let message = line["message"].as_str().expect("a message");
    assert!(message.contains("packetwatch rules set FILE"), "{message}");
    let [rule, rules_from, mode, mode_from] = standing(&scene);
    assert_eq!((rule.as_str(), mode.as_str()), ("port-scan", "observe"));
    assert!(rules_from != "api" && mode_from == "api", "{rules_from}");
    scene.expect(200, "PUT", "/v1/rules", many("mine"));
    scene.daemon.terminate();

    let was = damage(&scene, "control.json");
    scene.daemon.restart();
    let line = told(&scene, "control.json", &was);
    let message = line["message"].as_str().expect("a message");
    assert!(message.contains("packetwatch mode"), "{message}");
    let [rule, rules_from, mode, mode_from] = standing(&scene);
    assert_eq!([&rule, &rules_from, &mode], ["mine", "api", "enforce"]);
    assert_ne!(mode_from, "api");
    // It filters, with what the other files have.
    let deny = scene.expect(200, "GET", "/v1/deny", None);
    assert_eq!(deny["entries"][0]["prefix"], "192.0.2.1/32");
    scene.expect(201, "PUT", &format!("/v1/deny/{}", scene.address(1)), None);
    scene.assert_silence(1);
    scene.assert_served(0, &PORTS);
    // Nothing is set aside twice.
    scene.daemon.restart();
    let again = |line: &Value| line["event.action"] == "state-set-aside";
    assert!(!scene.daemon.lines().iter().any(again));
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_bypass_whose_record_is_damaged_ends_when_the_kept_filter_says() {
    let mut scene = Scene::new("10m");
    scene.expect(201, "PUT", &format!("/v1/deny/{}", scene.address(1)), None);
    let begun = scene.expect(200, "POST", "/v1/bypass", Some(json!({"for": "30m"})));
    // Rules on trial end with the record, not with the filter.
    scene.expect(200, "PUT", "/v1/rules?confirm=30m", many("tried"));
    scene.daemon.kill();
    let was = damage(&scene, "control.json");
    scene.daemon.restart();
    told(&scene, "control.json", &was);
    scene.assert_served(1, &PORTS);
    let status = scene.expect(200, "GET", "/v1/status", None);
    let second = |value: &Value| value.as_str().expect("a time")[..17].to_owned();
    assert_eq!(second(&status["bypass_until"]), second(&begun["until"]));
    assert_eq!(standing(&scene)[0], "port-scan");
    let pending = scene.expect(200, "GET", "/v1/pending", None);
    assert_eq!(pending["pending"], json!([]));
    scene.expect(204, "DELETE", "/v1/bypass", None);
    scene.assert_silence(1);
    // One that is over is not told again.
    scene.daemon.kill();
    fs::write(scene.daemon.state_dir().join("control.json"), "{").expect("damage it");
    scene.daemon.restart();
    told(&scene, "control.json", b"{");
    let ended = |line: &Value| line["event.action"] == "bypass-ended";
    assert!(!scene.daemon.lines().iter().any(ended));
    // What came of a kept filter is on disk again; without one there is none.
    scene.expect(200, "POST", "/v1/bypass", Some(json!({"for": "30m"})));
    scene.daemon.terminate();
    damage(&scene, "control.json");
    scene.daemon.restart();
    scene.assert_silence(1);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn without_its_tokens_the_daemon_answers_nobody_over_tcp_until_there_are_new_ones() {
    let address = TCP.parse().expect("an address");
    let mut scene = Scene::with("10m", |builder| builder.listen(address));
    let file = scene.daemon.state_dir().join("token");
    let first = fs::read_to_string(&file).expect("read the first token");
    assert_eq!(over_tcp(&scene, &first), 200);
    scene.expect(204, "DELETE", "/v1/tokens/first", None);
    // As one whose file could not be removed.
    fs::write(file, &first).expect("put the text back");
    let made = json!({"name": "ci", "scopes": ["read"]});
    let made = scene.expect(201, "POST", "/v1/tokens", Some(made));
    let made = made["token"].as_str().expect("a token").to_owned();
    assert_eq!(over_tcp(&scene, &made), 200);
    scene.daemon.terminate();

    let was = damage(&scene, "tokens.json");
    scene.daemon.restart();
    let line = told(&scene, "tokens.json", &was);
    let message = line["message"].as_str().expect("a message");
    assert!(message.contains("packetwatch token create"), "{message}");
    for _ in 0..2 {
        assert_eq!(over_tcp(&scene, &first), 401, "it was revoked");
        assert_eq!(over_tcp(&scene, &made), 401);
        let listed = scene.expect(200, "GET", "/v1/tokens", None);
        assert_eq!(listed["tokens"], json!([]));
        scene.daemon.restart();
    }
    let new = scene.expect(201, "POST", "/v1/tokens", Some(json!({"scopes": ["read"]})));
    let new = new["token"].as_str().expect("a token").to_owned();
    assert_eq!(over_tcp(&scene, &new), 200);
}

/// The daemon starts without what it cannot read, and says where that lies.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_damaged_journal_is_set_aside_and_told() {
    let mut scene = Scene::new("10m");
    scene.expect(201, "PUT", "/v1/deny/192.0.2.1", None);
    scene.daemon.terminate();
    let journal = scene.daemon.state_dir().join("journal.redb");
    let whole = fs::read(&journal).expect("read the journal");
    // An empty file is none that a daemon has begun.
    for damaged in [&whole[..whole.len() / 2], &[]] {
        fs::write(&journal, damaged).expect("damage the journal");
        scene.daemon.restart();
        let set_aside = |line: &Value| line["event.action"] == "journal-set-aside";
        let line = scene.daemon.wait_for(set_aside, PROMPT);
        let aside = line["file.path"].as_str().expect("a path");
        assert_eq!(fs::read(aside).expect("read what was set aside"), damaged);
        let deny = scene.expect(200, "GET", "/v1/deny", None);
        assert_eq!(deny["entries"], serde_json::json!([]));
        scene.daemon.terminate();
    }
    // Put back, it is all there again.
    fs::write(&journal, &whole).expect("put the journal back");
    scene.daemon.restart();
    let deny = scene.expect(200, "GET", "/v1/deny", None);
    assert_eq!(deny["entries"][0]["prefix"], "192.0.2.1/32");
}
