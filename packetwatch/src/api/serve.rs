//! Serving over the listeners until the daemon stops, each connection within its bounds.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::ConnectInfo,
    http::{Request, Response, StatusCode},
    serve::Listener,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::{
    App,
    connections::{Answering, Bounds, Place, Places},
    listen::{Door, Listeners, Socket},
    peer::{Credentials, Guarded, Peer},
    problem::Problem,
    router,
    throttle::site,
    tls::Certificate,
};

/// From the order to stop to the end of the last answer.
const DRAIN: Duration = Duration::from_secs(2);
/// Connections over TCP.
pub(super) const TCP: Bounds = Bounds {
    in_all: 512,
    of_a_site: 64,
};
/// Connections over the unix socket, whose file keeps strangers out.
const UNIX: Bounds = Bounds {
    in_all: 256,
    of_a_site: 256,
};
/// From the start of a connection, or the end of an answer, to the end of the next head.
const HEAD_TIME: Duration = Duration::from_secs(30);
/// Bytes of a head: its first line and its fields.
const HEAD_SIZE: usize = 16 * 1024;
const HEAD_FIELDS: usize = 64;
/// What is read of a body or written of an answer at a time.
const BUFFER: usize = 64 * 1024;
/// From the start of a connection to the end of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// To hear out who speaks plain HTTP to TLS, so that the answer is not lost with the connection.
const HEARD_OUT: Duration = Duration::from_secs(1);

/// Answers until `shutdown`, then lets answers under way end for up to two seconds.
///
/// # Errors
/// A listener that failed; an accept that fails does not end it.
pub async fn serve(app: App, listeners: Listeners, shutdown: CancellationToken) -> io::Result<()> {
    let router = router(app, shutdown.clone());
    let Listeners {
        tcp,
        unix,
        certificate,
    } = listeners;
    let connections = TaskTracker::new();
    let serving = |bounds| Serving {
        router: router.clone(),
        places: Places::new(bounds),
        connections: connections.clone(),
        shutdown: shutdown.clone(),
    };
    let mut accepting = JoinSet::new();
    if let Some(door) = tcp {
        accepting.spawn(accept_tcp(door, certificate, serving(TCP)));
    }
    if let Some(door) = unix {
        accepting.spawn(accept_unix(door, serving(UNIX)));
    }
    let ended = async {
        while let Some(ended) = accepting.join_next().await {
            ended.map_err(io::Error::other)?;
            if !shutdown.is_cancelled() {
                return Err(io::Error::other("a listener has ended"));
            }
        }
        // With both listeners off there is nothing to serve, and nothing wrong.
        shutdown.cancelled().await;
        connections.close();
        connections.wait().await;
        Ok(())
    };
    let overdue = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        ended = ended => ended,
        () = overdue => {
            tracing::warn!("API: answers still under way were cut off");
            Ok(())
        }
    }
}

/// What the connections of a listener share.
#[derive(Clone)]
struct Serving {
    router: Router,
    places: Places,
    connections: TaskTracker,
    shutdown: CancellationToken,
}

async fn accept_tcp(
    mut door: Door<TcpListener>,
    certificate: Arc<OnceLock<Certificate>>,
    serving: Serving,
) {
    let Some(listener) = serving.opened(&mut door).await else {
        return;
    };
    let Some(certificate) = certificate.get() else {
        return serving.accept_tcp(listener, None).await;
    };
    let acceptor = TlsAcceptor::from(certificate.config());
    let watching = certificate.clone().watch(serving.shutdown.clone());
    tokio::join!(watching, serving.accept_tcp(listener, Some(acceptor)));
}

/// Over socket after socket: one whose file is lost gives way to the next, and its connections go on.
async fn accept_unix(mut door: Door<Socket>, serving: Serving) {
    while let Some(mut socket) = serving.opened(&mut door).await {
        let mut lost = pin!(socket.file.lost());
        loop {
            tokio::select! {
                // Who has connected before it was lost is heard.
                biased;
                next = serving.next(&mut socket.listener) => match next {
                    Some((stream, _)) => serving.unix(stream),
                    None => return,
                },
                () = &mut lost => break,
            }
        }
    }
}

impl Serving {
    /// What is listened on, as soon as it is; `None` at the order to stop.
    async fn opened<L: Send + 'static>(&self, door: &mut Door<L>) -> Option<L> {
        tokio::select! {
            listener = door.open() => Some(listener),
            () = self.shutdown.cancelled() => None,
        }
    }

    async fn accept_tcp(&self, mut listener: TcpListener, acceptor: Option<TlsAcceptor>) {
        while let Some((stream, from)) = self.next(&mut listener).await {
            let Some(place) = self.places.enter(Some(site(from.ip()))) else {
                continue;
            };
            let spoken = self
                .clone()
                .tcp(stream, from, acceptor.clone(), place.clone());
            self.keep(spoken, place);
        }
    }

    /// The next connection; `None` at the order to stop.
    async fn next<L: Listener>(&self, listener: &mut L) -> Option<(L::Io, L::Addr)> {
        tokio::select! {
            accepted = listener.accept() => Some(accepted),
            () = self.shutdown.cancelled() => None,
        }
    }

    /// Lets a connection go on to its end, or until it has to give way.
    fn keep(&self, spoken: impl Future<Output = ()> + Send + 'static, place: Place) {
        self.connections.spawn(async move {
            tokio::select! {
                () = spoken => {}
                () = place.cut() => {}
            }
        });
    }

    fn unix(&self, stream: UnixStream) {
        let credentials = match Credentials::of(&stream) {
            Ok(credentials) => credentials,
            Err(error) => {
                tracing::warn!(
                    error.message = %error,
                    "API socket: cannot tell who connects, closing the connection"
                );
                return;
            }
        };
        let Some(place) = self.places.enter(None) else {
            return;
        };
        let peer = Peer::Unix(credentials);
        let spoken = self.clone().http(stream, peer, place.clone());
        self.keep(spoken, place);
    }

    async fn tcp(
        self,
        stream: TcpStream,
        from: SocketAddr,
        acceptor: Option<TlsAcceptor>,
        place: Place,
    ) {
        // It costs answers a little time at worst.
        let _ = stream.set_nodelay(true);
        let peer = Peer::Tcp(from);
        let Some(acceptor) = acceptor else {
            return self.http(stream, peer, place).await;
        };
        let handshake = timeout(HANDSHAKE, handshake(stream, acceptor));
        let stream = tokio::select! {
            stream = handshake => stream,
            () = self.shutdown.cancelled() => return,
        };
        if let Ok(Some(stream)) = stream {
            self.http(stream, peer, place).await;
        }
    }

    /// Answers request after request. What fails here is the other end's affair.
    async fn http(
        self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        peer: Peer,
        place: Place,
    ) {
        let Self {
            router, shutdown, ..
        } = self;
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let asking = place.asking();
            let extensions = request.extensions_mut();
            extensions.insert(ConnectInfo(peer.clone()));
            extensions.insert(place.clone());
            let answer = router.clone().oneshot(request.map(Body::new));
            async move {
                let Ok(answer) = answer.await;
                let answer: Response<Body> = answer;
                Ok::<_, Infallible>(answer.map(|body| Answering {
                    body,
                    _asking: asking,
                }))
            }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_headers(HEAD_FIELDS)
            .max_header_size(HEAD_SIZE)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(Guarded::new(stream)), answer);
        let mut connection = pin!(connection);
        tokio::select! {
            _ = connection.as_mut() => return,
            () = shutdown.cancelled() => {}
        }
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

/// TLS over the stream; plain HTTP is told so instead.
async fn handshake(
    mut stream: TcpStream,
    acceptor: TlsAcceptor,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 0 {
        return None;
    }
    if first == [TLS_HANDSHAKE] {
        return acceptor.accept(stream).await.ok();
    }
    let _ = stream.write_all(&speak_tls()).await;
    let _ = stream.shutdown().await;
    let mut rest = [0; 1024];
    let _ = timeout(HEARD_OUT, async {
        while stream.read(&mut rest).await.is_ok_and(|read| read > 0) {}
    })
    .await;
    None
}

/// An answer in plain HTTP that says to use TLS.
fn speak_tls() -> Vec<u8> {
    let detail = "this port speaks TLS: write https:// instead of http://";
    let problem = Problem::new(StatusCode::BAD_REQUEST, detail);
    let body = serde_json::to_string(&problem).unwrap_or_default();
    format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: application/problem+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}
