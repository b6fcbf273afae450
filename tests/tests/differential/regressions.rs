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
