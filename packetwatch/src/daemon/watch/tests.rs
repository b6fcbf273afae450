//! What a look at the links finds, without links.

use std::{collections::BTreeSet, net::IpAddr};

use super::*;

fn interface(name: &str, ifindex: u32) -> Interface {
    Interface {
        name: name.to_owned(),
        configured: Some(name.to_owned()),
        state: State::Attached,
        ifindex,
        mode: None,
        program_id: 7,
        not_native: None,
        mtu: Some(1500),
        addresses: None,
        error: None,
        not_pinned: None,
    }
}

fn unattached(name: &str, state: State) -> Interface {
    Interface {
        state,
        program_id: 0,
        ..interface(name, 0)
    }
}

fn link(name: &str, index: u32) -> Link {
    Link {
        name: name.to_owned(),
        index,
        up: true,
        xdp_program_id: Some(7),
        xdp_generic: false,
        mtu: 1500,
        addresses: None,
    }
}

fn bare(name: &str, index: u32) -> Link {
    Link {
        xdp_program_id: None,
        ..link(name, index)
    }
}

fn unfiltered_one(name: &str) -> Finding {
    Finding::Unfiltered {
        name: name.to_owned(),
    }
}

fn gone(name: &str, was_filtered: bool) -> Finding {
    Finding::Gone {
        name: name.to_owned(),
        was_filtered,
    }
}

const ALL_HERE: (Lack, Option<String>) = (Lack::Withheld, None);
const ALL_FILTERED: (Lack, Option<String>) = (Lack::Interfaces, None);

#[test]
fn nothing_is_found_where_all_is_well() {
    let known = [interface("eth0", 2), interface("eth1", 3)];
    let links = [bare("lo", 1), link("eth0", 2), link("eth1", 3)];
    assert_eq!(findings(&known, &links), []);
    assert_eq!(unfiltered(&known), [ALL_HERE, ALL_FILTERED]);
}

#[test]
fn made_again_under_its_name_it_is_lost_and_found() {
    let known = [interface("eth0", 2)];
    assert_eq!(
        findings(&known, &[bare("eth0", 9)]),
        [gone("eth0", true), unfiltered_one("eth0")]
    );
    let missing = [unattached("eth0", State::Missing)];
    assert_eq!(findings(&missing, &[bare("lo", 1)]), []);
    assert_eq!(
        findings(&missing, &[bare("eth0", 9)]),
        [unfiltered_one("eth0")]
    );
    let words = || Some("interface eth0 is missing".to_owned());
    assert_eq!(
        unfiltered(&missing),
        [ALL_HERE, (Lack::Interfaces, words())],
        "nothing is filtered"
    );
    let [missing] = missing;
    let beside = [missing, interface("eth1", 3)];
    assert_eq!(
        unfiltered(&beside),
        [(Lack::Withheld, words()), ALL_FILTERED]
    );
    // Another's program, beside one that is filtered and alone.
    let held = unattached("eth0", State::Held);
    let words = Some("interface eth0 is detached".to_owned());
    assert_eq!(
        unfiltered(&[held.clone(), interface("eth1", 3)]),
        [(Lack::Withheld, words.clone()), ALL_FILTERED]
    );
    assert_eq!(
        unfiltered(std::slice::from_ref(&held)),
        [ALL_HERE, (Lack::Interfaces, words.clone())]
    );
    assert_eq!(findings(&[held], &[]), [gone("eth0", false)]);
    // Nor what the kernel refuses this process, though another is filtered.
    let refused = unattached("eth0", State::Detached);
    assert_eq!(
        unfiltered(&[refused, interface("eth1", 3)]),
        [ALL_HERE, (Lack::Interfaces, words)]
    );
    // One that could not be attached to, and is gone now.
    let refused = [unattached("eth0", State::Detached)];
    assert_eq!(findings(&refused, &[]), [gone("eth0", false)]);
}

#[test]
fn a_renamed_interface_is_kept_and_who_bears_its_name_comes_too() {
    let known = [interface("eth0", 2)];
    let renamed = Finding::Renamed {
        ifindex: 2,
        from: "eth0".to_owned(),
        to: "wan0".to_owned(),
    };
    let links = [link("wan0", 2), bare("eth0", 9)];
    assert_eq!(findings(&known, &links), [renamed, unfiltered_one("eth0")]);
    let followed = [Interface {
        name: "wan0".to_owned(),
        ..interface("eth0", 2)
    }];
    assert_eq!(findings(&followed, &[link("wan0", 2)]), []);
    assert_eq!(unfiltered(&followed), [ALL_HERE, ALL_FILTERED]);
}

#[test]
fn exchanged_names_are_two_renames_and_nothing_else() {
    let known = [interface("eth0", 2), interface("eth1", 3)];
    let found = findings(&known, &[link("eth1", 2), link("eth0", 3)]);
    assert_eq!(found.len(), 2, "{found:?}");
    let is_rename = |finding: &Finding| matches!(finding, Finding::Renamed { .. });
    assert!(found.iter().all(is_rename), "{found:?}");
}

#[test]
fn another_program_and_none_are_tampering() {
    for program_id in [None, Some(8)] {
        let known = [interface("eth0", 2)];
        let link = Link {
            xdp_program_id: program_id,
            ..link("eth0", 2)
        };
        let name = "eth0".to_owned();
        assert_eq!(
            findings(&known, &[link]),
            [Finding::Tampered { name, program_id }]
        );
    }
}

#[test]
fn what_changes_is_told_from_the_second_look_on() {
    let changed = |known: Interface, up, mtu| {
        let link = Link {
            up,
            mtu,
            ..link("eth0", 2)
        };
        match findings(&[known], &[link]).pop() {
            Some(Finding::Changed { what, .. }) => Some(what),
            None => None,
            other => panic!("{other:?}"),
        }
    };
    let first = Interface {
        mtu: None,
        ..interface("eth0", 2)
    };
    assert_eq!(changed(first, false, 1400), Some(vec![]));
    let down = Interface {
        state: State::Down,
        ..interface("eth0", 2)
    };
    assert_eq!(changed(down.clone(), false, 1500), None);
    assert_eq!(changed(down, true, 1500), Some(vec!["up".to_owned()]));
    assert_eq!(
        changed(interface("eth0", 2), false, 1400),
        Some(vec!["down, MTU 1400 instead of 1500".to_owned()])
    );
}

#[test]
fn addresses_that_come_and_go_are_told_but_for_link_local_ones() {
    let set = |addresses: &[&str]| -> Option<BTreeSet<IpAddr>> {
        Some(addresses.iter().map(|one| one.parse().unwrap()).collect())
    };
    let changed = |before: Option<BTreeSet<IpAddr>>, now: Option<BTreeSet<IpAddr>>| {
        let known = Interface {
            addresses: before,
            ..interface("eth0", 2)
        };
        let link = Link {
            addresses: now,
            ..link("eth0", 2)
        };
        match findings(&[known], &[link]).pop() {
            Some(Finding::Changed {
                what, addresses, ..
            }) => Some((what, addresses)),
            None => None,
            other => panic!("{other:?}"),
        }
    };
    let (v4, v6) = ("198.18.0.1", "2001:db8::1");
    // Of the first look nothing is told, and nothing where it could not be asked.
    let all = set(&["fe80::1", v4, v6]);
    assert_eq!(changed(None, all.clone()), Some((vec![], set(&[v4, v6]))));
    assert_eq!(changed(set(&[v4]), None), None);
    assert_eq!(changed(set(&[v4, v6]), all), None);
    let told = |before: &[&str], now: &[&str]| {
        let (what, addresses) = changed(set(before), set(now)).expect("it has changed");
        assert_eq!(addresses, set(now));
        what
    };
    assert_eq!(
        told(&[v4], &[v6]),
        ["address 2001:db8::1 added", "address 198.18.0.1 removed"]
    );
    // As many as are named, and one more.
    let many: Vec<String> = (1..=10).map(|n| format!("198.18.0.{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let named = many[1..9].join(", ");
    assert_eq!(
        told(&many[..1], &many[..9]),
        [format!("addresses {named} added")]
    );
    assert_eq!(
        told(&many, &many[..1]),
        [format!("addresses {named} and 1 more removed")]
    );
}
