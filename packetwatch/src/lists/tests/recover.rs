//! What stands in the kernel and in no journal.

use packetwatch_abi::FOREVER;

use super::*;

fn standing(allow_until: u64, deny_until: u64) -> Standing {
    Standing {
        allow_until,
        deny_until,
        ..Standing::default()
    }
}

fn opened(dir: &TempDir, maps: &FakeMaps, clock: Clock) -> Lists {
    Lists::open_or_salvage(dir.path(), maps.clone(), CAPACITY, clock).unwrap()
}

fn entries(lists: &Lists, list: List) -> Vec<(String, bool)> {
    let page = lists.page(list, PageQuery::default()).unwrap();
    let rows = page.entries.iter();
    rows.map(|row| (row.prefix.to_string(), row.expires_at.is_some()))
        .collect()
}

#[test]
fn a_new_journal_begins_with_what_the_filter_says() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::movable());
    let now = clock.monotonic_ns();
    let hour = now + 60 * 60_000_000_000;
    let own = Standing {
        is_derived: true,
        ..standing(FOREVER, FOREVER)
    };
    let maps = FakeMaps::default();
    maps.kernel().left = vec![
        // A denied network around an allowed address, and around the host's own.
        (net("192.0.2.0/25"), standing(0, FOREVER)),
        (net("192.0.2.128/32"), standing(FOREVER, FOREVER)),
        (net("192.0.2.129/32"), own),
        (net("192.0.2.130/31"), standing(0, FOREVER)),
        (net("192.0.2.132/30"), standing(0, FOREVER)),
        (net("192.0.2.136/29"), standing(0, FOREVER)),
        (net("192.0.2.144/28"), standing(0, FOREVER)),
        (net("192.0.2.160/27"), standing(0, FOREVER)),
        (net("192.0.2.192/26"), standing(0, FOREVER)),
        (net("203.0.113.1/32"), standing(0, hour)),
        (net("203.0.113.2/32"), standing(0, now)),
        (net("2001:db8::/48"), standing(hour, 0)),
    ];
    let lists = opened(&dir, &maps, clock);
    let some = |prefix: &str, ends| (prefix.to_owned(), ends);
    let denied = [some("192.0.2.0/24", false), some("203.0.113.1/32", true)];
    let allowed = [some("192.0.2.128/32", false), some("2001:db8::/48", true)];
    assert_eq!(entries(&lists, List::Deny), denied);
    assert_eq!(entries(&lists, List::Allow), allowed);
    drop(lists);
    // From now on the journal tells.
    maps.kernel().left.clear();
    let lists = opened(&dir, &maps, clock);
    assert_eq!(entries(&lists, List::Deny), denied);
    assert_eq!(entries(&lists, List::Allow), allowed);
}

#[test]
fn a_journal_outranks_the_filter() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::movable());
    let maps = FakeMaps::default();
    drop(opened(&dir, &maps, clock));
    let foreign = (net("192.0.2.0/24"), standing(0, FOREVER));
    maps.kernel().left = vec![foreign];
    assert_eq!(entries(&opened(&dir, &maps, clock), List::Deny), []);
}

#[test]
fn bans_that_were_on_their_way_to_the_disk_stand() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::movable());
    let maps = FakeMaps::default();
    let until = clock.monotonic_ns() + 60_000_000_000;
    let ban = |until| Ban {
        until,
        ..Ban::default()
    };
    maps.kernel().bans.insert(host(1), ban(until));
    maps.kernel().bans.insert(host(2), ban(FOREVER));
    maps.kernel().bans.insert(host(3), ban(1));
    let lists = opened(&dir, &maps, clock);
    let rows = lists.bans(PageQuery::default()).unwrap().entries;
    let rows: Vec<_> = rows
        .iter()
        .map(|row| (row.prefix, row.rule.as_str(), row.expires_at.is_some()))
        .collect();
    assert_eq!(
        rows,
        [(host(1), "unknown", true), (host(2), "unknown", false)]
    );
    // The ended one is kept for the windows that reach back beyond its end, and then removed.
    assert!(maps.kernel().bans.contains_key(&host(3)));
    drop(lists);
    let lists = opened(&dir, &FakeMaps::default(), clock);
    assert_eq!(lists.bans(PageQuery::default()).unwrap().entries.len(), 2);
}

/// The journal has a ban as lifted, and the kernel was not told in time.
#[test]
fn a_ban_that_was_lifted_on_disk_alone_is_lifted() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::movable());
    let maps = FakeMaps::default();
    let lists = opened(&dir, &maps, clock);
    lists.ban(order(host(1))).unwrap();
    let until = maps.kernel().bans[&host(1)].until;
    lists.unban(host(1)).unwrap();
    drop(lists);
    maps.kernel().bans.get_mut(&host(1)).unwrap().until = until;
    let lists = opened(&dir, &maps, clock);
    assert_eq!(lists.bans(PageQuery::default()).unwrap().entries.len(), 0);
    assert!(maps.kernel().bans[&host(1)].until <= clock.monotonic_ns());
    // It may be banned again.
    let banned = lists.ban(order(host(1))).unwrap();
    assert!(matches!(banned, BanOutcome::Banned(_)), "{banned:?}");
}

/// A start that fails before all of it is on disk leaves it to the next one.
#[test]
fn what_the_filter_says_is_in_a_new_journal_from_its_first_moment() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::movable());
    let maps = FakeMaps::default();
    maps.kernel().left = vec![(net("192.0.2.0/24"), standing(0, FOREVER))];
    // A start that is cut short once the file has its name: the kernel refuses the lists.
    maps.kernel().takes = Some(0);
    let state = |maps: &FakeMaps| Lists::open_or_salvage(dir.path(), maps.clone(), CAPACITY, clock);
    assert!(state(&maps).is_err());
    let lists = opened(&dir, &FakeMaps::default(), clock);
    assert_eq!(entries(&lists, List::Deny).len(), 1);
}
