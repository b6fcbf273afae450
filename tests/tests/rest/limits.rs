//! How often one may be wrong, how much a head may hold, and how many connections one may have.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use packetwatch_tests::http::{Request, Response};
use packetwatch_tests::patience::{uninterrupted, until};
use serde_json::json;

use crate::stage::{PROMPT, Stage, problem};

/// Refused attempts at once from one address.
const FAILURES: usize = 10;
/// Connections over TCP from one address, and from all.
const OF_AN_ADDRESS: usize = 64;
const IN_ALL: usize = 512;
/// Over the unix socket.
const OF_THE_SOCKET: usize = 256;
/// Event streams of a token.
const STREAMS_OF_A_TOKEN: usize = 8;
/// The beginning of a head that has no end.
const HEAD: &[u8] = b"GET /v1/status HTTP/1.1\r\nHost: x\r\nX: ";
/// What strangers open.
const MANY: usize = 10_000;

const ALICE: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
const MALLORY: Ipv4Addr = Ipv4Addr::new(127, 2, 0, 1);

/// A connection of either kind.
trait Wire: Read + Write {}

impl<S: Read + Write> Wire for S {}

fn bearing(token: &str) -> String {
    format!("Bearer {token}")
}

fn status(authorization: &str) -> Request<'_> {
    Request {
        headers: vec![("Authorization", authorization)],
        ..Request::new("GET", "/v1/status")
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn who_is_wrong_ten_times_is_told_to_wait_and_shuts_nobody_out() {
    let stage = Stage::own();
    let (right, wrong) = (bearing(&stage.first_token()), bearing("pw_0"));
    for attempt in 1..=FAILURES {
        let answer = stage.over_tcp_from(MALLORY, &status(&wrong));
        assert_eq!(answer.status, 401, "attempt {attempt}: {answer:?}");
    }
    let answer = stage.over_tcp_from(MALLORY, &status(&wrong));
    problem(&answer, 429, None);
    let wait = answer
        .header("retry-after")
        .and_then(|wait| wait.parse().ok());
    assert!(
        wait.is_some_and(|wait: u32| (1..=6).contains(&wait)),
        "{answer:?}"
    );
    // Without a token it is no better.
    let answer = stage.over_tcp_from(MALLORY, &Request::new("GET", "/v1/status"));
    problem(&answer, 429, None);
    // Neither others, nor who has a right token at the same address, nor the socket pays for it.
    let others = stage.over_tcp_from(ALICE, &status(&wrong));
    problem(&others, 401, Some("Authorization"));
    assert_eq!(stage.over_tcp_from(MALLORY, &status(&right)).status, 200);
    stage.expect(200, "GET", "/v1/status");

    let told: Vec<_> = stage
        .daemon
        .lines()
        .into_iter()
        .filter(|line| line["event.action"] == "auth-failed")
        .collect();
    let by_mallory = told
        .iter()
        .filter(|line| line["source.ip"] == MALLORY.to_string());
    assert!(by_mallory.count() >= FAILURES, "{told:#?}");
    for line in &told {
        assert_eq!(line["http.request.method"], "GET", "{line}");
        assert_eq!(line["url.path"], "/v1/status", "{line}");
        assert!(!line.to_string().contains("pw_"), "{line}");
    }
    let metrics = stage.expect(200, "GET", "/metrics");
    for line in [
        "packetwatch_auth_failures_total{cause=\"wrong-token\"} 12",
        "packetwatch_auth_failures_total{cause=\"no-token\"} 1",
    ] {
        assert!(
            metrics.text().lines().any(|found| found == line),
            "{}",
            metrics.text()
        );
    }
}

/// A thousand requests in a burst, and a thousand a second.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn strangers_use_up_nothing_of_a_right_token_at_their_address() {
    let stage = Stage::own();
    let right = bearing(&stage.first_token());
    // What is answered soonest, and many at a time: a machine that has other things to do must answer more
    // than a thousand a second.
    const AT_A_TIME: usize = 500;
    let heads = |count| "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".repeat(count);
    let mut strangers = stage.tcp(MALLORY);
    let mut piece = [0; 1 << 16];
    let asked_too_much = || {
        let heads = heads(AT_A_TIME);
        strangers.write_all(heads.as_bytes()).expect("it is read");
        // In the midst of them: a millisecond later there is room for one more.
        let probe = stage.over_tcp_from(MALLORY, &Request::new("GET", "/healthz"));
        let mut text = String::new();
        while text.matches("HTTP/1.1 ").count() < AT_A_TIME {
            let read = uninterrupted(|| strangers.read(&mut piece)).expect("answers");
            text.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
        let is_told = text.contains("too many requests") && text.contains("send fewer");
        (is_told && probe.status == 429).then_some(())
    };
    until(4 * PROMPT, asked_too_much).expect("the address has had what it may ask");
    for _ in 0..20 {
        strangers
            .write_all(heads(50).as_bytes())
            .expect("it is read");
        let answer = stage.over_tcp_from(MALLORY, &status(&right));
        assert_eq!(answer.status, 200, "{answer:?}");
    }
}

/// One token opens as many event streams as it may have, which is few.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn streams_of_one_token_leave_room_for_others_and_the_socket() {
    let stage = Stage::own();
    let reader = stage.token(&json!({"scopes": ["read"]}));
    let open = |mut stream: Box<dyn Wire>, token: Option<&str>| {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let head = format!("GET /v1/events HTTP/1.1\r\nHost: x\r\n{token}\r\n");
        stream.write_all(head.as_bytes()).expect("ask for events");
        let mut first = [0; 12];
        stream.read_exact(&mut first).expect("an answer");
        (String::from_utf8_lossy(&first[9..]).into_owned(), stream)
    };
    let over_tcp = |token| open(Box::new(stage.tcp(MALLORY)), Some(token));
    let streams: Vec<_> = (0..OF_AN_ADDRESS).map(|_| over_tcp(&reader)).collect();
    let opened = streams.iter().filter(|(status, _)| status == "200").count();
    assert_eq!(opened, STREAMS_OF_A_TOKEN);
    let (status_of_ninth, _) = streams.last().expect("the last");
    assert_eq!(status_of_ninth, "503");
    assert_eq!(
        open(Box::new(stage.connect()), None).0,
        "200",
        "the socket has its own"
    );
    let first = stage.first_token();
    assert_eq!(over_tcp(&first).0, "200", "and so has another token");
    let answer = stage.over_tcp_from(MALLORY, &status(&bearing(&first)));
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// A body that comes to a halt a byte before its end.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn bodies_over_tcp_leave_room_for_those_of_the_socket() {
    const BODY: usize = 96 * 1024 * 1024;
    let stage = Stage::own();
    let authorization = bearing(&stage.token(&json!({"scopes": ["lists"]})));
    let head = format!(
        "POST /v1/deny HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\
         Authorization: {authorization}\r\n\r\n"
    );
    let piece = vec![b'#'; 1024 * 1024];
    let halted = || {
        let mut hog = stage.tcp(MALLORY);
        hog.write_all(head.as_bytes()).expect("send the head");
        for _ in 1..BODY / piece.len() {
            hog.write_all(&piece).expect("it is read");
        }
        hog.write_all(&piece[1..]).expect("it is read");
        hog.set_nonblocking(true)
            .expect("not to wait for an answer");
        hog
    };
    let small = Request {
        headers: vec![
            ("Authorization", &authorization),
            ("Content-Type", "text/plain"),
        ],
        body: b"192.0.2.93".to_vec(),
        ..Request::new("POST", "/v1/deny")
    };
    let mut hog = halted();
    let is_full = || {
        if stage.over_tcp(&small).status == 503 {
            return Some(());
        }
        // It came while the last bytes were read, and took their room.
        let answer = hog.peek(&mut [0]);
        let is_waiting = answer.is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        if !is_waiting {
            hog = halted();
        }
        None
    };
    assert!(until(PROMPT, is_full).is_some(), "all of it is read");
    let put = stage.send("POST", "/v1/deny", "text/plain", b"192.0.2.94");
    assert_eq!(put.status, 200, "{put:?}");
    stage.expect(204, "DELETE", "/v1/deny/192.0.2.94");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn lines_about_refusals_are_few_however_many_there_are() {
    let stage = Stage::own();
    let refusals = 300;
    for _ in 0..refusals {
        let answer = stage.over_tcp_from(MALLORY, &status("Bearer pw_0"));
        assert!([401, 429].contains(&answer.status), "{answer:?}");
    }
    let lines = stage.daemon.lines().into_iter();
    let lines = lines.filter(|line| line["event.action"] == "auth-failed");
    let lines: Vec<_> = lines.collect();
    assert!((20..100).contains(&lines.len()), "{}", lines.len());
    // A later line tells how many had none.
    let suppressed = || {
        stage.over_tcp(&status("Bearer pw_0"));
        let lines = stage.daemon.lines().into_iter();
        lines
            .filter(|line| line["event.action"] == "auth-failed")
            .find_map(|line| line["packetwatch.suppressed"].as_u64())
    };
    assert!(
        until(PROMPT, suppressed).is_some(),
        "nothing is told of the others"
    );
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_head_is_taken_up_to_its_bounds() {
    let stage = Stage::shared();
    let answer = |extra: usize, length: usize| {
        let mut stream = stage.connect();
        let mut head = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".to_owned();
        (0..extra).for_each(|n| head.push_str(&format!("X-{n}: y\r\n")));
        if length > 0 {
            let rest = length - head.len() - "X: \r\n\r\n".len();
            head.push_str(&format!("X: {}\r\n", "z".repeat(rest)));
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).expect("it is read");
        Response::read(stream).expect("an answer").status
    };
    assert_eq!([answer(62, 0), answer(63, 0)], [200, 431]);
    assert_eq!([answer(0, 16 * 1024), answer(0, 16 * 1024 + 1)], [200, 431]);
}

/// Asks over the socket, from another address, and from the strangers' own.
fn assert_usable(stage: &Stage, authorization: &str) {
    stage.expect(200, "GET", "/v1/status");
    let path = "/v1/deny/192.0.2.95";
    let put = stage.ask("PUT", path, Some(json!({})));
    assert!([200, 201].contains(&put.status), "{put:?}");
    for source in [ALICE, MALLORY] {
        let answer = stage.over_tcp_from(source, &status(authorization));
        assert_eq!(answer.status, 200, "from {source}: {answer:?}");
    }
}

/// Files that the daemon has open.
fn open_files(stage: &Stage) -> usize {
    let directory = format!("/proc/{}/fd", stage.daemon.pid());
    fs::read_dir(directory).expect("the daemon runs").count()
}

/// This process holds the other ends.
fn allow_many_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("ask for the limit");
    assert!(
        hard > MANY as u64 + 1000,
        "`ulimit -Hn` is {hard}: raise it for this test"
    );
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raise the limit");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn ten_thousand_idle_connections_leave_both_listeners_usable() {
    allow_many_files();
    let stage = Stage::own();
    let authorization = bearing(&stage.first_token());
    let before = open_files(&stage);
    // All from one address, then from a hundred.
    let mut idle: Vec<TcpStream> = (0..MANY / 10).map(|_| stage.tcp(MALLORY)).collect();
    assert_usable(&stage, &authorization);
    assert!(
        open_files(&stage) <= before + OF_AN_ADDRESS + 8,
        "{}",
        open_files(&stage)
    );
    idle.extend((MANY / 10..MANY).map(|n| stage.tcp(Ipv4Addr::new(127, 3, 0, (n % 100) as u8))));
    assert_usable(&stage, &authorization);
    assert!(
        open_files(&stage) <= before + IN_ALL + 8,
        "{}",
        open_files(&stage)
    );

    // The limit of this process has no room for both.
    drop(idle);
    let unix: Vec<UnixStream> = (0..MANY).map(|_| stage.connect()).collect();
    assert_usable(&stage, &authorization);
    assert!(
        open_files(&stage) <= before + IN_ALL + OF_THE_SOCKET + 8,
        "{}",
        open_files(&stage)
    );
    drop(unix);
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn heads_that_never_end_hold_nobody_up_and_are_given_up() {
    allow_many_files();
    let stage = Stage::own();
    let authorization = bearing(&stage.first_token());
    let mut slow: Vec<TcpStream> = (0..2 * IN_ALL)
        .map(|n| {
            let mut stream = stage.tcp(Ipv4Addr::new(127, 4, 0, (n % 100) as u8));
            // It may have given way already.
            let _ = stream.write_all(HEAD);
            stream
        })
        .collect();
    let mut slow_here: Vec<UnixStream> = (0..2 * OF_THE_SOCKET)
        .map(|_| {
            let mut stream = stage.connect();
            let _ = stream.write_all(HEAD);
            stream
        })
        .collect();
    assert_usable(&stage, &authorization);
    for _ in 0..20 {
        slow.iter_mut().for_each(|stream| {
            let _ = stream.write_all(b"y");
        });
        slow_here.iter_mut().for_each(|stream| {
            let _ = stream.write_all(b"y");
        });
        assert_usable(&stage, &authorization);
    }
    // The last one has a place until the time for a head is over.
    let mut last = slow.pop().expect("there are some");
    last.set_read_timeout(Some(Duration::from_secs(60)))
        .expect("set a limit");
    let mut rest = Vec::new();
    let ended = last.read_to_end(&mut rest);
    let given_up =
        ended.is_ok() || ended.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset);
    assert!(given_up, "it is still open");
}
