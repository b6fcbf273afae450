//! What the daemon tells the program to do. The program reads one whole policy a packet; the
//! daemon writes those that are not in force and then switches with a single store.
//!
//! Policies come in pairs: one, and the one that takes its place after [`Policy::until`] if nobody
//! has written another by then. So a change on trial ends by itself, whatever became of the daemon.

use crate::{FOREVER, limit::Limit};

/// Two pairs, so that the daemon never writes one that is read.
pub const POLICIES: usize = 4;
pub const MAX_RULES: usize = 8;
pub const MAX_INTERFACES: usize = 16;
/// Different prefix lengths that are counted, per family.
pub const MAX_UNITS: usize = 2;
/// Different prefix lengths of bans, per family: the counted ones, the single address, and those
/// of bans that rules now replaced have left.
pub const MAX_BAN_LENGTHS: usize = 8;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Before this time: judge and count, drop nothing. [`FOREVER`] in observe mode, the end of a
    /// bypass, else 0.
    pub observe_until: u64,
    /// From this time on the other policy of the pair counts; [`FOREVER`] for one that stays.
    pub until: u64,
    /// Windows kept under another generation are void: the rules have changed since.
    pub generation: u32,
    /// calls a second and CPU that are handed to the log
    pub call_budget: u32,
    /// bit per rule that limits instead of banning
    pub limit_rules: u32,
    /// bit per rule that looks at calls: distinct ports, connections
    pub call_rules: u32,
    /// bit per rule that looks at every packet: packets, bytes
    pub volume_rules: u32,
    pub _pad: u32,
    /// ifindex per slot of the outcome counters, 0 for none
    pub interfaces: [u32; MAX_INTERFACES],
    /// prefix lengths that are counted, per family row; 0 for none
    pub units: [[u32; MAX_UNITS]; 2],
    /// bit per rule that counts by that unit
    pub unit_rules: [[u32; MAX_UNITS]; 2],
    /// prefix lengths under which bans may stand, per family row; 0 for none
    pub ban_lengths: [[u32; MAX_BAN_LENGTHS]; 2],
    pub rules: [Rule; MAX_RULES],
}

const _: () = assert!(size_of::<Policy>() == 40 + 64 + 16 + 16 + 64 + 8 * size_of::<Rule>());

#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// [`Trigger`] as a number
    pub trigger: u32,
    pub _pad: u32,
    /// N: that many may lie in the window; at least 1. Of a rule that limits, [`Limit::depth`].
    pub limit: u64,
    /// nanoseconds; of a rule that limits, [`Limit::cost`]
    pub within: u64,
    /// nanoseconds of a bucket: an eighth of `within`; of a rule that limits, unused
    pub bucket: u64,
}

impl Rule {
    /// What a rule that limits says.
    #[inline(always)]
    pub const fn as_limit(&self) -> Limit {
        Limit {
            cost: self.within,
            depth: self.limit,
        }
    }
}

const _: () = assert!(size_of::<Rule>() == 32);

#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    DistinctPorts = 0,
    Connections = 1,
    Packets = 2,
    Bytes = 3,
}

impl Policy {
    /// Whether nothing is dropped at this time.
    #[inline(always)]
    pub const fn observes(&self, now: u64) -> bool {
        now < self.observe_until
    }

    /// Passes everything and counts nothing: what is in force before the first real one.
    pub const fn idle() -> Self {
        const NO_RULE: Rule = Rule {
            trigger: 0,
            _pad: 0,
            limit: 1,
            within: 1,
            bucket: 1,
        };
        Self {
            observe_until: 0,
            until: FOREVER,
            generation: 0,
            call_budget: 0,
            limit_rules: 0,
            call_rules: 0,
            volume_rules: 0,
            _pad: 0,
            interfaces: [0; MAX_INTERFACES],
            units: [[0; MAX_UNITS]; 2],
            unit_rules: [[0; MAX_UNITS]; 2],
            ban_lengths: [[0; MAX_BAN_LENGTHS]; 2],
            rules: [NO_RULE; MAX_RULES],
        }
    }
}
