//! The tables of the journal, and how they are read at a start.

use std::{collections::HashSet, io, path::Path, thread};

use ipnet::IpNet;
use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    TableHandle as _,
};
use serde::de::DeserializeOwned;

use super::{
    entry::List,
    error::{JournalError, OpenError},
    record::{
        self, BanRecord, EntryRecord, ListRecord, OffenceRecord, RestoreRecord, TrialRecord,
        Unreadable, VERSION,
    },
};

/// Keys are prefixes as people write them, values are JSON records.
pub(super) type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
pub(super) const ALLOW: Table = TableDefinition::new("allow");
pub(super) const DENY: Table = TableDefinition::new("deny");
/// Lists that were replaced whole, by name; the rows of [`ALLOW`] and [`DENY`] are what has changed
/// of them since.
pub(super) const LISTS: Table = TableDefinition::new("lists");
pub(super) const BANS: Table = TableDefinition::new("bans");
pub(super) const OFFENCES: Table = TableDefinition::new("offences");
/// The change that waits to be confirmed, if there is one, under [`TRIAL_KEY`].
pub(super) const TRIAL: Table = TableDefinition::new("trial");
pub(super) const TRIAL_KEY: &str = "list";
/// What a restore that is not finished is to change besides the lists, under [`RESTORE_KEY`]. Made by the
/// first restore: older builds know nothing of it, and leave it.
pub(super) const RESTORE: Table = TableDefinition::new("restore");
pub(super) const RESTORE_KEY: &str = "last";

/// The row of a prefix that was taken out of a list which [`LISTS`] has with it.
pub(super) const REMOVED: &[u8] = b"";

/// The row of [`META`] with the version of the tables.
const VERSION_KEY: &str = "version";

/// Everything the journal holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    pub(super) entries: Entries,
    pub(super) bans: Vec<(IpNet, BanRecord)>,
    pub(super) offences: Vec<(IpNet, OffenceRecord)>,
    pub(super) trial: Option<TrialRecord>,
    pub(super) restore: Option<RestoreRecord>,
}

pub(super) fn rows_of(list: List) -> Table {
    match list {
        List::Allow => ALLOW,
        List::Deny => DENY,
    }
}

/// What to do with a row that cannot be read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Unread {
    Refuse,
    /// so many so far
    Skip(usize),
}

impl Unread {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Skip(some), Self::Skip(more)) => Self::Skip(some + more),
            _ => Self::Refuse,
        }
    }
}

/// Makes the tables of a new file, reads those of an old one.
pub(super) fn load(
    database: &Database,
    path: &Path,
    unread_rows: &mut Unread,
) -> Result<(Contents, Vec<(List, ListRecord)>), OpenError> {
    let failed = |error: redb::Error| unread(path, error);
    let version = prepare(database).map_err(failed)?;
    if version > VERSION {
        return Err(newer(path, version));
    }
    // As much work as the lists, of which a start waits for both.
    let (lists, bans) = thread::scope(|scope| {
        let mut unread_bans = match *unread_rows {
            Unread::Refuse => Unread::Refuse,
            Unread::Skip(_) => Unread::Skip(0),
        };
        let bans = scope.spawn(move || {
            let bans = all(read(database, BANS, path, &mut unread_bans, prefix)?);
            let offences = all(read(database, OFFENCES, path, &mut unread_bans, prefix)?);
            Ok::<_, OpenError>((bans, offences, unread_bans))
        });
        let lists = load_lists(database, path, unread_rows);
        (lists, bans.join().expect("it does not panic"))
    });
    let (entries, whole) = lists?;
    let (bans, offences, unread_bans) = bans?;
    *unread_rows = unread_rows.and(unread_bans);
    let trials: Vec<(String, Option<TrialRecord>)> =
        read(database, TRIAL, path, unread_rows, |name| {
            Ok(name.to_owned())
        })?;
    let restores: Vec<(String, Option<RestoreRecord>)> = match is_made(database, RESTORE) {
        Ok(false) => Vec::new(),
        Ok(true) => read(database, RESTORE, path, unread_rows, |name| {
            Ok(name.to_owned())
        })?,
        Err(error) => return Err(failed(error)),
    };
    let contents = Contents {
        entries,
        bans,
        offences,
        trial: trials.into_iter().find_map(|(_, trial)| trial),
        restore: restores.into_iter().find_map(|(_, restore)| restore),
    };
    Ok((contents, whole))
}

type Entries = Vec<(List, IpNet, EntryRecord)>;

/// Every entry, and the lists that were replaced whole.
fn load_lists(
    database: &Database,
    path: &Path,
    unread_rows: &mut Unread,
) -> Result<(Entries, Vec<(List, ListRecord)>), OpenError> {
    let mut found = Vec::new();
    let whole: Vec<(String, Option<ListRecord>)> =
        read(database, LISTS, path, unread_rows, |name| {
            Ok(name.to_owned())
        })?;
    let named = |(name, record): (String, Option<ListRecord>)| {
        let mut lists = [List::Allow, List::Deny].into_iter();
        Some((lists.find(|list| list.as_str() == name)?, record?))
    };
    let whole: Vec<(List, ListRecord)> = whole.into_iter().filter_map(named).collect();
    for list in [List::Allow, List::Deny] {
        let rows: Vec<(IpNet, Option<EntryRecord>)> =
            read(database, rows_of(list), path, unread_rows, prefix)?;
        let changed: HashSet<IpNet> = rows.iter().map(|(prefix, _)| *prefix).collect();
        let recorded = whole.iter().filter(|(of, _)| *of == list);
        let kept = recorded
            .flat_map(|(_, record)| record.entries())
            .filter(|(prefix, _)| !changed.contains(prefix));
        let rows = rows.into_iter();
        let rows = rows.filter_map(|(prefix, record)| Some((prefix, record?)));
        let entries = kept.chain(rows);
        let entries = entries.map(|(prefix, record)| (list, prefix, record));
        found.extend(entries);
    }
    Ok((found, whole))
}

/// The version of the tables; sets it if there is none. A newer file is left as it is.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let found = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get(VERSION_KEY)?.map(|version| version.value());
        if found.is_none_or(|version| version < VERSION) {
            meta.insert(VERSION_KEY, VERSION)?;
        }
        found
    };
    if found.is_some_and(|version| version >= VERSION) {
        transaction.abort()?;
    } else {
        // Version 1 had no lists in one record, version 2 no change on trial.
        for table in [ALLOW, DENY, LISTS, BANS, OFFENCES, TRIAL] {
            transaction.open_table(table)?;
        }
        transaction.commit()?;
    }
    Ok(found.unwrap_or(VERSION))
}

/// The whole lists of a file that was read before.
pub(super) fn records(database: &Database) -> Result<Vec<(List, ListRecord)>, redb::Error> {
    let table = database.begin_read()?.open_table(LISTS)?;
    let mut records = Vec::new();
    for list in [List::Allow, List::Deny] {
        let Some(value) = table.get(list.as_str())? else {
            continue;
        };
        let record = record::decode(value.value());
        let record = record.map_err(|_| redb::Error::Corrupted(list.as_str().to_owned()))?;
        records.push((list, record));
    }
    Ok(records)
}

fn is_made(database: &Database, table: Table) -> Result<bool, redb::Error> {
    let transaction = database.begin_read()?;
    let mut made = transaction.list_tables()?;
    Ok(made.any(|one| one.name() == table.name()))
}

fn prefix(key: &str) -> Result<IpNet, String> {
    let prefix: Result<IpNet, _> = key.parse();
    prefix
        .map(|prefix| prefix.trunc())
        .map_err(|error| error.to_string())
}

fn all<K, R>(rows: Vec<(K, Option<R>)>) -> Vec<(K, R)> {
    let rows = rows.into_iter();
    rows.filter_map(|(key, record)| Some((key, record?)))
        .collect()
}

/// The rows of a table; `None` is [`REMOVED`].
fn read<K, R: DeserializeOwned>(
    database: &Database,
    table: Table,
    path: &Path,
    unread_rows: &mut Unread,
    read_key: fn(&str) -> Result<K, String>,
) -> Result<Vec<(K, Option<R>)>, OpenError> {
    let rows = || -> Result<Vec<(String, Vec<u8>)>, redb::Error> {
        let table = database.begin_read()?.open_table(table)?;
        let mut rows = Vec::new();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.push((key.value().to_owned(), value.value().to_owned()));
        }
        Ok(rows)
    };
    let damaged = |key: &str, cause: String| OpenError::Damaged {
        path: path.to_owned(),
        cause: format!("{key}: {cause}"),
    };
    let row = |key: String, value: Vec<u8>| -> Result<(K, Option<R>), OpenError> {
        let name = read_key(&key).map_err(|cause| damaged(&key, cause))?;
        if value == REMOVED {
            return Ok((name, None));
        }
        let record = record::decode(&value).map_err(|unreadable| match unreadable {
            Unreadable::Newer(version) => newer(path, version),
            Unreadable::Damaged(cause) => damaged(&key, cause),
        })?;
        Ok((name, Some(record)))
    };
    let mut known = Vec::new();
    for (key, value) in rows().map_err(|error| unread(path, error))? {
        match (row(key, value), &mut *unread_rows) {
            (Ok(row), _) => known.push(row),
            (Err(OpenError::Damaged { .. }), Unread::Skip(skipped)) => *skipped += 1,
            (Err(error), _) => return Err(error),
        }
    }
    Ok(known)
}

fn newer(path: &Path, found: u64) -> OpenError {
    OpenError::Newer {
        path: path.to_owned(),
        found,
        known: VERSION,
    }
}

pub(super) fn unopened(path: &Path, error: DatabaseError) -> OpenError {
    let path = path.to_owned();
    match error {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            OpenError::Locked { path }
        }
        error => unread(&path, error.into()),
    }
}

/// Tells a damaged file from a disk that fails.
fn unread(path: &Path, error: redb::Error) -> OpenError {
    use io::ErrorKind::{InvalidData, UnexpectedEof};
    let path = path.to_owned();
    let damaged = match &error {
        redb::Error::Io(io) => matches!(io.kind(), InvalidData | UnexpectedEof),
        redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. } => true,
        _ => false,
    };
    if damaged {
        let cause = error.to_string();
        OpenError::Damaged { path, cause }
    } else {
        OpenError::Journal(JournalError::new(&path, error))
    }
}
