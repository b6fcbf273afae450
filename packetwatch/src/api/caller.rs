//! Who was let in, for handlers and for the log.

use std::{net::SocketAddr, sync::Arc};

use tracing::Span;

use super::peer::Credentials;
use crate::{
    log::EVENT,
    tokens::{Grant, Token},
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

    /// Returns when what this caller was let in by is good no more.
    pub(super) async fn ended(self) {
        match self {
            Self::Token { grant, .. } => grant.ended().await,
            Self::User { .. } | Self::Anybody => std::future::pending().await,
        }
    }
}
