//! Bans that end together.

use std::thread;

use super::{
    bans::banned,
    life::journal,
    many::{ROOM, fixture, one},
    *,
};
use crate::{
    lists::{bans::Sweep, journal::Batch},
    log::tests::events_of,
};

/// More than are seen to at a time.
const MANY: u32 = 2_500;
/// As long as bans are, and are remembered.
const HOUR: Duration = Duration::from_secs(3_600);

fn ban_many(lists: &Lists, count: u32) {
    assert!(count <= ROOM.bans);
    for i in 0..count {
        lists.ban(order(one(i))).unwrap();
    }
}

#[test]
fn a_hundred_ends_are_told_one_by_one_and_more_in_one_line() {
    for (count, lines) in [(100, 100), (101, 1), (MANY, 1)] {
        let (lists, _, clock, _) = fixture();
        ban_many(&lists, count);
        clock.advance(9 * MINUTE);
        lists.ban(order(host(1))).unwrap();
        clock.advance(MINUTE);
        let mut expired = Expired::default();
        let told = events_of(|| expired = lists.expire());
        assert_eq!(told.len(), lines, "{told:#?}");
        assert!(told.iter().all(|t| t["event.action"] == "ban-expired"));
        assert_eq!(expired.bans_total, count as usize);
        assert_eq!(expired.bans.len(), 100);
        let (first, last) = (&told[0], &told[lines - 1]);
        if lines == 1 {
            assert_eq!(first["packetwatch.removed"], count);
            assert_eq!(first["packetwatch.before"], format!("{} bans", count + 1));
            assert_eq!(first["packetwatch.after"], "1 ban");
        } else {
            let prefixes = [first, last].map(|line| line["packetwatch.prefix"].clone());
            assert_eq!(prefixes, [one(0), one(99)].map(|prefix| prefix.to_string()));
        }
        assert!(events_of(|| drop(lists.expire())).is_empty());
    }
}

#[test]
fn many_that_end_together_leave_memory_kernel_and_journal() {
    let (lists, maps, clock, disk) = fixture();
    ban_many(&lists, MANY);
    lists.flush();
    clock.advance(10 * MINUTE);
    assert_eq!(lists.expire().bans_total, MANY as usize);
    assert_eq!(lists.counts().bans.total(), 0);
    let in_kernel = || maps.kernel().bans.len();
    assert_eq!(in_kernel(), MANY as usize, "windows reach back");
    clock.advance(MINUTE);
    assert_eq!(lists.expire(), Expired::default());
    assert_eq!(in_kernel(), 0);
    clock.advance(HOUR);
    assert_eq!(lists.expire(), Expired::default());
    lists.flush();
    drop(lists);
    let (_, contents) = journal(&disk).unwrap();
    assert!(contents.bans.is_empty());
    assert!(contents.offences.is_empty());
}

#[test]
fn no_more_are_seen_to_at_a_time_than_asked_for() {
    let (lists, maps, clock, _) = fixture();
    ban_many(&lists, 30);
    let shared = &lists.0.shared;
    let look = |maps: &FakeMaps| {
        let mut sweep = Sweep::until(shared.clock.monotonic_ns());
        let mut found = Vec::new();
        loop {
            let mut bans = shared.bans();
            let is_more = bans.sweep_some(&mut sweep, 12, maps);
            found.push((bans.counts().total(), maps.kernel().bans.len()));
            if !is_more {
                return found;
            }
        }
    };
    clock.advance(10 * MINUTE);
    assert_eq!(look(&maps), [(18, 30), (6, 30), (0, 30)]);
    clock.advance(MINUTE);
    assert_eq!(look(&maps), [(0, 18), (0, 6), (0, 0)]);
    // Nothing but what is remembered of them.
    clock.advance(HOUR);
    assert_eq!(look(&maps).len(), 3);
    let mut batch = Batch::default();
    let mut taken = Vec::new();
    while shared.bans().take_unwritten(&mut batch, 12, clock) {
        taken.push(batch.bans.len());
    }
    assert_eq!((taken, batch.bans.len()), (vec![12, 24], 30));
}

#[test]
fn who_is_to_be_banned_gets_in_between() {
    let (lists, maps, clock, _) = fixture();
    let is_in_between = |round: u8| {
        ban_many(&lists, MANY);
        let before = maps.kernel().bans.len();
        clock.advance(2 * HOUR);
        let of_sweep = lists.clone();
        let sweep = thread::spawn(move || of_sweep.expire());
        while maps.kernel().bans.len() == before {
            thread::yield_now();
        }
        lists.ban(order(host(round))).unwrap();
        let left = maps.kernel().bans.len();
        assert_eq!(sweep.join().unwrap().bans_total, before);
        left > 1
    };
    // Who comes when the sweep is about to end waits for no other slice.
    assert!((0..100).any(is_in_between));
}

#[test]
fn what_the_kernel_does_not_forget_is_tried_again_by_the_next_sweep() {
    for count in [10, MANY] {
        let (lists, maps, clock, _) = fixture();
        ban_many(&lists, count);
        clock.advance(2 * HOUR);
        maps.kernel().takes = Some(0);
        assert_eq!(lists.expire().bans_total, count as usize);
        assert_eq!(maps.kernel().bans.len(), count as usize);
        maps.kernel().takes = None;
        assert_eq!(lists.expire(), Expired::default());
        assert!(maps.kernel().bans.is_empty());
    }
}

#[test]
fn who_is_banned_makes_room_for_himself_alone() {
    let f = Fixture::new();
    (0..8).for_each(|i| drop(banned(&f, host(i))));
    f.clock.advance(10 * MINUTE);
    let told = events_of(|| drop(banned(&f, host(8))));
    let told: Vec<_> = told
        .iter()
        .map(|line| [&line["event.action"], &line["packetwatch.prefix"]])
        .collect();
    assert_eq!(
        told,
        [
            ["ban-expired", "198.51.100.0/32"],
            ["ban", "198.51.100.8/32"]
        ]
    );
    assert_eq!(f.maps.kernel().bans.len(), 8);
    assert_eq!(f.maps.kernel().forgotten, [host(0)]);
    assert_eq!(f.lists.expire().bans_total, 7, "these wait for the sweep");
    // Windows reach the end of none of them any more.
    f.clock.advance(MINUTE);
    banned(&f, host(9));
    assert_eq!(f.maps.kernel().bans.len(), 8);
    assert_eq!(f.maps.kernel().forgotten, [host(0)]);
}
