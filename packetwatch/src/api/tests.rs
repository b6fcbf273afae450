//! What every request goes through, over a few routes that do as they are told.

use axum::{
    body::{Body, to_bytes},
    extract::ConnectInfo,
    http::{Request, StatusCode, header},
    routing::get,
};
use serde_json::Value;
use tower::ServiceExt as _;

use super::{peer::Peer, *};

/// Routes, and the token that opens them.
fn routes() -> (Router, String) {
    async fn panics() -> &'static str {
        panic!("a secret of the inside")
    }
    async fn endless() -> &'static str {
        std::future::pending().await
    }
    let soon = std::time::Duration::from_millis(1);
    let timeout = TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, soon);
    let routes = Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/v1/fine", get(|| async { "fine" }))
        .route("/v1/panics", get(panics))
        .route("/v1/endless", get(endless).layer(timeout));
    let state = tempfile::tempdir().unwrap();
    let tokens = Tokens::open(state.path(), Clock::new()).unwrap();
    let token = std::fs::read_to_string(state.path().join("token")).unwrap();
    let gate = Gate::new(Access::of(&openapi()), tokens, Counters::default());
    (guarded(routes, gate), token.trim().to_owned())
}

/// What is sent as a token.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Nothing,
    Wrong,
    Right,
}

async fn ask(method: &str, path: &str, sent: Sent) -> (StatusCode, header::HeaderMap, Value) {
    let peer = Peer::Tcp("198.51.100.7:40000".parse().unwrap());
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .extension(ConnectInfo(peer));
    let (routes, token) = routes();
    request = match sent {
        Sent::Nothing => request,
        Sent::Wrong => request.header(header::AUTHORIZATION, "Bearer pw_01"),
        Sent::Right => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
    };
    let response = routes
        .oneshot(request.body(Body::empty()).unwrap())
        .await
        .unwrap();
    let (parts, body) = response.into_parts();
    let body = to_bytes(body, 100_000).await.unwrap();
    let json = serde_json::from_slice(&body).unwrap_or_default();
    (parts.status, parts.headers, json)
}

#[tokio::test]
async fn without_the_token_nothing_but_health_answers() {
    let table = [
        ("/healthz", Sent::Nothing, 200),
        ("/v1/fine", Sent::Nothing, 401),
        ("/v1/fine", Sent::Wrong, 401),
        ("/v1/fine", Sent::Right, 200),
        // Whether a path exists is nobody's business either.
        ("/v1/missing", Sent::Nothing, 401),
        ("/healthz/", Sent::Nothing, 401),
    ];
    for (path, sent, status) in table {
        let (got, headers, problem) = ask("GET", path, sent).await;
        assert_eq!(got.as_u16(), status, "{path} {sent:?}");
        if status == 401 {
            assert_eq!(
                headers[header::WWW_AUTHENTICATE],
                "Bearer realm=\"packetwatch\""
            );
            assert_eq!(problem["field"], "Authorization");
        }
    }
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let table = [
        ("GET", "/v1/missing", 404),
        ("POST", "/v1/fine", 405),
        ("GET", "/v1/panics", 500),
        ("GET", "/v1/endless", 504),
    ];
    for (method, path, status) in table {
        let (got, headers, problem) = ask(method, path, Sent::Right).await;
        assert_eq!(got.as_u16(), status, "{path}");
        assert_eq!(
            headers[header::CONTENT_TYPE],
            "application/problem+json",
            "{path}"
        );
        assert_eq!(problem["status"], status);
        let detail = problem["detail"].as_str().unwrap();
        assert!(!detail.is_empty() && !detail.contains("secret"), "{detail}");
    }
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let (_, headers, _) = ask("DELETE", "/v1/fine", Sent::Right).await;
    assert_eq!(headers[header::ALLOW], "GET,HEAD");
}

#[test]
fn the_description_has_every_path_of_the_interface() {
    let document = serde_json::to_value(openapi()).unwrap();
    let table = [
        ("/v1/status", "get"),
        ("/v1/allow", "get post put"),
        ("/v1/allow/{prefix}", "put delete"),
        ("/v1/deny", "get post put"),
        ("/v1/deny/{prefix}", "put delete"),
        ("/v1/bans", "get"),
        ("/v1/bans/{prefix}", "delete"),
        ("/v1/callers", "get"),
        ("/v1/callers/{address}", "get"),
        ("/v1/explain/{address}", "get"),
        ("/v1/rules", "get put delete"),
        ("/v1/tokens", "get post"),
        ("/v1/tokens/{token}", "delete"),
        ("/v1/mode", "get put delete"),
        ("/v1/bypass", "post delete"),
        ("/v1/pending", "get"),
        ("/v1/pending/{id}", "delete"),
        ("/v1/pending/{id}/confirm", "post"),
        ("/v1/backup", "get"),
        ("/v1/restore", "post"),
        ("/v1/events", "get"),
        ("/healthz", "get"),
        ("/readyz", "get"),
        ("/metrics", "get"),
        ("/openapi.json", "get"),
    ];
    let paths = document["paths"].as_object().unwrap();
    for (path, methods) in table {
        let item = paths
            .get(path)
            .unwrap_or_else(|| panic!("{path} is missing"));
        for method in methods.split(' ') {
            assert!(item[method]["responses"].is_object(), "{method} {path}");
        }
    }
    assert_eq!(paths.len(), table.len(), "{:?}", paths.keys());
}

#[test]
fn operations_have_names_of_their_own() {
    let document = serde_json::to_value(openapi()).unwrap();
    let paths = document["paths"].as_object().unwrap().values();
    let operations = paths.flat_map(|item| item.as_object().unwrap().values());
    let mut names: Vec<_> = operations
        .filter_map(|o| o["operationId"].as_str())
        .collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), all), (37, 37), "{names:?}");
}

#[test]
fn every_reference_in_the_description_leads_somewhere() {
    fn references<'v>(value: &'v Value, found: &mut Vec<&'v str>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("$ref").and_then(Value::as_str));
                fields.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = serde_json::to_value(openapi()).unwrap();
    let mut found = Vec::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}
