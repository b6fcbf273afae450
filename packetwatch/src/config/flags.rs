//! The flags of `packetwatch run` that are settings.

use std::path::PathBuf;

use toml::de::DeValue;

use super::{keys, values};
use crate::document::Value;

/// Settings as typed; they are checked together with the other sources.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Interface to filter, repeatable [default: the one of the default route]
    #[arg(long = "interface", value_name = "IF")]
    pub interfaces: Vec<String>,
    /// Configuration file [default: /etc/packetwatch/packetwatch.toml, which may be missing]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Drop, or only judge, count and log
    #[arg(long, value_name = "enforce|observe")]
    pub mode: Option<String>,
    /// Where in the receive path the filter runs
    #[arg(long, value_name = "auto|native|generic")]
    pub xdp_mode: Option<String>,
    /// TCP address of the API
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub api: Option<String>,
    /// Unix socket of the API
    #[arg(long, value_name = "PATH|off")]
    pub socket: Option<String>,
    /// Directory of the journal and the tokens
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<String>,
    /// The BPF file system
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<String>,
    /// What becomes of the filter on SIGINT or SIGTERM
    #[arg(long, value_name = "detach|keep")]
    pub on_exit: Option<String>,
    /// Pin of an XDP program that gets what passes [default: none]
    #[arg(long, value_name = "PATH")]
    pub chain: Option<String>,
    /// Form of the log on stdout
    #[arg(long, value_name = "json|text")]
    pub log_format: Option<String>,
}

/// A flag that was given: its name, its key and its value.
pub(super) type Given<'f> = (&'static str, &'static keys::Key, Value<'f>);

impl Flags {
    pub(super) fn given(&self) -> Vec<Given<'_>> {
        // `config` chooses the file and is no key.
        let Self {
            interfaces,
            config: _,
            mode,
            xdp_mode,
            api,
            socket,
            state_dir,
            bpffs,
            on_exit,
            chain,
            log_format,
        } = self;
        let texts = [
            ("--mode", "mode", mode),
            ("--xdp-mode", "xdp_mode", xdp_mode),
            ("--api", "api.listen", api),
            ("--socket", "api.socket", socket),
            ("--state-dir", "state_dir", state_dir),
            ("--bpffs", "bpffs", bpffs),
            ("--on-exit", "on_exit", on_exit),
            ("--chain", "chain", chain),
            ("--log-format", "log.format", log_format),
        ];
        let mut given = Vec::new();
        if !interfaces.is_empty() {
            let list = values::list(interfaces.iter().map(String::as_str));
            given.push(("--interface", "interfaces", list));
        }
        given.extend(texts.into_iter().filter_map(|(flag, path, text)| {
            Some((flag, path, DeValue::String(text.as_deref()?.into())))
        }));
        let keyed = given.into_iter().map(|(flag, path, value)| {
            let key = keys::find(path).expect("every flag stands for a key");
            (flag, key, values::unplaced(value))
        });
        keyed.collect()
    }
}
