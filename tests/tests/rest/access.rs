//! Who may ask, and what one bad client can do to the others.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use packetwatch_tests::http::{Request, Response};

use crate::stage::{PROMPT, Stage, problem};

/// User and group `nobody` of every Linux.
const NOBODY: u32 = 65534;

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn tcp_asks_for_the_token() {
    let stage = Stage::shared();
    let path = stage.daemon.state_dir().join("token");
    let mode = fs::metadata(&path)
        .expect("the token is a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    let token = fs::read_to_string(&path).expect("read the token");
    let token = token.trim();
    let get = |path: &'static str, authorization: Option<String>| {
        let mut request = Request::new("GET", path);
        let value = authorization.unwrap_or_default();
        if !value.is_empty() {
            request.headers.push(("Authorization", &value));
        }
        stage.over_tcp(&request)
    };
    let wrong = format!("{}0", &token[..token.len() - 1]);
    let wrong = if wrong == token {
        wrong.replace('0', "1")
    } else {
        wrong
    };
    for value in [
        None,
        Some(format!("Bearer {wrong}")),
        Some(format!("Basic {token}")),
        Some(token.to_owned()),
        Some("Bearer".to_owned()),
        Some(format!("Bearer {token}{token}")),
    ] {
        // A path that is not there tells a stranger nothing either.
        for path in [
            "/v1/status",
            "/readyz",
            "/metrics",
            "/openapi.json",
            "/nowhere",
        ] {
            let answer = get(path, value.clone());
            problem(&answer, 401, Some("Authorization"));
            let challenge = answer.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer"), "{challenge}");
            assert!(!answer.text().contains(token), "an answer shows the token");
        }
        assert_eq!(get("/healthz", value).status, 200, "open to anybody");
    }
    for path in [
        "/v1/status",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/healthz",
    ] {
        assert_eq!(
            get(path, Some(format!("Bearer {token}"))).status,
            200,
            "{path}"
        );
    }
    let put = Request {
        headers: vec![("Authorization", "Bearer pw_0")],
        ..Request::new("PUT", "/v1/deny/192.0.2.99")
    };
    problem(&stage.over_tcp(&put), 401, Some("Authorization"));
    stage.expect(404, "DELETE", "/v1/deny/192.0.2.99");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_socket_refuses_other_users_twice_over() {
    let stage = Stage::shared();
    let socket = stage.daemon.socket();
    let mode = fs::metadata(&socket)
        .expect("look at the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o660);
    let home = socket.parent().expect("the socket is in a directory");
    fs::set_permissions(home, Permissions::from_mode(0o755)).expect("open the directory");
    let status = Request::new("GET", "/v1/status");
    let error = as_nobody(&socket, &status).expect_err("the file's mode keeps nobody out");
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);

    // Somebody has opened the file to all: the kernel still says who asks.
    fs::set_permissions(&socket, Permissions::from_mode(0o666)).expect("open the socket");
    let answer = as_nobody(&socket, &status);
    fs::set_permissions(&socket, Permissions::from_mode(mode)).expect("close the socket");
    let refused = problem(&answer.expect("an answer"), 403, None);
    assert!(
        refused["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("65534"))
    );
}

/// Asks as the user nobody.
pub(crate) fn as_nobody(socket: &Path, request: &Request) -> std::io::Result<Response> {
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            become_nobody();
            let stream = UnixStream::connect(socket)?;
            request.exchange(stream)
        });
        asking.join().expect("asking does not panic")
    })
}

/// Changes the calling thread alone, which must end with its work. The functions of libc and nix would
/// change the whole process.
fn become_nobody() {
    // SAFETY: these calls take plain numbers, and a null pointer to none of nothing.
    let done = unsafe {
        libc::syscall(libc::SYS_setgroups, 0, std::ptr::null::<libc::gid_t>()) == 0
            && libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0
            && libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0
    };
    assert!(done, "become nobody: {}", std::io::Error::last_os_error());
}

/// Connections that send the beginning of a head or a body and no more.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn slow_requests_keep_nobody_else_waiting() {
    let stage = Stage::own();
    let begun = [
        "GET /v1/sta",
        "PUT /v1/deny/192.0.2.98 HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
         Content-Length: 20\r\n\r\n{",
        "POST /v1/deny HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 99\r\n\r\n1",
    ];
    let slow: Vec<_> = (0..30)
        .map(|n| {
            let mut stream = stage.connect();
            let part = begun[n % begun.len()];
            stream
                .write_all(part.as_bytes())
                .expect("the daemon takes it");
            stream
        })
        .collect();
    for _ in 0..10 {
        let asked = Instant::now();
        stage.expect(200, "GET", "/v1/status");
        let put = stage.ask("PUT", "/v1/deny/192.0.2.97", Some(serde_json::json!({})));
        assert!([200, 201].contains(&put.status), "{put:?}");
        let list = stage.send("POST", "/v1/deny", "text/plain", b"192.0.2.96");
        assert_eq!(list.status, 200, "{list:?}");
        assert!(
            asked.elapsed() < Duration::from_secs(5),
            "{:?}",
            asked.elapsed()
        );
    }
    // Ten seconds without a byte of the body end a request.
    for (n, mut stream) in slow.into_iter().enumerate() {
        if n % begun.len() > 0 {
            stream
                .set_read_timeout(Some(2 * PROMPT))
                .expect("set a limit");
            problem(
                &Response::read(&mut stream).expect("an answer"),
                408,
                Some("body"),
            );
        }
    }
    stage.expect(204, "DELETE", "/v1/deny/192.0.2.96");
    stage.expect(204, "DELETE", "/v1/deny/192.0.2.97");
    stage.expect(404, "DELETE", "/v1/deny/192.0.2.98");
}
