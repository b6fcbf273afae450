//! Sequences on which program and reference disagreed, as the differential test printed them. Each
//! is the shortest that shows a mistake which was made, or planted to see it found.

use packetwatch::rules::Trigger;
use packetwatch_tests::kernel::net;

use super::{
    rig::{Care, Rig},
    step::{
        Step::{self, *},
        frame, rule,
    },
};

fn agree(steps: Vec<Step>) {
    if let Err(mismatch) = Rig::new().run(&steps, Care::AtEachStep) {
        panic!("{mismatch}");
    }
}

/// Planted: 0x0fff as the mask of IPv4's fragment offset.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn the_fragment_offset_has_thirteen_bits() {
    agree(vec![frame(
        "0200000000010200000000029100000588a800058100000588a8000508004c00003e5057300040067439a9fe010a\
         c6120001",
    )]);
}

/// Planted: a window of nine buckets.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_window_is_eight_eighths_long() {
    let call = || {
        frame(
            "0200000000010200000000020800450000285057000040069952c6120501c61200019c400050000000000000\
             00005002",
        )
    };
    let day = 86_400_000_000_000;
    agree(vec![
        Rules(vec![rule(0, Trigger::Connections(1), day, (24, 64))]),
        call(),
        Clock(day),
        call(),
    ]);
}

/// Made: windows that other rules had kept were voided by a number in their tags alone.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn buckets_of_another_length_are_not_taken_for_ones_own() {
    let calls = || {
        frame(
            "02000000000102000000000286dd600000000014064000000000000000000000ffffc612050120010db8000000\
             000000000000000001",
        )
    };
    agree(vec![
        Rules(vec![rule(
            0,
            Trigger::Bytes(3888),
            60_000_000_000,
            (25, 16),
        )]),
        Clock(92_308_696_463_712),
        calls(),
        Clock(9_734_095_683),
        Rules(vec![rule(0, Trigger::Bytes(943), 60_000_000_000, (16, 16))]),
        // A packet that is no call leaves the buckets of the first rules where they are.
        frame(
            "02000000000102000000000286dd600000000004294000000000000000000000ffffc612050120010db8000200\
             11f9a88feae9570c8b",
        ),
        Clock(172_800_434_480_563),
        Rules(vec![rule(
            0,
            Trigger::DistinctPorts(5),
            8_000_000_000,
            (16, 16),
        )]),
        calls(),
        Rules(vec![rule(
            0,
            Trigger::Connections(10),
            86_400_000_000_000,
            (16, 16),
        )]),
        calls(),
    ]);
}

/// Planted: `<=` where a ban's deadline is compared.
#[test]
#[ignore = "needs root: loads the XDP program"]
fn a_ban_ends_at_its_deadline() {
    agree(vec![
        Ban(net("198.19.5.1/32"), 1_000_000_001),
        Clock(1),
        frame("0200000000010200000000020800450000285057000040069951c6130501c6120001"),
    ]);
}
