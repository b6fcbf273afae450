//! The lines about who was not let in, so many and no more.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use axum::{extract::Request, http::Method};

use crate::{
    api::{
        peer::Peer,
        throttle::{LINES, Spent},
    },
    log::EVENT,
};

#[derive(Default)]
pub(super) struct Told(Mutex<Lines>);

#[derive(Default)]
struct Lines {
    spent: Spent,
    /// refused since the last line, without one
    untold: u64,
}

impl Told {
    /// Writes the line of a request that was not let in, unless there were many.
    pub(super) fn refused(&self, peer: &Peer, cause: &'static str, request: &Request) {
        let untold = {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if LINES.take(&mut lines.spent, Instant::now()).is_err() {
                lines.untold += 1;
                return;
            }
            std::mem::take(&mut lines.untold)
        };
        let (ip, port, uid) = match peer {
            Peer::Tcp(from) => (Some(from.ip().to_canonical()), Some(from.port()), None),
            Peer::Unix(credentials) => (None, None, Some(credentials.uid)),
        };
        let who = match (ip, uid) {
            (Some(ip), _) => ip.to_string(),
            (None, uid) => format!("user {}", uid.unwrap_or_default()),
        };
        tracing::warn!(
            target: EVENT,
            {
                event.action = "auth-failed",
                event.reason = cause,
                source.ip = ip.map(tracing::field::display),
                source.port = port,
                user.id = uid.map(tracing::field::display),
                http.request.method = known(request.method()),
                url.path = request.uri().path(),
                packetwatch.suppressed = (untold > 0).then_some(untold),
            },
            "API: {who} was refused: {cause}"
        );
    }
}

/// A method may be any word; the log has those that there are.
fn known(method: &Method) -> &str {
    match *method {
        Method::GET | Method::HEAD | Method::PUT | Method::POST | Method::DELETE => method.as_str(),
        Method::PATCH | Method::OPTIONS | Method::TRACE | Method::CONNECT => method.as_str(),
        _ => "OTHER",
    }
}
