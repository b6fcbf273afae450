//! Changes on trial: what they do, what the kernel makes of their end by itself, and what is there
//! again afterwards.

use proptest::prelude::*;

use super::*;
use crate::pending::Object;

const TRIAL: Option<Duration> = Some(MINUTE);

fn try_put(f: &Fixture, list: List, prefix: &str) {
    let put = f
        .lists
        .confirming(TRIAL)
        .put(list, new(prefix), Force(false));
    put.unwrap();
}

/// As the sweep and the keeper of trials do every second.
fn settle(f: &Fixture) {
    f.lists.settle();
    f.lists.expire();
}

#[test]
fn an_entry_on_trial_counts_at_once_and_ends_by_itself() {
    for (list, other) in [(List::Deny, List::Allow), (List::Allow, List::Deny)] {
        let f = Fixture::new();
        try_put(&f, list, "198.51.100.0/24");
        let pending = f.lists.pending().unwrap();
        assert_eq!(pending.object(), Object::from(list));
        assert_eq!(f.verdict("198.51.100.7"), Some(list));
        f.clock.advance(MINUTE - SECOND);
        assert_eq!(f.verdict("198.51.100.7"), Some(list));
        f.clock.advance(SECOND);
        // The kernel's own doing.
        assert_eq!((f.verdict("198.51.100.7"), f.lists.pending()), (None, None));
        assert_eq!(f.listed(list), ["198.51.100.0/24"]);
        settle(&f);
        assert_eq!(f.listed(list), [""; 0]);
        assert_eq!(f.verdict("198.51.100.7"), None);
        f.put(other, "198.51.100.0/24");
        assert_eq!(f.verdict("198.51.100.7"), Some(other));
    }
}

#[test]
fn what_is_confirmed_stays() {
    let f = Fixture::new();
    f.put(List::Allow, "198.51.100.7/32");
    f.put(List::Deny, "198.51.100.0/24");
    f.lists
        .confirming(TRIAL)
        .remove(List::Allow, net("198.51.100.7/32"))
        .unwrap();
    assert_eq!(f.verdict("198.51.100.7"), Some(List::Deny));
    f.lists.confirm().unwrap();
    f.clock.advance(2 * MINUTE);
    settle(&f);
    assert_eq!(f.verdict("198.51.100.7"), Some(List::Deny));
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(f.verdict("198.51.100.7"), Some(List::Deny));
    assert_eq!((f.listed(List::Allow), f.lists.pending()), (vec![], None));
}

#[test]
fn what_is_taken_back_is_as_it_was_to_the_reason() {
    let f = Fixture::new();
    let entry = NewEntry {
        reason: Some("ours".to_owned()),
        ..brief("198.51.100.7/32", 60 * MINUTE)
    };
    f.lists.put(List::Allow, entry, Force(false)).unwrap();
    let page = |f: &Fixture| f.lists.page(List::Allow, PageQuery::default()).unwrap();
    let before = page(&f);
    let replaced = f
        .lists
        .confirming(TRIAL)
        .replace(List::Allow, vec![new("192.0.2.1/32")]);
    assert_eq!(replaced.unwrap().removed, 1);
    assert_eq!(f.listed(List::Allow), ["192.0.2.1/32"]);
    f.lists.roll_back().unwrap();
    // What a kill at this moment leaves.
    let left = tempfile::tempdir().unwrap();
    let journal = |dir: &TempDir| dir.path().join(JOURNAL_FILE);
    std::fs::copy(journal(&f.dir), journal(&left)).unwrap();
    assert_eq!((page(&f), f.lists.pending()), (before.clone(), None));
    let clock = f.clock;
    let lists = Lists::open(left.path(), FakeMaps::default(), CAPACITY, clock).unwrap();
    let there = lists.page(List::Allow, PageQuery::default()).unwrap();
    assert_eq!((there, lists.pending()), (before.clone(), None));
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(page(&f), before);
}

/// What it took away cannot come back by itself, so nobody is denied beyond its end.
#[test]
fn where_a_trial_took_an_allow_entry_away_no_deny_lasts_longer() {
    let f = Fixture::new();
    f.put(List::Deny, "198.51.100.0/24");
    f.put(List::Allow, "198.51.100.16/28");
    f.put(List::Deny, "198.51.100.17/32");
    f.lists
        .confirming(TRIAL)
        .remove(List::Allow, net("198.51.100.16/28"))
        .unwrap();
    let verdicts =
        |f: &Fixture| ["198.51.100.17", "198.51.100.18", "198.51.100.32"].map(|a| f.verdict(a));
    assert_eq!(verdicts(&f), [Some(List::Deny); 3]);
    f.clock.advance(MINUTE);
    assert_eq!(verdicts(&f), [None, None, Some(List::Deny)]);
    settle(&f);
    assert_eq!(
        verdicts(&f),
        [Some(List::Allow), Some(List::Allow), Some(List::Deny)]
    );

    // The same of a protection that a forced deny ends.
    let f = Fixture::new();
    f.put(List::Deny, "203.0.113.0/24");
    f.protect(&["203.0.113.1/32"]).unwrap();
    let force = f.lists.confirming(TRIAL);
    force
        .put(List::Deny, new("203.0.113.1/32"), Force(true))
        .unwrap();
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Deny));
    f.clock.advance(MINUTE);
    assert_eq!(f.verdict("203.0.113.1"), None);
    settle(&f);
    assert_eq!(f.verdict("203.0.113.1"), Some(List::Allow));
}

#[test]
fn a_trial_is_in_the_way_of_its_list_and_of_other_trials() {
    let f = Fixture::new();
    try_put(&f, List::Deny, "198.51.100.0/24");
    let refused = |outcome: Result<(), WriteError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, WriteError::InTheWay(_)), "{error}");
        assert!(error.to_string().contains("packetwatch confirm"), "{error}");
    };
    let entry = || vec![new("192.0.2.1/32")];
    refused(
        f.lists
            .put(List::Deny, new("192.0.2.1/32"), Force(false))
            .map(drop),
    );
    refused(f.lists.remove(List::Deny, net("198.51.100.0/24")).map(drop));
    refused(f.lists.add(List::Deny, entry()).map(drop));
    refused(f.lists.replace(List::Deny, entry()).map(drop));
    refused(
        f.lists
            .confirming(TRIAL)
            .add(List::Allow, entry())
            .map(drop),
    );
    // Everything else goes on.
    f.put(List::Allow, "198.51.100.7/32");
    f.protect(&["203.0.113.1/32"]).unwrap();
    f.lists.ban(order(host(1))).unwrap();
    assert_eq!(f.verdict("198.51.100.7"), Some(List::Allow));
    f.clock.advance(MINUTE);
    // Over is over, also before anybody has tidied up.
    f.put(List::Deny, "192.0.2.1/32");
    assert_eq!(f.listed(List::Deny), ["192.0.2.1/32"]);
}

#[test]
fn a_restart_takes_back_what_is_over_and_keeps_what_is_not() {
    for (elapsed, left) in [(MINUTE / 2, true), (MINUTE, false)] {
        for reboot in [false, true] {
            let f = Fixture::new();
            f.put(List::Deny, "192.0.2.1/32");
            let replace = f.lists.confirming(TRIAL);
            replace
                .replace(List::Deny, vec![new("198.51.100.0/24")])
                .unwrap();
            f.clock.advance(elapsed);
            let clock = match reboot {
                false => f.clock,
                true => f.clock.restarted(1 << 40),
            };
            let f = f.reopened(FakeMaps::default(), clock);
            let listed = if left {
                "198.51.100.0/24"
            } else {
                "192.0.2.1/32"
            };
            assert_eq!(f.listed(List::Deny), [listed]);
            assert_eq!(f.lists.pending().is_some(), left);
            f.clock.advance(MINUTE / 2 + SECOND);
            assert_eq!(f.verdict("198.51.100.7"), None, "the kernel's own doing");
            settle(&f);
            assert_eq!(f.listed(List::Deny), ["192.0.2.1/32"]);
            assert_eq!(f.verdict("192.0.2.1"), Some(List::Deny));
            // And nothing of it is left for the next one.
            let clock = f.clock;
            let f = f.reopened(FakeMaps::default(), clock);
            assert_eq!(f.listed(List::Deny), ["192.0.2.1/32"]);
        }
    }
}

#[test]
fn a_refused_trial_changes_nothing() {
    let f = Fixture::new();
    f.put(List::Deny, "192.0.2.1/32");
    f.maps.kernel().takes = Some(0);
    let refused = f
        .lists
        .confirming(TRIAL)
        .put(List::Deny, new("10.0.0.0/8"), Force(false));
    assert!(matches!(refused, Err(WriteError::Kernel(_))), "{refused:?}");
    f.maps.kernel().takes = None;
    assert_eq!(f.lists.pending(), None);
    assert_eq!(f.listed(List::Deny), ["192.0.2.1/32"]);
    let clock = f.clock;
    let f = f.reopened(FakeMaps::default(), clock);
    assert_eq!(
        (f.listed(List::Deny), f.lists.pending()),
        (vec!["192.0.2.1/32".to_owned()], None)
    );
}

#[test]
fn bans_of_rules_on_trial_end_with_it_unless_they_are_kept() {
    let on_trial = |f: &Fixture| {
        let end = f.clock.monotonic_ns() + MINUTE.as_nanos() as u64;
        let order = BanOrder {
            trial: Some(Tried {
                id: "tried".to_owned(),
                until: end,
            }),
            ..order(host(1))
        };
        let BanOutcome::Banned(ban) = f.lists.ban(order).unwrap() else {
            panic!("not banned before");
        };
        assert_eq!(
            (ban.expires_at.unwrap() - f.clock.utc()).whole_seconds(),
            59
        );
        assert_eq!(f.maps.kernel().bans[&host(1)].until, end);
    };
    let repeat = |f: &Fixture| match f.lists.ban(order(host(1))).unwrap() {
        BanOutcome::Banned(ban) => ban.repeat,
        BanOutcome::Already => 0,
    };
    // Over by itself: no offence.
    let f = Fixture::new();
    on_trial(&f);
    f.clock.advance(MINUTE);
    assert_eq!(f.lists.expire().bans.len(), 1);
    assert_eq!(repeat(&f), 1);
    // Taken back: over at once.
    let f = Fixture::new();
    on_trial(&f);
    f.lists.end_bans("tried").unwrap();
    assert_eq!(f.lists.expire().bans.len(), 1);
    assert_eq!(repeat(&f), 1);
    // Kept: as long as the rule says, and remembered.
    let f = Fixture::new();
    on_trial(&f);
    f.lists.keep_bans("tried").unwrap();
    f.clock.advance(10 * MINUTE - SECOND);
    assert_eq!((f.lists.expire().bans.len(), repeat(&f)), (0, 0));
    f.clock.advance(SECOND);
    assert_eq!((f.lists.expire().bans.len(), repeat(&f)), (1, 2));
    // Over by itself, and another change is kept: no offence either.
    for is_noticed in [false, true] {
        let f = Fixture::new();
        on_trial(&f);
        f.clock.advance(MINUTE);
        assert_eq!(f.lists.expire().bans.len(), 1);
        match is_noticed {
            true => f.lists.forget_tried(None),
            false => f.lists.keep_bans("another").unwrap(),
        }
        f.lists.keep_bans("tried").unwrap();
        assert_eq!(repeat(&f), 1, "{is_noticed}");
    }
    // The next process knows of it: taken back there, and kept.
    let reopened = |f: Fixture| {
        f.lists.forget_tried(Some("tried"));
        f.lists.flush();
        let (maps, clock) = (f.maps.clone(), f.clock);
        f.reopened(maps, clock)
    };
    let f = Fixture::new();
    on_trial(&f);
    let f = reopened(f);
    f.lists.end_bans("tried").unwrap();
    assert_eq!((f.lists.expire().bans.len(), repeat(&f)), (1, 1));
    let f = Fixture::new();
    on_trial(&f);
    let f = reopened(reopened(f));
    f.lists.keep_bans("tried").unwrap();
    f.clock.advance(10 * MINUTE - SECOND);
    assert_eq!((f.lists.expire().bans.len(), repeat(&f)), (0, 0));
    f.clock.advance(SECOND);
    assert_eq!((f.lists.expire().bans.len(), repeat(&f)), (1, 2));
    // Those that were kept are like any.
    let f = reopened(f);
    f.lists.end_bans("tried").unwrap();
    assert_eq!((f.lists.expire().bans.len(), repeat(&f)), (0, 0));
}

#[test]
fn what_a_trial_has_taken_out_of_allow_is_uncovered_and_nothing_else() {
    let f = Fixture::new();
    f.put(List::Allow, "192.0.2.0/28");
    f.put(List::Allow, "192.0.2.64/28");
    let asked = |prefix: &str| {
        let uncovered = f.lists.uncovered(prefix.parse().unwrap());
        uncovered.map(|trial| trial.until)
    };
    // One that comes uncovers nobody.
    let tried = f.lists.confirming(TRIAL);
    tried
        .put(List::Allow, new("203.0.113.1/32"), Force(false))
        .unwrap();
    assert_eq!(asked("192.0.2.1/32"), None);
    assert_eq!(asked("203.0.113.1/32"), None);
    f.lists.roll_back().unwrap();
    let tried = f.lists.confirming(TRIAL);
    tried.remove(List::Allow, net("192.0.2.0/28")).unwrap();
    let end = f.lists.pending().map(|pending| pending.deadline);
    for inside_and_around in ["192.0.2.1/32", "192.0.2.0/28", "192.0.2.0/24"] {
        assert_eq!(asked(inside_and_around), end, "{inside_and_around}");
    }
    for elsewhere in ["192.0.2.16/32", "192.0.2.65/32", "203.0.113.1/32"] {
        assert_eq!(asked(elsewhere), None, "{elsewhere}");
    }
    f.lists.confirm().unwrap();
    assert_eq!(asked("192.0.2.1/32"), None);
}

/// What one write changes: puts with or without an end, forced or not, or a removal.
#[derive(Clone, Debug)]
struct Write {
    list: List,
    prefix: IpNet,
    /// in tens of seconds
    ttl: Option<u64>,
    force: bool,
    remove: bool,
}

fn any_write() -> impl Strategy<Value = Write> {
    let list = prop::sample::select(vec![List::Allow, List::Deny]);
    let ttl = prop::option::of(1..20u64);
    (list, any_prefix(), ttl, any::<bool>(), any::<bool>()).prop_map(
        |(list, prefix, ttl, force, remove)| Write {
            list,
            prefix,
            ttl,
            force,
            remove,
        },
    )
}

fn write(f: &Fixture, write: &Write, confirm: Option<Duration>) -> Result<(), WriteError> {
    let Write {
        list,
        prefix,
        ttl,
        force,
        remove,
    } = *write;
    let writing = f.lists.confirming(confirm);
    if remove {
        return writing.remove(list, prefix).map(drop);
    }
    let entry = NewEntry {
        prefix,
        reason: None,
        ttl: ttl.map(|tens| Duration::from_secs(10 * tens)),
    };
    writing.put(list, entry, Force(force)).map(drop)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Beside it the same lists without the trial.
    #[test]
    fn with_nobody_to_take_it_back_a_trial_cuts_nobody_off(
        writes in prop::collection::vec(any_write(), 0..20),
        protected in prop::collection::btree_set(any_prefix(), 0..3),
        tried in prop::collection::vec(any_write(), 1..8),
        asked in prop::collection::vec(any_address(), 20),
        after in 0..10u64,
    ) {
        let (f, plain) = (Fixture::new(), Fixture::new());
        let protected: Vec<_> = protected.into_iter().map(|p| (p, "own".to_owned())).collect();
        for f in [&f, &plain] {
            for each in &writes {
                // Refusals are the same in both.
                let _ = write(f, each, None);
            }
            f.lists.protect(protected.clone()).unwrap();
        }
        for each in &tried {
            // What is taken away is something that is there, as a rule.
            let there = each.ttl.unwrap_or(0) as usize;
            let there = writes.get(there % writes.len().max(1)).filter(|_| each.remove);
            let gone = there.map(|there| Write { remove: true, ..there.clone() });
            // The first that is accepted is in the way of the others.
            let _ = write(&f, gone.as_ref().unwrap_or(each), TRIAL);
        }
        // Between two ends: the clocks of the two go on while they are looked at.
        let passes = Duration::from_secs(65 + 10 * after);
        f.clock.advance(passes);
        plain.clock.advance(passes);
        let verdict = |f: &Fixture, addr| f.maps.verdict(addr, f.clock.monotonic_ns());
        for addr in &asked {
            let (is, was) = (verdict(&f, *addr), verdict(&plain, *addr));
            prop_assert!(is != Some(List::Deny) || was == Some(List::Deny), "{addr} is cut off");
            prop_assert!(is != Some(List::Allow) || was == Some(List::Allow), "{addr} is let in");
        }
        settle(&f);
        settle(&plain);
        for addr in &asked {
            prop_assert_eq!(verdict(&f, *addr), verdict(&plain, *addr), "{}", addr);
        }
        for list in [List::Allow, List::Deny] {
            prop_assert_eq!(f.listed(list), plain.listed(list));
        }
    }
}
