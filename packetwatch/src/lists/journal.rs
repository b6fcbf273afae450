//! The lists on disk: one redb file, one transaction a change.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableDatabase as _, ReadableTable as _,
    ReadableTableMetadata as _, StorageBackend, StorageError, TableDefinition,
    backends::FileBackend,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    entry::List,
    error::{JournalError, OpenError},
    event,
    record::{self, BanRecord, EntryRecord, ListRecord, OffenceRecord, Unreadable, VERSION},
};

/// Keys are prefixes as people write them, values are JSON records.
type Table = TableDefinition<'static, &'static str, &'static [u8]>;

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const ALLOW: Table = TableDefinition::new("allow");
const DENY: Table = TableDefinition::new("deny");
/// Lists that were replaced whole, by name; the rows of [`ALLOW`] and [`DENY`] are what has changed
/// of them since.
const LISTS: Table = TableDefinition::new("lists");
const BANS: Table = TableDefinition::new("bans");
const OFFENCES: Table = TableDefinition::new("offences");

/// The row of a prefix that was taken out of a list which [`LISTS`] has with it.
const REMOVED: &[u8] = b"";

/// A list is written whole again when its rows are more than half of its record and these.
const ROWS_BESIDE: u64 = 1000;

/// The row of [`META`] with the version of the tables.
const VERSION_KEY: &str = "version";

/// The lists are in memory as it is; redb's default of 1 GiB would hold them twice.
const CACHE_BYTES: usize = 8 << 20;

/// What a file may have beyond twice its contents when a daemon has started. A new one has 1 MiB.
pub(super) const SLACK: u64 = 2 << 20;

/// Everything the journal holds.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Contents {
    pub(super) entries: Vec<(List, IpNet, EntryRecord)>,
    pub(super) bans: Vec<(IpNet, BanRecord)>,
    pub(super) offences: Vec<(IpNet, OffenceRecord)>,
}

/// Rows to be written in one transaction; `None` removes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// written before the entries
    pub(super) lists: Vec<(List, ListRecord)>,
    pub(super) entries: Vec<(List, IpNet, Option<EntryRecord>)>,
    pub(super) bans: Vec<(IpNet, Option<BanRecord>)>,
    pub(super) offences: Vec<(IpNet, Option<OffenceRecord>)>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            lists,
            entries,
            bans,
            offences,
        } = self;
        lists.is_empty() && entries.is_empty() && bans.is_empty() && offences.is_empty()
    }

    /// Of two rows of one key the later one counts.
    pub(super) fn append(&mut self, mut later: Self) {
        for (list, _) in &later.lists {
            self.lists.retain(|(of, _)| of != list);
            self.entries.retain(|(of, _, _)| of != list);
        }
        self.lists.append(&mut later.lists);
        self.entries.append(&mut later.entries);
        self.bans.append(&mut later.bans);
        self.offences.append(&mut later.offences);
    }
}

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The only writer of the file, which it keeps locked against other processes.
pub(super) struct Journal {
    /// `None` after a failed write: redb takes no more until it is opened again.
    stored: Option<Stored>,
    open: Opener,
    path: PathBuf,
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("path", &self.path).finish()
    }
}

struct Stored {
    database: Database,
    /// The prefixes of the records in [`LISTS`], in order: what is taken out of a list needs a row
    /// that says so if its record has it.
    recorded: HashMap<List, Vec<IpNet>>,
}

impl Stored {
    fn new(database: Database, whole: &[(List, ListRecord)]) -> Self {
        let of = |(list, record): &(List, ListRecord)| (*list, record.prefixes());
        Self {
            recorded: whole.iter().map(of).collect(),
            database,
        }
    }

    fn has(&self, list: List, prefix: IpNet) -> bool {
        let recorded = self.recorded.get(&list);
        recorded.is_some_and(|prefixes| prefixes.binary_search(&prefix).is_ok())
    }
}

impl Journal {
    const FILE: &str = "journal.redb";

    /// Opens `journal.redb` in `state_dir`; makes both if they are not there.
    pub(super) fn open(state_dir: &Path) -> Result<(Self, Contents), OpenError> {
        let directory = |source| OpenError::Directory {
            path: state_dir.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(state_dir).map_err(directory)?;
        let path = state_dir.join(Self::FILE);
        if !path.try_exists().map_err(directory)? {
            Self::make(&path)?;
        }
        // The name of a new file is on disk when its directory is; a daemon before this one may
        // have been killed before it got that far.
        let synced = File::open(state_dir).and_then(|dir| dir.sync_all());
        synced.map_err(directory)?;
        let file = path.clone();
        let (mut journal, contents) = Self::over(path.clone(), move || stored(&file))?;
        let length = fs::metadata(&path).map_err(directory)?.len();
        if let Err(error) = journal.shrink(length) {
            event::not_compacted(&error);
        }
        Ok((journal, contents))
    }

    /// Makes a file of empty tables. It has another name until it is whole, so that one that a
    /// crash left half made is never taken for a damaged journal.
    fn make(path: &Path) -> Result<(), OpenError> {
        let unfinished = path.with_extension("redb.new");
        let failed = |error: io::Error| unopened(&unfinished, error.into());
        let file = options().create(true).mode(0o600).open(&unfinished);
        let file = file.map_err(failed)?;
        // Another daemon may be at it.
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => unopened(path, DatabaseError::DatabaseAlreadyOpen),
            TryLockError::Error(error) => failed(error),
        })?;
        file.set_len(0).map_err(failed)?;
        let storage = move || FileBackend::new(file.try_clone()?);
        drop(Self::over(unfinished.clone(), storage)?);
        fs::rename(&unfinished, path).map_err(failed)
    }

    /// Opens a journal over any storage; `path` names it in errors. `storage` is called again
    /// after a failed write, and has then to show what is stored, not what was to be.
    pub(super) fn over<B: StorageBackend>(
        path: PathBuf,
        storage: impl Fn() -> Result<B, DatabaseError> + Send + 'static,
    ) -> Result<(Self, Contents), OpenError> {
        let open: Opener = Box::new(move || {
            Builder::new()
                .set_cache_size(CACHE_BYTES)
                .set_check_integrity_on_open(true)
                .create_with_backend(storage()?)
        });
        let database = open().map_err(|error| unopened(&path, error))?;
        let (contents, whole) = load(&database, &path)?;
        let journal = Self {
            stored: Some(Stored::new(database, &whole)),
            open,
            path,
        };
        Ok((journal, contents))
    }

    /// Writes the batch in one transaction. It is on disk when this returns. Returns the lists of
    /// which so much has changed since they were written whole that they had better be again.
    ///
    /// # Errors
    /// When the store fails. Whether the batch is on disk is then unknown: the caller writes the
    /// rows again as they should be.
    pub(super) fn commit(&mut self, batch: &Batch) -> Result<Vec<List>, JournalError> {
        let outcome = self.try_commit(batch);
        if outcome.is_err() {
            self.stored = None;
        }
        outcome.map_err(|error| JournalError::new(&self.path, error))
    }

    /// Compacts a file of this `length` if most of it is empty: it has the size that was needed
    /// when the lists were at their largest, and redb seldom gives it back by itself.
    ///
    /// # Errors
    /// When the store fails. The file holds what it held.
    pub(super) fn shrink(&mut self, length: u64) -> Result<(), JournalError> {
        let outcome = self.try_shrink(length);
        if outcome.is_err() {
            self.stored = None;
        }
        outcome.map_err(|error| JournalError::new(&self.path, error))
    }

    fn try_shrink(&mut self, length: u64) -> Result<(), redb::Error> {
        let database = &mut self.stored()?.database;
        let transaction = database.begin_write()?;
        let stats = transaction.stats()?;
        transaction.abort()?;
        let in_use = (stats.leaf_pages() + stats.branch_pages()) * stats.page_size() as u64;
        if length > 2 * in_use + SLACK {
            database.compact()?;
        }
        Ok(())
    }

    fn stored(&mut self) -> Result<&mut Stored, redb::Error> {
        if self.stored.is_none() {
            let database = (self.open)()?;
            let whole = records(&database)?;
            self.stored = Some(Stored::new(database, &whole));
        }
        Ok(self.stored.as_mut().expect("opened above"))
    }

    fn try_commit(&mut self, batch: &Batch) -> Result<Vec<List>, redb::Error> {
        let stored = self.stored()?;
        let mut transaction = stored.database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let mut outgrown = Vec::new();
        for (list, record) in &batch.lists {
            stored.recorded.insert(*list, record.prefixes());
        }
        {
            let mut lists = transaction.open_table(LISTS)?;
            for (list, record) in &batch.lists {
                transaction.delete_table(rows_of(*list))?;
                if record.is_empty() {
                    lists.remove(list.as_str())?;
                } else {
                    lists.insert(list.as_str(), record::encode(record).as_slice())?;
                }
            }
            for list in [List::Allow, List::Deny] {
                let mut rows = transaction.open_table(rows_of(list))?;
                for (of, prefix, record) in &batch.entries {
                    match record {
                        _ if *of != list => {}
                        None if stored.has(list, *prefix) => {
                            rows.insert(prefix.to_string().as_str(), REMOVED)?;
                        }
                        record => write(&mut rows, *prefix, record.as_ref())?,
                    }
                }
                let recorded = stored.recorded.get(&list).map_or(0, Vec::len) as u64;
                if recorded > 0 && rows.len()? > recorded / 2 + ROWS_BESIDE {
                    outgrown.push(list);
                }
            }
            let mut bans = transaction.open_table(BANS)?;
            for (prefix, record) in &batch.bans {
                write(&mut bans, *prefix, record.as_ref())?;
            }
            let mut offences = transaction.open_table(OFFENCES)?;
            for (prefix, record) in &batch.offences {
                write(&mut offences, *prefix, record.as_ref())?;
            }
        }
        transaction.commit()?;
        Ok(outgrown)
    }
}

fn rows_of(list: List) -> Table {
    match list {
        List::Allow => ALLOW,
        List::Deny => DENY,
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// A file that is there: one that is gone when it is opened again is not begun anew.
pub(super) fn stored(path: &Path) -> Result<FileBackend, DatabaseError> {
    let file = options().open(path)?;
    forget_cached(&file)?;
    FileBackend::new(file)
}

/// Drops the pages of a file that the kernel takes for written from its cache.
///
/// After a sync that failed, Linux takes pages for written that are not
/// (<https://lwn.net/Articles/752063/>): read from the cache, a transaction looks whole that is not
/// on the disk, and what is built on it is lost in a crash. Read from the disk, redb's checksums
/// find it, and it is rolled back.
fn forget_cached(file: &File) -> io::Result<()> {
    posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
    Ok(())
}

fn write<R: Serialize>(
    table: &mut redb::Table<'_, &'static str, &'static [u8]>,
    prefix: IpNet,
    record: Option<&R>,
) -> Result<(), StorageError> {
    let key = prefix.to_string();
    match record {
        Some(record) => table.insert(key.as_str(), record::encode(record).as_slice())?,
        None => table.remove(key.as_str())?,
    };
    Ok(())
}

/// Makes the tables of a new file, reads those of an old one.
fn load(
    database: &Database,
    path: &Path,
) -> Result<(Contents, Vec<(List, ListRecord)>), OpenError> {
    let failed = |error: redb::Error| unread(path, error);
    let version = prepare(database).map_err(failed)?;
    if version > VERSION {
        return Err(newer(path, version));
    }
    let mut contents = Contents::default();
    let whole: Vec<(String, Option<ListRecord>)> =
        read(database, LISTS, path, |name| Ok(name.to_owned()))?;
    let named = |list: List| {
        let mut whole = whole.iter();
        let record =
            whole.find_map(|(name, record)| record.as_ref().filter(|_| *name == list.as_str()));
        Some((list, record?.clone()))
    };
    let whole: Vec<(List, ListRecord)> = [List::Allow, List::Deny]
        .into_iter()
        .filter_map(named)
        .collect();
    for list in [List::Allow, List::Deny] {
        let rows: Vec<(IpNet, Option<EntryRecord>)> = read(database, rows_of(list), path, prefix)?;
        let changed: HashSet<IpNet> = rows.iter().map(|(prefix, _)| *prefix).collect();
        let recorded = whole.iter().filter(|(of, _)| *of == list);
        let kept = recorded
            .flat_map(|(_, record)| record.entries())
            .filter(|(prefix, _)| !changed.contains(prefix));
        let rows = rows.into_iter();
        let rows = rows.filter_map(|(prefix, record)| Some((prefix, record?)));
        let entries = kept.chain(rows);
        let entries = entries.map(|(prefix, record)| (list, prefix, record));
        contents.entries.extend(entries);
    }
    contents.bans = all(read(database, BANS, path, prefix)?);
    contents.offences = all(read(database, OFFENCES, path, prefix)?);
    Ok((contents, whole))
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
        // Version 1 had no lists in one record.
        for table in [ALLOW, DENY, LISTS, BANS, OFFENCES] {
            transaction.open_table(table)?;
        }
        transaction.commit()?;
    }
    Ok(found.unwrap_or(VERSION))
}

/// The whole lists of a file that was read before.
fn records(database: &Database) -> Result<Vec<(List, ListRecord)>, redb::Error> {
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
    rows()
        .map_err(|error| unread(path, error))?
        .into_iter()
        .map(|(key, value)| {
            let name = read_key(&key).map_err(|cause| damaged(&key, cause))?;
            if value == REMOVED {
                return Ok((name, None));
            }
            let record = record::decode(&value).map_err(|unreadable| match unreadable {
                Unreadable::Newer(version) => newer(path, version),
                Unreadable::Damaged(cause) => damaged(&key, cause),
            })?;
            Ok((name, Some(record)))
        })
        .collect()
}

fn newer(path: &Path, found: u64) -> OpenError {
    OpenError::Newer {
        path: path.to_owned(),
        found,
        known: VERSION,
    }
}

fn unopened(path: &Path, error: DatabaseError) -> OpenError {
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
