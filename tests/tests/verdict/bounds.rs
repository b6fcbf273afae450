//! Each bound of the maps, and what happens at it.

use std::time::Duration;

use packetwatch::{dataplane::Capacities, rules::Trigger};
use packetwatch_abi::{FOREVER, Fault, Reason};
use packetwatch_tests::{Kernel, kernel::net, packet::SYN};

use super::{call, from, rule};

fn small() -> Capacities {
    Capacities {
        lists: 8,
        bans: 8,
        callers: 8,
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_full_table_of_callers_judges_by_the_lists_and_says_so() {
    let kernel = Kernel::with_capacities(vec![rule("calls", Trigger::Connections(2))], small());
    for host in 0..20 {
        assert_eq!(
            kernel.reason(&call(&format!("198.18.1.{host}"), 80)),
            Reason::Pass
        );
    }
    let callers = kernel.dataplane.callers().unwrap();
    assert_eq!(callers.len(), 8, "those that came first stay");
    let faults = kernel.dataplane.faults().unwrap();
    assert_eq!(
        faults[Fault::CallersFull as usize],
        (Fault::CallersFull, 12)
    );
    // Those in the table are held to the rules, the others to the lists.
    assert_eq!(kernel.reason(&call("198.18.1.0", 80)), Reason::Pass);
    assert_eq!(kernel.reason(&call("198.18.1.0", 80)), Reason::Threshold);
    kernel.deny("198.18.1.19");
    assert_eq!(kernel.reason(&call("198.18.1.19", 80)), Reason::Deny);
    // Room is room again.
    kernel.dataplane.forget_caller(net("198.18.1.1")).unwrap();
    kernel.reason(&call("198.18.1.15", 80));
    assert!(kernel.is_counted("198.18.1.15"));
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_full_map_of_bans_refuses_and_evicts_nothing() {
    let kernel = Kernel::with_capacities(Vec::new(), small());
    let prefix = |host: u32| net(&format!("198.18.1.{host}"));
    for host in 0..8 {
        kernel.dataplane.ban(prefix(host), FOREVER).unwrap();
    }
    let error = kernel.dataplane.ban(prefix(8), FOREVER).unwrap_err();
    assert!(error.is_full(), "{error}");
    assert!(
        error.to_string().contains("BANS is full (8 entries)"),
        "{error}"
    );
    for host in 0..8 {
        assert_eq!(
            kernel.reason(&call(&format!("198.18.1.{host}"), 80)),
            Reason::Ban
        );
    }
    // An old one can still be changed, and makes room when it goes.
    kernel.dataplane.ban(prefix(0), 0).unwrap();
    kernel.dataplane.remove_ban(prefix(0)).unwrap();
    kernel.dataplane.ban(prefix(8), FOREVER).unwrap();
}

/// The policy names them to the program, which looks under no others.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_lengths_of_bans_are_those_that_stand() {
    let kernel = Kernel::new();
    let (ban, lift) = (
        |prefix| kernel.dataplane.ban(net(prefix), FOREVER).unwrap(),
        |prefix| kernel.dataplane.remove_ban(net(prefix)).unwrap(),
    );
    let assert_lengths = |v4: &[u32], v6: &[u32]| {
        let lengths = [v4, v6].map(|lengths| lengths.iter().copied().collect());
        assert_eq!(kernel.dataplane.ban_lengths(), lengths);
    };
    assert_lengths(&[], &[]);
    ban("198.18.1.1/32");
    ban("198.18.1.2/32");
    ban("198.18.2.0/24");
    ban("2001:db8:7::/64");
    // The same ban, changed.
    ban("198.18.1.1/32");
    assert_lengths(&[24, 32], &[64]);
    lift("198.18.1.1/32");
    lift("198.18.2.0/24");
    lift("198.18.2.0/24");
    assert_lengths(&[32], &[64]);
    lift("198.18.1.2/32");
    lift("2001:db8:7::/64");
    assert_lengths(&[], &[]);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_65th_port_takes_the_place_of_the_oldest() {
    let mut kernel = Kernel::new();
    for port in 1..=100 {
        kernel.reason(&call("198.18.1.1", port));
        kernel.advance(Duration::from_millis(1));
    }
    let caller = kernel.caller("198.18.1.1");
    let mut ports = caller
        .ports
        .map(|seen| packetwatch_abi::PortSeen(seen).port());
    ports.sort_unstable();
    assert_eq!(ports.to_vec(), (37..=100).collect::<Vec<u16>>());
    assert_eq!(caller.calls, 100);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn every_port_number_is_a_port() {
    let kernel = Kernel::with_rules(vec![rule("scan", Trigger::DistinctPorts(4))]);
    for port in [0, 0, 65_535, 65_535, 1, 32_768] {
        assert_eq!(kernel.reason(&call("198.18.1.1", port)), Reason::Pass);
    }
    assert_eq!(kernel.reason(&call("198.18.1.1", 0)), Reason::Threshold);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_largest_frame_that_a_page_holds_is_counted_whole() {
    let kernel = Kernel::new();
    let frame = from("198.18.1.1")
        .tcp(1, 80, SYN)
        .payload(vec![0; 3000])
        .build();
    assert_eq!(kernel.reason(&frame), Reason::Pass);
    assert_eq!(kernel.caller("198.18.1.1").bytes, frame.len() as u64);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_jumbo_frame_is_counted_over_all_its_fragments() {
    let kernel = Kernel::new();
    let frame = from("198.18.1.1")
        .tcp(1, 80, SYN)
        .payload(vec![0; 9000])
        .build();
    assert_eq!(kernel.reason(&frame), Reason::Pass);
    let caller = kernel.caller("198.18.1.1");
    assert_eq!((caller.calls, caller.bytes), (1, frame.len() as u64));
}
