//! What a look at the links finds, without links.

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
    assert_eq!(changed(first, false, 1400), Some(String::new()));
    let down = Interface {
        state: State::Down,
        ..interface("eth0", 2)
    };
    assert_eq!(changed(down.clone(), false, 1500), None);
    assert_eq!(changed(down, true, 1500), Some("up".to_owned()));
    assert_eq!(
        changed(interface("eth0", 2), false, 1400),
        Some("down, MTU 1400 instead of 1500".to_owned())
    );
}
