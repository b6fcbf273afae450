//! What stands in the lists, as those who ask see it.

use std::{fmt, net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{pending::Pending, rules::BanLength};

/// The lists people write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum List {
    Allow,
    Deny,
}

impl List {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for List {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who put an entry there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    Api,
    /// `[protect]`: derived from the state of the host, never written to the journal
    Protect,
}

impl Source {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Protect => "protect",
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// An entry of the allow or the deny list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub prefix: IpNet,
    pub reason: Option<String>,
    pub source: Source,
    /// When the prefix came into the list; a change keeps it.
    pub created_at: OffsetDateTime,
    /// `None` if the entry does not end.
    pub expires_at: Option<OffsetDateTime>,
}

/// An entry to be written. It replaces the whole entry of its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    pub prefix: IpNet,
    pub reason: Option<String>,
    /// `None` for an entry that does not end.
    pub ttl: Option<Duration>,
}

/// Whether a deny of exactly a protected prefix is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Force(pub bool);

/// A ban in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanEntry {
    pub prefix: IpNet,
    /// name of the rule
    pub rule: String,
    pub reason: String,
    /// the address that went beyond the rule
    pub offender: IpAddr,
    /// 1 for the first ban of the prefix within memory
    pub repeat: u32,
    pub created_at: OffsetDateTime,
    /// `None` if the ban does not end.
    pub expires_at: Option<OffsetDateTime>,
}

/// A ban that a rule orders.
#[derive(Clone, Debug, PartialEq)]
pub struct BanOrder {
    pub prefix: IpNet,
    /// name of the rule
    pub rule: String,
    pub offender: IpAddr,
    pub reason: String,
    /// length of the first ban
    pub ban: BanLength,
    /// Each repeat multiplies the length by this.
    pub escalate: f64,
    /// The longest that repeats lead to, and how long after its end an offence is remembered.
    /// [`Duration::MAX`] is no limit.
    pub max_ban: Duration,
    /// How far back the windows of the rules reach: so long the ended ban is kept in the kernel.
    pub within: Duration,
    /// The change on trial without which there would be no such ban: it lasts no longer than that, and
    /// is no offence, unless [`Lists::keep_bans`](super::Lists::keep_bans) comes first.
    pub trial: Option<Tried>,
}

/// The change on trial that something ends with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// of the change
    pub id: String,
    /// its end, in CLOCK_MONOTONIC nanoseconds
    pub until: u64,
}

impl From<&Pending> for Tried {
    fn from(pending: &Pending) -> Self {
        Self {
            id: pending.record.id.clone(),
            until: pending.deadline,
        }
    }
}

/// What became of a [`BanOrder`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BanOutcome {
    Banned(BanEntry),
    /// The prefix is under a ban, which stays as it is.
    Already,
}

/// An entry as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub prefix: IpNet,
    pub reason: Option<String>,
    pub source: Source,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    /// Packets that this entry decided on since the daemon started; `None` in lists of more than
    /// 100 000 entries.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

/// A ban as listings show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BanRow {
    pub prefix: IpNet,
    pub rule: String,
    pub reason: String,
    pub offender: IpAddr,
    pub repeat: u32,
    pub created_at: OffsetDateTime,
    pub expires_at: Option<OffsetDateTime>,
    /// Packets dropped under this ban.
    pub packets: Option<u64>,
    pub bytes: Option<u64>,
}

/// Which part of a list to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageQuery {
    /// At most so many entries, 1 to [`PageQuery::MAX_LIMIT`]; what lies beyond is cut to them.
    pub limit: usize,
    /// [`Page::next`] of the page before.
    pub cursor: Option<String>,
    /// Only entries that cover this address.
    pub contains: Option<IpAddr>,
}

impl PageQuery {
    pub const DEFAULT_LIMIT: usize = 100;
    pub const MAX_LIMIT: usize = 10_000;
}

impl Default for PageQuery {
    fn default() -> Self {
        Self {
            limit: Self::DEFAULT_LIMIT,
            cursor: None,
            contains: None,
        }
    }
}

/// Part of a list, in the order of the prefixes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    pub entries: Vec<T>,
    /// Cursor of the next page, if there is more.
    pub next: Option<String>,
}

/// Answer to [`Lists::put`](super::Lists::put).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Put {
    pub entry: Entry,
    /// The prefix was not in the list before.
    pub created: bool,
    /// Allowed prefixes strictly inside a new deny: it takes effect around them. At most 100.
    pub carved_out: Vec<IpNet>,
    /// How many those are in all.
    pub carved_out_total: usize,
    /// The most specific allowed prefix that is or covers a new deny: it has no effect.
    pub overruled_by: Option<IpNet>,
}

/// Answer to [`Lists::add`](super::Lists::add).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Added {
    pub added: usize,
    /// Prefixes that were in the list before, whether or not anything about them changed.
    pub updated: usize,
}

/// Answer to [`Lists::replace`](super::Lists::replace).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replaced {
    pub added: usize,
    /// Prefixes that were in the list before, whether or not anything about them changed.
    pub updated: usize,
    pub removed: usize,
}

/// What [`Lists::expire`](super::Lists::expire) found ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// a hundred at most
    pub bans: Vec<BanEntry>,
    /// how many bans there were, these included
    pub bans_total: usize,
    /// a hundred at most
    pub entries: Vec<(List, Entry)>,
    /// how many entries there were, these included
    pub entries_total: usize,
}

/// What is listed for an address, the most specific first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Covering {
    pub allow: Vec<Entry>,
    pub deny: Vec<Entry>,
    pub bans: Vec<BanEntry>,
}

/// Entries by family.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByFamily {
    pub v4: usize,
    pub v6: usize,
}

impl ByFamily {
    pub fn total(self) -> usize {
        self.v4 + self.v6
    }

    pub(super) fn of(&mut self, prefix: IpNet) -> &mut usize {
        match prefix {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        }
    }
}

/// How much stands in each list. What ended is still counted until the sweep, a second at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// with the protected ones
    pub allow: ByFamily,
    pub deny: ByFamily,
    pub bans: ByFamily,
}

/// Bounds of the kernel maps that the lists are projected into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// allow and deny entries together; [`capacity::PROTECTED`](packetwatch_abi::capacity::PROTECTED)
    /// prefixes are protected beside them
    pub lists: u32,
    /// bans, those that ended and are still known to the kernel included
    pub bans: u32,
}
