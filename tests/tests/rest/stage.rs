//! The daemon that the tests ask, and how they read its answers.

use std::fs;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use packetwatch_tests::http::{Request, Response};
use packetwatch_tests::{Daemon, Lan, connect};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// An answer that takes longer has not come.
pub(crate) const PROMPT: Duration = Duration::from_secs(30);

/// Free in every namespace.
const TCP: &str = "127.0.0.1:7300";

/// A daemon without rules, on a link without traffic.
pub(crate) struct Stage {
    // Ends before its network.
    pub(crate) daemon: Daemon,
    pub(crate) lan: Lan,
}

impl Stage {
    /// The one that tests share: it lives as long as any of them uses it.
    pub(crate) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Stage>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        shared.upgrade().unwrap_or_else(|| {
            let stage = Arc::new(Self::own());
            *shared = Arc::downgrade(&stage);
            stage
        })
    }

    /// One for a test that changes what is everybody's.
    pub(crate) fn own() -> Self {
        Self::with("")
    }

    /// One with these tables in its configuration besides.
    pub(crate) fn with(tables: &str) -> Self {
        let lan = Lan::new();
        let daemon = Daemon::builder(&lan.host)
            .interface(&lan.segment().interface)
            .rules_toml("")
            .listen(TCP.parse().expect("an address and a port"))
            .config_toml(tables)
            .start();
        Self { daemon, lan }
    }

    /// Calls the API; a body is sent as JSON.
    pub(crate) fn ask(&self, method: &str, path: &str, body: Option<Value>) -> Response {
        self.daemon.api(method, path, body.as_ref())
    }

    /// Calls the API and asserts the status, which is what a test is about then.
    pub(crate) fn expect(&self, status: u16, method: &str, path: &str) -> Response {
        let answer = self.ask(method, path, None);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        answer
    }

    /// Sends a body of any type.
    pub(crate) fn send(&self, method: &str, path: &str, media: &str, body: &[u8]) -> Response {
        self.daemon.request(&Request {
            headers: vec![("Content-Type", media)],
            body: body.to_vec(),
            ..Request::new(method, path)
        })
    }

    /// Sends a request over TCP from within the host, from an address of its own: what others are
    /// refused does not count against it.
    pub(crate) fn over_tcp(&self, request: &Request) -> Response {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let [_, a, b, c] = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        self.over_tcp_from(Ipv4Addr::new(127, 128 | a, b, c), request)
    }

    /// Sends a request over TCP from this address of the host.
    pub(crate) fn over_tcp_from(&self, source: Ipv4Addr, request: &Request) -> Response {
        request
            .exchange(self.tcp(source))
            .unwrap_or_else(|error| panic!("{} {}: {error}", request.method, request.path))
    }

    /// A connection over TCP from this address of the host, for what is no plain request.
    pub(crate) fn tcp(&self, source: Ipv4Addr) -> TcpStream {
        let address: SocketAddr = TCP.parse().expect("an address and a port");
        let stream = connect(&self.lan.host, Some(source.into()), address, PROMPT);
        let stream = stream.unwrap_or_else(|error| panic!("connect to {address}: {error}"));
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        stream
    }

    /// Makes a token and returns its text.
    pub(crate) fn token(&self, body: &Value) -> String {
        let made = self.ask("POST", "/v1/tokens", Some(body.clone()));
        assert_eq!(made.status, 201, "{made:?}");
        text(&made.json()["token"]).to_owned()
    }

    /// The token that the first start has made.
    pub(crate) fn first_token(&self) -> String {
        let token = fs::read_to_string(self.daemon.state_dir().join("token"));
        token.expect("read the token").trim().to_owned()
    }

    /// Announces a body of so many bytes and sends none of it. A refusal must not wait for it; one that
    /// was sent could also end the connection before the answer is read.
    pub(crate) fn announce(&self, method: &str, path: &str, length: usize) -> Response {
        let mut stream = self.connect();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\
             Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("send the head");
        Response::read(stream).expect("an answer")
    }

    /// A connection to the socket, for what is no plain request.
    pub(crate) fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.daemon.socket()).expect("the socket answers");
        stream.set_read_timeout(Some(PROMPT)).expect("set a limit");
        stream
    }

    /// The prefixes of a list, protected ones left out.
    pub(crate) fn listed(&self, list: &str) -> Vec<String> {
        let answer = self.expect(200, "GET", &format!("/v1/{list}?limit=10000"));
        entries(&answer.json())
            .iter()
            .filter(|entry| entry["source"] != "protect")
            .map(|entry| text(&entry["prefix"]).to_owned())
            .collect()
    }
}

/// Asserts that the answer is a problem of this status about this field, and returns it.
#[track_caller]
pub(crate) fn problem(answer: &Response, status: u16, field: Option<&str>) -> Value {
    assert_eq!(answer.status, status, "{answer:?}");
    let media = answer.header("content-type");
    assert_eq!(media, Some("application/problem+json"), "{answer:?}");
    let problem = answer.json();
    assert_eq!(problem["status"], status, "{problem}");
    assert_eq!(problem["type"], "about:blank", "{problem}");
    assert!(!text(&problem["title"]).is_empty(), "{problem}");
    assert!(!text(&problem["detail"]).is_empty(), "{problem}");
    let named = problem.get("field").map(text);
    assert_eq!(named, field, "{problem}");
    problem
}

/// The keys of an object, sorted.
#[track_caller]
pub(crate) fn keys(object: &Value) -> Vec<&str> {
    let object = object
        .as_object()
        .unwrap_or_else(|| panic!("{object} is no object"));
    let mut keys: Vec<_> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

/// The `entries` of a page.
#[track_caller]
pub(crate) fn entries(page: &Value) -> &Vec<Value> {
    let entries = page["entries"].as_array();
    entries.unwrap_or_else(|| panic!("{page} has no entries"))
}

/// A value that must be text.
#[track_caller]
pub(crate) fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
}

/// A time of the API: RFC 3339 and UTC.
#[track_caller]
pub(crate) fn time(value: &Value) -> OffsetDateTime {
    let written = text(value);
    assert!(written.ends_with('Z'), "{written} is not UTC");
    OffsetDateTime::parse(written, &Rfc3339).unwrap_or_else(|error| panic!("{written}: {error}"))
}
