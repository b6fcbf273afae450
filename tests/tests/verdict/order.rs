//! The order of verdicts: allow, deny, ban, threshold, pass.

use std::time::Duration;

use packetwatch::rules::Trigger;
use packetwatch_abi::{Action, FOREVER, Reason, Tally};
use packetwatch_tests::{Kernel, packet::*};

use super::{CALLER, FAMILIES, UNIT, call, from, rule};

const NETWORK: [&str; 2] = ["198.18.0.0/24", "2001:db8::/48"];
const MINUTE: Duration = Duration::from_secs(60);

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_deny_drops_everything_of_the_source() {
    for family in FAMILIES {
        let kernel = Kernel::new();
        kernel.deny(CALLER[family]);
        let source = CALLER[family];
        let frames = [
            call(source, 80),
            from(source).tcp(1, 2, ACK).build(),
            from(source).udp(1, 2).build(),
            from(source).icmp(8, 0).build(),
            from(source).fragment(100, false).payload([0; 64]).build(),
            from(source).protocol(GRE).build(),
        ];
        for frame in &frames {
            assert_eq!(kernel.reason(frame), Reason::Deny);
        }
        assert!(
            !kernel.is_counted(UNIT[family]),
            "what a list drops is not counted as calling"
        );
        let bytes: usize = frames.iter().map(Vec::len).sum();
        let hits = kernel.dataplane.list_hits(2).unwrap();
        assert_eq!(
            hits,
            Tally {
                packets: 6,
                bytes: bytes as u64
            }
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn allow_beats_deny_and_ban_whatever_the_lengths() {
    for family in FAMILIES {
        let kernel = Kernel::new();
        kernel.ban(UNIT[family], MINUTE);
        // The daemon resolves the lists: here allow covers what deny names more closely.
        kernel.put(CALLER[family], FOREVER, FOREVER);
        kernel.put(NETWORK[family], FOREVER, 0);
        assert_eq!(kernel.reason(&call(CALLER[family], 80)), Reason::Allow);
        let single = format!("{}/{}", CALLER[family], [32, 128][family]);
        assert_eq!(
            kernel.caller(&single).calls,
            1,
            "allowed callers are still counted"
        );
        assert_eq!(kernel.dataplane.list_hits(1).unwrap().packets, 1);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn deny_comes_before_ban_and_ban_before_threshold() {
    for family in FAMILIES {
        let kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(1))]);
        let frame = call(CALLER[family], 80);
        assert_eq!(kernel.reason(&frame), Reason::Pass);
        assert_eq!(kernel.reason(&frame), Reason::Threshold);
        kernel.ban(UNIT[family], MINUTE);
        assert_eq!(kernel.reason(&frame), Reason::Ban);
        kernel.deny(NETWORK[family]);
        assert_eq!(kernel.reason(&frame), Reason::Deny);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_longest_prefix_of_a_list_decides() {
    let kernel = Kernel::new();
    kernel.deny("198.18.0.0/16");
    kernel.put("198.18.0.0/24", FOREVER, FOREVER);
    kernel.put("198.18.0.16", FOREVER, FOREVER);
    assert_eq!(kernel.reason(&call("198.18.0.16", 80)), Reason::Allow);
    assert_eq!(kernel.reason(&call("198.18.0.17", 80)), Reason::Allow);
    assert_eq!(kernel.reason(&call("198.18.1.17", 80)), Reason::Deny);
    assert_eq!(kernel.reason(&call("198.19.1.17", 80)), Reason::Pass);
    kernel.stand("198.18.0.0/24".parse().unwrap(), None);
    assert_eq!(kernel.reason(&call("198.18.0.17", 80)), Reason::Deny);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_default_route_of_a_family_is_a_prefix_like_any_other() {
    let kernel = Kernel::new();
    kernel.deny("0.0.0.0/0");
    assert_eq!(kernel.reason(&call(CALLER[0], 80)), Reason::Deny);
    assert_eq!(kernel.reason(&call(CALLER[1], 80)), Reason::Pass);
    kernel.deny("::/0");
    assert_eq!(kernel.reason(&call(CALLER[1], 80)), Reason::Deny);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn deadlines_end_by_themselves() {
    for family in FAMILIES {
        let mut kernel = Kernel::new();
        let end = kernel.now() + 1_000_000_000;
        kernel.put(CALLER[family], 0, end);
        kernel.set_now(end - 1);
        assert_eq!(kernel.reason(&call(CALLER[family], 80)), Reason::Deny);
        kernel.set_now(end);
        assert_eq!(kernel.reason(&call(CALLER[family], 80)), Reason::Pass);
        let end = kernel.now() + 1_000_000_000;
        kernel.put(CALLER[family], end, FOREVER);
        kernel.set_now(end - 1);
        assert_eq!(kernel.reason(&call(CALLER[family], 80)), Reason::Allow);
        kernel.set_now(end);
        assert_eq!(kernel.reason(&call(CALLER[family], 80)), Reason::Deny);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_ban_ends_at_its_deadline_and_counts_what_it_dropped() {
    for family in FAMILIES {
        let mut kernel = Kernel::new();
        kernel.ban(UNIT[family], MINUTE);
        let frame = call(CALLER[family], 80);
        for _ in 0..3 {
            assert_eq!(kernel.reason(&frame), Reason::Ban);
        }
        let ban = kernel
            .dataplane
            .ban_of(UNIT[family].parse().unwrap())
            .unwrap()
            .unwrap();
        assert_eq!((ban.packets, ban.bytes), (3, 3 * frame.len() as u64));
        assert!(!kernel.is_counted(UNIT[family]));
        kernel.set_now(ban.until - 1);
        assert_eq!(kernel.reason(&frame), Reason::Ban);
        kernel.set_now(ban.until);
        assert_eq!(kernel.reason(&frame), Reason::Pass);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_ban_forever_does_not_end() {
    let mut kernel = Kernel::new();
    kernel
        .dataplane
        .ban(UNIT[0].parse().unwrap(), FOREVER)
        .unwrap();
    kernel.set_now(FOREVER - 1);
    assert_eq!(kernel.reason(&call(CALLER[0], 80)), Reason::Ban);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_replaced_list_is_switched_to_whole() {
    let kernel = Kernel::new();
    kernel.deny("198.18.0.0/24");
    let deny = packetwatch_abi::Standing {
        deny_until: FOREVER,
        ..Default::default()
    };
    kernel.replace([("198.18.1.0/24".parse().unwrap(), deny)]);
    assert_eq!(kernel.reason(&call("198.18.0.16", 80)), Reason::Pass);
    assert_eq!(kernel.reason(&call("198.18.1.16", 80)), Reason::Deny);
    // What is changed next is changed in the new one.
    kernel.deny("198.18.2.0/24");
    assert_eq!(kernel.reason(&call("198.18.2.16", 80)), Reason::Deny);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn observe_mode_judges_and_drops_nothing() {
    for family in FAMILIES {
        let mut kernel = Kernel::with_rules(vec![rule("calls", Trigger::Connections(1))]);
        kernel.observe(true);
        let frame = call(CALLER[family], 80);
        let passed = |kernel: &Kernel, frame: &[u8], reason| {
            let outcome = kernel.judge(frame);
            assert_eq!((outcome.action, outcome.reason), (Action::Pass, reason));
            outcome.observed
        };
        assert!(!passed(&kernel, &frame, Reason::Pass));
        // Beyond the threshold calls go on passing, and are reported as offences.
        assert!(passed(&kernel, &frame, Reason::Threshold));
        assert_eq!(kernel.offences().len(), 1);
        kernel.ban(UNIT[family], MINUTE);
        assert!(passed(&kernel, &frame, Reason::Ban));
        kernel.deny(NETWORK[family]);
        assert!(passed(&kernel, &frame, Reason::Deny));
        let five = (0..5).fold(from(CALLER[family]), |frame, tag| frame.vlan(tag));
        assert!(passed(&kernel, &five.build(), Reason::TooManyTags));
        kernel.observe(false);
        assert_eq!(kernel.reason(&frame), Reason::Deny);
    }
}
