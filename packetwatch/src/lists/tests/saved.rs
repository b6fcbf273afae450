//! What a backup holds, and what a restore makes of it.

use serde_json::Value;

use super::*;

/// Everything that a backup of these lists has.
pub(super) fn saved(f: &Fixture) -> Saved {
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

/// A trial may begin after the first piece was read.
#[test]
fn of_what_is_on_trial_a_backup_has_what_stood_before() {
    let f = filled();
    let before = saved(&f);
    let trial = || f.lists.confirming(Some(MINUTE));
    let tried = [brief("10.0.0.0/8", 60 * MINUTE), new("192.0.2.0/24")];
    trial().replace(List::Deny, tried.to_vec()).unwrap();
    assert_eq!(saved(&f).entries, before.entries);
    f.lists.roll_back().unwrap();
    trial().remove(List::Allow, net("198.51.100.7/32")).unwrap();
    assert_eq!(saved(&f).entries, before.entries);
    f.lists.confirm().unwrap();
    assert_eq!(saved(&f).entries, before.entries[1..], "it stays so");
}

pub(super) fn filled() -> Fixture {
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
    let restored = g.lists.restore(saved, Value::Null).unwrap();
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
    let restored = f.lists.restore(saved, Value::Null).unwrap();
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
    let refused = f
        .lists
        .restore(entries(many(CAPACITY.lists as u8 + 1)), Value::Null);
    assert!(
        matches!(refused, Err(WriteError::Full { .. })),
        "{refused:?}"
    );
    f.protect(&["203.0.113.1/32"]).unwrap();
    let refused = f
        .lists
        .restore(entries(vec!["203.0.113.1".to_owned()]), Value::Null);
    assert!(
        matches!(refused, Err(WriteError::Protected { .. })),
        "{refused:?}"
    );
    f.maps.kernel().takes = Some(0);
    let refused = f.lists.restore(entries(many(3)), Value::Null);
    assert!(matches!(refused, Err(WriteError::Kernel(_))), "{refused:?}");
    f.maps.kernel().takes = None;
    f.protect(&[]).unwrap();
    assert_eq!(shown(&f), before);
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(shown(&f), before, "nor in the journal");
    // As many as there is room for, whatever is protected.
    f.protect(&["203.0.113.1/32"]).unwrap();
    f.lists
        .restore(entries(many(CAPACITY.lists as u8)), Value::Null)
        .unwrap();
    assert_eq!(f.lists.counts().deny.total(), CAPACITY.lists as usize);
}

/// What a backup has, but for how the clock rounds the ends of offences, and until when the kernel
/// allows and denies.
fn told(f: &Fixture) -> String {
    let Saved {
        entries,
        bans,
        offences,
    } = saved(f);
    let offences = offences
        .iter()
        .map(|offence| (offence.prefix, offence.count));
    let offences: BTreeMap<_, _> = offences.collect();
    let kernel = f.maps.kernel();
    let standings = kernel.standings.iter();
    let standings = standings.map(|(prefix, s)| (prefix, s.allow_until, s.deny_until));
    let standings: Vec<_> = standings.collect();
    format!("{entries:?} {bans:?} {offences:?} {standings:?}")
}

/// The kernel's bans, spent ones too.
fn deadlines(f: &Fixture) -> BTreeMap<IpNet, u64> {
    let kernel = f.maps.kernel();
    let bans = kernel.bans.iter();
    bans.map(|(prefix, ban)| (*prefix, ban.until)).collect()
}

/// As many bans as there is room for: live ones, and two spent ones.
pub(super) fn full_of_bans() -> Fixture {
    let f = filled();
    let last = CAPACITY.bans as u8;
    (3..=last).for_each(|i| drop(f.lists.ban(order(host(i))).unwrap()));
    f.lists.unban(host(last)).unwrap();
    f
}

/// As many again: of two prefixes that are banned there, and of others.
pub(super) fn other_bans() -> Saved {
    let f = Fixture::new();
    f.put(List::Deny, "203.0.113.0/24");
    f.clock.advance(MINUTE);
    let hosts = (6..8).chain(20..18 + CAPACITY.bans as u8);
    hosts.for_each(|i| drop(f.lists.ban(order(host(i))).unwrap()));
    let saved = saved(&f);
    assert_eq!(saved.bans.len(), CAPACITY.bans as usize);
    saved
}

/// At every write that the kernel might refuse: for once, or until somebody has seen to it.
#[test]
fn a_restore_of_which_the_kernel_refuses_a_write_changes_nothing() {
    let other = other_bans();
    let mut refused = [0, 0];
    for refuses_once in [true, false] {
        for takes in 0.. {
            let f = full_of_bans();
            let before = (told(&f), deadlines(&f));
            {
                let mut kernel = f.maps.kernel();
                (kernel.takes, kernel.refuses_once) = (Some(takes), refuses_once);
            }
            let restored = f.lists.restore(other.clone(), Value::Null);
            f.maps.kernel().takes = None;
            if restored.is_ok() {
                assert_ne!((told(&f), deadlines(&f)), before);
                break;
            }
            assert!(
                matches!(restored, Err(WriteError::Kernel(_))),
                "{restored:?}"
            );
            refused[usize::from(refuses_once)] += 1;
            if !refuses_once {
                f.lists.reconcile_entries().unwrap();
                f.lists.reconcile_bans().unwrap();
            }
            assert_eq!((told(&f), deadlines(&f)), before, "{takes} writes taken");
            let clock = f.clock;
            let f = f.reopened(FakeMaps::default(), clock);
            assert_eq!(told(&f), before.0, "{takes}: as the journal has it");
        }
    }
    // One for the lists, one for each ban that comes, and two for each that makes room.
    let least = 1 + 3 * (CAPACITY.bans as usize - 2) + 2;
    assert!(
        refused.iter().all(|n| *n >= least),
        "{refused:?} of {least}"
    );
}
