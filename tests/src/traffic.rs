//! Servers and callers with the kernel's own TCP.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::http::Request;
use crate::netns::Netns;

/// What every server of the tests answers.
pub const ANSWER: &str = "pong";

/// A connection to a server is closed after this, whatever its caller does.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);

/// An HTTP server that stops when dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    /// Dropping it ends the accept loop.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Serves [`ANSWER`] with status 200 to every request at `address:port` in the namespace; port 0 takes a
/// free one.
pub fn serve_http(netns: &Netns, address: IpAddr, port: u16) -> Server {
    let wanted = SocketAddr::new(address, port);
    let listener = netns
        .run(|| TcpListener::bind(wanted))
        .unwrap_or_else(|error| panic!("listen on {wanted} in {}: {error}", netns.name()));
    let address = listener
        .local_addr()
        .expect("a bound socket has an address");
    let (stop, stopped) = oneshot::channel();
    let thread = thread::spawn(move || runtime().block_on(accept(listener, stopped)));
    Server {
        address,
        stop: Some(stop),
        thread: Some(thread),
    }
}

async fn accept(listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
    listener
        .set_nonblocking(true)
        .expect("a listener can be non-blocking");
    let listener = tokio::net::TcpListener::from_std(listener).expect("register the listener");
    loop {
        let accepted = tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => accepted,
        };
        // A caller may be gone again before it is accepted, which is no fault of the server.
        if let Ok((stream, _)) = accepted {
            tokio::spawn(timeout(CONNECTION_LIMIT, answer(stream)));
        }
    }
}

async fn answer(mut stream: tokio::net::TcpStream) -> io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 || request.len() > 8192 {
            return Ok(());
        }
    }
    let length = ANSWER.len();
    let answer =
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{ANSWER}");
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; a second one here would abort a failing test.
            let _ = thread.join();
        }
    }
}

/// One call from the namespace: opens a connection (from `source`, if given), asks, and reads the answer
/// to its end. Returns the body.
///
/// # Errors
/// `TimedOut` or `WouldBlock` when there is no whole answer within `limit`, else what the kernel or the
/// server said.
pub fn call(
    from: &Netns,
    source: Option<IpAddr>,
    to: SocketAddr,
    limit: Duration,
) -> io::Result<String> {
    let end = Instant::now() + limit;
    let stream = connect(from, source, to, limit)?;
    let left = end
        .saturating_duration_since(Instant::now())
        .max(Duration::from_millis(1));
    stream.set_read_timeout(Some(left))?;
    let response = Request::new("GET", "/").exchange(stream)?;
    if response.status != 200 {
        return Err(io::Error::other(format!(
            "{to} answered {}",
            response.status
        )));
    }
    String::from_utf8(response.body).map_err(io::Error::other)
}

/// Whether a call is answered in full within `limit`.
pub fn answered(from: &Netns, source: Option<IpAddr>, to: SocketAddr, limit: Duration) -> bool {
    call(from, source, to, limit).is_ok_and(|body| body == ANSWER)
}

/// A connection from the namespace (from `source`, if given) on which nothing has been said.
///
/// # Errors
/// `TimedOut` when it is not there within `limit`, else what the kernel said.
pub fn connect(
    from: &Netns,
    source: Option<IpAddr>,
    to: SocketAddr,
    limit: Duration,
) -> io::Result<TcpStream> {
    let connected =
        from.run(|| runtime().block_on(async { timeout(limit, opened(source, to)).await }));
    let stream = connected??;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

async fn opened(source: Option<IpAddr>, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = match to {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(source) = source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    socket.connect(to).await?.into_std()
}

fn runtime() -> runtime::Runtime {
    runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("start a runtime")
}
