//! Who may ask: over the unix socket by what the kernel says of the peer, over TCP by token.

mod refusal;
#[cfg(test)]
mod tests;
mod told;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{ConnectInfo, Extension, MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use nix::unistd::{Group, Uid, User, geteuid};
use time::OffsetDateTime;
use tracing::Instrument as _;

use super::{
    access::{Access, Needs},
    caller::{Caller, lacking},
    connections::Place,
    peer::{Credentials, Peer},
    throttle::Throttle,
};
use crate::{
    metrics::Counters,
    tokens::{Tokens, Unaccepted},
};
use refusal::{Refusal, slow_down};
use told::Told;

/// Its members may use the unix socket.
pub(super) const GROUP: &str = "packetwatch";

/// Names of users that are remembered: root, the daemon's own, the members of a group.
const MAX_NAMES: usize = 256;

/// Decides who is admitted to what.
#[derive(Clone)]
pub(super) struct Gate(Arc<Shared>);

struct Shared {
    access: Access,
    tokens: Tokens,
    counters: Counters,
    throttle: Throttle,
    /// the user that the daemon runs as
    owner: u32,
    /// [`GROUP`], if this host has it
    group: Option<u32>,
    names: Mutex<HashMap<u32, Option<Arc<str>>>>,
    told: Told,
}

impl Gate {
    /// For this process's user and this host's group `packetwatch`.
    pub(super) fn new(access: Access, tokens: Tokens, counters: Counters) -> Self {
        Self(Arc::new(Shared {
            access,
            tokens,
            counters,
            throttle: Throttle::default(),
            owner: geteuid().as_raw(),
            group: group_id(),
            names: Mutex::default(),
            told: Told::default(),
        }))
    }

    /// Who asks: by what the kernel says of them, or by their token.
    fn knows(&self, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Refusal> {
        match peer {
            Peer::Unix(credentials) => self.knows_user(credentials),
            Peer::Tcp(address) => self.knows_token(*address, headers),
        }
    }

    /// Counts a request over TCP: of its token, so that nobody else uses up what that may ask, or of
    /// the address of who has shown no right one.
    ///
    /// # Errors
    /// What to do, and how long until the next is taken.
    fn counts(
        &self,
        peer: &Peer,
        known: &Result<Caller, Refusal>,
    ) -> Result<(), (&'static str, Duration)> {
        let (throttle, now) = (&self.0.throttle, Instant::now());
        let (counted, detail) = match (peer, known) {
            (Peer::Unix(_), _) => return Ok(()),
            (Peer::Tcp(_), Ok(Caller::Token { grant, .. })) => (
                throttle.token(&grant.token().id, now),
                "too many requests with this token: send fewer",
            ),
            (Peer::Tcp(address), _) => (
                throttle.request(address.ip(), now),
                "too many requests without a right token from this address: send fewer",
            ),
        };
        counted.map_err(|wait| (detail, wait))
    }

    /// Whether who is known, or not, may have what the operation asks for.
    fn admits(
        &self,
        known: Result<Caller, Refusal>,
        needs: Option<Needs>,
    ) -> Result<Caller, Refusal> {
        if needs == Some(Needs::Nobody) {
            return Ok(Caller::Anybody);
        }
        let caller = known?;
        if let (Caller::Token { grant, from }, Some(Needs::Scope(needed))) = (&caller, needs) {
            if let Some(detail) = lacking(grant, needed) {
                return Err(Refusal::new("scope", StatusCode::FORBIDDEN, detail));
            }
            let from = from.ip().to_canonical();
            self.0.tokens.note(grant, from);
        }
        Ok(caller)
    }

    fn knows_user(&self, credentials: &Credentials) -> Result<Caller, Refusal> {
        let Credentials {
            pid: _,
            uid,
            gid,
            groups,
        } = credentials;
        let in_group = |group: u32| group == *gid || groups.contains(&group);
        let shared = &self.0;
        if *uid == 0 || *uid == shared.owner || shared.group.is_some_and(in_group) {
            return Ok(Caller::User {
                credentials: credentials.clone(),
                name: self.name_of(*uid),
            });
        }
        let detail = format!(
            "user {uid} may not use this socket: ask as root or as a member of the group {GROUP}"
        );
        Err(Refusal::new("user", StatusCode::FORBIDDEN, detail))
    }

    fn knows_token(&self, from: SocketAddr, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let Some(presented) = bearer(headers) else {
            let detail = "this address asks for a token: send one header `Authorization: Bearer \
                          pw_...`; the file token in the daemon's state directory holds the first";
            return Err(Refusal::of_token("no-token", detail));
        };
        let grant = self.0.tokens.accept(presented, OffsetDateTime::now_utc());
        let grant = grant.map_err(|refused| match refused {
            Unaccepted::Unknown => Refusal::of_token(
                "wrong-token",
                "this is no token of this daemon, or it was revoked: make one with `packetwatch \
                 token create` on its host",
            ),
            Unaccepted::Expired => Refusal::of_token(
                "expired-token",
                "this token has expired: make another with `packetwatch token create` on the \
                 daemon's host",
            ),
        })?;
        Ok(Caller::Token { grant, from })
    }

    /// What the answer to one who is not let in is, after it has been counted and told.
    fn refused(&self, peer: &Peer, refusal: Refusal, request: &Request) -> Response {
        let Refusal { cause, problem } = refusal;
        self.0.counters.auth_failed(cause);
        self.0.told.refused(peer, cause, request);
        let unauthorized = problem.status == StatusCode::UNAUTHORIZED.as_u16();
        if unauthorized
            && let Peer::Tcp(address) = peer
            && let Err(wait) = self.0.throttle.failure(address.ip(), Instant::now())
        {
            let detail = "too many requests without a right token from this address: correct the \
                          token, and repeat it after the seconds that Retry-After says";
            return slow_down(detail, wait);
        }
        let mut response = problem.into_response();
        if unauthorized {
            let challenge = HeaderValue::from_static("Bearer realm=\"packetwatch\"");
            let headers = response.headers_mut();
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }

    /// Asks the host's user database once for each user.
    fn name_of(&self, uid: u32) -> Option<Arc<str>> {
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(name) = names.get(&uid) {
            return name.clone();
        }
        let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
        let name = user.map(|user| Arc::from(user.name));
        if names.len() < MAX_NAMES {
            names.insert(uid, name.clone());
        }
        name
    }
}

/// The group [`GROUP`] of this host.
pub(super) fn group_id() -> Option<u32> {
    let group = Group::from_name(GROUP).ok().flatten()?;
    Some(group.gid.as_raw())
}

/// The token of the one `Authorization: Bearer` header; the scheme's case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?.to_str().ok()?;
    if values.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// Lets a request through, or answers 401, 403 or 429.
pub(super) async fn admit(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    place: Option<Extension<Place>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let known = gate.knows(&peer, request.headers());
    if let Err((detail, wait)) = gate.counts(&peer, &known) {
        return slow_down(detail, wait);
    }
    let path = path.as_ref().map(MatchedPath::as_str);
    let needs = gate.0.access.of_request(path, request.method());
    match gate.admits(known, needs) {
        Ok(caller) => {
            if let (Some(Extension(place)), Caller::Token { .. } | Caller::User { .. }) =
                (place, &caller)
            {
                place.admitted();
            }
            let span = caller.span();
            request.extensions_mut().insert(caller);
            next.run(request).instrument(span).await
        }
        Err(refusal) => gate.refused(&peer, refusal, &request),
    }
}
