//! Somebody sets the wall clock: what has an end keeps its length.

use super::*;
use crate::pending::Object;

const YEAR: time::Duration = time::Duration::days(365);

/// An entry, a ban and a change on trial, of ten minutes each.
fn all_of_ten_minutes(f: &Fixture) {
    let entry = brief("192.0.2.0/24", 10 * MINUTE);
    f.lists.put(List::Deny, entry, Force(false)).unwrap();
    let list = vec![brief("203.0.113.0/24", 10 * MINUTE)];
    f.lists.replace(List::Allow, list).unwrap();
    f.lists.ban(order(host(1))).unwrap();
    f.lists
        .confirming(Some(10 * MINUTE))
        .put(List::Deny, new("198.51.100.0/24"), Force(false))
        .unwrap();
}

/// Whether all of it is in force, or nothing.
#[track_caller]
fn is_in_force(f: &Fixture, expected: bool) {
    let now = f.clock.monotonic_ns();
    let ban = f.maps.kernel().bans.get(&host(1)).map(|ban| ban.until);
    let is_banned = ban.is_some_and(|until| now < until);
    assert_eq!(is_banned, expected, "the ban");
    let in_force = |list| expected.then_some(list);
    assert_eq!(f.verdict("192.0.2.1"), in_force(List::Deny));
    assert_eq!(f.verdict("203.0.113.1"), in_force(List::Allow));
    assert_eq!(f.verdict("198.51.100.1"), in_force(List::Deny));
    let pending = f.lists.pending().map(|pending| pending.object());
    assert_eq!(pending, expected.then_some(Object::Deny));
}

/// Ten minutes are over after ten minutes, of which `gone` are.
#[track_caller]
fn lasts_for_the_rest(f: &Fixture, gone: Duration) {
    is_in_force(f, true);
    f.clock.advance(10 * MINUTE - gone - 5 * SECOND);
    is_in_force(f, true);
    f.clock.advance(10 * SECOND);
    is_in_force(f, false);
    f.lists.settle();
    let expired = f.lists.expire();
    assert_eq!(expired.bans.len(), 1, "its end is told");
    assert_eq!(expired.entries.len(), 2, "their end is told");
}

#[test]
fn a_step_of_a_year_changes_no_length() {
    for step in [YEAR, -YEAR] {
        let f = Fixture::new();
        all_of_ten_minutes(&f);
        f.clock.step(step);
        f.lists.expire();
        f.lists.settle();
        lasts_for_the_rest(&f, Duration::ZERO);
    }
}

#[test]
fn a_restart_with_the_clock_a_year_off_changes_no_length() {
    for step in [YEAR, -YEAR] {
        let f = Fixture::new();
        all_of_ten_minutes(&f);
        let clock = f.clock;
        // Of the maps nothing is left: with them the kernel's own deadline would count.
        clock.step(step);
        let f = f.reopened(FakeMaps::default(), clock);
        is_in_force(&f, true);
        clock.advance(4 * MINUTE);
        clock.step(-step);
        let f = f.reopened(FakeMaps::default(), clock);
        lasts_for_the_rest(&f, 4 * MINUTE);
    }
}

#[test]
fn after_a_reboot_a_clock_that_is_put_back_prolongs_by_a_length_at_most() {
    let f = Fixture::new();
    all_of_ten_minutes(&f);
    f.clock.advance(MINUTE);
    let clock = f.clock.restarted(1 << 40);
    clock.step(-YEAR);
    let f = f.reopened(FakeMaps::default(), clock);
    is_in_force(&f, true);
    // From then on this boot's clock counts, and the length is not begun again.
    clock.advance(4 * MINUTE);
    clock.step(YEAR);
    let f = f.reopened(FakeMaps::default(), clock);
    lasts_for_the_rest(&f, 4 * MINUTE);
}

#[test]
fn what_a_reboot_with_the_clock_put_forward_ends_is_told() {
    let f = Fixture::new();
    f.put(List::Deny, "192.0.2.7/32");
    all_of_ten_minutes(&f);
    let clock = f.clock.restarted(1 << 40);
    clock.step(YEAR);
    let f = f.reopened(FakeMaps::default(), clock);
    let expired = f.lists.expire();
    assert_eq!((expired.bans.len(), expired.entries.len()), (1, 2));
    assert_eq!(f.verdict("192.0.2.7"), Some(List::Deny), "it has no end");
}
