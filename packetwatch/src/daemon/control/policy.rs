//! The kernel's policies that follow from the state.

use std::collections::BTreeSet;

use ipnet::IpNet;
use packetwatch_abi::{FOREVER, MAX_BAN_LENGTHS, Policy};

use super::{error::RulesError, regime::Regime, state::State};
use crate::{
    config::Mode,
    dataplane::Dataplane,
    prefix::Family,
    rules::{RuleSet, policy::compile},
};

/// The policy in force, and the one that takes its place at the end of a trial.
pub(super) fn policies(state: &State, dataplane: &Dataplane) -> [Policy; 2] {
    let standing = policy(&state.standing, state, dataplane);
    match &state.trial {
        None => [standing; 2],
        Some(trial) => {
            let tried = policy(&trial.regime, state, dataplane);
            let until = trial.pending.deadline;
            [Policy { until, ..tried }, standing]
        }
    }
}

/// Until when nothing is dropped. A bypass that has ended says so to the process that comes after.
pub(super) fn observe_until(mode: Mode, passes_until: u64) -> u64 {
    match mode {
        Mode::Observe => FOREVER,
        Mode::Enforce => passes_until,
    }
}

fn policy(regime: &Regime, state: &State, dataplane: &Dataplane) -> Policy {
    let [own, standing] = [own(&regime.rules), dataplane.ban_lengths()];
    let ban_lengths = [0, 1].map(|family| looked_under(&own[family], &standing[family]));
    Policy {
        observe_until: observe_until(regime.mode, state.passes_until()),
        until: FOREVER,
        generation: regime.generation,
        call_budget: state.configured.call_budget,
        interfaces: dataplane.interface_slots(),
        ban_lengths,
        ..compile(&regime.rules).into()
    }
}

/// The prefix lengths under which the program looks for bans of a family, as the policy names them: first
/// the rules' own, then of the bans that other rules have set the longest. Whatever those are, a policy
/// is made: a daemon that would not start could lift none of them.
fn looked_under(own: &BTreeSet<u32>, standing: &BTreeSet<u32>) -> [u32; MAX_BAN_LENGTHS] {
    let others = standing.iter().rev().filter(|length| !own.contains(length));
    let others: Vec<u32> = others.copied().collect();
    let (found, left_out) = others.split_at(others.len().min(MAX_BAN_LENGTHS - own.len()));
    if !left_out.is_empty() {
        tracing::error!(
            "bans of the prefix lengths {left_out:?} are not in force: the kernel looks under \
             {MAX_BAN_LENGTHS}. Remove them or wait for bans to end, or let fewer rules have units of \
             their own"
        );
    }
    let mut all = [0; MAX_BAN_LENGTHS];
    for (place, length) in all.iter_mut().zip(own.iter().chain(found)) {
        *place = *length;
    }
    all
}

/// The prefix lengths of IPv4 and of IPv6 that rules ban: their units, and the single address.
fn own(rules: &RuleSet) -> [BTreeSet<u32>; 2] {
    [(Family::V4, 32), (Family::V6, 128)].map(|(family, single)| {
        let units = rules.units(family).into_iter().map(u32::from);
        units.chain([single]).collect()
    })
}

/// Whether the program would look for all bans: those of these rules, those that stand, and others.
///
/// # Errors
/// There are more lengths than the kernel looks under.
pub(super) fn check_lengths(
    rules: &RuleSet,
    standing: [BTreeSet<u32>; 2],
    others: impl IntoIterator<Item = IpNet>,
) -> Result<(), RulesError> {
    let mut lengths = own(rules);
    for (lengths, standing) in lengths.iter_mut().zip(standing) {
        lengths.extend(standing);
    }
    for prefix in others {
        lengths[usize::from(prefix.addr().is_ipv6())].insert(prefix.prefix_len().into());
    }
    let most = lengths.iter().map(BTreeSet::len).max().unwrap_or(0);
    if most > MAX_BAN_LENGTHS {
        return Err(RulesError::TooManyLengths { lengths: most });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(lengths: impl IntoIterator<Item = u32>) -> BTreeSet<u32> {
        lengths.into_iter().collect()
    }

    #[test]
    fn the_rules_own_lengths_come_before_those_of_other_bans() {
        let own = set([24, 32]);
        assert_eq!(looked_under(&own, &set([])), [24, 32, 0, 0, 0, 0, 0, 0]);
        let six = set([16, 17, 18, 19, 20, 21, 24]);
        assert_eq!(looked_under(&own, &six), [24, 32, 21, 20, 19, 18, 17, 16]);
        let seven = set(15..=21);
        assert_eq!(looked_under(&own, &seven), [24, 32, 21, 20, 19, 18, 17, 16]);
        let all = set(25..=32);
        assert_eq!(
            looked_under(&all, &seven)[..],
            all.into_iter().collect::<Vec<_>>()
        );
    }
}
