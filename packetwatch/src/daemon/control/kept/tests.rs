//! Files that are damaged in every way: understood or set aside, and what then counts.

use std::{fs, os::unix::fs::symlink, path::PathBuf, time::Duration};

use tempfile::TempDir;

use super::*;
use crate::{
    clock::Clock,
    daemon::control::{record::record_of, store::TrialRecord},
    pending::{Object, Pending},
    rules::{Rule, Trigger},
};

const FILES: [&str; 2] = ["rules.toml", "control.json"];

fn rules(calls: u64) -> RuleSet {
    RuleSet::validate(vec![Rule::new("calls", Trigger::Connections(calls))]).unwrap()
}

/// Rules of five calls and observe mode, with rules of nine calls on trial.
struct Fixture {
    dir: TempDir,
    store: Store,
    whole: [Vec<u8>; 2],
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::in_directory(dir.path());
        store.put_rules(Some(&rules(5))).unwrap();
        let within = Duration::from_secs(60);
        let pending = Pending::new(Object::Rules, within, Clock::new()).record;
        let record = ControlRecord {
            mode: Some("observe".to_owned()),
            bypass_until: Some(pending.until),
            trial: Some(TrialRecord {
                pending,
                to: record_of(&To::Rules(rules(9))),
                back: Some(record_of(&To::Rules(rules(5)))),
            }),
            ..ControlRecord::default()
        };
        store.put_control(&record).unwrap();
        let whole = FILES.map(|file| fs::read(dir.path().join(file)).unwrap());
        Self { dir, store, whole }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn put(&self, file: &str, bytes: &[u8]) {
        fs::write(self.path(file), bytes).unwrap();
    }

    /// `left`: rules that a kept filter has in force.
    fn kept(&self, left: Option<&RuleSet>) -> Kept {
        let left = left.map(|rules| [compile(rules).into(); 2]);
        Kept::read(&self.store, left.as_ref()).unwrap()
    }

    fn aside(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.dir.path()).unwrap();
        let files = files.map(|file| file.unwrap().path());
        let is_aside = |file: &PathBuf| file.display().to_string().contains(".damaged-");
        files.filter(is_aside).collect()
    }

    /// A start, after which both files are whole again. Returns whether this one, with these bytes, was
    /// set aside; no other may be.
    fn sets_aside(&self, file: &str, bytes: &[u8]) -> bool {
        self.put(file, bytes);
        self.kept(None);
        let aside = self.aside();
        if let [aside] = &aside[..] {
            assert!(aside.starts_with(self.dir.path()));
            assert_eq!(fs::read(aside).unwrap(), bytes, "as it was");
            let name = aside.file_name().unwrap().to_str().unwrap();
            assert!(name.starts_with(file), "{name}");
            self.kept(None);
            assert_eq!(self.aside().len(), 1, "the next start sets nothing aside");
            fs::remove_file(aside).unwrap();
        }
        for (file, whole) in FILES.iter().zip(&self.whole) {
            self.put(file, whole);
        }
        !aside.is_empty()
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_understood_or_set_aside() {
    let fixture = Fixture::new();
    for (file, whole) in FILES.iter().zip(&fixture.whole) {
        assert!(fixture.sets_aside(file, b""), "{file}");
        let lengths = 0..whole.len();
        let aside = lengths.filter(|length| fixture.sets_aside(file, &whole[..*length]));
        // Of rules the last lines may be missing, of the record what comes behind its last brace.
        let least = if *file == FILES[1] {
            whole.len() - 1
        } else {
            whole.len() / 2
        };
        assert!(aside.count() >= least, "{file}");
        assert!(!fixture.sets_aside(file, whole), "{file}");
    }
}

#[test]
fn a_bit_that_flips_and_any_bytes_are_understood_or_damage() {
    let fixture = Fixture::new();
    let understood = |file: &str| match file {
        "rules.toml" => fixture.store.rules().map(|rules| rules.is_some()),
        _ => fixture
            .store
            .control()
            .map(|control| control.trial.is_some()),
    };
    for (file, whole) in FILES.iter().zip(&fixture.whole) {
        let mut newer = 0;
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fixture.put(file, &bytes);
            match understood(file) {
                Ok(_) | Err(Unread::Damaged(_)) => {}
                Err(Unread::Newer(_)) => newer += 1,
                Err(error) => panic!("{file} {bit}: {error:?}"),
            }
        }
        // The one digit of the version.
        assert!(newer <= 4, "{file}: {newer}");
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        for length in 1..200 {
            let bytes: Vec<u8> = (0..length)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed as u8
                })
                .collect();
            fixture.put(file, &bytes);
            let random = understood(file);
            assert!(
                matches!(random, Err(Unread::Damaged(_))),
                "{file}: {bytes:?}"
            );
        }
        fixture.put(file, whole);
    }
}

#[test]
fn what_no_daemon_writes_is_damage() {
    let fixture = Fixture::new();
    let whole = String::from_utf8(fixture.whole[1].clone()).unwrap();
    for (good, bad) in [
        ("\"v\": 1", "\"v\": 0"),
        ("observe", "sleep"),
        ("\"object\": \"rules\"", "\"object\": \"mode\""),
        ("\"connections\": 9", "\"connections\": 0"),
        ("\"connections\": 5", "\"connections\": 0"),
        ("\"made_at\": \"20", "\"made_at\": \"19"),
        ("\"bypass_until\"", "\"bypass_for\""),
    ] {
        let text = whole.replacen(good, bad, 1);
        assert_ne!(text, whole, "{good}");
        assert!(fixture.sets_aside("control.json", text.as_bytes()), "{bad}");
    }
}

#[test]
fn damaged_rules_are_those_that_a_trial_would_bring_back_else_the_configurations() {
    let fixture = Fixture::new();
    fixture.put("rules.toml", b"[[rules]");
    let kept = fixture.kept(None);
    assert_eq!(
        (kept.rules, kept.is_rules_file_ahead),
        (Some(rules(5)), false)
    );
    assert!(kept.control.trial.is_some() && !kept.is_control_lost);
    let again = fixture.store.rules().unwrap();
    assert_eq!(
        again,
        Some(rules(5)),
        "for the next start, in the same step"
    );
    // Without a trial nothing else knows them.
    fs::remove_file(fixture.path("control.json")).unwrap();
    fixture.put("rules.toml", b"[[rules]");
    assert_eq!(fixture.kept(None).rules, None);
    assert!(!fixture.path("rules.toml").exists());
    assert_eq!(fixture.aside().len(), 2);
}

#[test]
fn without_the_record_nothing_is_on_trial_and_rules_count_unless_a_filter_says_otherwise() {
    let damage = |fixture: &Fixture| fixture.put("control.json", b"{\"v\": 1, \"mode\"");
    let fixture = Fixture::new();
    damage(&fixture);
    let kept = fixture.kept(None);
    assert_eq!(kept.rules, Some(rules(5)));
    assert_eq!(
        (kept.control, kept.is_control_lost),
        (Control::default(), true)
    );
    // A confirmation that was cut short has left the rules on trial in the file.
    let cut_short = |left: u64| {
        let fixture = Fixture::new();
        damage(&fixture);
        fixture.put("rules.toml", rules(9).to_toml().as_bytes());
        let kept = fixture.kept(Some(&rules(left))).rules;
        assert_eq!(
            fixture.kept(None).rules,
            kept,
            "nor do they at the next start"
        );
        (kept, fixture.aside().len())
    };
    assert_eq!(cut_short(9), (Some(rules(9)), 1));
    assert_eq!(cut_short(5), (None, 2), "they were not confirmed");
    // With the record there it says so itself.
    let fixture = Fixture::new();
    fixture.put("rules.toml", rules(9).to_toml().as_bytes());
    let kept = fixture.kept(Some(&rules(9)));
    assert_eq!(
        (kept.rules, kept.is_rules_file_ahead),
        (Some(rules(5)), true)
    );
}

#[test]
fn both_may_be_damaged_or_directories() {
    let fixture = Fixture::new();
    for file in FILES {
        fs::remove_file(fixture.path(file)).unwrap();
        fs::create_dir(fixture.path(file)).unwrap();
    }
    let kept = fixture.kept(None);
    assert_eq!((kept.rules, kept.control), (None, Control::default()));
    assert_eq!(fixture.aside().len(), 2);
    assert!(fixture.aside().iter().all(|aside| aside.is_dir()));
}

#[test]
fn what_is_newer_or_may_be_sound_is_refused_and_left() {
    let fixture = Fixture::new();
    let refused = |file: &str, words: &[&str]| {
        let error = Kept::read(&fixture.store, None).unwrap_err().to_string();
        for word in words.iter().chain([&file]) {
            assert!(error.contains(word), "{error}");
        }
        assert!(fixture.aside().is_empty());
    };
    fixture.put("control.json", b"{\"v\": 2, \"else\": 1}");
    refused("control.json", &["version 2", "run the newer packetwatch"]);
    fixture.put("control.json", &fixture.whole[1]);
    for (file, whole) in FILES.iter().zip(&fixture.whole) {
        let path = fixture.path(file);
        fs::remove_file(&path).unwrap();
        symlink(&path, &path).unwrap();
        refused(file, &["cannot read", "symbolic links"]);
        fs::remove_file(&path).unwrap();
        fixture.put(file, whole);
    }
}
