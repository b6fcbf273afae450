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
    ChainError, Error,
    chain_place::Place,
    chained::Chained,
    variant::{self, Variant},
};

mod follow;

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

    fn without(error: ChainError) -> Self {
        match error {
            ChainError::Missing { .. } => Self::Gone,
            other => Self::Refused(other.to_string()),
        }
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
    /// Where nothing is pinned, or what cannot be chained, the places stay empty: after a boot nothing is,
    /// and whoever owns the pin is not to decide whether the host is filtered.
    ///
    /// # Errors
    /// The kernel refuses our programs, or to write a place.
    pub(super) fn new(ebpf: &mut Ebpf, path: &Path) -> Result<(Self, Variant), Error> {
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
        let (state, in_force) = match chain.begin(Variant::Frags) {
            Ok((program, fit)) => (up(&program), fit),
            Err(Error::Chain(error)) => (ChainState::without(*error), Variant::Frags),
            Err(error) => return Err(error),
        };
        chain.status.state = state;
        Ok((chain, in_force))
    }

    fn begin(&mut self, in_force: Variant) -> Result<(Chained, Variant), Error> {
        let program = Chained::open(&self.status.path)?;
        let fit = self.put(&program, in_force)?;
        Ok((program, fit))
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
