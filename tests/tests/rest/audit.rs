//! On whose order something was changed; and what the log, the process list and a core do not show.

use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::process::{self, Command};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use packetwatch_tests::http::Request;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::stage::{PROMPT, Stage, text};

const FROM: Ipv4Addr = Ipv4Addr::new(127, 9, 0, 1);

/// Who gives orders.
enum By<'s> {
    Socket,
    Token(&'s str),
}

impl By<'_> {
    fn ask(&self, stage: &Stage, method: &str, path: &str, body: Option<Value>) -> u16 {
        let Self::Token(token) = self else {
            return stage.ask(method, path, body).status;
        };
        let authorization = format!("Bearer {token}");
        let mut request = Request::new(method, path);
        request.headers.push(("Authorization", &authorization));
        if let Some(body) = body {
            request.headers.push(("Content-Type", "application/json"));
            request.body = body.to_string().into_bytes();
        }
        stage.over_tcp_from(FROM, &request).status
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn every_change_has_a_line_that_says_who_from_where_what_before_and_after() {
    let stage = Stage::own();
    let token = stage.token(&json!({"scopes": ["admin"], "name": "ci"}));
    let prefix = "192.0.2.60/32";
    let rule = |n: u32| json!({"rules": [{"name": "calls", "connections": n, "within": "10s"}]});
    let deny = "/v1/deny/192.0.2.60";
    // The order, the action of its line, and words of what was before and of what is after.
    let orders = [
        (
            "PUT",
            deny,
            Some(json!({"reason": "one"})),
            "deny-added",
            "",
            "until removed: one",
        ),
        (
            "PUT",
            deny,
            Some(json!({"reason": "two", "ttl": "1h"})),
            "deny-added",
            "until removed: one",
            ": two",
        ),
        ("DELETE", deny, None, "deny-removed", ": two", ""),
        (
            "PUT",
            "/v1/allow/192.0.2.60",
            None,
            "allow-added",
            "",
            "until removed",
        ),
        (
            "DELETE",
            "/v1/allow/192.0.2.60",
            None,
            "allow-removed",
            "until removed",
            "",
        ),
        (
            "POST",
            "/v1/deny",
            Some(json!([{"prefix": prefix}])),
            "deny-added",
            "0 entries",
            "1 entry",
        ),
        (
            "PUT",
            "/v1/deny",
            Some(json!([])),
            "list-replaced",
            "1 entry",
            "0 entries",
        ),
        (
            "PUT",
            "/v1/rules",
            Some(rule(77)),
            "rules-changed",
            "[]",
            "\"connections\":77",
        ),
        (
            "PUT",
            "/v1/rules",
            Some(rule(78)),
            "rules-changed",
            "\"connections\":77",
            "\"connections\":78",
        ),
        (
            "DELETE",
            "/v1/rules",
            None,
            "rules-changed",
            "\"connections\":78",
            "[]",
        ),
        (
            "POST",
            "/v1/tokens",
            Some(json!({"scopes": ["read"], "name": "new"})),
            "token-created",
            "",
            "read, until revoked",
        ),
        (
            "DELETE",
            "/v1/tokens/new",
            None,
            "token-revoked",
            "read, until revoked",
            "",
        ),
    ];
    for by in [By::Socket, By::Token(&token)] {
        for (method, path, body, action, before, after) in &orders {
            let from = stage.daemon.log().len();
            let status = by.ask(&stage, method, path, body.clone());
            assert!(
                [200, 201, 204].contains(&status),
                "{method} {path}: {status}"
            );
            let is_it = |line: &Value| line["event.action"] == *action;
            let line = stage.daemon.log().wait_from(from, is_it, PROMPT);
            match by {
                By::Socket => {
                    assert_eq!(line["user.id"], "0", "{line}");
                    assert_eq!(line["user.name"], "root", "{line}");
                    assert_eq!(line["packetwatch.client_pid"], process::id(), "{line}");
                    assert_eq!(line["packetwatch.via"], "unix", "{line}");
                }
                By::Token(_) => {
                    assert_eq!(text(&line["user.id"]).len(), 8, "{line}");
                    assert_eq!(line["user.name"], "ci", "{line}");
                    assert_eq!(line["client.ip"], FROM.to_string(), "{line}");
                    assert_eq!(line["packetwatch.via"], "tcp", "{line}");
                }
            }
            for (field, words) in [("packetwatch.before", before), ("packetwatch.after", after)] {
                match line.get(field) {
                    Some(value) => {
                        let value = text(value);
                        assert!(
                            !words.is_empty() && value.contains(words),
                            "{field}: {line}"
                        );
                    }
                    None => assert!(words.is_empty(), "{field}: {line}"),
                }
            }
            let lines = stage.daemon.lines();
            let lines = lines[from..].iter().filter(|line| is_it(line));
            assert_eq!(lines.count(), 1, "one line each");
        }
    }
    // What nobody ordered bears nobody's name.
    let lines = stage.daemon.lines();
    let started = lines.iter().find(|line| line["event.action"] == "started");
    assert!(
        started.is_some_and(|line| line.get("user.id").is_none()),
        "{started:?}"
    );
    let lines: Vec<String> = lines.iter().map(ToString::to_string).collect();
    for secret in [&token, &stage.first_token()] {
        assert!(
            !lines.iter().any(|line| line.contains(&secret[3..])),
            "a token is in the log"
        );
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn writes_of_many_name_what_they_touch() {
    let stage = Stage::own();
    let list = |prefixes: &[&str], reason: &str| {
        let entry = |prefix| json!({"prefix": prefix, "reason": reason});
        Some(Value::from_iter(prefixes.iter().map(entry)))
    };
    let many: Vec<String> = (0..65).map(|n| format!("192.0.2.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (a, b, c) = ("203.0.113.1/32", "203.0.113.2/32", "203.0.113.3/32");
    let [ab, ac, one] = [&[a, b][..], &[a, c], &[a]];
    for (method, body, expected) in [
        (
            "POST",
            list(ab, "x"),
            [Some("203.0.113.1/32 203.0.113.2/32"), None, None],
        ),
        ("POST", list(one, "x"), [None, None, None]),
        ("POST", list(one, "y"), [None, Some(a), None]),
        ("PUT", list(ac, "y"), [Some(c), None, Some(b)]),
        (
            "PUT",
            list(&many, ""),
            [
                Some("192.0.2.63/32 …"),
                None,
                Some("203.0.113.1/32 203.0.113.3/32"),
            ],
        ),
    ] {
        let from = stage.daemon.log().len();
        let answer = stage.ask(method, "/v1/allow", body);
        assert_eq!(answer.status, 200, "{answer:?}");
        let is_it = |line: &Value| line.get("packetwatch.added").is_some();
        let line = stage.daemon.log().wait_from(from, is_it, PROMPT);
        let kinds = ["added", "changed", "removed"];
        for (kind, expected) in kinds.into_iter().zip(expected) {
            let told = line.get(format!("packetwatch.prefixes_{kind}")).map(text);
            let is_right = match (told, expected) {
                (Some(told), Some(expected)) => told.ends_with(expected),
                (told, expected) => told == expected,
            };
            assert!(is_right, "{kind}: {line}");
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn trials_bypasses_and_restores_are_told_with_before_and_after() {
    let stage = Stage::own();
    let told = |(method, path): (&str, &str), body: Option<Value>, action, words: [&str; 2]| {
        let from = stage.daemon.log().len();
        let answer = stage.ask(method, path, body);
        assert!(
            (200..300).contains(&answer.status),
            "{method} {path}: {answer:?}"
        );
        let is_it = |line: &Value| line["event.action"] == action;
        let line = stage.daemon.log().wait_from(from, is_it, PROMPT);
        for (field, words) in ["packetwatch.before", "packetwatch.after"]
            .into_iter()
            .zip(words)
        {
            assert!(text(&line[field]).contains(words), "{field}: {line}");
        }
    };
    let (none, until) = ("no bypass", "until 20");
    let bypass = |length| Some(json!({"for": length}));
    told(
        ("POST", "/v1/bypass"),
        bypass("1h"),
        "bypass-began",
        [none, until],
    );
    told(
        ("POST", "/v1/bypass"),
        bypass("2h"),
        "bypass-began",
        [until, until],
    );
    told(
        ("DELETE", "/v1/bypass"),
        None,
        "bypass-ended",
        [until, none],
    );
    told(
        ("POST", "/v1/bypass"),
        bypass("1s"),
        "bypass-began",
        [none, until],
    );
    let by_itself = |line: &Value| line["event.reason"] == "its time is over";
    let line = stage.daemon.wait_for(by_itself, PROMPT);
    assert_eq!(line["packetwatch.after"], none, "{line}");

    let calls = json!({"rules": [{"name": "calls", "connections": 77}]});
    let trials = [
        ("/v1/rules", calls, ["[]", "\"connections\":77"]),
        (
            "/v1/mode",
            json!({"mode": "observe"}),
            ["enforce", "observe"],
        ),
        (
            "/v1/deny/192.0.2.61",
            json!({"reason": "one"}),
            ["no entry", "until removed: one"],
        ),
        (
            "/v1/deny",
            json!([{"prefix": "192.0.2.62"}]),
            ["1 entry", "1 entry"],
        ),
    ];
    for (path, body, [before, after]) in trials {
        let tried = format!("{path}?confirm=1h");
        let id = || {
            let pending = stage.expect(200, "GET", "/v1/pending").json();
            format!("/v1/pending/{}", text(&pending["pending"][0]["id"]))
        };
        let made = ("PUT", &*tried);
        told(made, Some(body.clone()), "change-pending", [before, after]);
        told(
            ("DELETE", &id()),
            None,
            "change-rolled-back",
            [after, before],
        );
        told(made, Some(body), "change-pending", [before, after]);
        let confirm = format!("{}/confirm", id());
        told(
            ("POST", &confirm),
            None,
            "change-confirmed",
            [before, after],
        );
    }

    let backup = stage.expect(200, "GET", "/v1/backup").body;
    stage.expect(201, "PUT", "/v1/deny/192.0.2.63");
    stage.expect(201, "PUT", "/v1/allow/192.0.2.64");
    let from = stage.daemon.log().len();
    let restored = stage.send("POST", "/v1/restore", "application/jsonl", &backup);
    assert_eq!(restored.status, 200, "{restored:?}");
    let is_it = |line: &Value| line["event.action"] == "restored";
    let line = stage.daemon.log().wait_from(from, is_it, PROMPT);
    let change = (&line["packetwatch.before"], &line["packetwatch.after"]);
    let [before, after] = [
        "1 allowed, 2 denied, 0 banned",
        "0 allowed, 1 denied, 0 banned",
    ];
    assert_eq!(change, (&json!(before), &json!(after)));
}

/// Who writes a token where its name belongs has shown it to nobody else.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_token_in_a_request_is_in_no_line_and_in_no_answer() {
    let stage = Stage::own();
    let first = stage.first_token();
    let reader = stage.token(&json!({"scopes": ["read"], "name": "reader"}));
    let path = format!("/v1/tokens/{first}");
    let from = stage.daemon.log().len();
    let refused = By::Token(&reader).ask(&stage, "DELETE", &path, None);
    let stranger = By::Token("pw_0").ask(&stage, "DELETE", &path, None);
    assert_eq!((refused, stranger), (403, 401));
    for cause in ["scope", "wrong-token"] {
        let is_told = |line: &Value| line["event.reason"] == cause;
        let line = stage.daemon.log().wait_from(from, is_told, PROMPT);
        assert_eq!(line["url.path"], "/v1/tokens/pw_...", "{line}");
    }
    let named = json!({"scopes": ["read"], "name": "x", &first: 1});
    let answers = [
        stage.ask("DELETE", &path, None),
        stage.ask("PUT", &format!("/v1/deny/{first}"), None),
        stage.ask("GET", &format!("/v1/deny?limit={first}"), None),
        stage.ask("GET", &format!("/v1/deny?{first}=1"), None),
        stage.ask("POST", "/v1/tokens", Some(named)),
        stage.send("POST", "/v1/deny", "text/plain", first.as_bytes()),
        stage.ask("PUT", &format!("/v1/deny/192.0.2.1?confirm={first}"), None),
    ];
    for answer in answers {
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(!answer.text().contains(&first[3..]), "{answer:?}");
    }
    let events = stage.expect(200, "GET", "/v1/events?recent=1000&follow=false");
    assert!(events.text().contains("/v1/tokens/pw_..."), "{events:?}");
    let lines = stage.daemon.lines();
    for text in lines
        .iter()
        .map(Value::to_string)
        .chain([events.text().to_owned()])
    {
        assert!(!text.contains(&first[3..]), "{text}");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn another_mode_is_told_with_the_one_before() {
    let stage = Stage::own();
    stage
        .daemon
        .edit_config(|text| text.replace("mode = \"enforce\"", "mode = \"observe\""));
    stage.daemon.signal(Signal::SIGHUP);
    let line = stage
        .daemon
        .wait_for(|line| line["event.action"] == "mode-changed", PROMPT);
    let change = (&line["packetwatch.before"], &line["packetwatch.after"]);
    assert_eq!(change, (&json!("enforce"), &json!("observe")));
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_core_of_the_daemon_is_not_written() {
    let mut stage = Stage::own();
    // Where its core may lie.
    let home = TempDir::new().expect("a directory");
    let mut sleep = Command::new("sleep");
    let mut sleep = sleep
        .arg("60")
        .current_dir(home.path())
        .spawn()
        .expect("run sleep");
    for pid in [sleep.id(), stage.daemon.pid()] {
        let pid = pid.to_string();
        let raised = Command::new("prlimit")
            .args(["--core=unlimited", "--pid", &pid])
            .status();
        assert!(raised.expect("run prlimit (package util-linux)").success());
    }
    kill(Pid::from_raw(sleep.id() as i32), Signal::SIGABRT).expect("it runs");
    let sleep = sleep.wait().expect("it ends");
    stage.daemon.signal(Signal::SIGABRT);
    let ended = stage.daemon.terminate();
    assert_eq!(ended.signal(), Some(Signal::SIGABRT as i32), "{ended:?}");
    assert!(!ended.core_dumped(), "a core was written");
    if !sleep.core_dumped() {
        eprintln!("this host writes no core of anything, so that nothing was shown");
    }
}
