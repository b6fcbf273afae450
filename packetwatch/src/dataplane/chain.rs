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
//! `bpf_prog_info` tells neither frags nor attach type. So there are two arrays, of which each is owned by
//! one of our two programs, since that was loaded first: with frags, and without. Into which of them the
//! chained program goes tells what it is, and so which of ours is to be in force (`variant.rs`). The
//! attach type of ours is always `BPF_XDP`, since `BPF_LINK_UPDATE` puts no program of another under
//! a link that is there (`bpf_xdp_link_update`).
//!
//! An array is emptied when the last descriptor and pin of it go (`bpf_map_put_uref`): what keeps
//! the chain in place when the process is gone are their pins.

use std::{
    io,
    path::{Path, PathBuf},
};

use aya::{Ebpf, maps::MapData};

use super::{
    ChainError, Dataplane, Differences, Error,
    chain_place::Place,
    chained::Chained,
    lock,
    variant::{self, Variant},
};

/// The arrays, by the names of their pins.
pub(super) const MAPS: [&str; 2] = ["CHAIN", "CHAIN_SB"];

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
    /// behind each of [`Variant::CHAINING`]
    places: [Place; 2],
    status: ChainStatus,
    objected: Option<Objected>,
}

/// A program that was pinned, and interfaces one of which could not have the filter that fits before it.
/// Until either changes it is not tried again: the others would change their program to and fro.
struct Objected {
    program_id: u32,
    /// index and MTU
    interfaces: Vec<(u32, Option<u32>)>,
    state: ChainState,
}

impl Chain {
    /// Loads our two programs, and chains what is pinned at `path`. Returns which of them is to be in
    /// force.
    ///
    /// Where nothing is pinned the places stay empty: after a boot nothing is, and a host had better be
    /// filtered while it waits for what is to come.
    ///
    /// # Errors
    /// [`Error::Chain`]: what is wrong with it.
    pub(super) fn new(ebpf: &mut Ebpf, path: &Path) -> Result<(Self, Variant), Error> {
        let program = match Chained::open(path) {
            Err(ChainError::Missing { .. }) => None,
            opened => Some(opened?),
        };
        // Before the places are filled: it makes them theirs.
        variant::load(ebpf, &Variant::CHAINING)?;
        let [frags, single] = MAPS;
        let mut chain = Self {
            places: [Place::new(ebpf, frags)?, Place::new(ebpf, single)?],
            status: ChainStatus {
                path: path.to_owned(),
                state: ChainState::Gone,
            },
            objected: None,
        };
        let mut in_force = Variant::Frags;
        if let Some(program) = program {
            in_force = chain.put(&program, in_force)?;
            chain.status.state = up(&program);
        }
        Ok((chain, in_force))
    }

    /// For their pins.
    pub(super) fn maps(&self) -> Result<Vec<(&'static str, MapData)>, Error> {
        self.places.iter().map(Place::map).collect()
    }

    fn place(&mut self, variant: Variant) -> &mut Place {
        let [frags, single] = &mut self.places;
        if variant.has_frags() { frags } else { single }
    }

    /// Puts a program where the kernel takes it: behind the one that is in force, or else the other.
    /// Returns which that is.
    fn put(&mut self, program: &Chained, in_force: Variant) -> Result<Variant, Error> {
        let mut variant = in_force;
        let mut refused = self.place(variant).put(program)?;
        if refused == Some(libc::EINVAL) {
            variant = in_force.other();
            refused = self.place(variant).put(program)?;
        }
        match refused.map(io::Error::from_raw_os_error) {
            None => Ok(variant),
            Some(source) => Err(ChainError::unlike(&self.status.path, program, source).into()),
        }
    }

    fn empty(&mut self) -> Result<(), Error> {
        self.places.iter_mut().try_for_each(Place::empty)
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

    /// How the place of the chained program differs from what was put there. [`Dataplane::follow_chain`] mends
    /// it.
    ///
    /// # Errors
    /// The kernel refuses to read the place.
    pub fn compare_chain(&self) -> Result<Differences, Error> {
        let mut differences = Differences::default();
        let Some(chain) = &self.0.chain else {
            return Ok(differences);
        };
        let mut chain = lock(chain);
        let holds = chain.place(self.variant()).holds()?;
        match (&chain.status.state, holds) {
            (ChainState::Up { program_id, .. }, Some(id)) if *program_id == id => {}
            (ChainState::Up { .. }, Some(_)) => differences.changed = 1,
            (ChainState::Up { .. }, None) => differences.missing = 1,
            (ChainState::Gone | ChainState::Refused(_), Some(_)) => differences.foreign = 1,
            (ChainState::Gone | ChainState::Refused(_), None) => {}
        }
        Ok(differences)
    }

    /// Looks at the pin, and takes what is there now: a program, or none. One that takes frames as the
    /// one before did not changes the filter on each interface, for which drivers may take their time.
    /// Returns the chain if it has changed.
    ///
    /// # Errors
    /// The kernel refuses to read or to write the place.
    pub fn follow_chain(&self) -> Result<Option<ChainStatus>, Error> {
        let Some(chain) = &self.0.chain else {
            return Ok(None);
        };
        let mut chain = lock(chain);
        let state = match self.take_chained(&mut chain) {
            Ok(state) => state,
            // Of this process's want of descriptors or memory, and not of the pin.
            Err(Error::Chain(error)) if matches!(*error, ChainError::Unreadable { .. }) => {
                return Err(Error::Chain(error));
            }
            Err(Error::Chain(error)) => match *error {
                ChainError::Missing { .. } => ChainState::Gone,
                other => ChainState::Refused(other.to_string()),
            },
            Err(error) => return Err(error),
        };
        if !state.is_up() {
            chain.empty()?;
        }
        if state == chain.status.state {
            return Ok(None);
        }
        chain.status.state = state;
        Ok(Some(chain.status.clone()))
    }

    fn take_chained(&self, chain: &mut Chain) -> Result<ChainState, Error> {
        let program = Chained::open(&chain.status.path)?;
        let in_force = self.variant();
        if chain.place(in_force).holds()? == Some(program.id) {
            chain.place(in_force.other()).empty()?;
            return Ok(up(&program));
        }
        if let Some(objected) = &chain.objected
            && objected.program_id == program.id
            && objected.interfaces == self.filtered()
        {
            return Ok(objected.state.clone());
        }
        chain.objected = None;
        let fit = chain.put(&program, in_force)?;
        if fit == in_force {
            return Ok(up(&program));
        }
        // It is behind the other already when that comes into force. Who was behind the one before gets the
        // packets that are on their way through it, and goes at the next look.
        let Some(objection) = self.put_in_force(fit)? else {
            return Ok(up(&program));
        };
        let is_passing = objection.is_passing();
        let path = &chain.status.path;
        let state =
            ChainState::Refused(ChainError::unfit(path, &program, fit, objection).to_string());
        if !is_passing {
            chain.objected = Some(Objected {
                program_id: program.id,
                interfaces: self.filtered(),
                state: state.clone(),
            });
        }
        Ok(state)
    }

    /// Index and MTU of each filtered interface.
    fn filtered(&self) -> Vec<(u32, Option<u32>)> {
        let interfaces = self.interfaces().into_iter();
        let filtered = interfaces.filter(|interface| interface.state.is_filtered());
        filtered
            .map(|interface| (interface.ifindex, interface.mtu))
            .collect()
    }
}
