//! Bans in memory and in the kernel, and what is remembered of those who were banned.

mod held;
mod replace;
mod start;
mod sweep;
mod trial;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ipnet::IpNet;
use packetwatch_abi::FOREVER;

use super::{
    entry::{BanEntry, BanOrder, BanOutcome, ByFamily},
    error::WriteError,
    event::{self, BanEvent},
    journal::Batch,
    maps::Maps,
    offences::Offences,
    prefix_map::PrefixMap,
    record::{BanRecord, OffenceRecord},
};
use crate::{clock::Clock, dataplane, rules::BanLength};

pub(super) use held::Held;
pub(super) use start::Left;
pub(super) use sweep::{AT_ONCE, Sweep};
use trial::Whole;

#[derive(Debug)]
pub(super) struct Bans {
    held: PrefixMap<Held>,
    offences: Offences,
    /// live ones by their end
    ends: BTreeSet<(u64, IpNet)>,
    /// spent ones by their end
    spent: BTreeSet<(u64, IpNet)>,
    /// the same by the time to remove them
    removals: BTreeSet<(u64, IpNet)>,
    /// bans on trial, each with the id of the change
    on_trial: BTreeMap<IpNet, (String, Whole)>,
    counts: ByFamily,
    capacity: u32,
    /// rows that the journal does not have as they are here
    unwritten: BTreeSet<IpNet>,
}

impl Bans {
    pub(super) fn new(capacity: u32, offences: Offences) -> Self {
        Self {
            held: PrefixMap::default(),
            offences,
            ends: BTreeSet::new(),
            spent: BTreeSet::new(),
            removals: BTreeSet::new(),
            on_trial: BTreeMap::new(),
            counts: ByFamily::default(),
            capacity,
            unwritten: BTreeSet::new(),
        }
    }

    /// Bans as ordered, for as long as the remembered offences of the prefix make it.
    pub(super) fn ban(
        &mut self,
        order: BanOrder,
        maps: &dyn Maps,
        clock: Clock,
    ) -> Result<BanOutcome, WriteError> {
        let prefix = order.prefix.trunc();
        let (now, utc) = (clock.monotonic_ns(), clock.utc());
        if self.live(prefix, now).is_some() {
            return Ok(BanOutcome::Already);
        }
        self.make_room(prefix, maps, clock)?;
        let repeat = self.offences.count(prefix, now).saturating_add(1);
        let length = match order.ban {
            BanLength::Forever => None,
            BanLength::For(first) => Some(escalated(first, order.escalate, order.max_ban, repeat)),
        };
        // A length beyond the calendar is for ever, on both clocks.
        let expires_at = length
            .and_then(|length| time::Duration::try_from(length).ok())
            .and_then(|length| utc.checked_add(length));
        let until = match (expires_at, length) {
            (Some(_), Some(length)) => after(now, length),
            _ => FOREVER,
        };
        let whole = Whole {
            until,
            expires_at,
            repeat,
            memory: order.max_ban,
        };
        let (until, expires_at) = match &order.trial {
            Some(trial) if trial.until < until => (trial.until, clock.utc_of(trial.until)),
            _ => (until, expires_at),
        };
        maps.ban(prefix, until)?;
        let entry = BanEntry {
            prefix,
            rule: order.rule,
            reason: order.reason,
            offender: order.offender,
            repeat,
            created_at: utc,
            expires_at,
        };
        if let Some(before) = self.drop_held(prefix)
            && !before.spent
        {
            // It ended between two sweeps; its end is told before the next begins.
            event::ban(BanEvent::Expired, &before.entry);
        }
        self.hold(Held {
            entry: entry.clone(),
            until,
            within: order.within,
            spent: false,
        });
        match order.trial {
            Some(trial) => {
                self.on_trial.insert(prefix, (trial.id, whole));
            }
            None => {
                self.on_trial.remove(&prefix);
                self.remember(prefix, &whole);
            }
        }
        self.unwritten.insert(prefix);
        event::ban(BanEvent::Ban, &entry);
        Ok(BanOutcome::Banned(entry))
    }

    /// What the journal is to hold of a ban that is lifted now.
    pub(super) fn lifted(&self, prefix: IpNet, clock: Clock) -> Option<BanRecord> {
        let now = clock.monotonic_ns();
        let held = self.live(prefix, now)?;
        let mut entry = held.entry.clone();
        entry.expires_at = Some(clock.utc());
        Some(BanRecord::new(&entry, clock.mark(now), held.within, true))
    }

    /// Lifts a ban and forgets the offences of its prefix. `None` if it ended in the meantime.
    pub(super) fn lift(
        &mut self,
        prefix: IpNet,
        maps: &dyn Maps,
        clock: Clock,
    ) -> Result<Option<BanEntry>, dataplane::Error> {
        self.unwritten.insert(prefix);
        let now = clock.monotonic_ns();
        let is_live = self.live(prefix, now).is_some();
        if is_live {
            maps.ban(prefix, now)?;
        }
        self.offences.forget(prefix);
        self.on_trial.remove(&prefix);
        let Some(mut held) = is_live.then(|| self.drop_held(prefix)).flatten() else {
            return Ok(None);
        };
        let entry = held.entry.clone();
        held.entry.expires_at = Some(clock.utc());
        held.until = now;
        held.spent = true;
        self.hold(held);
        event::ban(BanEvent::Unban, &entry);
        Ok(Some(entry))
    }

    /// Everyone whose offences are remembered.
    pub(super) fn offences(&self, clock: Clock) -> Vec<(IpNet, OffenceRecord)> {
        self.offences.records(clock)
    }

    pub(super) fn live(&self, prefix: IpNet, now: u64) -> Option<&Held> {
        self.held.get(prefix).filter(|held| held.is_live(now))
    }

    /// Live bans behind `cursor`, in order.
    pub(super) fn after(&self, cursor: Option<IpNet>, now: u64) -> impl Iterator<Item = &Held> {
        let held = self.held.after(cursor).map(|(_, held)| held);
        held.filter(move |held| held.is_live(now))
    }

    /// Live bans that cover a prefix, the most specific first.
    pub(super) fn covering(&self, prefix: IpNet, now: u64) -> impl Iterator<Item = &Held> {
        let held = self.held.covering(prefix).map(|(_, held)| held);
        held.filter(move |held| held.is_live(now))
    }

    /// What the kernel should hold: every prefix with its deadline, in order.
    pub(super) fn deadlines(&self) -> Vec<(IpNet, u64)> {
        let held = self.held.iter();
        held.map(|(prefix, held)| (prefix, held.until)).collect()
    }

    pub(super) fn deadline(&self, prefix: IpNet) -> Option<u64> {
        self.held.get(prefix).map(|held| held.until)
    }

    /// How many more there may be.
    pub(super) fn room(&self) -> usize {
        (self.capacity as usize).saturating_sub(self.held.len())
    }

    /// Holds one that the kernel has and the journal has not.
    pub(super) fn hold_unknown(&mut self, held: Held) {
        self.unwritten.insert(held.entry.prefix);
        self.hold(held);
    }

    /// Bans that have not ended.
    pub(super) fn counts(&self) -> ByFamily {
        self.counts
    }

    pub(super) fn len(&self) -> usize {
        self.held.len()
    }

    pub(super) fn mark_unwritten(&mut self, rows: impl IntoIterator<Item = IpNet>) {
        self.unwritten.extend(rows);
    }

    pub(super) fn has_unwritten(&self) -> bool {
        !self.unwritten.is_empty()
    }

    /// Moves rows that the journal lacks into `batch`, up to `most`; tells whether there may be more.
    pub(super) fn take_unwritten(&mut self, batch: &mut Batch, most: usize, clock: Clock) -> bool {
        for _ in 0..most {
            let Some(prefix) = self.unwritten.pop_first() else {
                return false;
            };
            let ban = self.held.get(prefix);
            let record = |held: &Held| {
                let mark = clock.mark(held.until);
                let record = BanRecord::new(&held.entry, mark, held.within, held.spent);
                let tried = self.on_trial.get(&prefix);
                record.tried(tried.map(|(trial, whole)| whole.record(trial, clock)))
            };
            let ban = ban.map(record);
            batch.bans.push((prefix, ban));
            batch
                .offences
                .push((prefix, self.offences.record(prefix, clock)));
        }
        true
    }

    fn hold(&mut self, held: Held) {
        let (prefix, until) = (held.entry.prefix, held.until);
        if held.spent {
            self.spent.insert((until, prefix));
            self.removals.insert((after(until, held.within), prefix));
        } else {
            *self.counts.of(prefix) += 1;
            if until != FOREVER {
                self.ends.insert((until, prefix));
            }
        }
        self.held.insert(prefix, held);
    }

    fn drop_held(&mut self, prefix: IpNet) -> Option<Held> {
        let held = self.held.remove(prefix)?;
        if held.spent {
            self.spent.remove(&(held.until, prefix));
            let remove_at = after(held.until, held.within);
            self.removals.remove(&(remove_at, prefix));
        } else {
            *self.counts.of(prefix) -= 1;
            self.ends.remove(&(held.until, prefix));
        }
        Some(held)
    }
}

/// The length of the `repeat`-th ban: `first * escalate^(repeat-1)`, at most `max`.
fn escalated(first: Duration, escalate: f64, max: Duration, repeat: u32) -> Duration {
    let exponent = i32::try_from(repeat - 1).unwrap_or(i32::MAX);
    let seconds = first.as_secs_f64() * escalate.powi(exponent);
    Duration::try_from_secs_f64(seconds).map_or(max, |length| length.min(max))
}

/// A deadline `length` after another.
pub(super) fn after(ns: u64, length: Duration) -> u64 {
    ns.saturating_add(u64::try_from(length.as_nanos()).unwrap_or(FOREVER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_multiply_up_to_the_longest() {
        let (first, max) = (Duration::from_secs(600), Duration::from_secs(86_400));
        let minutes = |repeat| escalated(first, 2.0, max, repeat).as_secs() / 60;
        let lengths: Vec<u64> = (1..=9).map(minutes).collect();
        assert_eq!(lengths, [10, 20, 40, 80, 160, 320, 640, 1280, 1440]);
        assert_eq!(escalated(first, 100.0, max, u32::MAX), max);
        assert_eq!(escalated(first, 1.0, max, u32::MAX), first);
        assert_eq!(escalated(first, 100.0, Duration::MAX, 99), Duration::MAX);
    }
}
