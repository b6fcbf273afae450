//! Tokens on disk: the hashes of all, and the first one in clear for whoever sets the host up.

use std::{
    fs::{File, Permissions},
    io::{self, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{Token, secret::Secret};
use crate::durable;

/// The file of the first token, in clear.
pub(super) const FIRST: &str = "token";
/// The file of all tokens' hashes.
pub(super) const ALL: &str = "tokens.json";
/// Readable by their owner alone.
const MODE: u32 = 0o600;
/// 256 tokens with the longest names take a quarter of it.
const MAX_FILE: u64 = 256 * 1024;
const VERSION: u64 = 1;

/// Why tokens cannot be read or written.
#[derive(Debug, Error)]
pub enum TokenFileError {
    #[error("cannot {verb} {}: {source}; check the state directory and its disk", path.display())]
    File {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("the API token {} is damaged: move it aside; if {ALL} lies beside it the daemon starts without it, else a new one is made at the next start", .0.display())]
    DamagedFirst(PathBuf),
    #[error("the API tokens {} are damaged ({cause}): move the file aside, and of all tokens the one in the file {FIRST} stays good", path.display())]
    Damaged { path: PathBuf, cause: String },
    #[error("the API tokens {} have version {version}, newer than {VERSION}, which this daemon reads: run the newer packetwatch, or put the file of the earlier one back from a backup", path.display())]
    Newer { path: PathBuf, version: u64 },
}

/// Of [`ALL`], whatever else is in it.
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

/// The first token; `None` where there is no such file.
pub(super) fn read_first(directory: &Path) -> Result<Option<Secret>, TokenFileError> {
    let path = directory.join(FIRST);
    let text = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => None,
        read => match read.map_err(failed("read", &path))? {
            None => return Ok(None),
            text => text,
        },
    };
    let secret = text.and_then(|text| Secret::parse(text.trim()));
    let secret = secret.ok_or(TokenFileError::DamagedFirst(path))?;
    Ok(Some(secret))
}

/// Every token; `None` where there is no such file.
pub(super) fn read_all(directory: &Path) -> Result<Option<Vec<Record>>, TokenFileError> {
    let path = directory.join(ALL);
    let damaged = |cause: &dyn std::fmt::Display| TokenFileError::Damaged {
        path: path.clone(),
        cause: cause.to_string(),
    };
    let text = match read(&path) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => return Err(damaged(&error)),
        read => match read.map_err(failed("read", &path))? {
            None => return Ok(None),
            Some(text) => text,
        },
    };
    // What serde says of a value may quote it, and so a hash; where it is will do.
    let unread = |error: serde_json::Error| {
        let (line, column) = (error.line(), error.column());
        damaged(&format_args!("at {line}:{column}"))
    };
    // First: a newer one may hold what this build takes for damage.
    let Version { version } = serde_json::from_str(&text).map_err(unread)?;
    if version > VERSION {
        return Err(TokenFileError::Newer { path, version });
    }
    if version != VERSION {
        return Err(damaged(&format_args!("version {version}")));
    }
    let contents: Contents<Record> = serde_json::from_str(&text).map_err(unread)?;
    Ok(Some(contents.tokens))
}

pub(super) fn write_first(directory: &Path, secret: &Secret) -> Result<(), TokenFileError> {
    let path = directory.join(FIRST);
    write(&path, &format!("{}\n", secret.as_str())).map_err(failed("write", &path))
}

pub(super) fn write_all(directory: &Path, tokens: &[&Record]) -> Result<(), TokenFileError> {
    let path = directory.join(ALL);
    let contents = Contents {
        version: VERSION,
        tokens: tokens.to_vec(),
    };
    let text = serde_json::to_string_pretty(&contents)
        .map_err(io::Error::other)
        .map_err(failed("write", &path))?;
    write(&path, &text).map_err(failed("write", &path))
}

/// Removes the first token's file, if it holds this one.
pub(super) fn remove_first(directory: &Path, sha256: &[u8; 32]) -> Result<(), TokenFileError> {
    let path = directory.join(FIRST);
    match read_first(directory) {
        Ok(Some(first)) if first.sha256() == *sha256 => {
            durable::remove(&path).map_err(failed("remove", &path))
        }
        _ => Ok(()),
    }
}

fn failed<'p>(verb: &'static str, path: &'p Path) -> impl Fn(io::Error) -> TokenFileError + 'p {
    move |source| TokenFileError::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
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
    let mut text = String::new();
    match file.take(MAX_FILE + 1).read_to_string(&mut text)? as u64 {
        0..=MAX_FILE => Ok(Some(text)),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "longer than any daemon writes it",
        )),
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    durable::replace(path, text.as_bytes(), MODE)
}
