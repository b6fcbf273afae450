//! Tables that an earlier process has left: used on, or copied.
//!
//! Somebody else may have written into them since. Whatever they hold, a start goes on: keys that no ban
//! has are removed, and bans that there is no room for wait for the comparison with the lists.

use aya::maps::IterableMap;
use ipnet::IpNet;
use packetwatch_abi::{BAN_FILTER_WORDS, Ban as Entry};

use super::{Bans, each_ban, stray};
use crate::dataplane::{Dataplane, Error, lock};

impl Bans {
    /// Goes on with what is in the tables. The program of the earlier process may still drop by them,
    /// so no ban is out of force for a moment.
    pub(super) fn adopt(&mut self) -> Result<(), Error> {
        let (v4, v6) = (IterableMap::map(&self.v4), IterableMap::map(&self.v6));
        let strays = stray::remove(v4, v6)?;
        let mut found = Vec::new();
        each_ban(v4, v6, |key, entry| {
            if stray::ban_prefix(key).is_some() {
                found.push((*key, entry));
            }
        })?;
        self.strays = strays;
        let mut homeless = Vec::new();
        for (key, entry) in found {
            let is_taken = self
                .written
                .get(entry.slot as usize)
                .is_some_and(Option::is_some);
            if is_taken || entry.slot >= self.capacity {
                homeless.push((key, entry));
                continue;
            }
            self.wrote(entry.slot, Some((key, entry.until)));
            self.enter(key, entry.slot);
        }
        let unused = (0..).zip(&self.written).filter(|(_, ban)| ban.is_none());
        self.free = unused.map(|(slot, _)| slot).collect();
        // Not written by a process of ours, but in force.
        for (key, entry) in homeless {
            let slot = match self.take_slot() {
                Err(error) if error.is_full() => {
                    self.left_out += 1;
                    continue;
                }
                slot => slot?,
            };
            self.put(&key, Entry { slot, ..entry })?;
            self.wrote(slot, Some((key, entry.until)));
            self.enter(key, slot);
        }
        // Bits of bans that are no longer there.
        let mut wanted = vec![0u64; BAN_FILTER_WORDS as usize];
        for bit in self.shares.keys() {
            wanted[*bit as usize / 64] |= 1 << (bit % 64);
        }
        for (at, wanted) in (0..).zip(wanted) {
            if self.filter.word(at) != wanted {
                self.filter.publish(at, wanted);
            }
        }
        Ok(())
    }
}

impl Dataplane {
    /// Bans what tables of an earlier filter hold that are not used on.
    pub(in crate::dataplane) fn copy_bans(&self, bans: &[(IpNet, u64)]) -> Result<(), Error> {
        let mut left_out = 0;
        for (prefix, until) in bans {
            match self.ban(*prefix, *until) {
                Err(error) if error.is_full() => left_out += 1,
                banned => banned?,
            }
        }
        lock(&self.0.bans).left_out += left_out;
        Ok(())
    }
}
