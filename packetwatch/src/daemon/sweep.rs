//! The sweep: takes out what has ended, judges what the program's reports left out, and keeps room in
//! the table of callers.

use std::time::Duration;

use ipnet::IpNet;
use packetwatch_abi::Fault;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    control::InForce,
    crowd::Crowd,
    enforce::Enforcer,
    evict::{Candidate, Chosen, Eviction, Room, is_pending},
    judged::RECENT_NS,
    readiness::Lack,
    reconcile,
};
use crate::{api::windows::Moment, dataplane, rules::decide::Offence};

/// How often ended bans and entries are taken out and lost offences looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How often all callers are read, to forget the idle ones.
const TIDY: Duration = Duration::from_secs(10);
/// Callers are kept this long for whoever asks who called, or as long as a window or a limit holds
/// something of them, if that is longer.
const REMEMBER: Duration = Duration::from_secs(600);

impl Enforcer {
    /// Sweeps each second, until `shutdown`.
    ///
    /// # Errors
    /// Reading the callers panicked.
    pub(super) async fn sweep(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lost = 0;
        // What an earlier process has told of is in the maps that this one has inherited.
        let mut refused = self.count_of(Fault::CallersFull).unwrap_or(0);
        let mut crowd = Crowd::default();
        // At once: what went beyond a rule while no process read the reports waits in the callers.
        let mut tidied: Option<Instant> = None;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let lists = self.lists.clone();
            // A million entries that end together take some hundred milliseconds.
            let ended = tokio::task::spawn_blocking(move || lists.expire());
            ended.await.map_err(std::io::Error::other)?;
            if !self.refusals.are_recent(self.clock.monotonic_ns()) {
                self.readiness.set_lack(Lack::Bans, None);
            }
            let now_refused = self.count_of(Fault::CallersFull).unwrap_or(refused);
            self.tell_refused(now_refused.saturating_sub(refused));
            refused = now_refused;
            let now_lost = self.count_of(Fault::OffencesLost).unwrap_or(lost);
            let is_due = tidied.is_none_or(|at| at.elapsed() >= TIDY);
            let tidy = is_due || self.is_crowded();
            let mut forgotten = 0;
            if now_lost != lost || tidy {
                lost = now_lost;
                let enforcer = self.clone();
                // Tens of thousands of callers take tens of milliseconds.
                let read = tokio::task::spawn_blocking(move || enforcer.read_callers(tidy));
                forgotten = read.await.map_err(std::io::Error::other)?;
            }
            crowd.swept(forgotten, self.clock.monotonic_ns(), &self.counters);
            if tidy {
                tidied = Some(Instant::now());
            }
        }
    }

    fn count_of(&self, fault: Fault) -> Option<u64> {
        let faults = self.dataplane.faults().ok()?;
        let of_it = faults.into_iter().find(|(of, _)| *of == fault)?;
        Some(of_it.1)
    }

    /// Packets of the last second whose source the full table had no place for.
    fn tell_refused(&self, packets: u64) {
        if packets > 0 {
            tracing::error!(
                "the table of callers is full with {}: in the last second the sources of {packets} \
                 packets could not be entered, and no rule counts them; raise capacity.callers",
                self.capacity
            );
        }
    }

    /// Whether the program might soon find no room for new callers.
    fn is_crowded(&self) -> bool {
        let Ok(counts) = self.dataplane.admission_counts() else {
            return false;
        };
        Room::is_short(self.population.entries(counts.admitted()), self.capacity)
    }

    /// Judges offences whose wake-up was lost, and forgets callers that are gone, or in a crowd some
    /// that are not. Returns how many of them a rule still held something of.
    fn read_callers(&self, tidy: bool) -> u64 {
        let InForce {
            rules, generation, ..
        } = self.rules.in_force();
        let now = self.clock.monotonic_ns();
        let window = rules.longest_within();
        let admitted = self.dataplane.admission_counts();
        let admitted = admitted.map_or(0, |counts| counts.admitted());
        let entries = self.population.entries(admitted);
        let crowded = Room::is_short(entries, self.capacity);
        // Where room is short, whoever can matter to no window and owes no limit goes at once.
        let keep = match crowded {
            true => window,
            false => window.max(REMEMBER),
        };
        let moment = Moment {
            now,
            generation,
            ended: 0,
            shared_len: 0,
        };
        let room = Room::of(entries, self.capacity);
        let mut eviction = Eviction::new(&rules, moment, keep, room);
        let mut offences = Vec::new();
        let mut callers = 0;
        let read = self.dataplane.tidy_callers(|unit, caller| {
            callers += 1;
            let mut is_judged = false;
            if is_pending(caller) {
                let at = caller.offended_at;
                let offence = Offence {
                    unit,
                    offender: dataplane::address(&caller.offender, caller.offender.addr),
                    rule: caller.offence_rule as usize,
                    generation: caller.generation,
                };
                is_judged = crowded && self.was_judged(at, &offence);
                if at + RECENT_NS > now {
                    offences.push((at, offence));
                }
            }
            if tidy {
                // Only a single address may be counted by another unit than it would be elsewhere.
                let is_single = unit.prefix_len() == unit.max_prefix_len();
                let shared_len = || {
                    if is_single {
                        self.lists.shared_len(unit)
                    } else {
                        0
                    }
                };
                eviction.offer(unit, caller, shared_len, is_judged);
            }
        });
        match read {
            Ok(found) if !found.is_empty() => reconcile::tell(&self.counters, "callers", &found),
            read => self.warn(read.map(drop)),
        }
        for (at, offence) in offences {
            if !self.was_judged(at, &offence) {
                self.judge(at, &offence);
            }
        }
        self.judged.forget_before(now.saturating_sub(RECENT_NS));
        if !tidy {
            return 0;
        }
        let Chosen {
            mut idle,
            void,
            spare,
            speaking,
        } = eviction.chosen();
        if !crowded {
            // What was counted of a banned source is shown for as long as the ban stands.
            let is_free = |unit: IpNet| !self.lists.is_banned(unit.addr());
            idle.retain(|candidate| is_free(candidate.unit));
        }
        let gone = self.evict("idle", &idle) + self.evict("crowded", &void);
        let forgotten = self.evict("crowded", &spare) + self.give_up(&speaking);
        let left = u64::saturating_sub(callers, gone + forgotten);
        self.population.counted(left, admitted);
        let refused = self.rules.refresh().err();
        if let Some(error) = &refused {
            tracing::error!("cannot refresh the policy: {error}");
        }
        let why = refused.map(|error| format!("the policy cannot be refreshed: {error}"));
        self.readiness.set_lack(Lack::Policy, why);
        forgotten
    }

    /// Whether a ban that stands or stood has been the answer, perhaps of the process before this one: its
    /// deadline, or the time at which it was lifted, lies after the offence. The kernel knows of it for
    /// as long as a window reaches back.
    fn was_judged(&self, at: u64, offence: &Offence) -> bool {
        let banned = [offence.unit, IpNet::from(offence.offender)];
        let until = banned
            .into_iter()
            .filter_map(|p| self.dataplane.ban_until(p));
        until.max().is_some_and(|until| until > at)
    }

    /// Forgets those of the candidates that have been silent since; returns how many.
    fn evict(&self, cause: &'static str, candidates: &[Candidate]) -> u64 {
        let candidates = candidates.iter();
        let candidates = candidates.map(|candidate| (candidate.unit, candidate.last_seen));
        let gone = self.dataplane.forget_silent(candidates);
        self.counters.evicted(cause, *gone.as_ref().unwrap_or(&0));
        gone.unwrap_or_else(|error| {
            tracing::warn!("{error}");
            0
        })
    }

    /// Forgets callers that may speak this very moment; returns how many.
    fn give_up(&self, units: &[IpNet]) -> u64 {
        let gone = units.iter().try_fold(0, |gone, unit| {
            self.dataplane.forget_caller(*unit).map(|()| gone + 1)
        });
        let gone = gone.unwrap_or_else(|error| {
            tracing::warn!("{error}");
            0
        });
        self.counters.evicted("crowded", gone);
        gone
    }
}
