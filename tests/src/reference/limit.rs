//! What a source may still send under a rule that limits: a bucket that leaks at the rule's rate.
//!
//! The program keeps the time at which the bucket will be empty; this keeps what is in it. Both
//! count in sixteenths of a nanosecond, and what one packet, call or byte costs in 2^-16 ns, rounded
//! up, since the roundings of many would else add up.

use packetwatch::rules::{Rule, Trigger};

use super::Packet;

const SECOND: u64 = 1_000_000_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// when it was looked at last
    at: u64,
    /// sixteenths of a nanosecond that it takes to leak
    owed: u64,
}

impl Bucket {
    /// Puts a packet in; `false`, and it stays out, if that is more than the burst.
    pub fn take(&mut self, rule: &Rule, amount: u64, now: u64) -> bool {
        self.leak(now);
        let owed = self.owed + cost(rule, amount);
        let fits = owed <= cost_of(rule, rule.burst.into());
        if fits {
            self.owed = owed;
        }
        fits
    }

    pub fn give_back(&mut self, rule: &Rule, amount: u64) {
        self.owed -= cost(rule, amount);
    }

    /// What is in it at this time.
    pub fn owed(&self, now: u64) -> u64 {
        self.owed.saturating_sub((now - self.at) * 16)
    }

    fn leak(&mut self, now: u64) {
        self.owed = self.owed(now);
        self.at = now;
    }
}

/// What a rule looks at, of one packet; `None` if it does not.
pub fn amount(rule: &Rule, packet: &Packet, bytes: u64) -> Option<u64> {
    match rule.trigger {
        Trigger::Bytes(_) => Some(bytes),
        Trigger::Packets(_) => Some(1),
        Trigger::Connections(_) => packet.call.then_some(1),
        Trigger::DistinctPorts(_) => None,
    }
}

fn cost(rule: &Rule, amount: u64) -> u64 {
    cost_of(rule, amount.into())
}

fn cost_of(rule: &Rule, amount: u128) -> u64 {
    let one = u128::from((SECOND << 16).div_ceil(rule.trigger.count()));
    ((one * amount) >> 12) as u64
}
