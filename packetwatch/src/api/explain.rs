//! `/v1/explain`: what would become of a call from an address now, and why.

use std::net::IpAddr;

use axum::{Json, extract::State};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::{
    App, blocking,
    callers::{View, units, unreadable},
    extract::{NoParams, Params, PathAddress},
    problem::Problem,
    refusals::{BadParameter, Failed, Gated, Slow},
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

/// An entry, ban or rule that bears on the verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Because {
    /// `allow` or `deny`, unless a rule is meant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// The rule that set a ban, or whose window is full.
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
    pub counted: u64,
    /// The N of the rule.
    pub limit: u64,
    #[schema(example = "60s")]
    pub within: String,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    #[schema(value_type = String, example = "198.51.100.7")]
    pub address: IpAddr,
    /// What becomes of the next call. In observe mode: what would become of it, while it passes.
    pub verdict: Verdict,
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
    let mut full = Vec::new();
    for unit in units(address, &view.rules) {
        let Some(caller) = app.dataplane.caller(unit).map_err(unreadable)? else {
            continue;
        };
        for count in view.counts(unit, &caller).map_err(unreadable)? {
            let count_is_full = count.is_full();
            let shown = RuleCount {
                rule: count.rule.name.clone(),
                prefix: unit,
                of: count.rule.trigger.field().to_owned(),
                counted: count.counted,
                limit: count.rule.trigger.count(),
                within: duration::format(count.rule.within),
            };
            if count_is_full {
                full.push(over_threshold(&shown, count.rule.trigger));
            }
            rules.push(shown);
        }
    }
    let ranks = [
        (
            now < standing.allow_until,
            Verdict::Pass,
            listed("allow", covering.allow),
        ),
        (
            now < standing.deny_until,
            Verdict::Drop,
            listed("deny", covering.deny),
        ),
        (true, Verdict::Drop, banned.collect()),
        (true, Verdict::Drop, full),
    ];
    let (verdict, because, overruled) = decide(ranks);
    Ok(Explanation {
        address,
        verdict,
        mode: app.rules.mode().word().to_owned(),
        bypass_until: app.bypass_until(),
        because,
        overruled,
        rules,
    })
}

/// The first rank that stands and has something to say decides; the later ones are overruled.
fn decide<const N: usize>(
    ranks: [(bool, Verdict, Vec<Because>); N],
) -> (Verdict, Vec<Because>, Vec<Because>) {
    let mut decided = None;
    let mut overruled = Vec::new();
    for (stands, verdict, because) in ranks {
        if !stands || because.is_empty() {
            continue;
        }
        if decided.is_none() {
            decided = Some((verdict, because));
        } else {
            overruled.extend(because);
        }
    }
    let (verdict, because) = decided.unwrap_or((Verdict::Pass, Vec::new()));
    (verdict, because, overruled)
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
            let (verdict, because, overruled) = decide([
                (allow, Verdict::Pass, because("allow")),
                (deny, Verdict::Drop, because("deny")),
                (true, Verdict::Drop, ban),
            ]);
            let names = |all: Vec<Because>| {
                all.into_iter()
                    .filter_map(|b| b.list)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            (verdict, names(because), names(overruled))
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
        };
        let because = over_threshold(&count, Trigger::DistinctPorts(10));
        let reason = because.reason.unwrap();
        assert!(reason.starts_with("10 ports within 1m"), "{reason}");
        assert!(reason.contains("the next call is dropped"), "{reason}");
    }
}
