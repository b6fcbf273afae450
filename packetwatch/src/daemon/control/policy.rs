//! The kernel's policies that follow from the state.

use std::collections::BTreeSet;

use packetwatch_abi::{FOREVER, MAX_BAN_LENGTHS, Policy};

use super::{
    error::RulesError,
    state::{Regime, State},
};
use crate::{
    config::Mode,
    dataplane::Dataplane,
    prefix::Family,
    rules::{RuleSet, policy::compile},
};

/// The policy in force, and the one that takes its place at the end of a trial.
pub(super) fn policies(state: &State, dataplane: &Dataplane) -> Result<[Policy; 2], RulesError> {
    let standing = policy(&state.standing, state, dataplane)?;
    match &state.trial {
        None => Ok([standing; 2]),
        Some(trial) => {
            let tried = policy(&trial.regime, state, dataplane)?;
            let until = trial.pending.deadline;
            Ok([Policy { until, ..tried }, standing])
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

fn policy(regime: &Regime, state: &State, dataplane: &Dataplane) -> Result<Policy, RulesError> {
    let mut ban_lengths = [[0; MAX_BAN_LENGTHS]; 2];
    let lengths = lengths(&regime.rules, dataplane)?;
    for (row, lengths) in lengths.into_iter().enumerate() {
        for (place, length) in ban_lengths[row].iter_mut().zip(lengths) {
            *place = length;
        }
    }
    Ok(Policy {
        observe_until: observe_until(regime.mode, state.passes_until()),
        until: FOREVER,
        generation: regime.generation,
        call_budget: state.configured.call_budget,
        interfaces: dataplane.interface_slots(),
        ban_lengths,
        ..compile(&regime.rules).into()
    })
}

/// The prefix lengths under which bans stand or may come to stand, per family: the rules' units,
/// the single address, and those of bans that other rules have set.
///
/// # Errors
/// There are more than the kernel looks under.
pub(super) fn lengths(
    rules: &RuleSet,
    dataplane: &Dataplane,
) -> Result<[BTreeSet<u32>; 2], RulesError> {
    let units = |family, single| {
        let units = rules.units(family).into_iter().map(u32::from);
        units.chain([single]).collect::<BTreeSet<_>>()
    };
    let mut lengths = [units(Family::V4, 32), units(Family::V6, 128)];
    for (lengths, standing) in lengths.iter_mut().zip(dataplane.ban_lengths()) {
        lengths.extend(standing);
    }
    let most = lengths.iter().map(BTreeSet::len).max().unwrap_or(0);
    if most > MAX_BAN_LENGTHS {
        return Err(RulesError::TooManyLengths { lengths: most });
    }
    Ok(lengths)
}
