use std::path::Path;

use super::*;
use crate::api::Fault;

fn client(connection: Connection) -> Result<Client, ClientError> {
    Client::new(connection)
}

fn over(socket: &Path, url: Option<&str>) -> Connection {
    Connection {
        socket: socket.to_owned(),
        url: url.map(str::to_owned),
        ca: None,
        token: None,
        token_file: None,
    }
}

#[test]
fn a_prefix_keeps_its_slash_in_one_segment() {
    assert_eq!(
        path_of("/v1/allow", "2001:db8::/32"),
        "/v1/allow/2001:db8::%2F32"
    );
    assert_eq!(path_of("/v1/allow", "a b?#"), "/v1/allow/a%20b%3F%23");
}

#[tokio::test]
async fn a_daemon_that_does_not_run_is_told_with_the_remedy() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    for left_over in [false, true] {
        if left_over {
            drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        }
        let client = client(over(&socket, None)).unwrap();
        let error = client
            .get::<serde_json::Value>("/v1/status")
            .await
            .unwrap_err();
        assert!(matches!(error, ClientError::NotRunning { .. }), "{error:?}");
        assert!(error.to_string().contains("packetwatch run"), "{error}");
    }
}

/// Of each request that the daemon takes and never answers, whatever the other limit is.
#[tokio::test]
async fn a_daemon_that_says_nothing_is_given_up_by_the_limit_of_what_it_is_asked() {
    assert_eq!(LIMITS.telling, Duration::from_secs(20));
    assert_eq!(LIMITS.changing, Duration::from_secs(150));
    const SHORT: Duration = Duration::from_millis(100);
    const NEVER: Duration = Duration::from_secs(3600);
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("api.sock");
    let listener = tokio::net::UnixListener::bind(&socket).unwrap();
    let silent = tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            open.push(listener.accept().await.unwrap());
        }
    });
    let within = |telling, changing| Client {
        limits: Limits { telling, changing },
        ..client(over(&socket, None)).unwrap()
    };
    let (asking, ordering) = (within(SHORT, NEVER), within(NEVER, SHORT));
    let nothing = serde_json::json!({});
    type Answer = Result<serde_json::Value, ClientError>;
    let ended: [Answer; 5] = tokio::time::timeout(Duration::from_secs(60), async {
        [
            asking.get("/v1/status").await,
            ordering.ask(Method::POST, "/v1/confirm").await,
            ordering.send(Method::PUT, "/v1/mode", &nothing).await,
            ordering
                .send_text(Method::PUT, "/v1/deny", Vec::new(), "text/plain")
                .await,
            ordering
                .delete("/v1/deny/192.0.2.1")
                .await
                .map(|()| nothing.clone()),
        ]
    })
    .await
    .expect("each has its limit");
    for answer in ended {
        let error = answer.unwrap_err();
        assert!(matches!(error, ClientError::Slow { .. }), "{error:?}");
        let socket = socket.display().to_string();
        assert!(error.to_string().starts_with(&socket), "{error}");
    }
    silent.abort();
}

#[test]
fn a_url_is_checked_before_it_is_asked() {
    let socket = Path::new(DEFAULT_SOCKET);
    for url in [
        "http://127.0.0.1:7300",
        "http://[::1]:7300/",
        "https://host.example:7300",
    ] {
        assert!(client(over(socket, Some(url))).is_ok(), "{url}");
    }
    for url in [
        "127.0.0.1:7300",
        "ftp://127.0.0.1",
        "http://",
        "https://",
        "http://a b",
    ] {
        let error = client(over(socket, Some(url))).err().unwrap();
        assert!(matches!(error, ClientError::Url(_)), "{url}");
    }
}

#[test]
fn a_problem_reads_as_a_line_and_its_faults() {
    let fault = |line, detail: &str| Fault {
        line: Some(line),
        index: None,
        field: None,
        detail: detail.to_owned(),
    };
    let problem = Problem::refused("body", "2 lines are wrong");
    let problem = problem.listing(vec![fault(2, "bad"), fault(9, "worse")], 5);
    let expected = "2 lines are wrong\n  line 2: bad\n  line 9: worse\n  and 3 more";
    assert_eq!(problem_line(&problem), expected);
    assert_eq!(
        problem_line(&Problem::bad("cursor", "too long")),
        "cursor: too long"
    );
    let problem = Problem::bad("limit", "limit is 0: ask for more");
    assert_eq!(problem_line(&problem), "limit is 0: ask for more");
}
