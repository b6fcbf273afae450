//! A backup over the API, and what a restore makes of it.

use std::io::{Read, Write};

use packetwatch_tests::http::Response;
use serde_json::{Value, json};

use crate::stage::{PROMPT, Stage, problem, text};

const MEDIA: &str = "application/jsonl";

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_backup_puts_lists_rules_and_mode_back() {
    let mut stage = Stage::own();
    let reason = Some(json!({"reason": "ours", "ttl": "1h"}));
    assert_eq!(stage.ask("PUT", "/v1/allow/192.0.2.1", reason).status, 201);
    let feed: String = (0..2500u32)
        .map(|n| format!("203.0.{}.{}\n", n / 250, n % 250))
        .collect();
    let put = stage.send("PUT", "/v1/deny", "text/plain", feed.as_bytes());
    assert_eq!(put.status, 200, "{put:?}");
    let rules = json!({"rules": [{"name": "calls", "connections": 7}]});
    assert_eq!(stage.ask("PUT", "/v1/rules", Some(rules)).status, 200);
    let observe = Some(json!({"mode": "observe"}));
    assert_eq!(stage.ask("PUT", "/v1/mode", observe).status, 200);
    let all = |stage: &Stage| {
        let lists = ["allow", "deny"].map(|list| stage.listed(list));
        let rules = stage.expect(200, "GET", "/v1/rules").json();
        let mode = stage.expect(200, "GET", "/v1/mode").json();
        (lists, rules, mode)
    };
    let before = all(&stage);

    let backup = stage.expect(200, "GET", "/v1/backup");
    assert_eq!(backup.header("content-type"), Some(MEDIA));
    let lines: Vec<Value> = backup
        .text()
        .lines()
        .map(|line| serde_json::from_str(line).expect("each line is JSON"))
        .collect();
    let kinds: Vec<_> = lines.iter().map(|line| text(&line["kind"])).collect();
    let groups = ["entries"; 4];
    let expected = [&["backup", "rules", "mode"][..], &groups, &["end"]].concat();
    assert_eq!(kinds, expected, "the prefixes are in groups of a thousand");
    assert!(!backup.text().contains("pw_"), "no token is in it");

    stage.expect(200, "DELETE", "/v1/rules");
    stage.expect(200, "DELETE", "/v1/mode");
    stage.expect(204, "DELETE", "/v1/allow/192.0.2.1");
    stage.expect(201, "PUT", "/v1/deny/198.51.100.0/24");
    let restored = stage.send("POST", "/v1/restore", MEDIA, &backup.body);
    assert_eq!(restored.status, 200, "{restored:?}");
    assert_eq!(
        (&restored.json()["allow"], &restored.json()["deny"]),
        (&json!(1), &json!(2500))
    );
    assert_eq!(all(&stage), before);
    stage.daemon.kill();
    stage.daemon.restart();
    assert_eq!(all(&stage), before);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_backup_that_is_not_whole_changes_nothing() {
    let stage = Stage::own();
    stage.expect(201, "PUT", "/v1/deny/198.51.100.0/24");
    let backup = stage.expect(200, "GET", "/v1/backup").body;
    let text = String::from_utf8(backup).expect("it is text");
    let cut = &text[..text.len() / 2];
    let lines: Vec<_> = text.lines().collect();
    let without_end = lines[..lines.len() - 1].join("\n");
    let bad = text.replace("198.51.100.0/24", "198.51.100.0/33");
    for (body, line) in [(cut, 2), (without_end.as_str(), 2), (bad.as_str(), 2)] {
        let refused = stage.send("POST", "/v1/restore", MEDIA, body.as_bytes());
        let refused = problem(&refused, 422, Some("body"));
        assert!(
            refused["errors"][0]["line"].as_u64() <= Some(line),
            "{refused}"
        );
    }
    let refused = stage.send("POST", "/v1/restore", "text/plain", b"");
    problem(&refused, 415, Some("Content-Type"));
    // While a change waits to be confirmed, neither way.
    stage.expect(201, "PUT", "/v1/allow/192.0.2.1?confirm=60s");
    problem(&stage.ask("GET", "/v1/backup", None), 409, Some("confirm"));
    let refused = stage.send("POST", "/v1/restore", MEDIA, text.as_bytes());
    problem(&refused, 409, Some("confirm"));
    assert_eq!(stage.listed("deny"), ["198.51.100.0/24"]);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn bans_of_more_lengths_than_are_looked_under_are_refused_and_stop_no_start() {
    let mut stage = Stage::own();
    stage.expect(201, "PUT", "/v1/deny/198.51.100.0/24");
    let head = stage.expect(200, "GET", "/v1/backup").text().to_owned();
    let head = head.lines().next().expect("a first line");
    // Beside single addresses, which every rule bans.
    let backup = |lengths: std::ops::Range<u8>| {
        let bans = lengths.map(|length| {
            let prefix = format!("10.{length}.0.0/{length}");
            json!({
                "kind": "ban", "prefix": prefix, "rule": "scan", "reason": "ports",
                "offender": format!("10.{length}.0.1"), "repeat": 1, "within_seconds": 60,
                "created_at": "2026-01-01T00:00:00Z",
            })
        });
        let mut lines = vec![head.to_owned()];
        lines.extend(bans.map(|ban| ban.to_string()));
        lines.push(json!({"kind": "end", "lines": lines.len()}).to_string());
        lines.join("\n")
    };
    let refused = stage.send("POST", "/v1/restore", MEDIA, backup(16..24).as_bytes());
    problem(&refused, 409, Some("rules"));
    assert_eq!(stage.listed("deny"), ["198.51.100.0/24"]);
    let restored = stage.send("POST", "/v1/restore", MEDIA, backup(16..23).as_bytes());
    assert_eq!(restored.status, 200, "{restored:?}");

    let verdict = |stage: &Stage, length: u8| {
        let path = format!("/v1/explain/10.{length}.0.9");
        stage.expect(200, "GET", &path).json()["verdict"].clone()
    };
    assert_eq!(verdict(&stage, 16), "drop");
    // Rules of the configuration that were changed while no daemon ran.
    stage.daemon.kill();
    stage.daemon.edit_config(|text| {
        let rule = "[[rules]]\nname = \"wide\"\nconnections = 9\nprefix_v4 = 24\n";
        text.replace("rules = []", "") + rule
    });
    stage.daemon.restart();
    let told =
        |line: &Value| text(&line["message"]).contains("prefix lengths [16] are not in force");
    // It was logged before the daemon was ready, and is read a little later.
    stage.daemon.wait_for(told, PROMPT);
    assert_eq!(verdict(&stage, 22), "drop");
    stage.expect(204, "DELETE", "/v1/bans/10.22.0.0/22");
}

/// Whoever reads slowly has most of the backup read after the trial has begun.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_is_on_trial_while_a_backup_is_read_is_not_in_it() {
    let stage = Stage::own();
    // More than is on its way to who reads nothing.
    let feed: String = (0..200_000u32)
        .map(|n| format!("2001:db8:{:x}:{:x}::/64\n", n >> 16, n & 0xffff))
        .collect();
    let put = stage.send("PUT", "/v1/deny", "text/plain", feed.as_bytes());
    assert_eq!(put.status, 200, "{put:?}");
    let mut reader = stage.connect();
    let head = b"GET /v1/backup HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    reader.write_all(head).expect("ask for a backup");
    let mut first = [0; 64];
    reader.read_exact(&mut first).expect("it has begun");
    stage.expect(201, "PUT", "/v1/deny/2001:db8:ffff::/48?confirm=1h");
    let answer = Response::read((&first[..]).chain(&mut reader)).expect("the rest");
    assert_eq!(answer.status, 200);
    let backup = answer.text();
    assert!(backup.contains("\"kind\":\"end\""), "it is whole");
    assert!(
        backup.contains("2001:db8:3:d3f::/64"),
        "with the last of the list"
    );
    assert!(
        !backup.contains("2001:db8:ffff::/48"),
        "without what may not stay"
    );
}

/// Somebody who works on the host from elsewhere.
const PEER: &str = "192.0.2.7";

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_backup_that_cuts_off_who_works_on_the_host_is_refused_unless_that_is_meant() {
    let mut stage = Stage::with("[protect]\nsessions = false\n");
    stage
        .daemon
        .set_env("SSH_CONNECTION", &format!("{PEER} 1 192.0.2.1 22"));
    stage.daemon.restart();
    let empty = stage.expect(200, "GET", "/v1/backup").text().to_owned();
    let head = empty.lines().next().expect("a first line").to_owned();
    let backup = |lines: &[Value]| {
        let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
        let end = json!({"kind": "end", "lines": lines.len() + 1}).to_string();
        [std::slice::from_ref(&head), &lines[..], &[end]]
            .concat()
            .join("\n")
    };
    let restore = |backup: &str, query: &str| {
        let path = format!("/v1/restore{query}");
        stage.send("POST", &path, MEDIA, backup.as_bytes())
    };
    let made = "2026-01-01T00:00:00Z";
    let entries = |list: &str, prefix: &str| json!({"kind": "entries", "list": list, "created_at": made, "prefixes": [prefix]});
    let deny = entries("deny", "192.0.2.0/24");
    let ban = json!({
        "kind": "ban", "prefix": format!("{PEER}/32"), "rule": "scan", "reason": "ports",
        "offender": PEER, "repeat": 1, "within_seconds": 60, "created_at": made,
    });
    for (line, words) in [(&deny, "is denied"), (&ban, "the rule scan")] {
        let refused = restore(&backup(std::slice::from_ref(line)), "");
        let refused = problem(&refused, 409, Some("force"));
        assert!(text(&refused["detail"]).contains("--force"), "{refused}");
        let fault = text(&refused["errors"][0]["detail"]);
        assert!(fault.contains(PEER) && fault.contains(words), "{fault}");
        assert_eq!(refused["errors_total"], 1);
        assert_eq!(stage.listed("deny"), [""; 0]);
    }
    // Nobody is cut off by what an allow entry of the same backup overrules, or who was before, or
    // while nothing is dropped.
    let allow = entries("allow", PEER);
    let restored = restore(&backup(&[deny.clone(), ban.clone(), allow]), "");
    assert_eq!(restored.status, 200, "{restored:?}");
    assert!(restored.json()["would_drop"].is_null());
    let observe = json!({"kind": "mode", "mode": "observe"});
    let restored = restore(&backup(&[observe, deny.clone()]), "");
    assert_eq!(restored.status, 200, "{restored:?}");
    assert_eq!(
        restored.json()["would_drop"][0]["prefix"],
        format!("{PEER}/32")
    );
    let refused = restore(&backup(std::slice::from_ref(&deny)), "");
    problem(&refused, 409, Some("force"));

    let restored = restore(&backup(std::slice::from_ref(&deny)), "?force=true");
    assert_eq!(restored.status, 200, "{restored:?}");
    let peer = &restored.json()["would_drop"][0];
    assert!(text(&peer["peer"]).contains("SSH"), "{peer}");
    assert_eq!(stage.listed("deny"), ["192.0.2.0/24"]);
    let restored = restore(&backup(&[deny]), "");
    assert_eq!(restored.status, 200, "who is cut off already: {restored:?}");
}
