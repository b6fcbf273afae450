//! The lock that keeps a second process off an interface.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use nix::{
    fcntl::{Flock, FlockArg, OFlag, open},
    sys::stat::Mode,
};

use super::AttachError;

/// Where the locks are.
pub const DIRECTORY: &str = "/run/packetwatch";

/// Somebody who tidies up holds a lock for the time of a few system calls.
const PATIENCE: [Duration; 4] = [Duration::from_millis(20); 4];

/// Held for as long as a process filters an interface, so that no second one takes it over. The
/// kernel lets go of it when the process ends, however it ends; the file goes with a clean end, or
/// with the next start.
#[derive(Debug)]
pub(super) struct Hold {
    file: Flock<fs::File>,
    path: PathBuf,
}

impl Hold {
    /// Whether it is that of an interface of this name.
    pub(super) fn is_of(&self, interface: &str) -> bool {
        let name = self.path.file_name().and_then(|name| name.to_str());
        name.and_then(parse).is_some_and(|(of, _)| of == interface)
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Before the lock is gone: whoever comes next makes a file of its own.
        if is_same(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Takes the lock of an interface of this network namespace.
///
/// # Errors
/// Another process has it.
pub(super) fn here(interface: &str) -> Result<Hold, AttachError> {
    let namespace = namespace().map_err(|source| AttachError::Pin {
        operation: "name the network namespace of",
        path: interface.into(),
        source,
    })?;
    hold(interface, namespace)
}

/// Takes the lock of an interface of a network namespace, which is named by its inode.
///
/// # Errors
/// Another process has it.
pub(super) fn hold(interface: &str, namespace: u64) -> Result<Hold, AttachError> {
    let mut waits = PATIENCE.into_iter();
    loop {
        match (try_hold(interface, namespace), waits.next()) {
            (Err(AttachError::HeldByUs { .. }), Some(wait)) => thread::sleep(wait),
            (held, _) => return held,
        }
    }
}

/// The same, and gives up at once.
pub(super) fn try_hold(interface: &str, namespace: u64) -> Result<Hold, AttachError> {
    let error = |operation, path: &Path, source| AttachError::Pin {
        operation,
        path: path.to_owned(),
        source,
    };
    let dir = Path::new(DIRECTORY);
    fs::create_dir_all(dir).map_err(|source| error("create", dir, source))?;
    let path = dir.join(format!("{interface}@{namespace}.lock"));
    loop {
        // To be read, since the one that is there may be root's, and to be no link: the directory may
        // belong to the daemon's user, for whom root makes no file elsewhere.
        let flags = OFlag::O_RDONLY | OFlag::O_CREAT | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = open(&path, flags, Mode::from_bits_truncate(0o644))
            .map_err(|errno| error("open", &path, errno.into()))?;
        let file = fs::File::from(file);
        let Ok(file) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            return Err(AttachError::HeldByUs {
                interface: interface.to_owned(),
                lock: path,
            });
        };
        // The one before may have removed the file between the two: its lock then locks nothing.
        if is_same(&file, &path) {
            return Ok(Hold { file, path });
        }
    }
}

/// Removes the lock files of processes that were killed.
pub(super) fn remove_orphans() {
    let Ok(files) = fs::read_dir(DIRECTORY) else {
        return;
    };
    for file in files.filter_map(Result::ok) {
        let name = file.file_name();
        let parsed = name.to_str().and_then(parse);
        if let Some((interface, namespace)) = parsed {
            // The file goes with the lock.
            let _ = try_hold(interface, namespace);
        }
    }
}

fn parse(name: &str) -> Option<(&str, u64)> {
    let (interface, namespace) = name.strip_suffix(".lock")?.rsplit_once('@')?;
    Some((interface, namespace.parse().ok()?))
}

fn is_same(file: &fs::File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

/// The inode of this process's network namespace.
pub(super) fn namespace() -> io::Result<u64> {
    Ok(fs::metadata("/proc/thread-self/ns/net")?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lock_files_are_taken_for_such() {
        assert_eq!(parse("eth0@4026531840.lock"), Some(("eth0", 4026531840)));
        assert_eq!(parse("a@b@7.lock"), Some(("a@b", 7)));
        for other in ["api.sock", "eth0.lock", "eth0@here.lock", "eth0@7"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }
}
