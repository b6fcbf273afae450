//! Bans in the kernel.

use aya::{
    Ebpf,
    maps::{HashMap, IterableMap, MapData},
};
use ipnet::IpNet;
use packetwatch_abi::{Ban, Prefix};

use super::{
    Dataplane, Error, MapUse, batch,
    counters::usage,
    error::{is_absent, map_error},
    key::{self, key},
    lock,
    object::take,
};

const MAP: &str = "BANS";

pub(super) struct Bans {
    map: HashMap<MapData, Prefix, Ban>,
    capacity: u32,
}

impl Bans {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map: HashMap<MapData, Prefix, Ban> = take(ebpf, MAP)?;
        let info = IterableMap::map(&map).info();
        let capacity = info.map_err(map_error(MAP, "inspect", 0))?.max_entries();
        Ok(Self { map, capacity })
    }

    pub(super) fn usage(&self, entries: u64) -> Result<MapUse, Error> {
        usage("bans", IterableMap::map(&self.map), Some(entries))
    }

    fn get(&self, prefix: IpNet) -> Result<Option<Ban>, Error> {
        match self.map.get(&key(prefix), 0) {
            Ok(ban) => Ok(Some(ban)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(map_error(MAP, "read", self.capacity)(error)),
        }
    }
}

impl Dataplane {
    /// Drops everything of `prefix` before `until` (CLOCK_MONOTONIC nanoseconds).
    ///
    /// A deadline that stays or comes nearer is the same ban's, whose tally goes on; a later one is
    /// that of a new ban.
    pub fn ban(&self, prefix: IpNet, until: u64) -> Result<(), Error> {
        let mut bans = lock(&self.0.bans);
        let same = bans.get(prefix)?.filter(|ban| until <= ban.until);
        let ban = Ban {
            until,
            ..same.unwrap_or_default()
        };
        let capacity = bans.capacity;
        bans.map
            .insert(key(prefix), ban, 0)
            .map_err(map_error(MAP, "write", capacity))
    }

    /// The ban of exactly this prefix, also one that has ended.
    pub fn ban_of(&self, prefix: IpNet) -> Result<Option<Ban>, Error> {
        lock(&self.0.bans).get(prefix)
    }

    /// Forgets a ban; one that is not there is as good as forgotten.
    pub fn remove_ban(&self, prefix: IpNet) -> Result<(), Error> {
        let mut bans = lock(&self.0.bans);
        match bans.map.remove(&key(prefix)) {
            Err(error) if !is_absent(&error) => {
                Err(map_error(MAP, "remove from", bans.capacity)(error))
            }
            _ => Ok(()),
        }
    }

    /// Visits each ban, ended ones too, in no order. Nothing waits for it.
    pub fn each_ban(&self, mut visit: impl FnMut(IpNet, Ban)) -> Result<(), Error> {
        let info = IterableMap::map(&lock(&self.0.bans).map).info();
        let map = info.and_then(|info| MapData::from_id(info.id()));
        let map = map.map_err(map_error(MAP, "open", 0))?;
        batch::each::<Prefix, Ban>(&map, MAP, |prefix, ban| visit(key::prefix(&prefix), ban))
    }

    /// All bans, ended ones too, in no order.
    pub fn bans(&self) -> Result<Vec<(IpNet, Ban)>, Error> {
        let mut all = Vec::new();
        self.each_ban(|prefix, ban| all.push((prefix, ban)))?;
        Ok(all)
    }
}
