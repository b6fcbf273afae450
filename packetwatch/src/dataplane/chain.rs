//! The user's own program behind the filter, by a program array of one place.
//!
//! What the kernel wants alike of the program in the place and of the one that goes there
//! (`__bpf_prog_map_compatible`), else it refuses the second of them with EINVAL:
//!
//! | since | what |
//! |---|---|
//! | 4.2 | type, and whether it is compiled (JIT) |
//! | 5.18 | `xdp_has_frags` |
//! | 6.3 | neither is bound to a device |
//! | 6.18 (4540aed51b12), and stable releases of 6.1 to 6.17 since October 2025 | `expected_attach_type` |
//!
//! `bpf_prog_info` tells neither frags nor attach type. So the chained program goes into the fresh
//! array first, which makes it the owner, and ours is tried after that: with frags, then without. The
//! attach type of ours is always `BPF_XDP`, since `BPF_LINK_UPDATE` puts no program of another under
//! a link that is there (`bpf_xdp_link_update`).
//!
//! The array is emptied when the last descriptor and pin of it go (`bpf_map_put_uref`): what keeps
//! the chain in place when the process is gone is its pin.

use std::{
    io,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, ProgramArray},
};

use super::{
    ChainError, Dataplane, Error,
    chained::Chained,
    error::{Errno as _, is_absent, map_error},
    lock,
    object::{data, second, take},
};

pub(super) const MAP: &str = "CHAIN";
const PLACE: u32 = 0;

/// What becomes of the packets that pass, where a chain is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChainState {
    /// The chained program gets them, and its verdict counts. The kernel cuts the name to 15
    /// characters.
    Up { program_id: u32, name: String },
    /// Nothing is pinned at the path: they pass.
    Gone,
    /// What is pinned there cannot be chained, and why: they pass.
    Refused(String),
}

impl ChainState {
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Up { .. })
    }

    /// `up`, `gone`, `refused`.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Up { .. } => "up",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
        }
    }
}

/// The chain that the configuration asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainStatus {
    pub path: PathBuf,
    pub state: ChainState,
}

pub(super) struct Chain {
    /// The array as `bpf(2)` has it: a descriptor of a program is written, its id is read.
    place: Array<MapData, u32>,
    /// The same, of which entries can be removed.
    programs: ProgramArray<MapData>,
    map: MapData,
    status: ChainStatus,
}

impl Chain {
    /// Chains what is pinned at `path`. The program before it is not loaded yet.
    ///
    /// Where nothing is pinned the place stays empty: after a boot nothing is, and a host had better be
    /// filtered while it waits for what is to come.
    ///
    /// # Errors
    /// [`Error::Chain`]: what is wrong with it.
    pub(super) fn new(ebpf: &mut Ebpf, path: &Path) -> Result<Self, Error> {
        let program = match Chained::open(path) {
            Err(ChainError::Missing { .. }) => None,
            opened => Some(opened?),
        };
        let map = data(ebpf, MAP)?;
        let place = Map::Array(second(&map, MAP)?).try_into();
        let mut chain = Self {
            place: place.map_err(map_error(MAP, "open", 1))?,
            programs: take(ebpf, MAP)?,
            map,
            status: ChainStatus {
                path: path.to_owned(),
                state: ChainState::Gone,
            },
        };
        if let Some(program) = program {
            chain.put(&program)?;
            chain.status.state = up(&program);
        }
        Ok(chain)
    }

    /// For its pin.
    pub(super) fn map(&self) -> Result<MapData, Error> {
        second(&self.map, MAP)
    }

    /// What is pinned now, if that is another or none: it is taken, or the place emptied. Returns the chain
    /// if it has changed.
    fn follow(&mut self) -> Result<Option<ChainStatus>, Error> {
        let state = match self.taken() {
            Ok(state) => state,
            // Of this process's want of descriptors or memory, and not of the pin.
            Err(Error::Chain(error)) if matches!(*error, ChainError::Unreadable { .. }) => {
                return Err(Error::Chain(error));
            }
            Err(Error::Chain(error)) => {
                self.empty()?;
                match *error {
                    ChainError::Missing { .. } => ChainState::Gone,
                    other => ChainState::Refused(other.to_string()),
                }
            }
            Err(error) => return Err(error),
        };
        if state == self.status.state {
            return Ok(None);
        }
        self.status.state = state;
        Ok(Some(self.status.clone()))
    }

    fn taken(&mut self) -> Result<ChainState, Error> {
        let program = Chained::open(&self.status.path)?;
        if self.holds()? != Some(program.id) {
            self.put(&program)?;
        }
        Ok(up(&program))
    }

    /// The id of the program in the place.
    fn holds(&self) -> Result<Option<u32>, Error> {
        match self.place.get(&PLACE, 0) {
            Ok(id) => Ok(Some(id)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(map_error(MAP, "read", 1)(error)),
        }
    }

    fn put(&mut self, program: &Chained) -> Result<(), Error> {
        let fd = program.fd.as_raw_fd() as u32;
        self.place
            .set(PLACE, fd, 0)
            .map_err(|error| match error.errno() {
                // EBUSY: another program extends it (6.13), as those of libxdp do their dispatcher.
                Some(errno @ (libc::EINVAL | libc::EBUSY)) => {
                    self.unlike(program, io::Error::from_raw_os_error(errno))
                }
                _ => map_error(MAP, "write", 1)(error),
            })
    }

    fn empty(&mut self) -> Result<(), Error> {
        match self.programs.clear_index(&PLACE) {
            Err(error) if !is_absent(&error) => Err(map_error(MAP, "clear", 1)(error)),
            _ => Ok(()),
        }
    }

    fn unlike(&self, program: &Chained, source: io::Error) -> Error {
        let Chained { id, name, .. } = program;
        let path = &self.status.path;
        ChainError::unlike(path, *id, name, source).into()
    }

    /// Why neither of our two programs is taken before the one that is chained.
    pub(super) fn refused(&self, source: io::Error) -> Error {
        let ChainStatus { path, state } = &self.status;
        let (id, name) = match state {
            ChainState::Up { program_id, name } => (*program_id, &**name),
            ChainState::Gone | ChainState::Refused(_) => (0, ""),
        };
        ChainError::unlike(path, id, name, source).into()
    }
}

fn up(program: &Chained) -> ChainState {
    ChainState::Up {
        program_id: program.id,
        name: program.name.clone(),
    }
}

impl Dataplane {
    /// What is chained behind the filter; `None` where nothing is asked for.
    pub fn chain(&self) -> Option<ChainStatus> {
        let chain = self.0.chain.as_ref()?;
        Some(lock(chain).status.clone())
    }

    /// Looks at the pin, and takes what is there now: a program, or none. Returns the chain if it has
    /// changed.
    ///
    /// # Errors
    /// The kernel refuses to read or to write the place.
    pub fn follow_chain(&self) -> Result<Option<ChainStatus>, Error> {
        match &self.0.chain {
            Some(chain) => lock(chain).follow(),
            None => Ok(None),
        }
    }
}
