//! The allow and deny lists and the bans: one writer, a journal, a projection into kernel maps.
//!
//! ```text
//! api, cli ──► put, remove, add, replace ──► journal (fsync) ──► state ──► projection ──► maps
//! rule loop ─► ban ──► bans and their map ──► journal, by group commit
//! ```
//!
//! Three locks, taken in this order: the journal by whoever writes lists, for the whole write with
//! its fsync; then the state or the bans: for moments, or the state for as long as a million entries
//! take in memory. So readers never wait for a disk, and bans, which the rule loop orders by what
//! [`exempt`] knows, for neither.

mod ban_orders;
mod bans;
mod drafts;
mod entry;
mod error;
mod event;
mod exempt;
mod flusher;
mod forecast;
mod journal;
mod maps;
mod offences;
mod prefix_map;
mod projection;
mod protecting;
mod reads;
mod reconcile;
mod record;
mod recover;
mod remains;
mod restore;
mod salvage;
mod saved;
mod schedule;
mod shelf;
mod slots;
mod state;
mod storage;
mod sweep;
mod tables;
mod touched;
mod trial;
mod unfinished;
mod units;
mod writes;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

pub use entry::{
    Added, BanEntry, BanOrder, BanOutcome, BanRow, ByFamily, Capacity, Counts, Covering, Entry,
    Expired, Force, List, NewEntry, Page, PageQuery, Put, Replaced, Row, Source, Tried,
};
pub use error::{JournalError, OpenError, WriteError};
pub use maps::Maps;
pub use offences::MAX_OFFENCES;
pub use protecting::MAX_PROTECTED;
pub use restore::Restored;
pub use salvage::Salvage;
pub use saved::{Saved, SavedBan, SavedEntries, SavedList, SavedOffence};
pub use units::UnitLengths;
pub use writes::Writing;

use crate::clock::Clock;
pub use crate::dataplane::Differences;
use bans::{Bans, Left};
use exempt::Exempt;
use flusher::{Flusher, Wake};
use journal::Journal;
use projection::Projection;
use recover::Recovered;
use shelf::{About, Change, Draft};
use state::State;
use tables::Contents;
use unfinished::Unfinished;

/// The journal's file in the state directory.
pub const JOURNAL_FILE: &str = Journal::FILE;

/// The lists. Clones share them; the last one to go writes what is not yet in the journal.
///
/// Methods that write block for an fsync: async callers use `spawn_blocking`.
#[derive(Clone)]
pub struct Lists(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// Dropped with the last clone of [`Lists`]: it ends the thread after a last flush. Tests that
    /// are to be replayed step by step have none.
    _flusher: Option<Flusher>,
}

/// What the lists and the thread of the group commit share.
struct Shared {
    maps: Box<dyn Maps>,
    clock: Clock,
    capacity: Capacity,
    /// The right to write lists.
    journal: Mutex<Journal>,
    state: Mutex<State>,
    /// of the state
    exempt: Arc<Exempt>,
    bans: Mutex<Bans>,
    unfinished: Mutex<Unfinished>,
    wake: Wake,
    /// of the last write, if it failed
    journal_fault: Mutex<Option<String>>,
}

impl fmt::Debug for Lists {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lists")
            .field("capacity", &self.0.shared.capacity)
            .finish_non_exhaustive()
    }
}

impl Lists {
    /// Reads the journal in `state_dir`, which is made if need be, and projects it into `maps`.
    ///
    /// # Errors
    /// [`OpenError`]. A damaged, newer or locked journal is left as it is; for a damaged one see
    /// [`Lists::open_or_salvage`].
    pub fn open(
        state_dir: &Path,
        maps: impl Maps,
        capacity: Capacity,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let (journal, contents) = Journal::open(state_dir)?;
        Self::start(journal, contents, Box::new(maps), capacity, clock)
    }

    fn start(
        journal: Journal,
        contents: Contents,
        maps: Box<dyn Maps>,
        capacity: Capacity,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let shared = Shared::restore(journal, contents, maps, capacity, clock)?;
        let flusher = Flusher::start(Arc::clone(&shared)).map_err(OpenError::Thread)?;
        Ok(Self(Arc::new(Handle {
            shared,
            _flusher: Some(flusher),
        })))
    }

    /// Why the last write to the journal failed, if it did: the file and the store's words. What it
    /// lacks is tried again every second, so that this ends with the cause.
    pub fn journal_fault(&self) -> Option<String> {
        let fault = self.0.shared.journal_fault.lock();
        fault.expect("nothing panics here").clone()
    }

    /// Writes what the journal lacks. On failure it is logged and tried again in the background.
    pub fn flush(&self) {
        self.0.shared.flush();
    }
}

impl Shared {
    fn restore(
        journal: Journal,
        contents: Contents,
        maps: Box<dyn Maps>,
        capacity: Capacity,
        clock: Clock,
    ) -> Result<Arc<Self>, OpenError> {
        let Contents {
            entries,
            bans,
            offences,
            trial,
            restore,
        } = contents;
        // Of bans; the lists are replaced as it is.
        let is_behind = restore.as_ref().is_some_and(|restore| !restore.is_in_force);
        // A million entries and a hundred thousand bans take a second and a fraction of one.
        let (state, bans) = thread::scope(|scope| {
            let maps = &*maps;
            let bans = scope.spawn(move || {
                let left = Left { maps, is_behind };
                Bans::read(bans, offences, left, capacity.bans, clock)
            });
            let state = restore_entries(entries, trial, maps, capacity.lists, clock);
            (state, bans.join().expect("it does not panic"))
        });
        let (state, mut bans) = (state?, bans?);
        let recovered = bans.recover(&*maps, clock)?;
        if recovered > 0 {
            event::recovered(&Recovered::Bans(recovered));
        }
        Ok(Arc::new(Self {
            maps,
            clock,
            capacity,
            journal: Mutex::new(journal),
            exempt: Arc::clone(&state.exempt),
            state: Mutex::new(state),
            bans: Mutex::new(bans),
            unfinished: Mutex::new(Unfinished::read(restore)),
            wake: Wake::default(),
            journal_fault: Mutex::default(),
        }))
    }

    // A panic under a lock may have left memory and kernel apart: who comes after panics as well,
    // and the journal is read again at the next start.

    fn set_journal_fault(&self, fault: Option<String>) {
        *self.journal_fault.lock().expect("nothing panics here") = fault;
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().expect("no writer panicked")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no writer panicked")
    }

    fn bans(&self) -> MutexGuard<'_, Bans> {
        self.bans.lock().expect("no writer panicked")
    }

    fn unfinished(&self) -> MutexGuard<'_, Unfinished> {
        self.unfinished.lock().expect("no writer panicked")
    }
}

fn restore_entries(
    entries: Vec<(List, ipnet::IpNet, record::EntryRecord)>,
    trial: Option<record::TrialRecord>,
    maps: &dyn Maps,
    capacity: u32,
    clock: Clock,
) -> Result<State, OpenError> {
    if entries.len() > capacity as usize {
        return Err(OpenError::Capacity {
            table: "lists",
            found: entries.len(),
            capacity,
        });
    }
    // Entries that share what is known of them go on to do so.
    let mut known: HashMap<*const record::AboutRecord, Arc<About>> = HashMap::new();
    let mut marked = HashSet::new();
    let changes = entries.into_iter().map(|(list, prefix, row)| {
        let record::EntryRecord {
            about: record,
            forced,
        } = row;
        let about = known.entry(Arc::as_ptr(&record)).or_insert_with(|| {
            let until = record.deadline(clock);
            let mut record = Arc::clone(&record);
            if record.is_to_be_marked(clock) {
                Arc::make_mut(&mut record).mark = clock.mark(until);
                marked.insert(list);
            }
            Arc::new(About { record, until })
        });
        Change {
            shelf: list.into(),
            prefix,
            to: Some(Draft {
                about: Arc::clone(about),
                forced,
            }),
        }
    });
    let mut state = State::new(capacity);
    // Their tallies are new, since no process goes on with those of another.
    state.apply(changes.collect());
    if !state.is_counted_by_entry() {
        event::not_counted_by_entry();
    }
    marked
        .into_iter()
        .for_each(|list| state.mark_list_unwritten(list));
    if let Some((over, told)) = trial.and_then(|trial| state.restore_trial(trial, clock)) {
        crate::pending::event::rolled_back(&over, false, &told);
    }
    maps.replace_standings(&Projection::standings(&state, clock.monotonic_ns()))?;
    Ok(state)
}

#[cfg(test)]
mod tests;
