//! What a daemon finds that was written by the one before it.

use std::{fs, time::Instant};

use super::*;
use crate::lists::tables::Contents;

#[test]
fn everything_is_as_before_after_a_restart_and_a_reboot() {
    for reboot in [false, true] {
        let f = Fixture::new();
        f.put(List::Deny, "10.0.0.0/8");
        let mut entry = brief("10.1.0.0/16", 10 * MINUTE);
        entry.reason = Some("a while".to_owned());
        f.lists.put(List::Allow, entry, Force(false)).unwrap();
        f.protect(&["203.0.113.1/32"]).unwrap();
        f.lists
            .put(List::Deny, new("203.0.113.1/32"), Force(true))
            .unwrap();
        f.lists.ban(order(host(1))).unwrap();
        f.lists.ban(order(host(2))).unwrap();
        f.lists.unban(host(2)).unwrap();
        f.lists.ban(order(host(2))).unwrap();
        f.lists.ban(order(host(3))).unwrap();
        f.lists.unban(host(3)).unwrap();
        let pages = |f: &Fixture| {
            let page = |list| f.lists.page(list, PageQuery::default()).unwrap();
            let bans = f.lists.bans(PageQuery::default()).unwrap();
            (page(List::Allow), page(List::Deny), bans)
        };
        let before = pages(&f);
        let (maps, clock) = match reboot {
            false => (f.maps.clone(), f.clock),
            true => (FakeMaps::default(), f.clock.restarted(1 << 40)),
        };
        let f = f.reopened(maps, clock);
        assert_eq!(pages(&f), before);
        f.protect(&["203.0.113.1/32"]).unwrap();
        assert_eq!(
            f.verdict("203.0.113.1"),
            Some(List::Deny),
            "forced is remembered"
        );

        assert_eq!(f.verdict("10.1.0.1"), Some(List::Allow));
        f.clock.advance(10 * MINUTE - 5 * SECOND);
        assert_eq!(f.verdict("10.1.0.1"), Some(List::Allow));
        assert!(f.lists.expire().bans.is_empty());
        f.clock.advance(5 * SECOND);
        assert_eq!(f.verdict("10.1.0.1"), Some(List::Deny));
        let expired: Vec<IpNet> = f.lists.expire().bans.iter().map(|ban| ban.prefix).collect();
        assert_eq!(expired, [host(1), host(2)]);
        let repeat = |prefix| match f.lists.ban(order(prefix)).unwrap() {
            BanOutcome::Banned(ban) => ban.repeat,
            BanOutcome::Already => panic!("the ban has ended"),
        };
        assert_eq!(
            (repeat(host(1)), repeat(host(2)), repeat(host(3))),
            (2, 2, 1)
        );
    }
}

#[test]
fn what_ended_while_no_daemon_ran_is_told_once() {
    let f = Fixture::new();
    let entry = brief("192.0.2.1/32", MINUTE);
    f.lists.put(List::Deny, entry, Force(false)).unwrap();
    f.lists.ban(order(host(1))).unwrap();
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    clock.advance(60 * MINUTE);
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(f.verdict("192.0.2.1"), None);
    assert!(f.listed(List::Deny).is_empty());
    let expired = f.lists.expire();
    assert_eq!((expired.bans.len(), expired.entries.len()), (1, 1));
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(f.lists.expire(), Expired::default());
}

#[test]
fn the_kernels_deadline_counts_when_it_kept_the_ban() {
    let f = Fixture::new();
    f.lists.ban(order(host(1))).unwrap();
    let (maps, clock) = (f.maps.clone(), f.clock);
    let until = clock.monotonic_ns() + 5_000_000_000;
    maps.kernel().bans.get_mut(&host(1)).unwrap().until = until;
    let f = f.reopened(maps, clock);
    assert_eq!(f.maps.kernel().bans[&host(1)].until, until);
    clock.advance(6 * SECOND);
    assert_eq!(f.lists.expire().bans.len(), 1);
}

#[test]
fn a_capacity_below_the_journal_is_refused() {
    let f = Fixture::new();
    f.put(List::Deny, "192.0.2.1/32");
    f.put(List::Allow, "192.0.2.1/32");
    f.lists.ban(order(host(1))).unwrap();
    let Fixture { lists, dir, .. } = f;
    drop(lists);
    let open = |lists, bans| {
        let capacity = Capacity { lists, bans };
        Lists::open(dir.path(), FakeMaps::default(), capacity, Clock::new()).map(drop)
    };
    let refused = open(1, 1).unwrap_err().to_string();
    assert!(
        refused.contains("2 entries of lists") && refused.contains("raise capacity.lists"),
        "{refused}"
    );
    let refused = open(2, 0).unwrap_err().to_string();
    assert!(refused.contains("raise capacity.bans"), "{refused}");
    open(2, 1).unwrap();
}

/// What a crash at this moment would leave.
fn on_disk(f: &Fixture) -> Contents {
    let copy = tempfile::tempdir().unwrap();
    let file = "journal.redb";
    fs::copy(f.dir.path().join(file), copy.path().join(file)).unwrap();
    Journal::open(copy.path()).unwrap().1
}

#[test]
fn a_ban_is_on_disk_by_itself_and_a_put_at_once() {
    let f = Fixture::new();
    f.put(List::Deny, "192.0.2.1/32");
    assert_eq!(on_disk(&f).entries.len(), 1);
    let started = Instant::now();
    f.lists.ban(order(host(1))).unwrap();
    // 50 ms are promised of an idle machine; tests run on busy ones.
    let contents = loop {
        thread::sleep(Duration::from_millis(50));
        let contents = on_disk(&f);
        if !contents.bans.is_empty() || started.elapsed() > 5 * SECOND {
            break contents;
        }
    };
    assert_eq!(contents.bans[0].0, host(1));
    assert_eq!(contents.offences[0].0, host(1));
}

#[test]
fn a_ban_is_on_disk_when_the_lists_are_dropped() {
    let f = Fixture::new();
    f.lists.ban(order(host(1))).unwrap();
    let Fixture { lists, dir, .. } = f;
    drop(lists);
    assert_eq!(Journal::open(dir.path()).unwrap().1.bans.len(), 1);
}

#[test]
fn spent_bans_and_ended_entries_leave_the_disk() {
    let f = Fixture::new();
    let entry = brief("192.0.2.1/32", MINUTE);
    f.lists.put(List::Deny, entry, Force(false)).unwrap();
    f.lists.ban(order(host(1))).unwrap();
    f.clock.advance(10 * MINUTE);
    f.lists.expire();
    f.clock.advance(61 * MINUTE);
    f.lists.expire();
    f.lists.flush();
    assert_eq!(on_disk(&f), Contents::default());
}
