//! What can be typed, and the words that explain it.

use clap::error::ErrorKind;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_definition_holds_together() {
    command().debug_assert();
}

#[test]
fn every_command_of_the_interface_parses() {
    let lines = [
        "packetwatch run --interface eth0 --interface eth1 --config f --mode observe --xdp-mode \
         generic --api off --socket off --state-dir d --bpffs b --on-exit keep --log-format text",
        "packetwatch status",
        "packetwatch status --url http://127.0.0.1:7300 --token pw_0 --output jsonl",
        "packetwatch allow add 198.51.100.0/24 --ttl 10m --reason ours --socket s",
        "packetwatch deny add 198.51.100.7 --force --output table",
        "packetwatch allow --socket s remove 198.51.100.7",
        "packetwatch deny list --contains 198.51.100.7 --limit 5",
        "packetwatch deny load - --replace --partial",
        "packetwatch bans",
        "packetwatch bans --socket s",
        "packetwatch bans list --output json",
        "packetwatch bans remove 198.51.100.7/32 --socket s",
        "packetwatch callers --sort ports --limit 10000",
        "packetwatch explain 198.51.100.7 --output table --socket s",
        "packetwatch rules",
        "packetwatch rules show",
        "packetwatch rules set rules.toml --socket s",
        "packetwatch rules reset",
        "packetwatch rules set rules.toml --confirm 60s --socket s",
        "packetwatch rules reset --confirm 60s",
        "packetwatch deny add 198.51.100.7 --confirm 60s",
        "packetwatch allow remove 198.51.100.7 --confirm 60s",
        "packetwatch deny load f --replace --confirm 1h",
        "packetwatch mode",
        "packetwatch mode observe --confirm 60s --socket s",
        "packetwatch mode reset",
        "packetwatch bypass 10m --socket s",
        "packetwatch bypass off",
        "packetwatch pending --output json",
        "packetwatch backup",
        "packetwatch backup saved.jsonl --socket s",
        "packetwatch restore saved.jsonl --output json",
        "packetwatch confirm",
        "packetwatch confirm 19b2e6c1f04 --socket s",
        "packetwatch rollback",
        "packetwatch events --follow --limit 0 --output jsonl --socket s",
        "packetwatch detach --interface eth0",
        "packetwatch config check --config f",
        "packetwatch config show --origin --output json",
        "packetwatch config template",
        "packetwatch doctor",
        "packetwatch completions bash",
        "packetwatch man",
        "packetwatch openapi",
    ];
    for line in lines {
        let words = line.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            parse(&words).is_ok(),
            "{words}: {}",
            parse(&words).unwrap_err()
        );
    }
}

#[test]
fn wrong_usage_is_told_before_the_daemon_is_asked() {
    let table = [
        ("packetwatch allow add", ErrorKind::MissingRequiredArgument),
        (
            "packetwatch allow add ::1 --ttl 0s",
            ErrorKind::ValueValidation,
        ),
        ("packetwatch callers --limit 0", ErrorKind::ValueValidation),
        ("packetwatch bypass 25h", ErrorKind::ValueValidation),
        (
            "packetwatch mode observe --confirm 2h",
            ErrorKind::ValueValidation,
        ),
        (
            "packetwatch callers --limit 10001",
            ErrorKind::ValueValidation,
        ),
        ("packetwatch callers --sort name", ErrorKind::InvalidValue),
        ("packetwatch status --output yaml", ErrorKind::InvalidValue),
        ("packetwatch ban 198.51.100.7", ErrorKind::InvalidSubcommand),
        ("packetwatch explain", ErrorKind::MissingRequiredArgument),
        (
            "packetwatch",
            ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand,
        ),
    ];
    for (line, kind) in table {
        let error = parse(line).unwrap_err();
        assert_eq!(error.kind(), kind, "{line}");
        assert_eq!(error.exit_code(), 2, "{line}");
    }
}

#[test]
fn the_token_is_never_shown() {
    let status = command().find_subcommand("status").unwrap().clone();
    let token = status
        .get_arguments()
        .find(|arg| arg.get_id() == "token")
        .unwrap();
    assert!(token.is_hide_env_values_set());
}

/// The golden file is what `--help` printed when it was last looked at. `UPDATE_GOLDEN=1 cargo
/// test` writes it anew; the change is then seen in review.
#[test]
fn help_is_as_it_was_reviewed() {
    let mut text = String::new();
    helps(command().term_width(100), &mut text);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/cli/help.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let golden = std::fs::read_to_string(path).unwrap();
    assert!(
        golden == text,
        "--help differs from {path}; if it should, run the tests with UPDATE_GOLDEN=1\n{text}"
    );
}

fn helps(mut command: clap::Command, text: &mut String) {
    command.build();
    text.push_str(&format!("{}\n", command.render_help()));
    for sub in command.get_subcommands() {
        if sub.get_name() != "help" {
            text.push_str("----------------------------------------\n");
            helps(sub.clone(), text);
        }
    }
}

#[test]
fn a_cause_is_told_once() {
    let cause = std::io::Error::other("disk full");
    let quoting = anyhow::Error::new(cause).context("cannot write: disk full");
    assert_eq!(told(&quoting), "cannot write: disk full");
    let silent = anyhow::anyhow!("disk full")
        .context("cannot write")
        .context("start");
    assert_eq!(told(&silent), "start: cannot write: disk full");
}
