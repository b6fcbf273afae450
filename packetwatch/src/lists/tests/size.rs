//! The size of the file over a long life.

use std::{collections::HashSet, fs, path::Path};

use redb::{ReadableDatabase as _, ReadableTableMetadata as _, StorageBackend as _};

use super::{disk::Disk, life::journal, *};
use crate::lists::{journal::SLACK, shelf::Shelf, tables::rows_of};

const ROOM: Capacity = Capacity {
    lists: 50_000,
    bans: 5_000,
};

/// Lists that never wait for a real disk, and write when they are told to.
fn lists_on(disk: &Disk) -> Lists {
    let (journal, contents) = journal(disk).unwrap();
    let maps = Box::new(FakeMaps::default());
    let shared = Shared::restore(journal, contents, maps, ROOM, Clock::new()).unwrap();
    Lists(Arc::new(Handle {
        shared,
        _flusher: None,
    }))
}

/// Sixteen in each region of the index: a write tells the kernel all of its region, which is not what is
/// looked at here.
fn entry(i: u32) -> NewEntry {
    NewEntry {
        prefix: IpNet::from(IpAddr::from((0x0a00_0000 + (i << 12)).to_be_bytes())),
        reason: Some("a reason of usual length".to_owned()),
        ttl: None,
    }
}

/// What the file would have if nothing in it were empty.
fn compacted(disk: &Disk) -> u64 {
    let disk = disk.image();
    let mut database = redb::Builder::new()
        .create_with_backend(disk.clone())
        .unwrap();
    database.compact().unwrap();
    drop(database);
    disk.len().unwrap()
}

/// Rows beside the record of the deny list.
fn rows(disk: &Disk) -> u64 {
    let database = redb::Builder::new().create_with_backend(disk.image());
    let database = database.unwrap();
    let transaction = database.begin_read().unwrap();
    let rows = transaction.open_table(rows_of(List::Deny)).unwrap();
    rows.len().unwrap()
}

/// What is promised for any history is six times the largest contents and [`SLACK`]: three copies at
/// once, the former, the new one and the one before that no reader has any more, and redb grows by
/// doubling. These histories come to the same on each run, to 2.2 times with many small transactions
/// and to 1.6 with few large ones; `times` is less than twice that, so that a copy that is kept
/// too long is found.
#[track_caller]
fn assert_bounded(length: u64, largest: u64, times: u64) {
    assert!(
        length <= times * largest,
        "{length} bytes for contents that never had more than {largest}"
    );
}

#[test]
fn churn_does_not_make_the_file_grow() {
    let disk = Disk::new(0);
    let lists = lists_on(&disk);
    lists
        .add(List::Deny, (0..1_000).map(entry).collect())
        .unwrap();
    let full = compacted(&disk);
    let mut longest = 0;
    for i in (0..5_000).map(|n| n * 7_919 % 1_000) {
        lists.remove(List::Deny, entry(i).prefix).unwrap();
        lists.put(List::Deny, entry(i), Force(false)).unwrap();
        if i % 10 == 0 {
            lists.ban(order(host(i as u8))).unwrap();
            lists.flush();
            lists.unban(host(i as u8)).unwrap();
        }
        longest = longest.max(disk.len().unwrap());
    }
    assert_bounded(longest, full, 4);
}

/// What is known of its entries is there once, in memory as on disk.
#[test]
fn a_feed_that_is_sent_again_is_no_larger() {
    let disk = Disk::new(0);
    let lists = lists_on(&disk);
    let feed = |reason: &str| -> Vec<NewEntry> {
        let entries = (0..10_000).map(|i| NewEntry {
            reason: Some(reason.to_owned()),
            ttl: Some(24 * 60 * MINUTE),
            ..entry(i)
        });
        entries.collect()
    };
    let kinds = || {
        let state = lists.0.shared.state();
        let listed = state.on(Shelf::Deny);
        let kinds = listed.map(|(_, listed)| Arc::as_ptr(&listed.about));
        kinds.collect::<HashSet<_>>().len()
    };
    lists.replace(List::Deny, feed("one")).unwrap();
    let (first, at_first) = (compacted(&disk), kinds());
    assert_eq!(at_first, 1);
    for reason in ["one", "two", "one"] {
        lists.replace(List::Deny, feed(reason)).unwrap();
        assert_eq!(kinds(), 1, "replaced");
        assert_bounded(compacted(&disk), first, 2);
        lists.add(List::Deny, feed(reason)).unwrap();
        assert_eq!(kinds(), 1, "added to");
    }
    // What was there keeps its beginning, and so a kind of its own beside what is new.
    let more = (5_000..15_000).map(|i| NewEntry {
        ttl: Some(MINUTE),
        ..entry(i)
    });
    lists.replace(List::Deny, more.collect()).unwrap();
    assert_eq!(kinds(), 2);
}

#[test]
fn replaced_lists_and_many_bans_stay_within_a_multiple_of_the_largest() {
    let disk = Disk::new(0);
    let lists = lists_on(&disk);
    let (mut longest, mut largest) = (0, 0);
    for round in 0..12 {
        // One another's half, or nothing of it.
        let first = round % 3 * 5_000;
        let list = (first..first + 10_000).map(entry).collect();
        lists.replace(List::Allow, list).unwrap();
        for i in 0..300 {
            let banned = entry(20_000 + round * 300 + i).prefix;
            lists.ban(order(banned)).unwrap();
        }
        lists.flush();
        longest = longest.max(disk.len().unwrap());
        largest = largest.max(compacted(&disk));
    }
    assert_bounded(longest, largest, 3);
}

#[test]
fn what_comes_and_goes_beside_a_replaced_list_leaves_nothing() {
    let disk = Disk::new(0);
    let lists = lists_on(&disk);
    lists
        .replace(List::Deny, (0..100).map(entry).collect())
        .unwrap();
    let (mut longest, mut largest) = (0, 0);
    for round in 1..=30 {
        let first = round * 1_000;
        let others = (first..first + 1_000).map(entry).collect();
        lists.add(List::Deny, others).unwrap();
        largest = largest.max(compacted(&disk));
        for i in first..first + 1_000 {
            lists.remove(List::Deny, entry(i).prefix).unwrap();
        }
        // And some that the record has.
        lists.remove(List::Deny, entry(round).prefix).unwrap();
        lists.flush();
        longest = longest.max(disk.len().unwrap());
    }
    assert_bounded(longest, largest, 3);
    // Each of them says that an entry of the record is gone.
    assert!(rows(&disk) <= 30, "{}", rows(&disk));
    drop(lists);
    let lists = lists_on(&disk);
    assert_eq!(lists.counts().deny.v4, 70);
    assert!(compacted(&disk) < SLACK, "{}", compacted(&disk));
}

#[test]
fn many_changes_of_a_replaced_list_are_taken_into_its_record() {
    let disk = Disk::new(0);
    let lists = lists_on(&disk);
    lists
        .replace(List::Deny, (0..4_000).map(entry).collect())
        .unwrap();
    let whole = compacted(&disk);
    for i in 0..3_500 {
        lists.remove(List::Deny, entry(i).prefix).unwrap();
        lists.flush();
    }
    assert!(compacted(&disk) < whole, "{} {whole}", compacted(&disk));
    drop(lists);
    assert_eq!(lists_on(&disk).counts().deny.v4, 500);
}

/// The journal of these lists as a kill leaves it: redb gives back what it can when it is closed.
fn killed(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::copy(dir.join("journal.redb"), copy.path().join("journal.redb")).unwrap();
    copy
}

fn length(dir: &TempDir) -> u64 {
    fs::metadata(dir.path().join("journal.redb")).unwrap().len()
}

#[test]
fn a_start_gives_back_what_was_needed_once() {
    let dir = tempfile::tempdir().unwrap();
    let open = |dir: &TempDir| {
        let maps = FakeMaps::default();
        Lists::open(dir.path(), maps, ROOM, Clock::new()).unwrap()
    };
    let lists = open(&dir);
    let replace = |list: std::ops::Range<u32>| {
        let list = list.map(entry).collect();
        lists.replace(List::Deny, list).unwrap();
    };
    for first in [0, 20_000, 0] {
        // As rows: one record of them all would be small.
        replace(0..0);
        let list = (first..first + 20_000).map(entry).collect();
        lists.add(List::Deny, list).unwrap();
    }
    let full = killed(dir.path());
    let before = length(&full);
    let restarted = open(&full);
    assert!(length(&full) <= before, "{} {before}", length(&full));
    assert_eq!(restarted.counts().deny.v4, 20_000);
    drop(restarted);

    replace(0..10);
    let emptied = killed(dir.path());
    assert!(length(&emptied) > 3 * SLACK, "{}", length(&emptied));
    let restarted = open(&emptied);
    assert!(length(&emptied) < SLACK, "{}", length(&emptied));
    let kept = restarted.page(List::Deny, PageQuery::default()).unwrap();
    assert_eq!(kept.entries.len(), 10);
}
