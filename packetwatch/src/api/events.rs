//! `/v1/events`: the log's events as they happen, as server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::StatusCode,
    response::sse::{Event, KeepAlive, Sse},
};
use futures_util::{Stream, stream};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    broadcast::{Receiver, error::RecvError},
};
use tokio_util::sync::CancellationToken;

use super::{
    App,
    extract::{NoParams, Params},
    problem::Problem,
    refusals::{BadParameter, Failed, Gated},
};

/// Streams at a time: each holds a connection for as long as its reader likes.
pub(super) const MAX_STREAMS: usize = 64;
/// A comment is sent this often where nothing happens.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Ends every stream when the daemon stops.
#[derive(Clone)]
pub(super) struct Streams {
    room: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Streams {
    pub(super) fn new(shutdown: CancellationToken) -> Self {
        let room = Arc::new(Semaphore::new(MAX_STREAMS));
        Self { room, shutdown }
    }

    fn enter(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.room.clone().try_acquire_owned().map_err(|_| {
            let detail = format!("{MAX_STREAMS} event streams are open: close one");
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })
    }
}

/// Events from now on, one JSON object each. A reader that is too slow gets an event `lost` with
/// the number of those it missed.
#[utoipa::path(get, path = "/v1/events", tag = "events", responses(
    (status = 200, description = "server-sent events; data as the lines of the log",
        body = String, content_type = "text/event-stream"),
    (status = 503, description = "64 streams are open",
        body = Problem, content_type = "application/problem+json"),
    BadParameter, Gated, Failed,
))]
pub(super) async fn events(
    State(app): State<App>,
    Extension(streams): Extension<Streams>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let place = streams.enter()?;
    let following = follow(app.log.subscribe(), streams.shutdown, place);
    Ok(Sse::new(following).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn follow(
    events: Receiver<Arc<str>>,
    shutdown: CancellationToken,
    place: OwnedSemaphorePermit,
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
        let place = streams.enter().unwrap();
        let text = text(follow(receiver, streams.shutdown.clone(), place)).await;
        let expected = "event: lost\ndata: {\"lost\":3}\n\ndata: {\"n\":3}\n\ndata: {\"n\":4}\n\n";
        assert_eq!(text, expected);
    }

    #[tokio::test]
    async fn a_stopping_daemon_ends_the_stream() {
        let (_sender, receiver) = broadcast::channel::<Arc<str>>(2);
        let streams = Streams::new(CancellationToken::new());
        let place = streams.enter().unwrap();
        streams.shutdown.cancel();
        assert_eq!(
            text(follow(receiver, streams.shutdown.clone(), place)).await,
            ""
        );
    }

    #[test]
    fn streams_are_bounded() {
        let streams = Streams::new(CancellationToken::new());
        let mut places: Vec<_> = (0..MAX_STREAMS).map(|_| streams.enter().unwrap()).collect();
        assert_eq!(streams.enter().unwrap_err().status, 503);
        places.pop();
        assert!(streams.enter().is_ok());
    }
}
