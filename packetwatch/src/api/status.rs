//! `/v1/status`: how the daemon is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use axum::{Json, extract::State};
use packetwatch_abi::Action;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, Certificate, Memory, PendingChange, blocking,
    callers::unreadable,
    extract::{NoParams, Params},
    problem::Problem,
    refusals::{BadParameter, Failed, Gated, Slow},
};
use crate::{
    config::{Mode, Word as _},
    dataplane::{ChainState, ChainStatus, Leftover, Outcome},
};

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub version: String,
    /// `enforce`, or `observe`: nothing is dropped.
    pub mode: String,
    /// `built-in`, `api`, the path of the file, or the variable or flag that says so.
    #[serde(default)]
    pub mode_from: String,
    /// Every packet passes until then.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub bypass_until: Option<OffsetDateTime>,
    /// The change that is taken back unless it is confirmed.
    #[serde(default)]
    pub pending: Option<PendingChange>,
    pub uptime_seconds: u64,
    /// `built-in`, `api`, the path of the file, or the variable or flag that they were read from.
    pub rules_from: String,
    pub interfaces: Vec<InterfaceStatus>,
    /// Filters that an earlier process has left on other interfaces, and that nobody has taken over.
    #[serde(default)]
    pub leftovers: Vec<LeftoverStatus>,
    /// The user's own program that gets what passes; null where the configuration names none.
    #[serde(default)]
    pub chain: Option<ChainedStatus>,
    /// What the API shows over TCP; null without TLS.
    #[serde(default)]
    pub certificate: Option<CertificateStatus>,
    pub lists: ListCounts,
    pub packets: PacketCounts,
    /// What would have been dropped, where nothing is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed: Option<Observed>,
    #[serde(default)]
    pub counting: Counting,
    pub memory: Memory,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct InterfaceStatus {
    /// As it is called now.
    pub name: String,
    /// Its name in the configuration; null for one that was renamed and whose name another
    /// interface bears.
    #[serde(default)]
    pub configured_as: Option<String>,
    /// `attached`; `down`: the same, and the interface is set down; `detached`: it is not filtered,
    /// see `error`; `missing`: no interface bears the name.
    #[schema(example = "attached")]
    pub state: String,
    /// The kernel's index; 0 when it is not filtered.
    #[serde(default)]
    pub interface_index: u32,
    /// Bytes; null until the kernel was asked.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// Its addresses but for link-local ones of IPv6; none where it is not filtered, or until the kernel
    /// was asked.
    #[serde(default)]
    #[schema(value_type = Vec<String>, example = json!(["198.51.100.1", "2001:db8::1"]))]
    pub addresses: BTreeSet<IpAddr>,
    /// `native` or `generic`; null until the kernel was asked.
    pub xdp_mode: Option<String>,
    /// The kernel's id of the program, as `bpftool prog` shows it; 0 when it is not filtered.
    pub program_id: u32,
    /// Why it is not filtered; it is tried again every second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Why the filter ends with the daemon, however that ends, where it is to stay: its pins were taken
    /// away and cannot be made anew. It is tried again every second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_pinned: Option<String>,
    /// Why it is not native, where that was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_native: Option<String>,
}

/// It goes on with lists, bans and rules of its own, until `packetwatch detach --interface NAME`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LeftoverStatus {
    /// The interface, as it is called now.
    pub name: String,
    /// The kernel's id of the program, as `bpftool prog` shows it.
    pub program_id: u32,
}

impl From<Leftover> for LeftoverStatus {
    fn from(leftover: Leftover) -> Self {
        let Leftover {
            interface: name,
            program_id,
        } = leftover;
        Self { name, program_id }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChainedStatus {
    /// Where the configuration says that it is pinned.
    pub path: String,
    /// `up`: its verdict counts; `gone`: nothing is pinned there; `refused`: what is pinned there cannot
    /// be chained, see `error`. But for `up`, what passes goes to the kernel; the pin is looked at every
    /// second.
    #[schema(example = "up")]
    pub state: String,
    /// The kernel's id of the program; null unless it is up.
    pub program_id: Option<u32>,
    /// Its function, cut to 15 characters by the kernel; null unless it is up.
    pub program: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl From<ChainStatus> for ChainedStatus {
    fn from(chain: ChainStatus) -> Self {
        let (program_id, program, error) = match &chain.state {
            ChainState::Up { program_id, name } => (Some(*program_id), Some(name.clone()), None),
            ChainState::Gone => (None, None, None),
            ChainState::Refused(reason) => (None, None, Some(reason.clone())),
        };
        Self {
            path: chain.path.display().to_string(),
            state: chain.state.as_str().to_owned(),
            program_id,
            program,
            error,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateStatus {
    /// Its file.
    pub path: String,
    /// Null for one whose end cannot be read.
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<OffsetDateTime>,
    /// `valid`; `due`: it ends within 14 days; `ended`: clients refuse it; `unknown`.
    #[schema(example = "valid")]
    pub state: String,
}

impl From<&Certificate> for CertificateStatus {
    fn from(certificate: &Certificate) -> Self {
        let (path, end) = certificate.ends_at();
        Self {
            path: path.display().to_string(),
            expires_at: end.map(|(at, _)| at),
            state: end
                .map_or("unknown", |(_, validity)| validity.as_str())
                .to_owned(),
        }
    }
}

/// Live entries.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ListCounts {
    pub allow: usize,
    pub deny: usize,
    pub bans: usize,
}

/// Since the filter was attached, over all interfaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PacketCounts {
    pub passed: u64,
    pub dropped: u64,
    /// Of those passed: what would have been dropped but for observe mode.
    pub observed: u64,
}

/// What would have been dropped but for observe mode or a bypass.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Observed {
    /// Since the filter was attached: `deny`, `ban` and the other reasons of a drop.
    pub by_reason: Vec<ObservedReason>,
    /// Of the bans in force.
    pub by_rule: Vec<ObservedRule>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObservedReason {
    #[schema(example = "deny")]
    pub reason: String,
    pub packets: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ObservedRule {
    pub rule: String,
    /// Prefixes that it has banned.
    pub bans: usize,
    /// Packets of theirs since.
    pub packets: u64,
}

/// Which sources the rules see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counting {
    /// More new sources come than get counts of their own.
    pub flood: bool,
    /// Sources that a rule holds something of were forgotten within the last minute, since room was
    /// short: one that is silent for two seconds may begin anew, however often it has called.
    #[serde(default)]
    pub crowded: bool,
    /// Calls (packets, where a rule is about packets or bytes) from which on a new source gets
    /// counts of its own, so that a ban may come so much later; 1: it is counted from its first
    /// packet on.
    pub admission_threshold: u64,
    /// Sources that got counts of their own.
    pub admitted: u64,
    /// Packets whose source had none and got none, be it that the table was full, or that no rule looks
    /// at them.
    pub not_admitted: u64,
    /// Sources whose counts were forgotten, as they were idle or room was short.
    pub evicted: u64,
}

/// How the daemon is.
#[utoipa::path(get, path = "/v1/status", tag = "status", security(("token" = ["read"])), responses(
    (status = 200, description = "how it is", body = Status),
    BadParameter, Gated, Failed, Slow,
))]
pub(super) async fn status(
    State(app): State<App>,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Status>, Problem> {
    blocking(move || read(&app).map(Json)).await
}

fn read(app: &App) -> Result<Status, Problem> {
    let interfaces = app
        .dataplane
        .interfaces()
        .into_iter()
        .map(|interface| InterfaceStatus {
            name: interface.name,
            configured_as: interface.configured,
            state: interface.state.as_str().to_owned(),
            interface_index: interface.ifindex,
            mtu: interface.mtu,
            addresses: interface.addresses.unwrap_or_default(),
            xdp_mode: interface.mode.map(|mode| mode.to_string()),
            program_id: interface.program_id,
            error: interface.error,
            not_pinned: interface.not_pinned,
            not_native: interface.not_native,
        });
    let leftovers = app.dataplane.leftovers().into_iter();
    let counts = app.lists.counts();
    let (mode, mode_by) = app.rules.mode_by();
    let outcomes = app.dataplane.outcomes().map_err(unreadable)?;
    Ok(Status {
        version: app.version.to_owned(),
        mode: mode.word().to_owned(),
        mode_from: mode_by.to_string(),
        bypass_until: app.bypass_until(),
        pending: app.trials.pending().map(PendingChange::from),
        uptime_seconds: app.started.elapsed().as_secs(),
        rules_from: app.rules.current().1.to_string(),
        interfaces: interfaces.collect(),
        leftovers: leftovers.map(LeftoverStatus::from).collect(),
        chain: app.dataplane.chain().map(ChainedStatus::from),
        certificate: app.certificate.get().map(CertificateStatus::from),
        lists: ListCounts {
            allow: counts.allow.total(),
            deny: counts.deny.total(),
            bans: counts.bans.total(),
        },
        packets: packets(&outcomes),
        observed: observed(app, &outcomes)?,
        counting: counting(app)?,
        memory: Memory::of(app)?,
    })
}

fn counting(app: &App) -> Result<Counting, Problem> {
    let threshold = app.dataplane.admission().map_err(unreadable)?.threshold;
    let counts = app.dataplane.admission_counts().map_err(unreadable)?;
    Ok(Counting {
        flood: threshold > 1,
        crowded: app.counters.is_crowded(),
        admission_threshold: threshold,
        admitted: counts.admitted(),
        not_admitted: counts.not_admitted(),
        evicted: app.counters.all_evicted(),
    })
}

/// Read where nothing is dropped, and not otherwise: it asks the kernel of each ban.
fn observed(app: &App, outcomes: &[Outcome]) -> Result<Option<Observed>, Problem> {
    if app.rules.mode() == Mode::Enforce && app.rules.bypass_until().is_none() {
        return Ok(None);
    }
    let by_rule = app.lists.bans_by_rule().map_err(unreadable)?.into_iter();
    let by_rule = by_rule.map(|(rule, (bans, packets))| ObservedRule {
        rule,
        bans,
        packets,
    });
    Ok(Some(Observed {
        by_reason: by_reason(outcomes),
        by_rule: by_rule.collect(),
    }))
}

fn by_reason(outcomes: &[Outcome]) -> Vec<ObservedReason> {
    let mut packets = BTreeMap::new();
    for outcome in outcomes.iter().filter(|outcome| outcome.observed) {
        if outcome.reason.action() == Action::Drop && outcome.tally.packets > 0 {
            *packets.entry(outcome.reason.as_str()).or_default() += outcome.tally.packets;
        }
    }
    let packets = packets.into_iter();
    packets
        .map(|(reason, packets)| ObservedReason {
            reason: reason.to_owned(),
            packets,
        })
        .collect()
}

fn packets(outcomes: &[Outcome]) -> PacketCounts {
    let mut counts = PacketCounts::default();
    for outcome in outcomes {
        let packets = outcome.tally.packets;
        match (outcome.reason.action(), outcome.observed) {
            (Action::Drop, false) => counts.dropped += packets,
            (Action::Drop, true) => {
                counts.passed += packets;
                counts.observed += packets;
            }
            (Action::Pass, _) => counts.passed += packets,
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use packetwatch_abi::{Reason, Tally};

    use super::*;

    #[test]
    fn what_observe_mode_let_pass_has_passed() {
        let outcome = |reason, observed, packets| Outcome {
            interface: "eth0".to_owned(),
            observed,
            reason,
            tally: Tally { packets, bytes: 0 },
        };
        let outcomes = [
            outcome(Reason::Pass, false, 1),
            outcome(Reason::Pass, true, 2),
            outcome(Reason::Ban, false, 4),
            outcome(Reason::Deny, true, 8),
        ];
        let expected = PacketCounts {
            passed: 11,
            dropped: 4,
            observed: 8,
        };
        assert_eq!(packets(&outcomes), expected);
        let deny = ObservedReason {
            reason: "deny".to_owned(),
            packets: 8,
        };
        assert_eq!(by_reason(&outcomes), [deny]);
    }
}
