//! The program alone: places, the sketch, the threshold.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use ipnet::Ipv6Net;
use packetwatch::{
    dataplane::Capacities,
    rules::{Rule, Trigger},
};
use packetwatch_abi::{Action, Admission, Prefix, Reason, SKETCH_ROWS, SketchKeys};
use packetwatch_tests::{Frame, Kernel, Runner};

use super::{HOST, call, readdress, spoofed, spoofed_in_both};

/// In each family; of IPv6 any address of its /64.
const HEAVY: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 19, 0, 9)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 9)),
];
const HEAVY_UNIT: [&str; 2] = ["198.19.0.9/32", "2001:db8:9::/64"];
const CALLERS: u32 = 4096;

fn kernel(trigger: Trigger, threshold: u64, places: u64) -> Kernel {
    let capacities = Capacities {
        callers: CALLERS,
        ..Capacities::default()
    };
    let kernel = Kernel::with_capacities(vec![Rule::new("rule", trigger)], capacities);
    let admission = Admission { threshold, places };
    kernel.dataplane.set_admission(admission).unwrap();
    kernel
}

fn counted(kernel: &Kernel) -> usize {
    kernel.dataplane.callers().unwrap().len()
}

/// What it is counted as.
fn unit(source: IpAddr) -> Prefix {
    match source {
        IpAddr::V4(v4) => Prefix::address_v4(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(v6) => {
            let octets = v6.octets();
            let (words, []) = octets.as_chunks() else {
                unreachable!("four words")
            };
            let words = std::array::from_fn(|n| u32::from_ne_bytes(words[n]));
            Prefix::address_v6(words).truncated(64)
        }
    }
}

/// Another address of the same unit, where there is one.
fn neighbour(source: IpAddr, n: u32) -> IpAddr {
    match source {
        IpAddr::V4(_) => source,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() ^ u128::from(n)).into(),
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_tick_gives_its_places_and_no_more() {
    let mut kernel = kernel(Trigger::Connections(10), 1, 64);
    let runner = Runner::of(&kernel);
    for tick in 1..=3 {
        for n in 0..500 {
            assert_eq!(
                runner.run(&call(spoofed_in_both(tick * 1000 + n), 80), 1),
                Action::Pass
            );
        }
        assert_eq!(counted(&kernel), 64 * tick as usize);
        kernel.advance(Duration::from_nanos(1 << 27));
    }
    let counts = kernel.dataplane.admission_counts().unwrap();
    assert_eq!((counts.first_sight, counts.sketched), (192, 3 * 436));
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn whom_a_full_table_does_not_take_is_counted_as_not_admitted() {
    const PLACES: u64 = 1 << 20;
    let kernel = kernel(Trigger::Connections(10), 1, PLACES);
    let runner = Runner::of(&kernel);
    let not_admitted = || {
        let counts = kernel.dataplane.admission_counts().unwrap();
        (counts.refused, counts.not_admitted())
    };
    for n in 0..CALLERS {
        runner.run(&call(spoofed_in_both(n), 80), 1);
    }
    assert_eq!(
        (counted(&kernel), not_admitted()),
        (CALLERS as usize, (0, 0))
    );
    for n in 0..100 {
        let frame = call(spoofed_in_both(CALLERS + n), 80);
        assert_eq!(runner.run(&frame, 1), Action::Pass);
    }
    assert_eq!(not_admitted(), (100, 100));
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_host_that_is_up_for_long_gives_places_too() {
    // Tags of ticks and of the sketch's epochs come round after 26 and 834 days. Nothing was
    // written before; then a long time passes without a flood.
    for days in [1, 14, 20, 25, 27, 40, 420, 600, 833, 900] {
        let uptime = Duration::from_hours(24 * days);
        let mut kernel = kernel(Trigger::Connections(10), 1, 64);
        kernel.set_now(uptime.as_nanos() as u64);
        let runner = Runner::of(&kernel);
        for pause in [Duration::ZERO, Duration::from_hours(24 * 14)] {
            kernel.advance(pause);
            for tick in 0..2 {
                let before = kernel.dataplane.admission_counts().unwrap();
                let first = (pause.as_secs() + days * 10 + tick) as u32 * 200;
                for n in 0..200 {
                    runner.run(&call(spoofed(first + n), 80), 1);
                }
                let after = kernel.dataplane.admission_counts().unwrap();
                let given = after.first_sight - before.first_sight;
                assert_eq!(given, 64, "{days} days, {pause:?} later, tick {tick}");
                kernel.advance(Duration::from_nanos(1 << 27));
            }
        }
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn under_a_threshold_a_source_is_counted_exactly_from_then_on() {
    for (heavy, heavy_unit) in HEAVY.into_iter().zip(HEAVY_UNIT) {
        for threshold in [4, 5, 100] {
            let mut kernel = kernel(Trigger::Connections(10), threshold, 64);
            let next = |n| kernel.reason(&call(neighbour(heavy, n as u32), 80));
            for n in 1..threshold {
                assert_eq!(next(n), Reason::Pass);
            }
            assert_eq!(counted(&kernel), 0, "one short of {threshold}");
            for n in 0..10 {
                assert_eq!(next(n), Reason::Pass);
            }
            assert_eq!(kernel.caller(heavy_unit).calls, 10, "from zero");
            assert_eq!(next(10), Reason::Threshold);
            assert_eq!(kernel.offences().len(), 1);
        }
    }
}

fn datagram(source: IpAddr) -> Vec<u8> {
    let host = HOST[usize::from(source.is_ipv6())];
    Frame::new().ip(source, host).udp(1, 2).build()
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_no_rule_looks_at_takes_no_place_and_no_cell() {
    const PLACES: u64 = 64;
    // Of these, few are entered in places of their own, and none under a flood.
    for (threshold, own) in [(1, PLACES / 16), (4, 0)] {
        let kernel = kernel(Trigger::Connections(10), threshold, PLACES);
        kernel.allow("198.19.5.0/24");
        let allowed = |n: u32| call(IpAddr::from([198, 19, 5, n as u8]), 80);
        for n in 0..250 {
            for frame in [datagram(spoofed_in_both(n)), allowed(n)] {
                assert_ne!(kernel.reason(&frame), Reason::Threshold);
            }
        }
        let counts = kernel.dataplane.admission_counts().unwrap();
        assert_eq!(
            (counts.ignored, counts.sketched, counts.admitted()),
            (500 - own, 0, own)
        );
        // As many as before find a place at once, the others only as they call often.
        for n in 0..100 {
            assert_eq!(
                kernel.reason(&call(spoofed_in_both(1000 + n), 80)),
                Reason::Pass
            );
        }
        let counts = kernel.dataplane.admission_counts().unwrap();
        let given = if threshold == 1 { PLACES } else { 0 };
        assert_eq!(
            (counts.admitted() - own, counts.sketched),
            (given, 100 - given)
        );
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn who_is_looked_at_by_the_rules_of_one_unit_takes_places_of_that_unit() {
    let by_calls = Rule::new("calls", Trigger::Connections(10));
    let by_packets = Rule {
        prefix_v4: 24,
        ..Rule::new("packets", Trigger::Packets(1_000_000))
    };
    let capacities = Capacities::default();
    let kernel = Kernel::with_capacities(vec![by_calls, by_packets], capacities);
    let admission = Admission {
        threshold: 4,
        places: 64,
    };
    kernel.dataplane.set_admission(admission).unwrap();
    for _ in 0..4 {
        assert_eq!(kernel.reason(&datagram(HEAVY[0])), Reason::Pass);
    }
    assert!(kernel.is_counted("198.19.0.0/24"));
    assert!(!kernel.is_counted("198.19.0.9/32"));
    let counts = kernel.dataplane.admission_counts().unwrap();
    assert_eq!((counts.ignored, counts.sketched), (4, 3));
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_is_in_the_sketch_halves_with_each_epoch() {
    const EPOCH: Duration = Duration::from_nanos(1 << 32);
    for heavy in HEAVY {
        let mut kernel = kernel(Trigger::Connections(10), 100, 64);
        let frame = call(heavy, 80);
        (0..96).for_each(|_| assert_eq!(kernel.reason(&frame), Reason::Pass));
        kernel.advance(EPOCH);
        // 48 are left of 96.
        (0..51).for_each(|_| assert_eq!(kernel.reason(&frame), Reason::Pass));
        assert_eq!(counted(&kernel), 0);
        assert_eq!(kernel.reason(&frame), Reason::Pass);
        assert_eq!(counted(&kernel), 1);
    }
}

/// Whatever number of sources: the known ones stay, the table does not grow, the heavy ones are found
/// and nobody else is accused.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn ten_million_sources_hide_nobody_and_evict_nobody() {
    const SOURCES: u32 = 10_000_000;
    const WATCHED: u32 = 100;
    let mut kernel = kernel(Trigger::Connections(50), 1, u64::from(WATCHED));
    kernel.deny("198.19.3.0/24");
    kernel.deny("2001:db8:3::/48");
    kernel.ban("198.19.4.4", Duration::from_secs(3600));
    kernel.ban("2001:db8:4::/64", Duration::from_secs(3600));
    kernel.allow("198.19.5.5");
    kernel.allow("2001:db8:5::5");
    for n in 0..WATCHED {
        for port in 1..=3 {
            kernel.reason(&call(watched(n), port));
        }
    }
    // What the daemon would come to: ten million within an epoch are 76 a cell.
    let admission = Admission {
        threshold: 128,
        places: 64,
    };
    kernel.dataplane.set_admission(admission).unwrap();

    let runner = Runner::of(&kernel);
    let mut flood = HEAVY.map(|source| call(source, 443));
    let (mut heavy_calls, mut found_after) = ([0; 2], [None; 2]);
    for n in 0..SOURCES {
        let source = spoofed_in_both(n);
        let frame = &mut flood[usize::from(source.is_ipv6())];
        readdress(frame, source);
        assert_eq!(runner.run(frame, 1), Action::Pass, "call {n} of the flood");
        if n % 1000 == 0 {
            // Three million a second, and one in two thousand of them each heavy one's.
            kernel.advance(Duration::from_micros(333));
            let family = (n / 1000 % 2) as usize;
            heavy_calls[family] += 1;
            let heavy = call(neighbour(HEAVY[family], n), 22);
            if runner.run(&heavy, 1) == Action::Drop {
                found_after[family].get_or_insert(heavy_calls[family]);
            }
        }
    }
    for found_after in found_after {
        let found_after = found_after.expect("the heavy source is found");
        assert!(found_after <= 50 + 128 + 1, "late by {found_after} calls");
    }
    for offence in kernel.offences() {
        assert!(HEAVY.map(unit).contains(&offence.unit), "{offence:?}");
    }
    for n in 0..WATCHED {
        let of = match watched(n) {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => Ipv6Net::new_assert(v6, 64).trunc().to_string(),
        };
        assert_eq!(kernel.caller(&of).calls, 3);
    }
    assert!(
        counted(&kernel) < WATCHED as usize + 100,
        "{}",
        counted(&kernel)
    );
    for (source, reason) in [
        ("198.19.3.3", Reason::Deny),
        ("2001:db8:3::3", Reason::Deny),
        ("198.19.4.4", Reason::Ban),
        ("2001:db8:4::4", Reason::Ban),
        ("198.19.5.5", Reason::Allow),
        ("2001:db8:5::5", Reason::Allow),
    ] {
        assert_eq!(kernel.reason(&call(source.parse().unwrap(), 80)), reason);
    }
}

/// By turns of both families, each of a unit of its own.
fn watched(n: u32) -> IpAddr {
    if n.is_multiple_of(2) {
        IpAddr::from((0xc613_0100 + n).to_be_bytes())
    } else {
        IpAddr::from([0x2001, 0xdb8, 1, n as u16, 0, 0, 0, 7])
    }
}

/// Who knows everything but the keys can aim at no one.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn sources_that_collide_under_other_keys_gain_nothing() {
    const THRESHOLD: u64 = 64;
    let mut random = 0x5851_f42d_4c95_7f2du64;
    let keys = SketchKeys {
        rows: [[0; 7]; SKETCH_ROWS].map(|row| {
            row.map(|_| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                random ^ (random >> 29)
            })
        }),
    };
    // Under keys that one knows this is all it takes: in each row sources that share the cell, and
    // call often, but not often enough to get an entry.
    let mut aimed = Vec::new();
    for victim in HEAVY.map(unit) {
        for row in 0..SKETCH_ROWS {
            let cell = keys.cell(row, &victim);
            let collide = (0..1 << 22).map(spoofed_in_both);
            let collide = collide.filter(|source| keys.cell(row, &unit(*source)) == cell);
            let collide: Vec<IpAddr> = collide.take(4).collect();
            assert_eq!(collide.len(), 4, "row {row}");
            aimed.extend(collide);
        }
    }
    let of_v6 = aimed.iter().filter(|source| source.is_ipv6()).count();
    assert!((1..aimed.len()).contains(&of_v6), "{aimed:?}");
    let kernel = kernel(Trigger::Connections(50), THRESHOLD, 64);
    let runner = Runner::of(&kernel);
    for source in &aimed {
        for n in 1..THRESHOLD {
            let frame = call(neighbour(*source, n as u32), 80);
            assert_eq!(runner.run(&frame, 1), Action::Pass);
        }
    }
    // One short of the threshold would lie in each of the victims' cells.
    for heavy in HEAVY {
        assert_eq!(kernel.reason(&call(heavy, 80)), Reason::Pass);
    }
    assert_eq!(
        counted(&kernel),
        0,
        "one of {HEAVY:?} was taken for a heavy source"
    );
    let sketched = kernel.dataplane.admission_counts().unwrap().sketched;
    assert_eq!(sketched, (THRESHOLD - 1) * aimed.len() as u64 + 2);
}
