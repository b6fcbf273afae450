//! What user space is told.

use std::time::Duration;

use packetwatch::{dataplane, rules::Trigger};
use packetwatch_abi::{Fault, Offence, Reason};
use packetwatch_tests::{Kernel, kernel::net};

use super::{CALLER, FAMILIES, HOST, UNIT, addr, call, rule};

fn fault(kernel: &Kernel, fault: Fault) -> u64 {
    let faults = kernel.dataplane.faults().unwrap();
    faults
        .into_iter()
        .find(|(kind, _)| *kind == fault)
        .unwrap()
        .1
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn every_call_is_reported_with_its_addresses_and_ports() {
    for family in FAMILIES {
        let mut kernel = Kernel::new();
        kernel.reason(&call(CALLER[family], 8086));
        let call = kernel.events.calls.poll().expect("a call is reported");
        assert_eq!(
            dataplane::address(&call.source, call.source.addr),
            addr(CALLER[family])
        );
        assert_eq!(
            dataplane::address(&call.source, call.destination),
            addr(HOST[family])
        );
        assert_eq!((call.source_port, call.destination_port), (40_000, 8086));
        assert_eq!(call.at, kernel.now());
        assert_eq!((call.reason, call.observed), (Reason::Pass as u32, 0));
        assert!(kernel.events.calls.poll().is_none(), "one line a call");
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn allowed_calls_are_reported_and_those_that_a_list_or_ban_drops_are_not() {
    let mut kernel = Kernel::new();
    kernel.allow("198.18.1.1");
    kernel.deny("198.18.1.2");
    kernel.ban("198.18.1.3", Duration::from_secs(60));
    for host in ["198.18.1.1", "198.18.1.2", "198.18.1.3"] {
        kernel.reason(&call(host, 80));
    }
    let reported: Vec<_> = std::iter::from_fn(|| kernel.events.calls.poll()).collect();
    assert_eq!(reported.len(), 1);
    assert_eq!(reported[0].reason, Reason::Allow as u32);
    // Observe mode lets them through, and says what they would have been.
    kernel.observe(true);
    for host in ["198.18.1.2", "198.18.1.3"] {
        kernel.judge(&call(host, 80));
    }
    let reported: Vec<_> = std::iter::from_fn(|| kernel.events.calls.poll()).collect();
    let reasons: Vec<_> = reported
        .iter()
        .map(|call| (call.reason, call.observed))
        .collect();
    assert_eq!(reasons, [(Reason::Deny as u32, 1), (Reason::Ban as u32, 1)]);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn beyond_the_budget_of_a_second_calls_are_counted_instead() {
    let mut kernel = Kernel::new();
    kernel.set_call_budget(10);
    let report = |kernel: &mut Kernel| {
        // One CPU for all of them: the budget is each CPU's.
        kernel.dataplane.probe(&call(CALLER[0], 80), 100).unwrap();
        std::iter::from_fn(|| kernel.events.calls.poll()).count() as u64
    };
    let reported = report(&mut kernel);
    let suppressed = fault(&kernel, Fault::CallsSuppressed);
    assert_eq!(reported + suppressed, 100);
    assert!(
        (10..=20).contains(&reported),
        "{reported}, on one CPU or moved to another"
    );
    kernel.advance(Duration::from_secs(1));
    assert!(report(&mut kernel) >= 10, "the next second has its own");
    assert_eq!(
        kernel.caller(UNIT[0]).calls,
        200,
        "counting needs no budget"
    );
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_full_ring_loses_calls_and_no_offence() {
    let mut kernel = Kernel::with_rules(vec![rule("scan", Trigger::DistinctPorts(3))]);
    for _ in 0..10 {
        kernel
            .dataplane
            .probe(&call("198.18.1.1", 80), 1000)
            .unwrap();
    }
    assert!(
        fault(&kernel, Fault::CallsLost) > 0,
        "10 000 calls are more than the ring holds"
    );
    for port in 1..=4 {
        kernel.reason(&call(CALLER[0], port));
    }
    assert_eq!(kernel.offences().len(), 1);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_full_ring_of_offences_loses_the_words_and_no_verdict() {
    const OFFENDERS: u32 = 4000;
    let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(1))]);
    kernel.set_call_budget(0);
    let source = |n: u32| format!("10.0.{}.{}", n / 256, n % 256);
    for n in 0..OFFENDERS {
        assert_eq!(kernel.reason(&call(&source(n), 80)), Reason::Pass);
        assert_eq!(kernel.reason(&call(&source(n), 80)), Reason::Threshold);
    }
    let told = kernel.offences();
    let lost = fault(&kernel, Fault::OffencesLost);
    assert!(lost > 0, "{OFFENDERS} are more than the ring holds");
    assert_eq!(told.len() as u64 + lost, u64::from(OFFENDERS));
    // What the sweep goes by is in the caller all the same.
    let last = kernel.caller(&source(OFFENDERS - 1));
    assert_eq!((last.offended_at, last.dropped), (kernel.now(), 1));
    // Room is room again, and whoever goes on is told.
    kernel.advance(Duration::from_nanos(Offence::REPEAT_NS));
    let again = call(&source(OFFENDERS - 1), 80);
    assert_eq!(kernel.reason(&again), Reason::Threshold);
    assert_eq!(kernel.offences().len(), 1);
    assert_eq!(fault(&kernel, Fault::OffencesLost), lost);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn an_offence_names_unit_source_and_rule_and_repeats_slowly() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![
            rule("never", Trigger::Connections(1_000_000)),
            rule("scan", Trigger::DistinctPorts(3)),
        ]);
        for port in 1..=50 {
            kernel.reason(&call(CALLER[family], port));
        }
        let offences = kernel.offences();
        let [offence] = offences[..] else {
            panic!("{offences:?}")
        };
        assert_eq!(dataplane::prefix(&offence.unit), net(UNIT[family]));
        assert_eq!(dataplane::prefix(&offence.source), net(CALLER[family]));
        assert_eq!((offence.rule, offence.destination_port), (1, 4));
        assert_eq!(kernel.caller(UNIT[family]).offended_at, kernel.now());
        kernel.advance(Duration::from_nanos(Offence::REPEAT_NS - 1));
        kernel.reason(&call(CALLER[family], 1));
        assert_eq!(kernel.offences(), []);
        kernel.advance(Duration::from_nanos(1));
        kernel.reason(&call(CALLER[family], 1));
        assert_eq!(
            kernel.offences().len(),
            1,
            "whoever goes on is reported again"
        );
    }
}
