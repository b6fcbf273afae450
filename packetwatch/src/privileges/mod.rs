//! What this process may do, and how it gives up the rest.
//!
//! ```text
//!  root ─► Reduction::here: its files to the user ─► the user ─┐
//!  the user with three capabilities, by the unit file ─────────┴─► three capabilities
//!                     ─► the program is loaded ─► loaded: two ─► confine: few system calls
//! ```
//!
//! All of it but the last step is done by the only thread there is, before the log's and the event
//! loop's: the kernel keeps capabilities by thread, and a thread inherits those it is started with. So
//! attaching anew uses the same rights as attaching at the start. The system call filter is put on all
//! threads at once, before anybody can ask the API.
//!
//! What each right is for stands in ARCHITECTURE.md.

mod account;
mod capabilities;
mod handover;
mod syscalls;
mod view;

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};
use thiserror::Error;

use account::Account;
pub use account::{Wanted, own_name};
pub use syscalls::confine;

/// Why the process cannot give up what it should.
#[derive(Debug, Error)]
pub enum PrivilegeError {
    #[error(
        "there is no user {name} on this host to run as: make it with `useradd --system {name}`, or \
         name another `user` in the configuration; `user = \"root\"` keeps root's id, without its \
         capabilities"
    )]
    NoUser { name: String },
    #[error("cannot {step}: {source}; run the daemon as root, or as its unit file does")]
    Refused {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "user {user} cannot reach {path}: {source}. Choose a directory that it may search, open \
         those above it (`chmod o+x`), or stay root with `user = \"root\"`"
    )]
    Unreachable {
        user: String,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// What the process is left with, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reduced {
    /// as it is called, or its number
    pub user: String,
    /// `CAP_BPF` and the like, in the kernel's order
    pub capabilities: Vec<String>,
}

/// The files that root hands to the user that it becomes.
#[derive(Debug)]
pub struct Reduction<'a> {
    pub wanted: Wanted<'a>,
    /// The state directory, and the name of a file in it that shows it to be one. Somebody else's
    /// directory is not taken, whatever the configuration says.
    pub state: (&'a Path, &'a str),
    /// Of locks, and of nothing else but the socket.
    pub locks: &'a Path,
    /// Where the API's socket will be.
    pub socket: Option<&'a Path>,
    /// On a BPF file system, whose root the user may be unable to search.
    pub pins: Option<&'a Path>,
}

impl Reduction<'_> {
    /// Reduces this process to what loading the program needs. It has one thread yet.
    ///
    /// # Errors
    /// There is no such user, it cannot reach its files, or the kernel refuses a step.
    pub fn here(self) -> Result<(), PrivilegeError> {
        let Self {
            wanted,
            state: (state, mark),
            locks,
            socket,
            pins,
        } = self;
        let account = Account::find(wanted)?;
        if let Some(account) = &account {
            handover::give_if_ours(state, mark, account);
            handover::share(locks, account);
            if let Some(socket) = socket {
                handover::give_socket(socket, account);
            }
            if let Some(pins) = pins {
                handover::give(pins, account);
                view::open_way(pins, account)?;
            }
        }
        capabilities::keep_for_loading(account.as_ref())?;
        if let Some(account) = account.filter(|account| !account.is_root()) {
            for path in [state, locks].into_iter().chain(pins) {
                reach(&account, path)?;
            }
        }
        Ok(())
    }
}

/// The program is loaded: gives up what only that needs. There is one thread yet.
///
/// # Errors
/// The kernel refuses it.
pub fn loaded() -> Result<Reduced, PrivilegeError> {
    Ok(Reduced {
        user: own_name(),
        capabilities: capabilities::keep_for_running()?,
    })
}

/// What is not there is for whoever needs it to tell.
fn reach(account: &Account, path: &Path) -> Result<(), PrivilegeError> {
    let all = AccessFlags::R_OK | AccessFlags::W_OK | AccessFlags::X_OK;
    match access(path, all) {
        Err(nix::Error::EACCES) => Err(PrivilegeError::Unreachable {
            user: account.name.clone(),
            path: path.to_owned(),
            source: nix::Error::EACCES.into(),
        }),
        _ => Ok(()),
    }
}

fn refused(step: &'static str) -> impl FnOnce(nix::Error) -> PrivilegeError {
    move |errno| PrivilegeError::Refused {
        step,
        source: errno.into(),
    }
}
