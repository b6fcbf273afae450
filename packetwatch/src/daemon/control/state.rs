//! What is in force of rules and mode, what is on trial, and how long nothing is dropped.

use packetwatch_abi::{FOREVER, Policy};

use super::regime::{Configured, Regime, SetBy, To};
use crate::{
    lists::UnitLengths,
    pending::{Object, Pending},
    rules::{
        RuleSet,
        policy::{Compiled, compile},
    },
};

#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) pending: Pending,
    pub(super) to: To,
    pub(super) regime: Regime,
}

#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) configured: Configured,
    /// what stands, or stands again when the trial is over
    pub(super) standing: Regime,
    pub(super) trial: Option<Trial>,
    /// CLOCK_MONOTONIC nanoseconds; 0 without a bypass
    pub(super) bypass_until: u64,
    /// when the bypass before this one ended
    spared_until: u64,
    /// the last generation that was given
    generations: u32,
    /// what the kernel was told last
    pub(super) in_force: Option<[Policy; 2]>,
}

impl State {
    /// Of the rules that stand, and of those on trial.
    pub(super) fn unit_lengths(&self) -> UnitLengths {
        let tried = self.trial.iter().map(|trial| &trial.regime.rules);
        UnitLengths::of([&self.standing.rules].into_iter().chain(tried))
    }

    pub(super) fn new(configured: Configured) -> Self {
        let standing = Regime {
            rules: configured.rules.clone(),
            rules_by: configured.rules_by.clone(),
            generation: 1,
            mode: configured.mode,
            mode_by: configured.mode_by.clone(),
        };
        Self {
            configured,
            standing,
            trial: None,
            bypass_until: 0,
            spared_until: 0,
            generations: 1,
            in_force: None,
        }
    }

    /// Goes on with the windows that an earlier process has left, where its rules were the same:
    /// those were counted under the generations of these policies, which it had in force. Other rules
    /// have generations from `next` on. It is drawn: callers may bear any that an earlier process has
    /// given, of rules that were on trial, say, and what was counted under those must not count for ours.
    pub(super) fn go_on(&mut self, left: &[Policy; 2], next: u32) {
        self.generations = next;
        let trial = self.trial.as_mut().map(|trial| &mut trial.regime);
        let mut known = left
            .map(|policy| (Compiled::of(&policy), policy.generation))
            .to_vec();
        for regime in [&mut self.standing].into_iter().chain(trial) {
            let rules = compile(&regime.rules);
            let same = known.iter().find(|(left, _)| *left == rules);
            regime.generation = match same {
                Some((_, generation)) => *generation,
                None => {
                    self.generations = self.generations.wrapping_add(1);
                    known.push((rules, self.generations));
                    self.generations
                }
            };
        }
    }

    /// Begins a bypass, or with 0 ends the one that there is, at this time.
    pub(super) fn set_bypass(&mut self, until: u64, now: u64) {
        if self.bypass_until != 0 {
            self.spared_until = now.min(self.bypass_until);
        }
        self.bypass_until = until;
    }

    /// Until when nothing is or was dropped by the last bypass.
    pub(super) fn bypassed_until(&self) -> u64 {
        self.bypass_until.max(self.spared_until)
    }

    /// The same for the program, whose clock goes in ticks and so is behind: what has ended is over
    /// for it at once.
    pub(super) fn passes_until(&self) -> u64 {
        let ended = self.spared_until.saturating_sub(COARSEST_TICK);
        self.bypass_until.max(ended)
    }

    /// Takes over when the last bypass of an earlier process ended.
    pub(super) fn spare_since(&mut self, left: &[Policy; 2], now: u64) {
        let ended = last_bypass(left);
        self.spared_until = ended.map_or(0, |until| (until + COARSEST_TICK).min(now));
    }

    /// What the kernel judges by at this time.
    pub(super) fn regime(&self, now: u64) -> &Regime {
        match self.live_trial(now) {
            Some(trial) => &trial.regime,
            None => &self.standing,
        }
    }

    pub(super) fn live_trial(&self, now: u64) -> Option<&Trial> {
        let trial = self.trial.as_ref();
        trial.filter(|trial| trial.pending.is_live(now))
    }

    /// The rules on trial, where they are others than stand without it: what follows from those that do
    /// does not end with the trial.
    pub(super) fn other_rules_on_trial(&self, now: u64) -> Option<&Trial> {
        let trial = self.live_trial(now);
        trial.filter(|trial| trial.regime.rules != self.standing.rules)
    }

    /// What this change makes of what stands.
    pub(super) fn changed(&mut self, to: &To) -> Regime {
        let mut regime = self.standing.clone();
        let Configured {
            rules,
            rules_by,
            mode,
            mode_by,
            ..
        } = &self.configured;
        match to {
            To::Rules(rules) => (regime.rules, regime.rules_by) = (rules.clone(), SetBy::Api),
            To::ResetRules => {
                (regime.rules, regime.rules_by) = (rules.clone(), rules_by.clone());
            }
            To::Mode(mode) => (regime.mode, regime.mode_by) = (*mode, SetBy::Api),
            To::ResetMode => (regime.mode, regime.mode_by) = (*mode, mode_by.clone()),
        }
        regime.generation = self.generation_of(&regime.rules);
        regime
    }

    /// The generation that these rules have or are to have: with what the program makes of them as it was,
    /// its windows and limits count on, and who sends them again forgives nobody.
    fn generation_of(&mut self, rules: &RuleSet) -> u32 {
        let compiled = compile(rules);
        let trial = self.trial.as_ref().map(|trial| &trial.regime);
        let same = [&self.standing]
            .into_iter()
            .chain(trial)
            .find(|regime| compile(&regime.rules) == compiled);
        if let Some(regime) = same {
            return regime.generation;
        }
        self.generations = self.generations.wrapping_add(1);
        self.generations
    }

    /// Puts a change in force for good, beside a trial of the other object.
    pub(super) fn take(&mut self, to: &To, regime: Regime) {
        let trial = self.trial.as_mut().map(|trial| &mut trial.regime);
        if let Some(tried) = trial {
            match to.object() {
                Object::Mode => {
                    tried.mode = regime.mode;
                    tried.mode_by = regime.mode_by.clone();
                }
                _ => {
                    tried.rules = regime.rules.clone();
                    tried.rules_by = regime.rules_by.clone();
                    tried.generation = regime.generation;
                }
            }
        }
        self.standing = regime;
    }

    /// Takes over another configuration: what is the configuration's follows it, also what is to
    /// stand again after a trial; what the API has said stays.
    pub(super) fn follow(&mut self, configured: Configured) {
        let generation = self.generation_of(&configured.rules);
        let trial = self.trial.as_mut().map(|trial| &mut trial.regime);
        for regime in [&mut self.standing].into_iter().chain(trial) {
            if regime.rules_by.is_configuration() {
                regime.generation = generation;
                regime.rules = configured.rules.clone();
                regime.rules_by = configured.rules_by.clone();
            }
            if regime.mode_by.is_configuration() {
                regime.mode = configured.mode;
                regime.mode_by = configured.mode_by.clone();
            }
        }
        self.configured = configured;
    }
}

/// When the last bypass ends or ended, by these policies. Observe mode does not tell.
pub(super) fn last_bypass(left: &[Policy; 2]) -> Option<u64> {
    let ends = left.iter().map(|policy| policy.observe_until);
    ends.filter(|until| ![0, FOREVER].contains(until)).max()
}

/// Nanoseconds that the program's clock may be behind: a timer tick.
const COARSEST_TICK: u64 = 10_000_000;

#[cfg(test)]
mod tests;
