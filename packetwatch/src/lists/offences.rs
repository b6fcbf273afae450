//! Who was banned before, and how often: the memory that makes repeated bans longer.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use ipnet::IpNet;
use packetwatch_abi::FOREVER;

use super::{bans::after, record::OffenceRecord};
use crate::clock::Clock;

/// Prefixes whose offences are remembered: as many as the default capacity of bans, about 10 MiB.
pub const MAX_OFFENCES: usize = 65_536;

/// Bounded by [`MAX_OFFENCES`]: those whose last ban ended first are forgotten first.
#[derive(Debug, Default)]
pub(super) struct Offences {
    by_prefix: HashMap<IpNet, Offence>,
    /// by the end of the last ban
    by_end: BTreeSet<(u64, IpNet)>,
    /// by the time to forget
    by_oblivion: BTreeSet<(u64, IpNet)>,
}

#[derive(Debug)]
struct Offence {
    count: u32,
    ban_until: u64,
    memory: Duration,
}

impl Offence {
    fn oblivion(&self) -> u64 {
        after(self.ban_until, self.memory)
    }
}

impl Offences {
    const CAPACITY: usize = MAX_OFFENCES;

    pub(super) fn restore(&mut self, prefix: IpNet, record: &OffenceRecord, clock: Clock) {
        // No ban is longer than its memory.
        let longest = time::Duration::try_from(record.memory).unwrap_or(time::Duration::MAX);
        let until = |at: time::OffsetDateTime| {
            let made_at = at.saturating_sub(longest);
            clock.restored(made_at, at, record.mark)
        };
        self.insert(
            prefix,
            Offence {
                count: record.count,
                ban_until: record.ban_ends_at.map_or(FOREVER, until),
                memory: record.memory,
            },
        );
    }

    /// Bans of this prefix that are remembered.
    pub(super) fn count(&self, prefix: IpNet, now: u64) -> u32 {
        let remembered = |offence: &&Offence| now < offence.oblivion();
        let offence = self.by_prefix.get(&prefix).filter(remembered);
        offence.map_or(0, |offence| offence.count)
    }

    /// Remembers the `count`-th ban of a prefix until `memory` after its end. Returns who was
    /// forgotten to make room.
    pub(super) fn remember(
        &mut self,
        prefix: IpNet,
        count: u32,
        ban_until: u64,
        memory: Duration,
    ) -> Option<IpNet> {
        let full = self.by_prefix.len() >= Self::CAPACITY && !self.by_prefix.contains_key(&prefix);
        let oldest = self
            .by_end
            .first()
            .filter(|_| full)
            .map(|(_, oldest)| *oldest);
        if let Some(oldest) = oldest {
            self.forget(oldest);
        }
        self.insert(
            prefix,
            Offence {
                count,
                ban_until,
                memory,
            },
        );
        oldest
    }

    pub(super) fn forget(&mut self, prefix: IpNet) {
        if let Some(offence) = self.by_prefix.remove(&prefix) {
            self.by_end.remove(&(offence.ban_until, prefix));
            self.by_oblivion.remove(&(offence.oblivion(), prefix));
        }
    }

    /// Forgets what is beyond memory, up to `most`, and returns whose it was.
    pub(super) fn sweep(&mut self, now: u64, most: usize) -> Vec<IpNet> {
        let beyond = |&&(at, _): &&(u64, IpNet)| at <= now;
        let gone: Vec<IpNet> = self
            .by_oblivion
            .iter()
            .take_while(beyond)
            .take(most)
            .map(|e| e.1)
            .collect();
        for prefix in &gone {
            self.forget(*prefix);
        }
        gone
    }

    pub(super) fn record(&self, prefix: IpNet, clock: Clock) -> Option<OffenceRecord> {
        let offence = self.by_prefix.get(&prefix)?;
        Some(OffenceRecord {
            count: offence.count,
            ban_ends_at: clock.utc_of(offence.ban_until),
            mark: clock.mark(offence.ban_until),
            memory: offence.memory,
        })
    }

    /// Everyone that is remembered.
    pub(super) fn records(&self, clock: Clock) -> Vec<(IpNet, OffenceRecord)> {
        let known = self.by_prefix.keys();
        known
            .filter_map(|prefix| Some((*prefix, self.record(*prefix, clock)?)))
            .collect()
    }

    fn insert(&mut self, prefix: IpNet, offence: Offence) {
        self.forget(prefix);
        self.by_end.insert((offence.ban_until, prefix));
        self.by_oblivion.insert((offence.oblivion(), prefix));
        self.by_prefix.insert(prefix, offence);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn host(i: u32) -> IpNet {
        IpNet::from(IpAddr::from(i.to_be_bytes()))
    }

    #[test]
    fn at_capacity_the_oldest_end_goes_first() {
        let mut offences = Offences::default();
        for i in 0..Offences::CAPACITY as u32 {
            assert_eq!(
                offences.remember(host(i), 1, 1_000_000 - u64::from(i), DAY),
                None
            );
        }
        let oldest = host(Offences::CAPACITY as u32 - 1);
        assert_eq!(offences.remember(host(0), 2, 2_000_000, DAY), None);
        assert_eq!(offences.remember(host(u32::MAX), 1, 5, DAY), Some(oldest));
        assert_eq!(offences.by_prefix.len(), Offences::CAPACITY);
        assert_eq!(offences.by_end.len(), Offences::CAPACITY);
        assert_eq!(offences.by_oblivion.len(), Offences::CAPACITY);
        assert_eq!(offences.count(oldest, 0), 0);
        assert_eq!(offences.count(host(0), 0), 2);
    }

    #[test]
    fn memory_ends_a_while_after_the_ban() {
        let mut offences = Offences::default();
        offences.remember(host(1), 3, 1_000, Duration::from_nanos(500));
        offences.remember(host(2), 1, 1_000, Duration::from_nanos(500));
        assert!(offences.sweep(1_499, 9).is_empty());
        assert_eq!(offences.count(host(1), 1_499), 3);
        assert_eq!(offences.count(host(1), 1_500), 0);
        assert_eq!(offences.sweep(1_500, 1), [host(1)]);
        assert_eq!(offences.sweep(1_500, 1), [host(2)]);
        assert!(offences.sweep(1_500, 1).is_empty());
    }
}
