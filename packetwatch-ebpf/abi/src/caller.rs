//! What is known of one caller: an address, or the unit that a rule counts by.

use crate::{policy::MAX_RULES, prefix::Prefix, window::BUCKETS};

/// Ports that a caller's table holds: the largest N of a `distinct_ports` rule.
pub const MAX_PORTS: usize = 64;

/// The counts of one unit. The program alone writes; the daemon reads and removes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub first_seen: u64,
    pub last_seen: u64,
    pub calls: u64,
    pub packets: u64,
    pub bytes: u64,
    /// dropped with reason `threshold`; drops under a ban are counted by the ban
    pub dropped: u64,
    /// The windows hold nothing from before: the end of the last ban, or of the last rules.
    pub since: u64,
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
    pub windows: [[u64; BUCKETS]; MAX_RULES],
    /// [`PortSeen`] each, in no order
    pub ports: [u64; MAX_PORTS],
}

const _: () = assert!(size_of::<Caller>() == 72 + 24 + 8 + 512 + 512);

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
    /// was called at `since` does. An empty slot was called at time 0, which no reach includes,
    /// however young the clock.
    #[inline(always)]
    pub const fn reach(now: u64, since: u64, within: u64) -> u64 {
        let since = since & !Self::PORT_MASK;
        let earliest = if since == 0 { Self::STEP } else { since };
        let known = match (now & !Self::PORT_MASK).checked_sub(earliest) {
            Some(known) => known + 1,
            None => 0,
        };
        if within < known { within } else { known }
    }
}
