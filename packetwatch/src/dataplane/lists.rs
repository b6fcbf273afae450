//! The allow and deny lists in the kernel: one index, put in place whole or changed by region.

use std::{
    net::IpAddr,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{
    Ebpf,
    maps::{Array, IterableMap, Map, MapData, of_maps::ArrayOfMaps},
};
use ipnet::IpNet;
use packetwatch_abi::{
    Standing,
    index::{FRONT, HALVES, Line, WORDS},
};

use super::{
    Dataplane, Error, MapUse,
    error::{is_absent, map_error},
    index::{Differences, Index, Outgrown, Plan, Region},
    key::key,
    lock,
    mapped::Mapped,
    object::{data, second, take},
};

type Lines = Array<MapData, Line>;

const MAP: &str = "LISTS";

pub(super) struct Standings {
    halves: Halves,
    /// the lines in force
    lines: Lines,
    index: Index,
    /// Entries, as configured.
    capacity: u32,
}

/// Where the program looks: two halves, and which of them is in force.
struct Halves {
    active: Array<MapData, u32>,
    fronts: Array<MapData, u64>,
    /// The map below again: a look-up gives the id of the lines, from which aya would make a
    /// descriptor, and only CAP_SYS_ADMIN may.
    ids: Array<MapData, u32>,
    lines: ArrayOfMaps<MapData, Lines>,
    /// as written here
    in_force: u32,
    /// the other half may still be looked into
    is_other_in_use: bool,
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
        let ids = Map::Array(data(ebpf, MAP)?).try_into();
        let mut halves = Halves {
            ids: ids.map_err(map_error(MAP, "open", 0))?,
            active: take(ebpf, "LISTS_ACTIVE")?,
            fronts: take(ebpf, "LIST_FRONTS")?,
            lines: take(ebpf, MAP)?,
            // So that the first index lies in half 0, which a new `LISTS_ACTIVE` names.
            in_force: 1,
            is_other_in_use: false,
        };
        let (lines, index) = halves.build(&[], capacity)?;
        halves.put(&lines, capacity)?;
        Ok(Self {
            halves,
            lines,
            index,
            capacity,
        })
    }

    /// The lines in force, a second time.
    pub(super) fn lines(&self) -> Result<MapData, Error> {
        second(IterableMap::map(&self.lines), MAP)
    }

    pub(super) fn usage(&self, listed: u64) -> MapUse {
        let fronts = u64::from(HALVES * FRONT) * size_of::<u64>() as u64;
        MapUse {
            map: "lists",
            entries: Some(listed),
            capacity: self.capacity.into(),
            bytes: fronts + self.index.bytes(),
        }
    }
}

impl Halves {
    fn other(&self) -> u32 {
        HALVES - 1 - self.in_force
    }

    /// Builds an index in the half that is not in force, and that nobody looks into.
    fn build(&self, nodes: &[(IpNet, Standing)], capacity: u32) -> Result<(Lines, Index), Error> {
        let plan = Plan::new(nodes).ok_or(Error::Full { map: MAP, capacity })?;
        let flags = aya_flags::INNER_MAP | aya_flags::MMAPABLE;
        let lines = Lines::create(plan.lines, flags).map_err(map_error(MAP, "create", capacity))?;
        let fronts = IterableMap::map(&self.fronts).fd().as_fd();
        let front = mapped(fronts, self.other() * FRONT, FRONT)?;
        front.clear();
        let words = IterableMap::map(&lines).fd().as_fd();
        let words = mapped(words, 0, plan.lines * WORDS as u32)?;
        Ok((lines, Index::build(&plan, front, words)))
    }

    /// Makes the half that was built the one that counts here.
    fn put(&mut self, lines: &Lines, capacity: u32) -> Result<(), Error> {
        self.lines
            .set(self.other(), lines, 0)
            .map_err(map_error(MAP, "write", capacity))?;
        self.in_force = self.other();
        Ok(())
    }

    /// Puts the half that was built in force, by one store; then lets go of the former.
    fn switch_to(&mut self, lines: &Lines, capacity: u32) -> Result<(), Error> {
        let former = self.in_force;
        self.put(lines, capacity)?;
        if let Err(error) = self.active.set(0, self.in_force, 0) {
            self.in_force = former;
            return Err(map_error(MAP, "switch", capacity)(error));
        }
        self.is_other_in_use = true;
        // What fails here is tried again before the other half is needed.
        if self.leave_other(lines).is_ok() {
            // Both halves have the new lines, so that the memory of the former is freed.
            let _ = self.lines.set(self.other(), lines, 0);
        }
        Ok(())
    }

    /// Waits until no packet looks into the half that is not in force: to write a map of maps,
    /// though it be what stands there already, returns only when all programs that ran before have
    /// ended (kernel 5.0).
    fn leave_other(&mut self, in_force: &Lines) -> Result<(), Error> {
        if self.is_other_in_use {
            self.lines
                .set(self.in_force, in_force, 0)
                .map_err(map_error(MAP, "wait for", 0))?;
            self.is_other_in_use = false;
        }
        Ok(())
    }
}

fn mapped(map: BorrowedFd<'_>, first: u32, count: u32) -> Result<Mapped, Error> {
    Mapped::of_map(map, first, count).map_err(|source| Error::Syscall {
        map: MAP,
        operation: "map into memory",
        source,
    })
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
        let mut guard = lock(&self.0.standings);
        let standings = &mut *guard;
        let capacity = standings.capacity;
        standings.halves.leave_other(&standings.lines)?;
        let (lines, index) = standings.halves.build(nodes, capacity)?;
        let map = IterableMap::map(&lines);
        // Each time only for the pins, so that who attaches or looks does not wait for the switch.
        lock(&self.0.links).announce_lines(map);
        if let Err(error) = standings.halves.switch_to(&lines, capacity) {
            lock(&self.0.links).withdraw_lines();
            return Err(error);
        }
        let adopted = lock(&self.0.links).adopt_lines(map);
        standings.lines = lines;
        standings.index = index;
        if let Err(error) = adopted {
            tracing::warn!("an interface that is attached to from now on pins no lists: {error}");
        }
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
        let Halves {
            active,
            ids,
            in_force,
            ..
        } = &standings.halves;
        let half = active.get(&0, 0).map_err(map_error(MAP, "read", 0))?;
        let found = match ids.get(in_force, 0) {
            Ok(id) => id,
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(map_error(MAP, "read", 0)(error)),
        };
        Ok(half == *in_force && found == id(&standings.lines)?)
    }
}

fn id(lines: &Lines) -> Result<u32, Error> {
    let info = IterableMap::map(lines).info();
    info.map(|info| info.id())
        .map_err(map_error(MAP, "inspect", 0))
}
