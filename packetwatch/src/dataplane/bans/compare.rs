//! The tables of bans compared with what was written into them.

use aya::maps::{IterableMap, MapData};
use ipnet::IpNet;
use packetwatch_abi::{Ban as Entry, BanKeyV4, BanKeyV6, Prefix, ban_filter_bit};

use super::{Bans, MAP, ban_prefix};
use crate::dataplane::{Dataplane, Error, batch, key::prefix, lock, object::second};

/// Looks at the tables while bans are written, before a comparison has to tell.
const LOOKS: u32 = 3;

impl Bans {
    /// Whether an entry of the kernel is as it was written, and the program looks for it.
    fn is_as_written(&self, key: &Prefix, entry: Entry) -> bool {
        let written = self.written.get(entry.slot as usize);
        written == Some(&Some((*key, entry.until))) && self.filter.bit(ban_filter_bit(key).into())
    }

    /// The deadline of an entry of the kernel; 0, which is nobody's, of one that counts into
    /// another slot than that of its prefix, or whose prefix has none: somebody else has written it.
    pub(super) fn deadline(&self, key: &Prefix, entry: Entry) -> u64 {
        match self.slots.get(key) {
            Some(slot) if *slot == entry.slot => entry.until,
            _ => 0,
        }
    }
}

impl Dataplane {
    /// Whether the kernel holds the bans that were written, and no others, and looks for them.
    ///
    /// One batched read and no search, since an entry names its slot: for 65 536 bans 20 to 30 ms,
    /// four fifths of them in the kernel. False also if bans are written so fast that it cannot tell.
    pub fn bans_as_written(&self) -> Result<bool, Error> {
        for _ in 0..LOOKS {
            let writes = lock(&self.0.bans).writes;
            let (mut ours, mut others) = (0, 0);
            self.each_batch(|entries| {
                let bans = lock(&self.0.bans);
                for (key, entry) in entries {
                    match bans.is_as_written(&key, entry) {
                        true => ours += 1,
                        false => others += 1,
                    }
                }
            })?;
            let bans = lock(&self.0.bans);
            if bans.writes == writes {
                return Ok(others == 0 && ours == bans.slots.len());
            }
        }
        Ok(false)
    }

    /// Visits each ban with its deadline, ended ones too, in no order; keys that no ban has are passed
    /// over. Nothing waits for it.
    pub fn each_ban(&self, mut visit: impl FnMut(IpNet, u64)) -> Result<(), Error> {
        self.each_batch(|entries| {
            let found: Vec<(IpNet, u64)> = {
                let bans = lock(&self.0.bans);
                let of_bans = |(key, entry)| Some((ban_prefix(&key)?, bans.deadline(&key, entry)));
                entries.filter_map(of_bans).collect()
            };
            for (prefix, until) in found {
                visit(prefix, until);
            }
        })
    }

    /// Visits all that takes room in the tables, keys that no ban has too, some at a time: a lock taken
    /// for each would be had by nobody else meanwhile.
    pub(in crate::dataplane) fn each_batch(
        &self,
        visit: impl FnMut(&mut dyn Iterator<Item = (Prefix, Entry)>),
    ) -> Result<(), Error> {
        let (v4, v6) = self.ban_tables()?;
        each_batch(&v4, &v6, visit)
    }

    /// Second handles of the two tables, so that nobody waits for who reads them whole.
    pub(super) fn ban_tables(&self) -> Result<(MapData, MapData), Error> {
        let bans = lock(&self.0.bans);
        Ok((
            second(IterableMap::map(&bans.v4), MAP)?,
            second(IterableMap::map(&bans.v6), MAP)?,
        ))
    }

    /// Prefixes whose ban the filter hides from the program, though it is in the table: somebody
    /// else has written into the filter. They are shown to it again.
    pub fn mend_ban_filter(&self) -> Vec<IpNet> {
        let bans = lock(&self.0.bans);
        let is_hidden = |key: &&Prefix| bans.filter.set_bit(ban_filter_bit(key).into());
        bans.slots.keys().filter(is_hidden).map(prefix).collect()
    }
}

/// Visits each entry of the two tables, in no order.
pub(in crate::dataplane) fn each_ban(
    v4: &MapData,
    v6: &MapData,
    mut visit: impl FnMut(&Prefix, Entry),
) -> Result<(), Error> {
    each_batch(v4, v6, |entries| {
        entries.for_each(|(key, entry)| visit(&key, entry));
    })
}

/// As [`each_ban`], those of one system call after those of another.
fn each_batch(
    v4: &MapData,
    v6: &MapData,
    mut visit: impl FnMut(&mut dyn Iterator<Item = (Prefix, Entry)>),
) -> Result<(), Error> {
    batch::each_batch::<BanKeyV4, Entry>(v4, MAP, |entries| {
        visit(&mut entries.map(|(BanKeyV4 { addr, len }, entry)| {
            let full = Prefix::address_v4(addr);
            (Prefix { len, ..full }, entry)
        }));
    })?;
    batch::each_batch::<BanKeyV6, Entry>(v6, MAP, |entries| {
        visit(&mut entries.map(|(BanKeyV6 { addr, len }, entry)| {
            let full = Prefix::address_v6(addr);
            (Prefix { len, ..full }, entry)
        }));
    })
}
