//! Why rules, mode or bypass were not changed.

use std::{io, path::PathBuf};

use packetwatch_abi::MAX_BAN_LENGTHS;

use crate::{
    dataplane,
    pending::InTheWay,
    rules::{RuleErrors, RulesTextError},
};

#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error(transparent)]
    Invalid(#[from] RuleErrors),
    #[error(
        "{}: {source}; mend the file, or remove it, and the rules are those of the configuration (while \
         the daemon runs, `packetwatch rules reset` does)", path.display()
    )]
    File {
        path: PathBuf,
        #[source]
        source: Box<RulesTextError>,
    },
    #[error(
        "{}: {cause}; remove the file, and mode and rules are those of the configuration and of \
         rules.toml, with no bypass and nothing on trial", path.display()
    )]
    Control { path: PathBuf, cause: String },
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
    #[error(transparent)]
    InTheWay(#[from] InTheWay),
    #[error(transparent)]
    Kernel(#[from] dataplane::Error),
}

impl RulesError {
    /// Of what comes after this was done: what the disk has refused is left to be written.
    pub(super) fn after(self, done: &'static str) -> Self {
        match self {
            Self::Io { .. } => Self::Unwritten {
                done,
                cause: Box::new(self),
            },
            error => error,
        }
    }
}
