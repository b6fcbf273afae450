//! Pins: what keeps a filter in place when its process is gone.
//!
//! One link an interface, at `BPFFS/packetwatch/abi-N/netns-INODE/INTERFACE`. The ABI version keeps
//! builds apart that disagree about the maps; the namespace keeps apart interfaces of one name in
//! different network namespaces, which share the host's bpffs.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use aya::{
    pin::PinError,
    programs::links::{FdLink, LinkError, PinnedLink},
};
use nix::{
    fcntl::{Flock, FlockArg},
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::AttachError;

/// Where the pins of this network namespace are.
#[derive(Clone, Debug)]
pub struct Pins {
    dir: PathBuf,
}

impl Pins {
    /// Prepares the pin directory below `bpffs`; mounts bpffs there if nothing is.
    ///
    /// # Errors
    /// `bpffs` is neither a bpffs nor can one be mounted on it.
    pub fn prepare(bpffs: &Path) -> Result<Self, AttachError> {
        let error = |operation, path: &Path| {
            let path = path.to_owned();
            move |source| AttachError::Pin {
                operation,
                path,
                source,
            }
        };
        if !is_bpffs(bpffs) {
            mount(
                Some("bpf"),
                bpffs,
                Some("bpf"),
                MsFlags::empty(),
                None::<&str>,
            )
            .map_err(|errno| error("mount bpffs on", bpffs)(errno.into()))?;
        }
        let pins = Self {
            dir: directory(bpffs).map_err(error("name the namespace of", bpffs))?,
        };
        fs::create_dir_all(&pins.dir).map_err(error("create", &pins.dir))?;
        Ok(pins)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn path(&self, interface: &str) -> PathBuf {
        // bpffs refuses names with a dot (reserved); an interface may have one (eth0.5).
        self.dir.join(interface.replace('.', "+"))
    }

    /// The link that an earlier process left on this interface.
    pub(super) fn left_behind(&self, interface: &str) -> Option<FdLink> {
        let link = PinnedLink::from_pin(self.path(interface)).ok()?;
        Some(FdLink::from(link))
    }

    pub(super) fn pin(&self, interface: &str, link: FdLink) -> Result<PinnedLink, AttachError> {
        let path = self.path(interface);
        link.pin(&path).map_err(|error| AttachError::Pin {
            operation: "pin",
            source: match error {
                PinError::SyscallError(call) => call.io_error,
                other => io::Error::other(other.to_string()),
            },
            path,
        })
    }

    pub(super) fn unpin(&self, interface: &str) -> io::Result<()> {
        match fs::remove_file(self.path(interface)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

/// Takes a filter off that a process left behind.
///
/// # Errors
/// There is none, or a living process holds it.
pub fn detach(bpffs: &Path, interface: &str) -> Result<(), AttachError> {
    let error = |operation, source| AttachError::Pin {
        operation,
        path: bpffs.to_owned(),
        source,
    };
    let pins = Pins {
        dir: directory(bpffs).map_err(|source| error("name the namespace of", source))?,
    };
    let path = pins.path(interface);
    let _held = hold(interface)?;
    match PinnedLink::from_pin(&path) {
        Ok(link) => {
            // The last reference: with it the kernel detaches the program.
            let link = link
                .unpin()
                .map_err(|source| error("remove the pin in", source))?;
            drop(link);
            Ok(())
        }
        Err(LinkError::SyscallError(call)) => Err(AttachError::Pin {
            operation: "find a filter left behind at",
            path,
            source: call.io_error,
        }),
        Err(other) => Err(error(
            "open the pin in",
            io::Error::other(other.to_string()),
        )),
    }
}

/// Interfaces of this namespace with a pinned filter.
pub fn left_behind(bpffs: &Path) -> Vec<String> {
    let Ok(dir) = directory(bpffs) else {
        return Vec::new();
    };
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .map(|name| name.replace('+', "."))
        .collect()
}

/// Held for as long as a process filters an interface, so that no second one takes it over. The
/// kernel lets go of it when the process ends, however it ends; the file goes with a clean end.
pub(super) struct Hold {
    file: Flock<fs::File>,
    path: PathBuf,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Before the lock is gone: whoever comes next makes a file of its own.
        if is_same(&self.file, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(super) fn hold(interface: &str) -> Result<Hold, AttachError> {
    let error = |operation, path: &Path, source| AttachError::Pin {
        operation,
        path: path.to_owned(),
        source,
    };
    let namespace = namespace().map_err(|source| error("read", Path::new(NAMESPACE), source))?;
    let dir = Path::new("/run/packetwatch");
    fs::create_dir_all(dir).map_err(|source| error("create", dir, source))?;
    let path = dir.join(format!("{interface}@{namespace}.lock"));
    loop {
        let file = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|source| error("open", &path, source))?;
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

fn is_same(file: &fs::File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(held), Ok(named)) => (held.dev(), held.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

const NAMESPACE: &str = "/proc/self/ns/net";

fn namespace() -> io::Result<u64> {
    Ok(fs::metadata(NAMESPACE)?.ino())
}

fn directory(bpffs: &Path) -> io::Result<PathBuf> {
    Ok(bpffs
        .join("packetwatch")
        .join(format!("abi-{}", packetwatch_abi::VERSION))
        .join(format!("netns-{}", namespace()?)))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}
