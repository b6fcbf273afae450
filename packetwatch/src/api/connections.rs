//! Connections in bounds. Who keeps one open without asking gives way to who comes.
//!
//! A connection is busy from the head of a request to the end of its answer, and a stranger's
//! request is answered at once. So all that strangers can hold are places that are free for others:
//! neither 10 000 idle connections nor heads that never end keep anybody out.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::body::{Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// How many connections a listener has at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub in_all: usize,
    /// from one site, see [`super::throttle::site`]
    pub of_a_site: usize,
}

/// The places of a listener.
#[derive(Clone)]
pub(super) struct Places {
    bounds: Bounds,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    /// counts entries and returns to waiting
    tick: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    site: Option<IpAddr>,
    /// requests under way
    busy: usize,
    /// the gate has let a request of it pass
    admitted: bool,
    waiting_since: u64,
    cut: CancellationToken,
}

/// A connection's place, free again when the last clone is gone.
#[derive(Clone)]
pub(super) struct Place(Arc<Occupied>);

struct Occupied {
    places: Places,
    number: u64,
    cut: CancellationToken,
}

impl Places {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            taken: Arc::default(),
        }
    }

    /// A place for a connection from `site`, which only TCP has. At a bound the connection that
    /// waits longest is cut off, one that never passed the gate before any that did; `None` when
    /// all are busy.
    pub(super) fn enter(&self, site: Option<IpAddr>) -> Option<Place> {
        let mut taken = self.taken();
        let of_site = |connection: &Connection| site.is_some() && connection.site == site;
        let at_site = taken.connections.values().filter(|c| of_site(c)).count();
        if at_site >= self.bounds.of_a_site {
            taken.give_way(of_site)?;
        } else if taken.connections.len() >= self.bounds.in_all {
            taken.give_way(|_| true)?;
        }
        let (number, cut) = (taken.next(), CancellationToken::new());
        taken.connections.insert(
            number,
            Connection {
                site,
                busy: 0,
                admitted: false,
                waiting_since: number,
                cut: cut.clone(),
            },
        );
        let places = self.clone();
        Some(Place(Arc::new(Occupied {
            places,
            number,
            cut,
        })))
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    fn next(&mut self) -> u64 {
        self.tick += 1;
        self.tick
    }

    fn give_way(&mut self, among: impl Fn(&Connection) -> bool) -> Option<()> {
        let waiting = self.connections.iter();
        let waiting = waiting.filter(|(_, connection)| connection.busy == 0 && among(connection));
        let longest = waiting.min_by_key(|(_, it)| (it.admitted, it.waiting_since));
        let number = *longest?.0;
        let connection = self.connections.remove(&number)?;
        connection.cut.cancel();
        Some(())
    }
}

impl Place {
    /// Returns when the connection has to give way.
    pub(super) async fn cut(&self) {
        self.0.cut.cancelled().await;
    }

    /// A request has come whole; dropped at the end of its answer.
    pub(super) fn asking(&self) -> Asking {
        self.with(|connection, _| connection.busy += 1);
        Asking(self.clone())
    }

    /// A request has passed the gate.
    pub(super) fn admitted(&self) {
        self.with(|connection, _| connection.admitted = true);
    }

    fn with(&self, change: impl FnOnce(&mut Connection, u64)) {
        let mut taken = self.0.places.taken();
        let tick = taken.next();
        if let Some(connection) = taken.connections.get_mut(&self.0.number) {
            change(connection, tick);
        }
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.places.taken().connections.remove(&self.number);
    }
}

/// A request under way.
pub(super) struct Asking(Place);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.with(|connection, tick| {
            connection.busy -= 1;
            connection.waiting_since = tick;
        });
    }
}

/// An answer's body; while it lasts its request is under way.
pub(super) struct Answering<B> {
    pub body: B,
    pub _asking: Asking,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places() -> Places {
        Places::new(Bounds {
            in_all: 4,
            of_a_site: 2,
        })
    }

    fn site(n: u8) -> Option<IpAddr> {
        Some([198, 51, 100, n].into())
    }

    fn is_cut(place: &Place) -> bool {
        place.0.cut.is_cancelled()
    }

    #[test]
    fn a_site_at_its_bound_cuts_its_own_longest_waiting() {
        let places = places();
        let other = places.enter(site(9)).unwrap();
        let mine: Vec<_> = (0..3).map(|_| places.enter(site(1)).unwrap()).collect();
        assert_eq!(
            mine.iter().map(is_cut).collect::<Vec<_>>(),
            [true, false, false]
        );
        assert!(!is_cut(&other));
        // The end of one that was cut frees no place twice.
        drop(mine);
        assert_eq!(places.taken().connections.len(), 1);
    }

    #[test]
    fn a_full_listener_cuts_strangers_before_those_who_passed_the_gate() {
        let places = places();
        let known = places.enter(site(1)).unwrap();
        known.admitted();
        let strangers: Vec<_> = (2..5).map(|n| places.enter(site(n)).unwrap()).collect();
        let late = places.enter(site(5)).unwrap();
        assert!(is_cut(&strangers[0]) && !is_cut(&known) && !is_cut(&late));
        for n in 6..9 {
            drop(places.enter(site(n)).unwrap());
        }
        assert!(!is_cut(&known));
    }

    #[test]
    fn who_is_busy_is_not_cut_and_a_newcomer_is_turned_away() {
        let places = places();
        let held: Vec<_> = (0..4).map(|n| places.enter(site(n)).unwrap()).collect();
        let mut asking: Vec<_> = held.iter().map(Place::asking).collect();
        assert!(places.enter(site(9)).is_none());
        // Two requests on one connection: it waits again after both.
        let second = held[0].asking();
        drop(asking.remove(0));
        assert!(places.enter(site(9)).is_none());
        drop(second);
        let ninth = places.enter(site(9)).unwrap();
        assert!(is_cut(&held[0]) && !is_cut(&ninth));
        assert!(held[1..].iter().all(|place| !is_cut(place)));
    }

    #[test]
    fn a_socket_without_sites_has_the_whole_to_itself() {
        let places = places();
        let held: Vec<_> = (0..4).map(|_| places.enter(None).unwrap()).collect();
        assert!(!held.iter().any(is_cut));
        let fifth = places.enter(None).unwrap();
        assert!(is_cut(&held[0]) && !is_cut(&fifth));
    }
}
