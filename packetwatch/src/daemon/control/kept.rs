//! What the state directory says at a start. A file that is damaged is set aside, and what it said is
//! taken from who else knows: the other file, the filter that an earlier process has left, the
//! configuration. What was on trial is over then.

#[cfg(test)]
mod tests;

use std::path::Path;

use packetwatch_abi::Policy;
use time::OffsetDateTime;

use super::{
    RulesError,
    record::{change_of, mode_of},
    regime::To,
    store::{ControlRecord, MODE, Store},
};
use crate::{
    config::Mode,
    pending::{CONFIRM, PendingRecord},
    rules::{
        RuleSet,
        policy::{Compiled, compile},
    },
    state_file::{self, Unread},
};

const RULES_ASIDE: &str = "the rules are those of the configuration; mend the file and have it read \
     with `packetwatch rules set FILE`";
const RULES_BACK: &str = "the rules are those that stood before the change on trial";
const CONTROL_ASIDE: &str = "the mode is the configuration's until `packetwatch mode` sets another, \
     the rules are those of rules.toml, else of the configuration, and nothing is on trial; a bypass \
     goes on only if a filter that was left tells its end";
const UNTOLD: &str = "they are not those of the filter that was left, and control.json, which tells \
     rules on trial from others, is damaged";

/// What stands, and what was on trial, as the files say.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// `None` for the configuration's
    pub(super) rules: Option<RuleSet>,
    /// `rules.toml` says otherwise: a trial that was never confirmed
    pub(super) is_rules_file_ahead: bool,
    pub(super) control: Control,
    /// `control.json` was damaged
    pub(super) is_control_lost: bool,
}

/// What `control.json` says, each part of it possible.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Control {
    pub(super) mode: Option<Mode>,
    pub(super) bypass_until: Option<OffsetDateTime>,
    pub(super) trial: Option<KeptTrial>,
}

#[derive(Debug, PartialEq)]
pub(super) struct KeptTrial {
    pub(super) pending: PendingRecord,
    pub(super) to: To,
    /// what takes rules back
    pub(super) back: Option<To>,
}

impl Kept {
    /// Reads both files. `left`: what an earlier process has left in force.
    ///
    /// # Errors
    /// A file that may be sound cannot be read, or a damaged one not be set aside.
    pub(super) fn read(store: &Store, left: Option<&[Policy; 2]>) -> Result<Self, RulesError> {
        let (control, damage) = match store.control() {
            Ok(control) => (control, None),
            Err(Unread::Damaged(cause)) => (Control::default(), Some(cause)),
            Err(other) => return Err(RulesError::unread(store.control_path(), other)),
        };
        let standing = left.filter(|_| damage.is_some()).map(|left| left[1]);
        let written = written_rules(store, control.trial.as_ref(), standing.as_ref())?;
        let (rules, is_rules_file_ahead) = standing_rules(written, control.trial.as_ref());
        // Last: as long as it lies there, the next start does with the rules what this one does.
        if let Some(cause) = &damage {
            set_aside(store.control_path(), None, cause, CONTROL_ASIDE)?;
        }
        Ok(Self {
            rules,
            is_rules_file_ahead,
            control,
            is_control_lost: damage.is_some(),
        })
    }
}

/// What `rules.toml` says. In the place of a damaged one is put what takes rules on trial back: it is
/// what the file said. With `standing` they count only if they are the ones that a filter has so, since
/// nothing else tells whether they were confirmed.
fn written_rules(
    store: &Store,
    trial: Option<&KeptTrial>,
    standing: Option<&Policy>,
) -> Result<Option<RuleSet>, RulesError> {
    let path = store.rules_path();
    let cause = match store.rules() {
        Ok(Some(rules)) => match standing {
            Some(left) if Compiled::of(left) != compile(&rules) => UNTOLD.to_owned(),
            _ => return Ok(Some(rules)),
        },
        Ok(None) => return Ok(None),
        Err(Unread::Damaged(cause)) => cause,
        Err(other) => return Err(RulesError::unread(path, other)),
    };
    if let Some(To::Rules(rules)) = trial.and_then(|trial| trial.back.as_ref()) {
        let text = rules.to_toml();
        set_aside(path, Some((text.as_bytes(), MODE)), &cause, RULES_BACK)?;
        return Ok(Some(rules.clone()));
    }
    set_aside(path, None, &cause, RULES_ASIDE)?;
    Ok(None)
}

/// What stands by `rules.toml`, which has these rules: with a trial of just those, what stood before it.
/// The second says whether they differ.
fn standing_rules(written: Option<RuleSet>, trial: Option<&KeptTrial>) -> (Option<RuleSet>, bool) {
    let Some((to, back)) = trial.and_then(|trial| Some((&trial.to, trial.back.as_ref()?))) else {
        return (written, false);
    };
    let rules = |change: &To| match change {
        To::Rules(rules) => Some(rules.clone()),
        _ => None,
    };
    match written == rules(to) {
        true => (rules(back), true),
        false => (written, false),
    }
}

fn set_aside(
    path: &Path,
    instead: Option<state_file::Instead<'_>>,
    cause: &str,
    outcome: &str,
) -> Result<(), RulesError> {
    let set_aside = state_file::set_aside(path, instead, cause, outcome);
    set_aside.map_err(|source| RulesError::Io {
        operation: "set aside the damaged",
        path: path.to_owned(),
        source,
    })
}

impl TryFrom<ControlRecord> for Control {
    type Error = String;

    fn try_from(record: ControlRecord) -> Result<Self, String> {
        let ControlRecord {
            mode,
            bypass_until,
            trial,
            ..
        } = record;
        let trial = trial.map(|trial| {
            let (pending, to) = (trial.pending, change_of(trial.to)?);
            let within = pending.until - pending.made_at;
            if pending.object != to.object() || within > *CONFIRM.end() {
                let PendingRecord { id, .. } = pending;
                return Err(format!("no daemon has made such a trial as {id:?}"));
            }
            let back = trial.back.map(change_of).transpose()?;
            Ok(KeptTrial { pending, to, back })
        });
        Ok(Self {
            mode: mode.as_deref().map(mode_of).transpose()?,
            bypass_until,
            trial: trial.transpose()?,
        })
    }
}
