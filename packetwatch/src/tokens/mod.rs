//! The tokens of the TCP listener: who may ask for what, until when.
//!
//! `tokens.json` in the state directory holds names, scopes and hashes; the text of a token is
//! shown once, when it is made. The first start makes one with every right and writes it to the
//! file `token`, the only credential kept in clear. `peers.json` has from where calls with them came
//! within the hour: those who are at work when the daemon is started again.

mod file;
mod grant;
mod kept;
mod scope;
mod secret;
mod seen;
#[cfg(test)]
mod tests;
mod token;

use std::{
    collections::HashSet,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use subtle::ConstantTimeEq as _;
use time::OffsetDateTime;

pub use file::TokenFileError;
pub use grant::Grant;
pub use scope::Scope;
pub use secret::{Secret, mask};
pub use token::{NewToken, Token, TokenError, Unaccepted};

use crate::{clock::Clock, log::EVENT};
use file::Record;
use grant::Held;
use kept::Kept;
use seen::Seen;

/// Tokens at a time. When there are so many, those that have expired give way.
pub const MAX_TOKENS: usize = 256;
/// Bytes of a name.
pub const MAX_NAME: usize = 64;
/// The name of the one that the first start makes.
const FIRST_NAME: &str = "first";

/// Every token, and from where they were accepted. Clones share them.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    directory: PathBuf,
    /// The right to change them, held while the disk is written; who asks never waits for that.
    changing: Mutex<()>,
    held: RwLock<Vec<Arc<Held>>>,
    seen: Seen,
    kept: Kept,
    clock: Clock,
}

impl Tokens {
    /// Reads the tokens of `state_dir`, and who was let in with them before this start; makes the first
    /// one at the first start. Where the file of all is damaged, there is none.
    ///
    /// # Errors
    /// [`TokenError`] with the file and the remedy. The text of a token is in no error.
    pub fn open(state_dir: &Path, clock: Clock) -> Result<Self, TokenError> {
        let first = file::read_first(state_dir)?;
        let records = match (file::read_all(state_dir)?, first) {
            (Some(records), first) => {
                let known = |first: &Secret| {
                    let sha256 = first.sha256();
                    records.iter().any(|record| record.sha256 == sha256)
                };
                if first.is_some_and(|first| !known(&first)) {
                    tracing::warn!(
                        "the token in {} is none of this daemon's and opens nothing: remove the \
                         file, and make tokens with `packetwatch token create`",
                        state_dir.join(file::FIRST).display()
                    );
                }
                records
            }
            (None, first) => {
                let first = match first {
                    Some(first) => first,
                    None => {
                        let first = Secret::random().map_err(TokenError::Random)?;
                        // Before its hash is: a crash between the two must not lose its text.
                        file::write_first(state_dir, &first)?;
                        first
                    }
                };
                let records = vec![first_of(&first)?];
                file::write_all(state_dir, &records.iter().collect::<Vec<_>>())?;
                records
            }
        };
        Ok(Self::of(state_dir, records, clock))
    }

    /// Whether a daemon has made tokens here before.
    pub fn are_in(state_dir: &Path) -> bool {
        state_dir.join(file::ALL).exists()
    }

    fn of(directory: &Path, records: Vec<Record>, clock: Clock) -> Self {
        let kept = Kept::open(directory, clock);
        Self(Arc::new(Shared {
            directory: directory.to_owned(),
            changing: Mutex::default(),
            held: RwLock::new(records.into_iter().map(Held::new).collect()),
            seen: Seen::of(kept.read()),
            kept,
            clock,
        }))
    }

    /// The right that a presented text gives. Takes the same time whichever token it is, if any.
    pub fn accept(&self, presented: &str, now: OffsetDateTime) -> Result<Grant, Unaccepted> {
        // Whoever sends kilobytes has them hashed by nobody.
        let presented = Secret::parse(presented)
            .ok_or(Unaccepted::Unknown)?
            .sha256();
        let mut found = None;
        for held in self.held().iter() {
            if held.record.sha256.ct_eq(&presented).into() {
                found = Some(Arc::clone(held));
            }
        }
        let held = found.ok_or(Unaccepted::Unknown)?;
        if held.record.token.is_expired(now) {
            return Err(Unaccepted::Expired);
        }
        Ok(held.grant(now))
    }

    /// Every token, the oldest first, and when this daemon accepted it last.
    pub fn list(&self) -> Vec<(Token, Option<OffsetDateTime>)> {
        let held = self.held();
        let listed = held.iter();
        listed
            .map(|held| (held.record.token.clone(), held.used()))
            .collect()
    }

    /// Makes a token; it is on disk when its text is returned. Blocks on the disk.
    ///
    /// # Errors
    /// [`TokenError::Taken`], [`TokenError::Full`], [`TokenError::File`].
    pub fn create(
        &self,
        new: NewToken,
        now: OffsetDateTime,
    ) -> Result<(Token, Secret), TokenError> {
        let _changing = self.changing();
        let mut held = self.held().clone();
        if held.len() >= MAX_TOKENS {
            held.retain(|held| !held.record.token.is_expired(now));
        }
        if held.len() >= MAX_TOKENS {
            return Err(TokenError::Full);
        }
        let is_taken = |text: &str| held.iter().any(|held| held.is_called(text));
        let mut id = secret::new_id().map_err(TokenError::Random)?;
        while is_taken(&id) {
            id = secret::new_id().map_err(TokenError::Random)?;
        }
        let name = new.name.unwrap_or_else(|| id.clone());
        if is_taken(&name) {
            return Err(TokenError::Taken(name));
        }
        let mut scopes = new.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let token = Token {
            id,
            name,
            scopes,
            created_at: now,
            // A length beyond the calendar is for ever.
            expires_at: new
                .ttl
                .and_then(|ttl| now.checked_add(ttl.try_into().ok()?)),
        };
        let secret = Secret::random().map_err(TokenError::Random)?;
        held.push(Held::new(Record {
            token: token.clone(),
            sha256: secret.sha256(),
        }));
        self.keep(held)?;
        tracing::info!(
            target: EVENT,
            {
                event.action = "token-created",
                packetwatch.token = token.name,
                packetwatch.after = token.described(),
            },
            "token {} made: {}", token.name, token.described()
        );
        Ok((token, secret))
    }

    /// Ends a token by its id or name: the next request with it is refused, and its event streams
    /// end. Blocks on the disk.
    ///
    /// # Errors
    /// [`TokenError::NotFound`], [`TokenError::File`].
    pub fn revoke(&self, called: &str) -> Result<Token, TokenError> {
        let _changing = self.changing();
        let mut held = self.held().clone();
        let Some(place) = held.iter().position(|held| held.is_called(called)) else {
            return Err(TokenError::NotFound(called.to_owned()));
        };
        let gone = held.remove(place);
        self.keep(held)?;
        gone.end();
        if let Err(error) = file::remove_first(&self.0.directory, &gone.record.sha256) {
            tracing::warn!(
                error.message = %error,
                "token {} is revoked, and its text still in a file", gone.record.token.name
            );
        }
        let token = gone.record.token.clone();
        tracing::info!(
            target: EVENT,
            {
                event.action = "token-revoked",
                packetwatch.token = token.name,
                packetwatch.before = token.described(),
            },
            "token {} revoked", token.name
        );
        Ok(token)
    }

    /// Notes that a call with this token was let in from this address.
    pub fn note(&self, grant: &Grant, address: IpAddr) {
        let now = self.0.clock.monotonic_ns();
        self.0.seen.note(address, &grant.token().id, now);
    }

    /// Remote addresses of calls that were let in within the last hour, with tokens that are still
    /// good: at most 256.
    pub fn seen(&self) -> Vec<IpAddr> {
        let utc = self.0.clock.utc();
        let held = self.held();
        let good = held.iter().map(|held| &held.record.token);
        let good = good.filter(|token| !token.is_expired(utc));
        let good: HashSet<&str> = good.map(|token| token.id.as_str()).collect();
        let now = self.0.clock.monotonic_ns();
        let seen = self.0.seen.within(now, |id| good.contains(id));
        seen.into_iter().collect()
    }

    /// Writes those whom [`Tokens::seen`] tells for the next start, unless the disk has them already.
    /// Whose last call there is at most `slack` too early is left. Blocks on the disk.
    ///
    /// # Errors
    /// [`TokenFileError::File`].
    pub fn keep_seen(&self, slack: Duration) -> Result<(), TokenFileError> {
        let Shared { kept, clock, .. } = &*self.0;
        self.seen();
        kept.write(self.0.seen.ends(), slack, *clock)
            .map_err(file::failed("write", kept.path()))
    }

    /// On disk, then in force.
    fn keep(&self, held: Vec<Arc<Held>>) -> Result<(), TokenFileError> {
        let records: Vec<&Record> = held.iter().map(|held| &held.record).collect();
        file::write_all(&self.0.directory, &records)?;
        *self.0.held.write().unwrap_or_else(PoisonError::into_inner) = held;
        Ok(())
    }

    fn held(&self) -> std::sync::RwLockReadGuard<'_, Vec<Arc<Held>>> {
        self.0.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> std::sync::MutexGuard<'_, ()> {
        let changing = self.0.changing.lock();
        changing.unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the text of the first token opens: everything, for ever.
fn first_of(secret: &Secret) -> Result<Record, TokenError> {
    Ok(Record {
        token: Token {
            id: secret::new_id().map_err(TokenError::Random)?,
            name: FIRST_NAME.to_owned(),
            scopes: vec![Scope::Admin],
            created_at: OffsetDateTime::now_utc(),
            expires_at: None,
        },
        sha256: secret.sha256(),
    })
}
