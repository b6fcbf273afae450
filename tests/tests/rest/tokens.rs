//! Making, listing and revoking tokens.

use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use packetwatch_tests::http::Request;
use packetwatch_tests::patience::until;
use serde_json::{Value, json};

use crate::stage::{PROMPT, Stage, keys, problem, text, time};

fn status_of(stage: &Stage, token: &str, path: &str) -> u16 {
    let authorization = format!("Bearer {token}");
    let request = Request {
        headers: vec![("Authorization", &authorization)],
        ..Request::new("GET", path)
    };
    stage.over_tcp(&request).status
}

/// Who may change a list may end its trial, and not that of the rules.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_trial_is_ended_by_who_may_make_it() {
    let stage = Stage::own();
    let token = stage.token(&json!({"scopes": ["read", "lists"], "name": "ci"}));
    let authorization = format!("Bearer {token}");
    let ask = |method: &str, path: &str| {
        let request = Request {
            headers: vec![("Authorization", &authorization)],
            ..Request::new(method, path)
        };
        stage.over_tcp(&request)
    };
    let pending = || {
        let pending = ask("GET", "/v1/pending").json();
        text(&pending["pending"][0]["id"]).to_owned()
    };
    for (method, end, status) in [("POST", "/confirm", 200), ("DELETE", "", 204)] {
        let made = ask("PUT", "/v1/deny/203.0.113.9?confirm=1h");
        assert!(made.status < 300, "{made:?}");
        let id = pending();
        let ended = ask(method, &format!("/v1/pending/{id}{end}"));
        assert_eq!(ended.status, status, "{ended:?}");
    }
    let mode = Some(json!({"mode": "observe"}));
    let tried = stage.ask("PUT", "/v1/mode?confirm=1h", mode);
    assert_eq!(tried.status, 200, "{tried:?}");
    let id = pending();
    for (method, end) in [("POST", "/confirm"), ("DELETE", "")] {
        let refused = ask(method, &format!("/v1/pending/{id}{end}"));
        let problem = problem(&refused, 403, None);
        assert!(
            text(&problem["detail"]).contains("scope admin"),
            "{problem}"
        );
    }
    assert_eq!(pending(), id);
    stage.daemon.wait_for(
        |line| line["event.action"] == "auth-failed" && line["user.name"] == "ci",
        PROMPT,
    );
}

fn listed(stage: &Stage, name: &str) -> Option<Value> {
    let list = stage.expect(200, "GET", "/v1/tokens").json();
    let mut tokens = list["tokens"].as_array().expect("a list").iter();
    tokens.find(|token| token["name"] == name).cloned()
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_token_is_made_used_listed_and_revoked() {
    let mut stage = Stage::own();
    let body = json!({"scopes": ["read", "lists"], "name": "ci", "ttl": "1h"});
    let made = stage.ask("POST", "/v1/tokens", Some(body.clone()));
    assert_eq!(made.status, 201, "{made:?}");
    let made = made.json();
    let expected = ["created_at", "expires_at", "id", "name", "scopes", "token"];
    assert_eq!(keys(&made), expected);
    let lasts = time(&made["expires_at"]) - time(&made["created_at"]);
    assert_eq!(lasts, time::Duration::HOUR);
    let token = text(&made["token"]).to_owned();
    assert_eq!(
        listed(&stage, "ci").expect("it is listed")["last_used_at"],
        Value::Null
    );
    assert_eq!(status_of(&stage, &token, "/v1/status"), 200);
    assert_eq!(status_of(&stage, &token, "/v1/tokens"), 403);
    let shown = listed(&stage, "ci").expect("it is listed");
    assert!(shown["last_used_at"].is_string(), "{shown}");
    assert!(!shown.to_string().contains(&token[3..]), "{shown}");

    problem(
        &stage.ask("POST", "/v1/tokens", Some(body)),
        409,
        Some("name"),
    );
    for (body, field) in [
        (json!({}), "scopes"),
        (json!({"scopes": []}), "scopes"),
        (json!({"scopes": ["root"]}), "scopes[0]"),
        (json!({"scopes": ["read"], "ttl": "soon"}), "ttl"),
        (json!({"scopes": ["read"], "name": "a b"}), "name"),
        (json!({"scopes": ["read"], "until": "1h"}), "until"),
    ] {
        problem(
            &stage.ask("POST", "/v1/tokens", Some(body)),
            422,
            Some(field),
        );
    }

    // Hashes alone, and for the daemon's user alone.
    let file = stage.daemon.state_dir().join("tokens.json");
    let mode = fs::metadata(&file)
        .expect("there is a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    let kept = fs::read_to_string(&file).expect("read it");
    assert!(
        kept.contains("\"ci\"") && !kept.contains(&token[3..]),
        "{kept}"
    );

    stage.daemon.restart();
    assert_eq!(status_of(&stage, &token, "/v1/status"), 200);
    stage.expect(204, "DELETE", "/v1/tokens/ci");
    assert_eq!(status_of(&stage, &token, "/v1/status"), 401);
    problem(
        &stage.ask("DELETE", "/v1/tokens/ci", None),
        404,
        Some("token"),
    );
    stage.daemon.restart();
    assert_eq!(status_of(&stage, &token, "/v1/status"), 401);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_stream_of_events_ends_with_its_token() {
    let stage = Stage::own();
    for (body, by_revoking) in [
        (json!({"scopes": ["read"], "name": "watcher"}), true),
        (json!({"scopes": ["read"], "ttl": "2s"}), false),
    ] {
        let token = stage.token(&body);
        let mut stream = stage.tcp(Ipv4Addr::LOCALHOST);
        let head = format!(
            "GET /v1/events HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("ask for events");
        let mut first = [0; 12];
        stream.read_exact(&mut first).expect("it is open");
        assert_eq!(&first, b"HTTP/1.1 200");
        if by_revoking {
            stage.expect(204, "DELETE", "/v1/tokens/watcher");
        }
        let mut rest = String::new();
        stream.read_to_string(&mut rest).expect("it ends");
        assert!(rest.ends_with("0\r\n\r\n"), "it ends in good order: {rest}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_command_line_makes_lists_and_revokes_tokens() {
    let stage = Stage::own();
    let done = |arguments: &[&str]| {
        let output = stage.daemon.cli(arguments);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    let made = done(&[
        "token",
        "create",
        "--scope",
        "read,lists",
        "--ttl",
        "30d",
        "--name",
        "ci",
    ]);
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!(made["scopes"], json!(["read", "lists"]));
    let create = [
        "token", "create", "--scope", "fleet", "--scope", "capture", "--output", "table",
    ];
    let plain = done(&create);
    assert!(
        plain.starts_with("pw_") && plain.lines().count() == 1,
        "{plain}"
    );
    let list = done(&["token", "list", "--output", "table"]);
    for words in ["first", "ci", "read,lists", "capture,fleet"] {
        assert!(list.contains(words), "{list}");
    }
    let token = text(&made["token"]);
    assert_eq!(status_of(&stage, token, "/v1/status"), 200);

    let home = tempfile::TempDir::new().expect("a directory");
    let file = home.path().join("token");
    fs::write(&file, format!("{token}\n")).expect("write the token");
    let file = file.display().to_string();
    let url = ["--url", "http://127.0.0.1:7300"];
    let by_file = [&["status"], &url[..], &["--token-file", &file]].concat();
    let output = stage.daemon.cli(&by_file);
    assert!(
        output.status.success() && output.stderr.is_empty(),
        "{output:?}"
    );
    // What is typed can be read by others, and that is said.
    let typed = stage
        .daemon
        .cli(&[&["status"], &url[..], &["--token", token]].concat());
    let words = String::from_utf8_lossy(&typed.stderr).into_owned();
    assert!(
        typed.status.success() && words.contains("--token-file"),
        "{typed:?}"
    );
    assert!(!words.contains(token), "{words}");

    done(&["token", "revoke", "ci"]);
    let refused = stage.daemon.cli(&by_file);
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        words.contains("revoked") && words.contains("token create"),
        "{words}"
    );
    let nowhere = stage
        .daemon
        .cli(&["status", "--token-file", "/nowhere/token"]);
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("/nowhere/token"));
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_first_token_can_be_replaced() {
    let mut stage = Stage::own();
    let first = stage.first_token();
    assert_eq!(status_of(&stage, &first, "/v1/tokens"), 200);
    let admin = stage.token(&json!({"scopes": ["admin"], "name": "second"}));
    stage.expect(204, "DELETE", "/v1/tokens/first");
    stage.daemon.restart();
    let gone = || (!stage.daemon.state_dir().join("token").exists()).then_some(());
    assert!(until(PROMPT, gone).is_some());
    assert_eq!(status_of(&stage, &first, "/v1/status"), 401);
    assert_eq!(status_of(&stage, &admin, "/v1/tokens"), 200);
}
