//! Files that earlier runs have left, given to the user that the daemon becomes: those of root to
//! another, and those of another to root, who writes no more in what is not his.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, FileTypeExt as _},
    },
    path::Path,
};

use nix::{
    fcntl::{AtFlags, OFlag, open},
    sys::stat::{Mode, SFlag, fchmod, fstat},
    unistd::{Uid, fchown, fchownat},
};

use super::account::Account;

/// Directories in one another, and files of a directory, that are handed over: the state directory
/// has a handful, and pins lie four deep.
const DEEPEST: usize = 8;
const MOST: usize = 65_536;

/// Gives `directory` to the user, with what is in it, and makes it if it is not there. What cannot be
/// given stays root's: whoever opens it says so, with the remedy.
pub(super) fn give(directory: &Path, account: &Account) {
    let _ = make(directory, 0o755);
    let mut left = MOST;
    let _ = give_below(directory, account, DEEPEST, &mut left);
}

/// Makes a directory, if need be, in which both root and the user write: locks are taken by the daemon
/// and by root's `packetwatch detach`.
pub(super) fn share(directory: &Path, account: &Account) {
    let _ = make(directory, 0o755);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(fd) = open(directory, flags, Mode::empty()) else {
        return;
    };
    let group = (!account.is_root()).then_some(account.gid);
    let _ = fchown(&fd, Some(Uid::from_raw(0)), group);
    if group.is_some() {
        let _ = fchmod(&fd, Mode::from_bits_truncate(0o775));
    }
    // Nobody else may open a lock, and root that has given up its rights over files is one more user.
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let locks = entries.map(|entry| entry.path());
    for lock in locks.filter(|path| path.extension().is_some_and(|end| end == "lock")) {
        let _ = give_below(&lock, account, 0, &mut 1);
    }
}

/// As [`give`], if it is new, empty, or holds a file called `mark`: nobody's `/var/lib` becomes the
/// daemon's by a slip of the configuration.
pub(super) fn give_if_ours(directory: &Path, mark: &str, account: &Account) {
    let is_empty = || fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none());
    if make(directory, 0o700).is_ok() || directory.join(mark).is_file() || is_empty() {
        give(directory, account);
    }
}

/// Gives the socket that a killed daemon has left, and its directory if that is new or holds nothing
/// else.
pub(super) fn give_socket(socket: &Path, account: &Account) {
    let is_socket = |found: fs::Metadata| found.file_type().is_socket();
    if fs::symlink_metadata(socket).is_ok_and(is_socket) {
        let _ = give_below(socket, account, 0, &mut 1);
    }
    let Some(directory) = socket.parent() else {
        return;
    };
    let is_it = |entry: io::Result<fs::DirEntry>| entry.is_ok_and(|entry| entry.path() == socket);
    let holds_no_more =
        || fs::read_dir(directory).is_ok_and(|entries| entries.into_iter().all(is_it));
    if make(directory, 0o755).is_ok() || holds_no_more() {
        give(directory, account);
    }
}

/// # Errors
/// It cannot be made, or is there.
fn make(directory: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = directory.parent() {
        fs::create_dir_all(parent)?;
    }
    DirBuilder::new().mode(mode).create(directory)
}

/// The user may write in its directories, so a name may lead elsewhere by now: what is given is what a
/// descriptor stands for that followed no link, and no file that has a second name.
fn give_below(path: &Path, account: &Account, depth: usize, left: &mut usize) -> io::Result<()> {
    let Some(fewer) = left.checked_sub(1) else {
        return Ok(());
    };
    *left = fewer;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let fd = open(path, flags, Mode::empty())?;
    let found = fstat(&fd)?;
    let is_directory =
        SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) == SFlag::S_IFDIR;
    if !is_directory && found.st_nlink > 1 {
        return Ok(());
    }
    if found.st_uid != account.uid.as_raw() {
        chown(&fd, account)?;
    }
    if !is_directory || depth == 0 {
        return Ok(());
    }
    // By the descriptor: the path may be another directory's now.
    let here = format!("/proc/self/fd/{}", fd.as_raw_fd());
    for entry in fs::read_dir(&here)? {
        // One that cannot be given keeps none of the others.
        let _ = give_below(&entry?.path(), account, depth - 1, left);
    }
    Ok(())
}

fn chown(fd: &OwnedFd, account: &Account) -> io::Result<()> {
    let (uid, gid) = (Some(account.uid), Some(account.gid));
    Ok(fchownat(fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?)
}
