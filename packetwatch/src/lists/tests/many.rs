//! Entries that end together, and bans beside writes of many entries.

use std::{sync::mpsc, thread};

use super::{disk::Disk, life::journal, *};
use crate::log::tests::events_of;

pub(super) const ROOM: Capacity = Capacity {
    lists: 40_000,
    bans: 4_000,
};
/// More than are taken out at a time.
const MANY: u32 = 25_000;
const PROMPT: Duration = Duration::from_secs(20);

/// Lists whose journal is written when they are told to.
pub(super) fn fixture() -> (Lists, FakeMaps, Clock, Disk) {
    let (disk, maps, clock) = (Disk::new(0), FakeMaps::default(), Clock::movable());
    let (journal, contents) = journal(&disk).unwrap();
    let shared = Shared::restore(journal, contents, Box::new(maps.clone()), ROOM, clock).unwrap();
    let lists = Lists(Arc::new(Handle {
        shared,
        _flusher: None,
    }));
    (lists, maps, clock, disk)
}

pub(super) fn one(i: u32) -> IpNet {
    IpNet::from(IpAddr::from((0x0a00_0000 + i).to_be_bytes()))
}

fn of_a_minute(count: u32) -> Vec<NewEntry> {
    let entry = |i| NewEntry {
        prefix: one(i),
        reason: Some("a feed".to_owned()),
        ttl: Some(MINUTE),
    };
    (0..count).map(entry).collect()
}

#[test]
fn a_hundred_ends_are_told_one_by_one_and_more_in_one_line() {
    for (count, lines) in [(100, 100), (101, 1)] {
        let (lists, _, clock, _) = fixture();
        lists.replace(List::Deny, of_a_minute(count)).unwrap();
        lists
            .put(List::Deny, new("192.0.2.1/32"), Force(false))
            .unwrap();
        clock.advance(MINUTE);
        let mut expired = Expired::default();
        let told = events_of(|| expired = lists.expire());
        assert_eq!(told.len(), lines, "{told:#?}");
        assert!(told.iter().all(|t| t["event.action"] == "deny-removed"));
        assert_eq!(expired.entries_total, count as usize);
        assert_eq!(expired.entries.len(), 100);
        if lines == 1 {
            assert_eq!(told[0]["packetwatch.removed"], count);
            assert_eq!(
                told[0]["packetwatch.before"],
                format!("{} entries", count + 1)
            );
            assert_eq!(told[0]["packetwatch.after"], "1 entry");
        }
    }
}

#[test]
fn many_that_end_together_leave_memory_kernel_and_journal() {
    let (lists, maps, clock, disk) = fixture();
    lists.replace(List::Deny, of_a_minute(MANY)).unwrap();
    lists
        .put(List::Deny, new("192.0.2.1/32"), Force(false))
        .unwrap();
    clock.advance(MINUTE);
    let switches = maps.kernel().switches;
    assert_eq!(lists.expire().entries_total, MANY as usize);
    assert_eq!(lists.usage().written, 1);
    let kernel: Vec<IpNet> = maps.kernel().standings.keys().copied().collect();
    assert_eq!(kernel, [net("192.0.2.1/32")]);
    assert_eq!(
        maps.kernel().switches,
        switches + 1,
        "the kernel is told once"
    );
    assert_eq!(lists.reconcile_entries().unwrap(), Differences::default());
    lists.flush();
    drop(lists);
    let (_, contents) = journal(&disk).unwrap();
    assert_eq!(contents.entries.len(), 1);
}

#[test]
fn what_the_kernel_refuses_to_forget_is_tried_again() {
    for count in [10, MANY] {
        let (lists, maps, clock, _) = fixture();
        lists.replace(List::Deny, of_a_minute(count)).unwrap();
        clock.advance(MINUTE);
        maps.kernel().takes = Some(0);
        assert_eq!(lists.expire(), Expired::default());
        assert_eq!(lists.usage().written, count as usize);
        maps.kernel().takes = None;
        assert_eq!(lists.expire().entries_total, count as usize);
        assert!(maps.kernel().standings.is_empty());
    }
}

#[test]
fn a_write_waits_for_the_ends_of_its_own_prefixes_alone() {
    let (lists, maps, clock, _) = fixture();
    lists.replace(List::Deny, of_a_minute(MANY)).unwrap();
    clock.advance(MINUTE);
    let put = |prefix: IpNet| {
        let entry = new(&prefix.to_string());
        lists.put(List::Deny, entry, Force(false)).unwrap()
    };
    assert!(put(net("192.0.2.1/32")).created);
    assert!(put(one(7)).created, "the one before has ended");
    let there = MANY as usize + 1;
    assert_eq!(
        lists.usage().written,
        there,
        "all others wait for the sweep"
    );
    // Where they take the room, they go at once.
    let more = (0..ROOM.lists - 2).map(|i| new(&one(0x10_0000 + i).to_string()));
    lists.add(List::Deny, more.collect()).unwrap();
    assert_eq!(lists.usage().written, ROOM.lists as usize);
    assert_eq!(lists.expire(), Expired::default());
    let now = clock.monotonic_ns();
    assert_eq!(maps.verdict(one(7).addr(), now), Some(List::Deny));
    assert_eq!(maps.verdict(one(8).addr(), now), None);
}

#[test]
fn writes_in_between_put_no_end_off() {
    let (lists, _, clock, _) = fixture();
    lists.replace(List::Deny, of_a_minute(MANY)).unwrap();
    clock.advance(MINUTE);
    let writer = lists.clone();
    let writes = thread::spawn(move || {
        while writer.usage().written >= MANY as usize {
            thread::yield_now();
        }
        for i in 0..100 {
            writer
                .put(List::Deny, new(&host(i).to_string()), Force(false))
                .unwrap();
        }
    });
    // Of the last of them a write may tell.
    lists.expire();
    writes.join().unwrap();
    assert_eq!(lists.usage().written, 100);
}

#[test]
fn who_is_to_be_banned_waits_for_no_write() {
    let (lists, _, _, _) = fixture();
    lists
        .put(List::Allow, new("192.0.2.0/24"), Force(false))
        .unwrap();
    let of_others = lists.clone();
    let (answer, answered) = mpsc::channel();
    // As a write of a million entries does, for as long as they take.
    let writer = lists.0.shared.journal();
    let state = lists.0.shared.state();
    thread::spawn(move || {
        let lists = of_others;
        let banned = host(1);
        let is_on_trial = lists.uncovered(banned).is_some();
        let may = lists.is_allowed(banned.addr()) || lists.holds_allowed(banned);
        let outcome = lists.ban(order(banned));
        let is_banned = lists.is_banned(banned.addr());
        answer.send((is_on_trial, may, outcome.is_ok(), is_banned))
    });
    let answered = answered.recv_timeout(PROMPT);
    drop((state, writer));
    assert_eq!(answered, Ok((false, false, true, true)));
}

#[test]
fn a_million_allowed_are_exempt_as_few_are() {
    let (lists, _, clock, _) = fixture();
    let exempt = |i| (lists.is_allowed(one(i).addr()), lists.holds_allowed(one(i)));
    lists.replace(List::Allow, of_a_minute(2_000)).unwrap();
    assert_eq!(exempt(1_999), (true, true));
    assert!(lists.holds_allowed(net("10.0.0.0/8")));
    lists.remove(List::Allow, one(1_999)).unwrap();
    assert_eq!(exempt(1_999), (false, false));
    clock.advance(MINUTE);
    assert_eq!(exempt(0), (false, false), "their time is over");
    assert!(!lists.holds_allowed(net("10.0.0.0/8")));
    lists.replace(List::Allow, of_a_minute(2_000)).unwrap();
    lists.replace(List::Allow, Vec::new()).unwrap();
    assert_eq!(exempt(0), (false, false));
}
