//! An ext4 meets an error under writers: what they were told is on disk is there after it is mounted
//! anew.
//!
//! A sync of the kernel's (6.18) says yes to what it has thrown away in one of some ten such moments,
//! so a few dozen rounds find a store that believes it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ipnet::{IpNet, Ipv4Net};
use packetwatch::clock::Clock;
use packetwatch::lists::{Capacity, List, Lists, NewEntry};
use packetwatch_tests::FailingDisk;
use packetwatch_tests::environment::number;
use packetwatch_tests::random::Random;

use crate::maps::NoMaps;
use crate::model::{all, page_after};

const ROUNDS: &str = "ABORT_ROUNDS";
const WRITERS: u64 = 3;
/// Entries of a write, which take blocks that the journal's file did not have before: those are what
/// an aborted ext4 forgets.
const ENTRIES: u64 = 20;
/// Writes of one writer, in case that the disk does not fail.
const WRITES: u64 = 400;

fn open(dir: &Path) -> Lists {
    let capacity = Capacity {
        lists: 500_000,
        bans: 8,
    };
    let lists = Lists::open(dir, NoMaps, capacity, Clock::new());
    lists.expect("a sound journal")
}

/// Entry `m` of a writer's write.
fn prefix(writer: u64, write: u64, m: u64) -> IpNet {
    let number = (writer * WRITES + write) * ENTRIES + m;
    let address = 0x0a00_0000 + u32::try_from(number << 8).expect("fits");
    Ipv4Net::new_assert(address.into(), 24).into()
}

/// Writes until the disk fails; returns what was acknowledged.
fn written(lists: &Lists, writer: u64, acknowledged: &AtomicU64) -> Vec<IpNet> {
    let mut kept = Vec::new();
    for write in 0..WRITES {
        let prefixes: Vec<_> = (0..ENTRIES).map(|m| prefix(writer, write, m)).collect();
        let entry = |prefix: &IpNet| NewEntry {
            prefix: *prefix,
            reason: Some("x".repeat(200)),
            ttl: None,
        };
        let added = lists.add(List::Deny, prefixes.iter().map(entry).collect());
        if added.is_err() {
            return kept;
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
        kept.extend(prefixes);
    }
    panic!("the disk does not fail");
}

#[test]
#[ignore = "needs root: loop devices and mounts"]
fn what_a_sync_says_of_an_aborted_file_system_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let mut random = Random::new(1);
    let rounds = number(ROUNDS).unwrap_or(20);
    for round in 0..rounds {
        let disk = FailingDisk::mount(dir.path());
        let lists = open(dir.path());
        let acknowledged = AtomicU64::new(0);
        let kept = Mutex::new(BTreeSet::new());
        let writes = 1 + random.below(60);
        thread::scope(|scope| {
            for writer in 0..WRITERS {
                let (lists, kept, acknowledged) = (&lists, &kept, &acknowledged);
                scope.spawn(move || {
                    let of_this = written(lists, writer, acknowledged);
                    kept.lock().unwrap().extend(of_this);
                });
            }
            while acknowledged.load(Ordering::Relaxed) < writes {
                thread::yield_now();
            }
            disk.fail();
        });
        drop(lists);
        disk.unmount();
        disk.mount_again();
        let lists = open(dir.path());
        let there = all(|cursor| {
            let page = lists.page(List::Deny, page_after(cursor)).unwrap();
            (page.entries, page.next)
        });
        let there: BTreeSet<_> = there.into_iter().map(|row| row.prefix).collect();
        let kept = kept.into_inner().unwrap();
        let lost: Vec<_> = kept.difference(&there).take(3).collect();
        assert!(
            lost.is_empty(),
            "round {round} of {rounds}: of {} acknowledged entries {lost:?} and more are lost",
            kept.len()
        );
        // A write that the error met on its way may be there, whole.
        let doubtful = there.difference(&kept).count() as u64;
        assert!(
            doubtful.is_multiple_of(ENTRIES) && doubtful <= WRITERS * ENTRIES,
            "{doubtful}"
        );
    }
}
