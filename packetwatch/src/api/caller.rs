//! Who was let in, for handlers and for the log.

use std::{net::SocketAddr, sync::Arc};

use axum::http::{Method, StatusCode, Uri};
use tracing::Span;

use super::{peer::Credentials, problem::Problem, shares::Via};
use crate::{
    log::EVENT,
    metrics::Counters,
    tokens::{Grant, Scope, Token},
};

/// Who asks; an extension of every request that the gate has let in.
#[derive(Clone, Debug)]
pub(super) enum Caller {
    /// over TCP
    Token { grant: Grant, from: SocketAddr },
    /// over the unix socket
    User {
        credentials: Credentials,
        name: Option<Arc<str>>,
    },
    /// on a path that is open
    Anybody,
}

impl Caller {
    /// What the log says of who did whatever is done within it.
    pub(super) fn span(&self) -> Span {
        match self {
            Self::Token { grant, from } => {
                let Token { id, name, .. } = grant.token();
                tracing::info_span!(
                    target: EVENT,
                    "order",
                    user.id = id,
                    user.name = name,
                    client.ip = %from.ip().to_canonical(),
                    packetwatch.via = "tcp",
                )
            }
            Self::User { credentials, name } => {
                let Credentials { pid, uid, .. } = credentials;
                tracing::info_span!(
                    target: EVENT,
                    "order",
                    user.id = %uid,
                    user.name = name.as_deref(),
                    packetwatch.client_pid = *pid,
                    packetwatch.via = "unix",
                )
            }
            Self::Anybody => Span::none(),
        }
    }

    /// For a request, a method and a path, that takes more than its operation's scope, by what it is
    /// about.
    ///
    /// # Errors
    /// 403: the token lacks the scope.
    pub(super) fn require(
        &self,
        needed: Scope,
        (method, path): (&Method, &Uri),
        counters: &Counters,
    ) -> Result<(), Problem> {
        let Self::Token { grant, .. } = self else {
            return Ok(());
        };
        let Some(detail) = lacking(grant, needed) else {
            return Ok(());
        };
        counters.auth_failed("scope");
        tracing::warn!(
            target: EVENT,
            {
                event.action = "auth-failed",
                event.reason = "scope",
                http.request.method = method.as_str(),
                url.path = path.path(),
            },
            "API: {} was refused: scope", grant.token().name
        );
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    pub(super) fn via(&self) -> Via {
        match self {
            Self::User { .. } => Via::Unix,
            Self::Token { .. } | Self::Anybody => Via::Tcp,
        }
    }

    /// Returns when what this caller was let in by is good no more.
    pub(super) async fn ended(self) {
        match self {
            Self::Token { grant, .. } => grant.ended().await,
            Self::User { .. } | Self::Anybody => std::future::pending().await,
        }
    }
}

/// What a token is told that is not good for this; `None` if it is.
pub(super) fn lacking(grant: &Grant, needed: Scope) -> Option<String> {
    if grant.permits(needed) {
        return None;
    }
    let token = grant.token();
    let held: Vec<&str> = token.scopes.iter().map(|scope| scope.as_str()).collect();
    Some(format!(
        "this takes a token with the scope {needed}, and {} has {}: make one with `packetwatch token \
         create --scope {needed}`",
        token.name,
        held.join(", ")
    ))
}
