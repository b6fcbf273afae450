//! What can be measured on its own, and how much of it.

use clap::ValueEnum;

use crate::{laden::Load, start::Full};

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// the daemon doing nothing: processor time and memory
    Idle,
    /// the program alone, beside xdp-filter's
    Program,
    /// the whole path over veth, beside xdp-filter and nftables
    Path,
    /// from a call to its ban
    Ban,
    /// a good packet by denied prefixes, beside the kernel's trie
    Prefixes,
    /// counting by sources, beside an LRU hash
    Sources,
    /// a good packet by rules
    Rules,
    /// a good packet by interfaces
    Interfaces,
    /// the daemon with a million prefixes and sources
    Laden,
    /// a start with a million prefixes, from pins and from the disk
    Start,
    /// calls beyond the N-th on two CPUs
    Exact,
    /// what a limit passes on two CPUs
    Limit,
}

/// How much is measured.
pub(crate) struct Extent {
    pub(crate) idle_seconds: u64,
    /// of each comparison; odd, so that a median is a round's
    pub(crate) rounds: usize,
    pub(crate) program_repeat: u32,
    /// of a point of a curve in a round
    pub(crate) curve_repeat: u32,
    pub(crate) prefixes: &'static [usize],
    pub(crate) sources: &'static [u32],
    pub(crate) path_packets: u32,
    pub(crate) ban_samples: usize,
    pub(crate) laden: Load,
    pub(crate) start: Full,
    pub(crate) exact_rounds: usize,
    pub(crate) limit_seconds: u64,
}

impl Extent {
    /// Some ten minutes.
    pub(crate) const FULL: Self = Self {
        idle_seconds: 20,
        rounds: 9,
        program_repeat: 500_000,
        curve_repeat: 200_000,
        prefixes: &[0, 1, 1000, 10_000, 100_000, 1_000_000, 4_000_000],
        // Up to 32 k sources each has an entry; those of more than some 10 k lie in no cache of a CPU.
        sources: &[
            1, 10, 100, 1000, 10_000, 16_000, 20_000, 32_000, 100_000, 1_000_000, 10_000_000,
        ],
        path_packets: 2_000_000,
        ban_samples: 400,
        laden: Load {
            prefixes: 1_000_000,
            bans: 100_000,
            sources: 1_000_000,
            seconds: 60,
            ban_samples: 300,
        },
        start: Full {
            prefixes: 1_000_000,
            bans: 100_000,
            starts: 3,
        },
        exact_rounds: 20,
        limit_seconds: 10,
    };
    /// One to three.
    pub(crate) const QUICK: Self = Self {
        idle_seconds: 5,
        rounds: 5,
        program_repeat: 200_000,
        curve_repeat: 50_000,
        prefixes: &[0, 1000, 1_000_000],
        sources: &[1, 1000, 100_000],
        path_packets: 500_000,
        ban_samples: 100,
        laden: Load {
            prefixes: 100_000,
            bans: 5000,
            sources: 100_000,
            seconds: 6,
            ban_samples: 100,
        },
        start: Full {
            prefixes: 100_000,
            bans: 5000,
            starts: 1,
        },
        exact_rounds: 5,
        limit_seconds: 3,
    };
}
