//! Over real sockets, whose other ends send as slowly as they like.

use std::net::SocketAddr;

use axum::{Extension, Router, extract::ConnectInfo, routing::post};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::sleep,
};

use super::*;
use crate::api::peer::{Credentials, Peer};

const IDLE: Duration = Duration::from_millis(300);
const WHOLE: Duration = Duration::from_millis(900);
const ROOM: usize = 2000;
const OF_TCP: usize = 1000;
const LIMIT: usize = 600;

/// Serves bodies of lists at `/`, and small ones at `/small`.
async fn served() -> SocketAddr {
    async fn list(Extension(uploads): Extension<Uploads>, request: Request) -> Result<(), Problem> {
        let body = uploads.read_list(request, LIMIT).await?;
        let _place = uploads.place(&body).await?;
        assert!(body.bytes().iter().all(|byte| *byte == b'x'));
        Ok(())
    }
    async fn small(request: Request) -> Result<(), Problem> {
        Uploads::of(&request).read(request, LIMIT).await.map(drop)
    }
    let router = Router::new()
        .route("/", post(list))
        .route("/small", post(small))
        .layer(Extension(Uploads::new(IDLE, WHOLE, ROOM, OF_TCP)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// A connection on which a body of `length` was announced, and so much of it sent.
async fn begun(server: SocketAddr, path: &str, length: usize, sent: usize) -> TcpStream {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b'x'; sent]).await.unwrap();
    stream
}

/// The head of the answer, once the server has closed the connection.
async fn answer(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    // A server that has said all does not wait for the rest of a body.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8(text).unwrap().to_ascii_lowercase()
}

fn assert_status(answer: &str, status: u16) {
    assert!(
        answer.starts_with(&format!("http/1.1 {status} ")),
        "{answer}"
    );
}

#[tokio::test]
async fn stalled_bodies_keep_nobody_out_and_are_given_up() {
    let server = served().await;
    let mut stalled = Vec::new();
    for n in 0..20 {
        let path = if n % 2 == 0 { "/" } else { "/small" };
        stalled.push(begun(server, path, LIMIT, 1).await);
    }
    let asked = Instant::now();
    for path in ["/", "/small"] {
        assert_status(&answer(begun(server, path, LIMIT, LIMIT).await).await, 200);
    }
    assert!(asked.elapsed() < IDLE, "{:?}", asked.elapsed());
    for stream in stalled {
        assert_status(&answer(stream).await, 408);
    }
    assert!(asked.elapsed() < WHOLE, "{:?}", asked.elapsed());
}

#[tokio::test]
async fn a_body_that_crawls_is_given_up() {
    let server = served().await;
    for path in ["/", "/small"] {
        let mut stream = begun(server, path, LIMIT, 0).await;
        let begun = Instant::now();
        // Never a pause, and never an end.
        while begun.elapsed() < 3 * WHOLE && stream.write_all(b"x").await.is_ok() {
            let mut peeked = [0];
            let answered = timeout(IDLE / 3, stream.peek(&mut peeked)).await;
            if answered.is_ok() {
                break;
            }
        }
        assert!(begun.elapsed() >= WHOLE && begun.elapsed() < 2 * WHOLE);
        assert_status(&answer(stream).await, 408);
    }
}

#[tokio::test]
async fn without_room_a_body_is_to_come_again() {
    let server = served().await;
    let holder = begun(server, "/", LIMIT, LIMIT - 1).await;
    // Not all of the holder's bytes may have been read yet.
    sleep(IDLE / 3).await;
    let refused = answer(begun(server, "/", LIMIT, LIMIT).await).await;
    assert_status(&refused, 503);
    assert!(refused.contains("\r\nretry-after: 5\r\n"), "{refused}");
    // What fits beside the holder is taken.
    let fits = OF_TCP - (LIMIT - 1);
    assert_status(&answer(begun(server, "/", fits, fits).await).await, 200);
    assert_status(&answer(begun(server, "/", LIMIT + 1, 0).await).await, 413);
    assert_status(&answer(holder).await, 408);
    assert_status(&answer(begun(server, "/", LIMIT, LIMIT).await).await, 200);
}

#[tokio::test]
async fn tcp_takes_no_room_and_no_place_that_the_unix_socket_needs() {
    let uploads = Uploads::new(IDLE, WHOLE, ROOM, OF_TCP);
    let sent = async |via, length: usize| {
        let mut request = Request::new(vec![b'x'; length].into());
        if via == Via::Unix {
            let peer = Peer::Unix(Credentials {
                pid: None,
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            });
            request.extensions_mut().insert(ConnectInfo(peer));
        }
        uploads.read_list(request, ROOM).await
    };
    let status = |body: Result<ListBody, Problem>| body.unwrap_err().status;
    assert_eq!(status(sent(Via::Tcp, OF_TCP + 1).await), 413);
    let hog = sent(Via::Tcp, OF_TCP).await.unwrap();
    assert_eq!(status(sent(Via::Tcp, 1).await), 503);
    let _working = uploads.place(&hog).await.unwrap();
    let own = sent(Via::Unix, ROOM - OF_TCP).await.unwrap();
    let _own_place = uploads.place(&own).await.unwrap();
    assert_eq!(
        status(sent(Via::Unix, 1).await),
        503,
        "that is all there is"
    );
    let late = uploads.place(&hog).await.unwrap_err();
    assert_eq!(late.status, 503, "one at a time");
    drop((hog, own));
    drop(sent(Via::Unix, ROOM).await.unwrap());
    drop(sent(Via::Tcp, OF_TCP).await.unwrap());
}
