//! The end of entries and bans. The kernel ends them by itself at their deadlines; the sweep tidies
//! up behind it and tells.
//!
//! Many end together, if they were written together: they are taken out some at a time, and writes
//! get in between. One that comes while there are many waits for those of its own prefixes alone. So
//! it is with bans, and the rule loop, which sets them.

use std::{
    sync::{MutexGuard, TryLockError},
    thread,
    time::Duration,
};

use ipnet::IpNet;

use super::{
    Lists, Shared,
    bans::{self, Bans, Sweep},
    entry::{Entry, Expired, List},
    event,
    journal::Journal,
    projection::Projection,
    shelf::{Change, Shelf},
    writes::MANY,
};
use crate::memory;

/// So many are taken out at a time: some milliseconds.
const AT_ONCE: usize = 10_000;
/// After which others get the right to write: a lock that is let go and taken again at once lets
/// nobody in.
const PAUSE: Duration = Duration::from_millis(1);
/// Beyond so many a line of the log tells of all of them: entries, or bans.
pub(super) const LINES: usize = 100;

/// The prefixes that a write is about.
pub(super) enum Reach<'a> {
    These(&'a [IpNet]),
    All,
}

/// Entries that a sweep has taken out.
#[derive(Default)]
struct Ended {
    rows: Vec<(List, IpNet)>,
    /// the first of them, one more than get a line of their own
    first: Vec<(Shelf, Entry)>,
}

impl Lists {
    /// Drops what has ended from memory, from the kernel and, by group commit, from the journal,
    /// and logs it. To be called once a second; it waits for the disk only where it lets writes in
    /// between.
    pub fn expire(&self) -> Expired {
        let shared = &self.0.shared;
        let bans = shared.end_bans(shared.clock.monotonic_ns());
        let ended = shared.drop_in_slices(shared.clock.monotonic_ns());
        let entries_total = ended.rows.len();
        let first = ended.first.into_iter().take(LINES);
        Expired {
            bans: bans.first,
            bans_total: bans.ended,
            entries: first.map(|(shelf, entry)| (shelf.list(), entry)).collect(),
            entries_total,
        }
    }
}

impl Shared {
    /// The right to write lists, once what has ended is out of the way of the write. An entry that is
    /// put after the end of the one before is a new one, with a count of its own, whether or not the
    /// sweep was there in between. A trial that is over is over for every write.
    pub(super) fn journal_without_ended(&self, reach: Reach<'_>) -> MutexGuard<'_, Journal> {
        let writer = self.journal();
        let now = self.clock.monotonic_ns();
        self.settle_trial(now);
        let due = {
            let state = self.state();
            let due = state.ended(now, AT_ONCE);
            match reach {
                _ if due.len() < AT_ONCE => due,
                Reach::These(prefixes) if prefixes.len() <= state.room() => {
                    state.ended_among(prefixes, now)
                }
                _ => state.ended(now, usize::MAX),
            }
        };
        let mut ended = Ended::default();
        if self.end_in_kernel(&due, now) {
            self.drop_from_memory(due, &mut ended);
        }
        self.tell(&ended);
        writer
    }

    /// Bans that ended by `now`.
    fn end_bans(&self, now: u64) -> Sweep {
        let mut sweep = Sweep::until(now);
        self.bans_in_slices(|bans, most| bans.sweep_some(&mut sweep, most, &*self.maps));
        let (left, is_unwritten) = {
            let bans = self.bans();
            (bans.counts().total(), bans.has_unwritten())
        };
        sweep.tell(left);
        if is_unwritten {
            self.wake.unwritten();
        }
        sweep
    }

    /// Has `some` see to up to so many bans at a time, while it tells that there are more: who is to be
    /// banned waits for these alone.
    pub(super) fn bans_in_slices(&self, mut some: impl FnMut(&mut Bans, usize) -> bool) {
        while some(&mut self.bans(), bans::AT_ONCE) {
            thread::sleep(PAUSE);
        }
    }

    /// Every entry that ended by `now`. While an API write waits for its fsync, ended entries wait for
    /// the next second.
    fn drop_in_slices(&self, now: u64) -> Ended {
        let mut ended = Ended::default();
        let mut is_told = false;
        loop {
            let writer = match self.journal.try_lock() {
                Ok(writer) => writer,
                // Once it has begun with many, who got in between has his turn and no more.
                Err(TryLockError::WouldBlock) if is_told => self.journal(),
                Err(TryLockError::WouldBlock) => break,
                Err(TryLockError::Poisoned(_)) => panic!("a writer panicked"),
            };
            let due = self.state().ended(now, AT_ONCE);
            let is_last = due.len() < AT_ONCE;
            if !is_told {
                is_told = match is_last {
                    true => self.end_in_kernel(&due, now),
                    false => self.end_all_in_kernel(now),
                };
            }
            if !is_told {
                break;
            }
            self.drop_from_memory(due, &mut ended);
            if is_last {
                break;
            }
            drop(writer);
            thread::sleep(PAUSE);
        }
        self.tell(&ended);
        if ended.rows.len() >= MANY {
            memory::give_back();
        }
        ended
    }

    /// The kernel forgets the ends that have come, before memory does: what it refuses is tried
    /// again by the next sweep.
    fn end_in_kernel(&self, due: &[(Shelf, IpNet)], now: u64) -> bool {
        if due.is_empty() {
            return true;
        }
        let projection = {
            let state = self.state();
            let reach = state.reach(due.iter().copied(), now);
            Projection::of(&state, reach, now)
        };
        self.is_taken(projection, now)
    }

    fn end_all_in_kernel(&self, now: u64) -> bool {
        let projection = Projection::whole(&self.state(), now);
        self.is_taken(projection, now)
    }

    fn is_taken(&self, projection: Projection, now: u64) -> bool {
        let all = || Projection::standings(&self.state(), now);
        let written = projection.write(&*self.maps, all);
        if let Err(error) = &written {
            event::kernel_refused(
                "removing ended entries, tried again within a second",
                None,
                error,
            );
        }
        written.is_ok()
    }

    fn drop_from_memory(&self, due: Vec<(Shelf, IpNet)>, ended: &mut Ended) {
        let changes = due.into_iter().map(|(shelf, prefix)| Change {
            shelf,
            prefix,
            to: None,
        });
        let (undo, _) = self.state().apply(changes.collect());
        for Change { shelf, prefix, to } in &undo {
            let Some(draft) = to else { continue };
            ended.rows.push((shelf.list(), *prefix));
            if ended.first.len() <= LINES {
                ended.first.push((*shelf, draft.about.entry(*prefix)));
            }
        }
    }

    /// Tells the log, and the journal by group commit.
    fn tell(&self, ended: &Ended) {
        if ended.rows.is_empty() {
            return;
        }
        let is_one_by_one = ended.rows.len() <= LINES;
        if is_one_by_one {
            for (shelf, entry) in &ended.first {
                event::removed(*shelf, entry, true);
            }
        }
        for list in [List::Allow, List::Deny] {
            let rows = ended.rows.iter().filter(|(of, _)| *of == list);
            let rows: Vec<_> = rows.copied().collect();
            if rows.is_empty() {
                continue;
            }
            let mut state = self.state();
            let left = state.count(list.into()).total();
            if !is_one_by_one {
                event::ended_many(list, rows.len(), left);
            }
            state.mark_many_unwritten(list, rows);
        }
        self.wake.unwritten();
    }
}
