//! What ends by itself, with nobody there to end it: a bypass, and rules on trial.

use std::time::Duration;

use packetwatch::rules::Trigger;
use packetwatch_abi::{Action, FOREVER, Reason};
use packetwatch_tests::Kernel;

use super::{CALLER, FAMILIES, UNIT, call, rule};

const SECOND: u64 = 1_000_000_000;

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_bypass_passes_everything_to_its_last_nanosecond() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(1))]);
        let frame = call(CALLER[family], 80);
        kernel.deny(CALLER[family]);
        let end = kernel.now() + 60 * SECOND;
        kernel.observe_until(end);
        for now in [kernel.now(), end - 1] {
            kernel.set_now(now);
            let outcome = kernel.judge(&frame);
            assert_eq!(outcome.action, Action::Pass);
            // Counted as what it would have been.
            assert_eq!((outcome.reason, outcome.observed), (Reason::Deny, true));
        }
        kernel.set_now(end);
        assert_eq!(kernel.reason(&frame), Reason::Deny);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn rules_on_trial_end_at_their_time_and_the_former_ones_stand_again() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(3))]);
        let frame = call(CALLER[family], 80);
        let end = kernel.now() + 10 * SECOND;
        kernel.try_rules(vec![rule("fewer", Trigger::Connections(1))], end);
        assert_eq!(kernel.reason(&frame), Reason::Pass);
        kernel.set_now(end - 1);
        assert_eq!(kernel.reason(&frame), Reason::Threshold);
        kernel.set_now(end);
        // Windows of the trial are not the former rules': three calls from here.
        for _ in 0..3 {
            assert_eq!(kernel.reason(&frame), Reason::Pass);
        }
        assert_eq!(kernel.reason(&frame), Reason::Threshold);
        kernel.set_now(FOREVER - 1);
        assert_eq!(kernel.reason(&frame), Reason::Pass);
    }
}

/// A trial that is confirmed, or another policy that is written meanwhile, counts at once.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_is_written_during_a_trial_takes_its_place() {
    let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(3))]);
    let frame = call(CALLER[0], 80);
    let end = kernel.now() + 60 * SECOND;
    kernel.try_rules(vec![rule("fewer", Trigger::Connections(1))], end);
    assert_eq!(kernel.reason(&frame), Reason::Pass);
    kernel.set_rules(vec![rule("two", Trigger::Connections(2))]);
    for now in [end - SECOND, end] {
        kernel.set_now(now);
        kernel
            .dataplane
            .forget_caller(UNIT[0].parse().unwrap())
            .unwrap();
        kernel.advance(Duration::from_secs(1));
        assert_eq!(kernel.reason(&frame), Reason::Pass);
        assert_eq!(kernel.reason(&frame), Reason::Pass);
        assert_eq!(kernel.reason(&frame), Reason::Threshold);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn observe_mode_counts_what_a_threshold_would_have_dropped() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(2))]);
        kernel.observe_until(FOREVER);
        for reason in [[Reason::Pass; 2].as_slice(), &[Reason::Threshold; 3]].concat() {
            let outcome = kernel.judge(&call(CALLER[family], 80));
            assert_eq!((outcome.action, outcome.reason), (Action::Pass, reason));
        }
        assert_eq!(kernel.caller(UNIT[family]).dropped, 3);
    }
}
