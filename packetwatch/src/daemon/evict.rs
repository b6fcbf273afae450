//! Which callers go when the sweep makes room. The program removes none.
//!
//! Those that hold nothing go: silent for longer than any window reaches, and with nothing owed to a
//! limit, whose burst they would have anew. Where room is short, some go that a window or a limit
//! still holds something of, and their counts begin anew: a ban may come late by what was counted, and
//! who pauses whenever room is short may never be banned. So they go in an order: those whose ban
//! has been set, of whom nothing counts; then those silent for a moment, least used up first.
//!
//! Nobody can fill the table with callers that stay: those nearest to a threshold keep their places in
//! one quarter of it, those that owe a limit longest in another, and who is beyond goes as the others
//! do. Where all the rest speak, as many of them go by lot as lie beyond seven eighths.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use ipnet::IpNet;
use packetwatch_abi::Caller;

use crate::{
    api::{
        bursts::{Burst, bursts},
        windows::{Count, Moment, counts},
    },
    rules::RuleSet,
};

#[cfg(test)]
mod tests;

/// Nanoseconds from the beginning of a round: who was seen beyond was seen by nobody, but written by
/// somebody else, and would be kept for as long. Reading a full table takes a tenth of a second.
const AHEAD: u64 = 60_000_000_000;
/// Who called within this time is given up in the last resort only.
const SILENT: Duration = Duration::from_secs(2);

/// What a round of the sweep is to make room of, in a table of so many entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    /// entries to be given up if they can be
    short_of: usize,
    /// entries to be given up whoever they are
    urgent: usize,
    /// places of those nearest to a threshold, and as many of those that owe longest
    share: usize,
}

impl Room {
    /// Where more than three quarters of the table are taken it is brought back to five eighths, so
    /// that the next round is not due at once; where more than seven eighths are, to a half: until the
    /// next round, the program has places for a little less than the other half to give. The
    /// candidates take some 60 bytes each.
    pub(super) fn of(entries: u64, capacity: u32) -> Self {
        let eighth = u64::from(capacity) / 8;
        let urgent = entries.saturating_sub(eighth * 7);
        let left = if urgent > 0 { eighth * 4 } else { eighth * 5 };
        let short_of = match Self::is_short(entries, capacity) {
            true => (entries - left).min(eighth * 4),
            false => 0,
        };
        Self {
            short_of: short_of as usize,
            urgent: urgent.min(short_of) as usize,
            share: capacity as usize / 4,
        }
    }

    /// Whether the program might soon find none for new entries.
    pub(super) fn is_short(entries: u64, capacity: u32) -> bool {
        entries > u64::from(capacity) / 8 * 6
    }
}

/// One round of the sweep: offered each caller, it keeps those that may go.
pub(super) struct Eviction<'r> {
    rules: &'r RuleSet,
    moment: Moment,
    /// callers silent for longer hold nothing in a window
    keep: Duration,
    room: Room,
    idle: Vec<Candidate>,
    /// the greatest on top
    spare: BinaryHeap<(Standing, Candidate)>,
    near: Share<Standing>,
    owing: Share<Duration>,
    /// not silent, each with its lot; the greatest on top
    speaking: BinaryHeap<(u64, IpNet)>,
    lots: RandomState,
}

/// How much forgetting a caller would give away, least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Standing {
    /// not of one whose ban has been set: its windows are void when that ends
    counts: bool,
    /// what it has [`used_up`]
    used_up: u64,
    /// of those that no rule holds anything of
    packets: u64,
}

/// A caller that may go, if it has been silent since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Candidate {
    pub(super) unit: IpNet,
    pub(super) last_seen: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Offered {
    standing: Standing,
    owes: Duration,
    is_silent: bool,
    candidate: Candidate,
}

/// Who goes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chosen {
    /// those that hold nothing
    pub(super) idle: Vec<Candidate>,
    /// given up, and no rule holds anything of them
    pub(super) void: Vec<Candidate>,
    /// given up though one does
    pub(super) spare: Vec<Candidate>,
    /// likewise, and whatever they do
    pub(super) speaking: Vec<IpNet>,
}

impl<'r> Eviction<'r> {
    pub(super) fn new(rules: &'r RuleSet, moment: Moment, keep: Duration, room: Room) -> Self {
        Self {
            rules,
            moment,
            keep,
            room,
            idle: Vec::new(),
            spare: BinaryHeap::new(),
            near: Share::new(room.share),
            owing: Share::new(room.share),
            speaking: BinaryHeap::new(),
            lots: RandomState::new(),
        }
    }

    /// `shared_len`: of the unit, by [`Lists`](crate::lists::Lists::shared_len), asked only where it matters;
    /// `is_judged`: whether a ban has been the answer to the caller's last offence.
    pub(super) fn offer(
        &mut self,
        unit: IpNet,
        caller: &Caller,
        shared_len: impl FnOnce() -> u8,
        is_judged: bool,
    ) {
        let last_seen = caller.last_seen;
        let candidate = Candidate { unit, last_seen };
        if last_seen > self.moment.now.saturating_add(AHEAD) {
            self.idle.push(candidate);
            return;
        }
        let silent = Duration::from_nanos(self.moment.now.saturating_sub(last_seen));
        let is_silent = silent > SILENT;
        let may_go = self.room.urgent > 0 || self.room.short_of > 0 && is_silent;
        if silent <= self.keep && !may_go {
            return;
        }
        let moment = Moment {
            shared_len: shared_len(),
            ..self.moment
        };
        let bursts = bursts(unit, caller, self.rules, moment);
        let owes = bursts.iter().map(Burst::paid_in).max().unwrap_or_default();
        if silent > self.keep && owes.is_zero() {
            self.idle.push(candidate);
            return;
        }
        if !may_go {
            return;
        }
        let is_pending = is_pending(caller) && caller.generation == self.moment.generation;
        let counts = counts(unit, caller, self.rules, moment);
        let mut standing = Standing {
            counts: true,
            used_up: used_up(&counts, &bursts),
            packets: caller.packets,
        };
        if is_pending && is_judged {
            (standing.counts, standing.used_up) = (false, 0);
            self.spare(standing, candidate);
            return;
        }
        if is_pending {
            standing.used_up = u64::MAX;
        }
        let offered = Offered {
            standing,
            owes,
            is_silent,
            candidate,
        };
        let is_near = is_pending || counts.iter().any(is_halfway);
        let without = if is_near {
            self.near.offer(standing, offered)
        } else {
            Some(offered)
        };
        let without = without.and_then(|offered| match offered.owes.is_zero() {
            true => Some(offered),
            false => self.owing.offer(offered.owes, offered),
        });
        match without {
            Some(offered) if offered.is_silent => self.spare(offered.standing, offered.candidate),
            Some(offered) => self.draw(offered.candidate.unit),
            None => {}
        }
    }

    fn spare(&mut self, standing: Standing, candidate: Candidate) {
        self.spare.push((standing, candidate));
        if self.spare.len() > self.room.short_of {
            self.spare.pop();
        }
    }

    /// By lot: whoever speaks all the time has used up more than a newcomer, whatever that is up to.
    fn draw(&mut self, unit: IpNet) {
        self.speaking.push((self.lots.hash_one(unit), unit));
        if self.speaking.len() > self.room.urgent {
            self.speaking.pop();
        }
    }

    pub(super) fn chosen(self) -> Chosen {
        let Room {
            short_of, urgent, ..
        } = self.room;
        let mut given_up = self.spare.into_sorted_vec();
        given_up.truncate(short_of.saturating_sub(self.idle.len()));
        let still = urgent.saturating_sub(self.idle.len() + given_up.len());
        let (spare, void): (Vec<_>, Vec<_>) = given_up
            .into_iter()
            .partition(|(standing, _)| standing.used_up > 0);
        let candidates = |given_up: Vec<(Standing, Candidate)>| {
            let given_up = given_up.into_iter();
            given_up.map(|(_, candidate)| candidate).collect()
        };
        let speaking = self.speaking.into_sorted_vec().into_iter();
        Chosen {
            idle: self.idle,
            void: candidates(void),
            spare: candidates(spare),
            speaking: speaking.map(|(_, unit)| unit).take(still).collect(),
        }
    }
}

/// The greatest that were offered, as many as there are places; the least of them on top.
struct Share<K> {
    places: usize,
    kept: BinaryHeap<Reverse<(K, Offered)>>,
}

impl<K: Ord> Share<K> {
    fn new(places: usize) -> Self {
        let kept = BinaryHeap::new();
        Self { places, kept }
    }

    /// Who has no place, if somebody has none.
    fn offer(&mut self, by: K, offered: Offered) -> Option<Offered> {
        self.kept.push(Reverse((by, offered)));
        if self.kept.len() <= self.places {
            return None;
        }
        self.kept.pop().map(|Reverse((_, without))| without)
    }
}

/// Whether the caller went beyond a rule since its counting began.
pub(super) fn is_pending(caller: &Caller) -> bool {
    caller.since.is_before(caller.offended_at)
}

fn is_halfway(count: &Count<'_>) -> bool {
    count.counted >= count.rule.trigger.count().div_ceil(2)
}

/// Of the rule that it has used up most of: how much, in parts of a whole that tell one packet of the
/// greatest N.
fn used_up(counts: &[Count<'_>], bursts: &[Burst<'_>]) -> u64 {
    const WHOLE: u64 = 1 << 48;
    let of_windows = counts.iter().map(|count| count.share(WHOLE));
    let of_bursts = bursts.iter().map(|burst| burst.share(WHOLE));
    of_windows.chain(of_bursts).max().unwrap_or(0)
}
