//! The command line: what can be typed, and what becomes of it.
//!
//! `run` and `detach` are done by whoever hands in [`Handlers`]; every other command asks the
//! daemon over its socket (`client`) and prints what it answers (`output`).

mod backup;
mod bans;
mod callers;
mod client;
mod config;
mod doctor;
mod events;
mod explain;
mod generate;
mod input;
mod lists;
mod memory;
mod mode;
mod output;
mod rules;
mod secret;
mod status;
mod tls;
mod token;
mod trials;

use std::{ffi::OsString, path::PathBuf, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand};

use crate::config::{ConfigError, Flags};
use client::{Client, Connection};
use output::{Closed, Out, OutputArgs};

/// See who calls this host, ban the abusive ones in the kernel, and give orders.
#[derive(Debug, Parser)]
#[command(
    name = "packetwatch",
    version,
    propagate_version = true,
    arg_required_else_help = true
)]
#[command(after_help = "Exit status: 0 done, 1 failed, 2 wrong usage.")]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach the filter and run the daemon in the foreground
    Run(Flags),
    /// Show how the daemon is
    Status(Asking),
    /// Prefixes that always pass
    Allow(lists::ListArgs),
    /// Prefixes that are always dropped, unless allowed
    Deny(lists::ListArgs),
    /// Bans that rules have set
    Bans(bans::BansArgs),
    /// Show who calls, most first
    Callers(callers::CallersArgs),
    /// Say why an address passes or is dropped
    Explain(explain::ExplainArgs),
    /// What leads to a ban
    Rules(rules::RulesArgs),
    /// Show or change whether verdicts are carried out
    Mode(mode::ModeArgs),
    /// Pass every packet for a time, whatever lists, bans and rules say
    ///
    /// It ends by itself, also when the daemon dies, and outlives a restart. Rules ban nobody
    /// meanwhile.
    Bypass(mode::BypassArgs),
    /// Show the change that waits to be confirmed
    Pending(Asking),
    /// Keep a change that was made with --confirm
    Confirm(trials::WhichArgs),
    /// Take a change that was made with --confirm back now
    Rollback(trials::WhichArgs),
    /// Write lists, bans, and the rules and the mode that were set, as JSON lines; never tokens
    Backup(backup::BackupArgs),
    /// Put everything back as a backup has it, if all of it is good
    Restore(backup::RestoreArgs),
    /// Print recent events, and with --follow those that happen then
    ///
    /// The daemon keeps the last 1000 since it started, and 1 MiB of them. With --output table an
    /// event is a line for people, otherwise one JSON object a line, as in the log.
    Events(events::EventsArgs),
    /// Who may ask for what over TCP
    Token(token::TokenArgs),
    /// The configuration, without a daemon
    Config(config::ConfigArgs),
    /// Take a kept or orphaned filter off, without a daemon
    Detach(DetachArgs),
    /// Check what the daemon needs of this host
    Doctor(Asking),
    /// Print a completion script
    Completions(generate::CompletionsArgs),
    /// Print the manual page
    Man(generate::ManArgs),
    /// Print the description of the REST API
    Openapi,
}

/// What every command that asks the daemon takes.
#[derive(Clone, Debug, clap::Args)]
struct Asking {
    #[command(flatten)]
    output: OutputArgs,
    #[command(flatten)]
    connection: Connection,
}

impl Asking {
    fn open(self) -> Result<(Client, Out), client::ClientError> {
        let client = Client::new(self.connection)?;
        Ok((client, Out::new(self.output.format())))
    }
}

/// What `packetwatch detach` is told.
#[derive(Clone, Debug, clap::Args)]
pub struct DetachArgs {
    /// Interface to take it off, repeatable [default: every one that has it]
    #[arg(long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,
    /// The BPF file system that holds the pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    pub bpffs: PathBuf,
}

/// The two commands that work on the kernel.
pub struct Handlers {
    /// Runs the daemon to its end. The flags are handed on as typed, so that it can read its
    /// configuration again.
    pub run: fn(Flags) -> anyhow::Result<()>,
    /// Takes the filter off and prints what it did.
    pub detach: fn(DetachArgs) -> anyhow::Result<()>,
}

/// The whole program: reads the arguments and does what they say.
///
/// The exit status is 0 for done, 1 for failed, 2 for wrong usage. Failures are told on stderr.
pub fn main(arguments: impl IntoIterator<Item = OsString>, handlers: &Handlers) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a closed pipe is no failure for them.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match dispatch(cli.command, handlers) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Closed>() => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("packetwatch: {}", told(&error));
            match error.downcast_ref::<ConfigError>() {
                Some(error) if error.is_usage() => ExitCode::from(2),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The error and its causes, each once: many a message quotes its cause.
fn told(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .fold(error.to_string(), |text, cause| {
            let cause = cause.to_string();
            if text.contains(&cause) {
                text
            } else {
                format!("{text}: {cause}")
            }
        })
}

fn dispatch(command: Command, handlers: &Handlers) -> anyhow::Result<()> {
    match command {
        Command::Run(flags) => (handlers.run)(flags),
        Command::Detach(args) => (handlers.detach)(args),
        Command::Config(args) => config::run(args),
        Command::Completions(args) => generate::completions(args),
        Command::Man(args) => generate::man(args),
        Command::Openapi => generate::openapi(),
        Command::Status(asking) => asked(status::run(asking)),
        Command::Allow(args) => asked(lists::run("allow", args)),
        Command::Deny(args) => asked(lists::run("deny", args)),
        Command::Bans(args) => asked(bans::run(args)),
        Command::Callers(args) => asked(callers::run(args)),
        Command::Explain(args) => asked(explain::run(args)),
        Command::Rules(args) => asked(rules::run(args)),
        Command::Token(args) => asked(token::run(args)),
        Command::Backup(args) => asked(backup::backup(args)),
        Command::Restore(args) => asked(backup::restore(args)),
        Command::Mode(args) => asked(mode::run(args)),
        Command::Bypass(args) => asked(mode::bypass(args)),
        Command::Pending(asking) => asked(trials::list(asking)),
        Command::Confirm(args) => asked(trials::confirm(args)),
        Command::Rollback(args) => asked(trials::roll_back(args)),
        Command::Events(args) => asked(events::run(args)),
        Command::Doctor(asking) => asked(doctor::run(asking)),
    }
}

/// One conversation needs one thread.
fn asked(conversation: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(conversation)
}

/// The command line as clap knows it, for completions and manual pages.
pub fn command() -> clap::Command {
    Cli::command()
}

#[cfg(test)]
mod tests;
