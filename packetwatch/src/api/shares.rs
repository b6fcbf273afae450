//! What callers over TCP and over the unix socket have apart: what the ones take, the others do not
//! lack.

use std::sync::Arc;

use axum::{extract::ConnectInfo, http::Extensions};
use tokio::sync::Semaphore;

use super::peer::Peer;

/// Which listener a request came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Tcp,
    Unix,
}

impl Via {
    /// By what [`super::serve()`] says of a request.
    pub(super) fn of(extensions: &Extensions) -> Self {
        match extensions.get::<ConnectInfo<Peer>>() {
            Some(ConnectInfo(Peer::Unix(_))) => Self::Unix,
            _ => Self::Tcp,
        }
    }
}

/// As many places for the ones as for the others; clones share them.
#[derive(Clone)]
pub(super) struct Shares {
    tcp: Arc<Semaphore>,
    unix: Arc<Semaphore>,
}

impl Shares {
    pub(super) fn of_each(places: usize) -> Self {
        Self {
            tcp: Arc::new(Semaphore::new(places)),
            unix: Arc::new(Semaphore::new(places)),
        }
    }

    pub(super) fn of(&self, via: Via) -> Arc<Semaphore> {
        Arc::clone(match via {
            Via::Tcp => &self.tcp,
            Via::Unix => &self.unix,
        })
    }
}
