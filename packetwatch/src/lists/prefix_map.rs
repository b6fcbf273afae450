//! An ordered map of prefixes that answers what covers one and what lies inside it.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    net::IpAddr,
    ops::Bound::{Excluded, Included, Unbounded},
};

use ipnet::IpNet;

/// Keys are truncated prefixes. Their order, by address and then by length, is the order of a walk
/// down the trie: what lies inside a prefix follows it without a gap.
#[derive(Clone, Debug)]
pub(super) struct PrefixMap<T> {
    entries: BTreeMap<IpNet, T>,
    /// How many keys have each length: what covers a prefix is looked up under these alone.
    lengths_v4: [u32; 33],
    lengths_v6: [u32; 129],
}

impl<T> Default for PrefixMap<T> {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            lengths_v4: [0; 33],
            lengths_v6: [0; 129],
        }
    }
}

impl<T> PrefixMap<T> {
    pub(super) fn get(&self, prefix: IpNet) -> Option<&T> {
        self.entries.get(&prefix)
    }

    pub(super) fn get_mut(&mut self, prefix: IpNet) -> Option<&mut T> {
        self.entries.get_mut(&prefix)
    }

    pub(super) fn insert(&mut self, prefix: IpNet, value: T) -> Option<T> {
        let former = self.entries.insert(prefix, value);
        if former.is_none() {
            self.lengths_mut(prefix)[usize::from(prefix.prefix_len())] += 1;
        }
        former
    }

    /// The value of a prefix, a new one if there is none: in one search.
    pub(super) fn or_default(&mut self, prefix: IpNet) -> &mut T
    where
        T: Default,
    {
        match self.entries.entry(prefix) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let lengths: &mut [u32] = match prefix {
                    IpNet::V4(_) => &mut self.lengths_v4,
                    IpNet::V6(_) => &mut self.lengths_v6,
                };
                lengths[usize::from(prefix.prefix_len())] += 1;
                entry.insert(T::default())
            }
        }
    }

    pub(super) fn remove(&mut self, prefix: IpNet) -> Option<T> {
        let former = self.entries.remove(&prefix)?;
        self.lengths_mut(prefix)[usize::from(prefix.prefix_len())] -= 1;
        Some(former)
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Everything, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (IpNet, &T)> {
        self.entries.iter().map(|(prefix, value)| (*prefix, value))
    }

    /// Everything behind `cursor` in order.
    pub(super) fn after(&self, cursor: Option<IpNet>) -> impl Iterator<Item = (IpNet, &T)> {
        let start = cursor.map_or(Unbounded, Excluded);
        self.entries
            .range((start, Unbounded))
            .map(|(prefix, value)| (*prefix, value))
    }

    /// `prefix` itself, if it is a key, and what covers it; the most specific first.
    pub(super) fn covering(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let lengths: &[u32] = match prefix {
            IpNet::V4(_) => &self.lengths_v4,
            IpNet::V6(_) => &self.lengths_v6,
        };
        (0..=prefix.prefix_len())
            .rev()
            .filter(|len| lengths[usize::from(*len)] > 0)
            .filter_map(move |len| {
                let wider = IpNet::new(prefix.addr(), len).ok()?.trunc();
                Some((wider, self.entries.get(&wider)?))
            })
    }

    /// `prefix` itself, if it is a key, and what lies inside it, in order.
    pub(super) fn inside(&self, prefix: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let last = address(prefix.broadcast());
        self.entries
            .range((Included(prefix), Included(last)))
            .map(|(prefix, value)| (*prefix, value))
    }

    fn lengths_mut(&mut self, prefix: IpNet) -> &mut [u32] {
        match prefix {
            IpNet::V4(_) => &mut self.lengths_v4,
            IpNet::V6(_) => &mut self.lengths_v6,
        }
    }
}

/// An address as a prefix of full length.
pub(super) fn address(addr: IpAddr) -> IpNet {
    IpNet::from(addr)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::lists::tests::any_prefix;

    proptest! {
        #[test]
        fn neighbours_are_those_a_scan_finds(
            keys in prop::collection::btree_set(any_prefix(), 0..40),
            gone in prop::collection::vec(any_prefix(), 0..20),
            asked in any_prefix(),
        ) {
            let mut map = PrefixMap::default();
            for key in &keys {
                map.insert(*key, *key);
            }
            for key in &gone {
                map.remove(*key);
            }
            let left: Vec<IpNet> = keys.iter().filter(|k| !gone.contains(k)).copied().collect();
            prop_assert_eq!(map.len(), left.len());

            let inside: Vec<IpNet> = map.inside(asked).map(|(key, _)| key).collect();
            let scanned: Vec<IpNet> = left.iter().filter(|k| asked.contains(*k)).copied().collect();
            prop_assert_eq!(inside, scanned);

            let covering: Vec<IpNet> = map.covering(asked).map(|(key, _)| key).collect();
            let mut scanned: Vec<IpNet> =
                left.iter().filter(|k| k.contains(&asked)).copied().collect();
            scanned.sort_by_key(|k| std::cmp::Reverse(k.prefix_len()));
            prop_assert_eq!(covering, scanned);

            let after: Vec<IpNet> = map.after(Some(asked)).map(|(key, _)| key).collect();
            let scanned: Vec<IpNet> = left.iter().filter(|k| **k > asked).copied().collect();
            prop_assert_eq!(after, scanned);
        }
    }
}
