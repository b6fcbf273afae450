//! The rule loop: offences in, bans out.
//!
//! The XDP program wakes it through a ring buffer. What the ring lost, and what outlived its
//! welcome, the sweep finds: the kernel's maps are the truth, and the loop can be killed at any point.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::Offence as Seen;
use tokio_util::sync::CancellationToken;

use super::{
    control::{InForce, RulesControl},
    judged::Judged,
    population::Population,
    pulse::Pulse,
    readiness::{Lack, Readiness},
    refusals::Refusals,
};
use crate::{
    clock::Clock,
    dataplane::{self, Dataplane},
    lists::{BanOrder, BanOutcome, Lists, WriteError},
    metrics::Counters,
    rules::{
        BanLength, Rule, Trigger,
        decide::{Offence, Standing, decide},
        duration,
    },
};

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

    pub(super) fn judge(&self, at: u64, offence: &Offence) {
        if !self.judged.is_news(offence.unit, at) {
            return;
        }
        let InForce {
            rules,
            generation,
            trial,
            bypassed_until,
        } = self.rules.in_force();
        // Who asked for a bypass wants no more bans when it ends than there were before.
        if at < bypassed_until {
            return;
        }
        let Some(rule) = decide(offence, &rules, generation, &self.lists) else {
            return;
        };
        let Offence { unit, offender, .. } = *offence;
        let order = BanOrder {
            // With an allow entry taken away on trial, whom it covered is banned for the trial.
            trial: trial.or_else(|| self.lists.uncovered(unit)),
            ..ordered(unit, offender, rule, rules.longest_within())
        };
        self.ban(order);
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

    pub(super) fn warn(&self, result: Result<(), dataplane::Error>) {
        if let Err(error) = result {
            tracing::warn!("{error}");
        }
    }
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
        trial: None,
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
