//! The lists on disk: one redb file, one transaction a change.

use std::{
    collections::HashMap,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadableTableMetadata as _, StorageBackend,
    StorageError,
};
use serde::Serialize;

use super::{
    entry::List,
    error::{JournalError, OpenError},
    event,
    record::{self, BanRecord, EntryRecord, ListRecord, OffenceRecord, RestoreRecord, TrialRecord},
    storage::Storage,
    tables::{
        BANS, Contents, LISTS, OFFENCES, REMOVED, RESTORE, RESTORE_KEY, TRIAL, TRIAL_KEY, Unread,
        load, records, rows_of, unopened,
    },
};

/// A list is written whole again when its rows are more than half of its record and these.
const ROWS_BESIDE: u64 = 1000;

/// The lists are in memory as it is; redb's default of 1 GiB would hold them twice.
pub(super) const CACHE_BYTES: usize = 8 << 20;

/// What a file may have beyond twice its contents when a daemon has started. A new one has 1 MiB.
pub(super) const SLACK: u64 = 2 << 20;

/// Rows to be written in one transaction; `None` removes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// written before the entries
    pub(super) lists: Vec<(List, ListRecord)>,
    pub(super) entries: Vec<(List, IpNet, Option<EntryRecord>)>,
    pub(super) bans: Vec<(IpNet, Option<BanRecord>)>,
    pub(super) offences: Vec<(IpNet, Option<OffenceRecord>)>,
    /// the change on trial, or that there is none
    pub(super) trial: Option<Option<TrialRecord>>,
    /// what a restore is to change besides, or that there is none
    pub(super) restore: Option<Option<RestoreRecord>>,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        let Self {
            lists,
            entries,
            bans,
            offences,
            trial,
            restore,
        } = self;
        let lists_are_empty = lists.is_empty() && entries.is_empty() && trial.is_none();
        lists_are_empty && bans.is_empty() && offences.is_empty() && restore.is_none()
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
        self.trial = later.trial.or(self.trial.take());
        self.restore = later.restore.or(self.restore.take());
    }
}

type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

/// The only writer of the file, which it keeps locked against other processes.
pub(super) struct Journal {
    /// `None` after a failed write: redb takes no more until it is opened again.
    stored: Option<Stored>,
    open: Opener,
    path: PathBuf,
    /// Which file it is, by device and inode: what is written into one that was removed is lost with the
    /// process. `None` where no file was opened.
    file: Option<(u64, u64)>,
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
    pub(super) const FILE: &str = "journal.redb";

    /// Opens `journal.redb` in `state_dir`; makes both if they are not there.
    pub(super) fn open(state_dir: &Path) -> Result<(Self, Contents), OpenError> {
        let directory = |source| OpenError::Directory {
            path: state_dir.to_owned(),
            source,
        };
        let path = state_dir.join(Self::FILE);
        if !path.try_exists().map_err(directory)? {
            Self::begin(state_dir, &Batch::default())?;
        }
        // The name of a new file is on disk when its directory is; a daemon before this one may
        // have been killed before it got that far.
        let synced = File::open(state_dir).and_then(|dir| dir.sync_all());
        synced.map_err(directory)?;
        let file = path.clone();
        let (mut journal, contents) = Self::over(path.clone(), move || stored(&file))?;
        let found = fs::metadata(&path).map_err(directory)?;
        journal.file = Some((found.dev(), found.ino()));
        if let Err(error) = journal.shrink(found.len()) {
            event::not_compacted(&error);
        }
        Ok((journal, contents))
    }

    /// Makes a new `journal.redb` that holds this, in the place of one that may be there, and the
    /// directory if need be. It has another name until it is whole, so that one that a crash left half
    /// made is never taken for a damaged journal, nor for all that there was to know.
    pub(super) fn begin(state_dir: &Path, batch: &Batch) -> Result<(), OpenError> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(state_dir)
            .map_err(|source| OpenError::Directory {
                path: state_dir.to_owned(),
                source,
            })?;
        let path = &state_dir.join(Self::FILE);
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
        let storage = move || Storage::new(file.try_clone()?);
        let (mut journal, _) = Self::over(unfinished.clone(), storage)?;
        if !batch.is_empty() {
            journal.commit(batch).map_err(OpenError::Journal)?;
        }
        drop(journal);
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
        let (contents, whole) = load(&database, &path, &mut Unread::Refuse)?;
        let journal = Self {
            stored: Some(Stored::new(database, &whole)),
            open,
            path,
            file: None,
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
        let outcome = self.in_place().and_then(|()| self.try_commit(batch));
        if outcome.is_err() {
            self.stored = None;
        }
        outcome.map_err(|error| JournalError::new(&self.path, error))
    }

    /// # Errors
    /// The file was removed, or another is in its place.
    fn in_place(&self) -> Result<(), redb::Error> {
        let Some(file) = self.file else {
            return Ok(());
        };
        let found = fs::metadata(&self.path).map_err(redb::Error::Io)?;
        if (found.dev(), found.ino()) == file {
            return Ok(());
        }
        let cause = "another file is in its place: start the daemon anew";
        Err(redb::Error::Io(io::Error::other(cause)))
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
        // In one phase a commit that rots on the disk looks like one that a crash cut short, and is gone
        // without a word. A second sync is the price.
        transaction.set_two_phase_commit(true);
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
            let mut trials = transaction.open_table(TRIAL)?;
            match &batch.trial {
                None => {}
                Some(None) => {
                    trials.remove(TRIAL_KEY)?;
                }
                Some(Some(trial)) => {
                    trials.insert(TRIAL_KEY, record::encode(trial).as_slice())?;
                }
            }
            if let Some(restore) = &batch.restore {
                let mut restores = transaction.open_table(RESTORE)?;
                match restore {
                    None => restores.remove(RESTORE_KEY)?,
                    Some(restore) => {
                        restores.insert(RESTORE_KEY, record::encode(restore).as_slice())?
                    }
                };
            }
        }
        transaction.commit()?;
        Ok(outgrown)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    options
}

/// A file that is there: one that is gone when it is opened again is not begun anew, nor is an empty one.
/// A new journal has its name only when it is whole, so that one without a byte has lost them.
pub(super) fn stored(path: &Path) -> Result<Storage, DatabaseError> {
    let file = options().open(path)?;
    if file.metadata()?.len() == 0 {
        let empty = io::Error::new(io::ErrorKind::InvalidData, "the file is empty");
        return Err(empty.into());
    }
    forget_cached(&file)?;
    Storage::new(file)
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
