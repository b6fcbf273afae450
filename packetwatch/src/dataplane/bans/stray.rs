//! Keys of the tables that no ban has. No look-up finds them, the program's neither, but they take room,
//! and each would pass for the ban of a prefix near it.

use std::mem;

use aya::maps::MapData;
use ipnet::IpNet;
use packetwatch_abi::{BanKeyV4, BanKeyV6, Prefix};

use super::{MAP, each_ban, is_v4};
use crate::dataplane::{
    Dataplane, Differences, Error, batch,
    key::{canonical, prefix},
    lock,
};

/// The prefix that a ban with this key is of. `None` of a key that no ban has: it is not canonical, or
/// of length 0, which in the program's list of lengths is the end.
pub(in crate::dataplane) fn ban_prefix(key: &Prefix) -> Option<IpNet> {
    canonical(key).filter(|prefix| prefix.prefix_len() > 0)
}

/// Removes the keys that no ban has. The example is the prefix nearest to the first.
pub(super) fn remove(v4: &MapData, v6: &MapData) -> Result<Differences, Error> {
    let (mut of_v4, mut of_v6, mut first) = (Vec::new(), Vec::new(), None);
    each_ban(v4, v6, |key, _| {
        if ban_prefix(key).is_some() {
            return;
        }
        first.get_or_insert(*key);
        let Prefix { addr, len, .. } = *key;
        if is_v4(key) {
            of_v4.push(BanKeyV4 { addr: addr[0], len });
        } else {
            of_v6.push(BanKeyV6 { addr, len });
        }
    })?;
    let removed = batch::delete(v4, MAP, &of_v4)? + batch::delete(v6, MAP, &of_v6)?;
    Ok(Differences {
        foreign: removed,
        example: first.filter(|_| removed > 0).as_ref().map(prefix),
        ..Differences::default()
    })
}

impl Dataplane {
    /// Removes the keys that no ban has, and returns what was removed, of inherited tables too.
    ///
    /// # Errors
    /// A table cannot be read or written; what is left is found again the next time.
    pub fn remove_stray_bans(&self) -> Result<Differences, Error> {
        let (v4, v6) = self.ban_tables()?;
        let now = remove(&v4, &v6)?;
        let before = mem::take(&mut lock(&self.0.bans).strays);
        Ok(Differences {
            foreign: before.foreign + now.foreign,
            example: before.example.or(now.example),
            ..now
        })
    }
}
