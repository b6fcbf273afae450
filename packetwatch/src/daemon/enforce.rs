//! The rule loop: offences in, bans out.
//!
//! The XDP program wakes it through a ring buffer. What the ring lost, and what outlived its
//! welcome, a sweep finds: the kernel's maps are the truth, and the loop can be killed at any point.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::{Caller, Fault, Offence as Seen, PortSeen};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    control::{InForce, RulesControl},
    evict::{Candidate, Eviction},
    judged::{Judged, RECENT_NS},
    population::Population,
    pulse::Pulse,
    readiness::{Lack, Readiness},
    reconcile,
    refusals::Refusals,
};
use crate::{
    api::windows::Moment,
    clock::Clock,
    dataplane::{self, Dataplane},
    lists::{BanOrder, BanOutcome, List, Lists, WriteError},
    metrics::Counters,
    rules::{
        BanLength, Rule, Trigger,
        decide::{Action, Offence, Standing, decide},
        duration,
    },
};

/// How often ended bans and entries are taken out and lost offences looked for.
const SWEEP: Duration = Duration::from_secs(1);
/// How often all callers are read, to forget the idle ones.
const TIDY: Duration = Duration::from_secs(10);
/// Callers are kept this long for whoever asks who called, or as long as a window or a limit holds
/// something of them, if that is longer.
const REMEMBER: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub(super) struct Enforcer {
    pub(super) lists: Lists,
    pub(super) dataplane: Dataplane,
    pub(super) rules: Arc<RulesControl>,
    pub(super) counters: Counters,
    pub(super) judged: Judged,
    pub(super) population: Population,
    pub(super) refusals: Refusals,
    pub(super) pulse: Pulse,
    pub(super) readiness: Readiness,
    pub(super) clock: Clock,
    /// callers that the kernel has room for
    pub(super) capacity: u32,
}

impl Standing for Lists {
    fn is_allowed(&self, address: IpAddr) -> bool {
        Lists::is_allowed(self, address)
    }

    fn holds_allowed(&self, unit: IpNet) -> bool {
        Lists::holds_allowed(self, unit)
    }
}

impl Enforcer {
    /// Judges what the program reports, until `shutdown`.
    ///
    /// # Errors
    /// The event loop has no room for the ring's descriptor.
    pub(super) async fn run(
        self,
        offences: dataplane::Stream<Seen>,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        tokio::select! {
            judged = offences.each(|seen| self.judge(seen.at, &Offence {
                unit: dataplane::prefix(&seen.unit),
                offender: dataplane::address(&seen.source, seen.source.addr),
                rule: seen.rule as usize,
                generation: seen.generation,
            })) => judged,
            () = self.pulse.beat() => Ok(()),
            () = shutdown.cancelled() => Ok(()),
        }
    }

    fn judge(&self, at: u64, offence: &Offence) {
        if !self.judged.is_news(offence.unit, at) {
            return;
        }
        let InForce {
            rules,
            generation,
            trial_until,
            bypassed_until,
        } = self.rules.in_force();
        // Who asked for a bypass wants no more bans when it ends than there were before.
        if at < bypassed_until {
            return;
        }
        // With an allow entry taken away on trial, whom it covered may be banned for the trial.
        let trial_until = trial_until.or_else(|| self.lists.trial_until(List::Allow));
        for action in decide(offence, &rules, generation, &self.lists) {
            match action {
                Action::Ban {
                    prefix,
                    offender,
                    rule,
                } => {
                    let order = BanOrder {
                        trial_until,
                        ..ordered(prefix, offender, rule, rules.longest_within())
                    };
                    self.ban(order);
                }
                Action::CountAnew(unit) => {
                    // The step after, so that the ports that led here are left out too.
                    let since = self.clock.monotonic_ns() + PortSeen::STEP;
                    self.warn(self.dataplane.count_anew(unit, since));
                }
            }
        }
    }

    fn ban(&self, order: BanOrder) {
        let (prefix, rule) = (order.prefix, order.rule.clone());
        match self.lists.ban(order) {
            Ok(BanOutcome::Banned(_)) => {
                self.counters.ban(&rule);
                self.readiness.set_lack(Lack::Bans, None);
            }
            Ok(BanOutcome::Already) => {}
            Err(error) => {
                match &error {
                    WriteError::Full { list, .. } => self.counters.map_full(list),
                    WriteError::Kernel(refused) => {
                        self.counters.refused("bans", refused);
                        let why = format!("the kernel does not take bans: {refused}");
                        self.readiness.set_lack(Lack::Bans, Some(why));
                    }
                    _ => {}
                }
                if let Some(refused) = self.refusals.note(self.clock.monotonic_ns()) {
                    tracing::error!(
                        packetwatch.prefix = %prefix,
                        rule.name = %rule,
                        "{refused} bans could not be set since this was last said, {prefix} among \
                         them: {error}"
                    );
                }
            }
        }
    }

    /// Takes out what has ended and judges what the program's reports left out, until `shutdown`.
    ///
    /// # Errors
    /// Reading the callers panicked.
    pub(super) async fn sweep(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(SWEEP);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut lost = 0;
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
            let now_lost = self.lost_offences().unwrap_or(lost);
            let is_due = tidied.is_none_or(|at| at.elapsed() >= TIDY);
            let tidy = is_due || self.is_crowded();
            if now_lost != lost || tidy {
                lost = now_lost;
                let enforcer = self.clone();
                // Tens of thousands of callers take tens of milliseconds.
                let read = tokio::task::spawn_blocking(move || enforcer.read_callers(tidy));
                read.await.map_err(std::io::Error::other)?;
            }
            if tidy {
                tidied = Some(Instant::now());
            }
        }
    }

    fn lost_offences(&self) -> Option<u64> {
        let faults = self.dataplane.faults().ok()?;
        let lost = faults
            .into_iter()
            .find(|(fault, _)| *fault == Fault::OffencesLost)?;
        Some(lost.1)
    }

    /// Whether the table of callers is more than three quarters full.
    fn is_crowded(&self) -> bool {
        let Ok(counts) = self.dataplane.admission_counts() else {
            return false;
        };
        self.population.entries(counts.admitted()) > self.roomy()
    }

    /// Entries that leave the program room for new ones.
    fn roomy(&self) -> u64 {
        u64::from(self.capacity) / 4 * 3
    }

    /// Judges offences whose wake-up was lost, and forgets callers that are gone.
    fn read_callers(&self, tidy: bool) {
        let InForce {
            rules, generation, ..
        } = self.rules.in_force();
        let now = self.clock.monotonic_ns();
        let window = rules.longest_within();
        let admitted = self.dataplane.admission_counts();
        let admitted = admitted.map_or(0, |counts| counts.admitted());
        let crowd = match self.population.entries(admitted).checked_sub(self.roomy()) {
            // An eighth of the table beyond, so that the next round is not due at once.
            Some(beyond) => beyond + u64::from(self.capacity) / 8,
            None => 0,
        };
        // Where room is short, whoever can matter to no window and owes no limit goes at once.
        let keep = if crowd > 0 {
            window
        } else {
            window.max(REMEMBER)
        };
        let moment = Moment {
            now,
            generation,
            ended: 0,
        };
        let mut eviction = Eviction::new(&rules, moment, keep, crowd, self.capacity);
        let mut offences = Vec::new();
        let mut callers = 0;
        let read = self.dataplane.tidy_callers(|unit, caller| {
            callers += 1;
            if is_pending(caller) && caller.offended_at + RECENT_NS > now {
                let offence = Offence {
                    unit,
                    offender: dataplane::address(&caller.offender, caller.offender.addr),
                    rule: caller.offence_rule as usize,
                    generation: caller.generation,
                };
                offences.push((caller.offended_at, offence));
            }
            if tidy {
                eviction.offer(unit, caller);
            }
        });
        match read {
            Ok(strays) if !strays.is_empty() => reconcile::tell(&self.counters, "callers", &strays),
            read => self.warn(read.map(drop)),
        }
        for (at, offence) in offences {
            if !self.was_judged(at, &offence) {
                self.judge(at, &offence);
            }
        }
        self.judged.forget_before(now.saturating_sub(RECENT_NS));
        if !tidy {
            return;
        }
        let (mut idle, spare) = eviction.chosen();
        if crowd == 0 {
            // What was counted of a banned source is shown for as long as the ban stands.
            let is_free = |unit: IpNet| !self.lists.is_banned(unit.addr());
            idle.retain(|candidate| is_free(candidate.unit));
        }
        let gone = self.evict("idle", &idle) + self.evict("crowded", &spare);
        self.population
            .counted(callers - gone.min(callers), admitted);
        let refused = self.rules.refresh().err();
        if let Some(error) = &refused {
            tracing::error!("cannot refresh the policy: {error}");
        }
        let why = refused.map(|error| format!("the policy cannot be refreshed: {error}"));
        self.readiness.set_lack(Lack::Policy, why);
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

    fn warn(&self, result: Result<(), dataplane::Error>) {
        if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }
}

/// Whether the caller went beyond a rule since its counting began.
fn is_pending(caller: &Caller) -> bool {
    caller.since.is_before(caller.offended_at)
}

/// The ban that a rule sets.
fn ordered(prefix: IpNet, offender: IpAddr, rule: &Rule, longest_within: Duration) -> BanOrder {
    BanOrder {
        prefix,
        rule: rule.name.clone(),
        offender,
        reason: reason(rule),
        ban: rule.ban,
        escalate: rule.escalate,
        max_ban: match rule.max_ban {
            BanLength::For(length) => length,
            BanLength::Forever => Duration::MAX,
        },
        // A spent ban tells the program to count anew, for as long as any window reaches back.
        within: longest_within,
        trial_until: None,
    }
}

/// For people: `10 distinct ports within 1m`.
fn reason(rule: &Rule) -> String {
    let what = match rule.trigger {
        Trigger::DistinctPorts(n) => format!("{n} distinct ports"),
        Trigger::Connections(n) => format!("{n} connections"),
        Trigger::Packets(n) => format!("{n} packets"),
        Trigger::Bytes(n) => format!("{n} bytes"),
    };
    format!("{what} within {}", duration::format(rule.within))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_reads_as_a_sentence_would() {
        let rule = Rule::new("scan", Trigger::DistinctPorts(10));
        assert_eq!(reason(&rule), "10 distinct ports within 1m");
    }
}
