//! What the journal holds of an entry, a ban and an offence: JSON with a version, so that a later
//! daemon can tell what it reads.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use packetwatch_abi::FOREVER;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use time::{OffsetDateTime, serde::rfc3339};

use super::entry::{BanEntry, List, Source};
use crate::{
    clock::{Clock, Mark},
    pending::{Object, PendingRecord},
};

/// Version of the tables and of every record in them.
pub(super) const VERSION: u64 = 3;

/// What is known of an entry besides its prefix.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct AboutRecord {
    pub(super) reason: Option<String>,
    pub(super) source: Source,
    #[serde(with = "rfc3339")]
    pub(super) created_at: OffsetDateTime,
    #[serde(with = "rfc3339::option")]
    pub(super) expires_at: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<Mark>,
}

/// The value of a prefix in the allow or the deny list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct EntryRecord {
    #[serde(flatten)]
    pub(super) about: Arc<AboutRecord>,
    /// a deny that takes a protected prefix out of protection
    pub(super) forced: bool,
}

/// A whole list: what a replacement wrote, in one record.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ListRecord {
    groups: Vec<Group>,
}

/// Entries that differ in their prefixes alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Group {
    #[serde(flatten)]
    entry: EntryRecord,
    prefixes: Vec<IpNet>,
}

impl ListRecord {
    pub(super) fn of(entries: impl Iterator<Item = (IpNet, EntryRecord)>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        let mut known: HashMap<(*const AboutRecord, bool), usize> = HashMap::new();
        for (prefix, entry) in entries {
            let key = (Arc::as_ptr(&entry.about), entry.forced);
            let group = *known.entry(key).or_insert_with(|| {
                groups.push(Group {
                    entry,
                    prefixes: Vec::new(),
                });
                groups.len() - 1
            });
            groups[group].prefixes.push(prefix);
        }
        Self { groups }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (IpNet, EntryRecord)> {
        self.groups.iter().flat_map(|group| {
            let prefixes = group.prefixes.iter();
            prefixes.map(|prefix| (prefix.trunc(), group.entry.clone()))
        })
    }

    /// In order.
    pub(super) fn prefixes(&self) -> Vec<IpNet> {
        let groups = self.groups.iter();
        let prefixes = groups.flat_map(|group| group.prefixes.iter().map(IpNet::trunc));
        let mut prefixes: Vec<IpNet> = prefixes.collect();
        prefixes.sort_unstable();
        prefixes
    }
}

/// What a restore that is not finished is to change besides the lists, in the words of who asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RestoreRecord {
    pub(super) besides: serde_json::Value,
    /// The kernel has the lists and bans. Before it does, what a filter says that was left is older than the
    /// journal.
    #[serde(default)]
    pub(super) is_in_force: bool,
}

/// A change of a list that waits to be confirmed, with what stood before it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TrialRecord {
    #[serde(flatten)]
    pub(super) pending: PendingRecord,
    pub(super) former: ListRecord,
    /// changed prefixes under which nothing stood
    pub(super) absent: Vec<IpNet>,
}

impl TrialRecord {
    /// The list that it is about.
    pub(super) fn list(&self) -> Option<List> {
        match self.pending.object {
            Object::Allow => Some(List::Allow),
            Object::Deny => Some(List::Deny),
            Object::Rules | Object::Mode => None,
        }
    }
}

/// The value of a banned prefix, kept while the kernel knows of the ban.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct BanRecord {
    rule: String,
    reason: String,
    offender: IpAddr,
    repeat: u32,
    #[serde(with = "rfc3339")]
    pub(super) created_at: OffsetDateTime,
    #[serde(with = "rfc3339::option")]
    pub(super) expires_at: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mark: Option<Mark>,
    /// how long the kernel keeps the ban after its end
    pub(super) within: Duration,
    /// ended, and its end was told
    pub(super) spent: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) tried: Option<TriedRecord>,
}

/// What a ban that ends with a change on trial is without it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct TriedRecord {
    /// id of the change
    pub(super) trial: String,
    #[serde(with = "rfc3339::option")]
    pub(super) expires_at: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<Mark>,
    /// how long after that the offence is remembered
    pub(super) memory: Duration,
}

/// The value of a prefix that was banned and may be again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct OffenceRecord {
    /// bans so far
    pub(super) count: u32,
    /// end of the last one
    #[serde(with = "rfc3339::option")]
    pub(super) ban_ends_at: Option<OffsetDateTime>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<Mark>,
    /// how long after that it is remembered
    pub(super) memory: Duration,
}

impl AboutRecord {
    /// When the entry ends, in CLOCK_MONOTONIC nanoseconds.
    pub(super) fn deadline(&self, clock: Clock) -> u64 {
        let restored = |at| clock.restored(self.created_at, at, self.mark);
        self.expires_at.map_or(FOREVER, restored)
    }

    /// Whether it ends and is marked by a boot before this one, or not at all.
    pub(super) fn is_to_be_marked(&self, clock: Clock) -> bool {
        self.expires_at.is_some() && !clock.is_of_this_boot(self.mark)
    }
}

impl EntryRecord {
    pub(super) fn new(about: &Arc<AboutRecord>, forced: bool) -> Self {
        Self {
            about: Arc::clone(about),
            forced,
        }
    }
}

impl BanRecord {
    /// `mark` is that of its end, for a ban whose end this boot knows.
    pub(super) fn new(ban: &BanEntry, mark: Option<Mark>, within: Duration, spent: bool) -> Self {
        let BanEntry {
            prefix: _,
            rule,
            reason,
            offender,
            repeat,
            created_at,
            expires_at,
        } = ban.clone();
        Self {
            rule,
            reason,
            offender,
            repeat,
            created_at,
            expires_at,
            mark,
            within,
            spent,
            tried: None,
        }
    }

    pub(super) fn tried(self, tried: Option<TriedRecord>) -> Self {
        Self { tried, ..self }
    }

    /// When it would end without the change on trial, in CLOCK_MONOTONIC nanoseconds; and its repeat.
    pub(super) fn whole(&self, tried: &TriedRecord, clock: Clock) -> (u64, u32) {
        let restored = |at| clock.restored(self.created_at, at, tried.mark);
        (tried.expires_at.map_or(FOREVER, restored), self.repeat)
    }

    /// When it ends, in CLOCK_MONOTONIC nanoseconds.
    pub(super) fn deadline(&self, clock: Clock) -> u64 {
        let restored = |at| clock.restored(self.created_at, at, self.mark);
        self.expires_at.map_or(FOREVER, restored)
    }

    /// As of an entry.
    pub(super) fn is_to_be_marked(&self, clock: Clock) -> bool {
        self.expires_at.is_some() && !clock.is_of_this_boot(self.mark)
    }

    pub(super) fn into_entry(self, prefix: IpNet) -> BanEntry {
        BanEntry {
            prefix,
            rule: self.rule,
            reason: self.reason,
            offender: self.offender,
            repeat: self.repeat,
            created_at: self.created_at,
            expires_at: self.expires_at,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    v: u64,
    #[serde(flatten)]
    record: T,
}

/// Why a record cannot be read.
#[derive(Debug, PartialEq)]
pub(super) enum Unreadable {
    Newer(u64),
    Damaged(String),
}

pub(super) fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    let versioned = Versioned { v: VERSION, record };
    serde_json::to_vec(&versioned).expect("records are maps of strings, numbers and options")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Unreadable> {
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    let damaged = |error: serde_json::Error| Unreadable::Damaged(error.to_string());
    let Version { v } = serde_json::from_slice(bytes).map_err(damaged)?;
    if v > VERSION {
        return Err(Unreadable::Newer(v));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_as_it_was_written() {
        let record = OffenceRecord {
            count: 3,
            ban_ends_at: Some(OffsetDateTime::UNIX_EPOCH),
            mark: Clock::new().mark(7),
            memory: Duration::MAX,
        };
        assert_eq!(decode(&encode(&record)), Ok(record));
    }

    #[test]
    fn a_newer_record_is_told_from_a_damaged_one() {
        let newer = decode::<OffenceRecord>(br#"{"v":4,"tally":{}}"#);
        assert_eq!(newer, Err(Unreadable::Newer(VERSION + 1)));
        let damaged = decode::<OffenceRecord>(br#"{"v":1,"count":"#);
        assert!(matches!(damaged, Err(Unreadable::Damaged(_))));
    }
}
