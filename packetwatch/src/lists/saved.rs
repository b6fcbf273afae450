//! Lists and bans as a backup holds them, read by pieces.

use std::{net::IpAddr, sync::Arc, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};

use super::{
    Lists,
    entry::{BanEntry, List},
    record::{AboutRecord, OffenceRecord},
    shelf::{Draft, Node, Shelf},
};

/// Entries, bans or offences that are read at a time.
const PIECE: usize = 10_000;
/// Prefixes in one group at most: a line of 20 to 45 KB.
const GROUP: usize = 1000;

/// Entries of a list that differ in their prefixes alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedEntries {
    pub list: SavedList,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    /// `None` for entries that stay.
    #[serde(default, with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// denies that take protected prefixes out of protection
    #[serde(default)]
    pub forced: bool,
    /// as people write them
    pub prefixes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SavedList {
    Allow,
    Deny,
}

impl From<SavedList> for List {
    fn from(list: SavedList) -> Self {
        match list {
            SavedList::Allow => Self::Allow,
            SavedList::Deny => Self::Deny,
        }
    }
}

/// A ban in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedBan {
    pub prefix: IpNet,
    pub rule: String,
    pub reason: String,
    pub offender: IpAddr,
    pub repeat: u32,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(default, with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    /// how far back the windows of the rules reached
    pub within_seconds: u64,
}

/// How often a prefix has been banned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedOffence {
    pub prefix: IpNet,
    pub count: u32,
    #[serde(default, with = "rfc3339::option")]
    pub ban_ends_at: Option<OffsetDateTime>,
    /// how long after that it is remembered; `None` for ever
    #[serde(default)]
    pub memory_seconds: Option<u64>,
}

/// What is to be put back, each part checked by itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Saved {
    pub entries: Vec<SavedEntries>,
    pub bans: Vec<SavedBan>,
    pub offences: Vec<SavedOffence>,
}

impl Lists {
    /// Entries behind `cursor`, in groups, and the cursor of the next piece. Protected ones are
    /// derived and left out. Of what is on trial it is what stood before: whether the change stays is
    /// not known, and in a backup it would.
    pub fn saved_entries(
        &self,
        list: List,
        cursor: Option<IpNet>,
    ) -> (Vec<SavedEntries>, Option<IpNet>) {
        let state = self.0.shared.state();
        let shelf = Shelf::from(list);
        let mut groups: Vec<(Arc<AboutRecord>, bool, Vec<IpNet>)> = Vec::new();
        let trial = state.trial.as_ref();
        let listed = |(prefix, node): (IpNet, &Node)| {
            let former = trial.and_then(|trial| trial.former(list, prefix));
            let Draft { about, forced } = match former {
                Some(former) => former.clone()?,
                None => node.on(shelf)?.draft(),
            };
            Some((prefix, Arc::clone(&about.record), forced))
        };
        let (mut last, mut read) = (None, 0);
        for (prefix, record, forced) in state.nodes.after(cursor).filter_map(listed).take(PIECE) {
            (last, read) = (Some(prefix), read + 1);
            // Those that were written together lie together; a few groups are looked at.
            let same = groups
                .iter_mut()
                .rev()
                .take(8)
                .find(|(about, f, prefixes)| {
                    *f == forced && prefixes.len() < GROUP && Arc::ptr_eq(about, &record)
                });
            match same {
                Some((_, _, prefixes)) => prefixes.push(prefix),
                None => groups.push((record, forced, vec![prefix])),
            }
        }
        drop(state);
        let list = match list {
            List::Allow => SavedList::Allow,
            List::Deny => SavedList::Deny,
        };
        let groups = groups.into_iter().map(|(record, forced, prefixes)| {
            let AboutRecord {
                reason,
                source: _,
                created_at,
                expires_at,
                mark: _,
            } = AboutRecord::clone(&record);
            SavedEntries {
                list,
                reason,
                created_at,
                expires_at,
                forced,
                prefixes: prefixes.iter().map(IpNet::to_string).collect(),
            }
        });
        (groups.collect(), last.filter(|_| read == PIECE))
    }

    /// Bans in force behind `cursor`, and the cursor of the next piece.
    pub fn saved_bans(&self, cursor: Option<IpNet>) -> (Vec<SavedBan>, Option<IpNet>) {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let bans = shared.bans();
        let saved = bans.after(cursor, now).take(PIECE).map(|held| {
            let BanEntry {
                prefix,
                rule,
                reason,
                offender,
                repeat,
                created_at,
                expires_at,
            } = held.entry.clone();
            SavedBan {
                prefix,
                rule,
                reason,
                offender,
                repeat,
                created_at,
                expires_at,
                within_seconds: held.within().as_secs(),
            }
        });
        let saved: Vec<SavedBan> = saved.collect();
        let last = saved.last().map(|ban| ban.prefix);
        let next = last.filter(|_| saved.len() == PIECE);
        (saved, next)
    }

    /// Offences that are remembered; there are at most 65 536.
    pub fn saved_offences(&self) -> Vec<SavedOffence> {
        let shared = &self.0.shared;
        let bans = shared.bans();
        let offences = bans.offences(shared.clock).into_iter();
        let offences = offences.map(|(prefix, record)| {
            let OffenceRecord {
                count,
                ban_ends_at,
                mark: _,
                memory,
            } = record;
            SavedOffence {
                prefix,
                count,
                ban_ends_at,
                memory_seconds: (memory != Duration::MAX).then_some(memory.as_secs()),
            }
        });
        offences.collect()
    }
}
