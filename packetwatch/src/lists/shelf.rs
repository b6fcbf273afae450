//! What is listed under a prefix: on three shelves, whose entries come with what is known of them.

use std::sync::Arc;

use ipnet::IpNet;
use packetwatch_abi::FOREVER;

use super::{
    entry::{Entry, List},
    exempt::Exemption,
    record::{AboutRecord, EntryRecord},
};

/// Where an entry stands. Protected entries allow, but are derived and not journaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Shelf {
    Allow,
    Deny,
    Protected,
}

impl Shelf {
    /// The list that people see it in.
    pub(super) fn list(self) -> List {
        match self {
            Self::Allow | Self::Protected => List::Allow,
            Self::Deny => List::Deny,
        }
    }
}

impl From<List> for Shelf {
    fn from(list: List) -> Self {
        match list {
            List::Allow => Self::Allow,
            List::Deny => Self::Deny,
        }
    }
}

/// What is known of an entry besides its prefix. Entries that were written together share it: of a
/// list of a million prefixes each takes less than 200 bytes.
#[derive(Debug)]
pub(super) struct About {
    pub(super) record: Arc<AboutRecord>,
    /// CLOCK_MONOTONIC nanoseconds
    pub(super) until: u64,
}

impl About {
    pub(super) fn is(&self, reason: Option<&str>, until: u64) -> bool {
        self.record.reason.as_deref() == reason && self.until == until
    }

    pub(super) fn entry(&self, prefix: IpNet) -> Entry {
        let AboutRecord {
            reason,
            source,
            created_at,
            expires_at,
            mark: _,
        } = AboutRecord::clone(&self.record);
        Entry {
            prefix,
            reason,
            source,
            created_at,
            expires_at,
        }
    }
}

/// An entry to be put under a prefix.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) about: Arc<About>,
    /// a deny that takes the protection of its prefix away
    pub(super) forced: bool,
}

/// A draft that was given a slot in the table of hits, or [`packetwatch_abi::NO_SLOT`].
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) about: Arc<About>,
    pub(super) slot: u32,
    pub(super) forced: bool,
}

impl Listed {
    pub(super) fn is_live(&self, now: u64) -> bool {
        now < self.about.until
    }

    pub(super) fn draft(&self) -> Draft {
        Draft {
            about: Arc::clone(&self.about),
            forced: self.forced,
        }
    }

    pub(super) fn record(&self) -> EntryRecord {
        EntryRecord::new(&self.about.record, self.forced)
    }
}

/// Everything listed under one prefix.
#[derive(Debug, Default)]
pub(super) struct Node {
    allow: Option<Listed>,
    deny: Option<Listed>,
    protected: Option<Listed>,
}

impl Node {
    pub(super) fn on(&self, shelf: Shelf) -> Option<&Listed> {
        match shelf {
            Shelf::Allow => self.allow.as_ref(),
            Shelf::Deny => self.deny.as_ref(),
            Shelf::Protected => self.protected.as_ref(),
        }
    }

    pub(super) fn on_mut(&mut self, shelf: Shelf) -> &mut Option<Listed> {
        match shelf {
            Shelf::Allow => &mut self.allow,
            Shelf::Deny => &mut self.deny,
            Shelf::Protected => &mut self.protected,
        }
    }

    /// The protection of this prefix, unless a forced deny of it stands.
    pub(super) fn protection(&self, now: u64) -> Option<&Listed> {
        let forced = |deny: &Listed| deny.forced && deny.is_live(now);
        self.protected
            .as_ref()
            .filter(|_| !self.deny.as_ref().is_some_and(forced))
    }

    /// The live entry that `list` shows of this prefix: what people wrote rather than what was
    /// derived.
    pub(super) fn shown(&self, list: List, now: u64) -> Option<&Listed> {
        let written = self.on(list.into()).filter(|listed| listed.is_live(now));
        match list {
            List::Allow => written.or_else(|| self.protection(now)),
            List::Deny => written,
        }
    }

    /// When no rule bans this prefix, if ever.
    pub(super) fn exemption(&self) -> Option<Exemption> {
        if self.allow.is_none() && self.protected.is_none() {
            return None;
        }
        let forced = self.deny.as_ref().filter(|deny| deny.forced);
        Some(Exemption {
            until: self.allow.as_ref().map_or(0, |allow| allow.about.until),
            from: match self.protected {
                Some(_) => forced.map_or(0, |deny| deny.about.until),
                None => FOREVER,
            },
        })
    }

    /// Whether nothing stands here any more.
    pub(super) fn is_over(&self, now: u64) -> bool {
        let shelves = [&self.allow, &self.deny, &self.protected];
        !shelves
            .into_iter()
            .flatten()
            .any(|listed| listed.is_live(now))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_none() && self.protected.is_none()
    }
}

/// Puts a draft on a shelf, or with `None` takes off what is there.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) shelf: Shelf,
    pub(super) prefix: IpNet,
    pub(super) to: Option<Draft>,
}
