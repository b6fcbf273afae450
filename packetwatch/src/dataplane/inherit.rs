//! What a filter that an earlier process left hands on to the one that takes it over.
//!
//! The tables of callers and bans are shared with it, so that between the two not one call is left
//! out and bans end when they would have, whatever became of the wall clock. The rest is read: the
//! policy, for whether the windows of the callers still count; the lists, if no journal tells of
//! them.

use std::{
    cmp::Reverse,
    mem,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData, MapError},
};
use ipnet::IpNet;
use packetwatch_abi::{
    BAN_FILTER_WORDS, Ban, BanKeyV4, BanKeyV6, Caller, Policy, Prefix, Standing, Tally,
    index::{FRONT, HALVES, WORDS},
};

use super::{
    Capacities, Dataplane, Error,
    bans::{ban_prefix, each_ban},
    error::map_error,
    hold::Hold,
    index::Index,
    lock,
    mapped::Mapped,
    pinned::{
        self, ACTIVE, BANS, CALLERS, LINES, LINES_NEXT, LIST_FRONTS, LISTS, LISTS_ACTIVE, POLICY,
    },
    pins::{self, Kept, Pins},
};

/// The pinned maps of a filter whose process is gone.
#[derive(Debug)]
pub(super) struct Inheritance {
    interface: String,
    directory: PathBuf,
    /// Another interface whose filter uses the same tables on, so that none is shared.
    beside: Option<String>,
    /// Tables that this process uses on.
    shared: Vec<&'static str>,
    /// the pair in force
    policies: Option<[Policy; 2]>,
    /// until this process has attached its own
    lists: Option<KeptLists>,
    /// Keep others off it until then.
    holds: Vec<Hold>,
}

#[derive(Debug)]
struct KeptLists {
    fronts: MapData,
    half: u32,
    lines: MapData,
}

/// What was found of an earlier filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    pub interface: String,
    pub callers: bool,
    pub bans: bool,
    /// bans that there was no room for
    pub left_out: u64,
    /// The interface of another filter that goes on with them, where neither does so here.
    pub beside: Option<String>,
}

impl Inheritance {
    /// Of one of these interfaces whose filter has left maps, and has no process.
    pub(super) fn of(pins: &Pins, interfaces: &[String], capacities: Capacities) -> Option<Self> {
        let mut kept = pins.kept();
        kept.retain(|kept| kept.path.parent() == Some(&pins.dir()));
        // The one that was attached last: the kernel gives ever greater ids.
        kept.sort_by_key(|kept| Reverse(kept.info.program_id));
        let held = |kept: &Kept| kept.hold(pins.namespace()).err().is_some();
        kept.iter().find_map(|of| {
            // By the link: it may have been renamed meanwhile.
            let interface = of.interface().filter(|name| interfaces.contains(name))?;
            let directory = pins::maps_of(&of.path);
            let bans = pinned::open(&directory, BANS[0]).ok()?;
            // Of one that lives nothing may be shared: the attempt to attach will say so.
            let holds = of.hold(pins.namespace()).ok()?;
            let mut inheritance = Self::open(&interface, directory, capacities, holds);
            // One that lives may use them for another interface, and change them as it likes; one that
            // nobody takes over counts on under its own rules.
            let stays = |other: &Kept| {
                let name = other.interface();
                !other.is_dead() && !name.is_some_and(|name| interfaces.contains(&name))
            };
            let mut others = kept.iter().filter(|other| other.path != of.path);
            let beside = others.find(|other| {
                has(&pins::maps_of(&other.path), &bans) && (held(other) || stays(other))
            });
            if let Some(other) = beside {
                let name = other.interface();
                inheritance.beside = Some(name.unwrap_or_else(|| other.pinned_as.clone()));
                inheritance.shared.clear();
            }
            Some(inheritance)
        })
    }

    fn open(interface: &str, directory: PathBuf, capacities: Capacities, holds: Vec<Hold>) -> Self {
        let Capacities { bans, callers, .. } = capacities;
        let [v4, v6, filter, hits] = BANS;
        let tables = [
            (v4, Shape::of::<BanKeyV4, Ban>(bans)),
            (v6, Shape::of::<BanKeyV6, Ban>(bans)),
            (filter, Shape::of::<u32, u64>(BAN_FILTER_WORDS)),
            (hits, Shape::of::<u32, Tally>(bans)),
        ];
        let mut shared = Vec::new();
        let policies = policies(&directory).ok();
        // Nobody can tell under which rules the callers were counted without the policies.
        let is_known = policies.is_some();
        if is_known && Shape::of::<Prefix, Caller>(callers).is_of(&directory, CALLERS) {
            shared.push(CALLERS);
        }
        if tables
            .iter()
            .all(|(name, shape)| shape.is_of(&directory, name))
        {
            shared.extend(BANS);
        }
        Self {
            interface: interface.to_owned(),
            policies,
            lists: KeptLists::open(&directory).ok().flatten(),
            directory,
            beside: None,
            shared,
            holds,
        }
    }

    pub(super) fn shares_bans(&self) -> bool {
        self.shared.contains(&BANS[0])
    }

    /// The bans that stand in tables which are not used on, each with its deadline. Keys that no ban
    /// has go with the tables.
    pub(super) fn other_bans(&self) -> Vec<(IpNet, u64)> {
        let mut found = Vec::new();
        if !self.shares_bans()
            && let Ok(v4) = pinned::open(&self.directory, BANS[0])
            && let Ok(v6) = pinned::open(&self.directory, BANS[1])
        {
            // What cannot be read is in the journal.
            let _ = each_ban(&v4, &v6, |key, entry| {
                found.extend(ban_prefix(key).map(|prefix| (prefix, entry.until)));
            });
        }
        found
    }

    /// The lock of an interface, if it was taken for this. Others are let go of: of a name that it
    /// has no more.
    pub(super) fn take_hold(&mut self, interface: &str) -> Option<Hold> {
        if self.interface != interface {
            return None;
        }
        let holds = mem::take(&mut self.holds).into_iter();
        holds.into_iter().find(|hold| hold.is_of(interface))
    }

    /// This process's own filter is attached.
    pub(super) fn attached(&mut self) {
        self.lists = None;
    }

    /// Has the program that is loaded use the tables.
    pub(super) fn share<'a>(&self, loader: &mut EbpfLoader<'a>) {
        for name in &self.shared {
            loader.map_pin_path(name, self.directory.join(name));
        }
    }
}

impl Dataplane {
    /// What this process goes on with; `None` without a filter that an earlier one has left.
    pub fn inherited(&self) -> Option<Inherited> {
        let inheritance = lock(&self.0.inheritance);
        let inheritance = inheritance.as_ref()?;
        Some(Inherited {
            interface: inheritance.interface.clone(),
            callers: inheritance.shared.contains(&CALLERS),
            bans: inheritance.shares_bans(),
            left_out: lock(&self.0.bans).left_out,
            beside: inheritance.beside.clone(),
        })
    }

    /// The pair of policies under which the callers were counted that this process goes on with.
    pub fn inherited_policies(&self) -> Option<[Policy; 2]> {
        let inheritance = lock(&self.0.inheritance);
        let inheritance = inheritance.as_ref()?;
        let has_callers = inheritance.shared.contains(&CALLERS);
        inheritance.policies.filter(|_| has_callers)
    }

    /// What the lists of the earlier filter say, as prefixes that do not overlap. Empty when there
    /// is no such filter, or when this process has attached its own.
    ///
    /// # Errors
    /// The kernel does not let its maps be read.
    pub fn inherited_standings(&self) -> Result<Vec<(IpNet, Standing)>, Error> {
        let inheritance = lock(&self.0.inheritance);
        let lists = inheritance.as_ref().and_then(|i| i.lists.as_ref());
        lists.map_or_else(|| Ok(Vec::new()), KeptLists::standings)
    }
}

impl KeptLists {
    /// `None` when the lines in force were not pinned.
    fn open(directory: &Path) -> Result<Option<Self>, MapError> {
        let active: Array<_, u32> =
            Map::Array(pinned::open(directory, LISTS_ACTIVE)?).try_into()?;
        let half = active.get(&0, 0)?;
        // As an array of ids, which is what a look-up in a map of maps gives.
        let ids: Array<_, u32> = Map::Array(pinned::open(directory, LISTS)?).try_into()?;
        let id = ids.get(&half, 0)?;
        let fronts = pinned::open(directory, LIST_FRONTS)?;
        let lines = [LINES, LINES_NEXT].into_iter().find_map(|name| {
            let lines = pinned::open(directory, name).ok()?;
            (lines.info().ok()?.id() == id).then_some(lines)
        });
        Ok(lines.filter(|_| half < HALVES).map(|lines| Self {
            fronts,
            half,
            lines,
        }))
    }

    fn standings(&self) -> Result<Vec<(IpNet, Standing)>, Error> {
        let info = self.lines.info().map_err(map_error(LISTS, "inspect", 0))?;
        let mapped = |map: &MapData, first, count| {
            let mapped = Mapped::of_map(map.fd().as_fd(), first, count);
            mapped.map_err(|source| Error::Syscall {
                map: LISTS,
                operation: "map into memory",
                source,
            })
        };
        let front = mapped(&self.fronts, self.half * FRONT, FRONT)?;
        let lines = mapped(&self.lines, 0, info.max_entries() * WORDS as u32)?;
        Ok(Index::over(front, lines, info.max_entries()).prefixes())
    }
}

/// Whether the same map of bans is pinned there.
fn has(directory: &Path, bans: &MapData) -> bool {
    let id = |map: &MapData| map.info().map(|info| info.id()).ok();
    pinned::open(directory, BANS[0]).is_ok_and(|other| id(&other) == id(bans))
}

/// The pair in force.
fn policies(directory: &Path) -> Result<[Policy; 2], MapError> {
    let active: Array<_, u32> = Map::Array(pinned::open(directory, ACTIVE)?).try_into()?;
    let policies: Array<_, Policy> = Map::Array(pinned::open(directory, POLICY)?).try_into()?;
    let active = active.get(&0, 0)?;
    Ok([policies.get(&active, 0)?, policies.get(&(active + 1), 0)?])
}

/// What a map must be like to be used: the sizes of keys and values, and how many.
struct Shape {
    key: u32,
    value: u32,
    entries: u32,
}

impl Shape {
    const fn of<K, V>(entries: u32) -> Self {
        Self {
            key: size_of::<K>() as u32,
            value: size_of::<V>() as u32,
            entries,
        }
    }

    fn is_of(&self, directory: &Path, name: &str) -> bool {
        let info = pinned::open(directory, name).and_then(|map| map.info());
        info.is_ok_and(|info| {
            info.key_size() == self.key
                && info.value_size() == self.value
                && info.max_entries() == self.entries
        })
    }
}
