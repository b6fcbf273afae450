//! User space takes callers out while others are counted.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use ipnet::IpNet;
use packetwatch::{
    dataplane::Capacities,
    rules::{Rule, Trigger},
};
use packetwatch_abi::{Action, Reason};
use packetwatch_tests::{Kernel, Runner, patience::Raised, runner};

use super::{call, readdress, spoofed};

fn active(n: u32) -> IpAddr {
    IpAddr::from((0xc613_0100 + n).to_be_bytes())
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn no_count_is_lost_while_others_are_swept() {
    const ACTIVE: u32 = 64;
    const CHURN: u32 = 400;
    let capacities = Capacities {
        callers: 512,
        ..Capacities::default()
    };
    let rules = vec![Rule::new("calls", Trigger::Connections(1 << 30))];
    let kernel = Kernel::with_capacities(rules, capacities);
    let done = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let (runner, done, kernel) = (Runner::of(&kernel), &done, &kernel);
        let counting = scope.spawn(move || {
            runner::stay_on(0);
            let mut frame = call(active(0), 80);
            let mut rounds = 0u64;
            while !done.load(Relaxed) {
                for n in 0..ACTIVE {
                    readdress(&mut frame, active(n));
                    assert_eq!(runner.run(&frame, 1), Action::Pass);
                }
                rounds += 1;
            }
            rounds
        });
        let end = Raised(done);
        runner::stay_on(1 % runner::cpus());
        let runner = Runner::of(kernel);
        let mut frame = call(active(0), 80);
        for round in 0..100 {
            let churn = (0..CHURN).map(|n| spoofed(round * CHURN + n));
            let churn: Vec<IpNet> = churn.map(IpNet::from).collect();
            for unit in &churn {
                readdress(&mut frame, unit.addr());
                runner.run(&frame, 1);
            }
            // The clock stands: all have been seen now, and none since.
            let silent = churn.iter().map(|unit| (*unit, kernel.now()));
            let gone = kernel.dataplane.forget_silent(silent).unwrap();
            assert_eq!(gone, u64::from(CHURN), "round {round}");
        }
        drop(end);
        counting.join().unwrap()
    });
    let callers: HashMap<IpNet, _> = kernel.dataplane.callers().unwrap().into_iter().collect();
    assert_eq!(callers.len(), ACTIVE as usize);
    for n in 0..ACTIVE {
        let caller = &callers[&IpNet::from(active(n))];
        assert_eq!((caller.calls, caller.packets), (rounds, rounds));
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn who_has_spoken_since_is_not_forgotten() {
    let mut kernel = Kernel::with_rules(vec![Rule::new("calls", Trigger::Connections(5))]);
    let [silent, spoke] = [active(1), active(2)];
    kernel.reason(&call(silent, 80));
    kernel.reason(&call(spoke, 80));
    let then = kernel.now();
    kernel.advance(Duration::from_secs(100));
    kernel.reason(&call(spoke, 80));
    let candidates = [silent, spoke, active(3)].map(|address| (IpNet::from(address), then));
    assert_eq!(kernel.dataplane.forget_silent(candidates).unwrap(), 1);
    assert!(!kernel.is_counted(&silent.to_string()));
    assert_eq!(kernel.caller(&spoke.to_string()).calls, 2);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_end_of_a_single_address_s_ban_is_no_new_beginning_for_its_network() {
    for single in [false, true] {
        let mut kernel = Kernel::with_rules(vec![Rule::new("calls", Trigger::Connections(4))]);
        let call = |source: &str| {
            let host = "2001:db8::1".parse().unwrap();
            let frame = packetwatch_tests::Frame::new().ip(source.parse().unwrap(), host);
            frame
                .tcp(40_000, 80, packetwatch_tests::packet::SYN)
                .build()
        };
        (0..3).for_each(|_| assert_eq!(kernel.reason(&call("2001:db8::8")), Reason::Pass));
        let banned = if single {
            "2001:db8::9"
        } else {
            "2001:db8::/64"
        };
        kernel.ban(banned, Duration::from_secs(1));
        assert_eq!(kernel.reason(&call("2001:db8::9")), Reason::Ban);
        kernel.advance(Duration::from_secs(2));
        assert_eq!(
            kernel.reason(&call("2001:db8::9")),
            Reason::Pass,
            "the fourth"
        );
        let fifth = if single {
            Reason::Threshold
        } else {
            Reason::Pass
        };
        assert_eq!(kernel.reason(&call("2001:db8::9")), fifth, "{banned}");
    }
}
