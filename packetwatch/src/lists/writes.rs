//! Writes: to the journal, then to memory and the kernel, then answered.

use std::collections::BTreeMap;

use ipnet::IpNet;
use packetwatch_abi::FOREVER;

use super::{
    Lists, Shared,
    bans::after,
    entry::{
        Added, BanEntry, BanOrder, BanOutcome, Entry, Force, List, NewEntry, Put, Replaced, Source,
    },
    error::WriteError,
    event,
    journal::{Batch, Journal},
    projection::Projection,
    record::EntryRecord,
    state::{Change, Draft, Shelf, State},
};
use crate::dataplane;

/// As many carved-out prefixes are named in an answer.
const CARVED_OUT_SHOWN: usize = 100;

/// How the kernel is told of changes.
#[derive(Clone, Copy)]
enum Switch {
    /// each prefix on its own if they are few
    ByPrefix,
    /// all in one step
    Whole,
}

impl Lists {
    /// Adds an entry or replaces the whole entry of its prefix.
    ///
    /// # Errors
    /// [`WriteError::Full`], [`WriteError::Protected`] for a deny of exactly a protected prefix
    /// without force, [`WriteError::Ttl`], [`WriteError::Journal`], [`WriteError::Kernel`].
    pub fn put(&self, list: List, entry: NewEntry, force: Force) -> Result<Put, WriteError> {
        let shared = &self.0.shared;
        let prefix = entry.prefix.trunc();
        let mut journal = shared.journal_without_ended();
        let (changes, created, allowed) = {
            let state = shared.state();
            let changes = shared.drafted(&state, list, vec![entry], force)?;
            let created = state.listed(list.into(), prefix).is_none();
            shared.see_to_room(&state, usize::from(created))?;
            let allowed = match list {
                List::Deny => Allowed::around(&state, prefix, shared.clock.monotonic_ns()),
                List::Allow => Allowed::default(),
            };
            (changes, created, allowed)
        };
        let draft = changes.first().and_then(|change| change.to.as_ref());
        let entry = draft.expect("one draft of one entry").entry.clone();
        shared.write(&mut journal, changes, Switch::ByPrefix)?;
        event::added(list, &entry, created);
        Ok(Put {
            entry,
            created,
            carved_out: allowed.inside,
            carved_out_total: allowed.inside_total,
            overruled_by: allowed.over,
        })
    }

    /// Removes an entry and returns it.
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Protected`] for an allow entry that `[protect]`
    /// put there, [`WriteError::Journal`], [`WriteError::Kernel`].
    pub fn remove(&self, list: List, prefix: IpNet) -> Result<Entry, WriteError> {
        let shared = &self.0.shared;
        let prefix = prefix.trunc();
        let shelf = Shelf::from(list);
        let mut journal = shared.journal();
        let entry = {
            let state = shared.state();
            let now = shared.clock.monotonic_ns();
            match state.listed(shelf, prefix) {
                Some(listed) if listed.is_live(now) => listed.draft.entry.clone(),
                _ if list == List::Allow && state.is_protected(prefix, now) => {
                    let prefixes = vec![prefix];
                    return Err(WriteError::Protected { list, prefixes });
                }
                _ => {
                    let list = list.as_str();
                    return Err(WriteError::NotFound { list, prefix });
                }
            }
        };
        let to = None;
        let change = Change { shelf, prefix, to };
        shared.write(&mut journal, vec![change], Switch::ByPrefix)?;
        event::removed(shelf, &entry, false);
        Ok(entry)
    }

    /// Adds or replaces many entries: all or none. Of several with one prefix the last counts.
    ///
    /// # Errors
    /// As [`Lists::put`] without force; [`WriteError::Protected`] names every protected prefix.
    pub fn add(&self, list: List, entries: Vec<NewEntry>) -> Result<Added, WriteError> {
        let shared = &self.0.shared;
        let mut journal = shared.journal_without_ended();
        let (changes, answer) = {
            let state = shared.state();
            let changes = shared.drafted(&state, list, entries, Force(false))?;
            let added = count_new(&state, &changes);
            shared.see_to_room(&state, added)?;
            let updated = changes.len() - added;
            (changes, Added { added, updated })
        };
        shared.write(&mut journal, changes, Switch::ByPrefix)?;
        event::added_many(list, answer.added, answer.updated);
        Ok(answer)
    }

    /// Makes these the entries of the list, in one step for the kernel. Protected entries stay.
    ///
    /// # Errors
    /// As [`Lists::add`].
    pub fn replace(&self, list: List, entries: Vec<NewEntry>) -> Result<Replaced, WriteError> {
        let shared = &self.0.shared;
        let shelf = Shelf::from(list);
        let mut journal = shared.journal_without_ended();
        let (changes, answer) = {
            let state = shared.state();
            let mut changes = shared.drafted(&state, list, entries, Force(false))?;
            let added = count_new(&state, &changes);
            let updated = changes.len() - added;
            let kept: std::collections::HashSet<IpNet> =
                changes.iter().map(|change| change.prefix).collect();
            let gone = state
                .on(shelf)
                .map(|listed| listed.draft.entry.prefix)
                .filter(|prefix| !kept.contains(prefix))
                .map(|prefix| Change {
                    shelf,
                    prefix,
                    to: None,
                });
            changes.extend(gone);
            let removed = changes.len() - added - updated;
            shared.see_to_room(&state, added.saturating_sub(removed))?;
            let answer = Replaced {
                added,
                updated,
                removed,
            };
            (changes, answer)
        };
        shared.write(&mut journal, changes, Switch::Whole)?;
        event::replaced(list, answer.added, answer.updated, answer.removed);
        Ok(answer)
    }

    /// Makes these, with their reasons, the protected prefixes. They are derived from the state of
    /// the host and never journaled.
    ///
    /// # Errors
    /// [`WriteError::Full`] when not all of them fit: the first ones are protected all the same.
    /// [`WriteError::Kernel`].
    pub fn protect(&self, set: Vec<(IpNet, String)>) -> Result<(), WriteError> {
        let shared = &self.0.shared;
        let shelf = Shelf::Protected;
        let mut journal = shared.journal();
        let (mut changes, now_protected, no_longer, outcome) = {
            let state = shared.state();
            let wanted: BTreeMap<IpNet, &String> = set
                .iter()
                .map(|(prefix, reason)| (prefix.trunc(), reason))
                .collect();
            let is_unwanted = |entry: &&Entry| !wanted.contains_key(&entry.prefix);
            let entries = state.on(shelf).map(|listed| &listed.draft.entry);
            let no_longer: Vec<Entry> = entries.filter(is_unwanted).cloned().collect();
            let gone = no_longer.iter().map(|entry| Change {
                shelf,
                prefix: entry.prefix,
                to: None,
            });
            let mut changes: Vec<Change> = gone.collect();
            let room = state.room() + changes.len();
            let utc = shared.clock.utc();
            let mut now_protected: Vec<Entry> = Vec::new();
            let mut outcome = Ok(());
            for (prefix, reason) in &set {
                let prefix = prefix.trunc();
                let former = state
                    .listed(shelf, prefix)
                    .map(|listed| &listed.draft.entry);
                if former.is_some_and(|former| former.reason.as_ref() == Some(reason))
                    || changes.iter().any(|c| c.to.is_some() && c.prefix == prefix)
                {
                    continue;
                }
                if former.is_none() && now_protected.len() >= room {
                    outcome = Err(shared.full());
                    continue;
                }
                let entry = Entry {
                    prefix,
                    reason: Some(reason.clone()),
                    source: Source::Protect,
                    created_at: former.map_or(utc, |former| former.created_at),
                    expires_at: None,
                };
                if former.is_none() {
                    now_protected.push(entry.clone());
                }
                changes.push(Change {
                    shelf,
                    prefix,
                    to: Some(Draft {
                        entry,
                        until: FOREVER,
                        forced: false,
                    }),
                });
            }
            (changes, now_protected, no_longer, outcome)
        };
        if !changes.is_empty() {
            let changes = std::mem::take(&mut changes);
            shared.write(&mut journal, changes, Switch::ByPrefix)?;
            event::protected(&now_protected, &no_longer);
        }
        outcome
    }

    /// Bans a prefix, longer if it was banned before: in the kernel when this returns, in the
    /// journal 50 ms later if none of its transactions takes more than 25 ms. Never waits for the
    /// disk.
    ///
    /// # Errors
    /// [`WriteError::Full`] when every ban in the kernel is in force, [`WriteError::Kernel`].
    pub fn ban(&self, order: BanOrder) -> Result<BanOutcome, WriteError> {
        let shared = &self.0.shared;
        let outcome = shared.bans().ban(order, &*shared.maps, shared.clock)?;
        shared.wake.unwritten();
        Ok(outcome)
    }

    /// Lifts a ban and forgets the offences of its prefix.
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Journal`], [`WriteError::Kernel`].
    pub fn unban(&self, prefix: IpNet) -> Result<BanEntry, WriteError> {
        let shared = &self.0.shared;
        let prefix = prefix.trunc();
        let not_found = WriteError::NotFound {
            list: "bans",
            prefix,
        };
        let mut journal = shared.journal();
        let record = shared.bans().lifted(prefix, shared.clock);
        let Some(record) = record else {
            return Err(not_found);
        };
        let batch = Batch {
            bans: vec![(prefix, Some(record))],
            offences: vec![(prefix, None)],
            ..Batch::default()
        };
        let written = shared.commit(&mut journal, batch);
        // Whatever became of the ban meanwhile, the flush brings the journal to what is so.
        shared.wake.unwritten();
        written?;
        let lifted = shared.bans().lift(prefix, &*shared.maps, shared.clock)?;
        lifted.ok_or(not_found)
    }
}

impl Shared {
    /// Checks new entries and makes changes of them, one a prefix, in order.
    fn drafted(
        &self,
        state: &State,
        list: List,
        entries: Vec<NewEntry>,
        force: Force,
    ) -> Result<Vec<Change>, WriteError> {
        let (now, utc) = (self.clock.monotonic_ns(), self.clock.utc());
        let shelf = Shelf::from(list);
        let mut drafts = BTreeMap::new();
        let mut protected = Vec::new();
        for NewEntry {
            prefix,
            reason,
            ttl,
        } in entries
        {
            let prefix = prefix.trunc();
            if list == List::Deny && !force.0 && state.is_protected(prefix, now) {
                protected.push(prefix);
                continue;
            }
            let bad_ttl = |ttl| WriteError::Ttl { prefix, ttl };
            let (until, expires_at) = match ttl {
                None => (FOREVER, None),
                Some(ttl) if ttl.is_zero() => return Err(bad_ttl(ttl)),
                Some(ttl) => {
                    let length = time::Duration::try_from(ttl).ok();
                    let end = length.and_then(|length| utc.checked_add(length));
                    (after(now, ttl), Some(end.ok_or_else(|| bad_ttl(ttl))?))
                }
            };
            let former = state
                .listed(shelf, prefix)
                .filter(|listed| listed.is_live(now));
            // Once a deny was forced, the prefix is not protected: changing it needs no force.
            let was_forced = former.is_some_and(|listed| listed.draft.forced);
            let forced = list == List::Deny && (force.0 || was_forced);
            let entry = Entry {
                prefix,
                reason,
                source: Source::Api,
                created_at: former.map_or(utc, |listed| listed.draft.entry.created_at),
                expires_at,
            };
            let draft = Draft {
                entry,
                until,
                forced,
            };
            drafts.insert(prefix, draft);
        }
        if !protected.is_empty() {
            let prefixes = protected;
            return Err(WriteError::Protected { list, prefixes });
        }
        let change = |(prefix, draft)| Change {
            shelf,
            prefix,
            to: Some(draft),
        };
        Ok(drafts.into_iter().map(change).collect())
    }

    fn see_to_room(&self, state: &State, added: usize) -> Result<(), WriteError> {
        if added > state.room() {
            return Err(self.full());
        }
        Ok(())
    }

    fn full(&self) -> WriteError {
        WriteError::Full {
            list: "lists",
            capacity: self.capacity.lists,
        }
    }

    /// Journal, memory, kernel. The caller holds the journal since before it read the state that
    /// the changes were made from. On an error all three are as before.
    fn write(
        &self,
        journal: &mut Journal,
        changes: Vec<Change>,
        switch: Switch,
    ) -> Result<(), WriteError> {
        let batch = journaled(&changes);
        let rows: Vec<(List, IpNet)> = batch
            .entries
            .iter()
            .map(|(list, prefix, _)| (*list, *prefix))
            .collect();
        if !batch.is_empty() {
            self.commit(journal, batch)
                .inspect_err(|_| self.wake.unwritten())?;
        }
        let (undo, outcome) = self.project(changes, switch);
        let Err(error) = outcome else {
            return Ok(());
        };
        if let (_, Err(again)) = self.project(undo, Switch::Whole) {
            event::kernel_refused("taking back a write", None, &again);
        }
        self.state().mark_unwritten(rows);
        self.wake.unwritten();
        Err(error.into())
    }

    /// Memory and kernel. Returns what would undo it.
    fn project(
        &self,
        changes: Vec<Change>,
        switch: Switch,
    ) -> (Vec<Change>, Result<(), dataplane::Error>) {
        let now = self.clock.monotonic_ns();
        let (undo, slots, projection) = {
            let mut state = self.state();
            let (undo, slots) = state.apply(changes);
            let prefixes: Vec<IpNet> = undo.iter().map(|change| change.prefix).collect();
            let projection = match switch {
                Switch::ByPrefix => Projection::of(&state, &prefixes, now),
                Switch::Whole => Projection::whole(&state, now),
            };
            (undo, slots, projection)
        };
        let clear = |slot| self.maps.clear_list_hits(slot);
        let cleared = slots.into_iter().try_for_each(clear);
        let all = || Projection::standings(&self.state(), now);
        let outcome = cleared.and_then(|()| projection.write(&*self.maps, all));
        (undo, outcome)
    }
}

/// The rows of the changes that people made; derived entries have none.
fn journaled(changes: &[Change]) -> Batch {
    let row = |change: &Change| {
        let draft = change.to.as_ref();
        let record = draft.map(|draft| EntryRecord::new(&draft.entry, draft.forced));
        (change.shelf.list(), change.prefix, record)
    };
    let written = changes
        .iter()
        .filter(|change| change.shelf != Shelf::Protected);
    Batch {
        entries: written.map(row).collect(),
        ..Batch::default()
    }
}

fn count_new(state: &State, changes: &[Change]) -> usize {
    let is_new = |change: &&Change| state.listed(change.shelf, change.prefix).is_none();
    changes.iter().filter(is_new).count()
}

/// What is allowed where a deny is put.
#[derive(Default)]
struct Allowed {
    /// strictly inside it, the first [`CARVED_OUT_SHOWN`]
    inside: Vec<IpNet>,
    inside_total: usize,
    /// the most specific one that is the same prefix or covers it
    over: Option<IpNet>,
}

impl Allowed {
    fn around(state: &State, prefix: IpNet, now: u64) -> Self {
        let mut allowed = Self::default();
        let inside = state
            .nodes
            .inside(prefix)
            .filter(|(inside, node)| *inside != prefix && node.shown(List::Allow, now).is_some());
        for (inside, _) in inside {
            allowed.inside_total += 1;
            if allowed.inside.len() < CARVED_OUT_SHOWN {
                allowed.inside.push(inside);
            }
        }
        let mut covering = state.nodes.covering(prefix);
        let over = covering.find(|(over, node)| match *over == prefix {
            // A protection of exactly this prefix ends with the deny, which then was forced.
            true => node
                .on(Shelf::Allow)
                .is_some_and(|listed| listed.is_live(now)),
            false => node.shown(List::Allow, now).is_some(),
        });
        allowed.over = over.map(|(over, _)| over);
        allowed
    }
}
