//! `/v1/explain`: what would become of a call from an address now, and why.

use std::net::IpAddr;

use axum::{Json, extract::State};
use ipnet::IpNet;
use packetwatch_abi::{Action, Reason};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, blocking,
    bursts::Burst,
    callers::{View, units, unreadable},
    extract::{NoParams, Params, PathAddress},
    problem::Problem,
    refusals::{BadParameter, Failed, Gated, Slow},
    windows::Count,
};
use crate::{
    config::Word as _,
    lists::{BanEntry, Entry},
    rules::{Trigger, duration},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Pass,
    Drop,
}

impl Verdict {
    fn of(reason: Reason) -> Self {
        match reason.action() {
            Action::Pass => Self::Pass,
            Action::Drop => Self::Drop,
        }
    }
}

/// An entry, ban or rule that bears on the verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Because {
    /// `allow` or `deny`, unless a rule is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The rule that set a ban, or whose window is full or burst is spent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    #[schema(value_type = String, example = "198.51.100.0/24")]
    pub prefix: IpNet,
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub since: Option<OffsetDateTime>,
    /// Null for what has no set end.
    #[serde(with = "time::serde::rfc3339::option")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<OffsetDateTime>,
    pub reason: Option<String>,
}

/// How near a caller is to a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleCount {
    pub rule: String,
    /// The unit that is counted.
    #[schema(value_type = String, example = "198.51.100.7/32")]
    pub prefix: IpNet,
    /// What the rule counts: `distinct_ports`, `connections`, `packets` or `bytes`.
    pub of: String,
    /// What lies in the window; of a rule that limits, what is spent of its burst.
    pub counted: u64,
    /// The N of the rule; of one that limits, a second.
    pub limit: u64,
    #[schema(example = "60s")]
    pub within: String,
    /// Of a rule that limits: what may pass at once after a pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u64>,
    /// Of a rule that limits: what is left of its burst now; what is more is dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<u64>,
}

impl RuleCount {
    fn of_window(prefix: IpNet, count: &Count<'_>) -> Self {
        let Count { rule, counted } = count;
        Self {
            rule: rule.name.clone(),
            prefix,
            of: rule.trigger.field().to_owned(),
            counted: *counted,
            limit: rule.trigger.count(),
            within: duration::format(rule.within),
            burst: None,
            left: None,
        }
    }

    fn of_burst(prefix: IpNet, burst: &Burst<'_>) -> Self {
        let (rule, left) = (burst.rule, burst.left());
        let counted = rule.burst.saturating_sub(left);
        Self {
            burst: Some(rule.burst),
            left: Some(left),
            ..Self::of_window(prefix, &Count { rule, counted })
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    #[schema(value_type = String, example = "198.51.100.7")]
    pub address: IpAddr,
    /// What becomes of the next call. In observe mode: what would become of it, while it passes.
    pub verdict: Verdict,
    /// Why, by the name that counters have for it: `allow`, `deny`, `ban`, `threshold`, `limit`, `pass`.
    #[serde(default)]
    #[schema(example = "limit")]
    pub reason: String,
    /// `enforce` or `observe`.
    pub mode: String,
    /// Every packet passes until then, whatever the verdict.
    #[serde(
        default,
        with = "time::serde::rfc3339::option",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub bypass_until: Option<OffsetDateTime>,
    /// What decides; empty for what passes because nothing stands against it.
    pub because: Vec<Because>,
    /// What stands as well and does not decide, such as a deny entry under an allow entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overruled: Vec<Because>,
    /// What the rules count of it now.
    pub rules: Vec<RuleCount>,
}

impl Explanation {
    /// Dropped for longer than it takes to wait a little: what a limit drops would have passed later.
    pub(super) fn is_cut_off(&self) -> bool {
        self.verdict == Verdict::Drop && self.reason != Reason::Limit.as_str()
    }
}

/// Why a call from this address passes or is dropped, as the kernel would judge it now.
#[utoipa::path(get, path = "/v1/explain/{*address}", tag = "callers", security(("token" = ["read"])),
    params(("address" = String, Path, description = "one address")),
    responses(
    (status = 200, description = "the verdict and why", body = Explanation),
    BadParameter, Gated, Failed, Slow,
))]
pub(super) async fn explain(
    State(app): State<App>,
    PathAddress(address): PathAddress,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Explanation>, Problem> {
    blocking(move || judge(&app, address).map(Json)).await
}

pub(super) fn judge(app: &App, address: IpAddr) -> Result<Explanation, Problem> {
    let view = View::of(app);
    let now = view.now.monotonic_ns;
    let single = IpNet::from(address);
    let standing = app.dataplane.standing_of(address);
    let bans = view.bans(single).map_err(unreadable)?;
    let covering = app.lists.covering(address);
    let known: Vec<Because> = covering.bans.into_iter().map(Because::from).collect();
    let banned = bans.into_iter().map(|(prefix, ban)| {
        let same = known.iter().find(|known| known.prefix == prefix).cloned();
        // A ban is in the kernel before the journal knows of it.
        same.unwrap_or_else(|| Because {
            rule: Some("unknown".to_owned()),
            prefix,
            until: app.clock.utc_of(ban.until),
            ..Because::default()
        })
    });
    let mut rules = Vec::new();
    let (mut full, mut spent) = (Vec::new(), Vec::new());
    for unit in units(address, &view.rules) {
        let Some(caller) = app.dataplane.caller(unit).map_err(unreadable)? else {
            continue;
        };
        for count in view.counts(unit, &caller).map_err(unreadable)? {
            let shown = RuleCount::of_window(unit, &count);
            if count.is_full() {
                full.push(over_threshold(&shown, count.rule.trigger));
            }
            rules.push(shown);
        }
        for burst in view.bursts(unit, &caller) {
            let shown = RuleCount::of_burst(unit, &burst);
            if burst.is_spent() {
                spent.push(over_limit(&shown));
            }
            rules.push(shown);
        }
    }
    let ranks = [
        (
            now < standing.allow_until,
            Reason::Allow,
            listed("allow", covering.allow),
        ),
        (
            now < standing.deny_until,
            Reason::Deny,
            listed("deny", covering.deny),
        ),
        (true, Reason::Ban, banned.collect()),
        (true, Reason::Threshold, full),
        (true, Reason::Limit, spent),
    ];
    let (reason, because, overruled) = decide(ranks);
    Ok(Explanation {
        address,
        verdict: Verdict::of(reason),
        reason: reason.as_str().to_owned(),
        mode: app.rules.mode().word().to_owned(),
        bypass_until: app.bypass_until(),
        because,
        overruled,
        rules,
    })
}

/// The first rank that stands and has something to say decides; the later ones are overruled.
fn decide<const N: usize>(
    ranks: [(bool, Reason, Vec<Because>); N],
) -> (Reason, Vec<Because>, Vec<Because>) {
    let mut decided = None;
    let mut overruled = Vec::new();
    for (stands, reason, because) in ranks {
        if !stands || because.is_empty() {
            continue;
        }
        if decided.is_none() {
            decided = Some((reason, because));
        } else {
            overruled.extend(because);
        }
    }
    let (reason, because) = decided.unwrap_or((Reason::Pass, Vec::new()));
    (reason, because, overruled)
}

/// Entries of a list that stand in the kernel. An entry that the journal no longer has may stand
/// for a moment; it is not made up.
fn listed(list: &str, entries: Vec<Entry>) -> Vec<Because> {
    let because = |entry: Entry| {
        let Entry {
            prefix,
            reason,
            source,
            created_at,
            expires_at,
        } = entry;
        let protected = || (source.as_str() == "protect").then(|| "protected".to_owned());
        Because {
            list: Some(list.to_owned()),
            rule: None,
            prefix,
            since: Some(created_at),
            until: expires_at,
            reason: reason.or_else(protected),
        }
    };
    entries.into_iter().map(because).collect()
}

impl From<BanEntry> for Because {
    fn from(ban: BanEntry) -> Self {
        let BanEntry {
            prefix,
            rule,
            reason,
            offender: _,
            repeat: _,
            created_at,
            expires_at,
        } = ban;
        Self {
            list: None,
            rule: Some(rule),
            prefix,
            since: Some(created_at),
            until: expires_at,
            reason: Some(reason),
        }
    }
}

fn over_threshold(count: &RuleCount, trigger: Trigger) -> Because {
    let RuleCount {
        rule,
        prefix,
        counted,
        limit,
        within,
        ..
    } = count;
    let (what, dropped) = match trigger {
        Trigger::DistinctPorts(_) => ("ports", "the next call"),
        Trigger::Connections(_) => ("calls", "the next call"),
        Trigger::Packets(_) => ("packets", "every further packet"),
        Trigger::Bytes(_) => ("bytes", "every further packet"),
    };
    Because {
        rule: Some(rule.clone()),
        prefix: *prefix,
        reason: Some(format!(
            "{counted} {what} within {within}, where the rule has {limit}: {dropped} is dropped \
             until the window has rolled on"
        )),
        ..Because::default()
    }
}

fn over_limit(count: &RuleCount) -> Because {
    let RuleCount {
        rule,
        prefix,
        of,
        limit,
        burst,
        ..
    } = count;
    let (what, dropped) = match of.as_str() {
        "connections" => ("calls", "call"),
        other => (other, "packet"),
    };
    Because {
        rule: Some(rule.clone()),
        prefix: *prefix,
        reason: Some(format!(
            "all of the {} {what} at once are spent, and {limit} a second come back: the next \
             {dropped} is dropped until one has",
            burst.unwrap_or(0)
        )),
        ..Because::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn because(list: &str) -> Vec<Because> {
        vec![Because {
            list: Some(list.to_owned()),
            ..Because::default()
        }]
    }

    #[test]
    fn the_first_rank_that_stands_decides() {
        let ranks = |allow, deny, ban: Vec<Because>| {
            let (reason, because, overruled) = decide([
                (allow, Reason::Allow, because("allow")),
                (deny, Reason::Deny, because("deny")),
                (true, Reason::Ban, ban),
            ]);
            let names = |all: Vec<Because>| {
                all.into_iter()
                    .filter_map(|b| b.list)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            (Verdict::of(reason), names(because), names(overruled))
        };
        let ban = || because("ban");
        let told = |verdict, because: &str, overruled: &str| {
            (verdict, because.to_owned(), overruled.to_owned())
        };
        assert_eq!(
            ranks(true, true, ban()),
            told(Verdict::Pass, "allow", "deny ban")
        );
        assert_eq!(
            ranks(false, true, ban()),
            told(Verdict::Drop, "deny", "ban")
        );
        assert_eq!(ranks(false, false, ban()), told(Verdict::Drop, "ban", ""));
        assert_eq!(ranks(false, false, vec![]), told(Verdict::Pass, "", ""));
    }

    #[test]
    fn a_full_window_says_what_is_dropped() {
        let count = RuleCount {
            rule: "port-scan".to_owned(),
            prefix: "198.51.100.7/32".parse().unwrap(),
            of: "distinct_ports".to_owned(),
            counted: 10,
            limit: 10,
            within: "1m".to_owned(),
            burst: None,
            left: None,
        };
        let because = over_threshold(&count, Trigger::DistinctPorts(10));
        let reason = because.reason.unwrap();
        assert!(reason.starts_with("10 ports within 1m"), "{reason}");
        assert!(reason.contains("the next call is dropped"), "{reason}");
    }

    #[test]
    fn a_spent_burst_drops_and_cuts_nobody_off() {
        let told = |reason: Reason| Explanation {
            address: "198.51.100.7".parse().unwrap(),
            verdict: Verdict::of(reason),
            reason: reason.as_str().to_owned(),
            mode: "enforce".to_owned(),
            bypass_until: None,
            because: Vec::new(),
            overruled: Vec::new(),
            rules: Vec::new(),
        };
        assert_eq!(told(Reason::Limit).verdict, Verdict::Drop);
        let all = [
            Reason::Pass,
            Reason::Allow,
            Reason::Limit,
            Reason::Deny,
            Reason::Ban,
        ];
        let cut_off = all.map(|reason| told(reason).is_cut_off());
        assert_eq!(cut_off, [false, false, false, true, true]);
    }
}
