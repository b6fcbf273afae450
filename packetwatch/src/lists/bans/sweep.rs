//! Bans that have ended: the kernel goes by their deadlines, the sweep takes out what is held of them.

use std::{
    collections::BTreeSet,
    ops::Bound::{Excluded, Unbounded},
};

use ipnet::IpNet;

use super::Bans;
use crate::{
    clock::Clock,
    lists::{
        entry::BanEntry,
        error::WriteError,
        event::{self, BanEvent},
        maps::Maps,
        sweep::LINES,
    },
};

/// So many are seen to before others may be set: a few milliseconds, with a system call or two for each.
pub(in crate::lists) const AT_ONCE: usize = 1_000;
// The first slice knows whether each gets a line of its own.
const _: () = assert!(AT_ONCE > LINES);

/// A look for what has ended by one time, some at a time.
#[derive(Debug, Default)]
pub(in crate::lists) struct Sweep {
    now: u64,
    /// the last of the removals that were tried
    tried: Option<(u64, IpNet)>,
    /// how many bans have ended
    pub(in crate::lists) ended: usize,
    /// the first of them, as many as get a line each
    pub(in crate::lists) first: Vec<BanEntry>,
}

impl Sweep {
    pub(in crate::lists) fn until(now: u64) -> Self {
        Self {
            now,
            ..Self::default()
        }
    }

    /// Tells of more than get a line each; `left` is how many bans there are still.
    pub(in crate::lists) fn tell(&self, left: usize) {
        if self.ended > LINES {
            event::bans_ended(self.ended, left);
        }
    }
}

impl Bans {
    /// Turns bans that have ended into spent ones, removes spent ones that no window reaches, and
    /// offences beyond memory: up to `most` in all. Tells whether there may be more. A ban that ends
    /// with few others is told here, before its prefix can be banned again.
    pub(in crate::lists) fn sweep_some(
        &mut self,
        sweep: &mut Sweep,
        most: usize,
        maps: &dyn Maps,
    ) -> bool {
        let mut left = most;
        left -= self.end_some(sweep, left);
        left -= self.remove_some(sweep, left, maps);
        let forgotten = self.offences.sweep(sweep.now, left);
        left -= forgotten.len();
        self.unwritten.extend(forgotten);
        left == 0
    }

    /// All at once.
    pub(super) fn sweep(&mut self, maps: &dyn Maps, now: u64) {
        let mut sweep = Sweep::until(now);
        self.sweep_some(&mut sweep, usize::MAX, maps);
        sweep.tell(self.counts.total());
    }

    fn end_some(&mut self, sweep: &mut Sweep, most: usize) -> usize {
        let due: Vec<_> = due(&self.ends, None, sweep.now).take(most).collect();
        sweep.ended += due.len();
        for (_, prefix) in &due {
            let Some(mut held) = self.drop_held(*prefix) else {
                continue;
            };
            if sweep.ended <= LINES {
                event::ban(BanEvent::Expired, &held.entry);
            }
            if sweep.first.len() < LINES {
                sweep.first.push(held.entry.clone());
            }
            held.spent = true;
            self.hold(held);
            self.unwritten.insert(*prefix);
        }
        due.len()
    }

    fn remove_some(&mut self, sweep: &mut Sweep, most: usize, maps: &dyn Maps) -> usize {
        let due: Vec<_> = due(&self.removals, sweep.tried, sweep.now)
            .take(most)
            .collect();
        for (_, prefix) in &due {
            // Kept on failure: the next sweep tries again.
            match maps.remove_ban(*prefix) {
                Ok(()) => {
                    self.drop_held(*prefix);
                    self.unwritten.insert(*prefix);
                }
                Err(error) => event::kernel_refused(
                    "removing an ended ban, tried again within a second",
                    Some(*prefix),
                    &error,
                ),
            }
        }
        sweep.tried = due.last().copied().or(sweep.tried);
        due.len()
    }

    /// At capacity one ban that has ended makes room, whether or not the sweep has come to it: one that no
    /// window reaches, else the one that ended first, and windows from before its end must then not count
    /// either. No more than this one: the rule loop waits.
    pub(super) fn make_room(
        &mut self,
        prefix: IpNet,
        maps: &dyn Maps,
        clock: Clock,
    ) -> Result<(), WriteError> {
        if self.held.len() < self.capacity as usize || self.held.get(prefix).is_some() {
            return Ok(());
        }
        let now = clock.monotonic_ns();
        let unreached = due(&self.removals, None, now).next();
        let ended = due(&self.ends, None, now).next();
        let first = self.spent.first().copied().into_iter().chain(ended).min();
        let Some((_, oldest)) = unreached.or(first) else {
            return Err(WriteError::Full {
                list: "bans",
                capacity: self.capacity,
            });
        };
        if unreached.is_none() {
            maps.forget_caller(oldest)?;
        }
        maps.remove_ban(oldest)?;
        if let Some(held) = self.drop_held(oldest)
            && !held.spent
        {
            event::ban(BanEvent::Expired, &held.entry);
        }
        self.unwritten.insert(oldest);
        Ok(())
    }
}

/// What has come behind `tried`, in the order of its time. The others are not looked at.
fn due(
    times: &BTreeSet<(u64, IpNet)>,
    tried: Option<(u64, IpNet)>,
    now: u64,
) -> impl Iterator<Item = (u64, IpNet)> {
    let behind = (tried.map_or(Unbounded, Excluded), Unbounded);
    let come = times.range(behind);
    come.take_while(move |(at, _)| *at <= now).copied()
}
