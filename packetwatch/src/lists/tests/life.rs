//! What a daemon does between its start and a crash, and what its journal may then hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use super::{disk::Disk, random::Random, *};
use crate::lists::tables::Contents;

const ROOM: Capacity = Capacity {
    lists: 4_000,
    bans: 8,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Entry(List, IpNet),
    Ban(IpNet),
}

/// What the journal holds under a key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Value {
    /// its reason, which no other write gave
    Entry(String),
    /// the repeat of the ban and whether it has ended; offences that are remembered
    Ban((u32, bool), Option<u32>),
}

pub(super) type Rows = BTreeMap<Key, Value>;
type Written = Vec<(Key, Option<Value>)>;

fn apply(rows: &mut Rows, written: &Written) {
    for (key, value) in written {
        match value {
            Some(value) => rows.insert(*key, value.clone()),
            None => rows.remove(key),
        };
    }
}

fn rows_of(contents: &Contents) -> Rows {
    let entries = contents.entries.iter().map(|(list, prefix, record)| {
        let reason = record.about.reason.clone();
        let reason = reason.expect("every write gives one");
        (Key::Entry(*list, *prefix), Value::Entry(reason))
    });
    let bans = contents.bans.iter().map(|(prefix, record)| {
        let of_prefix = contents.offences.iter().find(|(of, _)| of == prefix);
        let offences = of_prefix.map(|(_, record)| record.count);
        let repeat = record.clone().into_entry(*prefix).repeat;
        let value = Value::Ban((repeat, record.spent), offences);
        (Key::Ban(*prefix), value)
    });
    for (prefix, _) in &contents.offences {
        let is_banned = contents.bans.iter().any(|(banned, _)| banned == prefix);
        assert!(is_banned, "half of the ban of {prefix} is there");
    }
    entries.chain(bans).collect()
}

/// A daemon's life, from its start to a crash.
pub(super) struct Life<'a> {
    pub(super) random: &'a mut Random,
    pub(super) disk: Disk,
    pub(super) lists: Lists,
    maps: FakeMaps,
    /// what people and rules were told
    pub(super) told: Rows,
    /// rows that may differ between that and the disk
    pub(super) unwritten: BTreeSet<Key>,
    /// each that the disk may hold, now that writes have failed
    pub(super) possible: BTreeSet<Rows>,
}

impl<'a> Life<'a> {
    /// The disk may hold any of `possible`, which is given back if it does not let the daemon start.
    pub(super) fn begin(
        random: &'a mut Random,
        disk: &Disk,
        possible: BTreeSet<Rows>,
    ) -> Result<Self, BTreeSet<Rows>> {
        let met = disk.faults_met();
        let (mut journal, contents) = match journal(disk) {
            Ok(opened) => opened,
            Err(error) => {
                assert!(disk.faults_met() > met, "a sound disk: {error}");
                assert!(matches!(error, OpenError::Journal(_)), "{error}");
                assert!(error.to_string().contains("/state/journal.redb"), "{error}");
                return Err(possible);
            }
        };
        let rows = rows_of(&contents);
        assert!(
            possible.contains(&rows),
            "found {rows:#?}\nexpected one of {possible:#?}"
        );
        if random.percent(20) {
            let compacted = journal.shrink(u64::MAX);
            assert!(compacted.is_ok() || disk.faults_met() > met);
        }
        let maps = FakeMaps::default();
        let shared = Shared::restore(
            journal,
            contents,
            Box::new(maps.clone()),
            ROOM,
            Clock::new(),
        );
        let handle = Handle {
            shared: shared.unwrap(),
            _flusher: None,
        };
        let mut told = rows.clone();
        // Of a ban that had ended a new kernel knows nothing: its row goes with the next write.
        let is_spent = |value: &Value| matches!(value, Value::Ban((_, true), _));
        told.retain(|_, value| !is_spent(value));
        let gone = rows.iter().filter(|(_, value)| is_spent(value));
        Ok(Self {
            random,
            disk: disk.clone(),
            lists: Lists(Arc::new(handle)),
            maps,
            told,
            unwritten: gone.map(|(key, _)| *key).collect(),
            possible: BTreeSet::from([rows]),
        })
    }

    /// A write of these rows was tried. With them goes what the journal lacks.
    fn tried(&mut self, rows: Written, is_done: bool) {
        let lacking = self.unwritten.iter();
        let mut batch: Written = lacking
            .map(|key| (*key, self.told.get(key).cloned()))
            .collect();
        batch.extend(rows.iter().cloned());
        let changed = self.possible.iter().map(|possible| {
            let mut rows = possible.clone();
            apply(&mut rows, &batch);
            rows
        });
        let changed: BTreeSet<Rows> = changed.collect();
        if is_done {
            self.possible = changed;
            self.unwritten.clear();
            apply(&mut self.told, &rows);
        } else {
            self.possible.extend(changed);
            self.unwritten.extend(batch.into_iter().map(|(key, _)| key));
        }
    }

    /// An answer to `rows`: an error has its cause in the disk and names the file and the remedy.
    fn answered<T: fmt::Debug>(&mut self, met: u64, rows: Written, answer: Result<T, WriteError>) {
        match &answer {
            Ok(_) => {}
            Err(WriteError::Journal(_)) => {
                assert!(self.disk.faults_met() > met, "a sound disk: {answer:?}");
                let words = answer.as_ref().unwrap_err().to_string();
                for word in [
                    "/state/journal.redb",
                    "nothing was changed",
                    "state directory",
                ] {
                    assert!(words.contains(word), "{words}");
                }
            }
            Err(error) => panic!("{error}"),
        }
        if !rows.is_empty() {
            self.tried(rows, answer.is_ok());
        }
    }

    fn any_entries(&mut self, n: u64) -> Vec<NewEntry> {
        // Few to keep cases small, many to make the tree split and the file grow.
        let count = if self.random.percent(5) {
            150
        } else {
            self.random.below(5)
        };
        let reason = if self.random.percent(10) {
            "long ".repeat(100)
        } else {
            String::new()
        };
        let entry = |i: u64| NewEntry {
            prefix: IpNet::from(IpAddr::from([10, 0, 0, i as u8])),
            reason: Some(format!("{reason}{n}")),
            ttl: None,
        };
        (0..count)
            .map(|_| self.random.below(count + 4))
            .map(entry)
            .collect()
    }

    pub(super) fn step(&mut self, n: u64) {
        let met = self.disk.faults_met();
        let list = *self.random.of(&[List::Allow, List::Deny]);
        let written = |entries: &[NewEntry]| -> Written {
            let row = |entry: &NewEntry| {
                let value = Value::Entry(entry.reason.clone().unwrap());
                (Key::Entry(list, entry.prefix), Some(value))
            };
            entries.iter().map(row).collect()
        };
        let host = host(self.random.below(4) as u8);
        let ban = self.told.get(&Key::Ban(host));
        let is_banned = matches!(ban, Some(Value::Ban((_, false), _)));
        match self.random.below(10) {
            0..3 => {
                let entries = self.any_entries(n);
                let Some(entry) = entries.into_iter().next() else {
                    return;
                };
                let rows = written(std::slice::from_ref(&entry));
                let answer = self.lists.put(list, entry, Force(false));
                self.answered(met, rows, answer);
            }
            3 => {
                let listed = self.told.keys().find_map(|key| match key {
                    Key::Entry(of, prefix) if *of == list => Some(*prefix),
                    _ => None,
                });
                let Some(prefix) = listed else { return };
                let answer = self.lists.remove(list, prefix);
                self.answered(met, vec![(Key::Entry(list, prefix), None)], answer);
            }
            4 => {
                let entries = self.any_entries(n);
                let rows = written(&entries);
                let answer = self.lists.add(list, entries);
                self.answered(met, rows, answer);
            }
            5 => {
                let entries = self.any_entries(n);
                let of_list = |key: &&Key| matches!(key, Key::Entry(of, _) if *of == list);
                let removed = self.told.keys().filter(of_list).map(|key| (*key, None));
                let rows: Written = removed.chain(written(&entries)).collect();
                let (is_empty, answer) = (rows.is_empty(), self.lists.replace(list, entries));
                let is_done = answer.is_ok();
                self.answered(met, rows, answer);
                if is_empty {
                    // The record of the list is written even so, and what else there is with it.
                    self.tried(Vec::new(), is_done);
                }
            }
            6..8 => {
                let outcome = self.lists.ban(order(host)).expect("the kernel takes it");
                if let BanOutcome::Banned(entry) = outcome {
                    assert!(!is_banned);
                    let value = Value::Ban((entry.repeat, false), Some(entry.repeat));
                    self.told.insert(Key::Ban(host), value);
                    self.unwritten.insert(Key::Ban(host));
                }
            }
            8 if is_banned => {
                let Some(Value::Ban((repeat, _), _)) = ban.cloned() else {
                    unreachable!()
                };
                let value = Value::Ban((repeat, true), None);
                let answer = self.lists.unban(host);
                self.answered(met, vec![(Key::Ban(host), Some(value))], answer);
                if self.told.get(&Key::Ban(host)) == Some(&Value::Ban((repeat, true), None)) {
                    self.unwritten.insert(Key::Ban(host));
                }
            }
            _ => self.flush(),
        }
    }

    pub(super) fn flush(&mut self) {
        let met = self.disk.faults_met();
        let is_done = self.lists.0.shared.flush();
        assert!(is_done || self.disk.faults_met() > met, "a sound disk");
        if !self.unwritten.is_empty() {
            self.tried(Vec::new(), is_done);
        }
    }

    /// Memory and kernel are what people were told, whatever the disk did.
    pub(super) fn assert_agreed(&self) {
        let mut query = PageQuery {
            limit: PageQuery::MAX_LIMIT,
            ..PageQuery::default()
        };
        let mut shown = Rows::new();
        for list in [List::Allow, List::Deny] {
            for row in self.lists.page(list, query.clone()).unwrap().entries {
                let value = Value::Entry(row.reason.unwrap());
                shown.insert(Key::Entry(list, row.prefix), value);
            }
        }
        query.contains = None;
        let banned = self.lists.bans(query).unwrap().entries;
        let banned: BTreeMap<IpNet, u32> = banned.iter().map(|b| (b.prefix, b.repeat)).collect();
        let (entries, bans): (Rows, Rows) = self
            .told
            .clone()
            .into_iter()
            .partition(|(key, _)| matches!(key, Key::Entry(..)));
        assert_eq!(shown, entries);
        let live = bans.iter().filter_map(|(key, value)| match (key, value) {
            (Key::Ban(prefix), Value::Ban((repeat, false), _)) => Some((*prefix, *repeat)),
            _ => None,
        });
        assert_eq!(banned, live.collect());
        assert_eq!(
            self.lists.reconcile_entries().unwrap(),
            Differences::default()
        );
        assert_eq!(self.lists.reconcile_bans().unwrap(), Differences::default());
        let now = Clock::new().monotonic_ns();
        let kernel = self.maps.kernel();
        let dropped = kernel.bans.iter().filter(|(_, ban)| now < ban.until);
        let dropped: BTreeSet<IpNet> = dropped.map(|(prefix, _)| *prefix).collect();
        assert_eq!(dropped, banned.keys().copied().collect());
    }
}

/// The journal on a disk, with which it opens it again after a failed write.
pub(super) fn journal(disk: &Disk) -> Result<(Journal, Contents), OpenError> {
    let disk = disk.clone();
    let path = PathBuf::from("/state/journal.redb");
    Journal::over(path, move || Ok(disk.reopened()))
}
