//! Every operation of `/openapi.json`, asked by holders of every scope with tokens that are good,
//! expired and revoked, and by those who have none.

use std::io::{Read, Write};
use std::net::Ipv4Addr;

use packetwatch_tests::http::{Request, Response};
use packetwatch_tests::patience::until;
use serde_json::{Value, json};

use crate::stage::{PROMPT, Stage, entries, text};

const SCOPES: [&str; 5] = ["read", "lists", "capture", "fleet", "admin"];

/// An operation, and a request that would take effect if it were let through.
struct Operation {
    /// as the description writes it
    path: String,
    method: String,
    /// what it says that it asks for; `None` is nothing
    needs: Option<String>,
}

impl Operation {
    fn all(document: &Value) -> Vec<Self> {
        let mut all = Vec::new();
        for (path, item) in document["paths"].as_object().expect("an object") {
            for (method, operation) in item.as_object().expect("an object") {
                let security = operation["security"].as_array().expect("it declares it");
                let [requirement] = &security[..] else {
                    panic!("{method} {path}: {security:?}");
                };
                let needs = requirement.get("token").map(|scopes| {
                    assert_eq!(scopes.as_array().map(Vec::len), Some(1), "{method} {path}");
                    text(&scopes[0]).to_owned()
                });
                all.push(Self {
                    path: path.clone(),
                    method: method.to_uppercase(),
                    needs,
                });
            }
        }
        all
    }

    /// The rule that the declarations follow.
    fn expected(&self) -> Option<&'static str> {
        let is_of = |start: &str| self.path.starts_with(start);
        if self.path == "/healthz" {
            None
        } else if is_of("/v1/tokens") || is_of("/v1/backup") {
            Some("admin")
        } else if self.method == "GET" {
            Some("read")
        } else if ["/v1/allow", "/v1/deny", "/v1/bans", "/v1/pending"]
            .into_iter()
            .any(is_of)
        {
            // Of a change of rules or mode, `tokens` has the rest.
            Some("lists")
        } else {
            Some("admin")
        }
    }

    fn is_for(&self, scope: &str) -> bool {
        let needs = self.needs.as_deref();
        scope == "admin" || needs.is_none_or(|needs| needs == scope)
    }

    fn ask(&self, stage: &Stage, token: Option<&str>) -> Response {
        let path = self
            .path
            .replace("{prefix}", "192.0.2.77")
            .replace("{address}", "192.0.2.77")
            .replace("{token}", "victim")
            .replace("{id}", "none");
        let path = match self.path.as_str() {
            "/v1/events" => format!("{path}?follow=false"),
            _ => path,
        };
        let (media, body) = match (self.path.as_str(), self.method.as_str()) {
            ("/v1/allow" | "/v1/deny", "POST" | "PUT") => ("text/plain", "192.0.2.78".to_owned()),
            ("/v1/rules", "PUT") => ("application/json", json!({"rules": []}).to_string()),
            ("/v1/tokens", "POST") => {
                ("application/json", json!({"scopes": ["admin"]}).to_string())
            }
            ("/v1/mode", "PUT") => ("application/json", json!({"mode": "enforce"}).to_string()),
            ("/v1/bypass", "POST") => ("application/json", json!({"for": "1s"}).to_string()),
            ("/v1/restore", "POST") => {
                let backup = stage.expect(200, "GET", "/v1/backup");
                ("application/jsonl", backup.text().to_owned())
            }
            _ => ("application/json", String::new()),
        };
        let authorization = token.map(|token| format!("Bearer {token}"));
        let mut request = Request::new(&self.method, &path);
        request.headers.push(("Content-Type", media));
        if let Some(authorization) = &authorization {
            request.headers.push(("Authorization", authorization));
        }
        request.body = body.into_bytes();
        stage.over_tcp(&request)
    }
}

/// All that requests could have changed.
fn state(stage: &Stage) -> Value {
    let get = |path: &str| stage.expect(200, "GET", path).json();
    let status = get("/v1/status");
    let mut tokens = get("/v1/tokens");
    for token in tokens["tokens"].as_array_mut().expect("a list") {
        // That somebody was let in somewhere is no change.
        token["last_used_at"] = Value::Null;
    }
    json!({
        "allow": stage.listed("allow"),
        "deny": stage.listed("deny"),
        "bans": entries(&get("/v1/bans")),
        "rules": get("/v1/rules"),
        "tokens": tokens,
        "mode": status["mode"],
        "bypass_until": status["bypass_until"],
        "pending": get("/v1/pending"),
    })
}

/// For each scope a good token, one that has expired and one that was revoked.
fn tokens(stage: &Stage) -> Vec<(&'static str, [String; 3])> {
    let made = SCOPES.map(|scope| {
        let good = stage.token(&json!({"scopes": [scope], "name": scope}));
        let expired = stage.token(&json!({"scopes": [scope], "ttl": "1s"}));
        let revoked = stage.token(&json!({"scopes": [scope], "name": "revoked"}));
        stage.expect(204, "DELETE", "/v1/tokens/revoked");
        (scope, [good, expired, revoked])
    });
    for (_, [_, expired, _]) in &made {
        let authorization = format!("Bearer {expired}");
        let request = Request {
            headers: vec![("Authorization", &authorization)],
            ..Request::new("GET", "/nowhere")
        };
        let refused = || (stage.over_tcp(&request).status == 401).then_some(());
        assert!(until(PROMPT, refused).is_some(), "a second does not pass");
    }
    made.to_vec()
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn every_operation_lets_in_whom_its_scope_says_and_nobody_else() {
    let stage = Stage::own();
    stage.expect(201, "PUT", "/v1/deny/192.0.2.77");
    stage.expect(201, "PUT", "/v1/allow/192.0.2.77");
    stage.token(&json!({"scopes": ["fleet"], "name": "victim"}));
    let document = stage.expect(200, "GET", "/openapi.json").json();
    let operations = Operation::all(&document);
    assert!(operations.len() >= 27, "{}", operations.len());
    for operation in &operations {
        let Operation {
            path,
            method,
            needs,
        } = operation;
        assert_eq!(needs.as_deref(), operation.expected(), "{method} {path}");
    }
    let tokens = tokens(&stage);
    let before = state(&stage);
    let mut refused = 0;
    let mut expect = |operation: &Operation, token: Option<&str>, status: u16, who: &str| {
        let answer = operation.ask(&stage, token);
        let Operation { path, method, .. } = operation;
        assert_eq!(
            answer.status, status,
            "{method} {path} by {who}: {answer:?}"
        );
        refused += 1;
    };
    for operation in operations
        .iter()
        .filter(|operation| operation.needs.is_some())
    {
        expect(operation, None, 401, "nobody");
        let wrong = format!("pw_{}", "0".repeat(64));
        expect(operation, Some(&wrong), 401, "a wrong token");
        for (scope, [good, expired, revoked]) in &tokens {
            expect(
                operation,
                Some(expired),
                401,
                &format!("an expired {scope}"),
            );
            expect(operation, Some(revoked), 401, &format!("a revoked {scope}"));
            if !operation.is_for(scope) {
                expect(operation, Some(good), 403, scope);
            }
        }
    }
    assert!(refused >= 15 * (operations.len() - 1), "{refused}");
    assert_eq!(state(&stage), before, "something was let through");

    // Those who may are let in: what they ask for is done, or is not there.
    for operation in &operations {
        for (scope, [good, ..]) in &tokens {
            if operation.is_for(scope) {
                let answer = operation.ask(&stage, Some(good));
                let Operation { path, method, .. } = operation;
                let is_done = [200, 201, 204, 404].contains(&answer.status);
                assert!(is_done, "{method} {path} by {scope}: {answer:?}");
            }
        }
    }
    let after = state(&stage);
    for part in ["allow", "deny", "rules", "tokens"] {
        assert_ne!(after[part], before[part], "nothing has taken effect");
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn what_is_no_operation_tells_a_stranger_nothing() {
    let stage = Stage::shared();
    let document = stage.expect(200, "GET", "/openapi.json").json();
    let described: Vec<String> = Operation::all(&document)
        .into_iter()
        .map(|operation| operation.path.replace(['{', '}'], ""))
        .collect();
    let others = [
        "/",
        "/v1",
        "/v1/",
        "/V1/status",
        "/v1//status",
        "/healthz/",
        "/HEALTHZ",
        "//healthz",
        "/healthz/../v1/status",
        "/healthz%2f..%2fv1%2fstatus",
        "/v1/status/",
        "/v1/status%00",
        "/nowhere",
    ];
    let paths = described.iter().map(String::as_str).chain(others);
    for path in paths.filter(|path| *path != "/healthz") {
        for method in [
            "GET", "PUT", "POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW",
        ] {
            let answer = stage.over_tcp(&Request::new(method, path));
            assert_eq!(answer.status, 401, "{method} {path}: {answer:?}");
        }
    }
    // What answers HEAD announces a body and sends none.
    let mut stream = stage.tcp(Ipv4Addr::new(127, 7, 0, 1));
    let head = b"HEAD /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(head).expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
    for method in ["PUT", "POST", "DELETE"] {
        let answer = stage.over_tcp(&Request::new(method, "/healthz"));
        assert_eq!(answer.status, 401, "{method}: {answer:?}");
    }
}
