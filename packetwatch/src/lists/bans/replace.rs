//! Other bans in the place of all: the kernel takes every one of them, or memory stays as it was.

use std::collections::HashSet;

use ipnet::IpNet;
use packetwatch_abi::FOREVER;

use super::{Bans, Held};
use crate::{
    clock::Clock,
    dataplane,
    lists::{
        event::{self, BanEvent},
        journal::Batch,
        maps::Maps,
        record::{BanRecord, OffenceRecord},
    },
};

impl Bans {
    /// What the journal is to hold when these take the place of all bans and offences.
    pub(in crate::lists) fn replacing(
        &self,
        bans: &[(IpNet, BanRecord)],
        offences: &[(IpNet, OffenceRecord)],
        clock: Clock,
        batch: &mut Batch,
    ) {
        // No more rows than there is room for, but for those of bans that rules make before `replace`: a start
        // leaves these out.
        let Place { evicted, ended } = self.place_for(bans.iter().map(|(prefix, _)| *prefix));
        let evicted = evicted.into_iter().map(|prefix| (prefix, None));
        let ended = ended.into_iter();
        let ended = ended.filter_map(|prefix| Some((prefix, Some(self.lifted(prefix, clock)?))));
        batch.bans.extend(evicted.chain(ended));
        let restored = bans.iter();
        batch
            .bans
            .extend(restored.map(|(prefix, record)| (*prefix, Some(record.clone()))));
        let known = self.offences.records(clock).into_iter();
        batch
            .offences
            .extend(known.map(|(prefix, _)| (prefix, None)));
        let restored = offences.iter();
        let restored = restored.map(|(prefix, record)| (*prefix, Some(record.clone())));
        batch.offences.extend(restored);
    }

    /// Ends all bans, forgets all offences, and takes these, of which there are no more than the
    /// capacity, in their place.
    ///
    /// # Errors
    /// The kernel refuses: everything is as before. Where it takes back nothing either, the next
    /// comparison mends it; what it had counted of callers whose spent bans made room is lost.
    pub(in crate::lists) fn replace(
        &mut self,
        bans: Vec<(IpNet, BanRecord)>,
        offences: &[(IpNet, OffenceRecord)],
        maps: &dyn Maps,
        clock: Clock,
    ) -> Result<(), dataplane::Error> {
        let now = clock.monotonic_ns();
        self.sweep(maps, now);
        let bans: Vec<Held> = bans
            .into_iter()
            .map(|(prefix, record)| {
                let within = record.within;
                let entry = record.into_entry(prefix);
                let until = entry.expires_at.map_or(FOREVER, |at| clock.deadline(at));
                Held::new(entry, until, within, false)
            })
            .collect();
        let place = self.place_for(bans.iter().map(|held| held.entry.prefix));
        let mut written = Vec::new();
        if let Err(error) = tell(&place, &bans, now, maps, &mut written) {
            self.take_back(written, maps);
            return Err(error);
        }
        self.hold_instead(place, bans, now, clock);
        let known = self.offences.records(clock).into_iter();
        known.for_each(|(prefix, _)| self.offences.forget(prefix));
        for (prefix, record) in offences {
            self.offences.restore(*prefix, record, clock);
        }
        Ok(())
    }

    /// Who makes room for these, and whose ban ends.
    fn place_for(&self, bans: impl Iterator<Item = IpNet>) -> Place {
        let kept: HashSet<IpNet> = bans.collect();
        let new = kept
            .iter()
            .filter(|prefix| self.held.get(**prefix).is_none());
        let beyond = (self.held.len() + new.count()).saturating_sub(self.capacity as usize);
        let spent = self.spent.iter().map(|(_, prefix)| *prefix);
        let live = self.held.iter().filter(|(_, held)| !held.spent);
        let mut gone = spent
            .chain(live.map(|(prefix, _)| prefix))
            .filter(|prefix| !kept.contains(prefix));
        let evicted: Vec<IpNet> = gone.by_ref().take(beyond).collect();
        let is_live = |prefix: &IpNet| self.held.get(*prefix).is_some_and(|held| !held.spent);
        let ended = gone.filter(is_live).collect();
        Place { evicted, ended }
    }

    /// Makes the kernel hold of these prefixes what memory does, the last one written first.
    fn take_back(&self, written: Vec<IpNet>, maps: &dyn Maps) {
        let mut refused = None;
        for prefix in written.into_iter().rev() {
            let back = match self.held.get(prefix) {
                Some(held) => maps.ban(prefix, held.until),
                None => maps.remove_ban(prefix),
            };
            refused = refused.or(back.err().map(|error| (prefix, error)));
        }
        if let Some((prefix, error)) = refused {
            event::kernel_refused(
                "taking back bans of a restore, mended by the next comparison",
                Some(prefix),
                &error,
            );
        }
    }

    /// What the kernel has taken.
    fn hold_instead(&mut self, place: Place, bans: Vec<Held>, now: u64, clock: Clock) {
        let live: Vec<IpNet> = self
            .after(None, now)
            .map(|held| held.entry.prefix)
            .collect();
        for prefix in live {
            if let Some(held) = self.held.get(prefix) {
                event::ban(BanEvent::Unban, &held.entry);
            }
        }
        self.on_trial.clear();
        for prefix in place.evicted {
            self.drop_held(prefix);
            self.unwritten.insert(prefix);
        }
        for prefix in place.ended {
            if let Some(mut held) = self.drop_held(prefix) {
                held.entry.expires_at = Some(clock.utc());
                held.until = now;
                held.spent = true;
                self.hold(held);
                self.unwritten.insert(prefix);
            }
        }
        for held in bans {
            self.drop_held(held.entry.prefix);
            self.unwritten.insert(held.entry.prefix);
            self.hold(held);
        }
    }
}

/// What is held and not among the bans that come.
struct Place {
    /// the kernel forgets them, to have room
    evicted: Vec<IpNet>,
    /// live ones, of which it knows for as long as windows reach back
    ended: Vec<IpNet>,
}

/// Notes each prefix before the kernel is told of it: a write that fails may have been made.
fn tell(
    place: &Place,
    bans: &[Held],
    now: u64,
    maps: &dyn Maps,
    written: &mut Vec<IpNet>,
) -> Result<(), dataplane::Error> {
    for prefix in &place.evicted {
        maps.forget_caller(*prefix)?;
        written.push(*prefix);
        maps.remove_ban(*prefix)?;
    }
    for prefix in &place.ended {
        written.push(*prefix);
        maps.ban(*prefix, now)?;
    }
    for held in bans {
        written.push(held.entry.prefix);
        maps.ban(held.entry.prefix, held.until)?;
    }
    Ok(())
}
