//! What the verifier is asked to accept.
//!
//! Rules, units, families, modes and lists are data: one program, verified once, reads them from maps
//! for each packet. What changes the program itself is the clock, the level of its debug messages, what
//! is chained behind it, and the sizes of the maps, which are bounds in its look-ups.

use std::time::Duration;

use packetwatch::{
    dataplane::{Capacities, Dataplane, Options},
    rules::{Rule, Trigger},
};
use packetwatch_abi::{Action, MAX_RULES, Reason};
use packetwatch_tests::{Kernel, PinDirectory, Program};

use super::{CALLER, FAMILIES, call};

/// What `[capacity]` takes.
const LEAST: u32 = 1;
const MOST: u32 = 1 << 24;

#[test]
#[ignore = "needs root: loads the XDP program"]
fn every_form_of_the_program_is_accepted() {
    for clock_from_map in [false, true] {
        for debug in [false, true] {
            accepted(Options {
                clock_from_map,
                debug,
                ..Options::default()
            });
        }
    }
    // Before another program, of either kind.
    let pins = PinDirectory::new();
    let kinds = [
        ("xdp", Program::passing()),
        ("frags", Program::passing().with_frags()),
    ];
    for (name, program) in kinds {
        let pin = pins.path().join(name);
        program.pin(&pin);
        for debug in [false, true] {
            accepted(Options {
                chain: Some(pin.clone()),
                debug,
                ..Options::default()
            });
        }
    }
    // A size is the same bound in every form.
    accepted(with_capacity(LEAST));
}

/// It takes the kernel seconds and 3 GiB to make.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_greatest_capacity_is_accepted() {
    accepted(with_capacity(MOST));
}

fn with_capacity(entries: u32) -> Options {
    Options {
        capacities: Capacities {
            lists: entries,
            bans: entries,
            callers: entries,
        },
        ..Options::default()
    }
}

fn accepted(options: Options) {
    let form = format!("{options:?}");
    let loaded = Dataplane::load(options);
    let (dataplane, _events) = loaded.unwrap_or_else(|error| panic!("{form}: {error}"));
    let judged = dataplane.probe(&call(CALLER[0], 80), 1).unwrap();
    assert_eq!(judged.action, Action::Pass, "{form}");
}

/// As data: each of these is another policy for the same program.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn every_combination_of_rules_runs_in_one_program() {
    const LIMIT: u64 = 2;
    let triggers = [
        Trigger::DistinctPorts(LIMIT),
        Trigger::Connections(LIMIT),
        Trigger::Packets(LIMIT),
        Trigger::Bytes(1),
    ];
    let mut kernel = Kernel::new();
    for count in 1..=MAX_RULES {
        for (first, trigger) in triggers.into_iter().enumerate() {
            for units in [
                [(32, 64), (32, 64)],
                [(24, 48), (32, 128)],
                [(8, 16), (32, 64)],
            ] {
                for observe in [false, true] {
                    let rule = |n: usize| {
                        let (prefix_v4, prefix_v6) = units[n % 2];
                        Rule {
                            prefix_v4,
                            prefix_v6,
                            ..Rule::new(format!("rule-{n}"), triggers[(first + n) % 4])
                        }
                    };
                    kernel.set_rules((0..count).map(rule).collect());
                    kernel.observe(observe);
                    for family in FAMILIES {
                        let what = format!("{count} rules from {trigger:?}, {units:?}");
                        let judged =
                            [1, 2, 3].map(|port| kernel.judge(&call(CALLER[family], port)));
                        // The third is beyond the first rule, whichever that is.
                        let last = (judged[2].reason, judged[2].observed);
                        assert_eq!(last, (Reason::Threshold, observe), "{what}");
                        assert!(!kernel.offences().is_empty(), "{what}");
                    }
                    kernel.advance(Duration::from_secs(120));
                }
            }
        }
    }
}
