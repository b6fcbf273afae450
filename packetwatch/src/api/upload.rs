//! Request bodies, read in bounded time and memory.
//!
//! Who sends slowly holds nothing that others need: bodies of lists share room by the bytes that
//! have come, not by requests, and what comes to a halt or crawls is given up. Over TCP they have half
//! of the room: the other half is the unix socket's alone.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Bytes,
    extract::Request,
    http::{StatusCode, header},
};
use futures_util::StreamExt as _;
use packetwatch_abi::capacity;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, timeout, timeout_at},
};

use super::{
    problem::Problem,
    shares::{Shares, Via},
};

/// Bodies that are no lists. There are as many at a time as connections, 768.
pub(super) const SMALL_BODY: usize = 64 * 1024;
/// Bodies of whole lists: of IPv4 as many prefixes as the lists have room for by default.
pub(super) const LIST_BODY: usize = 96 * 1024 * 1024;
const _: () = assert!(capacity::LISTS as usize * "255.255.255.255/32\r\n".len() <= LIST_BODY);
/// Bodies of backups: some five million prefixes of IPv4. Over TCP they are bounded as lists are.
pub(super) const BACKUP_BODY: usize = 128 * 1024 * 1024;
/// Bytes of all list bodies together.
const ROOM: usize = 2 * LIST_BODY;
/// Bytes of those over TCP: a list over the unix socket finds room, whatever others send.
const ROOM_OF_TCP: usize = ROOM / 2;
const _: () = assert!(LIST_BODY <= ROOM_OF_TCP && LIST_BODY <= ROOM - ROOM_OF_TCP);
/// List bodies that are made entries of at a time, over TCP and over the unix socket, which takes
/// several times their size.
const PLACES: usize = 1;
/// Between two pieces of a body.
const IDLE: Duration = Duration::from_secs(10);
/// From the first to the last byte of a body, and then again for a place.
const WHOLE: Duration = Duration::from_secs(55);

/// The bounds of bodies; clones share the room.
#[derive(Clone)]
pub(super) struct Uploads {
    idle: Duration,
    whole: Duration,
    room: Arc<Semaphore>,
    /// in bytes
    of_tcp: usize,
    room_of_tcp: Arc<Semaphore>,
    places: Shares,
}

/// A body, and the room that it takes.
#[derive(Debug)]
pub(super) struct ListBody {
    bytes: Vec<u8>,
    via: Via,
    /// of each room that it takes of
    _held: Vec<OwnedSemaphorePermit>,
}

impl ListBody {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl Default for Uploads {
    fn default() -> Self {
        Self::new(IDLE, WHOLE, ROOM, ROOM_OF_TCP)
    }
}

impl Uploads {
    /// Gives up bodies that pause for `idle` or are not there after `whole`; `room` is in bytes,
    /// of which TCP has no more than `of_tcp`.
    fn new(idle: Duration, whole: Duration, room: usize, of_tcp: usize) -> Self {
        Self {
            idle,
            whole,
            room: Arc::new(Semaphore::new(room)),
            of_tcp,
            room_of_tcp: Arc::new(Semaphore::new(of_tcp)),
            places: Shares::of_each(PLACES),
        }
    }

    /// Those of the router that this request came through.
    pub(super) fn of(request: &Request) -> Self {
        let uploads = request.extensions().get::<Self>();
        uploads.cloned().unwrap_or_default()
    }

    /// Reads a body whole, whose `limit` needs no room of its own.
    ///
    /// # Errors
    /// 413 beyond `limit` bytes, 408 for what is too slow, 400 for what breaks off.
    pub(super) async fn read(&self, request: Request, limit: usize) -> Result<Vec<u8>, Problem> {
        self.gather(request, limit, |_| Ok(())).await
    }

    /// Reads the body of a list.
    ///
    /// # Errors
    /// As [`Uploads::read`], and 503 when other bodies leave no room.
    pub(super) async fn read_list(
        &self,
        request: Request,
        limit: usize,
    ) -> Result<ListBody, Problem> {
        let via = Via::of(request.extensions());
        let (limit, rooms) = match via {
            Via::Tcp => (limit.min(self.of_tcp), vec![&self.room_of_tcp, &self.room]),
            Via::Unix => (limit, vec![&self.room]),
        };
        let mut held: Vec<OwnedSemaphorePermit> = Vec::new();
        let take = |length: usize| {
            let length = u32::try_from(length).map_err(|_| no_room())?;
            for (at, room) in rooms.iter().enumerate() {
                // Whoever finds no room gives back what it has: nobody waits for who waits.
                let more = Arc::clone(room).try_acquire_many_owned(length);
                let more = more.map_err(|_| no_room())?;
                match held.get_mut(at) {
                    Some(held) => held.merge(more),
                    None => held.push(more),
                }
            }
            Ok(())
        };
        let bytes = self.gather(request, limit, take).await?;
        Ok(ListBody {
            bytes,
            via,
            _held: held,
        })
    }

    /// The right to work on a list body that has been read, in the order of asking. To be kept
    /// until the work is done.
    ///
    /// # Errors
    /// 503 when those before take too long.
    pub(super) async fn place(&self, body: &ListBody) -> Result<OwnedSemaphorePermit, Problem> {
        let place = timeout(self.whole, self.places.of(body.via).acquire_owned()).await;
        let place = place.map_err(|_| {
            let detail = "the list bodies before this one take long: repeat it later";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
        })?;
        Ok(place.expect("nothing closes the semaphore"))
    }

    async fn gather(
        &self,
        request: Request,
        limit: usize,
        mut take: impl FnMut(usize) -> Result<(), Problem>,
    ) -> Result<Vec<u8>, Problem> {
        let length = request.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > limit as u64) {
            return Err(too_large(limit));
        }
        let end = Instant::now() + self.whole;
        let mut pieces = request.into_body().into_data_stream();
        let mut body = Vec::new();
        loop {
            let pause = end.min(Instant::now() + self.idle);
            let piece = timeout_at(pause, pieces.next()).await;
            let piece: Bytes = match piece.map_err(|_| self.too_slow())? {
                None => return Ok(body),
                Some(Ok(piece)) => piece,
                Some(Err(error)) => {
                    let detail = format!("the body broke off: {error}. Send it again");
                    return Err(Problem::bad("body", detail));
                }
            };
            if body.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            take(piece.len())?;
            body.extend_from_slice(&piece);
        }
    }

    fn too_slow(&self) -> Problem {
        let detail = format!(
            "the body paused for {:?} or was not whole after {:?}: send it faster, or in parts",
            self.idle, self.whole
        );
        Problem::new(StatusCode::REQUEST_TIMEOUT, detail).about("body")
    }
}

fn too_large(limit: usize) -> Problem {
    let detail = format!(
        "the body is larger than {limit} bytes: send it in parts, or a backup over the unix socket"
    );
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail).about("body")
}

fn no_room() -> Problem {
    let detail = "the list bodies under way take all the room there is: repeat this one later";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
}

#[cfg(test)]
mod tests;
