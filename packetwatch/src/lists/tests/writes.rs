//! put, remove, add, replace, protect, page.

use super::*;

#[test]
fn put_adds_then_replaces_and_remove_removes() {
    let f = Fixture::new();
    let first = f.put(List::Deny, "192.0.2.0/24");
    assert!(first.created);
    assert_eq!(f.verdict("192.0.2.9"), Some(List::Deny));
    let mut changed = brief("192.0.2.0/24", MINUTE);
    changed.reason = Some("feed".to_owned());
    f.clock.advance(SECOND);
    let second = f.lists.put(List::Deny, changed, Force(false)).unwrap();
    assert!(!second.created);
    assert_eq!(second.entry.created_at, first.entry.created_at);
    let lasts = second.entry.expires_at.unwrap() - first.entry.created_at;
    assert!((lasts - MINUTE - SECOND).abs() < SECOND, "{lasts}");

    assert_eq!(
        f.lists.remove(List::Deny, net("192.0.2.0/24")).unwrap(),
        second.entry
    );
    assert_eq!(f.verdict("192.0.2.9"), None);
    assert!(f.maps.kernel().standings.is_empty());
    let again = f.lists.remove(List::Deny, net("192.0.2.0/24")).unwrap_err();
    assert_eq!(again.to_string(), "192.0.2.0/24 is not in the deny list");
}

#[test]
fn host_bits_do_not_make_another_entry() {
    let f = Fixture::new();
    f.put(List::Deny, "192.0.2.7/24");
    assert!(!f.put(List::Deny, "192.0.2.0/24").created);
    assert_eq!(f.listed(List::Deny), ["192.0.2.0/24"]);
}

#[test]
fn a_ttl_ends_in_the_kernel_then_in_the_list_then_in_the_sweep() {
    let f = Fixture::new();
    let entry = brief("192.0.2.1/32", MINUTE);
    f.lists.put(List::Deny, entry, Force(false)).unwrap();
    assert_eq!(f.verdict("192.0.2.1"), Some(List::Deny));
    assert_eq!(f.lists.expire(), Expired::default());
    f.clock.advance(MINUTE);
    assert_eq!(f.verdict("192.0.2.1"), None);
    assert!(f.listed(List::Deny).is_empty());
    let expired = f.lists.expire();
    assert_eq!(expired.entries.len(), 1);
    assert_eq!(expired.entries[0].1.prefix, net("192.0.2.1/32"));
    assert!(f.maps.kernel().standings.is_empty());
    assert_eq!(f.lists.expire(), Expired::default());
}

#[test]
fn what_is_put_between_an_end_and_the_sweep_is_new() {
    let f = Fixture::new();
    let tally = Tally {
        packets: 7,
        bytes: 420,
    };
    let entries = |count: u8| (0..count).map(|i| brief(&host(i).to_string(), MINUTE));
    f.lists.add(List::Deny, entries(64).collect()).unwrap();
    f.maps
        .kernel()
        .hits
        .extend((0..64).map(|slot| (slot, tally)));
    f.clock.advance(MINUTE);

    let put = f
        .lists
        .put(List::Deny, new("198.51.100.1/32"), Force(false));
    assert!(put.unwrap().created);
    let page = f.lists.page(List::Deny, PageQuery::default()).unwrap();
    assert_eq!(page.entries.len(), 1, "{:?}", page.entries);
    assert_eq!(
        page.entries[0].packets,
        Some(0),
        "it has passed nothing yet"
    );
    // The others have made room, for a whole list too.
    let added = f.lists.add(List::Deny, entries(64).collect()).unwrap();
    assert_eq!((added.added, added.updated), (63, 1));
    f.clock.advance(MINUTE);
    let replaced = f.lists.replace(List::Deny, entries(2).collect()).unwrap();
    assert_eq!(
        (replaced.added, replaced.updated, replaced.removed),
        (2, 0, 0)
    );
}

#[test]
fn a_ttl_of_nothing_or_beyond_the_calendar_is_refused() {
    let f = Fixture::new();
    for ttl in [
        Duration::ZERO,
        Duration::MAX,
        Duration::from_secs(300_000_000_000),
    ] {
        let refused = f
            .lists
            .put(List::Deny, brief("192.0.2.1/32", ttl), Force(false));
        assert!(matches!(refused, Err(WriteError::Ttl { .. })), "{ttl:?}");
    }
    assert!(f.listed(List::Deny).is_empty());
}

#[test]
fn add_is_all_or_nothing_and_the_last_of_a_prefix_counts() {
    let f = Fixture::new();
    f.put(List::Deny, "192.0.2.1/32");
    let mut last = new("192.0.2.2/32");
    last.reason = Some("the last".to_owned());
    let entries = vec![new("192.0.2.1/32"), new("192.0.2.2/32"), last];
    let answer = f.lists.add(List::Deny, entries).unwrap();
    let expected = Added {
        added: 1,
        updated: 1,
    };
    assert_eq!(answer, expected);
    let page = f.lists.page(List::Deny, PageQuery::default()).unwrap();
    assert_eq!(page.entries[1].reason.as_deref(), Some("the last"));

    let bad = vec![new("192.0.2.3/32"), brief("192.0.2.4/32", Duration::ZERO)];
    f.lists.add(List::Deny, bad).unwrap_err();
    assert_eq!(f.listed(List::Deny), ["192.0.2.1/32", "192.0.2.2/32"]);
}

#[test]
fn replace_is_one_switch_and_keeps_what_is_protected() {
    let f = Fixture::new();
    f.protect(&["203.0.113.1/32"]).unwrap();
    let first = vec![new("192.0.2.1/32"), new("192.0.2.2/32")];
    f.lists.replace(List::Allow, first).unwrap();
    let switches = f.maps.kernel().switches;
    let second = vec![new("192.0.2.2/32"), new("2001:db8::/32")];
    let answer = f.lists.replace(List::Allow, second).unwrap();
    let expected = Replaced {
        added: 1,
        updated: 1,
        removed: 1,
    };
    assert_eq!(answer, expected);
    assert_eq!(f.maps.kernel().switches, switches + 1);
    let listed = ["192.0.2.2/32", "203.0.113.1/32", "2001:db8::/32"];
    assert_eq!(f.listed(List::Allow), listed);
    assert_eq!(f.verdict("192.0.2.1"), None);
    assert_eq!(f.verdict("2001:db8::1"), Some(List::Allow));
}

#[test]
fn at_capacity_a_write_is_refused_and_nothing_goes() {
    let f = Fixture::new();
    let hosts = |range: std::ops::Range<u8>| -> Vec<NewEntry> {
        range.map(|i| new(&host(i).to_string())).collect()
    };
    f.lists.add(List::Deny, hosts(0..63)).unwrap();
    let over = f.lists.add(List::Allow, hosts(63..65)).unwrap_err();
    assert!(over.to_string().contains("raise capacity.lists"), "{over}");
    f.put(List::Allow, "192.0.2.0/24");
    let full = f
        .lists
        .put(List::Deny, new("192.0.2.0/24"), Force(false))
        .unwrap_err();
    assert!(matches!(
        full,
        WriteError::Full {
            list: "lists",
            capacity: 64
        }
    ));
    assert_eq!(f.listed(List::Deny).len(), 63);

    f.put(List::Allow, "192.0.2.0/24");
    f.lists.remove(List::Deny, host(0)).unwrap();
    f.put(List::Deny, "192.0.2.0/24");
    f.lists.replace(List::Deny, hosts(100..163)).unwrap();
    let full = f.lists.replace(List::Deny, hosts(100..164)).unwrap_err();
    assert!(matches!(full, WriteError::Full { .. }));
    assert_eq!(f.lists.counts().deny.v4, 63);
}

#[test]
fn a_deny_of_exactly_a_protected_prefix_needs_force() {
    let f = Fixture::new();
    f.protect(&["203.0.113.1/32"]).unwrap();
    let refused = f.lists.put(List::Deny, new("203.0.113.1/32"), Force(false));
    assert!(matches!(
        refused,
        Err(WriteError::Protected {
            list: List::Deny,
            ..
        })
    ));
    let bulk = vec![new("192.0.2.1/32"), new("203.0.113.1/32")];
    let Err(WriteError::Protected { prefixes, .. }) = f.lists.add(List::Deny, bulk) else {
        panic!("a protected prefix in a bulk deny is refused");
    };
    assert_eq!(prefixes, [net("203.0.113.1/32")]);
    assert!(f.listed(List::Deny).is_empty());

    f.lists
        .put(List::Deny, new("203.0.113.1/32"), Force(true))
        .unwrap();
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Deny));
    assert!(f.listed(List::Allow).is_empty());
    // The protection stays out for as long as the deny stands, also when it is set anew.
    f.protect(&["203.0.113.2/32", "203.0.113.1/32"]).unwrap();
    f.put(List::Deny, "203.0.113.1/32");
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Deny));
    f.lists.remove(List::Deny, net("203.0.113.1/32")).unwrap();
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Allow));
}

#[test]
fn protection_beats_a_deny_that_was_there_before() {
    let f = Fixture::new();
    f.put(List::Deny, "203.0.113.1/32");
    f.protect(&["203.0.113.1/32"]).unwrap();
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Allow));
    f.protect(&[]).unwrap();
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Deny));
}

#[test]
fn a_written_allow_stands_before_a_protected_one() {
    let f = Fixture::new();
    f.protect(&["203.0.113.1/32"]).unwrap();
    let removed = f
        .lists
        .remove(List::Allow, net("203.0.113.1/32"))
        .unwrap_err();
    assert!(removed.to_string().contains("[protect]"), "{removed}");
    let entry = brief("203.0.113.1/32", MINUTE);
    assert!(
        f.lists
            .put(List::Allow, entry, Force(false))
            .unwrap()
            .created
    );
    let source = || {
        let page = f.lists.page(List::Allow, PageQuery::default()).unwrap();
        page.entries
            .iter()
            .map(|row| row.source)
            .collect::<Vec<_>>()
    };
    assert_eq!(source(), [Source::Api]);
    assert_eq!(f.lists.counts().allow.total(), 1);
    f.clock.advance(MINUTE);
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Allow));
    assert_eq!(source(), [Source::Protect]);
    f.lists.expire();
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Allow));
}

#[test]
fn full_lists_leave_its_room_to_what_is_protected() {
    let f = Fixture::new();
    let hosts = (0..64).map(|i| new(&host(i).to_string())).collect();
    f.lists.add(List::Deny, hosts).unwrap();
    f.put_refused("203.0.113.1/32");
    f.protect(&["198.51.100.0/24", "203.0.113.1/32"]).unwrap();
    assert_eq!(f.verdict("198.51.100.63"), Some(List::Allow));
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Allow));
    f.put_refused("203.0.113.2/32");
    assert_eq!(f.lists.counts().deny.total(), 64);
}

/// The i-th of 10.0.0.0/8, protected.
fn own(i: usize) -> (IpNet, String) {
    let address = IpAddr::from((0x0a00_0000 + i as u32).to_be_bytes());
    (IpNet::from(address), "own address of eth0".to_owned())
}

#[test]
fn as_many_as_can_be_protected_take_no_room_of_the_lists() {
    let f = Fixture::new();
    f.lists
        .protect((0..MAX_PROTECTED).map(own).collect())
        .unwrap();
    let usage = |written, protected| ListUse { written, protected };
    assert_eq!(f.lists.usage(), usage(0, MAX_PROTECTED));
    let hosts = |n: u8| -> Vec<NewEntry> { (0..n).map(|i| new(&host(i).to_string())).collect() };
    f.lists.add(List::Deny, hosts(64)).unwrap();
    f.put_refused("203.0.113.1/32");
    f.lists.replace(List::Deny, hosts(64)).unwrap();
    assert_eq!(f.lists.usage(), usage(64, MAX_PROTECTED));
    // One that people allow as well is an entry of theirs.
    f.lists.replace(List::Deny, hosts(63)).unwrap();
    f.put(List::Allow, "10.0.0.7/32");
    assert_eq!(f.lists.usage(), usage(64, MAX_PROTECTED));
    f.put_refused("203.0.113.1/32");
}

#[test]
fn beyond_its_room_the_first_are_protected() {
    let f = Fixture::new();
    let of = |range: std::ops::Range<usize>| range.map(own).collect::<Vec<_>>();
    let beyond = f.lists.protect(of(0..MAX_PROTECTED + 2)).unwrap_err();
    assert!(
        matches!(beyond, WriteError::Unprotected { left_out: 2 }),
        "{beyond:?}"
    );
    let is_protected = |i: usize| f.lists.is_allowed(own(i).0.addr());
    assert!(is_protected(0) && is_protected(MAX_PROTECTED - 1));
    assert!(!is_protected(MAX_PROTECTED) && !is_protected(MAX_PROTECTED + 1));
    // What is protected no longer makes room in the same step; what is there twice is there once.
    let twice = [of(2..MAX_PROTECTED + 2), of(2..4)].concat();
    f.lists.protect(twice).unwrap();
    assert!(!is_protected(1) && is_protected(2) && is_protected(MAX_PROTECTED + 1));
    assert_eq!(f.lists.usage().protected, MAX_PROTECTED);
}

#[test]
fn a_new_deny_names_what_it_carves_out() {
    let f = Fixture::new();
    f.protect(&["10.0.0.1/32", "192.0.2.1/32"]).unwrap();
    for prefix in ["10.1.0.0/16", "10.0.0.0/8", "0.0.0.0/0"] {
        f.put(List::Allow, prefix);
    }
    let put = f.put(List::Deny, "10.0.0.0/8");
    assert_eq!(put.carved_out, [net("10.0.0.1/32"), net("10.1.0.0/16")]);
    assert_eq!(put.overruled_by, Some(net("10.0.0.0/8")));
    let inside = f.put(List::Deny, "10.2.0.0/16");
    assert_eq!(inside.overruled_by, Some(net("10.0.0.0/8")));
    assert!(f.put(List::Allow, "10.0.0.0/8").carved_out.is_empty());

    let inside = f.lists.allowed_inside(net("10.1.0.0/16"));
    assert_eq!(
        inside,
        [net("10.1.0.0/16"), net("10.0.0.0/8"), net("0.0.0.0/0")]
    );
    assert_eq!(f.lists.allowed_inside(net("10.0.0.0/8")).len(), 4);
    assert!(f.lists.allowed_inside(net("2001:db8::/64")).is_empty());
}

#[test]
fn pages_follow_one_another_without_gap_or_repeat() {
    let f = Fixture::new();
    let entries: Vec<NewEntry> = (0..25).map(|i| new(&host(i).to_string())).collect();
    f.lists.add(List::Deny, entries).unwrap();
    f.put(List::Allow, "198.51.100.3/32");
    let mut query = PageQuery {
        limit: 10,
        ..PageQuery::default()
    };
    let mut seen = Vec::new();
    for length in [10, 10, 5] {
        let page = f.lists.page(List::Deny, query.clone()).unwrap();
        assert_eq!(page.entries.len(), length);
        seen.extend(page.entries.iter().map(|row| row.prefix));
        query.cursor = page.next;
    }
    assert_eq!(query.cursor, None);
    assert_eq!(seen, (0..25).map(host).collect::<Vec<_>>());

    query.limit = 25;
    assert_eq!(f.lists.page(List::Deny, query.clone()).unwrap().next, None);
    query.limit = 0;
    assert_eq!(
        f.lists
            .page(List::Deny, query.clone())
            .unwrap()
            .entries
            .len(),
        1
    );
    query.cursor = Some("later".to_owned());
    let refused = f.lists.page(List::Deny, query).unwrap_err();
    assert!(refused.to_string().contains("\"later\" is not a cursor"));
}

#[test]
fn contains_shows_what_covers_an_address() {
    let f = Fixture::new();
    for prefix in ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "::/0"] {
        f.put(List::Deny, prefix);
    }
    let mut query = PageQuery {
        limit: 1,
        contains: Some("10.1.2.3".parse().unwrap()),
        cursor: None,
    };
    let page = f.lists.page(List::Deny, query.clone()).unwrap();
    assert_eq!(page.entries[0].prefix, net("10.0.0.0/8"));
    query.cursor = page.next;
    let page = f.lists.page(List::Deny, query).unwrap();
    assert_eq!(page.entries[0].prefix, net("10.1.0.0/16"));
    assert_eq!(page.next, None);
    let covering = f.lists.covering("10.1.2.3".parse().unwrap());
    let prefixes: Vec<IpNet> = covering.deny.iter().map(|entry| entry.prefix).collect();
    assert_eq!(prefixes, [net("10.1.0.0/16"), net("10.0.0.0/8")]);
}

#[test]
fn hits_are_those_of_the_entry_and_a_slot_starts_anew() {
    let f = Fixture::new();
    f.put(List::Deny, "192.0.2.0/24");
    let slot = f.maps.kernel().standings[&net("192.0.2.0/24")].deny_slot;
    let tally = Tally {
        packets: 3,
        bytes: 180,
    };
    f.maps.kernel().hits.insert(slot, tally);
    let hits = || {
        f.lists
            .page(List::Deny, PageQuery::default())
            .unwrap()
            .entries[0]
            .packets
    };
    assert_eq!(hits(), Some(3));
    f.put(List::Deny, "192.0.2.0/24");
    assert_eq!(hits(), Some(3), "a change keeps the hits");
    f.lists.remove(List::Deny, net("192.0.2.0/24")).unwrap();
    for i in 0..64 {
        f.lists
            .put(List::Deny, new(&host(i).to_string()), Force(false))
            .unwrap();
    }
    // With these each slot is taken.
    let own = (0..MAX_PROTECTED).map(own);
    f.lists.protect(own.collect()).unwrap();
    assert_eq!(f.maps.kernel().hits.get(&slot), None);
}

#[test]
fn what_the_kernel_refuses_is_taken_back_everywhere() {
    let f = Fixture::new();
    f.put(List::Deny, "10.0.0.0/8");
    f.maps.kernel().takes = Some(1);
    let refused = f.lists.put(List::Deny, new("192.0.2.0/24"), Force(false));
    assert!(matches!(refused, Err(WriteError::Kernel(_))));
    f.maps.kernel().takes = None;
    assert_eq!(f.listed(List::Deny), ["10.0.0.0/8"]);
    f.lists.flush();
    let f = f.reopened(FakeMaps::default(), Clock::movable());
    assert_eq!(f.listed(List::Deny), ["10.0.0.0/8"]);
    assert_eq!(f.verdict("192.0.2.1"), None);
}

#[test]
fn a_replaced_list_of_less_than_a_hundred_thousand_is_counted_by_entry() {
    let dir = tempfile::tempdir().unwrap();
    let capacity = Capacity {
        lists: 300_000,
        bans: 8,
    };
    let clock = Clock::movable();
    let lists = Lists::open(dir.path(), FakeMaps::default(), capacity, clock).unwrap();
    let many = |range: std::ops::Range<u32>| -> Vec<NewEntry> {
        let address = |n: u32| IpNet::from(IpAddr::from((0x0a00_0000 + n).to_be_bytes()));
        let entry = |n| NewEntry {
            prefix: address(n),
            reason: None,
            ttl: None,
        };
        range.map(entry).collect()
    };
    let is_counted = || {
        let page = lists.page(List::Deny, PageQuery::default()).unwrap();
        page.entries.iter().all(|row| row.packets.is_some())
    };
    lists.replace(List::Deny, many(0..60_000)).unwrap();
    assert!(is_counted());
    lists.replace(List::Deny, many(60_000..120_000)).unwrap();
    assert!(is_counted(), "what went has left its slots");
    lists.replace(List::Deny, many(0..100_001)).unwrap();
    assert!(!is_counted());
    lists.replace(List::Deny, many(0..50_000)).unwrap();
    assert!(is_counted(), "what stays is counted from now on");
}
