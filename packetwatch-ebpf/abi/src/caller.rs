//! What is known of one caller: an address, or the unit that a rule counts by.

use crate::{
    policy::MAX_RULES,
    prefix::Prefix,
    window::{BUCKETS, epoch},
};

/// Ports that a caller's table holds: the largest N of a `distinct_ports` rule.
pub const MAX_PORTS: usize = 64;

/// The counts of one unit. The program alone writes; the daemon reads and removes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Whose counts these are: the key once more. A removed element is reused at once (since kernel
    /// 6.1, before after a grace period), so a CPU that found it just before can tell.
    pub unit: Prefix,
    pub first_seen: u64,
    pub last_seen: u64,
    pub calls: u64,
    pub packets: u64,
    pub bytes: u64,
    /// dropped by a rule, with reason `threshold` or `limit`; drops under a ban are counted by the ban
    pub dropped: u64,
    /// Nothing from before counts: the end of the last ban, or of the last rules.
    pub since: Since,
    /// When the caller was last allowed: what it did until then counts for no rule.
    pub allowed_at: u64,
    /// When the caller last went beyond a rule. Beyond `since`, it is an offence not yet banned.
    pub offended_at: u64,
    /// the address that did
    pub offender: Prefix,
    /// the first rule that it went beyond
    pub offence_rule: u32,
    /// of the rules that the windows were kept under
    pub generation: u32,
    /// not 0 while a CPU adds a port
    pub port_lock: u64,
    pub windows: [[u64; BUCKETS]; MAX_RULES],
    /// [`PortSeen`] each, in no order
    pub ports: [u64; MAX_PORTS],
}

const _: () = assert!(size_of::<Caller>() == 24 + 72 + 24 + 16 + 512 + 512);

/// When a caller's counting began, and how often it did so.
///
/// The time in steps of [`PortSeen::STEP`] in the upper 48 bits, above a number that changes each
/// time and is part of every bucket's tag. So one compare-and-swap voids windows and ports, for all
/// CPUs at once, and nothing has to be cleared while others count.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since(pub u64);

impl Since {
    const ROUND_MASK: u64 = PortSeen::STEP - 1;
    /// Rounds keep their distance in the tags of buckets: 2^12 epochs are 512 of the shortest
    /// windows, and after as many rounds they come again. That holds for buckets of one length:
    /// under other rules, windows are cleared besides.
    const ROUND_SHIFT: u32 = 12;

    /// Counting that begins at `at`, the last having been this one.
    #[inline(always)]
    pub const fn next(self, at: u64) -> Self {
        let round = self.0.wrapping_add(1) & Self::ROUND_MASK;
        Self((at & !Self::ROUND_MASK) | round)
    }

    /// The step that it began at, nanoseconds.
    #[inline(always)]
    pub const fn at(self) -> u64 {
        self.0 & !Self::ROUND_MASK
    }

    /// Whether `at` lies in a later step.
    #[inline(always)]
    pub const fn is_before(self, at: u64) -> bool {
        self.at() < at & !Self::ROUND_MASK
    }

    /// The epoch that buckets are tagged with: [`epoch`], in a range of this round's own. Its
    /// bucket is in the same place.
    #[inline(always)]
    pub const fn epoch(self, now: u64, bucket_ns: u64) -> u64 {
        let round = (self.0 & Self::ROUND_MASK) << Self::ROUND_SHIFT;
        epoch(now, bucket_ns).wrapping_add(round)
    }
}

/// A destination port and when it was last called: time in the upper 48 bits, in steps of 65.5 us,
/// finer than the coarse clock; port in the lower 16, host byte order. 0 is an empty slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSeen(pub u64);

impl PortSeen {
    const PORT_MASK: u64 = 0xffff;
    /// nanoseconds that a slot cannot tell apart
    pub const STEP: u64 = 1 << 16;

    #[inline(always)]
    pub const fn new(now: u64, port: u16) -> Self {
        Self((now & !Self::PORT_MASK) | port as u64)
    }

    #[inline(always)]
    pub const fn port(self) -> u16 {
        self.0 as u16
    }

    #[inline(always)]
    pub const fn at(self) -> u64 {
        self.0 & !Self::PORT_MASK
    }

    /// 1 if the port was called less than `reach` before `now`, else 0. A `reach` from
    /// [`PortSeen::reach`] leaves out empty slots and what is older than the caller's `since`.
    ///
    /// Without a branch: over 64 slots the verifier would follow each combination of them.
    #[inline(always)]
    pub const fn fresh(self, now: u64, reach: u64) -> u64 {
        (now & !Self::PORT_MASK)
            .wrapping_sub(self.at())
            .wrapping_sub(reach)
            >> 63
    }

    /// How far back a window of `within` reaches at `now` when nothing before `since` counts; what
    /// was called in its step does. An empty slot was called at time 0, which no reach includes,
    /// however young the clock.
    #[inline(always)]
    pub const fn reach(now: u64, since: Since, within: u64) -> u64 {
        let since = since.at();
        let earliest = if since == 0 { Self::STEP } else { since };
        let known = match (now & !Self::PORT_MASK).checked_sub(earliest) {
            Some(known) => known + 1,
            None => 0,
        };
        if within < known { within } else { known }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::{Bucket, place};

    #[test]
    fn a_new_round_voids_every_bucket_and_keeps_its_place() {
        let bucket_ns = 125_000_000;
        let mut since = Since::default();
        for round in 1..5000u64 {
            let now = round * 1_000_000_000;
            let next = since.next(now);
            assert_eq!(next.at(), now & !0xffff);
            assert!(since.is_before(now) && !next.is_before(now));
            let (old, new) = (since.epoch(now, bucket_ns), next.epoch(now, bucket_ns));
            assert_eq!(place(old), place(new));
            assert!(!Bucket::new(old, 1).is_of(new), "round {round}");
            since = next;
        }
    }
}
