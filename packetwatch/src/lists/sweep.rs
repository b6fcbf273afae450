//! The end of entries and bans. The kernel ends them by itself at their deadlines; the sweep tidies
//! up behind it and tells.

use std::sync::{MutexGuard, TryLockError};

use super::{
    Lists, Shared,
    entry::{Entry, Expired, List},
    event,
    journal::Journal,
    projection::Projection,
    state::{Change, Shelf},
};

impl Lists {
    /// Drops what has ended from memory, from the kernel and, by group commit, from the journal,
    /// and logs it. To be called once a second; it never waits for the disk.
    pub fn expire(&self) -> Expired {
        let shared = &self.0.shared;
        let (bans, is_unwritten) = {
            let mut bans = shared.bans();
            let ended = bans.sweep(&*shared.maps, shared.clock.monotonic_ns());
            (ended, bans.has_unwritten())
        };
        // While an API write waits for its fsync, ended entries wait for the next second.
        let entries = match shared.journal.try_lock() {
            Ok(_writer) => shared.drop_ended(shared.clock.monotonic_ns()),
            Err(TryLockError::WouldBlock) => Vec::new(),
            Err(TryLockError::Poisoned(_)) => panic!("a writer panicked"),
        };
        if is_unwritten || !entries.is_empty() {
            shared.wake.unwritten();
        }
        Expired { bans, entries }
    }
}

impl Shared {
    /// The right to write lists, once what has ended is out of them. An entry that is put after the
    /// end of the one before is a new one, with a count of its own, whether or not the sweep was
    /// there in between. A trial that is over is over for every write.
    pub(super) fn journal_without_ended(&self) -> MutexGuard<'_, Journal> {
        let writer = self.journal();
        let now = self.clock.monotonic_ns();
        self.settle_trial(now);
        if !self.drop_ended(now).is_empty() {
            self.wake.unwritten();
        }
        writer
    }

    /// The caller holds the journal, and wakes the flusher if anything had ended.
    pub(super) fn drop_ended(&self, now: u64) -> Vec<(List, Entry)> {
        let (dropped, undo, projection) = {
            let mut state = self.state();
            let ended = state.ended(now);
            if ended.is_empty() {
                return Vec::new();
            }
            let changes = ended.into_iter().map(|(shelf, prefix)| Change {
                shelf,
                prefix,
                to: None,
            });
            let (undo, _) = state.apply(changes.collect());
            let prefixes: Vec<_> = undo.iter().map(|change| change.prefix).collect();
            let dropped: Vec<(Shelf, Entry)> = undo
                .iter()
                .filter_map(|change| {
                    let about = &change.to.as_ref()?.about;
                    Some((change.shelf, about.entry(change.prefix)))
                })
                .collect();
            state.mark_unwritten(dropped.iter().map(|(shelf, e)| (shelf.list(), e.prefix)));
            let projection = Projection::of(&state, &prefixes, now);
            (dropped, undo, projection)
        };
        let all = || Projection::standings(&self.state(), now);
        if let Err(error) = projection.write(&*self.maps, all) {
            event::kernel_refused(
                "removing ended entries, tried again within a second",
                None,
                &error,
            );
            // Kept in memory, so that the next sweep tries again.
            let (_, slots) = self.state().apply(undo);
            for slot in slots {
                // The next sweep writes them to the kernel; what it counted for others is gone.
                let _ = self.maps.clear_list_hits(slot);
            }
            return Vec::new();
        }
        for (shelf, entry) in &dropped {
            event::removed(*shelf, entry, true);
        }
        let listed = |(shelf, entry): (Shelf, Entry)| (shelf.list(), entry);
        dropped.into_iter().map(listed).collect()
    }
}
