//! The allow and deny lists in memory, the source of what the kernel is told.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use packetwatch_abi::{FOREVER, NO_SLOT, capacity};

use super::{
    entry::{ByFamily, Entry, List},
    exempt::Exempt,
    journal::Batch,
    prefix_map::{PrefixMap, address},
    record::ListRecord,
    shelf::{Change, Draft, Listed, Node, Shelf},
    slots::Slots,
    trial::Trial,
};

/// Beyond so many rows a list may be written to the journal whole.
const ROWS_AT_MOST: usize = 1000;

/// What [`Lists`](super::Lists) remembers between two calls.
#[derive(Debug)]
pub(super) struct State {
    pub(super) nodes: PrefixMap<Node>,
    capacity: usize,
    slots: Slots,
    counts: [ByFamily; 3],
    /// few, and looked at often
    protected: BTreeSet<IpNet>,
    /// the allowed and protected ones, for those who cannot wait for this state
    pub(super) exempt: Arc<Exempt>,
    /// what ends, by its end
    ends: BTreeSet<(u64, Shelf, IpNet)>,
    /// rows that the journal does not have as they are here
    unwritten: BTreeSet<(List, IpNet)>,
    /// lists of which it may have nothing as it is here
    unwritten_lists: BTreeSet<List>,
    /// a change that waits to be confirmed
    pub(super) trial: Option<Trial>,
    /// whether the journal lacks that there is one, or that there is none
    pub(super) trial_is_unwritten: bool,
}

impl State {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            nodes: PrefixMap::default(),
            capacity: capacity as usize,
            slots: Slots::new(capacity::list_hits(capacity)),
            counts: [ByFamily::default(); 3],
            protected: BTreeSet::new(),
            exempt: Arc::default(),
            ends: BTreeSet::new(),
            unwritten: BTreeSet::new(),
            unwritten_lists: BTreeSet::new(),
            trial: None,
            trial_is_unwritten: false,
        }
    }

    /// The prefixes that these changes, of a shelf and a prefix each, are to be told to the kernel in. Who
    /// comes to be exempt, or no longer is, decides how its unit is counted, where nobody else does.
    pub(super) fn reach(
        &self,
        changes: impl IntoIterator<Item = (Shelf, IpNet)>,
        now: u64,
    ) -> BTreeSet<IpNet> {
        let mut reach = BTreeSet::new();
        let mut exempt = BTreeSet::new();
        for (shelf, prefix) in changes {
            reach.insert(prefix);
            if shelf != Shelf::Deny || self.protected.contains(&prefix) {
                exempt.insert(prefix);
            }
        }
        reach.extend(self.exempt.units_of_these_alone(&exempt, now));
        reach
    }

    /// Entries that the capacity has room for. What is protected takes nothing of it.
    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.written())
    }

    /// Entries that people wrote.
    pub(super) fn written(&self) -> usize {
        self.count(Shelf::Allow).total() + self.count(Shelf::Deny).total()
    }

    /// Whether each entry has packets and bytes of its own: the kernel has room for those of
    /// [`capacity::LIST_HITS`].
    pub(super) fn is_counted_by_entry(&self) -> bool {
        self.total() <= capacity::LIST_HITS as usize
    }

    fn total(&self) -> usize {
        self.counts.iter().map(|count| count.total()).sum()
    }

    pub(super) fn count(&self, shelf: Shelf) -> ByFamily {
        self.counts[shelf as usize]
    }

    pub(super) fn listed(&self, shelf: Shelf, prefix: IpNet) -> Option<&Listed> {
        self.nodes.get(prefix)?.on(shelf)
    }

    /// Everything on a shelf, in order.
    pub(super) fn on(&self, shelf: Shelf) -> impl Iterator<Item = (IpNet, &Listed)> {
        self.nodes
            .iter()
            .filter_map(move |(prefix, node)| Some((prefix, node.on(shelf)?)))
    }

    /// Protected prefixes, in order, each with what else stands there.
    pub(super) fn protected(&self) -> impl Iterator<Item = (IpNet, &Node)> {
        let node = |prefix: &IpNet| Some((*prefix, self.nodes.get(*prefix)?));
        self.protected.iter().filter_map(node)
    }

    pub(super) fn is_protected(&self, prefix: IpNet, now: u64) -> bool {
        let node = self.nodes.get(prefix);
        node.is_some_and(|node| node.protection(now).is_some())
    }

    /// Live entries of `list` that cover an address, the most specific first.
    pub(super) fn covering(&self, list: List, addr: IpAddr, now: u64) -> Vec<Entry> {
        self.nodes
            .covering(address(addr))
            .filter_map(|(prefix, node)| Some(node.shown(list, now)?.about.entry(prefix)))
            .collect()
    }

    /// Makes the changes, those that take away first. The caller has seen to it that there is
    /// room. Returns the changes that undo these and the slots that changed hands.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> (Vec<Change>, Vec<u32>) {
        let (mut put, removed): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|change| change.to.is_some());
        // A million find their places in order much faster than here and there. Those of one prefix
        // keep theirs.
        put.sort_by_key(|change| change.prefix);
        let mut undo = Vec::with_capacity(put.len() + removed.len());
        let mut given = Vec::new();
        // A list that is beyond counting by entry is told to the kernel in fewer ranges if none of
        // it is counted.
        let gone = removed
            .iter()
            .filter(|change| self.is_listed(change))
            .count();
        let new = put.iter().filter(|change| !self.is_listed(change)).count();
        let is_counted = self.total() - gone + new <= capacity::LIST_HITS as usize;
        for Change { shelf, prefix, to } in removed.into_iter().chain(put) {
            let (former, slot) = match to {
                None => (self.take(shelf, prefix), None),
                Some(draft) => self.put(shelf, prefix, draft, is_counted),
            };
            given.extend(slot);
            undo.push(Change {
                shelf,
                prefix,
                to: former.map(|listed| listed.draft()),
            });
        }
        let decides = |change: &&Change| {
            change.shelf != Shelf::Deny || self.protected.contains(&change.prefix)
        };
        let exemption = |change: &Change| {
            let node = self.nodes.get(change.prefix);
            (change.prefix, node.and_then(Node::exemption))
        };
        let exempt = undo.iter().filter(decides).map(exemption).collect();
        self.exempt.set(exempt);
        (undo, given)
    }

    /// What ended by `now`, at most so many, those that ended first.
    pub(super) fn ended(&self, now: u64, at_most: usize) -> Vec<(Shelf, IpNet)> {
        self.ends
            .range(..=(now, Shelf::Protected, greatest()))
            .take(at_most)
            .map(|(_, shelf, prefix)| (*shelf, *prefix))
            .collect()
    }

    /// What ended by `now` of these prefixes.
    pub(super) fn ended_among(&self, prefixes: &[IpNet], now: u64) -> Vec<(Shelf, IpNet)> {
        let places = prefixes
            .iter()
            .flat_map(|prefix| [(Shelf::Allow, *prefix), (Shelf::Deny, *prefix)]);
        let has_ended = |(shelf, prefix): &(Shelf, IpNet)| {
            let listed = self.listed(*shelf, *prefix);
            listed.is_some_and(|listed| !listed.is_live(now))
        };
        places.filter(has_ended).collect()
    }

    /// The journal is to get the present state of these rows.
    pub(super) fn mark_unwritten(&mut self, rows: impl IntoIterator<Item = (List, IpNet)>) {
        self.unwritten.extend(rows);
    }

    /// The same of rows of one list; of many the whole list, which is written faster.
    pub(super) fn mark_many_unwritten(&mut self, list: List, rows: Vec<(List, IpNet)>) {
        let left = self.count(list.into()).total();
        if rows.len() > ROWS_AT_MOST.max(left / 10) {
            self.mark_list_unwritten(list);
        } else {
            self.mark_unwritten(rows);
        }
    }

    /// The journal is to get the whole of this list as it is now.
    pub(super) fn mark_list_unwritten(&mut self, list: List) {
        self.unwritten_lists.insert(list);
    }

    /// Moves what the journal lacks into `batch`.
    pub(super) fn take_unwritten(&mut self, batch: &mut Batch) {
        if std::mem::take(&mut self.trial_is_unwritten) {
            batch.trial = Some(self.trial.as_ref().map(Trial::record));
        }
        for list in std::mem::take(&mut self.unwritten_lists) {
            self.unwritten.retain(|(of, _)| *of != list);
            let entries = self.on(list.into());
            let entries = entries.map(|(prefix, listed)| (prefix, listed.record()));
            batch.lists.push((list, ListRecord::of(entries)));
        }
        for (list, prefix) in std::mem::take(&mut self.unwritten) {
            let record = self.listed(list.into(), prefix).map(Listed::record);
            batch.entries.push((list, prefix, record));
        }
    }

    fn is_listed(&self, change: &Change) -> bool {
        self.listed(change.shelf, change.prefix).is_some()
    }

    fn put(
        &mut self,
        shelf: Shelf,
        prefix: IpNet,
        draft: Draft,
        is_counted: bool,
    ) -> (Option<Listed>, Option<u32>) {
        let Draft { about, forced } = draft;
        if about.until != FOREVER {
            self.ends.insert((about.until, shelf, prefix));
        }
        let place = self.nodes.or_default(prefix).on_mut(shelf);
        match place {
            Some(listed) => {
                let given = if is_counted && listed.slot == NO_SLOT {
                    self.slots.take()
                } else {
                    None
                };
                let slot = given.unwrap_or(listed.slot);
                let next = Listed {
                    about,
                    slot,
                    forced,
                };
                let former = std::mem::replace(listed, next);
                if former.about.until != listed.about.until {
                    self.ends.remove(&(former.about.until, shelf, prefix));
                }
                (Some(former), given)
            }
            None => {
                let slot = if is_counted { self.slots.take() } else { None };
                *place = Some(Listed {
                    about,
                    slot: slot.unwrap_or(NO_SLOT),
                    forced,
                });
                *self.counts[shelf as usize].of(prefix) += 1;
                if shelf == Shelf::Protected {
                    self.protected.insert(prefix);
                }
                (None, slot)
            }
        }
    }

    fn take(&mut self, shelf: Shelf, prefix: IpNet) -> Option<Listed> {
        let node = self.nodes.get_mut(prefix)?;
        let former = node.on_mut(shelf).take()?;
        let is_tried = self.trial.as_ref().is_some_and(|trial| trial.holds(prefix));
        if node.is_empty() && !is_tried {
            self.nodes.remove(prefix);
        }
        self.ends.remove(&(former.about.until, shelf, prefix));
        self.slots.give_back(former.slot);
        *self.counts[shelf as usize].of(prefix) -= 1;
        if shelf == Shelf::Protected {
            self.protected.remove(&prefix);
        }
        Some(former)
    }
}

/// No prefix sorts behind it.
fn greatest() -> IpNet {
    address(IpAddr::from([0xff; 16]))
}
