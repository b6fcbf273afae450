//! Whatever is sent to an operation, `/openapi.json` lists the status and the media type of the answer.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::Write;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;

use packetwatch_tests::http::{Request, Response};
use serde_json::{Value, json};

use crate::access::as_nobody;
use crate::stage::{PROMPT, Stage};

const METHODS: [&str; 6] = ["get", "put", "post", "delete", "patch", "options"];

/// What takes the place of the parameter of a path: right ones, one of them protected, and wrong ones.
const LAST: [&str; 7] = [
    "192.0.2.50",
    "198.18.0.1",
    "nonsense",
    "192.0.2.0%2F33",
    "192.0.2.0/24",
    "%ff",
    "1/2/3",
];

const QUERIES: [&str; 7] = [
    "",
    "?colour=red",
    "?limit=x",
    "?limit=0",
    "?cursor=x",
    "?confirm=2h",
    "?contains=x&partial=x&force=x&recent=x",
];

const BODIES: [(&str, &[u8]); 16] = [
    ("", b""),
    ("application/json", b"{}"),
    ("application/json", b"[]"),
    ("application/json", b"7"),
    ("application/json", b"{"),
    ("application/json", b"{\"ttl\": 5}"),
    ("application/json", b"{\"scopes\": []}"),
    (
        "application/json",
        b"{\"scopes\": [\"read\"], \"name\": \"first\"}",
    ),
    ("application/json", b"{\"ttl\": \"0s\"}"),
    ("application/json", b"{\"rules\": [{\"within\": 5}]}"),
    ("application/json", b"[{\"prefix\": 7}]"),
    ("application/json", b"{\"mode\": \"sleep\"}"),
    ("application/jsonl", b"nonsense"),
    ("application/xml", b"<ttl/>"),
    ("text/plain", b"192.0.2.1 192.0.2.2"),
    ("text/plain", b"198.18.0.1"),
];

/// Bytes beyond the bound of any body.
const TOO_LARGE: usize = (128 << 20) + 1;

struct Description {
    document: Value,
    /// what was answered
    seen: BTreeSet<u16>,
    /// good for no operation of this build
    token: String,
}

impl Description {
    /// The method in lower case, and the path as the description writes it.
    #[track_caller]
    fn check(&mut self, method: &str, path: &str, answer: &Response) {
        self.seen.insert(answer.status);
        let media = answer.header("content-type").unwrap_or_default();
        let media = media.split(';').next().unwrap_or_default();
        let operation = &self.document["paths"][path][method];
        if operation.is_null() {
            // No operation, and nothing to describe.
            assert_eq!(
                (answer.status, media),
                (405, "application/problem+json"),
                "{method} {path}"
            );
            return;
        }
        let described = &operation["responses"][answer.status.to_string()];
        assert!(
            described.is_object(),
            "{method} {path} is not described: {answer:?}"
        );
        assert!(
            described["description"].is_string(),
            "{method} {path}: {described}"
        );
        match described.get("content") {
            Some(content) => assert!(content.get(media).is_some(), "{method} {path}: {answer:?}"),
            None => assert_eq!((media, answer.body.len()), ("", 0), "{method} {path}"),
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn every_answer_is_described() {
    let stage = Stage::with("[capacity]\nlists = 12\n");
    let document = stage.expect(200, "GET", "/openapi.json").json();
    let paths: Vec<String> = document["paths"]
        .as_object()
        .expect("paths are an object")
        .keys()
        .cloned()
        .collect();
    let mut description = Description {
        document,
        seen: BTreeSet::new(),
        token: format!("Bearer {}", stage.token(&json!({"scopes": ["fleet"]}))),
    };
    // A slow body takes its time: they are all begun here and read at the end.
    let mut slow = Vec::new();
    for path in &paths {
        for method in METHODS {
            if takes_body(&description.document, path, method) {
                let mut stream = stage.connect();
                let head = format!(
                    "{} {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: \
                     {}\r\nContent-Length: 99\r\n\r\n{{",
                    method.to_uppercase(),
                    concrete(path, LAST[0]),
                    if path == "/v1/restore" {
                        "application/jsonl"
                    } else {
                        "application/json"
                    },
                );
                stream.write_all(head.as_bytes()).expect("send a part");
                slow.push((method, path.clone(), stream));
            }
        }
    }
    for path in &paths {
        for method in METHODS {
            bad_input(&stage, &mut description, method, path);
            strangers(&stage, &mut description, method, path);
        }
    }
    too_often_wrong(&stage, &mut description, &paths);
    at_capacity(&stage, &mut description);
    too_many_streams(&stage, &mut description);
    for (method, path, stream) in slow {
        stream
            .set_read_timeout(Some(2 * PROMPT))
            .expect("set a limit");
        let answer = Response::read(stream).expect("an answer");
        assert_eq!(answer.status, 408, "{method} {path}: {answer:?}");
        description.check(method, &path, &answer);
    }
    let expected = [
        200, 201, 204, 400, 401, 403, 404, 405, 408, 409, 413, 415, 422, 429, 503, 507,
    ];
    assert_eq!(description.seen.into_iter().collect::<Vec<_>>(), expected);
}

fn takes_body(document: &Value, path: &str, method: &str) -> bool {
    document["paths"][path][method].get("requestBody").is_some()
}

/// A path with its parameter filled in. The one answer that does not end by itself is made to.
fn concrete(path: &str, last: &str) -> String {
    let path = path
        .replace("{prefix}", last)
        .replace("{address}", last)
        .replace("{token}", last)
        .replace("{id}", &last.replace('/', "%2F"));
    if path == "/v1/events" {
        return format!("{path}?follow=false&recent=5");
    }
    path
}

fn bad_input(stage: &Stage, description: &mut Description, method: &str, path: &str) {
    let verb = method.to_uppercase();
    let lasts = if path.contains('{') {
        &LAST[..]
    } else {
        &LAST[..1]
    };
    // The id of a token is one part of the path, whatever it is.
    let is_prefix = |last: &&&str| !path.contains("{token}") || !last.contains('/');
    for last in lasts.iter().filter(is_prefix) {
        let concrete = concrete(path, last);
        for query in QUERIES {
            if concrete.contains('?') && query.is_empty() {
                description.check(method, path, &stage.ask(&verb, &concrete, None));
            } else {
                let query = query.replace('?', if concrete.contains('?') { "&" } else { "?" });
                let answer = stage.ask(&verb, &format!("{concrete}{query}"), None);
                description.check(method, path, &answer);
            }
        }
        if takes_body(&description.document, path, method) {
            for (media, body) in BODIES {
                description.check(method, path, &stage.send(&verb, &concrete, media, body));
            }
            let answer = stage.announce(&verb, &concrete, TOO_LARGE);
            description.check(method, path, &answer);
        }
    }
}

/// Without a token, with a wrong one, and as a user who may not.
fn strangers(stage: &Stage, description: &mut Description, method: &str, path: &str) {
    let (verb, concrete) = (method.to_uppercase(), concrete(path, LAST[0]));
    let mut request = Request::new(&verb, &concrete);
    let is_open = (method, path) == ("get", "/healthz");
    for headers in [vec![], vec![("Authorization", "Bearer pw_0")]] {
        request.headers = headers;
        let answer = stage.over_tcp(&request);
        assert_eq!(
            answer.status == 401,
            !is_open,
            "{method} {path}: {answer:?}"
        );
        if !description.document["paths"][path][method].is_null() {
            description.check(method, path, &answer);
        }
    }
    // Without the scope for it.
    let token = description.token.clone();
    request.headers = vec![("Authorization", &token)];
    let answer = stage.over_tcp(&request);
    if !description.document["paths"][path][method].is_null() {
        assert_eq!(
            answer.status == 403,
            !is_open,
            "{method} {path}: {answer:?}"
        );
        description.check(method, path, &answer);
    }
    let socket = stage.daemon.socket();
    let home = socket.parent().expect("the socket is in a directory");
    fs::set_permissions(home, Permissions::from_mode(0o755)).expect("open the directory");
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("open the socket");
    let answer = as_nobody(&socket, &request).expect("an answer");
    assert_eq!(
        answer.status == 403,
        !is_open,
        "{method} {path}: {answer:?}"
    );
    if !description.document["paths"][path][method].is_null() {
        description.check(method, path, &answer);
    }
}

/// With a wrong token, more often than it is answered as such.
fn too_often_wrong(stage: &Stage, description: &mut Description, paths: &[String]) {
    let source = Ipv4Addr::new(127, 8, 0, 1);
    for path in paths.iter().filter(|path| *path != "/healthz") {
        for method in METHODS {
            if description.document["paths"][path][method].is_null() {
                continue;
            }
            let (verb, concrete) = (method.to_uppercase(), concrete(path, LAST[0]));
            let mut request = Request::new(&verb, &concrete);
            request.headers.push(("Authorization", "Bearer pw_0"));
            let answer = stage.over_tcp_from(source, &request);
            assert!(
                [401, 429].contains(&answer.status),
                "{method} {path}: {answer:?}"
            );
            description.check(method, path, &answer);
        }
    }
}

fn at_capacity(stage: &Stage, description: &mut Description) {
    let feed: String = (0..20).map(|n| format!("203.0.113.{n}\n")).collect();
    for list in ["allow", "deny"] {
        let path = format!("/v1/{list}");
        for method in ["post", "put"] {
            let verb = method.to_uppercase();
            let answer = stage.send(&verb, &path, "text/plain", feed.as_bytes());
            assert_eq!(answer.status, 507, "{answer:?}");
            description.check(method, &path, &answer);
        }
        let mut full = None;
        for n in 0..20 {
            let answer = stage.ask("PUT", &format!("/v1/{list}/203.0.113.{n}"), None);
            description.check("put", &format!("/v1/{list}/{{prefix}}"), &answer);
            full = (answer.status == 507).then_some(n).or(full);
        }
        assert!(full.is_some(), "the {list} list has taken everything");
    }
}

fn too_many_streams(stage: &Stage, description: &mut Description) {
    let streams: Vec<_> = (0..64)
        .map(|_| {
            let mut stream = stage.connect();
            let head = b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n";
            stream.write_all(head).expect("ask for events");
            let mut first = [0];
            std::io::Read::read_exact(&mut stream, &mut first).expect("it is open");
            stream
        })
        .collect();
    let answer = stage.ask("GET", "/v1/events", None);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("5"));
    description.check("get", "/v1/events", &answer);
    drop(streams);
}
