//! The sections of the configuration and the words some keys take.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use packetwatch_abi::capacity;

use crate::{log::LogFormat, prefix::Parsed};

/// A key that takes one of a few words.
pub trait Word: Copy + PartialEq + 'static {
    /// Every word and what it means.
    const WORDS: &'static [(&'static str, Self)];

    /// The word for this value.
    fn word(self) -> &'static str {
        let named = Self::WORDS.iter().find(|(_, value)| *value == self);
        named.expect("every value has a word").0
    }
}

/// Whether verdicts are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Enforce,
    /// Judge, count and log; drop nothing.
    Observe,
}

impl Word for Mode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("enforce", Self::Enforce), ("observe", Self::Observe)];
}

/// Where in the receive path the program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// Native, or generic where the driver cannot.
    Auto,
    Native,
    Generic,
}

impl Word for XdpMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("auto", Self::Auto),
        ("native", Self::Native),
        ("generic", Self::Generic),
    ];
}

/// What becomes of the filter when the daemon ends on SIGINT or SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    Detach,
    Keep,
}

impl Word for OnExit {
    const WORDS: &'static [(&'static str, Self)] =
        &[("detach", Self::Detach), ("keep", Self::Keep)];
}

impl Word for LogFormat {
    const WORDS: &'static [(&'static str, Self)] = &[("json", Self::Json), ("text", Self::Text)];
}

/// How the hosts of a fleet speak to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Local,
    Https,
    Nats,
}

impl Word for Transport {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("local", Self::Local),
        ("https", Self::Https),
        ("nats", Self::Nats),
    ];
}

/// `[api]`; `None` is off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// TCP, with tokens. Port 0 lets the kernel choose. Anything but loopback takes [`Api::tls`].
    pub listen: Option<SocketAddr>,
    pub tls: Tls,
    /// Unix socket, by peer credentials; at most 107 bytes.
    pub socket: Option<PathBuf>,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            listen: Some(SocketAddr::from(([127, 0, 0, 1], 7300))),
            tls: Tls::default(),
            socket: Some("/run/packetwatch/api.sock".into()),
        }
    }
}

/// `[api.tls]`: both or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

/// The files of a certificate chain and its key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Tls {
    /// The pair, if TCP is to speak TLS.
    pub fn files(&self) -> Option<TlsFiles> {
        let (cert, key) = (self.cert.clone()?, self.key.clone()?);
        Some(TlsFiles { cert, key })
    }
}

impl Api {
    /// What is wrong with the section as a whole: the key to blame and the remedy.
    pub(super) fn fault(&self) -> Option<(&'static str, String)> {
        let Tls { cert, key } = &self.tls;
        match (cert, key) {
            (Some(_), None) => {
                let words = "there is a certificate and no key: name the key's file in api.tls.key";
                return Some(("api.tls.cert", words.to_owned()));
            }
            (None, Some(_)) => {
                let words = "there is a key and no certificate: name its file in api.tls.cert";
                return Some(("api.tls.key", words.to_owned()));
            }
            (Some(_), Some(_)) => return None,
            (None, None) => {}
        }
        let address = self.listen?;
        if address.ip().to_canonical().is_loopback() {
            return None;
        }
        Some((
            "api.listen",
            format!(
                "{address} is not loopback, and without TLS anybody on the way could read tokens: \
                 name files in api.tls.cert and api.tls.key, or listen on 127.0.0.1 or [::1]"
            ),
        ))
    }
}

/// `[protect]`: what becomes allow entries with source "protect".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protect {
    /// `protect.self`: own addresses of the interfaces.
    pub own: bool,
    /// Next hops.
    pub gateway: bool,
    /// Remote hosts of authenticated sessions.
    pub sessions: bool,
    /// At most 1024 prefixes.
    pub extra: Vec<Parsed>,
}

impl Default for Protect {
    fn default() -> Self {
        Self {
            own: true,
            gateway: true,
            sessions: true,
            extra: Vec::new(),
        }
    }
}

/// `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// Lines for calls, 0 to 1 000 000 a second; the rest is told as one sum a second, with 0 not
    /// at all.
    pub connections_per_second: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            format: LogFormat::Json,
            connections_per_second: 1000,
        }
    }
}

/// `[capacity]`: entries the kernel maps are made for, 1 to 2^24 each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Allow and deny entries together.
    pub lists: u32,
    pub bans: u32,
    /// Source units with counters of their own, from [`capacity::LEAST_CALLERS`].
    pub callers: u32,
}

impl Default for Capacity {
    fn default() -> Self {
        Self {
            lists: capacity::LISTS,
            bans: capacity::BANS,
            callers: capacity::CALLERS,
        }
    }
}

/// `[capture]`: checked, without effect in this build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    pub enabled: bool,
    /// Bytes of the packet store, from 1 MiB.
    pub max_bytes: u64,
    /// 1 s to 10 years.
    pub max_age: Duration,
    /// Bytes left free on its file system.
    pub min_free: u64,
    /// Bytes kept of a packet, 64 to 262 144.
    pub snaplen: u32,
    /// Packets to keep; empty is all.
    pub filter: String,
    /// One in this many dropped packets is kept; 0 is none.
    pub dropped: u32,
}

impl Default for Capture {
    fn default() -> Self {
        Self {
            enabled: false,
            max_bytes: 10 << 30,
            max_age: Duration::from_secs(7 * 86_400),
            min_free: 1 << 30,
            snaplen: 262_144,
            filter: String::new(),
            dropped: 0,
        }
    }
}

/// `[fleet]`: checked, without effect in this build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fleet {
    pub enabled: bool,
    /// Hosts of one name form a fleet.
    pub env: String,
    pub transport: Transport,
    /// Empty, or `https://...` or `nats://...`.
    pub url: String,
    /// A file, or none.
    pub credentials: Option<PathBuf>,
    /// What host checks may look at.
    pub check_paths: Vec<PathBuf>,
    pub scan_targets: Vec<Parsed>,
    pub trace_targets: Vec<Parsed>,
}

impl Default for Fleet {
    fn default() -> Self {
        Self {
            enabled: false,
            env: "dev".to_owned(),
            transport: Transport::Local,
            url: String::new(),
            credentials: None,
            check_paths: Vec::new(),
            scan_targets: Vec::new(),
            trace_targets: Vec::new(),
        }
    }
}
