//! The program alone: places, the sketch, the threshold.

use std::{net::IpAddr, time::Duration};

use packetwatch::{
    dataplane::Capacities,
    rules::{Rule, Trigger},
};
use packetwatch_abi::{Action, Admission, Prefix, Reason, SKETCH_ROWS, SketchKeys};
use packetwatch_tests::{Kernel, Runner};

use super::{call, readdress, spoofed};

const HEAVY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(198, 19, 0, 9));
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

#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_tick_gives_its_places_and_no_more() {
    let mut kernel = kernel(Trigger::Connections(10), 1, 64);
    let runner = Runner::of(&kernel);
    for tick in 1..=3 {
        for n in 0..500 {
            assert_eq!(
                runner.run(&call(spoofed(tick * 1000 + n), 80), 1),
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
        runner.run(&call(spoofed(n), 80), 1);
    }
    assert_eq!(
        (counted(&kernel), not_admitted()),
        (CALLERS as usize, (0, 0))
    );
    for n in 0..100 {
        assert_eq!(runner.run(&call(spoofed(CALLERS + n), 80), 1), Action::Pass);
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
    for threshold in [4, 5, 100] {
        let mut kernel = kernel(Trigger::Connections(10), threshold, 64);
        let frame = call(HEAVY, 80);
        for _ in 1..threshold {
            assert_eq!(kernel.reason(&frame), Reason::Pass);
        }
        assert_eq!(counted(&kernel), 0, "one short of {threshold}");
        for _ in 0..10 {
            assert_eq!(kernel.reason(&frame), Reason::Pass);
        }
        assert_eq!(kernel.caller("198.19.0.9").calls, 10, "from zero");
        assert_eq!(kernel.reason(&frame), Reason::Threshold);
        assert_eq!(kernel.offences().len(), 1);
    }
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_no_rule_looks_at_takes_no_place_and_no_cell() {
    let kernel = kernel(Trigger::Connections(10), 4, 64);
    let udp = packetwatch_tests::Frame::new()
        .ip(HEAVY, super::HOST)
        .udp(1, 2)
        .build();
    (0..100).for_each(|_| assert_eq!(kernel.reason(&udp), Reason::Pass));
    let counts = kernel.dataplane.admission_counts().unwrap();
    assert_eq!(
        (counts.ignored, counts.sketched, counts.admitted()),
        (100, 0, 0)
    );
    // A rule over packets looks at each.
    let kernel = self::kernel(Trigger::Packets(10), 4, 64);
    (0..4).for_each(|_| assert_eq!(kernel.reason(&udp), Reason::Pass));
    assert_eq!(counted(&kernel), 1);
}

#[test]
#[ignore = "needs root: loads the XDP program"]
fn what_is_in_the_sketch_halves_with_each_epoch() {
    const EPOCH: Duration = Duration::from_nanos(1 << 32);
    let mut kernel = kernel(Trigger::Connections(10), 100, 64);
    let frame = call(HEAVY, 80);
    (0..96).for_each(|_| assert_eq!(kernel.reason(&frame), Reason::Pass));
    kernel.advance(EPOCH);
    // 48 are left of 96.
    (0..51).for_each(|_| assert_eq!(kernel.reason(&frame), Reason::Pass));
    assert_eq!(counted(&kernel), 0);
    assert_eq!(kernel.reason(&frame), Reason::Pass);
    assert_eq!(counted(&kernel), 1);
}

/// Whatever number of sources: the known ones stay, the table does not grow, the heavy one is found
/// and nobody else is accused.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn ten_million_sources_hide_nobody_and_evict_nobody() {
    const SOURCES: u32 = 10_000_000;
    const WATCHED: u32 = 100;
    let mut kernel = kernel(Trigger::Connections(50), 1, u64::from(WATCHED));
    kernel.deny("198.19.3.0/24");
    kernel.ban("198.19.4.4", Duration::from_secs(3600));
    kernel.allow("198.19.5.5");
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
    let mut flood = call(HEAVY, 443);
    let heavy = call(HEAVY, 22);
    let (mut heavy_calls, mut found_after) = (0, None);
    for n in 0..SOURCES {
        readdress(&mut flood, spoofed(n));
        assert_eq!(runner.run(&flood, 1), Action::Pass, "call {n} of the flood");
        if n % 1000 == 0 {
            // Three million a second, and one in a thousand of them the heavy one's.
            kernel.advance(Duration::from_micros(333));
            heavy_calls += 1;
            if runner.run(&heavy, 1) == Action::Drop {
                found_after.get_or_insert(heavy_calls);
            }
        }
    }
    let found_after = found_after.expect("the heavy source is found");
    assert!(found_after <= 50 + 128 + 1, "late by {found_after} calls");
    for offence in kernel.offences() {
        assert_eq!(
            offence.source,
            Prefix::address_v4(u32::from_ne_bytes([198, 19, 0, 9]))
        );
    }
    for n in 0..WATCHED {
        assert_eq!(kernel.caller(&watched(n).to_string()).calls, 3);
    }
    assert!(
        counted(&kernel) < WATCHED as usize + 100,
        "{}",
        counted(&kernel)
    );
    for (source, reason) in [
        ("198.19.3.3", Reason::Deny),
        ("198.19.4.4", Reason::Ban),
        ("198.19.5.5", Reason::Allow),
    ] {
        assert_eq!(kernel.reason(&call(source.parse().unwrap(), 80)), reason);
    }
}

fn watched(n: u32) -> IpAddr {
    IpAddr::from((0xc613_0100 + n).to_be_bytes())
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
    let prefix = |address: IpAddr| match address {
        IpAddr::V4(v4) => Prefix::address_v4(u32::from_ne_bytes(v4.octets())),
        IpAddr::V6(_) => unreachable!("IPv4 here"),
    };
    let victim = prefix(HEAVY);
    // Under keys that one knows this is all it takes: in each row a source that shares the cell, and
    // calls often, but not often enough to get an entry.
    let mut aimed = Vec::new();
    for row in 0..SKETCH_ROWS {
        let cell = keys.cell(row, &victim);
        let collide = (0..1 << 22).map(spoofed);
        let collide = collide.filter(|source| keys.cell(row, &prefix(*source)) == cell);
        let collide: Vec<IpAddr> = collide.take(3).collect();
        assert_eq!(collide.len(), 3, "row {row}");
        aimed.extend(collide);
    }
    let kernel = kernel(Trigger::Connections(50), THRESHOLD, 64);
    let runner = Runner::of(&kernel);
    for source in &aimed {
        for _ in 1..THRESHOLD {
            assert_eq!(runner.run(&call(*source, 80), 1), Action::Pass);
        }
    }
    // One short of the threshold would lie in each of the victim's cells.
    assert_eq!(kernel.reason(&call(HEAVY, 80)), Reason::Pass);
    assert_eq!(counted(&kernel), 0, "{HEAVY} was taken for a heavy source");
    let sketched = kernel.dataplane.admission_counts().unwrap().sketched;
    assert_eq!(sketched, (THRESHOLD - 1) * aimed.len() as u64 + 1);
}
