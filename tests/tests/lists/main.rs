//! The allow and deny lists in the kernel: what the program finds in them, that it finds one whole
//! list or the other while they are replaced, and what happens at their bounds.

mod bounds;
mod lookups;
mod swap;

use std::net::IpAddr;

use packetwatch_abi::{Action, Admission, MAX_INTERFACES, Reason};
use packetwatch_tests::{Frame, Kernel, Runner};

/// Where the source address is.
const SOURCE: [usize; 2] = [14 + 12, 14 + 8];

/// A datagram of each family, whose source is written anew for each look-up. No rule looks at it, so
/// that lists alone decide.
struct Frames([Vec<u8>; 2]);

impl Frames {
    fn new() -> Self {
        let frame = |from: &str, to: &str| {
            let addresses = [from, to].map(|address| address.parse().expect("an address"));
            Frame::new()
                .ip(addresses[0], addresses[1])
                .udp(1, 2)
                .build()
        };
        Self([
            frame("198.19.0.1", "198.18.0.1"),
            frame("2001:db8::2", "2001:db8::1"),
        ])
    }

    fn judge(&mut self, runner: &Runner, source: IpAddr) -> Action {
        let Self([v4, v6]) = self;
        let (frame, at) = match source {
            IpAddr::V4(_) => (v4, SOURCE[0]),
            IpAddr::V6(_) => (v6, SOURCE[1]),
        };
        match source {
            IpAddr::V4(source) => frame[at..at + 4].copy_from_slice(&source.octets()),
            IpAddr::V6(source) => frame[at..at + 16].copy_from_slice(&source.octets()),
        }
        runner.run(frame, 1)
    }
}

/// Without rules, and without entries for the sources that pass.
fn kernel() -> Kernel {
    let kernel = Kernel::new();
    let nobody = Admission {
        threshold: u64::MAX,
        places: 0,
    };
    kernel.dataplane.set_admission(nobody).unwrap();
    kernel
}

/// Packets by what the lists said: allow, deny, nothing.
fn counts(kernel: &Kernel) -> [u64; 3] {
    let outcomes = kernel.dataplane.outcomes_in(MAX_INTERFACES as u32).unwrap();
    [Reason::Allow, Reason::Deny, Reason::Pass].map(|wanted| {
        let of = outcomes.iter().filter(|(reason, ..)| *reason == wanted);
        of.map(|(_, _, tally)| tally.packets).sum()
    })
}
