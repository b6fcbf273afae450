//! A program that somebody else has pinned, for us to hand packets to.

use std::{
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use aya::programs::{ProgramError, ProgramInfo};

use super::{
    bpffs,
    error::Errno as _,
    link::Pinned,
    variant::{Objection, Variant},
};
use crate::privileges;

/// `bpf_prog_type`: programs that replace a function of another, as `xdp-loader` loads them.
const EXTENSION: u32 = 28;
const XDP: u32 = 6;

/// Why the program that the configuration names is not chained.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error(
        "nothing is pinned at {}: pin an XDP program there (`bpftool prog load FILE.o {}`), or take \
         `chain` out of the configuration", path.display(), path.display()
    )]
    Missing { path: PathBuf },
    /// Root sees it, and from the user that the daemon becomes it is hidden.
    #[error(
        "user {user}, as whom the daemon runs, does not see {}, on a BPF file system that is for root \
         alone: pin it below {}, which the daemon sees and is given, and name that as `chain`",
        path.display(), ours.display()
    )]
    Unreachable {
        path: PathBuf,
        user: String,
        /// what the daemon has of the BPF file system
        ours: PathBuf,
    },
    #[error(
        "user {user}, as whom the daemon runs, may not open {}: `chown {user}` it, and let {user} search \
         the directories above (`chmod o+x`)", path.display()
    )]
    Denied { path: PathBuf, user: String },
    #[error(
        "{} is no pin of a program but {found}: name the file that `bpftool prog load FILE.o PATH` has \
         made on a BPF file system", path.display()
    )]
    NoProgram { path: PathBuf, found: &'static str },
    #[error("the program pinned at {} is of type {kind} and none of XDP: {remedy}", path.display())]
    NotXdp {
        path: PathBuf,
        kind: u32,
        remedy: &'static str,
    },
    #[error(
        "{name:?}, program id {program_id}, pinned at {}, cannot stand behind the filter ({source}). The \
         kernel takes it if it is compiled (net.core.bpf_jit_enable), bound to no device, extended by \
         no other program and loaded for XDP (expected_attach_type BPF_XDP), as libbpf, `bpftool prog \
         load` and aya do", path.display()
    )]
    Unlike {
        path: PathBuf,
        program_id: u32,
        name: String,
        #[source]
        source: io::Error,
    },
    /// The filter that fits before it is refused by the driver of an interface.
    #[error(
        "{name:?}, program id {program_id}, pinned at {}, cannot stand behind the filter: it takes frames \
         of {}, so the filter must, and the driver of {interface}{} refuses one that does ({source}). {}. It \
         is tried again when an interface has another MTU, or another program is pinned",
        path.display(), taken(*frags), with_mtu(*mtu), remedy(*frags, interface)
    )]
    Unfit {
        path: PathBuf,
        program_id: u32,
        name: String,
        /// it takes frames of several buffers
        frags: bool,
        interface: String,
        /// bytes, where it is known
        mtu: Option<u32>,
        #[source]
        source: io::Error,
    },
    #[error("cannot open {}: {source}", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl ChainError {
    /// `ours`: what this process's user has of the BPF file system
    pub fn unreachable(path: &Path, ours: &Path) -> Self {
        Self::Unreachable {
            path: path.to_owned(),
            user: privileges::own_name(),
            ours: ours.to_owned(),
        }
    }

    pub(super) fn unlike(path: &Path, program: &Chained, source: io::Error) -> Self {
        Self::Unlike {
            path: path.to_owned(),
            program_id: program.id,
            name: program.name.clone(),
            source,
        }
    }

    pub(super) fn unfit(
        path: &Path,
        program: &Chained,
        variant: Variant,
        objection: Objection,
    ) -> Self {
        let Objection {
            interface,
            mtu,
            source,
        } = objection;
        Self::Unfit {
            path: path.to_owned(),
            program_id: program.id,
            name: program.name.clone(),
            frags: variant.has_frags(),
            interface,
            mtu,
            source,
        }
    }
}

fn taken(frags: bool) -> &'static str {
    match frags {
        true => "several buffers",
        false => "a single buffer alone",
    }
}

fn with_mtu(mtu: Option<u32>) -> String {
    mtu.map_or_else(String::new, |mtu| format!(" (MTU {mtu})"))
}

fn remedy(frags: bool, interface: &str) -> String {
    if frags {
        return "Load it from a section `xdp`".to_owned();
    }
    format!(
        "Load it from a section `xdp.frags`, or lower the MTU of {interface} (drivers want no more than \
         some 3500 bytes), or start the daemon with `--xdp-mode generic`"
    )
}

/// An XDP program by its pin.
#[derive(Debug)]
pub(super) struct Chained {
    pub(super) fd: OwnedFd,
    pub(super) id: u32,
    /// cut to 15 characters by the kernel
    pub(super) name: String,
}

impl Chained {
    /// Opens a pin, which takes the right to read and to write the file, and CAP_BPF.
    ///
    /// # Errors
    /// There is none, this user may not, or it is something else.
    pub(super) fn open(path: &Path) -> Result<Self, ChainError> {
        let no_program = |found| ChainError::NoProgram {
            path: path.to_owned(),
            found,
        };
        let found = path.metadata().map_err(|source| failed(path, source))?;
        // The kernel answers EACCES for all of these, as for what may not be opened.
        if found.is_dir() {
            return Err(no_program("a directory"));
        }
        if !bpffs::is_bpffs(path) {
            return Err(no_program("a file elsewhere"));
        }
        let (fd, id) = match Pinned::open(path).map_err(|source| failed(path, source))? {
            Pinned::Program { fd, id } => (fd, id),
            Pinned::Link(_) => return Err(no_program("of a link")),
            Pinned::Other => return Err(no_program("of a map")),
        };
        let info = ProgramInfo::from_pin(path).map_err(|error| failed(path, words(error)))?;
        match info.program_type() as u32 {
            XDP => Ok(Self {
                fd,
                id,
                name: info.name_as_str().unwrap_or_default().to_owned(),
            }),
            kind => Err(ChainError::NotXdp {
                path: path.to_owned(),
                kind,
                remedy: match kind {
                    EXTENSION => {
                        "it is part of a dispatcher of libxdp, as `xdp-loader` loads programs; load it \
                         with `bpftool prog load` instead"
                    }
                    _ => "give its function a section named `xdp` or `xdp.frags`",
                },
            }),
        }
    }
}

fn failed(path: &Path, source: io::Error) -> ChainError {
    let path = path.to_owned();
    match source.raw_os_error() {
        Some(libc::ENOENT | libc::ENOTDIR) => ChainError::Missing { path },
        Some(libc::EACCES | libc::EPERM) => ChainError::Denied {
            path,
            user: privileges::own_name(),
        },
        _ => ChainError::Unreadable { path, source },
    }
}

fn words(error: ProgramError) -> io::Error {
    match error.errno() {
        Some(errno) => io::Error::from_raw_os_error(errno),
        None => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_pin_is_told_from_what_may_not_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("prog");
        let refused = |path: &Path| Chained::open(path).unwrap_err();
        let missing = refused(&file);
        assert!(matches!(missing, ChainError::Missing { .. }), "{missing}");
        let words = missing.to_string();
        assert!(words.contains(&file.display().to_string()), "{words}");
        std::fs::write(&file, "").unwrap();
        for (path, found) in [(&*file, "a file elsewhere"), (dir.path(), "a directory")] {
            let words = refused(path).to_string();
            assert!(words.contains(found), "{words}");
            assert!(words.contains(&path.display().to_string()), "{words}");
            assert!(words.contains("bpftool prog load"), "{words}");
        }
        let below = refused(&file.join("prog"));
        assert!(matches!(below, ChainError::Missing { .. }), "{below}");
    }
}
