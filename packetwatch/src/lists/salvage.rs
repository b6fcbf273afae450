//! A damaged journal: set aside under another name, and a new one begun with what could be read.
//!
//! Where redb's own check fails, no page can be trusted and nothing is kept. Where single rows
//! cannot be read, the others are.

use std::{
    fs,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use time::{OffsetDateTime, macros::format_description};

use super::{
    Lists, Maps,
    entry::{Capacity, List},
    error::{JournalError, OpenError},
    event,
    journal::{Batch, Journal},
    record::{EntryRecord, ListRecord},
    recover::{self, Recovered},
    tables::Contents,
};
use crate::clock::Clock;

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
        let file = state_dir.join(Journal::FILE);
        // Another error is the opening's to name.
        let mut is_new = matches!(file.try_exists(), Ok(false));
        let opened = match Journal::open(state_dir) {
            Err(OpenError::Damaged { path, cause }) => {
                let salvage = set_aside(state_dir, &path, cause, clock)?;
                event::set_aside(&salvage);
                is_new = salvage.lost.is_none();
                Journal::open(state_dir)
            }
            opened => opened,
        };
        let (mut journal, mut contents) = opened?;
        if is_new {
            contents.entries = recover::entries(&maps.inherited_standings()?, clock);
            let on = |list: List| {
                let entries = contents.entries.iter();
                entries.filter(|(of, ..)| *of == list).count()
            };
            let recovered = Recovered::Lists {
                allow: on(List::Allow),
                deny: on(List::Deny),
            };
            let batch = Batch {
                lists: records(&contents.entries),
                ..Batch::default()
            };
            journal.commit(&batch).map_err(OpenError::Journal)?;
            if !contents.entries.is_empty() {
                event::recovered(&recovered);
            }
        }
        Self::start(journal, contents, Box::new(maps), capacity, clock)
    }
}

/// In this order: until the damaged file has its new name it is there for another attempt.
fn set_aside(
    state_dir: &Path,
    path: &Path,
    cause: String,
    clock: Clock,
) -> Result<Salvage, OpenError> {
    let read = Journal::readable(path);
    let (contents, lost) = match read {
        Ok((contents, lost)) => (contents, Some(lost)),
        Err(_) => (Contents::default(), None),
    };
    let aside = path.with_extension(format!("redb.damaged-{}", stamp(clock.utc())));
    let directory = |source| OpenError::Directory {
        path: state_dir.to_owned(),
        source,
    };
    fs::rename(path, &aside).map_err(directory)?;
    let kept = contents.entries.len() + contents.bans.len();
    let (mut journal, _) = Journal::open(state_dir)?;
    let written = journal.commit(&batch(contents));
    written.map_err(|error: JournalError| OpenError::Journal(error))?;
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
    } = contents;
    let some = |(prefix, record)| (prefix, Some(record));
    Batch {
        lists: records(&entries),
        entries: Vec::new(),
        bans: bans.into_iter().map(some).collect(),
        offences: offences.into_iter().map(|(p, o)| (p, Some(o))).collect(),
        trial: trial.map(Some),
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

fn stamp(at: OffsetDateTime) -> String {
    let format = format_description!("[year][month][day]T[hour][minute][second]Z");
    at.format(&format).unwrap_or_default()
}
