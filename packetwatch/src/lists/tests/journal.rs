//! Files that cannot be opened, and storage that fails.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use redb::{Database, StorageBackend, TableDefinition, backends::FileBackend};

use super::*;
use crate::lists::journal::stored;

fn open(dir: &Path) -> Result<Lists, OpenError> {
    Lists::open(dir, FakeMaps::default(), CAPACITY, Clock::new())
}

fn filled() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let lists = open(dir.path()).unwrap();
    for i in 0..60 {
        let entry = new(&host(i).to_string());
        lists.put(List::Deny, entry, Force(false)).unwrap();
    }
    let path = dir.path().join("journal.redb");
    (dir, path)
}

#[test]
fn the_state_directory_is_made_and_the_file_is_private() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("var/lib/packetwatch");
    open(&state).unwrap();
    let file = fs::metadata(state.join("journal.redb")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let blocked = open(&state.join("journal.redb")).unwrap_err();
    assert!(matches!(blocked, OpenError::Directory { .. }), "{blocked}");
}

#[test]
fn a_journal_that_a_crash_left_half_made_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let unfinished = dir.path().join("journal.redb.new");
    // redb writes its magic number last.
    fs::write(&unfinished, [0; 8192]).unwrap();
    open(dir.path()).unwrap();
    assert!(!unfinished.exists());
    assert!(dir.path().join("journal.redb").exists());
}

#[test]
fn a_file_that_is_gone_when_it_is_opened_again_is_not_begun_anew() {
    let (dir, path) = filled();
    assert!(stored(&path).is_ok());
    let aside = dir.path().join("aside");
    fs::rename(&path, aside).unwrap();
    let refused = stored(&path).unwrap_err().to_string();
    assert!(refused.contains("No such file"), "{refused}");
    assert!(!path.exists());
}

#[test]
fn a_journal_in_use_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let _held = open(dir.path()).unwrap();
    let refused = open(dir.path()).unwrap_err();
    assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains("another packetwatch"));
}

#[test]
fn a_journal_of_a_newer_version_is_refused_and_left_alone() {
    let (dir, path) = filled();
    {
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let meta = TableDefinition::<&str, u64>::new("meta");
        transaction
            .open_table(meta)
            .unwrap()
            .insert("version", 7)
            .unwrap();
        transaction.commit().unwrap();
    }
    for _ in 0..2 {
        let refused = open(dir.path()).unwrap_err();
        let OpenError::Newer { found, known, .. } = refused else {
            panic!("{refused}");
        };
        assert_eq!((found, known), (7, 3));
    }
}

#[test]
fn a_record_of_a_newer_version_or_none_is_refused() {
    let rows = [
        ("192.0.2.1/32", r#"{"v":4}"#, "version 4"),
        ("192.0.2.1/32", "{", "damaged"),
        ("192.0.2.1/33", "{}", "damaged"),
    ];
    for (key, value, expected) in rows {
        let (dir, path) = filled();
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let deny = TableDefinition::<&str, &[u8]>::new("deny");
        transaction
            .open_table(deny)
            .unwrap()
            .insert(key, value.as_bytes())
            .unwrap();
        transaction.commit().unwrap();
        drop(database);
        let refused = open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
}

#[test]
fn a_damaged_file_is_refused_with_its_path_and_the_remedy() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [(&str, Damage); 4] = [
        ("no redb file", |bytes| {
            *bytes = b"# a text file\n".repeat(400)
        }),
        ("cut in half", |bytes| bytes.truncate(bytes.len() / 2)),
        ("cut to its first bytes", |bytes| bytes.truncate(100)),
        ("pages overwritten", |bytes| bytes[4096..].fill(0x5a)),
    ];
    for (what, damage) in damages {
        let (dir, path) = filled();
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let refused = open(dir.path()).unwrap_err();
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "{what}: {refused}"
        );
        let message = refused.to_string();
        assert!(
            message.contains(path.to_str().unwrap()),
            "{what}: {message}"
        );
        assert!(message.contains("move the file aside"), "{what}: {message}");
    }
}

/// A file on a disk that may be full.
#[derive(Debug)]
struct Disk {
    file: FileBackend,
    is_full: Arc<AtomicBool>,
}

impl Disk {
    fn check(&self) -> std::io::Result<()> {
        match self.is_full.load(Relaxed) {
            true => Err(std::io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> std::io::Result<()> {
        self.check().and_then(|()| self.file.set_len(len))
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.check().and_then(|()| self.file.sync_data())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check().and_then(|()| self.file.write(offset, data))
    }
}

#[test]
fn a_full_disk_refuses_writes_keeps_bans_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal.redb");
    let is_full = Arc::new(AtomicBool::new(false));
    let storage = {
        let (path, is_full) = (path.clone(), Arc::clone(&is_full));
        move || {
            let mut options = fs::OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let is_full = Arc::clone(&is_full);
            let file = FileBackend::new(options.open(&path)?)?;
            Ok(Disk { file, is_full })
        }
    };
    let (journal, contents) = Journal::over(path, storage).unwrap();
    let maps = FakeMaps::default();
    let boxed = Box::new(maps.clone());
    let lists = Lists::start(journal, contents, boxed, CAPACITY, Clock::new()).unwrap();
    lists
        .put(List::Deny, new("192.0.2.1/32"), Force(false))
        .unwrap();
    lists
        .confirming(Some(MINUTE))
        .put(List::Allow, new("192.0.2.9/32"), Force(false))
        .unwrap();

    is_full.store(true, Relaxed);
    // Who asks for it waits for no disk, and is told.
    let unwritten = lists.roll_back().unwrap_err();
    assert!(matches!(unwritten, WriteError::TakenBack(_)), "{unwritten}");
    assert!(!maps.kernel().standings.contains_key(&net("192.0.2.9/32")));
    for _ in 0..2 {
        let refused = lists
            .put(List::Deny, new("192.0.2.2/32"), Force(false))
            .unwrap_err();
        assert!(matches!(refused, WriteError::Journal(_)), "{refused}");
    }
    assert!(!maps.kernel().standings.contains_key(&net("192.0.2.2/32")));
    lists.ban(order(host(1))).unwrap();
    lists.flush();
    assert!(maps.kernel().bans.contains_key(&host(1)));

    is_full.store(false, Relaxed);
    lists
        .put(List::Deny, new("192.0.2.3/32"), Force(false))
        .unwrap();
    drop(lists);
    let lists = open(dir.path()).unwrap();
    let page = lists.page(List::Deny, PageQuery::default()).unwrap();
    let listed: Vec<String> = page
        .entries
        .iter()
        .map(|row| row.prefix.to_string())
        .collect();
    assert_eq!(listed, ["192.0.2.1/32", "192.0.2.3/32"]);
    assert_eq!(lists.bans(PageQuery::default()).unwrap().entries.len(), 1);
    assert_eq!((lists.counts().allow.total(), lists.pending()), (0, None));
}
