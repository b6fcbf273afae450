//! Bans in the kernel: a table for each family, a presence filter in front of them, and a slot each
//! for what was dropped.

mod adopt;
mod compare;
mod stray;

pub(super) use compare::each_ban;
pub(super) use stray::ban_prefix;

use std::{
    collections::{BTreeSet, HashMap as Slots, hash_map::Entry as Count},
    os::fd::AsFd as _,
};

use aya::{
    Ebpf,
    maps::{Array, HashMap, IterableMap, MapData, MapError, PerCpuArray},
};
use ipnet::IpNet;
use packetwatch_abi::{
    BAN_FILTER_WORDS, Ban as Entry, BanKeyV4, BanKeyV6, Family, Prefix, Tally, ban_filter_bit,
};

use super::{
    Dataplane, Differences, Error, MapUse,
    counters::{clear, sum, usage, usage_on_demand},
    error::{is_absent, map_error},
    key::key,
    lock,
    mapped::Mapped,
    object::take,
};

const MAP: &str = "BANS";

/// A ban as the kernel has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ban {
    /// everything of the prefix is dropped before this time, CLOCK_MONOTONIC nanoseconds
    pub until: u64,
    /// what was dropped, over all CPUs
    pub packets: u64,
    pub bytes: u64,
}

pub(super) struct Bans {
    v4: HashMap<MapData, BanKeyV4, Entry>,
    v6: HashMap<MapData, BanKeyV6, Entry>,
    /// keeps the memory of `filter` there
    filter_map: Array<MapData, u64>,
    filter: Mapped,
    hits: PerCpuArray<MapData, Tally>,
    /// of each table, and of both together
    capacity: u32,
    /// the slot of each prefix in the tables
    slots: Slots<Prefix, u32>,
    free: BTreeSet<u32>,
    /// Slots from here on have never counted.
    unused: u32,
    /// by slot, the prefix and the deadline that were written last
    written: Vec<Option<(Prefix, u64)>>,
    /// writes to the tables so far
    writes: u64,
    /// how many prefixes share a bit of the filter; absent is none
    shares: Slots<u32, u32>,
    /// how many prefixes of IPv4 and of IPv6 have a length; absent is none
    lengths: [Slots<u32, u32>; 2],
    /// bans of an earlier process that there was no room for
    pub(super) left_out: u64,
    /// what was removed from inherited tables and not told yet
    strays: Differences,
}

impl Bans {
    /// `inherited`: the tables are those of a filter that an earlier process has left.
    pub(super) fn new(ebpf: &mut Ebpf, inherited: bool) -> Result<Self, Error> {
        let v4: HashMap<MapData, BanKeyV4, Entry> = take(ebpf, "BANS_V4")?;
        let info = IterableMap::map(&v4).info();
        let capacity = info.map_err(map_error(MAP, "inspect", 0))?.max_entries();
        let filter_map: Array<MapData, u64> = take(ebpf, "BAN_FILTER")?;
        let words = IterableMap::map(&filter_map).fd().as_fd();
        let filter = Mapped::of_map(words, 0, BAN_FILTER_WORDS);
        let filter = filter.map_err(|source| Error::Syscall {
            map: MAP,
            operation: "map into memory",
            source,
        })?;
        let mut bans = Self {
            v4,
            v6: take(ebpf, "BANS_V6")?,
            filter,
            filter_map,
            hits: take(ebpf, "BAN_HITS")?,
            capacity,
            slots: Slots::new(),
            free: BTreeSet::new(),
            unused: if inherited { capacity } else { 0 },
            written: Vec::new(),
            writes: 0,
            shares: Slots::new(),
            lengths: [Slots::new(), Slots::new()],
            left_out: 0,
            strays: Differences::default(),
        };
        if inherited {
            bans.adopt()?;
        }
        Ok(bans)
    }

    /// Memory of the tables, the filter and the tallies.
    pub(super) fn usage(&self, [v4, v6]: [u64; 2]) -> Result<MapUse, Error> {
        let mut whole = usage_on_demand("bans", IterableMap::map(&self.v4), v4)?;
        let of_v6 = usage_on_demand("bans", IterableMap::map(&self.v6), v6)?;
        whole.entries = Some(v4 + v6);
        whole.bytes += of_v6.bytes;
        for part in [
            IterableMap::map(&self.filter_map),
            IterableMap::map(&self.hits),
        ] {
            whole.bytes += usage("bans", part, None)?.bytes;
        }
        Ok(whole)
    }

    fn get(&self, key: &Prefix) -> Result<Option<Entry>, Error> {
        let found = match *key {
            Prefix { addr, len, .. } if is_v4(key) => {
                self.v4.get(&BanKeyV4 { addr: addr[0], len }, 0)
            }
            Prefix { addr, len, .. } => self.v6.get(&BanKeyV6 { addr, len }, 0),
        };
        match found {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(self.error("read", error)),
        }
    }

    fn put(&mut self, key: &Prefix, entry: Entry) -> Result<(), Error> {
        let written = match *key {
            Prefix { addr, len, .. } if is_v4(key) => {
                self.v4.insert(BanKeyV4 { addr: addr[0], len }, entry, 0)
            }
            Prefix { addr, len, .. } => self.v6.insert(BanKeyV6 { addr, len }, entry, 0),
        };
        written.map_err(|error| self.error("write", error))
    }

    fn remove(&mut self, key: &Prefix) -> Result<(), Error> {
        let removed = match *key {
            Prefix { addr, len, .. } if is_v4(key) => {
                self.v4.remove(&BanKeyV4 { addr: addr[0], len })
            }
            Prefix { addr, len, .. } => self.v6.remove(&BanKeyV6 { addr, len }),
        };
        match removed {
            Err(error) if !is_absent(&error) => Err(self.error("remove from", error)),
            _ => Ok(()),
        }
    }

    fn error(&self, operation: &'static str, error: MapError) -> Error {
        map_error(MAP, operation, self.capacity)(error)
    }

    /// A slot with counts of zero.
    fn take_slot(&mut self) -> Result<u32, Error> {
        // Slots are given out from 0 on, so that without free ones all below are taken.
        let slot = match self.free.first() {
            Some(slot) => *slot,
            None => self.slots.len() as u32,
        };
        if slot >= self.capacity {
            return Err(Error::Full {
                map: MAP,
                capacity: self.capacity,
            });
        }
        if slot < self.unused {
            clear(&mut self.hits, "BAN_HITS", slot, self.capacity)?;
        } else {
            self.unused = slot + 1;
        }
        self.free.remove(&slot);
        Ok(slot)
    }

    fn wrote(&mut self, slot: u32, what: Option<(Prefix, u64)>) {
        let slot = slot as usize;
        if slot >= self.written.len() {
            self.written.resize(slot + 1, None);
        }
        self.written[slot] = what;
        self.writes += 1;
    }

    fn tally(&self, slot: u32) -> Result<Tally, Error> {
        match self.hits.get(&slot, 0) {
            Ok(values) => Ok(sum(values.iter())),
            // A slot that somebody else has written into the table.
            Err(MapError::OutOfBounds { .. }) => Ok(Tally::default()),
            Err(error) => Err(self.error("read", error)),
        }
    }

    fn shown(&self, entry: Entry) -> Result<Ban, Error> {
        let Tally { packets, bytes } = self.tally(entry.slot)?;
        Ok(Ban {
            until: entry.until,
            packets,
            bytes,
        })
    }

    /// Takes a prefix for one that is in the tables, and lets the program look for it.
    fn enter(&mut self, key: Prefix, slot: u32) {
        self.slots.insert(key, slot);
        *self.lengths[row(&key)].entry(key.len).or_default() += 1;
        let bit = ban_filter_bit(&key);
        *self.shares.entry(bit).or_default() += 1;
        self.filter.set_bit(bit.into());
    }

    /// The opposite; returns the slot that it had.
    fn leave(&mut self, key: &Prefix) -> Option<u32> {
        let slot = self.slots.remove(key)?;
        one_less(&mut self.lengths[row(key)], key.len);
        let bit = ban_filter_bit(key);
        if one_less(&mut self.shares, bit) {
            self.filter.clear_bit(bit.into());
        }
        Some(slot)
    }
}

/// Tells whether that was the last.
fn one_less(counts: &mut Slots<u32, u32>, of: u32) -> bool {
    let Count::Occupied(mut count) = counts.entry(of) else {
        return false;
    };
    *count.get_mut() -= 1;
    let is_last = *count.get() == 0;
    if is_last {
        count.remove();
    }
    is_last
}

/// Where counts of its family stand.
fn row(key: &Prefix) -> usize {
    usize::from(!is_v4(key))
}

pub(super) fn is_v4(key: &Prefix) -> bool {
    key.family == Family::V4 as u32
}

impl Dataplane {
    /// Drops everything of `prefix` before `until` (CLOCK_MONOTONIC nanoseconds).
    ///
    /// A deadline that stays or comes nearer is the same ban's, whose tally goes on; a later one is
    /// that of a new ban.
    pub fn ban(&self, prefix: IpNet, until: u64) -> Result<(), Error> {
        let key = key(prefix);
        let mut bans = lock(&self.0.bans);
        let known = bans.slots.get(&key).copied();
        let slot = match known {
            Some(slot) => {
                let before = bans.get(&key)?;
                if before.is_none_or(|before| before.until < until) {
                    let capacity = bans.capacity;
                    clear(&mut bans.hits, "BAN_HITS", slot, capacity)?;
                }
                slot
            }
            None => bans.take_slot()?,
        };
        let entry = Entry {
            until,
            slot,
            _pad: 0,
        };
        if let Err(error) = bans.put(&key, entry) {
            if known.is_none() {
                bans.free.insert(slot);
            }
            return Err(error);
        }
        bans.wrote(slot, Some((key, until)));
        if known.is_none() {
            bans.enter(key, slot);
        }
        Ok(())
    }

    /// The deadline of the ban of exactly this prefix, as it was written last, by this process or the
    /// one whose tables it uses on; without a system call.
    pub fn ban_until(&self, prefix: IpNet) -> Option<u64> {
        let bans = lock(&self.0.bans);
        let slot = *bans.slots.get(&key(prefix))?;
        let (_, until) = (*bans.written.get(slot as usize)?)?;
        Some(until)
    }

    /// The prefix lengths of the bans of IPv4 and of IPv6, ended ones too; without a system call.
    pub fn ban_lengths(&self) -> [BTreeSet<u32>; 2] {
        let bans = lock(&self.0.bans);
        bans.lengths
            .each_ref()
            .map(|lengths| lengths.keys().copied().collect())
    }

    /// The ban of exactly this prefix, also one that has ended.
    pub fn ban_of(&self, prefix: IpNet) -> Result<Option<Ban>, Error> {
        let key = key(prefix);
        let bans = lock(&self.0.bans);
        let entry = bans.get(&key)?.map(|entry| Entry {
            until: bans.deadline(&key, entry),
            ..entry
        });
        entry.map(|entry| bans.shown(entry)).transpose()
    }

    /// Forgets a ban; one that is not there is as good as forgotten.
    pub fn remove_ban(&self, prefix: IpNet) -> Result<(), Error> {
        let key = key(prefix);
        let mut bans = lock(&self.0.bans);
        bans.remove(&key)?;
        if let Some(slot) = bans.leave(&key) {
            bans.wrote(slot, None);
            bans.free.insert(slot);
        }
        Ok(())
    }

    /// All bans, ended ones too, in no order.
    pub fn bans(&self) -> Result<Vec<(IpNet, Ban)>, Error> {
        let mut prefixes = Vec::new();
        self.each_ban(|prefix, _| prefixes.push(prefix))?;
        let mut all = Vec::with_capacity(prefixes.len());
        for prefix in prefixes {
            all.extend(self.ban_of(prefix)?.map(|ban| (prefix, ban)));
        }
        Ok(all)
    }
}
