//! The rules: what a source must do to be banned, and for how long.

mod ban_length;
pub mod decide;
pub mod duration;
pub mod policy;
mod set;
mod text;

use std::{net::IpAddr, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::prefix;

pub use ban_length::BanLength;
pub(crate) use set::is_name;
pub use set::{MAX_RULES, MAX_UNITS, RuleError, RuleErrors, RuleSet};
pub(crate) use text::read as read_rules;
pub use text::{RuleText, RulesTextError};

/// What a source must reach inside [`Rule::within`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// Different destination ports of its calls. Exact up to 64.
    DistinctPorts(u64),
    /// Calls: TCP SYN without ACK.
    Connections(u64),
    /// Ingress packets of any kind, replies to this host's own traffic included.
    Packets(u64),
    /// Bytes of those packets.
    Bytes(u64),
}

impl Trigger {
    /// The key that names this trigger in TOML and JSON.
    pub fn field(self) -> &'static str {
        match self {
            Self::DistinctPorts(_) => "distinct_ports",
            Self::Connections(_) => "connections",
            Self::Packets(_) => "packets",
            Self::Bytes(_) => "bytes",
        }
    }

    /// The N of the rule.
    pub fn count(self) -> u64 {
        match self {
            Self::DistinctPorts(n) | Self::Connections(n) | Self::Packets(n) | Self::Bytes(n) => n,
        }
    }
}

/// What becomes of a source that meets a trigger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = RuleAction)]
pub enum Action {
    /// It is banned.
    #[default]
    Ban,
    /// So much a second passes, and what is more is dropped.
    Limit,
}

impl Action {
    /// Whether it need not be written.
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// A source unit that meets `trigger` inside `within` is banned for `ban`; or, of a rule that limits,
/// passes no more than that a second.
///
/// Serde reads and writes the form users write, [`RuleText`]; a rule read so is complete but not
/// yet within its bounds: [`RuleSet::validate`] checks them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "RuleText", into = "RuleText")]
pub struct Rule {
    /// `[a-z0-9-]`, 1 to 32 characters; unique in its set. Logs, metrics and bans carry it.
    pub name: String,
    pub trigger: Trigger,
    pub action: Action,
    /// What may pass at once after a pause, of a rule that limits; 0 of one that bans.
    pub burst: u64,
    /// The sliding window, 1 s to 24 h; 1 s of a rule that limits, which has no bans either.
    pub within: Duration,
    /// The first ban, 1 s to 10 years or for ever.
    pub ban: BanLength,
    /// Each repeat multiplies the ban by this, 1 to 100.
    pub escalate: f64,
    /// The longest ban that repeats lead to; also how long an ended ban is remembered.
    pub max_ban: BanLength,
    /// Leading bits of an IPv4 source that are counted and banned as one, 8 to 32.
    pub prefix_v4: u8,
    /// The same for IPv6, 16 to 128.
    pub prefix_v6: u8,
}

impl Rule {
    /// The window of a rule that states none; the constants below likewise.
    pub const WITHIN: Duration = Duration::from_secs(60);
    pub const BAN: BanLength = BanLength::For(Duration::from_secs(600));
    pub const ESCALATE: f64 = 2.0;
    /// A `ban` longer than this is its own `max_ban`.
    pub const MAX_BAN: BanLength = BanLength::For(Duration::from_secs(86_400));
    pub const PREFIX_V4: u8 = 32;
    /// One subscriber's network: an IPv6 host changes addresses inside its /64 at will.
    pub const PREFIX_V6: u8 = 64;

    /// A rule that lets pass what `trigger` says a second, and its default burst.
    pub fn limit(name: impl Into<String>, trigger: Trigger) -> Self {
        Self {
            action: Action::Limit,
            burst: Self::default_burst(trigger),
            within: Duration::from_secs(1),
            ..Self::new(name, trigger)
        }
    }

    /// A tenth of a second's worth, and of bytes at least the greatest packet.
    pub(crate) fn default_burst(trigger: Trigger) -> u64 {
        let tenth = trigger.count().div_ceil(10);
        match trigger {
            Trigger::Bytes(_) => tenth.max(Self::GREATEST_PACKET),
            _ => tenth,
        }
    }

    /// Bytes; one that is larger than the burst would never pass.
    pub(crate) const GREATEST_PACKET: u64 = 65_535;

    pub fn bans(&self) -> bool {
        self.action == Action::Ban
    }

    /// The prefix that a source is counted by; `shared_len` as of [`prefix::unit`].
    pub fn unit(&self, source: IpAddr, shared_len: u8) -> IpNet {
        prefix::unit(source, shared_len, self.prefix_v4, self.prefix_v6)
    }

    /// A rule with the defaults of every other field.
    pub fn new(name: impl Into<String>, trigger: Trigger) -> Self {
        Self {
            name: name.into(),
            trigger,
            action: Action::Ban,
            burst: 0,
            within: Self::WITHIN,
            ban: Self::BAN,
            escalate: Self::ESCALATE,
            max_ban: Self::MAX_BAN,
            prefix_v4: Self::PREFIX_V4,
            prefix_v6: Self::PREFIX_V6,
        }
    }
}
