//! Bans: their length, their end, their memory and their room.

use super::*;

pub(super) fn banned(f: &Fixture, prefix: IpNet) -> BanEntry {
    match f.lists.ban(order(prefix)).unwrap() {
        BanOutcome::Banned(entry) => entry,
        BanOutcome::Already => panic!("{prefix} is banned already"),
    }
}

fn is_dropped(f: &Fixture, prefix: IpNet) -> bool {
    let now = f.clock.monotonic_ns();
    f.maps
        .kernel()
        .bans
        .get(&prefix)
        .is_some_and(|ban| now < ban.until)
}

fn minutes(ban: &BanEntry) -> i64 {
    (ban.expires_at.unwrap() - ban.created_at).whole_minutes()
}

#[test]
fn a_ban_is_in_the_kernel_until_its_end() {
    let f = Fixture::new();
    let ban = banned(&f, host(1));
    assert_eq!((ban.repeat, minutes(&ban)), (1, 10));
    assert!(is_dropped(&f, host(1)));
    assert_eq!(f.lists.ban(order(host(1))).unwrap(), BanOutcome::Already);
    f.clock.advance(10 * MINUTE - SECOND);
    assert!(is_dropped(&f, host(1)));
    assert_eq!(f.lists.expire(), Expired::default());
    f.clock.advance(SECOND);
    assert!(!is_dropped(&f, host(1)));
    assert_eq!(f.lists.expire().bans, [ban]);
    assert_eq!(f.lists.expire(), Expired::default());
    assert!(
        f.lists
            .bans(PageQuery::default())
            .unwrap()
            .entries
            .is_empty()
    );
    assert_eq!(f.lists.counts().bans.total(), 0);
}

#[test]
fn a_ban_for_ever_has_no_end() {
    let f = Fixture::new();
    let forever = BanOrder {
        ban: BanLength::Forever,
        ..order(host(1))
    };
    let BanOutcome::Banned(ban) = f.lists.ban(forever).unwrap() else {
        panic!("not banned before");
    };
    assert_eq!(ban.expires_at, None);
    f.clock.advance(Duration::from_secs(100 * 365 * 86_400));
    assert_eq!(f.lists.expire(), Expired::default());
    assert!(is_dropped(&f, host(1)));
}

#[test]
fn repeats_are_longer_up_to_the_longest_and_forgotten_in_time() {
    let f = Fixture::new();
    for (repeat, length) in [(1, 10), (2, 20), (3, 40), (4, 60), (5, 60)] {
        let ban = banned(&f, host(1));
        assert_eq!((ban.repeat, minutes(&ban)), (repeat, length));
        // Before it is swept, and without: the end alone counts.
        f.clock.advance(MINUTE * length as u32);
        if repeat % 2 == 0 {
            f.lists.expire();
        }
    }
    assert_eq!(banned(&f, host(2)).repeat, 1);
    f.clock.advance(60 * MINUTE - SECOND);
    f.lists.expire();
    assert_eq!(banned(&f, host(1)).repeat, 6);
    f.clock.advance(120 * MINUTE);
    assert_eq!(banned(&f, host(1)).repeat, 1);
}

#[test]
fn an_unban_ends_the_ban_and_resets_escalation() {
    let f = Fixture::new();
    banned(&f, host(1));
    f.clock.advance(10 * MINUTE);
    let second = banned(&f, host(1));
    assert_eq!(second.repeat, 2);
    assert_eq!(f.lists.unban(host(1)).unwrap(), second);
    assert!(!is_dropped(&f, host(1)));
    let now = f.clock.monotonic_ns();
    let spent = f.maps.kernel().bans[&host(1)];
    assert!(
        spent.until <= now && spent.until > now - 10_000_000_000,
        "{spent:?}"
    );
    let again = f.lists.unban(host(1)).unwrap_err();
    assert!(matches!(again, WriteError::NotFound { list: "bans", .. }));
    assert_eq!(f.lists.expire(), Expired::default(), "it was told of");
    assert_eq!(banned(&f, host(1)).repeat, 1);
}

#[test]
fn a_spent_ban_stays_while_a_window_may_reach_back() {
    let f = Fixture::new();
    banned(&f, host(1));
    f.clock.advance(10 * MINUTE);
    f.lists.expire();
    f.clock.advance(MINUTE - SECOND);
    f.lists.expire();
    assert!(f.maps.kernel().bans.contains_key(&host(1)));
    f.clock.advance(SECOND);
    f.lists.expire();
    assert!(f.maps.kernel().bans.is_empty());
    assert!(f.maps.kernel().forgotten.is_empty());
}

#[test]
fn the_time_to_remove_a_spent_ban_is_not_that_of_the_next() {
    let f = Fixture::new();
    banned(&f, host(1));
    f.clock.advance(10 * MINUTE);
    f.lists.expire();
    banned(&f, host(1));
    // The window of the first reaches no farther.
    f.clock.advance(MINUTE);
    f.lists.expire();
    assert!(is_dropped(&f, host(1)));
    f.lists.unban(host(1)).unwrap();
    f.clock.advance(MINUTE);
    f.lists.expire();
    assert!(f.maps.kernel().bans.is_empty());
}

#[test]
fn a_full_map_gives_up_spent_bans_then_refuses() {
    let f = Fixture::new();
    banned(&f, host(0));
    f.clock.advance(SECOND);
    for i in 1..8 {
        banned(&f, host(i));
    }
    let full = f.lists.ban(order(host(8))).unwrap_err();
    assert!(matches!(
        full,
        WriteError::Full {
            list: "bans",
            capacity: 8
        }
    ));
    assert_eq!(f.lists.counts().bans.v4, 8);

    // All but the first are still in force; it was not swept before the map was asked for room.
    f.clock.advance(10 * MINUTE - SECOND);
    banned(&f, host(8));
    assert!(!f.maps.kernel().bans.contains_key(&host(0)));
    assert_eq!(f.maps.kernel().forgotten, [host(0)]);
    assert_eq!(f.maps.kernel().bans.len(), 8);

    // Of two spent ones the one that ended first goes.
    f.lists.unban(host(5)).unwrap();
    f.clock.advance(SECOND / 10);
    f.lists.unban(host(3)).unwrap();
    banned(&f, host(9));
    assert_eq!(f.maps.kernel().forgotten, [host(0), host(5)]);
    assert_eq!(
        banned(&f, host(3)).repeat,
        1,
        "a spent ban of its own makes room for its next"
    );
}

#[test]
fn what_the_kernel_refuses_is_no_ban() {
    let f = Fixture::new();
    f.maps.kernel().takes = Some(0);
    let refused = f.lists.ban(order(host(1)));
    assert!(matches!(refused, Err(WriteError::Kernel(_))));
    f.maps.kernel().takes = None;
    assert_eq!(banned(&f, host(1)).repeat, 1);
    f.maps.kernel().takes = Some(0);
    assert!(matches!(f.lists.unban(host(1)), Err(WriteError::Kernel(_))));
    f.maps.kernel().takes = None;
    assert_eq!(f.lists.bans(PageQuery::default()).unwrap().entries.len(), 1);
    let f = f.reopened(FakeMaps::default(), Clock::movable());
    assert!(
        is_dropped(&f, host(1)),
        "the journal agrees with the answer"
    );
}

#[test]
fn bans_are_paged_with_what_they_dropped() {
    let f = Fixture::new();
    let unit = net("2001:db8:1::/64");
    let wide = BanOrder {
        offender: "2001:db8:1::7".parse().unwrap(),
        ..order(unit)
    };
    f.lists.ban(wide).unwrap();
    banned(&f, host(1));
    f.maps.kernel().bans.get_mut(&unit).unwrap().packets = 5;
    let all = f.lists.bans(PageQuery::default()).unwrap().entries;
    let shown: Vec<_> = all.iter().map(|row| (row.prefix, row.packets)).collect();
    assert_eq!(shown, [(host(1), Some(0)), (unit, Some(5))]);
    let query = PageQuery {
        contains: Some("2001:db8:1::9".parse().unwrap()),
        ..PageQuery::default()
    };
    let found = f.lists.bans(query).unwrap().entries;
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].offender,
        "2001:db8:1::7".parse::<IpAddr>().unwrap()
    );
    assert_eq!(
        f.lists
            .covering("2001:db8:1::9".parse().unwrap())
            .bans
            .len(),
        1
    );
    let counted = f.lists.counts().bans;
    assert_eq!((counted.v4, counted.v6), (1, 1));
}
