//! What a backup holds, and what a restore makes of it.

use super::*;

/// Everything that a backup of these lists has.
fn saved(f: &Fixture) -> Saved {
    let entries = [List::Allow, List::Deny].map(|list| {
        let (mut all, mut cursor) = (Vec::new(), None);
        loop {
            let (groups, next) = f.lists.saved_entries(list, cursor);
            all.extend(groups);
            cursor = next;
            if cursor.is_none() {
                break all;
            }
        }
    });
    let (bans, next) = f.lists.saved_bans(None);
    assert_eq!(next, None);
    Saved {
        entries: entries.concat(),
        bans,
        offences: f.lists.saved_offences(),
    }
}

fn filled() -> Fixture {
    let f = Fixture::new();
    let entry = NewEntry {
        reason: Some("ours".to_owned()),
        ..brief("198.51.100.7/32", 60 * MINUTE)
    };
    f.lists.put(List::Allow, entry, Force(false)).unwrap();
    f.lists
        .add(List::Deny, vec![new("10.0.0.0/8"), new("2001:db8::/32")])
        .unwrap();
    f.lists.ban(order(host(1))).unwrap();
    f.lists.unban(host(1)).unwrap();
    f.lists.ban(order(host(2))).unwrap();
    f
}

/// As people are shown it, without the counts.
fn shown(f: &Fixture) -> String {
    let page = |list| f.lists.page(list, PageQuery::default()).unwrap().entries;
    let bans = f.lists.bans(PageQuery::default()).unwrap().entries;
    format!("{:?} {:?} {bans:?}", page(List::Allow), page(List::Deny))
}

#[test]
fn what_is_saved_is_restored_elsewhere_and_survives_there() {
    let f = filled();
    let (before, saved) = (shown(&f), saved(&f));
    // Another host, where other things stand.
    let g = Fixture::new();
    g.put(List::Deny, "203.0.113.0/24");
    g.put(List::Allow, "192.0.2.1/32");
    g.lists.ban(order(host(9))).unwrap();
    let switches = g.maps.kernel().switches;
    let restored = g.lists.restore(saved).unwrap();
    let expected = Restored {
        allow: 1,
        deny: 2,
        bans: 1,
        ended: 0,
    };
    assert_eq!(restored, expected);
    assert_eq!(g.maps.kernel().switches, switches + 1, "one switch");
    assert_eq!(g.verdict("203.0.113.1"), None);
    assert_eq!(g.verdict("10.1.2.3"), Some(List::Deny));
    let banned = |f: &Fixture, prefix| {
        let now = f.clock.monotonic_ns();
        let kernel = f.maps.kernel();
        kernel.bans.get(&prefix).is_some_and(|ban| now < ban.until)
    };
    assert_eq!(
        [host(2), host(9)].map(|prefix| banned(&g, prefix)),
        [true, false]
    );
    assert_eq!(shown(&g), before);
    let clock = g.clock;
    let g = g.reopened(FakeMaps::default(), clock);
    assert_eq!(shown(&g), before);
    // The second ban of it is longer, there as here.
    g.lists.expire();
    g.clock.advance(10 * MINUTE);
    g.lists.expire();
    let BanOutcome::Banned(again) = g.lists.ban(order(host(2))).unwrap() else {
        panic!("its ban has ended");
    };
    assert_eq!(again.repeat, 2);
}

#[test]
fn what_has_ended_since_is_left_out() {
    let f = filled();
    let saved = saved(&f);
    f.clock.advance(60 * MINUTE);
    let restored = f.lists.restore(saved).unwrap();
    assert_eq!(
        (restored.allow, restored.deny, restored.bans, restored.ended),
        (0, 2, 0, 2)
    );
}

#[test]
fn a_backup_that_does_not_fit_or_cuts_the_host_off_changes_nothing() {
    let f = filled();
    let before = shown(&f);
    let entries = |prefixes: Vec<String>| Saved {
        entries: vec![SavedEntries {
            list: SavedList::Deny,
            reason: None,
            created_at: time::OffsetDateTime::UNIX_EPOCH,
            expires_at: None,
            forced: false,
            prefixes,
        }],
        ..Saved::default()
    };
    let many = |n: u8| (0..n).map(|i| format!("192.0.2.{i}")).collect();
    let refused = f.lists.restore(entries(many(CAPACITY.lists as u8 + 1)));
    assert!(
        matches!(refused, Err(WriteError::Full { .. })),
        "{refused:?}"
    );
    f.protect(&["203.0.113.1/32"]).unwrap();
    let refused = f.lists.restore(entries(vec!["203.0.113.1".to_owned()]));
    assert!(
        matches!(refused, Err(WriteError::Protected { .. })),
        "{refused:?}"
    );
    f.maps.kernel().takes = Some(0);
    let refused = f.lists.restore(entries(many(3)));
    assert!(matches!(refused, Err(WriteError::Kernel(_))), "{refused:?}");
    f.maps.kernel().takes = None;
    f.protect(&[]).unwrap();
    assert_eq!(shown(&f), before);
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(shown(&f), before, "nor in the journal");
    // As many as there is room for.
    f.lists
        .restore(entries(many(CAPACITY.lists as u8)))
        .unwrap();
    assert_eq!(f.lists.counts().deny.total(), CAPACITY.lists as usize);
}
