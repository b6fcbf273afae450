//! The daemon's configuration: flag over environment over file over default.
//!
//! `keys.rs` holds the one table of keys; reading, `config show` and the template all walk it.

mod env;
mod error;
mod flags;
mod keys;
mod load;
mod sections;
mod show;
mod template;
mod values;

use std::{collections::BTreeMap, path::PathBuf};

pub use crate::document::Position;
pub use error::{ConfigError, Origin, Violation};
pub use flags::Flags;
pub use load::Sources;
pub use sections::{
    Api, Capacity, Capture, Fleet, Log, Mode, OnExit, Protect, Tls, TlsFiles, Transport, Word,
    XdpMode,
};
pub use template::template;

use crate::rules::RuleSet;

/// Everything the daemon can be told, complete and within its bounds.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Interfaces to filter, at most 16. Empty: the one of the default route.
    pub interfaces: Vec<String>,
    pub mode: Mode,
    pub xdp_mode: XdpMode,
    /// Where the journal, the tokens and `rules.toml` live.
    pub state_dir: PathBuf,
    /// The BPF file system that holds the pins.
    pub bpffs: PathBuf,
    pub on_exit: OnExit,
    /// The pin of an XDP program that gets what passes; its verdict counts.
    pub chain: Option<PathBuf>,
    /// Whom a daemon that is started as root becomes.
    pub user: String,
    pub api: Api,
    pub protect: Protect,
    pub log: Log,
    pub capacity: Capacity,
    pub rules: RuleSet,
    pub capture: Capture,
    pub fleet: Fleet,
    /// Where each key came from; what is missing is a default.
    origins: BTreeMap<&'static str, Origin>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interfaces: Vec::new(),
            mode: Mode::Enforce,
            xdp_mode: XdpMode::Auto,
            state_dir: "/var/lib/packetwatch".into(),
            bpffs: "/sys/fs/bpf".into(),
            on_exit: OnExit::Detach,
            chain: None,
            user: "packetwatch".to_owned(),
            api: Api::default(),
            protect: Protect::default(),
            log: Log::default(),
            capacity: Capacity::default(),
            rules: RuleSet::default(),
            capture: Capture::default(),
            fleet: Fleet::default(),
            origins: BTreeMap::new(),
        }
    }
}

/// One key of a configuration, as `config show` prints it.
#[derive(Clone, Debug, PartialEq)]
pub struct Setting<'c> {
    /// The dotted key: `api.listen`.
    pub key: &'static str,
    pub value: toml::Value,
    pub origin: &'c Origin,
}

impl Config {
    /// Every key with its value and origin, in the template's order.
    pub fn settings(&self) -> impl Iterator<Item = Setting<'_>> {
        keys::KEYS.iter().map(|key| Setting {
            key: key.path,
            value: (key.show)(self),
            origin: self.origin(key.path),
        })
    }

    /// Where a key's value came from.
    pub fn origin(&self, key: &str) -> &Origin {
        self.origins.get(key).unwrap_or(&Origin::Default)
    }

    /// Where the rules came from, for `status`: `built-in`, or the file, variable or flag.
    pub fn rules_from(&self) -> String {
        self.stated_by("rules")
    }

    /// The same of the mode.
    pub fn mode_from(&self) -> String {
        self.stated_by("mode")
    }

    fn stated_by(&self, key: &str) -> String {
        match self.origin(key) {
            Origin::Default | Origin::EmptyVariable(_) => "built-in".to_owned(),
            Origin::File { path, .. } => path.display().to_string(),
            stated => stated.to_string(),
        }
    }

    /// What was accepted in another form than it was written, for the log.
    pub fn notes(&self) -> Vec<String> {
        let lists = [
            ("protect.extra", &self.protect.extra),
            ("fleet.scan_targets", &self.fleet.scan_targets),
            ("fleet.trace_targets", &self.fleet.trace_targets),
        ];
        let cleared = lists.into_iter().flat_map(|(key, list)| {
            let cleared = list.iter().filter(|parsed| parsed.host_bits_cleared);
            cleared.map(move |parsed| {
                format!(
                    "{}: {key}: host bits cleared, read as {parsed}",
                    self.origin(key)
                )
            })
        });
        cleared.collect()
    }

    /// The whole configuration as a TOML file that reads back to it.
    pub fn to_toml(&self) -> String {
        let mut document = toml::Table::new();
        for Setting { key, value, .. } in self.settings() {
            let mut table = Some(&mut document);
            let mut parts = key.split('.').peekable();
            while let (Some(inner), Some(part)) = (table.take(), parts.next()) {
                if parts.peek().is_none() {
                    inner.insert(part.to_owned(), value.clone());
                } else {
                    let section = inner.entry(part);
                    let section = section.or_insert_with(|| toml::Table::new().into());
                    table = section.as_table_mut();
                }
            }
        }
        toml::to_string(&document).expect("settings are TOML values")
    }
}
