//! Why a list could not be opened or written.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use ipnet::IpNet;
use thiserror::Error;

use super::{entry::List, protecting::MAX_PROTECTED};
use crate::{dataplane, pending::InTheWay};

/// Why the lists could not be opened. The filter does not start with less than was promised.
#[derive(Debug, Error)]
pub enum OpenError {
    #[error("state directory {path}: {source}; make it writable or set another state_dir")]
    Directory { path: PathBuf, source: io::Error },
    #[error(
        "journal {path} is in use by another packetwatch: stop that one, or set another state_dir"
    )]
    Locked { path: PathBuf },
    #[error(
        "journal {path} is damaged ({cause}): move the file aside to start with empty lists, or put a backup in its place"
    )]
    Damaged { path: PathBuf, cause: String },
    #[error(
        "journal {path} has version {found}, this packetwatch knows versions up to {known}: run the newer packetwatch, or move the file aside to start with empty lists"
    )]
    Newer {
        path: PathBuf,
        found: u64,
        known: u64,
    },
    #[error("journal {0}; see to the state directory's disk, or set another state_dir")]
    Journal(JournalError),
    #[error(
        "the journal holds {found} entries of {table}, more than the capacity of {capacity}: raise capacity.{table} in the configuration"
    )]
    Capacity {
        /// "lists" or "bans", the key in the configuration
        table: &'static str,
        found: usize,
        capacity: u32,
    },
    #[error("lists were read from the journal but not put into the kernel: {0}")]
    Kernel(#[from] dataplane::Error),
    #[error("journal writer thread: {0}")]
    Thread(io::Error),
}

/// The store failed below: the file, and redb's words.
#[derive(Debug, Error)]
#[error("{path}: {cause}")]
pub struct JournalError {
    path: PathBuf,
    /// boxed, since it is large and rare
    cause: Box<redb::Error>,
}

impl JournalError {
    pub(super) fn new(path: &Path, cause: redb::Error) -> Self {
        let (path, cause) = (path.to_owned(), Box::new(cause));
        Self { path, cause }
    }
}

/// Why a call on the lists changed nothing, but for [`WriteError::TakenBack`].
#[derive(Debug, Error)]
pub enum WriteError {
    #[error(
        "{list} is full, at its capacity of {capacity} entries: remove some, or raise capacity.{list} in the configuration"
    )]
    Full {
        /// "lists" (allow and deny together) or "bans", the key in the configuration
        list: &'static str,
        capacity: u32,
    },
    #[error("{}", protected_message(.list, .prefixes))]
    Protected { list: List, prefixes: Vec<IpNet> },
    #[error(
        "{left_out} prefixes are not protected, beyond the {MAX_PROTECTED} that there is room for: take some out of [protect] extra, or switch protect.self, protect.gateway or protect.sessions off"
    )]
    Unprotected { left_out: usize },
    #[error("{prefix} is not in the {list} list")]
    NotFound {
        /// "allow", "deny" or "bans"
        list: &'static str,
        prefix: IpNet,
    },
    #[error(
        "the ttl of {prefix} is {ttl:?}: it must be more than nothing and end before the year 10000"
    )]
    Ttl { prefix: IpNet, ttl: Duration },
    #[error(transparent)]
    InTheWay(#[from] InTheWay),
    #[error("{cursor:?} is not a cursor: use the value of \"next\" in the page before")]
    Cursor { cursor: String },
    #[error(
        "not written to the journal {0}; nothing was changed. See to the state directory's disk and try again"
    )]
    Journal(#[from] JournalError),
    #[error(
        "the change is taken back, but not written to the journal {0}: it would be on trial again, to its end, if the daemon were restarted before it can be. See to the state directory's disk"
    )]
    TakenBack(JournalError),
    #[error("the kernel refused, nothing was changed: {0}")]
    Kernel(#[from] dataplane::Error),
}

fn protected_message(list: &List, prefixes: &[IpNet]) -> String {
    const SHOWN: usize = 5;
    let mut named: Vec<String> = prefixes.iter().take(SHOWN).map(IpNet::to_string).collect();
    if prefixes.len() > SHOWN {
        named.push(format!("{} more", prefixes.len() - SHOWN));
    }
    let named = named.join(", ");
    match list {
        List::Deny => format!(
            "{named} is protected: denying it may cut you off. If you mean it, deny it with force"
        ),
        List::Allow => format!(
            "{named} is allowed by [protect]: change that section of the configuration, or deny the prefix with force"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_what_is_protected_and_is_bounded() {
        let prefixes = (0..7u8).map(|i| IpNet::from(std::net::IpAddr::from([192, 0, 2, i])));
        let error = WriteError::Protected {
            list: List::Deny,
            prefixes: prefixes.collect(),
        };
        let message = error.to_string();
        assert!(message.starts_with("192.0.2.0/32, "), "{message}");
        assert!(
            message.contains("192.0.2.4/32, 2 more is protected"),
            "{message}"
        );
    }
}
