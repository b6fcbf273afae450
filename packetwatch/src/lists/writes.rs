//! Writes: to the journal, then to memory and the kernel, then answered.

use std::{sync::MutexGuard, time::Duration};

use ipnet::IpNet;

use super::{
    Lists, Shared,
    drafts::Allowed,
    entry::{Added, Entry, Force, List, NewEntry, Put, Replaced},
    error::WriteError,
    event,
    journal::{Batch, Journal},
    projection::Projection,
    record::{EntryRecord, ListRecord},
    shelf::{Change, Shelf},
    sweep::Reach,
    touched::Touched,
    trial::Trial,
};
use crate::{
    dataplane, memory,
    pending::{self, Pending},
};

/// So many entries that came or went are worth the time that it takes to give back the memory that they, or
/// the change, had.
pub(super) const MANY: usize = 10_000;

/// How the kernel is told of changes.
#[derive(Clone, Copy)]
pub(super) enum Switch {
    /// each prefix on its own if they are few
    ByPrefix,
    /// all in one step
    Whole,
}

/// Writes of people, for good or on trial; [`Lists::confirming`] begins one.
pub struct Writing<'l> {
    shared: &'l Shared,
    /// how long a change waits to be confirmed; `None` for one that stays
    confirm: Option<Duration>,
}

impl Lists {
    /// Writes that are taken back after `confirm`, which lies in [`pending::CONFIRM`], unless
    /// [`Lists::confirm`] comes first; with `None` they stay. [`Lists::pending`] tells of them.
    pub fn confirming(&self, confirm: Option<Duration>) -> Writing<'_> {
        Writing {
            shared: &self.0.shared,
            confirm,
        }
    }

    /// [`Writing::put`], for good.
    ///
    /// # Errors
    /// The same.
    pub fn put(&self, list: List, entry: NewEntry, force: Force) -> Result<Put, WriteError> {
        self.confirming(None).put(list, entry, force)
    }

    /// [`Writing::remove`], for good.
    ///
    /// # Errors
    /// The same.
    pub fn remove(&self, list: List, prefix: IpNet) -> Result<Entry, WriteError> {
        self.confirming(None).remove(list, prefix)
    }

    /// [`Writing::add`], for good.
    ///
    /// # Errors
    /// The same.
    pub fn add(&self, list: List, entries: Vec<NewEntry>) -> Result<Added, WriteError> {
        self.confirming(None).add(list, entries)
    }

    /// [`Writing::replace`], for good.
    ///
    /// # Errors
    /// The same.
    pub fn replace(&self, list: List, entries: Vec<NewEntry>) -> Result<Replaced, WriteError> {
        self.confirming(None).replace(list, entries)
    }
}

impl Writing<'_> {
    /// The right to write, and what the write is on trial as.
    fn begin(
        &self,
        list: List,
        reach: Reach<'_>,
    ) -> Result<(MutexGuard<'_, Journal>, Option<Pending>), WriteError> {
        let journal = self.shared.journal_without_ended(reach);
        self.shared.see_to_trial(list, self.confirm.is_some())?;
        let trial = self
            .confirm
            .map(|within| Pending::new(list.into(), within, self.shared.clock));
        Ok((journal, trial))
    }

    /// Adds an entry or replaces the whole entry of its prefix.
    ///
    /// # Errors
    /// [`WriteError::Full`], [`WriteError::Protected`] for a deny of exactly a protected prefix
    /// without force, [`WriteError::Ttl`], [`WriteError::InTheWay`], [`WriteError::Journal`],
    /// [`WriteError::Kernel`].
    pub fn put(self, list: List, entry: NewEntry, force: Force) -> Result<Put, WriteError> {
        let shared = self.shared;
        let prefix = entry.prefix.trunc();
        let (mut journal, trial) = self.begin(list, Reach::These(&[prefix]))?;
        let (changes, before, allowed) = {
            let state = shared.state();
            let changes = shared.drafted(&state, list, vec![entry], force)?;
            let before = state.listed(list.into(), prefix);
            let before = before.map(|listed| listed.about.entry(prefix));
            shared.see_to_room(&state, usize::from(before.is_none()))?;
            let allowed = match list {
                List::Deny => Allowed::around(&state, prefix, shared.clock.monotonic_ns()),
                List::Allow => Allowed::default(),
            };
            (changes, before, allowed)
        };
        let draft = changes.first().and_then(|change| change.to.as_ref());
        let about = &draft.expect("one draft of one entry").about;
        let entry = about.entry(prefix);
        shared.write(&mut journal, changes, trial, Switch::ByPrefix)?;
        event::added(list, &entry, before.as_ref());
        Ok(Put {
            entry,
            created: before.is_none(),
            carved_out: allowed.inside,
            carved_out_total: allowed.inside_total,
            overruled_by: allowed.over,
        })
    }

    /// Removes an entry and returns it.
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Protected`] for an allow entry that `[protect]`
    /// put there, [`WriteError::InTheWay`], [`WriteError::Journal`], [`WriteError::Kernel`].
    pub fn remove(self, list: List, prefix: IpNet) -> Result<Entry, WriteError> {
        let shared = self.shared;
        let prefix = prefix.trunc();
        let shelf = Shelf::from(list);
        let (mut journal, trial) = self.begin(list, Reach::These(&[prefix]))?;
        let entry = {
            let state = shared.state();
            let now = shared.clock.monotonic_ns();
            match state.listed(shelf, prefix) {
                Some(listed) if listed.is_live(now) => listed.about.entry(prefix),
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
        shared.write(&mut journal, vec![change], trial, Switch::ByPrefix)?;
        event::removed(shelf, &entry, false);
        Ok(entry)
    }

    /// Adds or replaces many entries: all or none. Of several with one prefix the last counts.
    ///
    /// # Errors
    /// As [`Lists::put`] without force; [`WriteError::Protected`] names every protected prefix.
    pub fn add(self, list: List, entries: Vec<NewEntry>) -> Result<Added, WriteError> {
        let shared = self.shared;
        let prefixes: Vec<IpNet> = entries.iter().map(|entry| entry.prefix.trunc()).collect();
        let (mut journal, trial) = self.begin(list, Reach::These(&prefixes))?;
        let (changes, before, touched) = {
            let state = shared.state();
            let before = state.count(list.into()).total();
            let changes = shared.drafted(&state, list, entries, Force(false))?;
            let touched = Touched::by(&changes, &state);
            shared.see_to_room(&state, touched.added.total)?;
            (changes, before, touched)
        };
        shared.write(&mut journal, changes, trial, Switch::ByPrefix)?;
        event::added_many(list, before, &touched);
        let answer = Added {
            added: touched.added.total,
            updated: touched.updated(),
        };
        drop(journal);
        if answer.added + answer.updated >= MANY {
            memory::give_back();
        }
        Ok(answer)
    }

    /// Makes these the entries of the list, in one step for the kernel. Protected entries stay.
    ///
    /// # Errors
    /// As [`Lists::add`].
    pub fn replace(self, list: List, entries: Vec<NewEntry>) -> Result<Replaced, WriteError> {
        let shared = self.shared;
        let shelf = Shelf::from(list);
        let (mut journal, trial) = self.begin(list, Reach::All)?;
        let (changes, touched) = {
            let state = shared.state();
            let mut changes = shared.drafted(&state, list, entries, Force(false))?;
            let is_kept =
                |prefix: &IpNet| changes.binary_search_by_key(prefix, |c| c.prefix).is_ok();
            let gone: Vec<Change> = state
                .on(shelf)
                .map(|(prefix, _)| prefix)
                .filter(|prefix| !is_kept(prefix))
                .map(|prefix| Change {
                    shelf,
                    prefix,
                    to: None,
                })
                .collect();
            changes.extend(gone);
            let touched = Touched::by(&changes, &state);
            let added = touched.added.total;
            shared.see_to_room(&state, added.saturating_sub(touched.removed.total))?;
            (changes, touched)
        };
        let record = list_record(&changes);
        let batch = Batch {
            lists: vec![(list, record)],
            ..Batch::default()
        };
        shared.write_as(
            &mut journal,
            batch,
            changes,
            trial,
            Switch::Whole,
            || Ok(()),
        )?;
        event::replaced(list, &touched);
        let answer = Replaced {
            added: touched.added.total,
            updated: touched.updated(),
            removed: touched.removed.total,
        };
        drop(journal);
        if answer.added + answer.updated + answer.removed >= MANY {
            memory::give_back();
        }
        Ok(answer)
    }
}

impl Shared {
    /// Journal, memory, kernel. The caller holds the journal since before it read the state that
    /// the changes were made from. On an error all three are as before.
    pub(super) fn write(
        &self,
        journal: &mut Journal,
        changes: Vec<Change>,
        trial: Option<Pending>,
        switch: Switch,
    ) -> Result<(), WriteError> {
        self.write_as(journal, journaled(&changes), changes, trial, switch, || {
            Ok(())
        })
    }

    /// The same; `batch` is what the journal is told of the changes, and `last` what the kernel has to
    /// take besides, or take back itself.
    pub(super) fn write_as(
        &self,
        journal: &mut Journal,
        mut batch: Batch,
        changes: Vec<Change>,
        trial: Option<Pending>,
        switch: Switch,
        last: impl FnOnce() -> Result<(), dataplane::Error>,
    ) -> Result<(), WriteError> {
        let tried = trial.and_then(|pending| {
            let list = changes.first()?.shelf.list();
            Some(Trial::new(pending, list, &self.state(), &changes))
        });
        // In the transaction of the change: either is there with the other alone.
        batch.trial = tried.as_ref().map(|trial| Some(trial.record()));
        let is_tried = tried.is_some();
        let rows = batch.entries.iter();
        let rows: Vec<(List, IpNet)> = rows.map(|(list, prefix, _)| (*list, *prefix)).collect();
        let lists: Vec<List> = batch.lists.iter().map(|(list, _)| *list).collect();
        if !batch.is_empty() {
            self.commit(journal, batch)
                .inspect_err(|_| self.wake.unwritten())?;
        }
        let begun = tried.as_ref().map(|trial| trial.pending.clone());
        let (undo, outcome) = self.project(changes, tried, switch);
        let Err(error) = outcome.and_then(|()| last()) else {
            let told = {
                let state = self.state();
                state.trial.as_ref().map(|trial| trial.told(&state))
            };
            if let (Some(pending), Some(told)) = (begun, told) {
                pending::event::made(&pending, &told);
            }
            return Ok(());
        };
        if is_tried {
            self.state().end_trial();
        }
        if let (_, Err(again)) = self.project(undo, None, Switch::Whole) {
            event::kernel_refused("taking back a write", None, &again);
        }
        let mut state = self.state();
        state.mark_unwritten(rows);
        lists
            .into_iter()
            .for_each(|list| state.mark_list_unwritten(list));
        drop(state);
        self.wake.unwritten();
        Err(error.into())
    }

    /// Memory and kernel. Returns what would undo it.
    pub(super) fn project(
        &self,
        changes: Vec<Change>,
        trial: Option<Trial>,
        switch: Switch,
    ) -> (Vec<Change>, Result<(), dataplane::Error>) {
        let now = self.clock.monotonic_ns();
        let (undo, slots, projection, ends_counting) = {
            let mut state = self.state();
            let was_counted = state.is_counted_by_entry();
            if let Some(trial) = trial {
                state.begin(trial);
            }
            let (undo, slots) = state.apply(changes);
            let changed = undo.iter().map(|change| (change.shelf, change.prefix));
            let projection = match switch {
                Switch::ByPrefix => Projection::of(&state, state.reach(changed, now), now),
                Switch::Whole => Projection::whole(&state, now),
            };
            let ends_counting = was_counted && !state.is_counted_by_entry();
            (undo, slots, projection, ends_counting)
        };
        let clear = |slot| self.maps.clear_list_hits(slot);
        let cleared = slots.into_iter().try_for_each(clear);
        let all = || Projection::standings(&self.state(), now);
        let outcome = cleared.and_then(|()| projection.write(&*self.maps, all));
        if ends_counting && outcome.is_ok() {
            event::not_counted_by_entry();
        }
        (undo, outcome)
    }
}

/// The rows of the changes that people made; derived entries have none.
fn journaled(changes: &[Change]) -> Batch {
    let written = changes
        .iter()
        .filter(|change| change.shelf != Shelf::Protected);
    let row = |change: &Change| (change.shelf.list(), change.prefix, record(change));
    Batch {
        entries: written.map(row).collect(),
        ..Batch::default()
    }
}

/// What the changes make of a list that is replaced by them.
fn list_record(changes: &[Change]) -> ListRecord {
    let kept = |change: &Change| Some((change.prefix, record(change)?));
    ListRecord::of(changes.iter().filter_map(kept))
}

fn record(change: &Change) -> Option<EntryRecord> {
    let draft = change.to.as_ref()?;
    Some(EntryRecord::new(&draft.about.record, draft.forced))
}
