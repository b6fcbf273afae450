//! A damaged journal: set aside under another name, and a new one begun with what could be read.
//!
//! Where redb's own check fails for the last commit and the one before, no page can be trusted and nothing is
//! kept. Where single rows
//! cannot be read, the others are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ipnet::IpNet;

use super::{
    Lists, Maps,
    entry::{Capacity, List},
    error::OpenError,
    event,
    journal::{Batch, Journal},
    record::{EntryRecord, ListRecord},
    recover::{self, Recovered},
    remains,
    tables::Contents,
};
use crate::{clock::Clock, state_file};

/// What became of a damaged journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Salvage {
    /// where it lies now
    pub aside: PathBuf,
    pub cause: String,
    /// entries and bans that are in the new journal
    pub kept: usize,
    /// rows that could not be read; `None` if none could
    pub lost: Option<usize>,
}

impl Lists {
    /// Whether there is no journal in the state directory: at the first start, or since it was removed.
    pub fn are_lost(state_dir: &Path) -> bool {
        matches!(state_dir.join(Journal::FILE).try_exists(), Ok(false))
    }

    /// As [`Lists::open`]; a damaged journal is set aside first, which the log tells. Without any,
    /// the lists are what a filter says that an earlier process has left.
    ///
    /// # Errors
    /// [`OpenError`], of a damaged journal only if it cannot be set aside.
    pub fn open_or_salvage(
        state_dir: &Path,
        maps: impl Maps,
        capacity: Capacity,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let left = || Ok::<_, OpenError>(recover::entries(&maps.inherited_standings()?, clock));
        // Another error is the opening's to name.
        if Self::are_lost(state_dir) {
            let entries = left()?;
            if !entries.is_empty() {
                Journal::begin(state_dir, &recovered(entries))?;
            }
        }
        let (journal, contents) = match Journal::open(state_dir) {
            Err(OpenError::Damaged { path, cause }) => {
                let salvage = set_aside(state_dir, &path, cause, left, clock)?;
                event::set_aside(&salvage);
                Journal::open(state_dir)?
            }
            opened => opened?,
        };
        Self::start(journal, contents, Box::new(maps), capacity, clock)
    }
}

/// What only the kernel knew, which the log tells.
fn recovered(entries: recover::Entries) -> Batch {
    let on = |list: List| entries.iter().filter(|(of, ..)| *of == list).count();
    if !entries.is_empty() {
        event::recovered(&Recovered::Lists {
            allow: on(List::Allow),
            deny: on(List::Deny),
        });
    }
    batch(Contents {
        entries,
        ..Contents::default()
    })
}

/// What could be read takes the place of the damaged file in one step, whole: until then it is there
/// for another attempt. `left`: what the filter says, for a file of which nothing could be read.
fn set_aside(
    state_dir: &Path,
    path: &Path,
    cause: String,
    left: impl FnOnce() -> Result<recover::Entries, OpenError>,
    clock: Clock,
) -> Result<Salvage, OpenError> {
    let (batch, kept, lost) = match remains::read(path) {
        Ok((contents, lost)) => {
            let kept = contents.entries.len() + contents.bans.len();
            (batch(contents), kept, Some(lost))
        }
        Err(_) => (recovered(left()?), 0, None),
    };
    let aside = state_file::aside(path, clock.utc());
    fs::hard_link(path, &aside).map_err(|source| OpenError::Directory {
        path: state_dir.to_owned(),
        source,
    })?;
    Journal::begin(state_dir, &batch).inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })?;
    Ok(Salvage {
        aside,
        cause,
        kept,
        lost,
    })
}

fn batch(contents: Contents) -> Batch {
    let Contents {
        entries,
        bans,
        offences,
        trial,
        restore,
    } = contents;
    let some = |(prefix, record)| (prefix, Some(record));
    Batch {
        lists: records(&entries),
        entries: Vec::new(),
        bans: bans.into_iter().map(some).collect(),
        offences: offences.into_iter().map(|(p, o)| (p, Some(o))).collect(),
        trial: trial.map(Some),
        restore: restore.map(Some),
    }
}

/// Both lists, each in one record.
fn records(entries: &[(List, IpNet, EntryRecord)]) -> Vec<(List, ListRecord)> {
    let of = |list: List| {
        let entries = entries.iter().filter(|(of, ..)| *of == list);
        let entries = entries.map(|(_, prefix, record)| (*prefix, record.clone()));
        (list, ListRecord::of(entries))
    };
    [List::Allow, List::Deny].map(of).into()
}
