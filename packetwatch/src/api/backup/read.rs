//! A backup as a restore reads it: whole, each line checked by itself.

use ipnet::IpNet;
use time::{OffsetDateTime, UtcOffset};

use super::{End, Head, Line, Rules, SavedMode, VERSION};
use crate::{
    api::{
        extract::told,
        lists::{EntryBody, FieldError},
        problem::{Fault, MAX_FAULTS, Problem},
    },
    config::{Mode, Word as _},
    lists::{MAX_OFFENCES, Saved},
    prefix,
    rules::{Rule, RuleSet, is_name},
};

/// A backup that was read whole.
#[derive(Debug, Default)]
pub(super) struct Backup {
    pub(super) saved: Saved,
    pub(super) rules: Option<Vec<Rule>>,
    pub(super) mode: Option<Mode>,
}

/// Reads and checks the lines.
pub(super) fn read(body: &[u8]) -> Result<Backup, Problem> {
    let mut backup = Backup::default();
    let mut faults = Faults::default();
    let mut ended = false;
    let body = body.strip_suffix(b"\n").unwrap_or(body);
    for (index, line) in body.split(|byte| *byte == b'\n').enumerate() {
        let number = index + 1;
        let mut json = serde_json::Deserializer::from_slice(line);
        let line: Line = match serde_path_to_error::deserialize(&mut json) {
            Ok(line) => line,
            Err(error) => {
                let (field, detail) = told(&error);
                faults.add(number, field, detail);
                continue;
            }
        };
        if json.end().is_err() {
            faults.add(
                number,
                None,
                "more follows the object on this line".to_owned(),
            );
        }
        if (index == 0) != matches!(line, Line::Backup(_)) || ended {
            let detail = "a backup begins with the line of kind backup, has one of them, and ends \
                          with the line of kind end";
            faults.add(number, Some("kind".to_owned()), detail.to_owned());
        }
        if let Line::End(End { lines }) = line {
            ended = true;
            if lines != index {
                let detail = format!("{index} lines lie before it, and {lines} were written");
                faults.add(number, Some("lines".to_owned()), detail);
            }
        } else if let Err((field, detail)) = backup.take(line) {
            faults.add(number, Some(field.to_owned()), detail);
        }
    }
    if !ended && faults.all == 0 {
        let detail = "the last line, of kind end, is missing: the backup was cut off".to_owned();
        faults.add(body.split(|byte| *byte == b'\n').count(), None, detail);
    }
    faults.into_result().map(|()| backup)
}

impl Backup {
    fn take(&mut self, line: Line) -> Result<(), FieldError> {
        match line {
            Line::Backup(Head { v, .. }) if v > VERSION => Err((
                "v",
                format!("version {v} is newer than {VERSION}: restore it with a newer packetwatch"),
            )),
            Line::Backup(_) | Line::End(_) => Ok(()),
            Line::Entries(mut entries) => {
                for text in &entries.prefixes {
                    prefix::parse(text).map_err(|error| ("prefixes", error.to_string()))?;
                }
                check_reason(entries.reason.as_deref().unwrap_or_default())?;
                utc("created_at", Some(&mut entries.created_at))?;
                utc("expires_at", entries.expires_at.as_mut())?;
                self.saved.entries.push(entries);
                Ok(())
            }
            Line::Ban(mut ban) => {
                if !is_name(&ban.rule) {
                    return Err(("rule", format!("{:?} is no name of a rule", ban.rule)));
                }
                check_reason(&ban.reason)?;
                check_banned(ban.prefix)?;
                utc("created_at", Some(&mut ban.created_at))?;
                utc("expires_at", ban.expires_at.as_mut())?;
                self.saved.bans.push(ban);
                Ok(())
            }
            Line::Offence(mut offence) => {
                if self.saved.offences.len() == MAX_OFFENCES {
                    let detail = format!("offences of more than {MAX_OFFENCES} prefixes");
                    return Err(("kind", detail));
                }
                check_banned(offence.prefix)?;
                utc("ban_ends_at", offence.ban_ends_at.as_mut())?;
                self.saved.offences.push(offence);
                Ok(())
            }
            Line::Rules(Rules { rules }) => {
                let rules = rules.into_iter().map(Rule::try_from);
                let rules: Vec<Rule> = rules.collect::<Result<_, _>>().map_err(|e| ("rules", e))?;
                let checked = RuleSet::validate(rules.clone());
                checked.map_err(|errors| ("rules", errors.to_string().replace('\n', "; ")))?;
                self.rules = Some(rules);
                Ok(())
            }
            Line::Mode(SavedMode { mode }) => {
                let known = Mode::WORDS.iter().find(|(word, _)| *word == mode);
                let (_, mode) = known.ok_or_else(|| ("mode", format!("{mode:?} is no mode")))?;
                self.mode = Some(*mode);
                Ok(())
            }
        }
    }
}

/// As for an entry that is written otherwise.
fn check_reason(reason: &str) -> Result<(), FieldError> {
    let body = EntryBody {
        reason: Some(reason.to_owned()),
        ttl: None,
    };
    body.checked().map(|_| ())
}

/// A prefix that a rule bans.
fn check_banned(prefix: IpNet) -> Result<(), FieldError> {
    let wrong = if prefix.prefix_len() == 0 {
        "is everybody, and no rule bans everybody".to_owned()
    } else if prefix != prefix.trunc() {
        format!("has bits beyond its length: write {}", prefix.trunc())
    } else {
        return Ok(());
    };
    Err(("prefix", format!("{prefix} {wrong}")))
}

/// Makes a time UTC, which all times are that are kept and told.
fn utc(field: &'static str, at: Option<&mut OffsetDateTime>) -> Result<(), FieldError> {
    let Some(at) = at else { return Ok(()) };
    let there = at.checked_to_offset(UtcOffset::UTC);
    // Before the year 0 there is no way to write it.
    let there = there.filter(|there| there.year() >= 0);
    *at = there.ok_or_else(|| (field, format!("{at} lies in no year of 0 to 9999 in UTC")))?;
    Ok(())
}

/// What is wrong, line by line.
#[derive(Debug, Default)]
struct Faults {
    /// the first [`MAX_FAULTS`]
    named: Vec<Fault>,
    all: usize,
}

impl Faults {
    fn add(&mut self, line: usize, field: Option<String>, detail: String) {
        self.all += 1;
        if self.named.len() < MAX_FAULTS {
            self.named.push(Fault {
                line: Some(line),
                index: None,
                field,
                detail,
            });
        }
    }

    fn into_result(self) -> Result<(), Problem> {
        if self.all == 0 {
            return Ok(());
        }
        let detail = format!(
            "wrong lines: {}. Nothing was changed: restore a whole backup as `packetwatch backup` \
             wrote it",
            self.all
        );
        Err(Problem::refused("body", detail).listing(self.named, self.all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = r#"{"kind":"backup","v":1,"version":"0","made_at":"2026-01-01T00:00:00Z"}"#;

    fn faults(lines: &[&str]) -> Vec<(Option<usize>, Option<String>)> {
        let problem = read(lines.join("\n").as_bytes()).unwrap_err();
        assert_eq!(problem.status, 422);
        let faults = problem.errors.into_iter();
        faults.map(|fault| (fault.line, fault.field)).collect()
    }

    #[test]
    fn every_bad_line_is_named() {
        let named = faults(&[
            HEAD,
            "nonsense",
            r#"{"kind":"ban","prefix":"198.51.100.0/33"}"#,
            r#"{"kind":"entries","list":"deny","created_at":"2026-01-01T00:00:00Z","prefixes":["x"]}"#,
            r#"{"kind":"token","token":"pw_0"}"#,
            r#"{"kind":"mode","mode":"sleep"}"#,
            r#"{"kind":"end","lines":6}"#,
        ]);
        let lines: Vec<_> = named.iter().filter_map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 3, 4, 5, 6]);
        assert_eq!(named[2].1.as_deref(), Some("prefixes"));
    }

    #[test]
    fn what_was_cut_off_or_put_together_is_refused() {
        let end = r#"{"kind":"end","lines":1}"#;
        assert!(read(format!("{HEAD}\n{end}\n").as_bytes()).is_ok());
        assert_eq!(faults(&[HEAD]), [(Some(1), None)]);
        assert_eq!(faults(&[end])[0].0, Some(1));
        assert_eq!(faults(&[HEAD, r#"{"kind":"end","lines":2}"#])[0].0, Some(2));
        assert_eq!(faults(&[HEAD, end, HEAD])[0].0, Some(3));
        assert_eq!(faults(&[""])[0].0, Some(1));
        let newer = HEAD.replace("\"v\":1", "\"v\":2");
        assert_eq!(faults(&[&newer, end]), [(Some(1), Some("v".to_owned()))]);
    }

    #[test]
    fn what_no_other_route_takes_a_restore_does_not_either() {
        let end = r#"{"kind":"end","lines":2}"#;
        let ban = r#"{"kind":"ban","prefix":"198.51.100.2/32","rule":"scan","reason":"ports",
            "offender":"198.51.100.2","repeat":1,"created_at":"2026-01-01T00:00:00Z",
            "expires_at":"2036-01-01T02:00:00+02:00","within_seconds":60}"#;
        let ban = ban.replace('\n', "");
        let read = read([HEAD, &ban, end].join("\n").as_bytes()).unwrap();
        let utc = time::macros::datetime!(2036-01-01 00:00 UTC);
        assert_eq!(
            read.saved.bans[0].expires_at.unwrap().to_string(),
            utc.to_string()
        );
        let table = [
            ("scan", "Not a name", "rule"),
            ("198.51.100.2/32", "198.51.100.2/24", "prefix"),
            ("198.51.100.2/32", "0.0.0.0/0", "prefix"),
            ("ports", "two\\nlines", "reason"),
            ("ports", &"x".repeat(257), "reason"),
            (
                "2036-01-01T02:00:00+02:00",
                "9999-12-31T23:59:59-00:01",
                "expires_at",
            ),
            (
                "2026-01-01T00:00:00Z",
                "0000-01-01T00:00:00+00:01",
                "created_at",
            ),
        ];
        for (good, bad, field) in table {
            let line = ban.replace(&format!("\"{good}\""), &format!("\"{bad}\""));
            assert_ne!(line, ban);
            assert_eq!(
                faults(&[HEAD, &line, end]),
                [(Some(2), Some(field.to_owned()))],
                "{line}"
            );
        }
        let twice = format!("{ban}{ban}");
        assert_eq!(faults(&[HEAD, &twice, end]), [(Some(2), None)]);
    }

    #[test]
    fn offences_are_of_prefixes_that_a_ban_has() {
        let end = r#"{"kind":"end","lines":2}"#;
        for prefix in ["198.51.100.2/24", "::/0"] {
            let offence = format!(r#"{{"kind":"offence","prefix":"{prefix}","count":1}}"#);
            let prefix = Some("prefix".to_owned());
            assert_eq!(faults(&[HEAD, &offence, end]), [(Some(2), prefix)]);
        }
    }

    #[test]
    fn no_more_offences_are_restored_than_are_remembered() {
        let offence = r#"{"kind":"offence","prefix":"198.51.100.2/32","count":1}"#;
        let backup = |n: usize| {
            let mut lines = vec![HEAD];
            lines.extend(std::iter::repeat_n(offence, n));
            let end = format!(r#"{{"kind":"end","lines":{}}}"#, n + 1);
            lines.push(&end);
            read(lines.join("\n").as_bytes()).map(|backup| backup.saved.offences.len())
        };
        assert_eq!(backup(MAX_OFFENCES), Ok(MAX_OFFENCES));
        assert_eq!(backup(MAX_OFFENCES + 1).unwrap_err().errors_total, Some(1));
    }

    #[test]
    fn bad_lines_beyond_the_bound_are_counted() {
        let lines = vec!["bad"; MAX_FAULTS + 1];
        let problem = read(lines.join("\n").as_bytes()).unwrap_err();
        assert_eq!(problem.errors.len(), MAX_FAULTS);
        assert_eq!(problem.errors_total, Some(MAX_FAULTS + 1));
    }
}
