//! Tokens on disk: the hashes of all, and the first one in clear for whoever sets the host up.

use std::{
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{Token, secret::Secret};
use crate::{
    durable,
    state_file::{self, Instead, Unread},
};

/// The file of the first token, in clear.
pub(super) const FIRST: &str = "token";
/// The file of all tokens' hashes.
pub(super) const ALL: &str = "tokens.json";
/// Readable by their owner alone.
pub(super) const MODE: u32 = 0o600;
/// 256 tokens with the longest names take a quarter of it.
const MAX_FILE: u64 = 256 * 1024;
const VERSION: u64 = 1;
const FIRST_ASIDE: &str = "the tokens in tokens.json are as good as ever; without that file a new first \
     one is made";
const ALL_ASIDE: &str = "no token opens anything; make new ones with `packetwatch token create`, which \
     asks over the unix socket";

/// Why tokens cannot be read or written.
#[derive(Debug, Error)]
pub enum TokenFileError {
    #[error("cannot {verb} {}: {source}; check the state directory and its disk", path.display())]
    File {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the API tokens {} have version {version}, newer than {VERSION}, which this daemon reads: run the newer packetwatch, or put the file of the earlier one back from a backup", path.display())]
    Newer { path: PathBuf, version: u64 },
}

/// Of a file, whatever else is in it.
#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// What [`ALL`] holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents<T> {
    version: u64,
    tokens: Vec<T>,
}

/// A token and what is kept of its text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    #[serde(flatten)]
    pub token: Token,
    /// in hexadecimal digits
    #[serde(with = "super::secret::digits")]
    pub sha256: [u8; 32],
}

/// The first token; `None` where there is no such file, or a damaged one, which is set aside.
pub(super) fn read_first(directory: &Path) -> Result<Option<Secret>, TokenFileError> {
    let path = directory.join(FIRST);
    match first(&path) {
        Err(Unread::Damaged(cause)) => set_aside(&path, None, &cause, FIRST_ASIDE).map(|()| None),
        read => read.map_err(unread(&path)),
    }
}

/// Every token; `None` where there is no such file. In the place of a damaged one there is then one
/// without tokens: the first, which may have been revoked, is not taken for good.
pub(super) fn read_all(directory: &Path) -> Result<Option<Vec<Record>>, TokenFileError> {
    let path = directory.join(ALL);
    match all(&path) {
        Err(Unread::Damaged(cause)) => {
            let none = written(&[]).map_err(failed("write", &path))?;
            set_aside(&path, Some((none.as_bytes(), MODE)), &cause, ALL_ASIDE)?;
            Ok(Some(Vec::new()))
        }
        read => read.map_err(unread(&path)),
    }
}

fn first(path: &Path) -> Result<Option<Secret>, Unread> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let secret = Secret::parse(text.trim());
    let secret = secret.ok_or_else(|| Unread::Damaged("it is no token".to_owned()))?;
    Ok(Some(secret))
}

fn all(path: &Path) -> Result<Option<Vec<Record>>, Unread> {
    let Some(text) = read(path)? else {
        return Ok(None);
    };
    let contents: Contents<Record> = versioned(&text, VERSION)?;
    Ok(Some(contents.tokens))
}

/// What a text of this version holds.
pub(super) fn versioned<T: DeserializeOwned>(text: &str, known: u64) -> Result<T, Unread> {
    // What serde says of a value may quote it, and so a hash; where it is will do.
    let damaged = |error: serde_json::Error| {
        Unread::Damaged(format!("wrong at {}:{}", error.line(), error.column()))
    };
    // First: a newer one may hold what this build takes for damage.
    let Version { version } = serde_json::from_str(text).map_err(damaged)?;
    match version {
        version if version == known => serde_json::from_str(text).map_err(damaged),
        newer if newer > known => Err(Unread::Newer(newer)),
        other => Err(Unread::Damaged(format!("version {other}"))),
    }
}

pub(super) fn write_first(directory: &Path, secret: &Secret) -> Result<(), TokenFileError> {
    let path = directory.join(FIRST);
    write(&path, &format!("{}\n", secret.as_str())).map_err(failed("write", &path))
}

pub(super) fn write_all(directory: &Path, tokens: &[&Record]) -> Result<(), TokenFileError> {
    let path = directory.join(ALL);
    let text = written(tokens);
    text.and_then(|text| write(&path, &text))
        .map_err(failed("write", &path))
}

fn written(tokens: &[&Record]) -> io::Result<String> {
    let contents = Contents {
        version: VERSION,
        tokens: tokens.to_vec(),
    };
    serde_json::to_string_pretty(&contents).map_err(io::Error::other)
}

/// Removes the first token's file, if it holds this one.
pub(super) fn remove_first(directory: &Path, sha256: &[u8; 32]) -> Result<(), TokenFileError> {
    let path = directory.join(FIRST);
    match first(&path) {
        Ok(Some(first)) if first.sha256() == *sha256 => {
            durable::remove(&path).map_err(failed("remove", &path))
        }
        _ => Ok(()),
    }
}

pub(super) fn failed<'p>(
    verb: &'static str,
    path: &'p Path,
) -> impl Fn(io::Error) -> TokenFileError + 'p {
    move |source| TokenFileError::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

fn unread(path: &Path) -> impl Fn(Unread) -> TokenFileError + '_ {
    move |unread| match unread {
        Unread::Newer(version) => TokenFileError::Newer {
            path: path.to_owned(),
            version,
        },
        Unread::Io(error) => failed("read", path)(error),
        Unread::Damaged(cause) => failed("read", path)(io::Error::other(cause)),
    }
}

fn set_aside(
    path: &Path,
    instead: Option<Instead<'_>>,
    cause: &str,
    outcome: &str,
) -> Result<(), TokenFileError> {
    let set_aside = state_file::set_aside(path, instead, cause, outcome);
    set_aside.map_err(failed("set aside the damaged", path))
}

fn read(path: &Path) -> Result<Option<String>, Unread> {
    let Some(file) = state_file::open(path)? else {
        return Ok(None);
    };
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        tracing::warn!(
            "{} had mode {mode:04o}, which let others read API tokens: set to {MODE:04o}; consider \
             new ones",
            path.display()
        );
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    state_file::text(file, MAX_FILE).map(Some)
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    durable::replace(path, text.as_bytes(), MODE)
}
