//! Counters, summed over the CPUs, and what the maps take.

use std::sync::Mutex;

use aya::{
    Ebpf,
    maps::{MapData, PerCpuArray, PerCpuValues},
};
use packetwatch_abi::{CONNECTIONS, Fault, Reason, Tally, capacity, outcome_index};

use super::{
    Dataplane, Error,
    bans::is_v4,
    callers,
    error::map_error,
    lock,
    object::{data, second_of, take},
    pinned,
};

pub(super) struct Counters {
    outcomes: Mutex<PerCpuArray<MapData, Tally>>,
    faults: PerCpuArray<MapData, u64>,
    list_hits: Mutex<PerCpuArray<MapData, Tally>>,
    sizes: Vec<(&'static str, MapData)>,
    others: Vec<MapData>,
    lists: u32,
}

/// Packets with one outcome on one interface.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub interface: String,
    pub reason: Reason,
    /// judged a drop, but let pass by observe mode
    pub observed: bool,
    pub tally: Tally,
}

/// What a map holds and takes.
#[derive(Clone, Debug)]
pub struct MapUse {
    pub map: &'static str,
    /// `None` where nothing counts them
    pub entries: Option<u64>,
    /// entries; bytes of the rings `calls` and `offences`; of `others`, how many maps they are
    pub capacity: u64,
    /// bytes of kernel memory
    pub bytes: u64,
}

/// Entries of the lists, whose ranges in the kernel are fewer or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListUse {
    /// allow and deny entries that people wrote
    pub written: usize,
    pub protected: usize,
}

/// Rows of one map each that nothing else tells of, with its name in the object.
const SIZED: [(&str, &str); 5] = [
    ("outcomes", "OUTCOMES_MAP"),
    ("list_hits", "LIST_HITS"),
    ("sketch", "SKETCH"),
    ("calls", "CALLS"),
    ("offences", "OFFENCES"),
];
/// The row of the maps that no other row tells of: the policy, the ring of the program's own debug
/// messages, and what is as small as a page.
const OTHERS: &str = "others";

impl Counters {
    pub(super) fn new(ebpf: &mut Ebpf, lists: u32) -> Result<Self, Error> {
        // Handles of their own, while the maps are still in the object.
        let sized = SIZED.map(|(row, name)| Ok((row, data(ebpf, name)?)));
        let is_other = |name: &str| {
            !SIZED.iter().any(|(_, sized)| *sized == name)
                && !pinned::BANS.contains(&name)
                && ![pinned::CALLERS, pinned::LIST_FRONTS].contains(&name)
        };
        let others = ebpf.maps().filter(|(name, _)| is_other(name));
        let others = others.map(|(_, map)| second_of(map, OTHERS));
        Ok(Self {
            sizes: sized.into_iter().collect::<Result<_, Error>>()?,
            others: others.collect::<Result<_, Error>>()?,
            outcomes: Mutex::new(take(ebpf, "OUTCOMES_MAP")?),
            faults: take(ebpf, "FAULTS")?,
            list_hits: Mutex::new(take(ebpf, "LIST_HITS")?),
            lists,
        })
    }

    fn tally(&self, index: u32) -> Result<Tally, Error> {
        let values = lock(&self.outcomes)
            .get(&index, 0)
            .map_err(map_error("OUTCOMES", "read", 0))?;
        Ok(sum(values.iter()))
    }
}

pub(super) fn sum<'a>(tallies: impl Iterator<Item = &'a Tally>) -> Tally {
    tallies.fold(Tally::default(), |sum, tally| Tally {
        packets: sum.packets + tally.packets,
        bytes: sum.bytes + tally.bytes,
    })
}

impl Dataplane {
    /// What became of the packets, by interface and reason; those that never occurred too.
    pub fn outcomes(&self) -> Result<Vec<Outcome>, Error> {
        let mut outcomes = Vec::new();
        for (slot, interface) in lock(&self.0.links).slots() {
            for (reason, observed, tally) in self.outcomes_in(slot)? {
                outcomes.push(Outcome {
                    interface: interface.clone(),
                    reason,
                    observed,
                    tally,
                });
            }
        }
        Ok(outcomes)
    }

    /// The same for one row of counters; the last, `MAX_INTERFACES`, is that of any interface
    /// which the policy does not name.
    pub fn outcomes_in(&self, slot: u32) -> Result<Vec<(Reason, bool, Tally)>, Error> {
        let mut outcomes = Vec::new();
        for observed in [false, true] {
            for &reason in Reason::ALL {
                let index = outcome_index(slot, observed, reason as u32);
                outcomes.push((reason, observed, self.0.counters.tally(index)?));
            }
        }
        Ok(outcomes)
    }

    /// Calls by interface, other than those that a list or a ban dropped.
    pub fn connections(&self) -> Result<Vec<(String, Tally)>, Error> {
        lock(&self.0.links)
            .slots()
            .into_iter()
            .map(|(slot, interface)| {
                let index = outcome_index(slot, false, CONNECTIONS);
                Ok((interface, self.0.counters.tally(index)?))
            })
            .collect()
    }

    /// What the program could not do, since it was loaded.
    pub fn faults(&self) -> Result<Vec<(Fault, u64)>, Error> {
        Fault::ALL
            .iter()
            .map(|&fault| {
                let values = self
                    .0
                    .counters
                    .faults
                    .get(&(fault as u32), 0)
                    .map_err(map_error("FAULTS", "read", 0))?;
                Ok((fault, values.iter().sum()))
            })
            .collect()
    }

    /// What the entry with this slot decided on.
    pub fn list_hits(&self, slot: u32) -> Result<Tally, Error> {
        let hits = lock(&self.0.counters.list_hits);
        let values =
            hits.get(&slot, 0)
                .map_err(map_error("LIST_HITS", "read", self.0.counters.lists))?;
        Ok(sum(values.iter()))
    }

    /// Sets a slot's counters to zero, before another entry takes it.
    pub fn clear_list_hits(&self, slot: u32) -> Result<(), Error> {
        let mut hits = lock(&self.0.counters.list_hits);
        clear(&mut hits, "LIST_HITS", slot, self.0.counters.lists)
    }

    /// Sets a row of outcomes to zero, before another interface takes it. What cannot be cleared
    /// stays and is counted for the new one.
    pub(super) fn clear_outcomes(&self, slot: u32) {
        let mut outcomes = lock(&self.0.counters.outcomes);
        for index in outcome_index(slot, false, 0)..outcome_index(slot + 1, false, 0) {
            if let Err(error) = clear(&mut outcomes, "OUTCOMES", index, 0) {
                return tracing::warn!("{error}");
            }
        }
    }

    /// The maps that a configuration sizes or that can fill up, and the others as one. What is protected
    /// lies in the maps of the lists, whose bytes are told of these alone, and has a row of its own.
    pub fn capacities(&self, listed: ListUse) -> Result<Vec<MapUse>, Error> {
        let mut uses = Vec::new();
        let mut callers = 0;
        self.each_caller(|_, _| callers += 1)?;
        let mut bans = [0, 0];
        self.each_batch(|entries| {
            entries.for_each(|(key, _)| bans[usize::from(!is_v4(&key))] += 1);
        })?;
        let rooms = &self.0;
        uses.push(usage_on_demand("callers", rooms.callers.raw(), callers)?);
        uses.push(lock(&rooms.bans).usage(bans)?);
        uses.push(lock(&rooms.standings).usage(listed.written as u64));
        uses.push(MapUse {
            map: "protected",
            entries: Some(listed.protected as u64),
            capacity: capacity::PROTECTED.into(),
            bytes: 0,
        });
        for (name, map) in &rooms.counters.sizes {
            uses.push(usage(name, map, None)?);
        }
        let mut others = MapUse {
            map: OTHERS,
            entries: None,
            capacity: rooms.counters.others.len() as u64,
            bytes: 0,
        };
        for map in &rooms.counters.others {
            others.bytes += usage(OTHERS, map, None)?.bytes;
        }
        uses.push(others);
        Ok(uses)
    }
}

/// Sets a slot's counters to zero on every CPU.
pub(super) fn clear(
    map: &mut PerCpuArray<MapData, Tally>,
    name: &'static str,
    index: u32,
    capacity: u32,
) -> Result<(), Error> {
    let cpus = map.get(&index, 0);
    let cpus = cpus.map_err(map_error(name, "clear", capacity))?.len();
    let zero = PerCpuValues::try_from(vec![Tally::default(); cpus]);
    let zero = zero.map_err(|source| Error::Syscall {
        map: name,
        operation: "clear",
        source,
    })?;
    map.set(index, zero, 0)
        .map_err(map_error(name, "clear", capacity))
}

/// Entries and memory of a map; the kernel tells the latter in the descriptor's fdinfo.
pub(super) fn usage(
    name: &'static str,
    map: &MapData,
    entries: Option<u64>,
) -> Result<MapUse, Error> {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    let info = map.info().map_err(map_error(callers::MAP, "inspect", 0))?;
    let fd = map.fd().as_fd().as_raw_fd();
    let bytes = std::fs::read_to_string(format!("/proc/self/fdinfo/{fd}"))
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("memlock:"))?;
            line.trim().parse().ok()
        })
        .unwrap_or(0);
    Ok(MapUse {
        map: name,
        entries,
        capacity: info.max_entries().into(),
        bytes,
    })
}

/// The same of a hash map whose elements are allocated as they come. What they take is not in fdinfo:
/// before kernel 6.4 that tells the capacity, and since then the elements' own size.
pub(super) fn usage_on_demand(
    name: &'static str,
    map: &MapData,
    entries: u64,
) -> Result<MapUse, Error> {
    let info = map.info().map_err(map_error(name, "inspect", 0))?;
    let buckets = u64::from(info.max_entries()).next_power_of_two() * BUCKET;
    let (key, value) = (info.key_size(), info.value_size());
    Ok(MapUse {
        map: name,
        entries: Some(entries),
        capacity: info.max_entries().into(),
        bytes: buckets + entries * allocated(key, value),
    })
}

/// `struct bucket` of kernel/bpf/hashtab.c.
const BUCKET: u64 = 16;
/// `struct htab_elem` there, without key and value.
const ELEMENT: u64 = 48;
/// kernel/bpf/memalloc.c keeps a link before each element.
const LINK: u64 = 8;

/// Bytes that the allocator takes for an element: the slabs of kmalloc are powers of two, 96 and 192.
fn allocated(key: u32, value: u32) -> u64 {
    let padded = |size: u32| u64::from(size).next_multiple_of(8);
    match LINK + ELEMENT + padded(key) + padded(value) {
        65..=96 => 96,
        129..=192 => 192,
        size => size.next_power_of_two(),
    }
}

#[cfg(test)]
mod tests {
    use packetwatch_abi::{Caller, Prefix};

    use super::*;

    #[test]
    fn an_element_takes_the_slab_that_it_fits_into() {
        let sizes = [
            (4, 4),
            (8, 16),
            (8, 32),
            (8, 40),
            (8, 64),
            (16, 120),
            (16, 128),
        ];
        let slabs = sizes.map(|(key, value)| allocated(key, value));
        assert_eq!(slabs, [96, 96, 96, 128, 128, 192, 256]);
        let (key, caller) = (size_of::<Prefix>() as u32, size_of::<Caller>() as u32);
        assert_eq!(allocated(key, caller), 2048, "of a caller");
        let full = ELEMENT + LINK + 16;
        assert_eq!(allocated(8, 8 + (2048 - full) as u32), 2048);
        assert_eq!(allocated(8, 16 + (2048 - full) as u32), 4096);
    }
}
