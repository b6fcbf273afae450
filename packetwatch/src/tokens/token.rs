//! What a token is, and why one is not made, not revoked or not accepted.

use std::{io, time::Duration};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use utoipa::ToSchema;

use super::{MAX_TOKENS, Scope, TokenFileError};

/// A token without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Eight hexadecimal digits.
    #[schema(example = "5b1c09de")]
    pub id: String,
    /// What the log calls who uses it.
    #[schema(example = "ci")]
    pub name: String,
    pub scopes: Vec<Scope>,
    #[serde(with = "time::serde::rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub created_at: OffsetDateTime,
    /// Null for a token that stays good until it is revoked.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
}

/// A token to be made.
#[derive(Clone, Debug)]
pub struct NewToken {
    /// `None` calls it by its id.
    pub name: Option<String>,
    /// one or more
    pub scopes: Vec<Scope>,
    /// `None` for one that does not expire
    pub ttl: Option<Duration>,
}

/// Why a token was not made or revoked.
#[derive(Debug, Error)]
pub enum TokenError {
    #[error("a token is called {0:?} already: choose another name, or revoke that one first")]
    Taken(String),
    #[error("there is no token {0:?}: `packetwatch token list` shows their ids and names")]
    NotFound(String),
    #[error("there are {MAX_TOKENS} tokens, the most there may be: revoke some")]
    Full,
    #[error(transparent)]
    File(#[from] TokenFileError),
    #[error("cannot read /dev/urandom for a new token: {0}")]
    Random(#[source] io::Error),
}

/// Why a presented token opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unaccepted {
    /// no token of this daemon, or one that was revoked
    Unknown,
    Expired,
}

impl Token {
    pub(super) fn is_expired(&self, now: OffsetDateTime) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// As `read, lists, until 2026-11-22T07:00:00Z`.
    pub(super) fn described(&self) -> String {
        let scopes: Vec<&str> = self.scopes.iter().map(|scope| scope.as_str()).collect();
        let end = self.expires_at.and_then(|end| end.format(&Rfc3339).ok());
        let end = end.map_or_else(|| "until revoked".to_owned(), |end| format!("until {end}"));
        format!("{}, {end}", scopes.join(", "))
    }
}
