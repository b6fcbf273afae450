//! The token of the TCP listener: made at the first start, kept in memory as its hash alone.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    net::IpAddr,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use time::OffsetDateTime;

/// The file in the state directory, readable by its owner alone.
const TOKEN_FILE: &str = "token";
/// Marks the string for people and for scanners of leaked secrets.
const MARK: &str = "pw_";
/// How long after its last accepted request an address counts as a peer.
const SEEN_FOR: time::Duration = time::Duration::HOUR;
/// 256 bits: nobody guesses it, so a fast hash is enough.
const RANDOM_BYTES: usize = 32;
const TOKEN_LENGTH: usize = MARK.len() + 2 * RANDOM_BYTES;
/// Addresses remembered by [`Tokens::seen`]; the one seen longest ago gives way.
pub(super) const MAX_SEEN: usize = 256;

/// Why there is no token to ask for.
#[derive(Debug, Error)]
pub enum TokenError {
    #[error("cannot {verb} the API token {}: {source}; check the directory, or move the file aside and a new token is made", path.display())]
    File {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the API token {} is damaged: move it aside and a new one is made at the next start", .0.display())]
    Damaged(PathBuf),
}

/// What TCP clients must present, and from where it was accepted.
///
/// To change the token, remove the file and start the daemon again.
#[derive(Clone)]
pub struct Tokens(Arc<Shared>);

struct Shared {
    hash: [u8; 32],
    seen: Mutex<HashMap<IpAddr, OffsetDateTime>>,
}

impl Tokens {
    /// Reads the token of `state_dir`, or makes it at the first start.
    ///
    /// # Errors
    /// [`TokenError`] with the file and the remedy. The text of a token is in no error.
    pub fn open(state_dir: &Path) -> Result<Self, TokenError> {
        let path = state_dir.join(TOKEN_FILE);
        let token = match read(&path) {
            Ok(token) => token,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                create(&path).map_err(failed("write", &path))?
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Err(TokenError::Damaged(path));
            }
            Err(error) => return Err(failed("read", &path)(error)),
        };
        if !is_token(&token) {
            return Err(TokenError::Damaged(path));
        }
        Ok(Self::of(&token))
    }

    pub(super) fn of(token: &str) -> Self {
        Self(Arc::new(Shared {
            hash: Sha256::digest(token).into(),
            seen: Mutex::default(),
        }))
    }

    /// Whether this is the token; takes the same time whatever the answer.
    pub fn accepts(&self, presented: &str) -> bool {
        let presented: [u8; 32] = Sha256::digest(presented).into();
        self.0.hash.ct_eq(&presented).into()
    }

    /// Notes that the token was accepted from this address.
    pub(super) fn note(&self, address: IpAddr, at: OffsetDateTime) {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= MAX_SEEN && !seen.contains_key(&address) {
            let oldest = seen
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(addr, _)| *addr);
            oldest.and_then(|address| seen.remove(&address));
        }
        seen.insert(address, at);
    }

    /// Remote addresses whose token was accepted within the last hour and when last, at most
    /// [`MAX_SEEN`].
    pub fn seen(&self) -> Vec<(IpAddr, OffsetDateTime)> {
        let mut seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = OffsetDateTime::now_utc() - SEEN_FOR;
        seen.retain(|_, at| *at > oldest);
        seen.iter().map(|(address, at)| (*address, *at)).collect()
    }
}

fn failed<'p>(verb: &'static str, path: &'p Path) -> impl FnOnce(io::Error) -> TokenError + 'p {
    move |source| TokenError::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

fn is_token(text: &str) -> bool {
    let digits = text.strip_prefix(MARK);
    text.len() == TOKEN_LENGTH
        && digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn read(path: &Path) -> io::Result<String> {
    let file = File::open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            "{} had mode {mode:04o}, which let others read the API token: set to 0600; consider a \
             new token",
            path.display()
        );
        file.set_permissions(Permissions::from_mode(0o600))?;
    }
    let mut text = String::new();
    file.take(4 * TOKEN_LENGTH as u64)
        .read_to_string(&mut text)?;
    Ok(text.trim().to_owned())
}

/// Writes a new token so that after a crash there is a whole one or none.
fn create(path: &Path) -> io::Result<String> {
    let mut random = [0; RANDOM_BYTES];
    File::open("/dev/urandom")?.read_exact(&mut random)?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("{MARK}{digits}");
    let unfinished = path.with_extension("new");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.open(&unfinished)?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(file, "{token}")?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    path.parent()
        .map(File::open)
        .transpose()?
        .map(|dir| dir.sync_all())
        .transpose()?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn the_first_start_makes_a_token_and_the_second_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TOKEN_FILE);
        Tokens::open(dir.path()).unwrap();
        let token = fs::read_to_string(&path).unwrap();
        assert!(is_token(token.trim()), "{token}");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let again = Tokens::open(dir.path()).unwrap();
        assert!(again.accepts(token.trim()));
        assert!(!again.accepts(&token), "the line end is no part of it");
        assert!(!again.accepts(""));
        let other = tempfile::tempdir().unwrap();
        assert!(!Tokens::open(other.path()).unwrap().accepts(token.trim()));
    }

    #[test]
    fn a_damaged_token_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["", "pw_secret", &"x".repeat(10_000)] {
            fs::write(dir.path().join(TOKEN_FILE), text).unwrap();
            let error = Tokens::open(dir.path()).err().unwrap().to_string();
            assert!(error.contains("is damaged"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_token_that_others_could_read_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(TOKEN_FILE);
        Tokens::open(dir.path()).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        Tokens::open(dir.path()).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn an_address_is_forgotten_after_an_hour() {
        let tokens = Tokens::of("pw_");
        let [late, early] = [1, 2].map(|n| IpAddr::from([192, 0, 2, n]));
        let now = OffsetDateTime::now_utc();
        tokens.note(late, now - SEEN_FOR + time::Duration::MINUTE);
        tokens.note(early, now - SEEN_FOR);
        let seen: Vec<_> = tokens.seen().into_iter().map(|(addr, _)| addr).collect();
        assert_eq!(seen, [late]);
    }

    #[test]
    fn addresses_are_remembered_up_to_the_bound() {
        let tokens = Tokens::of("pw_");
        let start = OffsetDateTime::now_utc();
        let address = |n: usize| IpAddr::from(Ipv4Addr::from_bits(n as u32));
        for n in 0..=MAX_SEEN {
            tokens.note(address(n), start + time::Duration::seconds(n as i64));
            assert_eq!(tokens.seen().len(), (n + 1).min(MAX_SEEN));
        }
        let seen: Vec<_> = tokens.seen().into_iter().map(|(addr, _)| addr).collect();
        assert!(!seen.contains(&address(0)), "the oldest gave way");
        assert!(seen.contains(&address(1)) && seen.contains(&address(MAX_SEEN)));
        tokens.note(address(1), start);
        assert_eq!(
            tokens.seen().len(),
            MAX_SEEN,
            "a known one makes no other give way"
        );
    }
}
