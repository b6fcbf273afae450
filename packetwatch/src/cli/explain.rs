//! `packetwatch explain`: the verdict in a few sentences.

use super::{
    Asking,
    client::path_of,
    output::{Format, when},
};
use crate::api::{Because, Explanation, RuleCount, Verdict};

#[derive(Debug, clap::Args)]
pub(super) struct ExplainArgs {
    /// One address
    address: String,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(args: ExplainArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let told: Explanation = client.get(&path_of("/v1/explain", &args.address)).await?;
    match out.format {
        Format::Json | Format::Jsonl => out.json(&told)?,
        Format::Table => sentences(&told)
            .iter()
            .try_for_each(|line| out.line(line))?,
    }
    out.flush()
}

fn sentences(told: &Explanation) -> Vec<String> {
    let Explanation {
        address,
        verdict,
        reason: _,
        mode,
        bypass_until,
        because,
        overruled,
        rules,
    } = told;
    let observing = mode == "observe";
    let mut lines = vec![match (verdict, observing, bypass_until) {
        (Verdict::Pass, ..) => format!("A call from {address} passes."),
        (Verdict::Drop, true, _) => format!(
            "A call from {address} would be dropped. It passes, since the daemon only observes."
        ),
        (Verdict::Drop, false, Some(until)) => format!(
            "A call from {address} would be dropped. It passes, as every packet does until {}.",
            when(*until)
        ),
        (Verdict::Drop, false, None) => format!("A call from {address} is dropped."),
    }];
    if because.is_empty() {
        lines.push("Nothing stands against it.".to_owned());
    }
    lines.extend(because.iter().map(sentence));
    if !overruled.is_empty() {
        lines.push("This stands as well, but does not decide:".to_owned());
        lines.extend(
            overruled
                .iter()
                .map(|because| format!("  {}", sentence(because))),
        );
    }
    lines.extend(rules.iter().map(count));
    lines
}

fn sentence(because: &Because) -> String {
    let Because {
        list,
        rule,
        prefix,
        since,
        until,
        reason,
    } = because;
    let mut text = match (list.as_deref(), rule) {
        (Some(list), _) => format!("{prefix} is on the {list} list"),
        (None, Some(rule)) if since.is_none() && until.is_none() => {
            format!("{prefix} has reached the rule {rule}")
        }
        (None, Some(rule)) => format!("{prefix} is banned by the rule {rule}"),
        (None, None) => format!("{prefix} is listed"),
    };
    if let Some(since) = since {
        text.push_str(&format!(" since {}", when(*since)));
    }
    match (until, since) {
        (Some(until), _) => text.push_str(&format!(" until {}", when(*until))),
        (None, Some(_)) => text.push_str(", with no end set"),
        (None, None) => {}
    }
    if let Some(reason) = reason {
        text.push_str(&format!(": {reason}"));
    }
    text.push('.');
    text
}

fn count(count: &RuleCount) -> String {
    let RuleCount {
        rule,
        prefix,
        of,
        counted,
        limit,
        within,
        burst,
        left,
    } = count;
    let what = match of.as_str() {
        "distinct_ports" => "ports",
        "connections" => "calls",
        other => other,
    };
    if let (Some(burst), Some(left)) = (burst, left) {
        return format!(
            "The rule {rule} lets {limit} {what} a second pass, {burst} at once; {left} are left for \
             {prefix}."
        );
    }
    format!("The rule {rule} counts {counted} of {limit} {what} within {within} for {prefix}.")
}

#[cfg(test)]
mod tests {
    use time::{Duration, OffsetDateTime};

    use super::*;

    fn told(verdict: Verdict, mode: &str, because: Vec<Because>) -> Explanation {
        Explanation {
            address: "198.51.100.7".parse().unwrap(),
            verdict,
            reason: String::new(),
            mode: mode.to_owned(),
            bypass_until: None,
            because,
            overruled: Vec::new(),
            rules: Vec::new(),
        }
    }

    fn ban() -> Because {
        let since = OffsetDateTime::UNIX_EPOCH;
        Because {
            list: None,
            rule: Some("port-scan".to_owned()),
            prefix: "198.51.100.7/32".parse().unwrap(),
            since: Some(since),
            until: Some(since + Duration::minutes(10)),
            reason: Some("10 ports in 60s".to_owned()),
        }
    }

    #[test]
    fn a_ban_reads_as_sentences() {
        let mut told = told(Verdict::Drop, "enforce", vec![ban()]);
        told.rules.push(RuleCount {
            rule: "port-scan".to_owned(),
            prefix: "198.51.100.7/32".parse().unwrap(),
            of: "distinct_ports".to_owned(),
            counted: 3,
            limit: 10,
            within: "60s".to_owned(),
            burst: None,
            left: None,
        });
        told.rules.push(RuleCount {
            rule: "cap".to_owned(),
            of: "packets".to_owned(),
            counted: 960,
            limit: 10,
            within: "1s".to_owned(),
            burst: Some(1000),
            left: Some(40),
            ..told.rules[0].clone()
        });
        let expected = [
            "A call from 198.51.100.7 is dropped.",
            "198.51.100.7/32 is banned by the rule port-scan since 1970-01-01T00:00:00Z until \
             1970-01-01T00:10:00Z: 10 ports in 60s.",
            "The rule port-scan counts 3 of 10 ports within 60s for 198.51.100.7/32.",
            "The rule cap lets 10 packets a second pass, 1000 at once; 40 are left for \
             198.51.100.7/32.",
        ];
        assert_eq!(sentences(&told), expected);
    }

    #[test]
    fn observe_mode_says_what_would_be() {
        let lines = sentences(&told(Verdict::Drop, "observe", vec![ban()]));
        assert!(
            lines[0].contains("would be dropped. It passes"),
            "{lines:?}"
        );
    }

    #[test]
    fn what_is_overruled_is_told_apart() {
        let allow = Because {
            list: Some("allow".to_owned()),
            rule: None,
            until: None,
            reason: None,
            ..ban()
        };
        let mut both = told(Verdict::Pass, "enforce", vec![allow]);
        both.overruled.push(ban());
        let lines = sentences(&both);
        let allow =
            "198.51.100.7/32 is on the allow list since 1970-01-01T00:00:00Z, with no end set.";
        assert_eq!(lines[1], allow);
        assert_eq!(lines[2], "This stands as well, but does not decide:");
        assert!(
            lines[3].starts_with("  198.51.100.7/32 is banned"),
            "{lines:?}"
        );
        let nothing = sentences(&told(Verdict::Pass, "enforce", vec![]));
        assert_eq!(nothing[1], "Nothing stands against it.");
    }
}
