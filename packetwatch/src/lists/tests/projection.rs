//! What the kernel is told decides as a scan over all entries would.

use std::collections::BTreeMap;

use packetwatch_abi::FOREVER;
use proptest::{prelude::*, sample::select};

use super::*;
use crate::{
    lists::{
        projection::Projection,
        record::AboutRecord,
        shelf::{About, Change, Draft, Shelf},
        state::State,
        units::UnitLengths,
    },
    rules::{Rule, RuleSet, Trigger},
};

#[derive(Clone, Debug)]
struct Step {
    shelf: Shelf,
    prefix: IpNet,
    /// `None` removes
    ttl: Option<u64>,
    forced: bool,
}

fn any_step() -> impl Strategy<Value = Step> {
    let shelf = select(vec![
        Shelf::Allow,
        Shelf::Deny,
        Shelf::Deny,
        Shelf::Protected,
    ]);
    let ttl = prop_oneof![
        2 => Just(None),
        3 => (1..30u64).prop_map(Some),
        3 => Just(Some(FOREVER)),
    ];
    (shelf, any_prefix(), ttl, any::<bool>()).prop_map(|(shelf, prefix, ttl, forced)| {
        // Protection has no end. That of a forced deny is the sweep's affair, not the kernel's.
        let forced = forced && shelf == Shelf::Deny;
        let lasting = forced || shelf == Shelf::Protected;
        Step {
            shelf,
            prefix,
            ttl: ttl.map(|ttl| if lasting { FOREVER } else { ttl }),
            forced,
        }
    })
}

/// Every entry by itself: its end, and whether it was forced.
type Scan = BTreeMap<(Shelf, IpNet), (u64, bool)>;

fn scan_verdict(scan: &Scan, addr: IpAddr, now: u64) -> Option<List> {
    let live =
        |shelf: Shelf, prefix: IpNet| scan.get(&(shelf, prefix)).filter(|(until, _)| now < *until);
    let covering = |(_, prefix): &&(Shelf, IpNet)| prefix.contains(&addr);
    let mut is_denied = false;
    for (shelf, prefix) in scan.keys().filter(covering) {
        if live(*shelf, *prefix).is_none() {
            continue;
        }
        match shelf {
            Shelf::Allow => return Some(List::Allow),
            Shelf::Deny => is_denied = true,
            Shelf::Protected => {
                if !live(Shelf::Deny, *prefix).is_some_and(|(_, forced)| *forced) {
                    return Some(List::Allow);
                }
            }
        }
    }
    is_denied.then_some(List::Deny)
}

/// Of a source that is not allowed itself: the longest unit around it that holds somebody who is.
fn scan_shared_len(scan: &Scan, units: &UnitLengths, addr: IpAddr, now: u64) -> u8 {
    let live =
        |shelf: Shelf, prefix: IpNet| scan.get(&(shelf, prefix)).filter(|(until, _)| now < *until);
    let is_forced = |prefix| live(Shelf::Deny, prefix).is_some_and(|(_, forced)| *forced);
    let is_exempt = |(shelf, prefix): &&(Shelf, IpNet)| match shelf {
        Shelf::Allow => live(*shelf, *prefix).is_some(),
        Shelf::Protected => !is_forced(*prefix),
        Shelf::Deny => false,
    };
    let exempt: Vec<IpNet> = scan
        .keys()
        .filter(is_exempt)
        .map(|(_, prefix)| *prefix)
        .collect();
    let lengths = units.0[usize::from(addr.is_ipv6())].iter().rev();
    let holds = |length: &&u8| {
        let unit = IpNet::new(addr, **length).unwrap();
        exempt
            .iter()
            .any(|prefix| unit.contains(prefix) && prefix.prefix_len() > **length)
    };
    lengths.copied().find(|length| holds(&length)).unwrap_or(0)
}

fn change(step: &Step, now: u64) -> Change {
    let draft = |ttl: u64| Draft {
        about: Arc::new(About {
            record: Arc::new(AboutRecord {
                reason: None,
                source: Source::Api,
                created_at: time::OffsetDateTime::UNIX_EPOCH,
                expires_at: None,
                mark: None,
            }),
            until: now.saturating_add(ttl),
        }),
        forced: step.forced,
    };
    Change {
        shelf: step.shelf,
        prefix: step.prefix,
        to: step.ttl.map(draft),
    }
}

fn apply(state: &mut State, maps: &FakeMaps, changes: Vec<Change>, now: u64) {
    let (undo, _) = state.apply(changes);
    let changed = undo.iter().map(|change| (change.shelf, change.prefix));
    let reach = state.reach(changed, now);
    let all = || Projection::standings(state, now);
    Projection::of(state, reach, now).write(maps, all).unwrap();
}

fn removal((shelf, prefix): (Shelf, IpNet)) -> Change {
    Change {
        shelf,
        prefix,
        to: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn the_longest_match_decides_as_a_scan_does(
        steps in prop::collection::vec(any_step(), 1..60),
        addresses in prop::collection::vec(any_address(), 40),
        units in select(vec![[[32, 32], [64, 64]], [[24, 32], [48, 64]], [[8, 16], [16, 127]]]),
    ) {
        let (maps, rebuilt) = (FakeMaps::default(), FakeMaps::default());
        let mut state = State::new(64);
        let units = UnitLengths(units.map(|lengths| lengths.into_iter().filter(|l| *l != 32).collect()));
        state.exempt.count_by(units.clone());
        let mut scan = Scan::new();
        for (now, step) in (1u64..).zip(&steps) {
            apply(&mut state, &maps, vec![change(step, now)], now);
            match step.ttl {
                Some(ttl) => {
                    let until = now.saturating_add(ttl);
                    scan.insert((step.shelf, step.prefix), (until, step.forced));
                }
                None => {
                    scan.remove(&(step.shelf, step.prefix));
                }
            }
            for addr in &addresses {
                prop_assert_eq!(
                    maps.verdict(*addr, now),
                    scan_verdict(&scan, *addr, now),
                    "{} at {}", addr, now
                );
                // What has ended counts until it is swept.
                let is_allowed = maps.verdict(*addr, now) == Some(List::Allow);
                let shared_len = maps.standing(*addr).shared_len;
                prop_assert!(is_allowed || shared_len >= scan_shared_len(&scan, &units, *addr, now), "{}", addr);
            }
        }

        let now = steps.len() as u64 + 10;
        for addr in &addresses {
            prop_assert_eq!(maps.verdict(*addr, now), scan_verdict(&scan, *addr, now));
        }
        let swept: Vec<Change> = state.ended(now, usize::MAX).into_iter().map(removal).collect();
        apply(&mut state, &maps, swept, now);
        prop_assert!(state.ended(now, usize::MAX).is_empty());
        rebuilt.replace_standings(&Projection::standings(&state, now)).unwrap();
        prop_assert_eq!(&maps.kernel().standings, &rebuilt.kernel().standings);
        for addr in &addresses {
            let shared_len = maps.standing(*addr).shared_len;
            let is_allowed = maps.verdict(*addr, now) == Some(List::Allow);
            prop_assert!(is_allowed || shared_len == scan_shared_len(&scan, &units, *addr, now), "{}", addr);
            let told = state.exempt.shared_len(IpNet::from(*addr), now);
            prop_assert_eq!(told, scan_shared_len(&scan, &units, *addr, now), "{}", addr);
        }

        let live = |((shelf, _), (until, _)): &(&(Shelf, IpNet), &(u64, bool))| {
            *shelf != Shelf::Protected && now < *until
        };
        let live = scan.iter().filter(live).count();
        prop_assert_eq!(state.room(), 64 - live);
        let all: Vec<Change> = scan.keys().copied().map(removal).collect();
        apply(&mut state, &maps, all, now);
        prop_assert!(maps.kernel().standings.is_empty());
        prop_assert_eq!(state.room(), 64);
    }
}

#[test]
fn hits_go_to_the_most_specific_live_entry() {
    let f = Fixture::new();
    f.put(List::Deny, "10.0.0.0/8");
    let entry = brief("10.1.0.0/16", MINUTE);
    f.lists.put(List::Deny, entry, Force(false)).unwrap();
    f.put(List::Allow, "10.1.1.0/24");
    let slot = |prefix: &str| f.maps.kernel().standings[&net(prefix)].deny_slot;
    assert_ne!(slot("10.0.0.0/8"), slot("10.1.0.0/16"));
    assert_eq!(slot("10.1.0.0/16"), slot("10.1.1.0/24"));
    f.clock.advance(MINUTE);
    f.lists.expire();
    assert_eq!(slot("10.0.0.0/8"), slot("10.1.1.0/24"));
}

#[test]
fn many_changes_are_one_switch() {
    let maps = FakeMaps::default();
    let mut state = State::new(5_000);
    let step = |i: u32| Step {
        shelf: Shelf::Deny,
        prefix: IpNet::from(IpAddr::from((i << 8).to_be_bytes())),
        ttl: Some(FOREVER),
        forced: false,
    };
    let few = (0..256).map(|i| change(&step(i << 8), 1)).collect();
    apply(&mut state, &maps, few, 1);
    assert_eq!(maps.kernel().switches, 0);
    let many = (2000..2257).map(|i| change(&step(i << 8), 1)).collect();
    apply(&mut state, &maps, many, 1);
    assert_eq!(maps.kernel().switches, 1);
    assert_eq!(maps.kernel().standings.len(), 513);
}

#[test]
fn what_derives_from_the_host_is_told_from_what_was_written() {
    let fixture = Fixture::new();
    fixture.put(List::Allow, "198.51.100.0/24");
    fixture
        .protect(&["203.0.113.1/32", "198.51.100.1/32", "203.0.113.0/24"])
        .unwrap();
    fixture.put(List::Allow, "203.0.113.2/32");
    let is_derived = |prefix: &str| fixture.maps.kernel().standings[&net(prefix)].is_derived;
    for (prefix, derived) in [
        ("198.51.100.0/24", false),
        ("198.51.100.1/32", true),
        ("203.0.113.0/24", true),
        ("203.0.113.1/32", true),
        ("203.0.113.2/32", false),
    ] {
        assert_eq!(is_derived(prefix), derived, "{prefix}");
    }
}

#[test]
fn neighbours_of_an_allowed_address_are_told_by_the_units_of_the_rules() {
    let fixture = Fixture::new();
    let shared_len = |addr: &str| {
        let addr = addr.parse().unwrap();
        let shared_len = fixture.maps.standing(addr).shared_len;
        assert_eq!(fixture.lists.shared_len(addr.into()), shared_len, "{addr}");
        shared_len
    };
    fixture.protect(&["2001:db8:5::1/128"]).unwrap();
    assert_eq!(
        shared_len("2001:db8:5::2"),
        64,
        "by rules that say nothing of units"
    );
    assert_eq!(shared_len("2001:db8:5:1::2"), 0);
    fixture.put(List::Deny, "2001:db8:5::/96");
    assert_eq!(shared_len("2001:db8:5::2"), 64, "inside what is denied");
    let entry = brief("198.51.100.7/32", MINUTE);
    fixture.lists.put(List::Allow, entry, Force(false)).unwrap();
    assert_eq!(
        shared_len("198.51.100.8"),
        0,
        "a single address is shared by nobody"
    );

    let wide = Rule {
        prefix_v4: 8,
        prefix_v6: 48,
        ..Rule::new("wide", Trigger::Connections(9))
    };
    let rules =
        RuleSet::validate(vec![Rule::new("scan", Trigger::DistinctPorts(9)), wide]).unwrap();
    let lengths = UnitLengths::of([&rules]);
    assert!(!fixture.lists.counts_by(&lengths));
    fixture.lists.count_by(&lengths).unwrap();
    assert!(fixture.lists.counts_by(&lengths));
    assert_eq!(shared_len("2001:db8:5::2"), 64);
    assert_eq!(shared_len("2001:db8:5:1::2"), 48);
    assert_eq!(shared_len("198.200.0.1"), 8, "in another region");
    fixture.clock.advance(MINUTE);
    fixture.lists.expire();
    assert_eq!(shared_len("198.200.0.1"), 0);
    fixture.protect(&[]).unwrap();
    assert_eq!(shared_len("2001:db8:5::2"), 0);
}

#[test]
fn of_a_wide_unit_the_first_that_is_exempt_and_the_last_are_told_to_all_of_it() {
    let now = 1;
    let rules = vec![Rule {
        prefix_v4: 8,
        ..Rule::new("wide", Trigger::Connections(9))
    }];
    let mut state = State::new(64);
    let lengths = UnitLengths::of([&RuleSet::validate(rules).unwrap()]);
    state.exempt.count_by(lengths);
    let mut reach = |ttl: Option<u64>, prefixes: &[&str]| {
        let step = |prefix: &&str| Step {
            shelf: Shelf::Allow,
            prefix: net(prefix),
            ttl,
            forced: false,
        };
        let changes = prefixes.iter().map(|prefix| change(&step(prefix), now));
        let (undo, _) = state.apply(changes.collect());
        let changed = undo.iter().map(|change| (change.shelf, change.prefix));
        let reach = state.reach(changed, now);
        reach.contains(&net("10.0.0.0/8"))
    };
    assert!(
        reach(Some(FOREVER), &["10.1.0.1/32", "10.2.0.1/32"]),
        "the first"
    );
    assert!(!reach(Some(FOREVER), &["10.3.0.1/32"]), "there are others");
    assert!(
        !reach(None, &["10.1.0.1/32", "10.3.0.1/32"]),
        "there is another"
    );
    assert!(reach(None, &["10.2.0.1/32"]), "the last");
}
