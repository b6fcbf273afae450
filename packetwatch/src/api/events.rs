//! `/v1/events`: the log's events of late and as they happen, as server-sent events.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use axum::{
    Extension,
    extract::State,
    http::StatusCode,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, StreamExt as _, stream};
use serde::Deserialize;
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    broadcast::{Receiver, error::RecvError},
};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    caller::Caller,
    extract::Params,
    problem::Problem,
    refusals::{BadParameter, Failed, Gated},
    shares::Shares,
};
use crate::log::RECENT_LINES;

/// Streams at a time over TCP, and over the unix socket: each holds a connection for as long as its
/// reader likes.
const MAX_STREAMS: usize = 64;
/// Streams of a token, so that others at the same address find a connection, which has 64.
const OF_A_TOKEN: usize = 8;
/// A comment is sent this often where nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Ends every stream when the daemon stops.
#[derive(Clone)]
pub(super) struct Streams {
    shares: Shares,
    /// by the ids of those that have streams open
    tokens: Arc<Mutex<HashMap<String, Weak<Semaphore>>>>,
    shutdown: CancellationToken,
}

/// A stream's place: of its listener, and of its token.
type Place = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Streams {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        Self {
            shares: Shares::of_each(MAX_STREAMS),
            tokens: Arc::default(),
            shutdown,
        }
    }

    fn enter(&self, caller: &Caller) -> Result<Place, Problem> {
        let full = |detail| Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
        let of_token = match caller {
            Caller::Token { grant, .. } => {
                let place = self.of_token(&grant.token().id).try_acquire_owned();
                let place = place.map_err(|_| {
                    full(format!(
                        "{OF_A_TOKEN} event streams of this token are open: close one"
                    ))
                })?;
                Some(place)
            }
            Caller::User { .. } | Caller::Anybody => None,
        };
        let of_listener = self.shares.of(caller.via()).try_acquire_owned();
        let of_listener = of_listener
            .map_err(|_| full(format!("{MAX_STREAMS} event streams are open: close one")))?;
        Ok((of_listener, of_token))
    }

    fn of_token(&self, id: &str) -> Arc<Semaphore> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.retain(|_, places| places.strong_count() > 0);
        if let Some(places) = tokens.get(id).and_then(Weak::upgrade) {
            return places;
        }
        let places = Arc::new(Semaphore::new(OF_A_TOKEN));
        tokens.insert(id.to_owned(), Arc::downgrade(&places));
        places
    }
}

#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventsParams {
    /// So many of the last events first. The daemon keeps 1000, and 1 MiB of them.
    #[serde(default)]
    #[param(maximum = 1000, default = 0)]
    recent: usize,
    /// Go on with the events as they happen; otherwise the answer ends with the last one.
    #[serde(default = "follows")]
    #[param(default = true)]
    follow: bool,
}

fn follows() -> bool {
    true
}

/// Events of late if they are asked for, then those from now on, one JSON object each. A reader
/// that is too slow gets an event `lost` with the number of those it missed. The stream ends with
/// the token that opened it.
#[utoipa::path(get, path = "/v1/events", tag = "events", security(("token" = ["read"])), params(EventsParams), responses(
    (status = 200, description = "server-sent events; data as the lines of the log",
        body = String, content_type = "text/event-stream"),
    (status = 503, description = "64 streams are open over TCP or the unix socket, or 8 with this token",
        body = Problem, content_type = "application/problem+json"),
    BadParameter, Gated, Failed,
))]
pub(super) async fn events(
    State(app): State<App>,
    Extension(streams): Extension<Streams>,
    Extension(caller): Extension<Caller>,
    Params(EventsParams { recent, follow }): Params<EventsParams>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    if recent > RECENT_LINES {
        let detail = format!("recent is {recent}: ask for 0 to {RECENT_LINES}");
        return Err(Problem::bad("recent", detail));
    }
    let place = streams.enter(&caller)?;
    let (lines, later) = app.log.subscribe();
    let past = last(lines, recent);
    let events = match follow {
        true => past
            .chain(following(later, streams.shutdown, place))
            .take_until(Box::pin(caller.ended()))
            .left_stream(),
        false => past.right_stream(),
    };
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// The last `count` of these lines, as events.
fn last(lines: Vec<Arc<str>>, count: usize) -> impl Stream<Item = Result<Event, Infallible>> {
    let before = lines.len().saturating_sub(count);
    let lines = lines.into_iter().skip(before);
    stream::iter(lines.map(|line| Ok(Event::default().data(line.trim_end()))))
}

fn following(
    events: Receiver<Arc<str>>,
    shutdown: CancellationToken,
    place: Place,
) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(
        (events, shutdown, place),
        async |(mut events, shutdown, place)| {
            let received = tokio::select! {
                received = events.recv() => received,
                () = shutdown.cancelled() => return None,
            };
            let event = match received {
                Ok(line) => Event::default().data(line.trim_end()),
                Err(RecvError::Lagged(lost)) => Event::default()
                    .event("lost")
                    .data(format!("{{\"lost\":{lost}}}")),
                Err(RecvError::Closed) => return None,
            };
            Some((Ok(event), (events, shutdown, place)))
        },
    )
}

#[cfg(test)]
mod tests {
    use axum::{body::to_bytes, response::IntoResponse as _};
    use tokio::sync::broadcast;

    use super::*;

    async fn text(
        stream: impl Stream<Item = Result<Event, Infallible>> + Send + 'static,
    ) -> String {
        let body = Sse::new(stream).into_response().into_body();
        String::from_utf8(to_bytes(body, 10_000).await.unwrap().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn lines_become_events_and_a_slow_reader_learns_what_it_lost() {
        let (sender, receiver) = broadcast::channel::<Arc<str>>(2);
        for n in 0..5 {
            sender.send(format!("{{\"n\":{n}}}\n").into()).unwrap();
        }
        drop(sender);
        let streams = Streams::new(CancellationToken::new());
        let place = streams.enter(&Caller::Anybody).unwrap();
        let text = text(following(receiver, streams.shutdown.clone(), place)).await;
        let expected = "event: lost\ndata: {\"lost\":3}\n\ndata: {\"n\":3}\n\ndata: {\"n\":4}\n\n";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn the_last_lines_come_in_their_order() {
        let lines: Vec<Arc<str>> = (0..3).map(|n| format!("{n}").into()).collect();
        let shown = async |count| text(last(lines.clone(), count)).await;
        assert_eq!(shown(0).await, "");
        assert_eq!(shown(2).await, "data: 1\n\ndata: 2\n\n");
        assert_eq!(shown(1000).await, "data: 0\n\ndata: 1\n\ndata: 2\n\n");
    }

    #[tokio::test]
    async fn a_stopping_daemon_ends_the_stream() {
        let (_sender, receiver) = broadcast::channel::<Arc<str>>(2);
        let streams = Streams::new(CancellationToken::new());
        let place = streams.enter(&Caller::Anybody).unwrap();
        streams.shutdown.cancel();
        assert_eq!(
            text(following(receiver, streams.shutdown.clone(), place)).await,
            ""
        );
    }

    #[test]
    fn streams_are_bounded() {
        let streams = Streams::new(CancellationToken::new());
        let state = tempfile::tempdir().unwrap();
        let tokens = crate::tokens::Tokens::open(state.path(), crate::clock::Clock::new()).unwrap();
        let callers: Vec<Caller> = (0..=MAX_STREAMS / OF_A_TOKEN)
            .map(|n| {
                let new = crate::tokens::NewToken {
                    name: Some(n.to_string()),
                    scopes: vec![crate::tokens::Scope::Read],
                    ttl: None,
                };
                let now = time::OffsetDateTime::now_utc();
                let (_, secret) = tokens.create(new, now).unwrap();
                Caller::Token {
                    grant: tokens.accept(secret.as_str(), now).unwrap(),
                    from: "198.51.100.7:1".parse().unwrap(),
                }
            })
            .collect();
        let user = Caller::User {
            credentials: crate::api::peer::Credentials {
                pid: None,
                uid: 0,
                gid: 0,
                groups: Vec::new(),
            },
            name: None,
        };
        let refused = |caller| streams.enter(caller).unwrap_err();
        let mut places = Vec::new();
        for caller in &callers[..MAX_STREAMS / OF_A_TOKEN] {
            places.extend((0..OF_A_TOKEN).map(|_| streams.enter(caller).unwrap()));
            assert_eq!(refused(caller).status, 503);
            assert!(refused(caller).detail.contains("of this token"));
        }
        let late = callers.last().unwrap();
        assert!(refused(late).detail.contains("64 event streams"));
        // The unix socket has its own.
        let own: Vec<_> = (0..MAX_STREAMS)
            .map(|_| streams.enter(&user).unwrap())
            .collect();
        assert_eq!(refused(&user).status, 503);
        drop(own);
        places.pop();
        assert!(streams.enter(late).is_ok());
        drop(places);
        assert_eq!(streams.of_token("x").available_permits(), OF_A_TOKEN);
        assert!(
            streams.tokens.lock().unwrap().len() <= 1,
            "the others are forgotten"
        );
    }
}
