//! Backups, read as a restore reads them; [`crate::fuzz`] says what for.

use time::OffsetDateTime;

use super::{
    End, Head, Line, Rules, SavedMode, VERSION,
    read::{Backup, read},
};
use crate::{
    api::fuzz::{assert_reason, assert_told},
    config::Word as _,
    fuzz::assert_within_bounds,
    rules::{RuleSet, RuleText, is_name},
};

/// A backup.
///
/// # Panics
/// Where what was taken could not have been written, or reads back as something else.
pub fn restore(input: &[u8]) {
    match read(input) {
        Ok(backup) => {
            assert_within(&backup);
            let again = read(&written(&backup)).expect("what was read can be written");
            assert_eq!(again.saved, backup.saved);
            assert_eq!((again.rules, again.mode), (backup.rules, backup.mode));
        }
        Err(problem) => {
            assert_told(&problem);
            assert!(problem.errors.iter().all(|fault| fault.line.is_some()));
        }
    }
}

/// What it holds could have been ordered over the other routes, or have come of rules.
fn assert_within(backup: &Backup) {
    for group in &backup.saved.entries {
        assert_reason(group.reason.as_deref());
        assert_utc([Some(group.created_at), group.expires_at]);
    }
    for ban in &backup.saved.bans {
        assert_reason(Some(&ban.reason));
        assert!(is_name(&ban.rule), "{ban:?}");
        assert_utc([Some(ban.created_at), ban.expires_at]);
    }
    for offence in &backup.saved.offences {
        assert_utc([offence.ban_ends_at, None]);
    }
    if let Some(rules) = &backup.rules {
        assert_within_bounds(&RuleSet::validate(rules.clone()).expect("what was read is checked"));
    }
}

fn assert_utc(times: [Option<OffsetDateTime>; 2]) {
    assert!(times.into_iter().flatten().all(|at| at.offset().is_utc()));
}

fn written(backup: &Backup) -> Vec<u8> {
    let Backup { saved, rules, mode } = backup;
    let head = Line::Backup(Head {
        v: VERSION,
        version: "0".to_owned(),
        made_at: OffsetDateTime::UNIX_EPOCH,
    });
    let mut lines = vec![head];
    lines.extend(saved.entries.iter().cloned().map(Line::Entries));
    lines.extend(saved.bans.iter().cloned().map(Line::Ban));
    lines.extend(saved.offences.iter().cloned().map(Line::Offence));
    lines.extend(rules.as_ref().map(|rules| {
        let rules = rules.iter().cloned().map(RuleText::from).collect();
        Line::Rules(Rules { rules })
    }));
    lines.extend(mode.map(|mode| {
        let mode = mode.word().to_owned();
        Line::Mode(SavedMode { mode })
    }));
    let before = lines.len();
    lines.push(Line::End(End { lines: before }));
    let lines = lines
        .iter()
        .map(|line| serde_json::to_vec(line).expect("a line is JSON"));
    lines.collect::<Vec<_>>().join(&b'\n')
}
