//! The paths and methods there are, and what the daemon says of itself.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::stage::{Stage, keys, problem, text};

/// Every path with its methods, as users know them.
const ROUTES: [(&str, &[&str]); 25] = [
    ("/healthz", &["get"]),
    ("/readyz", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
    ("/v1/allow", &["get", "post", "put"]),
    ("/v1/allow/{prefix}", &["delete", "put"]),
    ("/v1/backup", &["get"]),
    ("/v1/bans", &["get"]),
    ("/v1/bans/{prefix}", &["delete"]),
    ("/v1/bypass", &["delete", "post"]),
    ("/v1/callers", &["get"]),
    ("/v1/callers/{address}", &["get"]),
    ("/v1/deny", &["get", "post", "put"]),
    ("/v1/deny/{prefix}", &["delete", "put"]),
    ("/v1/events", &["get"]),
    ("/v1/explain/{address}", &["get"]),
    ("/v1/mode", &["delete", "get", "put"]),
    ("/v1/pending", &["get"]),
    ("/v1/pending/{id}", &["delete"]),
    ("/v1/pending/{id}/confirm", &["post"]),
    ("/v1/restore", &["post"]),
    ("/v1/rules", &["delete", "get", "put"]),
    ("/v1/status", &["get"]),
    ("/v1/tokens", &["get", "post"]),
    ("/v1/tokens/{token}", &["delete"]),
];

const METHODS: [&str; 6] = ["get", "put", "post", "delete", "patch", "options"];

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_description_is_of_the_routes_there_are() {
    let stage = Stage::shared();
    let answer = stage.expect(200, "GET", "/openapi.json");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let document = answer.json();
    assert!(
        text(&document["openapi"]).starts_with("3."),
        "{}",
        document["openapi"]
    );
    let described = described(&document);
    for (path, methods) in ROUTES {
        let found: Vec<_> = described[path].iter().map(String::as_str).collect();
        assert_eq!(found, methods, "{path}");
    }
    for (path, methods) in &described {
        let concrete = path
            .replace("{prefix}", "192.0.2.250")
            .replace("{address}", "192.0.2.250")
            .replace("{token}", "nobody")
            .replace("{id}", "192.0.2.250");
        for method in METHODS {
            // The one answer that does not end; `verdicts` reads it.
            if (path.as_str(), method) == ("/v1/events", "get") {
                continue;
            }
            let answer = stage.ask(&method.to_uppercase(), &concrete, None);
            if methods.contains(method) {
                assert_ne!(answer.status, 405, "{method} {path}: {answer:?}");
                // What is not there is an entry or a token, and then the answer names it.
                if answer.status == 404 {
                    let named = if path.starts_with("/v1/tokens") {
                        "token"
                    } else if path.contains("{id}") {
                        "id"
                    } else {
                        "prefix"
                    };
                    problem(&answer, 404, Some(named));
                }
            } else {
                problem(&answer, 405, None);
                let allowed = answer.header("allow").unwrap_or_default();
                let allowed: BTreeSet<_> = allowed
                    .split(',')
                    .map(|method| method.trim().to_lowercase())
                    // Axum answers HEAD wherever it answers GET.
                    .filter(|method| method != "head")
                    .collect();
                assert_eq!(allowed, *methods, "{method} {path}: {answer:?}");
            }
        }
    }
}

/// Paths and their methods in the description.
fn described(document: &Value) -> BTreeMap<String, BTreeSet<String>> {
    let paths = document["paths"].as_object().expect("paths are an object");
    paths
        .iter()
        .map(|(path, item)| {
            let methods = METHODS.iter().filter(|method| item.get(**method).is_some());
            (path.clone(), methods.map(ToString::to_string).collect())
        })
        .collect()
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn nothing_is_anywhere_else() {
    let stage = Stage::shared();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/status",
        "/v1/status/",
        "/V1/status",
        "/v1/nowhere",
        "/v1/allow/",
        "/v1//allow",
        "/metrics/x",
        "/%2e%2e/etc/passwd",
    ] {
        for method in ["GET", "PUT", "DELETE"] {
            problem(&stage.ask(method, path, None), 404, None);
        }
    }
    problem(
        &stage.ask("GET", "/v1/status?verbose=1", None),
        400,
        Some("verbose"),
    );
    problem(&stage.ask("GET", "/v1/rules?x=1", None), 400, Some("x"));
    for bad in ["host.example", "192.0.2.0/24", "192.0.2.256"] {
        for path in ["explain", "callers"] {
            let answer = stage.ask("GET", &format!("/v1/{path}/{bad}"), None);
            problem(&answer, 400, Some("address"));
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn status_and_probes_have_their_keys() {
    let stage = Stage::shared();
    let status = stage.expect(200, "GET", "/v1/status").json();
    let expected = [
        "bypass_until",
        "certificate",
        "chain",
        "counting",
        "interfaces",
        "leftovers",
        "lists",
        "memory",
        "mode",
        "mode_from",
        "packets",
        "pending",
        "rules_from",
        "uptime_seconds",
        "version",
    ];
    assert_eq!(keys(&status), expected);
    assert_eq!(status["mode"], "enforce");
    assert_eq!(keys(&status["lists"]), ["allow", "bans", "deny"]);
    assert_eq!(status["counting"]["flood"], false, "{status}");
    assert_eq!(status["counting"]["admission_threshold"], 1, "{status}");
    for key in ["passed", "dropped"] {
        assert!(status["packets"][key].is_u64(), "{}", status["packets"]);
    }
    let [interface] = &status["interfaces"].as_array().expect("a list")[..] else {
        panic!("one interface: {status}");
    };
    for key in ["name", "state", "xdp_mode", "program_id"] {
        assert!(interface.get(key).is_some(), "{key}: {interface}");
    }
    assert_eq!(interface["name"], "pw0");
    let running = stage.lan.host.xdp("pw0").expect("a program is attached");
    assert_eq!(interface["program_id"], running["prog"]["id"]);
    assert!(
        ["native", "generic"].contains(&text(&interface["xdp_mode"])),
        "{interface}"
    );

    let healthy = stage.expect(200, "GET", "/healthz").json();
    assert_eq!(healthy, json!({"status": "ok"}));
    let ready = stage.expect(200, "GET", "/readyz").json();
    assert_eq!(ready, json!({"status": "ready"}));
    let bans = stage.expect(200, "GET", "/v1/bans").json();
    assert_eq!(bans, json!({"entries": [], "next": null}));
    // Nobody has called from there, which is no fault of the question.
    let callers = stage.expect(200, "GET", "/v1/callers/192.0.2.250").json();
    assert_eq!(callers, json!({"callers": [], "mode": "enforce"}));
}
