//! What a daemon is started with: its configuration file and its arguments.

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::Daemon;
use super::process::{PinDirectory, binary};
use crate::netns::Netns;

/// What a daemon is started with; [`Daemon::builder`] begins one.
#[derive(Debug)]
pub struct Builder {
    netns: Netns,
    interfaces: Vec<String>,
    mode: String,
    listen: String,
    rules: Option<String>,
    tables: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    bpffs: Option<PathBuf>,
}

impl Builder {
    /// On the interface of the default route, with the default rules.
    pub(super) fn new(netns: Netns) -> Self {
        Self {
            netns,
            interfaces: Vec::new(),
            mode: "enforce".to_owned(),
            listen: "off".to_owned(),
            rules: None,
            tables: String::new(),
            arguments: Vec::new(),
            environment: Vec::new(),
            bpffs: None,
        }
    }

    /// Adds an interface. Without any, the daemon takes that of the default route.
    pub fn interface(mut self, name: impl Into<String>) -> Self {
        self.interfaces.push(name.into());
        self
    }

    /// `[[rules]]` tables that replace the defaults; an empty text means no rules.
    pub fn rules_toml(mut self, rules: impl Into<String>) -> Self {
        self.rules = Some(rules.into());
        self
    }

    /// `enforce`, which is the default, or `observe`.
    pub fn mode(mut self, mode: impl Into<String>) -> Self {
        self.mode = mode.into();
        self
    }

    /// Serves the API over TCP as well.
    pub fn listen(mut self, address: SocketAddr) -> Self {
        self.listen = address.to_string();
        self
    }

    /// Adds whole tables to the configuration, other than `[api]`.
    pub fn config_toml(mut self, tables: &str) -> Self {
        self.tables.push_str(tables);
        self.tables.push('\n');
        self
    }

    /// Adds an argument of `packetwatch run`.
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Pins on another BPF file system than the host's.
    pub fn bpffs(mut self, path: PathBuf) -> Self {
        self.bpffs = Some(path);
        self
    }

    /// Adds an environment variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Writes the configuration, starts the daemon and waits until it is ready.
    pub fn start(self) -> Daemon {
        let home = TempDir::with_prefix("packetwatch-").expect("make a directory for the daemon");
        // The daemon may run as somebody else, who has to come to its directories below.
        fs::set_permissions(home.path(), Permissions::from_mode(0o711)).expect("open the way");
        let pins = PinDirectory::new();
        fs::write(config_path(home.path()), self.config(home.path()))
            .expect("write the configuration");
        let bpffs = self.bpffs.as_deref().unwrap_or(pins.path());
        let mut arguments = vec![
            "run".to_owned(),
            "--config".to_owned(),
            config_path(home.path()).display().to_string(),
            "--bpffs".to_owned(),
            bpffs.display().to_string(),
        ];
        arguments.extend(self.arguments);
        let mut daemon = Daemon {
            process: None,
            netns: self.netns,
            arguments,
            environment: self.environment,
            binary: binary().to_owned(),
            pins,
            home,
        };
        daemon.start();
        daemon
    }

    fn config(&self, home: &Path) -> String {
        let Self {
            netns: _,
            interfaces,
            mode,
            listen,
            rules,
            tables,
            arguments: _,
            environment: _,
            bpffs: _,
        } = self;
        let mut text = String::new();
        if !interfaces.is_empty() {
            text += &format!("interfaces = {interfaces:?}\n");
        }
        if rules.as_ref().is_some_and(|rules| rules.trim().is_empty()) {
            text += "rules = []\n";
        }
        text += &format!("mode = {mode:?}\nstate_dir = {:?}\n", home.join("state"));
        text += &format!(
            "[api]\nlisten = {listen:?}\nsocket = {:?}\n",
            socket_path(home)
        );
        text += tables;
        text += rules.as_deref().unwrap_or_default();
        text
    }
}

/// In a directory that the daemon makes.
pub(super) fn socket_path(home: &Path) -> PathBuf {
    home.join("run/api.sock")
}

/// The file is in the daemon's own directory, next to its state and its socket.
pub(super) fn config_path(home: &Path) -> PathBuf {
    home.join("packetwatch.toml")
}
