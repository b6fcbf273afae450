//! What the API says of rules, mode and bypass, in the state directory: `rules.toml`, which people
//! may read and write, and `control.json`.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{error::RulesError, kept::Control};
use crate::{
    durable,
    pending::PendingRecord,
    rules::{RuleSet, RuleText},
    state_file::{self, Unread},
};

const RULES_FILE: &str = "rules.toml";
const CONTROL_FILE: &str = "control.json";
/// Nothing in them is secret.
pub(super) const MODE: u32 = 0o666;
/// Eight rules that say everything take 4 KiB; the rest is room for what people write beside them.
const MAX_FILE: u64 = 1024 * 1024;
/// Of `control.json`.
const VERSION: u64 = 1;

/// Everything in `control.json`. It is replaced whole, so a change on trial and the word that it is
/// one are on disk together or not at all.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ControlRecord {
    pub(super) v: u64,
    /// The mode that the API has set; without it the configuration's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mode: Option<String>,
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub(super) bypass_until: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) trial: Option<TrialRecord>,
}

impl Default for ControlRecord {
    fn default() -> Self {
        Self {
            v: VERSION,
            mode: None,
            bypass_until: None,
            trial: None,
        }
    }
}

/// A change on trial. What stands when it is over is in `rules.toml` and in the mode above.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrialRecord {
    #[serde(flatten)]
    pub(super) pending: PendingRecord,
    pub(super) to: ChangeRecord,
    /// What takes rules on trial back. To confirm them, `rules.toml` is written first: rules there that
    /// are on trial here have not been confirmed, and count for these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) back: Option<ChangeRecord>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum ChangeRecord {
    Rules(Rules),
    ResetRules,
    Mode(String),
    ResetMode,
}

/// Rules as users write them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Rules(Vec<RuleText>);

impl PartialEq for Rules {
    fn eq(&self, other: &Self) -> bool {
        let json = |rules: &Self| serde_json::to_value(rules).ok();
        json(self) == json(other)
    }
}

impl From<&RuleSet> for Rules {
    fn from(rules: &RuleSet) -> Self {
        Self(rules.iter().cloned().map(RuleText::from).collect())
    }
}

impl Rules {
    pub(super) fn checked(&self) -> Result<RuleSet, String> {
        let rules = self.0.iter().cloned().map(crate::rules::Rule::try_from);
        let rules = rules.collect::<Result<Vec<_>, _>>()?;
        RuleSet::validate(rules).map_err(|errors| errors.to_string())
    }
}

/// The files, and which of them may not hold what they should: a write that failed may have been made.
pub(super) struct Store {
    rules: PathBuf,
    control: PathBuf,
    pub(super) lacks_rules: bool,
    pub(super) lacks_control: bool,
    fault: Fault,
}

/// Why the last write failed, while something lacks: told without waiting for the disk.
#[derive(Clone, Default)]
pub(super) struct Fault(Arc<Mutex<Option<String>>>);

impl Fault {
    pub(super) fn told(&self) -> Option<String> {
        let fault = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        fault.clone()
    }

    /// Logs what is new.
    fn set(&self, fault: Option<String>) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == fault {
            return;
        }
        match &fault {
            Some(fault) => tracing::error!(
                "{fault}; tried again every second: until then a restart would bring back what it says"
            ),
            None => tracing::info!("rules.toml and control.json are written again"),
        }
        *told = fault;
    }
}

impl Store {
    pub(super) fn in_directory(state_dir: &Path) -> Self {
        Self {
            rules: state_dir.join(RULES_FILE),
            control: state_dir.join(CONTROL_FILE),
            lacks_rules: false,
            lacks_control: false,
            fault: Fault::default(),
        }
    }

    pub(super) fn fault(&self) -> Fault {
        self.fault.clone()
    }

    pub(super) fn rules_path(&self) -> &Path {
        &self.rules
    }

    pub(super) fn control_path(&self) -> &Path {
        &self.control
    }

    /// # Errors
    /// What is wrong with the file, which has no version.
    pub(super) fn rules(&self) -> Result<Option<RuleSet>, Unread> {
        let Some(text) = read(&self.rules)? else {
            return Ok(None);
        };
        let rules = RuleSet::from_toml(&text);
        rules.map(Some).map_err(|e| Unread::Damaged(e.to_string()))
    }

    /// Writes the rules, or with `None` removes the file.
    pub(super) fn put_rules(&mut self, rules: Option<&RuleSet>) -> Result<(), RulesError> {
        let written = match rules {
            Some(rules) => write(&self.rules, rules.to_toml().as_bytes()),
            None => remove(&self.rules),
        };
        self.lacks_rules = written.is_err();
        self.tell(&written);
        written
    }

    /// # Errors
    /// What is wrong with the file.
    pub(super) fn control(&self) -> Result<Control, Unread> {
        #[derive(Deserialize)]
        struct Version {
            v: u64,
        }
        let Some(text) = read(&self.control)? else {
            return Ok(Control::default());
        };
        let damaged = |error: serde_json::Error| Unread::Damaged(error.to_string());
        // First: a newer one may hold what this build takes for damage.
        let Version { v } = serde_json::from_str(&text).map_err(damaged)?;
        match v {
            VERSION => {}
            newer if newer > VERSION => return Err(Unread::Newer(newer)),
            other => return Err(Unread::Damaged(format!("version {other}"))),
        }
        let record: ControlRecord = serde_json::from_str(&text).map_err(damaged)?;
        Control::try_from(record).map_err(Unread::Damaged)
    }

    pub(super) fn put_control(&mut self, record: &ControlRecord) -> Result<(), RulesError> {
        let written = if *record == ControlRecord::default() {
            remove(&self.control)
        } else {
            let text = serde_json::to_vec_pretty(record);
            let mut text = text.expect("a record is of strings and lists");
            text.push(b'\n');
            write(&self.control, &text)
        };
        self.lacks_control = written.is_err();
        self.tell(&written);
        written
    }

    /// Of a write that is one of these.
    pub(super) fn tell(&self, written: &Result<(), RulesError>) {
        match written {
            Err(error) => self.fault.set(Some(error.to_string())),
            Ok(()) if !self.lacks_rules && !self.lacks_control => self.fault.set(None),
            Ok(()) => {}
        }
    }
}

fn read(path: &Path) -> Result<Option<String>, Unread> {
    let file = state_file::open(path)?;
    file.map(|file| state_file::text(file, MAX_FILE))
        .transpose()
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), RulesError> {
    durable::replace(path, bytes, MODE).map_err(|error| failed("write", path, error))
}

fn remove(path: &Path) -> Result<(), RulesError> {
    durable::remove(path).map_err(|error| failed("remove", path, error))
}

fn failed(operation: &'static str, path: &Path, source: io::Error) -> RulesError {
    RulesError::Io {
        operation,
        path: path.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        pending::{Object, Pending},
    };

    #[test]
    fn a_record_reads_as_it_was_written_and_an_empty_one_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut store = Store::in_directory(directory.path());
        assert_eq!(store.control().unwrap(), Control::default());
        let changes = [
            ChangeRecord::Rules(Rules::from(&RuleSet::default())),
            ChangeRecord::ResetRules,
            ChangeRecord::Mode("observe".to_owned()),
            ChangeRecord::ResetMode,
        ];
        let backs = changes.clone().map(Some).into_iter().rev();
        for (to, back) in changes.into_iter().zip(backs) {
            let object = match to {
                ChangeRecord::Rules(_) | ChangeRecord::ResetRules => Object::Rules,
                ChangeRecord::Mode(_) | ChangeRecord::ResetMode => Object::Mode,
            };
            let within = std::time::Duration::from_secs(60);
            let pending = Pending::new(object, within, Clock::new()).record;
            let record = ControlRecord {
                mode: Some("observe".to_owned()),
                bypass_until: Some(OffsetDateTime::UNIX_EPOCH),
                trial: Some(TrialRecord { pending, to, back }),
                ..ControlRecord::default()
            };
            store.put_control(&record).unwrap();
            let read = store.control().unwrap();
            assert_eq!(read, Control::try_from(record).unwrap());
        }
        store.put_control(&ControlRecord::default()).unwrap();
        assert!(!store.control.exists());
    }
}
