//! `packetwatch config`: what the daemon would be told, without a daemon.

use std::path::PathBuf;

use super::output::{Format, Out, OutputArgs, table};
use crate::config::{Config, Flags, Sources, template};

#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ConfigCommand {
    /// Read the file and the environment, and say what is wrong
    Check {
        #[command(flatten)]
        file: FileArg,
    },
    /// Show the whole configuration as it would be taken
    Show {
        /// Also show where each value came from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        file: FileArg,
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Print a file with every key and its default as a comment
    Template,
}

#[derive(Debug, clap::Args)]
struct FileArg {
    /// Configuration file [default: /etc/packetwatch/packetwatch.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl FileArg {
    fn load(self) -> anyhow::Result<Config> {
        let flags = Flags {
            config: self.config,
            ..Flags::default()
        };
        let config = Config::load(Sources::of_process(flags))?;
        config.notes().iter().for_each(|note| eprintln!("{note}"));
        Ok(config)
    }
}

pub(super) fn run(args: ConfigArgs) -> anyhow::Result<()> {
    let mut out = match args.command {
        ConfigCommand::Check { file } => {
            file.load()?;
            eprintln!("the configuration is good");
            return Ok(());
        }
        ConfigCommand::Template => {
            let mut out = Out::new(Format::Table);
            out.line(template().trim_end())?;
            out
        }
        ConfigCommand::Show {
            origin,
            file,
            output,
        } => {
            let config = file.load()?;
            let mut out = Out::new(output.format());
            show(&config, origin, &mut out)?;
            out
        }
    };
    out.flush()
}

fn show(config: &Config, origin: bool, out: &mut Out) -> anyhow::Result<()> {
    let object = |setting: crate::config::Setting<'_>| {
        let mut object = serde_json::json!({ "key": setting.key, "value": setting.value });
        if origin {
            object["origin"] = setting.origin.to_string().into();
        }
        object
    };
    match out.format {
        Format::Json => out.json(&config.settings().map(object).collect::<Vec<_>>()),
        Format::Jsonl => config
            .settings()
            .try_for_each(|setting| out.json(&object(setting))),
        Format::Table if origin => {
            let rows = config.settings().map(|setting| {
                let value = setting.value.to_string().replace('\n', " ");
                vec![setting.key.to_owned(), value, setting.origin.to_string()]
            });
            let table = table(&["KEY", "VALUE", "FROM"], rows);
            out.line(&table.unwrap_or_default())
        }
        Format::Table => out.line(config.to_toml().trim_end()),
    }
}
