//! Runs a sequence of steps through program and reference and compares what can be seen.

use std::{collections::BTreeMap, fmt};

use packetwatch::dataplane::{self, Capacities};
use packetwatch_abi::Action;
use packetwatch_tests::{Kernel, reference::Reference};

use super::{
    counters::{Counters, same},
    step::{Step, standing},
};

/// Where each sequence's clock begins: a host that has just started.
const START_NS: u64 = 1_000_000_000;

/// Frames between two looks at all counters.
const INTERVAL: usize = 256;

/// How often everything is compared. What a packet shows by itself (action, call with addresses
/// and ports, offences) is compared at each packet either way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Care {
    AtIntervals,
    AtEachStep,
}

pub(crate) struct Mismatch {
    /// index of the step after which it showed
    pub(crate) step: usize,
    what: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after step {}: {}", self.step, self.what)
    }
}

/// One loaded program, used by one sequence after another.
pub(crate) struct Rig {
    kernel: Kernel,
    packets: u64,
    reasons: BTreeMap<&'static str, u64>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let capacities = Capacities {
            lists: 1024,
            bans: 1024,
            // more than one sequence has packets
            callers: 4096,
        };
        Self {
            kernel: Kernel::with_capacities(Vec::new(), capacities),
            packets: 0,
            reasons: BTreeMap::new(),
        }
    }

    /// Packets judged so far.
    pub(crate) fn packets(&self) -> u64 {
        self.packets
    }

    /// How many of them by reason.
    pub(crate) fn reasons(&self) -> &BTreeMap<&'static str, u64> {
        &self.reasons
    }

    /// Runs a sequence on an empty filter.
    pub(crate) fn run(&mut self, steps: &[Step], care: Care) -> Result<(), Mismatch> {
        let mut reference = self.reset();
        let before = Counters::read(&self.kernel.dataplane);
        let mut frames = 0;
        for (index, step) in steps.iter().enumerate() {
            let is_frame = matches!(step, Step::Frame(_));
            frames += usize::from(is_frame);
            let mut result = self.take(step, &mut reference);
            let all = care == Care::AtEachStep
                || (is_frame && frames % INTERVAL == 0)
                || index + 1 == steps.len();
            if result.is_ok() && all {
                result = before.compare(&self.kernel.dataplane, &reference);
            }
            result.map_err(|what| Mismatch { step: index, what })?;
        }
        Ok(())
    }

    /// Empties lists, bans and callers; what cannot be emptied is read and subtracted.
    fn reset(&mut self) -> Reference {
        let dataplane = &self.kernel.dataplane;
        for (unit, _) in dataplane.callers().unwrap() {
            dataplane.forget_caller(unit).unwrap();
        }
        for (prefix, _) in dataplane.bans().unwrap() {
            dataplane.remove_ban(prefix).unwrap();
        }
        self.kernel.replace([]);
        while self.kernel.events.calls.poll().is_some() {}
        while self.kernel.events.offences.poll().is_some() {}
        self.kernel.observe(false);
        self.kernel.set_rules(Vec::new());
        self.kernel.set_now(START_NS);
        let policies = self.kernel.dataplane.policies().unwrap();
        let [policy, _] = policies.expect("a policy is in force");
        Reference::new(START_NS, policy.generation, Vec::new())
    }

    fn take(&mut self, step: &Step, reference: &mut Reference) -> Result<(), String> {
        let dataplane = &self.kernel.dataplane;
        match step.clone() {
            Step::Frame(frame) => return self.judge(&frame, reference),
            Step::Clock(by) => {
                reference.now += by;
                self.kernel.set_now(reference.now);
            }
            Step::Rules(rules) => {
                self.kernel.set_rules(rules.clone());
                reference.set_rules(rules);
            }
            Step::Observe(observe) => {
                self.kernel.observe(observe);
                reference.observe = observe;
            }
            Step::Stand(prefix, allow_until, deny_until) => {
                let standing = standing(prefix, allow_until, deny_until);
                self.kernel.stand(prefix, Some(standing));
                reference.standings.insert(prefix.trunc(), standing);
            }
            Step::Unstand(prefix) => {
                self.kernel.stand(prefix, None);
                reference.standings.remove(&prefix.trunc());
            }
            Step::Replace(nodes) => {
                let nodes = nodes.into_iter();
                let nodes =
                    nodes.map(|(net, allow, deny)| (net.trunc(), standing(net, allow, deny)));
                reference.standings = nodes.collect();
                self.kernel.replace(reference.standings.clone());
            }
            Step::Ban(prefix, until) => {
                dataplane.ban(prefix, until).unwrap();
                reference.ban(prefix.trunc(), until);
            }
            Step::Unban(prefix) => {
                dataplane.remove_ban(prefix).unwrap();
                reference.bans.remove(&prefix.trunc());
            }
            Step::Forget(unit) => {
                dataplane.forget_caller(unit).unwrap();
                reference.callers.remove(&unit.trunc());
            }
        }
        Ok(())
    }

    /// Has a frame judged by both. The reason shows in the counters, at the next interval.
    fn judge(&mut self, frame: &[u8], reference: &mut Reference) -> Result<(), String> {
        let now = reference.now;
        let expected = reference.judge(frame);
        let action = self
            .kernel
            .dataplane
            .probe(frame, 1)
            .expect("run the program")
            .action;
        self.packets += 1;
        *self.reasons.entry(expected.reason.as_str()).or_default() += 1;
        same("action", &action, &expected.action, &expected)?;

        let call = self.kernel.events.calls.poll().map(|call| {
            let source = dataplane::address(&call.source, call.source.addr);
            let destination = dataplane::address(&call.source, call.destination);
            let ports = (call.source_port, call.destination_port);
            (
                call.at,
                source,
                destination,
                ports,
                call.reason,
                call.observed,
            )
        });
        let expected_call = expected.call.map(|packet| {
            let ports = (packet.source_port, packet.destination_port);
            let reason = expected.reason as u32;
            let drops = expected.reason.action() == Action::Drop;
            let observed = u32::from(drops && expected.action == Action::Pass);
            (
                now,
                packet.source,
                packet.destination,
                ports,
                reason,
                observed,
            )
        });
        same("reported call", &call, &expected_call, &expected)?;

        for told in &expected.offences {
            let offence = self.kernel.events.offences.poll().map(|offence| {
                let unit = dataplane::prefix(&offence.unit);
                let source = dataplane::address(&offence.source, offence.source.addr);
                let (rule, port) = (offence.rule, offence.destination_port);
                (offence.at, unit, source, rule, port, offence.generation)
            });
            let port = u32::from(told.destination_port);
            let told = (
                told.at,
                told.unit,
                told.source,
                told.rule,
                port,
                reference.generation(),
            );
            same("offence", &offence, &Some(told), &expected)?;
        }
        let further = self.kernel.events.offences.poll();
        same("further offence", &further, &None, &expected)
    }
}
