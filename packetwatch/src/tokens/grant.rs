//! What is known of a token while the daemon runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::{Scope, Token, file::Record};

/// An accepted token.
#[derive(Clone, Debug)]
pub struct Grant(Arc<Held>);

#[derive(Debug)]
pub(super) struct Held {
    pub(super) record: Record,
    /// Unix seconds of when this daemon accepted it last; 0 is never.
    used: AtomicI64,
    revoked: CancellationToken,
}

impl Grant {
    pub fn token(&self) -> &Token {
        &self.0.record.token
    }

    pub fn permits(&self, needed: Scope) -> bool {
        needed.is_in(&self.token().scopes)
    }

    /// Returns when the token has expired or was revoked.
    pub async fn ended(&self) {
        let expired = async {
            let Some(end) = self.token().expires_at else {
                return std::future::pending().await;
            };
            // By short steps, so that a clock that is set counts.
            while OffsetDateTime::now_utc() < end {
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        tokio::select! {
            () = self.0.revoked.cancelled() => {}
            () = expired => {}
        }
    }
}

impl Held {
    pub(super) fn new(record: Record) -> Arc<Self> {
        Arc::new(Self {
            record,
            used: AtomicI64::new(0),
            revoked: CancellationToken::new(),
        })
    }

    /// Accepts it.
    pub(super) fn grant(self: Arc<Self>, now: OffsetDateTime) -> Grant {
        self.used.store(now.unix_timestamp(), Ordering::Relaxed);
        Grant(self)
    }

    /// When it was accepted last.
    pub(super) fn used(&self) -> Option<OffsetDateTime> {
        let used = self.used.load(Ordering::Relaxed);
        let used = (used != 0).then(|| OffsetDateTime::from_unix_timestamp(used).ok());
        used.flatten()
    }

    /// Ends what it was accepted for.
    pub(super) fn end(&self) {
        self.revoked.cancel();
    }

    pub(super) fn is_called(&self, text: &str) -> bool {
        let Token { id, name, .. } = &self.record.token;
        id == text || name == text
    }
}
