//! The allow and deny lists in the kernel: one trie, put in place whole or changed node by node.

use std::net::IpAddr;

use aya::{
    Ebpf,
    maps::{
        IterableMap, MapData,
        lpm_trie::{Key, LpmTrie},
        of_maps::ArrayOfMaps,
    },
};
use ipnet::IpNet;
use packetwatch_abi::{Prefix, Standing};

use super::{
    Dataplane, Error, MapUse, batch,
    counters::usage,
    error::{is_absent, map_error},
    key::key,
    lock,
    object::take,
};

type Trie = LpmTrie<MapData, Prefix, Standing>;

const MAP: &str = "LISTS";

pub(super) struct Standings {
    outer: ArrayOfMaps<MapData, Trie>,
    /// the one in force
    trie: Trie,
    /// Nodes of a trie, as configured. A replaced list lives beside the old one until the switch.
    capacity: u32,
}

impl Standings {
    pub(super) fn new(ebpf: &mut Ebpf, capacity: u32) -> Result<Self, Error> {
        let mut outer: ArrayOfMaps<MapData, Trie> = take(ebpf, MAP)?;
        let trie = create(capacity)?;
        outer
            .set(0, &trie, 0)
            .map_err(map_error(MAP, "switch", capacity))?;
        Ok(Self {
            outer,
            trie,
            capacity,
        })
    }

    /// What the program looks into: a handle of its own.
    fn in_force(&self) -> Result<Option<Trie>, Error> {
        match self.outer.get(&0, 0) {
            Ok(trie) => Ok(Some(trie)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(map_error(MAP, "read", 0)(error)),
        }
    }

    /// Memory of the trie in force, and the capacity that was configured rather than the trie's.
    pub(super) fn usage(&self, listed: u64) -> Result<MapUse, Error> {
        let used = usage("lists", IterableMap::map(&self.trie), Some(listed))?;
        Ok(MapUse {
            capacity: self.capacity.into(),
            ..used
        })
    }
}

fn create(capacity: u32) -> Result<Trie, Error> {
    const NO_PREALLOC: u32 = 1;
    // One more than is used: before 6.13 a full trie refuses to change even a node it has.
    Trie::create(capacity.saturating_add(1), NO_PREALLOC)
        .map_err(map_error(MAP, "create", capacity))
}

fn node(prefix: IpNet) -> Key<Prefix> {
    let key = key(prefix);
    Key::new(Prefix::FAMILY_BITS + key.len, Prefix { len: 0, ..key })
}

impl Dataplane {
    /// Adds a node or replaces its value.
    pub fn put_standing(&self, prefix: IpNet, standing: Standing) -> Result<(), Error> {
        let mut standings = lock(&self.0.standings);
        let capacity = standings.capacity;
        standings
            .trie
            .insert(&node(prefix), standing, 0)
            .map_err(map_error(MAP, "write", capacity))
    }

    /// Removes a node; one that is not there is as good as removed.
    pub fn remove_standing(&self, prefix: IpNet) -> Result<(), Error> {
        match lock(&self.0.standings).trie.remove(&node(prefix)) {
            Err(error) if !is_absent(&error) => Err(map_error(MAP, "remove from", 0)(error)),
            _ => Ok(()),
        }
    }

    /// Puts a whole new set in force: it is filled aside and switched to with a single store, so
    /// that every packet is judged by the old set or by the new one. On an error the old one stays.
    pub fn replace_standings(
        &self,
        nodes: impl IntoIterator<Item = (IpNet, Standing)>,
    ) -> Result<(), Error> {
        let mut standings = lock(&self.0.standings);
        let capacity = standings.capacity;
        let mut trie = create(capacity)?;
        for (prefix, standing) in nodes {
            trie.insert(&node(prefix), standing, 0)
                .map_err(map_error(MAP, "fill", capacity))?;
        }
        standings
            .outer
            .set(0, &trie, 0)
            .map_err(map_error(MAP, "switch", capacity))?;
        standings.trie = trie;
        Ok(())
    }

    /// What the lists say of an address, by the kernel's own longest match.
    pub fn standing_of(&self, address: IpAddr) -> Result<Standing, Error> {
        match lock(&self.0.standings).trie.get(&node(address.into()), 0) {
            Ok(standing) => Ok(standing),
            Err(error) if is_absent(&error) => Ok(Standing::default()),
            Err(error) => Err(map_error(MAP, "read", 0)(error)),
        }
    }

    /// Visits each node of the lists in force, in no order; one may come twice if they change
    /// meanwhile. Nothing waits for it.
    pub fn each_standing(&self, mut visit: impl FnMut(IpNet, Standing)) -> Result<(), Error> {
        let in_force = lock(&self.0.standings).in_force()?;
        let Some(trie) = in_force else {
            return Ok(());
        };
        batch::each::<Key<Prefix>, Standing>(IterableMap::map(&trie), MAP, |node, standing| {
            let len = node.prefix_len().saturating_sub(Prefix::FAMILY_BITS);
            let prefix = Prefix { len, ..node.data() };
            visit(super::prefix(&prefix), standing);
        })
    }

    /// Whether the program judges by the lists that are written here, and not by others that
    /// somebody has put in their place.
    pub fn lists_in_force(&self) -> Result<bool, Error> {
        let standings = lock(&self.0.standings);
        let id = |trie: &Trie| {
            let info = IterableMap::map(trie).info();
            info.map(|info| info.id())
                .map_err(map_error(MAP, "inspect", 0))
        };
        match standings.in_force()? {
            Some(trie) => Ok(id(&trie)? == id(&standings.trie)?),
            None => Ok(false),
        }
    }
}
