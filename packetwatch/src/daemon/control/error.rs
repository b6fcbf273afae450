//! Why rules, mode or bypass were not changed.

use std::{
    io,
    path::{Path, PathBuf},
};

use packetwatch_abi::MAX_BAN_LENGTHS;

use crate::{
    dataplane, lists::JournalError, pending::InTheWay, rules::RuleErrors, state_file::Unread,
};

#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error(transparent)]
    Invalid(#[from] RuleErrors),
    #[error(
        "{} has version {version}, newer than this packetwatch knows: run the newer packetwatch, or move \
         the file aside, and mode and rules are those of the configuration and of rules.toml, with no \
         bypass and nothing on trial", path.display()
    )]
    Newer { path: PathBuf, version: u64 },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It is done, and on disk as soon as the disk takes it.
    #[error(
        "{done}, but that is not on disk: {cause}. It is tried again every second; a restart before it is \
         written would undo it"
    )]
    Unwritten {
        done: &'static str,
        cause: Box<RulesError>,
    },
    #[error(
        "bans of {lengths} different prefix lengths would stand beside each other, and the kernel \
         looks under {MAX_BAN_LENGTHS}: wait for bans to end or remove some"
    )]
    TooManyLengths { lengths: usize },
    #[error("a restore is not finished: {0}")]
    Unfinished(#[from] JournalError),
    #[error(transparent)]
    InTheWay(#[from] InTheWay),
    #[error(transparent)]
    Kernel(#[from] dataplane::Error),
}

impl RulesError {
    /// Of a file that is not damaged.
    pub(super) fn unread(path: &Path, unread: Unread) -> Self {
        let path = path.to_owned();
        let source = match unread {
            Unread::Newer(version) => return Self::Newer { path, version },
            Unread::Io(error) => error,
            Unread::Damaged(cause) => io::Error::new(io::ErrorKind::InvalidData, cause),
        };
        Self::Io {
            operation: "read",
            path,
            source,
        }
    }

    /// Of what comes after this was done: what the disk has refused is left to be written.
    pub(super) fn after(self, done: &'static str) -> Self {
        match self {
            Self::Io { .. } | Self::Unfinished(_) => Self::Unwritten {
                done,
                cause: Box::new(self),
            },
            error => error,
        }
    }
}
