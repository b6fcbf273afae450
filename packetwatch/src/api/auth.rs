//! Who may ask: over the unix socket by what the kernel says of the peer, over TCP by token.

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use nix::unistd::{Group, geteuid};
use time::OffsetDateTime;

use super::{
    peer::{Credentials, Peer},
    problem::Problem,
    tokens::Tokens,
};

/// Its members may use the unix socket.
pub(super) const GROUP: &str = "packetwatch";

/// The one path that answers anybody.
const OPEN_PATH: &str = "/healthz";

/// Decides who is admitted.
#[derive(Clone)]
pub(super) struct Gate {
    tokens: Tokens,
    /// the user that the daemon runs as
    owner: u32,
    /// [`GROUP`], if this host has it
    group: Option<u32>,
}

impl Gate {
    /// For this process's user and this host's group `packetwatch`.
    pub(super) fn new(tokens: Tokens) -> Self {
        Self {
            tokens,
            owner: geteuid().as_raw(),
            group: group_id(),
        }
    }

    fn admits(&self, peer: &Peer, headers: &HeaderMap) -> Result<(), Problem> {
        match peer {
            Peer::Unix(credentials) if self.admits_user(credentials) => Ok(()),
            Peer::Unix(Credentials { uid, .. }) => {
                let detail = format!(
                    "user {uid} may not use this socket: ask as root or as a member of the group \
                     {GROUP}"
                );
                Err(Problem::new(StatusCode::FORBIDDEN, detail))
            }
            Peer::Tcp(address) => {
                let token = bearer(headers).ok_or_else(|| {
                    let detail = "this address asks for a token: send `Authorization: Bearer \
                                  pw_...`; the file token in the daemon's state directory holds it";
                    Problem::new(StatusCode::UNAUTHORIZED, detail).about("Authorization")
                })?;
                if !self.tokens.accepts(token) {
                    let detail = "this is not the daemon's token: the file token in its state \
                                  directory holds it";
                    return Err(
                        Problem::new(StatusCode::UNAUTHORIZED, detail).about("Authorization")
                    );
                }
                let now = OffsetDateTime::now_utc();
                self.tokens.note(address.ip().to_canonical(), now);
                Ok(())
            }
        }
    }

    fn admits_user(&self, credentials: &Credentials) -> bool {
        let Credentials { uid, gid, groups } = credentials;
        let in_group = |group: u32| group == *gid || groups.contains(&group);
        *uid == 0 || *uid == self.owner || self.group.is_some_and(in_group)
    }
}

/// The group [`GROUP`] of this host.
pub(super) fn group_id() -> Option<u32> {
    let group = Group::from_name(GROUP).ok().flatten()?;
    Some(group.gid.as_raw())
}

/// The token of an `Authorization: Bearer` header; the scheme's case does not matter.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim())
}

/// Lets a request through, or answers 401 or 403.
pub(super) async fn admit(
    State(gate): State<Gate>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Request,
    next: Next,
) -> Response {
    if request.uri().path() == OPEN_PATH {
        return next.run(request).await;
    }
    match gate.admits(&peer, request.headers()) {
        Ok(()) => next.run(request).await,
        Err(problem) => {
            let mut response = problem.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                let challenge = HeaderValue::from_static("Bearer realm=\"packetwatch\"");
                response
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, challenge);
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "pw_00";

    fn gate() -> Gate {
        Gate {
            tokens: Tokens::of(TOKEN),
            owner: 990,
            group: Some(77),
        }
    }

    fn authorization(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    #[test]
    fn the_socket_admits_root_the_owner_and_the_group() {
        let table = [
            (0, 5, vec![], true),
            (990, 5, vec![], true),
            (1000, 77, vec![], true),
            (1000, 5, vec![4, 77], true),
            (1000, 5, vec![4], false),
            (77, 5, vec![990], false),
        ];
        for (uid, gid, groups, admitted) in table {
            let peer = Peer::Unix(Credentials { uid, gid, groups });
            let answer = gate().admits(&peer, &HeaderMap::new());
            assert_eq!(answer.is_ok(), admitted, "{peer:?}");
            let peer = |status| assert_eq!(answer.clone().unwrap_err().status, status);
            if !admitted {
                peer(403);
            }
        }
    }

    #[test]
    fn a_host_without_the_group_admits_nobody_by_group() {
        let gate = Gate {
            group: None,
            ..gate()
        };
        let credentials = Credentials {
            uid: 1000,
            gid: 77,
            groups: vec![77],
        };
        assert!(!gate.admits_user(&credentials));
    }

    #[test]
    fn a_token_on_the_socket_opens_nothing() {
        let peer = Peer::Unix(Credentials {
            uid: 1000,
            gid: 5,
            groups: vec![],
        });
        let headers = authorization(&format!("Bearer {TOKEN}"));
        assert_eq!(gate().admits(&peer, &headers).unwrap_err().status, 403);
    }

    #[test]
    fn tcp_asks_for_the_token_whoever_connects() {
        let gate = gate();
        let peer = Peer::Tcp("127.0.0.1:9".parse().unwrap());
        let table = [
            (format!("Bearer {TOKEN}"), true),
            (format!("bearer  {TOKEN} "), true),
            (format!("Basic {TOKEN}"), false),
            (TOKEN.to_owned(), false),
            ("Bearer".to_owned(), false),
            ("Bearer pw_01".to_owned(), false),
        ];
        for (value, admitted) in table {
            let answer = gate.admits(&peer, &authorization(&value));
            assert_eq!(answer.is_ok(), admitted, "{value}");
        }
        let problem = gate.admits(&peer, &HeaderMap::new()).unwrap_err();
        assert_eq!(
            (problem.status, problem.field.as_deref()),
            (401, Some("Authorization"))
        );
    }

    #[test]
    fn only_an_accepted_token_marks_its_address() {
        let gate = gate();
        let from = |text: &str| Peer::Tcp(text.parse().unwrap());
        let good = authorization(&format!("Bearer {TOKEN}"));
        let bad = authorization("Bearer pw_01");
        assert!(gate.admits(&from("198.51.100.7:1"), &bad).is_err());
        assert!(gate.tokens.seen().is_empty());
        assert!(gate.admits(&from("[::ffff:198.51.100.7]:1"), &good).is_ok());
        let seen: Vec<_> = gate
            .tokens
            .seen()
            .into_iter()
            .map(|(addr, _)| addr)
            .collect();
        assert_eq!(seen, ["198.51.100.7".parse::<std::net::IpAddr>().unwrap()]);
    }
}
