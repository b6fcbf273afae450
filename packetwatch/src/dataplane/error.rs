//! What can go wrong between the daemon and the kernel, each with its remedy.

use std::{io, iter, path::PathBuf};

use aya::{EbpfError, maps::MapError, programs::ProgramError};

use super::{ChainError, Holder, State};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot load the XDP program: {}", in_full(.0))]
    Load(#[source] Box<EbpfError>),
    /// Says what, since which kernel there is such a thing, and the remedy.
    #[error("cannot load the XDP program: {0}")]
    Unsupported(String),
    #[error("loading the XDP program needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or root")]
    NotPermitted,
    #[error(
        "the kernel refuses the XDP program: {reason}. Packetwatch needs Linux 5.18 or later, and \
         CAP_BPF with CAP_NET_ADMIN and CAP_PERFMON, or root"
    )]
    Refused {
        reason: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("chain: {0}")]
    Chain(#[source] Box<ChainError>),
    #[error("the XDP program has no {0}; the binary was built wrong")]
    Missing(&'static str),
    #[error("{map} is full ({capacity} entries): raise [capacity] in the configuration")]
    Full { map: &'static str, capacity: u32 },
    #[error("cannot {operation} {map}: {}", in_full(source))]
    Map {
        map: &'static str,
        operation: &'static str,
        #[source]
        source: Box<MapError>,
    },
    #[error("cannot {operation} {map}: {source}")]
    Syscall {
        map: &'static str,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// The map that is meant, by the name that status and metrics give it.
    pub fn map(&self) -> &'static str {
        let (Self::Full { map, .. } | Self::Map { map, .. } | Self::Syscall { map, .. }) = self
        else {
            return "other";
        };
        match *map {
            "LISTS" => "lists",
            "LIST_HITS" => "list_hits",
            "BANS" | "BAN_HITS" => "bans",
            "CALLERS" => "callers",
            _ => "other",
        }
    }

    /// Why a map was not written that [has room](Self::is_full), in the words of the metric; the kernel's
    /// word is its errno.
    pub fn cause(&self) -> &'static str {
        let errno = match self {
            Self::Map { source, .. } => source.errno(),
            Self::Syscall { source, .. } => source.raw_os_error(),
            _ => None,
        };
        match errno {
            Some(libc::ENOMEM) => "no-memory",
            Some(libc::EDEADLK) => "deadlock",
            Some(libc::ETIMEDOUT) => "timed-out",
            Some(libc::EBUSY) => "busy",
            _ => "kernel",
        }
    }

    /// Whether a map has no room; nothing was evicted.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

impl From<ChainError> for Error {
    fn from(error: ChainError) -> Self {
        Self::Chain(Box::new(error))
    }
}

/// An error with its causes: aya names the call that failed, and leaves the kernel's word to the cause.
pub(super) fn in_full(error: &(dyn std::error::Error + 'static)) -> String {
    let causes = iter::successors(Some(error), |error| error.source());
    let mut words: Vec<String> = causes.map(ToString::to_string).collect();
    // Who is transparent says what its cause says.
    words.dedup();
    words.join(": ")
}

/// Turns a map's error into ours; E2BIG and ENOSPC (the trie's) are a full map.
pub(super) fn map_error(
    map: &'static str,
    operation: &'static str,
    capacity: u32,
) -> impl FnOnce(MapError) -> Error {
    move |source| match source.errno() {
        Some(libc::E2BIG | libc::ENOSPC) => Error::Full { map, capacity },
        _ => Error::Map {
            map,
            operation,
            source: Box::new(source),
        },
    }
}

/// Whether the key is not there: look-ups and removals say it in different ways.
pub(super) fn is_absent(error: &MapError) -> bool {
    matches!(error, MapError::KeyNotFound) || error.errno() == Some(libc::ENOENT)
}

pub(super) trait Errno {
    fn errno(&self) -> Option<i32>;
}

impl Errno for MapError {
    fn errno(&self) -> Option<i32> {
        match self {
            MapError::SyscallError(call) => call.io_error.raw_os_error(),
            MapError::CreateError { io_error, .. } => io_error.raw_os_error(),
            _ => None,
        }
    }
}

impl Errno for ProgramError {
    fn errno(&self) -> Option<i32> {
        match self {
            ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
            ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
            _ => None,
        }
    }
}

/// Why an interface is not filtered.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("there is no interface {0} here; `ip link` lists those there are")]
    NoSuchInterface(String),
    #[error(
        "another XDP program holds {interface}: {holder}. One interface takes one: take it off with \
         {} (or its owner's own command), then start again; a daemon that runs attaches within a second. \
         What is pinned can go behind the filter, with `--chain PIN`", holder.remedy()
    )]
    Held {
        interface: String,
        holder: Box<Holder>,
    },
    #[error(
        "another XDP program holds {interface} as of this moment. One interface takes one: see it \
         with `ip link show dev {interface}`, take it off with `ip link set dev {interface} xdp off` \
         (or its owner's own command), then start again; a daemon that runs attaches within a second"
    )]
    HeldByAnother { interface: String },
    #[error(
        "{interface} is filtered by another packetwatch process ({}{}); stop that one first",
        lock.display(), holder.map(|pid| format!(", which process {pid} holds")).unwrap_or_default()
    )]
    HeldByUs {
        interface: String,
        lock: PathBuf,
        /// its id in this process's namespace, where the kernel tells
        holder: Option<u32>,
    },
    /// `frames`: what the program cannot take that the interface may bring, or nothing
    #[error(
        "the driver of {interface} cannot run XDP natively ({source}){frames}: use `--xdp-mode auto` or \
         `--xdp-mode generic`"
    )]
    NotNative {
        interface: String,
        frames: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("attaching XDP to {interface} needs CAP_BPF and CAP_NET_ADMIN, or root")]
    NotPermitted { interface: String },
    #[error("cannot attach to {interface} ({mode}): {source}")]
    Failed {
        interface: String,
        mode: &'static str,
        #[source]
        source: io::Error,
    },
    /// `frames`: as above
    #[error(
        "cannot take over the filter on {interface}, which stays as it is: {source}{frames}. \
         `packetwatch detach --interface {interface}` takes it off, then start again"
    )]
    NotTakenOver {
        interface: String,
        frames: &'static str,
        #[source]
        source: io::Error,
    },
    /// `state`: what became of the interface
    #[error("{source}. {state}")]
    ModeRefused {
        interface: String,
        state: String,
        #[source]
        source: Box<AttachError>,
    },
    #[error(
        "{} is no BPF file system and holds other files, over which none is mounted: name /sys/fs/bpf, \
         or a directory that is empty or does not exist, with `--bpffs`", .0.display()
    )]
    NotBpffs(PathBuf),
    #[error(
        "no BPF file system is mounted on {} any more: mount one there (`mount -t bpf bpf {}`), or \
         start the daemon anew, which does", .0.display(), .0.display()
    )]
    BpffsGone(PathBuf),
    #[error("cannot {operation} {}: {source}{}", path.display(), pin_remedy(source))]
    Pin {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl AttachError {
    /// What the interface is that was not attached to.
    pub fn state(&self) -> State {
        match self {
            Self::NoSuchInterface(_) => State::Missing,
            Self::Held { .. } | Self::HeldByAnother { .. } | Self::HeldByUs { .. } => State::Held,
            _ => State::Detached,
        }
    }
}

fn pin_remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "; run this as root, or the daemon as its unit file does, or name another BPF file system \
             with `--bpffs`"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            "; mount it for writing (`mount -o remount,rw`), or name another BPF file system with \
             `--bpffs`"
        }
        io::ErrorKind::StorageFull | io::ErrorKind::OutOfMemory => {
            "; give it memory, or name another BPF file system with `--bpffs`"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use aya::sys::SyscallError;

    use super::*;

    #[test]
    fn what_the_kernel_says_is_told() {
        let refused = MapError::SyscallError(SyscallError {
            call: "bpf_map_update_elem",
            io_error: io::Error::from_raw_os_error(libc::EPERM),
        });
        let error = map_error("BANS", "write", 1)(refused).to_string();
        let expected = "cannot write BANS: `bpf_map_update_elem` failed: Operation not permitted \
                        (os error 1)";
        assert_eq!(error, expected);
    }

    #[test]
    fn what_the_kernel_says_is_told_apart() {
        let cause = |errno| {
            let error = Error::Syscall {
                map: "BANS",
                operation: "write",
                source: io::Error::from_raw_os_error(errno),
            };
            error.cause()
        };
        let errnos = [
            libc::ENOMEM,
            libc::EDEADLK,
            libc::ETIMEDOUT,
            libc::EBUSY,
            libc::EINVAL,
        ];
        let expected = ["no-memory", "deadlock", "timed-out", "busy", "kernel"];
        assert_eq!(errnos.map(cause), expected);
    }
}
