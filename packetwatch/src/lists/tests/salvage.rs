//! Journals that are damaged: what is kept, and where the rest lies.

use std::fs;

use redb::{Database, TableDefinition};

use super::*;

fn filled() -> (TempDir, std::path::PathBuf) {
    let Fixture { lists, dir, .. } = Fixture::new();
    for i in 0..60 {
        let entry = new(&host(i).to_string());
        lists.put(List::Deny, entry, Force(false)).unwrap();
    }
    lists.ban(order(host(7))).unwrap();
    let path = dir.path().join("journal.redb");
    (dir, path)
}

fn salvaged(dir: &TempDir) -> (Lists, Vec<String>) {
    let open = || Lists::open_or_salvage(dir.path(), FakeMaps::default(), CAPACITY, Clock::new());
    drop(open().unwrap());
    let files = fs::read_dir(dir.path()).unwrap();
    let files = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    let aside = files.filter(|name| name.contains("damaged-")).collect();
    // The new journal is one that the next start opens as any other.
    (open().unwrap(), aside)
}

#[test]
fn a_row_that_cannot_be_read_costs_that_row() {
    for (table, key, value) in [
        ("deny", "192.0.2.1/32", "{"),
        ("deny", "192.0.2.1/33", "{}"),
        ("bans", "192.0.2.1/32", "[]"),
        ("offences", "x", "{}"),
        ("trial", "list", "{\"v\":3}"),
        ("lists", "allow", "{\"v\":3}"),
    ] {
        let (dir, path) = filled();
        let database = Database::create(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        let definition = TableDefinition::<&str, &[u8]>::new(table);
        let mut rows = transaction.open_table(definition).unwrap();
        rows.insert(key, value.as_bytes()).unwrap();
        drop(rows);
        transaction.commit().unwrap();
        drop(database);
        let (lists, aside) = salvaged(&dir);
        assert_eq!(aside.len(), 1, "{table}: {aside:?}");
        assert_eq!(lists.counts().deny.total(), 60, "{table}");
        assert_eq!(lists.counts().bans.total(), 1, "{table}");
    }
}

/// A journal of a daemon that was killed, with 60 denies and a ban, of which the deny of `host(59)` came
/// last.
fn killed() -> Vec<u8> {
    let Fixture { lists, dir, .. } = Fixture::new();
    lists.ban(order(host(7))).unwrap();
    lists.flush();
    for i in 0..60 {
        let entry = new(&host(i).to_string());
        lists.put(List::Deny, entry, Force(false)).unwrap();
    }
    // Not closed yet.
    fs::read(dir.path().join("journal.redb")).unwrap()
}

/// Opens a journal of these bytes; the denies and bans that it has, and whether one was set aside.
fn opened(bytes: &[u8]) -> (usize, usize, bool) {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join("journal.redb"), bytes).unwrap();
    let (lists, aside) = salvaged(&dir);
    if let [aside] = &aside[..] {
        assert_eq!(
            fs::read(dir.path().join(aside)).unwrap(),
            bytes,
            "as it was"
        );
    }
    let counts = lists.counts();
    (counts.deny.total(), counts.bans.total(), !aside.is_empty())
}

#[test]
fn a_bit_that_flips_in_the_header_costs_the_last_commit_at_most_and_is_told() {
    let whole = killed();
    assert_eq!(opened(&whole), (60, 1, false));
    // The magic, the flags but for which slot is the last one's, and both slots.
    let flips = (0..9).map(|byte| (byte, 0)).chain([(9, 1), (9, 2)]);
    let flips = flips.chain((64..320).map(|byte| (byte, byte % 8)));
    let mut told = 0;
    for (byte, bit) in flips {
        let mut bytes = whole.clone();
        bytes[byte] ^= 1 << bit;
        let (denies, bans, aside) = opened(&bytes);
        assert_eq!(bans, 1, "byte {byte}");
        assert!(
            denies == 60 || denies == 59 && aside,
            "byte {byte}: {denies} of 60, set aside: {aside}"
        );
        told += usize::from(aside);
    }
    assert!(told > 64, "of {told} something was to be told");
}

#[test]
fn a_commit_that_rots_is_told() {
    let whole = killed();
    let mut lost = 0;
    for (byte, bit) in (4096..whole.len()).step_by(1021).zip((0..8).cycle()) {
        let mut bytes = whole.clone();
        bytes[byte] ^= 1 << bit;
        let (denies, bans, aside) = opened(&bytes);
        let is_whole = (denies, bans) == (60, 1);
        assert!(
            is_whole || aside,
            "byte {byte}: {denies} denies, {bans} bans"
        );
        lost += usize::from(!is_whole);
    }
    assert!(lost > 0, "no byte of them is one that counts");
}

#[test]
fn a_file_that_is_no_journal_any_more_is_set_aside_whole() {
    type Damage = fn(&mut Vec<u8>);
    let damages: [Damage; 4] = [
        Vec::clear,
        |bytes| *bytes = b"# a text file\n".repeat(400),
        |bytes| bytes.truncate(bytes.len() / 2),
        |bytes| bytes[4096..].fill(0x5a),
    ];
    for damage in damages {
        let (dir, path) = filled();
        let mut bytes = fs::read(&path).unwrap();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let (lists, aside) = salvaged(&dir);
        assert_eq!(lists.counts().deny.total(), 0);
        lists
            .put(List::Deny, new("192.0.2.1/32"), Force(false))
            .unwrap();
        assert_eq!(
            fs::read(dir.path().join(&aside[0])).unwrap(),
            bytes,
            "as it was"
        );
    }
}

#[test]
fn a_newer_journal_is_refused_as_ever() {
    let (dir, path) = filled();
    let database = Database::create(&path).unwrap();
    let transaction = database.begin_write().unwrap();
    let meta = TableDefinition::<&str, u64>::new("meta");
    transaction
        .open_table(meta)
        .unwrap()
        .insert("version", 7)
        .unwrap();
    transaction.commit().unwrap();
    drop(database);
    let maps = FakeMaps::default();
    let refused = Lists::open_or_salvage(dir.path(), maps, CAPACITY, Clock::new());
    assert!(matches!(refused, Err(OpenError::Newer { .. })));
}
