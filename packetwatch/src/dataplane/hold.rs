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
    sys::stat::{Mode, fchmod, major, minor},
    unistd::{Gid, fchown},
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
        let file = open(&path, flags, Mode::from_bits_truncate(0o600))
            .map_err(|errno| error("open", &path, errno.into()))?;
        let file = fs::File::from(file);
        close_to_others(&file, dir);
        let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => file,
            Err((file, _)) => {
                return Err(AttachError::HeldByUs {
                    interface: interface.to_owned(),
                    holder: holder(&file),
                    lock: path,
                });
            }
        };
        // The one before may have removed the file between the two: its lock then locks nothing.
        if is_same(&file, &path) {
            return Ok(Hold { file, path });
        }
    }
}

/// Whoever may open a lock, if only to read, may hold it. So it is its owner's, and the group's that may
/// make locks in the directory, if that is shared with one. Where this process may not say so, who owns
/// the file has.
fn close_to_others(file: &fs::File, directory: &Path) {
    let (Ok(directory), Ok(found)) = (fs::metadata(directory), file.metadata()) else {
        return;
    };
    // The daemon's user may write in the directory: another name of a file elsewhere is no lock.
    if !found.is_file() || found.nlink() > 1 {
        return;
    }
    let is_shared = directory.mode() & 0o020 != 0;
    let group = Gid::from_raw(directory.gid());
    let is_given = || found.gid() == group.as_raw() || fchown(file, None, Some(group)).is_ok();
    let mode = if is_shared && is_given() {
        0o660
    } else {
        0o600
    };
    if found.mode() & 0o7777 != mode {
        let _ = fchmod(file, Mode::from_bits_truncate(mode));
    }
}

/// The process that holds the lock of a file.
fn holder(file: &fs::File) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let found = file.metadata().ok()?;
    holder_in(&locks, found.dev(), found.ino())
}

/// Lines as `1: FLOCK  ADVISORY  WRITE 4711 fd:00:1234 0 EOF`, and with `->` those who wait. A process of
/// another PID namespace has no line, or 0.
fn holder_in(locks: &str, device: u64, inode: u64) -> Option<u32> {
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let pid = |line: &str| {
        let mut words = line.split_ascii_whitespace().skip(1);
        let is_lock = words.next() == Some("FLOCK");
        let pid = words.nth(2)?.parse().ok()?;
        (is_lock && words.next() == Some(&file) && pid != 0).then_some(pid)
    };
    locks.lines().find_map(pid)
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

    #[test]
    fn the_holder_is_whose_lock_it_is_and_not_who_waits_for_it() {
        let locks = "1: POSIX  ADVISORY  WRITE 10 fd:0a:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 0 fd:0a:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 11 fd:0a:7 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 12 fd:0a:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 13 fd:0a:77 0 EOF\n";
        let device = nix::sys::stat::makedev(0xfd, 0x0a);
        assert_eq!(holder_in(locks, device, 77), Some(13));
        assert_eq!(holder_in(locks, device, 7), Some(11));
        assert_eq!(holder_in(locks, device, 78), None);
    }

    #[test]
    fn a_lock_is_for_those_who_may_make_one() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("a.lock"), dir.path().join("other"));
        let put_right = |directory: u32, found: u32| {
            let mode = |mode| fs::Permissions::from_mode(mode);
            fs::set_permissions(dir.path(), mode(directory)).unwrap();
            let file = fs::File::create(&path).unwrap();
            file.set_permissions(mode(found)).unwrap();
            close_to_others(&file, dir.path());
            file.metadata().unwrap().mode() & 0o7777
        };
        assert_eq!(put_right(0o755, 0o644), 0o600);
        assert_eq!(put_right(0o775, 0o644), 0o660);
        assert_eq!(put_right(0o775, 0o600), 0o660);
        fs::hard_link(&path, &other).unwrap();
        assert_eq!(put_right(0o755, 0o644), 0o644, "it may be anything");
    }
}
