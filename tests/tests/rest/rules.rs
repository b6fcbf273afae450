//! Rules over the API: whole sets, all faults at once, kept over a restart.

use std::fs;

use serde_json::{Value, json};

use crate::stage::{PROMPT, Stage, keys, problem, text};

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn rules_are_set_kept_and_reset() {
    let mut stage = Stage::own();
    let file = stage.daemon.state_dir().join("rules.toml");
    let configured = stage.expect(200, "GET", "/v1/rules").json();
    assert_eq!(keys(&configured), ["rules", "rules_from"]);
    assert_eq!(configured["rules"], json!([]), "the configuration has none");
    assert!(
        text(&configured["rules_from"]).ends_with("packetwatch.toml"),
        "{configured}"
    );

    let body = json!({"rules": [
        {"name": "scan", "distinct_ports": 5, "within": "30s", "ban": "1h", "prefix_v6": 128},
        {"name": "flood", "connections": 1000, "escalate": 3.0, "ban": "forever"},
    ]});
    let mark = stage.daemon.log().len();
    let set = stage.ask("PUT", "/v1/rules", Some(body));
    assert_eq!(set.status, 200, "{set:?}");
    let set = set.json();
    assert_eq!(set["rules_from"], "api");
    let rule = &set["rules"][0];
    for (key, value) in [
        ("name", json!("scan")),
        ("distinct_ports", json!(5)),
        ("within", json!("30s")),
        ("ban", json!("1h")),
        ("escalate", json!(2.0)),
        ("max_ban", json!("24h")),
        ("prefix_v4", json!(32)),
        ("prefix_v6", json!(128)),
    ] {
        assert_eq!(rule[key], value, "{key} of {rule}");
    }
    assert_eq!(set["rules"][1]["ban"], "forever");
    let changed = |line: &Value| line["event.action"] == "rules-changed";
    stage.daemon.log().wait_from(mark, changed, PROMPT);
    assert_eq!(stage.expect(200, "GET", "/v1/rules").json(), set);
    assert_eq!(
        stage.expect(200, "GET", "/v1/status").json()["rules_from"],
        "api"
    );

    // What is shown can be sent back, and it stands instead of the file's over a restart.
    assert_eq!(stage.ask("PUT", "/v1/rules", Some(set.clone())).json(), set);
    stage.daemon.restart();
    assert_eq!(stage.expect(200, "GET", "/v1/rules").json(), set);
    assert!(file.is_file());

    let reset = stage.expect(200, "DELETE", "/v1/rules").json();
    assert_eq!(reset, configured);
    assert!(!file.exists());
    assert_eq!(
        stage.expect(200, "DELETE", "/v1/rules").json(),
        configured,
        "nothing to reset"
    );
    stage.daemon.restart();
    assert_eq!(stage.expect(200, "GET", "/v1/rules").json(), configured);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn wrong_rules_are_refused_whole_with_every_fault() {
    let stage = Stage::own();
    let before = stage.expect(200, "GET", "/v1/rules").json();
    let rule = |more: Value| {
        let mut rule = json!({"name": "a", "connections": 5});
        let more = more.as_object().expect("an object").clone();
        rule.as_object_mut().expect("an object").extend(more);
        rule
    };
    let table = [
        (rule(json!({"name": "Bad Name"})), Some("name")),
        (rule(json!({"name": ""})), Some("name")),
        (rule(json!({"connections": 0})), Some("connections")),
        (rule(json!({"within": 60})), Some("within")),
        (rule(json!({"ban": ["10m"]})), Some("ban")),
        (rule(json!({"connections": "5"})), Some("connections")),
        (rule(json!({"within": "0s"})), Some("within")),
        (rule(json!({"within": "25h"})), Some("within")),
        (rule(json!({"ban": "0s"})), Some("ban")),
        (rule(json!({"escalate": 0.5})), Some("escalate")),
        (rule(json!({"prefix_v4": 33})), Some("prefix_v4")),
        (rule(json!({"prefix_v6": 129})), Some("prefix_v6")),
        (rule(json!({"colour": "red"})), Some("colour")),
        (
            json!({"name": "a", "distinct_ports": 65}),
            Some("distinct_ports"),
        ),
        (json!({"connections": 5}), Some("name")),
    ];
    for (rule, field) in table {
        let body = json!({"rules": [{"name": "good", "packets": 9}, rule.clone()]});
        let field = field.expect("every one is told by its field");
        let place = format!("rules[1].{field}");
        let refused = problem(
            &stage.ask("PUT", "/v1/rules", Some(body)),
            422,
            Some(&place),
        );
        let fault = &refused["errors"][0];
        assert_eq!(
            (fault["index"].as_u64(), fault["field"].as_str()),
            (Some(1), Some(field)),
            "{rule}: {refused}"
        );
    }
    // No trigger, two triggers, two of one name, more than eight.
    let nine: Vec<_> = (0..9)
        .map(|n| json!({"name": format!("r{n}"), "packets": 9}))
        .collect();
    for (rules, field) in [
        (json!([{"name": "a"}]), "rules[0]"),
        (json!([{"name": "a", "packets": 5, "bytes": 5}]), "rules[0]"),
        (
            json!([{"name": "a", "packets": 5}, {"name": "a", "bytes": 5}]),
            "rules[1].name",
        ),
        (json!(nine), "rules"),
        (json!([7]), "rules[0]"),
        (json!([["a", null, null, null, 9]]), "rules[0]"),
        (json!({"name": "a"}), "rules"),
    ] {
        let answer = stage.ask("PUT", "/v1/rules", Some(json!({"rules": rules})));
        problem(&answer, 422, Some(field));
    }
    problem(
        &stage.ask("PUT", "/v1/rules", Some(json!({"rule": []}))),
        422,
        Some("rule"),
    );
    problem(
        &stage.ask("PUT", "/v1/rules", Some(json!({}))),
        422,
        Some("rules"),
    );
    problem(
        &stage.ask("PUT", "/v1/rules", None),
        415,
        Some("Content-Type"),
    );
    let text = stage.send("PUT", "/v1/rules", "application/toml", b"rules = []");
    problem(&text, 415, Some("Content-Type"));
    problem(
        &stage.announce("PUT", "/v1/rules", 64 * 1024 + 1),
        413,
        Some("body"),
    );
    assert_eq!(stage.expect(200, "GET", "/v1/rules").json(), before);
    let kept = fs::metadata(stage.daemon.state_dir().join("rules.toml"));
    assert!(kept.is_err(), "a refused set was written");
}
