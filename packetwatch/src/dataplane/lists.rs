//! The allow and deny lists in the kernel: one index, put in place whole or changed by region.

use std::{net::IpAddr, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Array, IterableMap, MapData, of_maps::ArrayOfMaps},
};
use ipnet::IpNet;
use packetwatch_abi::{Standing, index::Line};

use super::{
    Dataplane, Error, MapUse,
    error::{is_absent, map_error},
    index::{Differences, Index, Outgrown, Plan, Region},
    key::key,
    lock,
    object::take,
};

type Lines = Array<MapData, Line>;

const MAP: &str = "LISTS";

pub(super) struct Standings {
    outer: ArrayOfMaps<MapData, Lines>,
    /// the one in force
    map: Lines,
    index: Index,
    /// Entries, as configured.
    capacity: u32,
}

/// What became of a change of some regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    Done,
    /// Some regions may have changed already; the index has no room for the others. It is to be
    /// replaced, which makes room.
    Outgrown,
}

impl Standings {
    pub(super) fn new(ebpf: &mut Ebpf, capacity: u32) -> Result<Self, Error> {
        let mut outer: ArrayOfMaps<MapData, Lines> = take(ebpf, MAP)?;
        let (map, index) = build(&[], capacity)?;
        outer
            .set(0, &map, 0)
            .map_err(map_error(MAP, "switch", capacity))?;
        Ok(Self {
            outer,
            map,
            index,
            capacity,
        })
    }

    /// What the program looks into: a handle of its own.
    fn in_force(&self) -> Result<Option<Lines>, Error> {
        match self.outer.get(&0, 0) {
            Ok(lines) => Ok(Some(lines)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(map_error(MAP, "read", 0)(error)),
        }
    }

    pub(super) fn usage(&self, listed: u64) -> MapUse {
        MapUse {
            map: "lists",
            entries: Some(listed),
            capacity: self.capacity.into(),
            bytes: self.index.bytes(),
        }
    }
}

fn build(nodes: &[(IpNet, Standing)], capacity: u32) -> Result<(Lines, Index), Error> {
    let plan = Plan::new(nodes).ok_or(Error::Full { map: MAP, capacity })?;
    let flags = aya_flags::INNER_MAP | aya_flags::MMAPABLE;
    let map = Lines::create(plan.lines, flags).map_err(map_error(MAP, "create", capacity))?;
    let index = Index::build(&plan, IterableMap::map(&map).fd().as_fd());
    let index = index.map_err(|source| Error::Syscall {
        map: MAP,
        operation: "map into memory",
        source,
    })?;
    Ok((map, index))
}

/// Flags of `BPF_MAP_CREATE`; those of the map in the object are the same.
mod aya_flags {
    /// Values can be mapped into memory (kernel 5.5).
    pub(super) const MMAPABLE: u32 = 1 << 10;
    /// The sizes of maps in one slot may differ (kernel 5.10).
    pub(super) const INNER_MAP: u32 = 1 << 12;
}

impl Dataplane {
    /// Puts a whole new set in force: it is built aside and switched to with a single store, so
    /// that every packet is judged by the old set or by the new one. On an error the old one stays.
    ///
    /// `nodes`: prefixes in their order, each with the standing of what no longer prefix in it
    /// covers.
    pub fn replace_standings(&self, nodes: &[(IpNet, Standing)]) -> Result<(), Error> {
        let mut standings = lock(&self.0.standings);
        let capacity = standings.capacity;
        let (map, index) = build(nodes, capacity)?;
        standings
            .outer
            .set(0, &map, 0)
            .map_err(map_error(MAP, "switch", capacity))?;
        // The former goes when no packet looks into it any more.
        standings.map = map;
        standings.index = index;
        Ok(())
    }

    /// Puts the standings of some regions in force, one region after the other. Each comes with
    /// what covers it and what lies inside it, in order as for [`Dataplane::replace_standings`].
    pub fn set_standings(
        &self,
        regions: impl IntoIterator<Item = (Region, Vec<(IpNet, Standing)>)>,
    ) -> Change {
        let mut standings = lock(&self.0.standings);
        for (region, nodes) in regions {
            if let Err(Outgrown) = standings.index.set(region, &nodes) {
                return Change::Outgrown;
            }
        }
        Change::Done
    }

    /// What the lists say of an address, found as the program finds it.
    pub fn standing_of(&self, address: IpAddr) -> Standing {
        let source = key(address.into());
        lock(&self.0.standings).index.standing(&source)
    }

    /// How what the program judges by differs from these nodes, which are all there should be.
    pub fn compare_standings(&self, nodes: &[(IpNet, Standing)]) -> Result<Differences, Error> {
        let standings = lock(&self.0.standings);
        let capacity = standings.capacity;
        let plan = Plan::new(nodes).ok_or(Error::Full { map: MAP, capacity })?;
        Ok(standings.index.compare(&plan))
    }

    /// Whether the lists in force are as they were written here, as far as a sum tells.
    pub fn standings_as_written(&self) -> bool {
        lock(&self.0.standings).index.is_as_written()
    }

    /// Whether the program judges by the lists that are written here, and not by others that
    /// somebody has put in their place.
    pub fn lists_in_force(&self) -> Result<bool, Error> {
        let standings = lock(&self.0.standings);
        let id = |lines: &Lines| {
            let info = IterableMap::map(lines).info();
            info.map(|info| info.id())
                .map_err(map_error(MAP, "inspect", 0))
        };
        match standings.in_force()? {
            Some(lines) => Ok(id(&lines)? == id(&standings.map)?),
            None => Ok(false),
        }
    }
}
