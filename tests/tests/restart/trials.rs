//! Changes on trial and the bypass, with the daemon alive, killed and started again.

use std::time::Duration;

use nix::sys::signal::Signal;
use packetwatch_tests::http::Request;
use packetwatch_tests::patience::until;
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene, rule};

/// Longer than a kill and a start take, and than what is done meanwhile.
const TRIAL: &str = "60s";

fn told(action: &'static str) -> impl Fn(&Value) -> bool {
    move |line| line["event.action"] == action
}

/// Rules under which the second port is one too many.
fn strict() -> Value {
    json!({"rules": [{"name": "strict", "distinct_ports": 1, "within": "5s", "ban": "1h"}]})
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_deny_on_trial_ends_by_itself_and_is_told() {
    let scene = Scene::new("10m");
    let denied = scene.address(1);
    let path = format!("/v1/deny/{denied}");
    let put = scene.expect(201, "PUT", &format!("{path}?confirm=3s"), None);
    let pending = put["pending"].clone();
    assert_eq!(pending["object"], "deny", "{put}");
    scene.assert_silence(1);
    let status = scene.expect(200, "GET", "/v1/status", None);
    assert_eq!(status["pending"], pending, "{status}");
    // One at a time, and nothing else of its list.
    for (method, path) in [
        ("PUT", "/v1/allow/192.0.2.1?confirm=3s"),
        ("PUT", "/v1/deny/192.0.2.1"),
        ("DELETE", "/v1/rules?confirm=3s"),
    ] {
        let refused = scene.expect(409, method, path, None);
        let detail = refused["detail"].as_str().expect("a detail");
        let id = pending["id"].as_str().expect("an id");
        assert!(
            detail.contains(&format!("packetwatch confirm {id}")),
            "{detail}"
        );
    }
    scene.wait_until_served(1);
    scene.daemon.wait_for(told("change-rolled-back"), PROMPT);
    let deny = scene.expect(200, "GET", "/v1/deny", None);
    assert_eq!(deny["entries"], json!([]));
    let gone = format!("/v1/pending/{}/confirm", pending["id"].as_str().unwrap());
    scene.expect(404, "POST", &gone, None);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_change_that_is_confirmed_outlives_its_trial_and_a_kill() {
    let mut scene = Scene::new("10m");
    let path = format!("/v1/deny/{}?confirm=3s", scene.address(1));
    let put = scene.expect(201, "PUT", &path, None);
    let id = put["pending"]["id"].as_str().expect("an id").to_owned();
    scene.expect(200, "POST", &format!("/v1/pending/{id}/confirm"), None);
    let rules = scene.expect(200, "PUT", "/v1/rules?confirm=3s", Some(strict()));
    let id = rules["pending"]["id"].as_str().expect("an id").to_owned();
    scene.expect(200, "POST", &format!("/v1/pending/{id}/confirm"), None);
    scene.daemon.kill();
    std::thread::sleep(Duration::from_secs(3));
    scene.assert_silence(1);
    scene.daemon.restart();
    scene.assert_silence(1);
    let rules = scene.expect(200, "GET", "/v1/rules", None);
    assert_eq!(rules["rules"][0]["name"], "strict", "{rules}");
}

/// The kernel takes it back, and the next daemon agrees.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn with_the_daemon_killed_a_trial_ends_in_the_kernel() {
    for what in ["deny", "rules", "mode"] {
        let mut scene = match what {
            "mode" => Scene::with("10m", |builder| builder.mode("observe")),
            _ => Scene::new("10m"),
        };
        match what {
            "deny" => {
                let path = format!("/v1/deny/{}?confirm=4s", scene.address(1));
                scene.expect(201, "PUT", &path, None);
            }
            "rules" => {
                scene.expect(200, "PUT", "/v1/rules?confirm=4s", Some(strict()));
                // Banned for an hour, by rules that may not stay.
                scene.assert_served(1, &PORTS[..1]);
            }
            _ => {
                let deny = format!("/v1/deny/{}", scene.address(1));
                scene.expect(201, "PUT", &deny, None);
                scene.assert_served(1, &PORTS[..1]);
                let enforce = Some(json!({"mode": "enforce"}));
                scene.expect(200, "PUT", "/v1/mode?confirm=4s", enforce);
            }
        }
        scene.assert_silence(1);
        scene.daemon.kill();
        scene.wait_until_served(1);
        scene.daemon.restart();
        scene.daemon.wait_for(told("change-rolled-back"), PROMPT);
        scene.assert_served(1, &PORTS[..1]);
        let pending = scene.expect(200, "GET", "/v1/pending", None);
        assert_eq!(pending, json!({"pending": []}), "{what}");
        match what {
            "deny" => {
                let deny = scene.expect(200, "GET", "/v1/deny", None);
                assert_eq!(deny["entries"], json!([]));
            }
            "rules" => {
                let rules = scene.expect(200, "GET", "/v1/rules", None);
                assert_eq!(rules["rules"][0]["name"], "port-scan");
                assert_ne!(rules["rules_from"], "api");
            }
            _ => {
                let mode = scene.expect(200, "GET", "/v1/mode", None);
                assert_eq!(mode["mode"], "observe");
            }
        }
    }
}

/// What is left of the trial is left to the next daemon, and a reload changes nothing of it.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_trial_goes_on_over_a_restart_and_a_reload() {
    let mut scene = Scene::new("10m");
    let path = format!("/v1/rules?confirm={TRIAL}");
    let put = scene.expect(200, "PUT", &path, Some(strict()));
    scene.assert_served(0, &PORTS[..1]);
    scene.assert_silence_at(0, PORTS[1]);
    scene.daemon.wait_for(told("ban"), PROMPT);
    // What is acknowledged has taken the ban to the disk.
    scene.expect(201, "PUT", "/v1/deny/203.0.113.1", None);
    scene.daemon.kill();
    scene.daemon.restart();
    let rules = || scene.expect(200, "GET", "/v1/rules", None);
    assert_eq!(rules()["rules"], put["rules"]);
    assert_eq!(rules()["pending"], put["pending"]);
    let mark = scene.daemon.log().len();
    scene
        .daemon
        .edit_config(|text| text.replace("distinct_ports = 3", "distinct_ports = 2"));
    scene.daemon.signal(Signal::SIGHUP);
    scene.daemon.log().wait_from(mark, told("reloaded"), PROMPT);
    assert_eq!(rules()["rules"], put["rules"]);
    let id = put["pending"]["id"].as_str().expect("an id");
    scene.expect(404, "DELETE", "/v1/pending/0", None);
    scene.expect(204, "DELETE", &format!("/v1/pending/{id}"), None);
    // Back to what the configuration says now.
    assert_eq!(rules()["rules"][0]["distinct_ports"], 2);
    assert_eq!(rules()["pending"], Value::Null);
    // Without its rules no ban of theirs.
    let bans = scene.expect(200, "GET", "/v1/bans", None);
    assert_eq!(bans["entries"], json!([]));
}

/// Only who was allowed before it is banned for the time of the trial.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_trial_of_the_allow_list_shortens_no_other_bans() {
    let scene = Scene::new("10m");
    let allowed = format!("/v1/allow/{}", scene.address(2));
    scene.expect(201, "PUT", &allowed, None);
    let unrelated = format!("/v1/allow/203.0.113.1?confirm={TRIAL}");
    let put = scene.expect(201, "PUT", &unrelated, None);
    let until = |value: &Value| value.as_str().expect("a time")[..19].to_owned();
    let first = until(&scene.scan_into_ban(0)["expires_at"]);
    assert!(first > until(&put["pending"]["until"]), "{first}");
    let id = put["pending"]["id"].as_str().expect("an id");
    scene.expect(204, "DELETE", &format!("/v1/pending/{id}"), None);
    scene.expect(200, "DELETE", &format!("{allowed}?confirm={TRIAL}"), None);
    let second = until(&scene.scan_into_ban(1)["expires_at"]);
    assert!(second >= first, "{second} is before {first}");
    let uncovered = until(&scene.scan_into_ban(2)["expires_at"]);
    assert!(uncovered < first, "{uncovered} is not before {first}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_bypass_passes_everybody_and_outlives_the_daemon() {
    let mut scene = Scene::new("10m");
    let denied = format!("/v1/deny/{}", scene.address(1));
    scene.expect(201, "PUT", &denied, None);
    scene.scan_into_ban(0);
    scene.assert_silence(1);
    scene.expect(422, "POST", "/v1/bypass", Some(json!({"for": "25h"})));
    let begun = scene.expect(200, "POST", "/v1/bypass", Some(json!({"for": "1h"})));
    scene.daemon.wait_for(told("bypass-began"), PROMPT);
    scene.assert_served(0, &PORTS);
    scene.assert_served(1, &PORTS);
    // A scan during it bans nobody.
    scene.assert_served(2, &[PORTS, PORTS].concat());
    let explained = scene.expect(
        200,
        "GET",
        &format!("/v1/explain/{}", scene.address(1)),
        None,
    );
    assert_eq!(explained["verdict"], "drop", "{explained}");
    assert!(explained["bypass_until"].is_string(), "{explained}");

    scene.daemon.kill();
    scene.assert_served(1, &PORTS);
    scene.daemon.restart();
    scene.assert_served(1, &PORTS);
    let status = scene.expect(200, "GET", "/v1/status", None);
    let until = |value: &Value| value.as_str().expect("a time")[..18].to_owned();
    assert_eq!(until(&status["bypass_until"]), until(&begun["until"]));
    let observed = status["packets"]["observed"].as_u64().expect("a count");
    assert!(observed >= 3, "{status}");

    scene.expect(204, "DELETE", "/v1/bypass", None);
    scene.assert_silence(1);
    scene.assert_silence(0);
    // With the daemon dead it ends by itself as well.
    scene.expect(200, "POST", "/v1/bypass", Some(json!({"for": "3s"})));
    scene.assert_served(1, &PORTS[..1]);
    scene.daemon.kill();
    let ended = until_silent(&scene);
    assert!(ended, "it went on");
    scene.daemon.restart();
    scene.assert_silence(1);
}

/// The caller remembers an offence until its next packet; it was passed on purpose.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_offends_during_a_bypass_is_not_banned_by_a_restart_after_it() {
    let hour = rule("10m").replace("5s", "1h");
    let mut scene = Scene::with("10m", |builder| builder.rules_toml(hour));
    scene.expect(200, "POST", "/v1/bypass", Some(json!({"for": "1h"})));
    scene.assert_served(0, &[PORTS, PORTS].concat());
    scene.expect(204, "DELETE", "/v1/bypass", None);
    scene.daemon.kill();
    scene.daemon.restart();
    // The rule loop looks over all callers at once, and each second.
    let looked = until(PROMPT, || {
        let status = scene.expect(200, "GET", "/v1/status", None);
        (status["uptime_seconds"].as_u64() > Some(3)).then_some(())
    });
    assert!(looked.is_some());
    let bans = scene.expect(200, "GET", "/v1/bans", None);
    assert_eq!(bans["entries"], json!([]));
    // Its windows hold what it did: the next call is one too many.
    scene.assert_silence(0);
    scene.daemon.wait_for(told("ban"), PROMPT);
}

fn until_silent(scene: &Scene) -> bool {
    until(PROMPT, || (!scene.is_served(1)).then_some(())).is_some()
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn rules_say_whom_they_would_drop() {
    let scene = Scene::new("10m");
    scene.assert_served(1, &PORTS[..2]);
    scene.assert_served(2, &PORTS[..1]);
    let two = json!({"rules": [{"name": "two", "distinct_ports": 2, "within": "60s"}]});
    let put = scene.expect(200, "PUT", "/v1/rules", Some(two));
    let caller = json!([{
        "prefix": format!("{}/32", scene.address(1)),
        "rule": "two",
        "counted": 2,
        "limit": 2,
    }]);
    assert_eq!(put["would_drop"], caller, "{put}");

    // Those of the configuration do so as well.
    let lax = json!({"rules": [{"name": "lax", "distinct_ports": 60, "within": "60s"}]});
    scene.expect(200, "PUT", "/v1/rules", Some(lax));
    scene.assert_served(3, &PORTS);
    let reset = scene.expect(200, "DELETE", "/v1/rules", None);
    let of_configuration = json!([{
        "prefix": format!("{}/32", scene.address(3)),
        "rule": "port-scan",
        "counted": 3,
        "limit": 3,
    }]);
    assert_eq!(reset["would_drop"], of_configuration, "{reset}");
}

/// By reason, by rule and by caller.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn observe_mode_says_who_would_be_dropped() {
    let scene = Scene::with("10m", |builder| builder.mode("observe"));
    let denied = format!("/v1/deny/{}", scene.address(1));
    scene.expect(201, "PUT", &denied, None);
    scene.assert_served(1, &PORTS[..1]);
    // Beyond the rule, and served all the same.
    scene.assert_served(0, &[PORTS, PORTS].concat());
    let banned = |line: &Value| line["event.action"] == "ban";
    scene.daemon.wait_for(banned, PROMPT);
    scene.assert_served(0, &PORTS);
    let status = scene.expect(200, "GET", "/v1/status", None);
    let reasons: Vec<_> = status["observed"]["by_reason"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|of| of["reason"].as_str().expect("a reason"))
        .collect();
    // The call beyond the rule is told before there is a ban.
    assert_eq!(reasons, ["ban", "deny", "threshold"], "{status}");
    let rule = &status["observed"]["by_rule"][0];
    assert_eq!(
        (&rule["rule"], &rule["bans"]),
        (&json!("port-scan"), &json!(1))
    );
    assert!(rule["packets"].as_u64() >= Some(3), "{rule}");
    let path = format!("/v1/callers/{}", scene.address(0));
    let callers = scene.expect(200, "GET", &path, None);
    assert_eq!(callers["mode"], "observe");
    let caller = &callers["callers"][0];
    assert_eq!(caller["rule"], "port-scan", "{caller}");
    assert!(caller["dropped"].as_u64() >= Some(3), "{caller}");
    // Enforcing is another matter.
    scene.expect(200, "PUT", "/v1/mode", Some(json!({"mode": "enforce"})));
    scene.assert_silence(0);
    let status = scene.expect(200, "GET", "/v1/status", None);
    assert_eq!(status.get("observed"), None, "{status}");
    assert_eq!(status["mode_from"], "api");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_restore_says_whom_its_rules_would_drop_and_is_refused_for_who_works_on_the_host() {
    let unprotected = "[protect]\nsessions = false\n";
    let mut scene = Scene::with("10m", |builder| builder.config_toml(unprotected));
    let restore = |scene: &Scene, ports: u32| {
        let backup = scene.daemon.request(&Request::new("GET", "/v1/backup"));
        let head = backup.text().lines().next().expect("a line").to_owned();
        let rule = json!({"name": "few", "distinct_ports": ports, "within": "60s"});
        let rules = json!({"kind": "rules", "rules": [rule]}).to_string();
        let end = json!({"kind": "end", "lines": 2}).to_string();
        scene.daemon.request(&Request {
            headers: vec![("Content-Type", "application/jsonl")],
            body: [head, rules, end].join("\n").into_bytes(),
            ..Request::new("POST", "/v1/restore")
        })
    };
    // Whoever is nobody's peer keeps no restore from being made.
    scene.assert_served(1, &PORTS[..2]);
    let caller = json!([{
        "prefix": format!("{}/32", scene.address(1)),
        "rule": "few",
        "counted": 2,
        "limit": 2,
    }]);
    let restored = restore(&scene, 2);
    assert_eq!(restored.status, 200, "{restored:?}");
    assert_eq!(restored.json()["would_drop"], caller);
    // The same rules drop nobody whom they did not before.
    let again = restore(&scene, 2).json();
    assert!(again["would_drop"].is_null(), "{again}");

    let session = format!("{} 1 198.18.0.1 22", scene.address(2));
    scene.daemon.set_env("SSH_CONNECTION", &session);
    scene.daemon.restart();
    scene.assert_served(2, &PORTS[..1]);
    let refused = restore(&scene, 1);
    assert_eq!(refused.status, 409, "{refused:?}");
    let fault = refused.json()["errors"][0]["detail"].to_string();
    assert!(fault.contains("exceeds the rule few"), "{fault}");
    let rules = scene.expect(200, "GET", "/v1/rules", None);
    assert_eq!(rules["rules"][0]["distinct_ports"], 2, "{rules}");
}
