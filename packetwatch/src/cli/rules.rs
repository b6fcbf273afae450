//! `packetwatch rules`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use reqwest::Method;

use super::{
    Asking, input,
    output::{Format, Out, table},
    trials::{ConfirmArgs, tell},
};
use crate::{
    api::{NewRules, Rules},
    rules::{Action, Rule, RuleSet, RuleText, duration},
};

/// Eight rules have a kilobyte or two.
const MAX_FILE: u64 = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(super) struct RulesArgs {
    #[command(subcommand)]
    command: Option<RulesCommand>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, clap::Subcommand)]
enum RulesCommand {
    /// Show the rules in force; what `packetwatch rules` alone does
    Show,
    /// Put the rules of a file in the place of the configuration's, until they are reset
    Set {
        /// TOML of `[[rules]]`, as in the configuration, or what `rules show --output json` prints;
        /// - for stdin
        file: PathBuf,
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
    /// Return to the configuration's rules
    Reset(ConfirmArgs),
}

pub(super) async fn run(args: RulesArgs) -> anyhow::Result<()> {
    let (client, mut out) = args.asking.open()?;
    let path = "/v1/rules";
    let rules: Rules = match args.command.unwrap_or(RulesCommand::Show) {
        RulesCommand::Show => client.get(path).await?,
        RulesCommand::Set { file, confirm } => {
            let rules = read(&file)?;
            client.send(Method::PUT, &confirm.on(path), &rules).await?
        }
        RulesCommand::Reset(confirm) => client.ask(Method::DELETE, &confirm.on(path)).await?,
    };
    tell(&rules.would_drop, rules.pending.as_ref());
    show(&mut out, &rules)?;
    out.flush()
}

fn show(out: &mut Out, rules: &Rules) -> anyhow::Result<()> {
    match out.format {
        Format::Json => out.json(rules),
        Format::Jsonl => rules.rules.iter().try_for_each(|rule| out.json(rule)),
        Format::Table => {
            eprintln!("rules from: {}", rules.rules_from);
            match rule_table(&rules.rules)? {
                Some(table) => out.line(&table),
                None => {
                    eprintln!("there is no rule: nobody is banned");
                    Ok(())
                }
            }
        }
    }
}

fn rule_table(rules: &[RuleText]) -> anyhow::Result<Option<String>> {
    let row = |text: &RuleText| {
        let rule = Rule::try_from(text.clone()).map_err(|error| anyhow!(error))?;
        let consequence = match rule.action {
            Action::Ban => [
                rule.ban.to_string(),
                format!("x{}", rule.escalate),
                rule.max_ban.to_string(),
            ],
            Action::Limit => [
                "drop the rest".to_owned(),
                String::new(),
                format!("{} at once", rule.burst),
            ],
        };
        let front = [
            rule.name,
            format!("{} {}", rule.trigger.count(), rule.trigger.field()),
            duration::format(rule.within),
        ];
        let unit = format!("/{} /{}", rule.prefix_v4, rule.prefix_v6);
        Ok(front.into_iter().chain(consequence).chain([unit]).collect())
    };
    let rows: Vec<_> = rules.iter().map(row).collect::<anyhow::Result<_>>()?;
    Ok(table(
        &[
            "RULE", "LIMIT", "WITHIN", "BAN", "REPEAT", "AT MOST", "UNIT",
        ],
        rows,
    ))
}

fn read(file: &Path) -> anyhow::Result<NewRules> {
    let text = input::read(file, MAX_FILE, ", which no rules are")?;
    let text = String::from_utf8(text).with_context(|| format!("in {}", file.display()))?;
    parse(&text).with_context(|| format!("in {}", file.display()))
}

fn parse(text: &str) -> anyhow::Result<NewRules> {
    if text.trim_start().starts_with('{') {
        return Ok(serde_json::from_str(text)?);
    }
    let rules = RuleSet::from_toml(text)?;
    let rules = rules.iter().cloned().map(RuleText::from);
    Ok(NewRules {
        rules: rules.map(serde_json::to_value).collect::<Result<_, _>>()?,
        rules_from: None,
        pending: None,
        would_drop: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_and_json_say_the_same() {
        let set = RuleSet::default();
        let toml = parse(&set.to_toml()).unwrap();
        let texts: Vec<RuleText> = set.iter().cloned().map(RuleText::from).collect();
        let shown = Rules {
            rules: texts,
            rules_from: "default".to_owned(),
            pending: None,
            would_drop: Vec::new(),
        };
        let json = parse(&serde_json::to_string(&shown).unwrap()).unwrap();
        assert_eq!(toml.rules, json.rules);
        assert_eq!(toml.rules.len(), 2);
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let error = parse("[[rules]]\nname = \"a\"\nports = 3\n").err().unwrap();
        assert!(error.to_string().starts_with("3:1: unknown key"), "{error}");
    }

    #[test]
    fn the_table_shows_what_leads_to_a_ban() {
        let texts = RuleSet::default()
            .iter()
            .cloned()
            .map(RuleText::from)
            .collect::<Vec<_>>();
        let table = rule_table(&texts).unwrap().unwrap();
        let row = table.lines().nth(1).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        let expected = [
            "port-scan",
            "10",
            "distinct_ports",
            "1m",
            "10m",
            "x2",
            "24h",
            "/32",
            "/64",
        ];
        assert_eq!(words, expected);
    }
}
