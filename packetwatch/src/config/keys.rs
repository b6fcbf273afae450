//! The one table of keys.

use std::time::Duration;

use super::{
    Config,
    show::{Shown, shown_or},
    values::{self, Read},
};
use crate::{document::Value, rules};

/// How an environment variable writes a value of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As it is.
    Text,
    /// As TOML: `true`, `1_000`.
    Literal,
    /// As TOML in brackets, or separated by commas.
    List,
}

pub(super) struct Key {
    /// Dotted; the part before the last dot is the section.
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    /// The template's comment.
    pub(super) doc: &'static str,
    pub(super) read: fn(&mut Config, &Value<'_>) -> Read<()>,
    pub(super) show: fn(&Config) -> toml::Value,
}

impl Key {
    /// The section's name, empty for the keys above all sections.
    pub(super) fn section(&self) -> &'static str {
        self.path
            .rsplit_once('.')
            .map_or("", |(section, _)| section)
    }
}

/// The key of a dotted path.
pub(super) fn find(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.path == path)
}

macro_rules! key {
    ($path:literal, $kind:ident, $($field:ident).+, $read:expr, $doc:literal) => {
        key!($path, $kind, $($field).+, $read, |config| config.$($field).+.shown(), $doc)
    };
    ($path:literal, $kind:ident, $($field:ident).+, $read:expr, $show:expr, $doc:literal) => {
        Key {
            path: $path,
            kind: Kind::$kind,
            doc: $doc,
            read: |config, value| {
                config.$($field).+ = $read(value)?;
                Ok(())
            },
            show: $show,
        }
    };
}

/// Entries of a kernel map; 2^24 of the smallest already take a gigabyte and more.
fn capacity(value: &Value<'_>) -> Read<u32> {
    values::number(value, 1..=1 << 24)
}

/// Fewer callers leave the sweep no room to make.
fn callers(value: &Value<'_>) -> Read<u32> {
    values::number(
        value,
        packetwatch_abi::capacity::LEAST_CALLERS.into()..=1 << 24,
    )
}

fn sampling(value: &Value<'_>) -> Read<u32> {
    values::number(value, 0..=1_000_000)
}

/// From the least a store can work with to 2^50, a petabyte.
fn bytes(value: &Value<'_>) -> Read<u64> {
    values::number(value, 1 << 20..=1 << 50)
}

fn snaplen(value: &Value<'_>) -> Read<u32> {
    values::number(value, 64..=262_144)
}

fn age(value: &Value<'_>) -> Read<Duration> {
    values::time(
        value,
        Duration::from_secs(1)..=Duration::from_secs(315_576_000),
    )
}

fn owned(value: &Value<'_>) -> Read<String> {
    values::text(value).map(str::to_owned)
}

/// Every key, sections together, in the template's order.
pub(super) const KEYS: &[Key] = &[
    key!(
        "interfaces",
        List,
        interfaces,
        values::interfaces,
        "Interfaces to filter, at most 16. None listed: the one of the default route."
    ),
    key!(
        "mode",
        Text,
        mode,
        values::word,
        "\"enforce\", or \"observe\": judge, count and log, drop nothing."
    ),
    key!(
        "xdp_mode",
        Text,
        xdp_mode,
        values::word,
        "\"native\", \"generic\", or \"auto\": generic where the driver has no native XDP."
    ),
    key!(
        "state_dir",
        Text,
        state_dir,
        values::path,
        "Directory of the journal, the tokens and the rules set over the API."
    ),
    key!(
        "bpffs",
        Text,
        bpffs,
        values::path,
        "Where the BPF file system is mounted."
    ),
    key!(
        "on_exit",
        Text,
        on_exit,
        values::word,
        "On SIGINT and SIGTERM: \"detach\" the filter, or \"keep\" it for the next start."
    ),
    key!(
        "chain",
        Text,
        chain,
        values::optional_path,
        |config| shown_or(config.chain.as_ref().map(|path| path.display()), ""),
        "Pin of your own XDP program, as `bpftool prog load` makes it: it gets what passes, and its\nverdict counts. Empty: what passes goes to the kernel."
    ),
    key!(
        "user",
        Text,
        user,
        values::user,
        "Started as root, the daemon becomes this user with two capabilities left; where the host has\nno user packetwatch, or with \"root\", it keeps root's id without its capabilities."
    ),
    key!(
        "api.listen",
        Text,
        api.listen,
        values::listen,
        |config| shown_or(config.api.listen, "off"),
        "TCP address and port, which ask for a token, or \"off\". Anything but loopback takes\n[api.tls]."
    ),
    key!(
        "api.socket",
        Text,
        api.socket,
        values::socket_path,
        |config| shown_or(config.api.socket.as_ref().map(|path| path.display()), "off"),
        "Unix socket for root and the group packetwatch, or \"off\"."
    ),
    key!(
        "api.tls.cert",
        Text,
        api.tls.cert,
        values::optional_path,
        |config| shown_or(config.api.tls.cert.as_ref().map(|path| path.display()), ""),
        "PEM file of the certificate that TCP shows, the rest of its chain behind it. A changed file\nis read within seconds, and on SIGHUP."
    ),
    key!(
        "api.tls.key",
        Text,
        api.tls.key,
        values::optional_path,
        |config| shown_or(config.api.tls.key.as_ref().map(|path| path.display()), ""),
        "PEM file of its private key."
    ),
    key!(
        "protect.self",
        Literal,
        protect.own,
        values::switch,
        "Never ban this host's own addresses."
    ),
    key!(
        "protect.gateway",
        Literal,
        protect.gateway,
        values::switch,
        "Never ban the next hops."
    ),
    key!(
        "protect.sessions",
        Literal,
        protect.sessions,
        values::switch,
        "Never ban the remote hosts of authenticated sessions."
    ),
    key!(
        "protect.extra",
        List,
        protect.extra,
        values::protected,
        "Never ban these, at most 1024 addresses or prefixes."
    ),
    key!(
        "log.format",
        Text,
        log.format,
        values::word,
        "\"json\" (Elastic Common Schema, one object a line) or \"text\"."
    ),
    key!(
        "log.connections_per_second",
        Literal,
        log.connections_per_second,
        sampling,
        "Calls logged a second, 0 to 1000000; the rest is told as one sum a second."
    ),
    key!(
        "capacity.lists",
        Literal,
        capacity.lists,
        capacity,
        "Allow and deny entries together, 1 to 16777216; memory as they are used. A full list refuses writes."
    ),
    key!(
        "capacity.bans",
        Literal,
        capacity.bans,
        capacity,
        "Bans at a time, 1 to 16777216."
    ),
    key!(
        "capacity.callers",
        Literal,
        capacity.callers,
        callers,
        "Sources with counters of their own, 64 to 16777216."
    ),
    key!(
        "capture.enabled",
        Literal,
        capture.enabled,
        values::not_built,
        "Keep packets. Not in this build: the section is checked and has no effect."
    ),
    key!(
        "capture.max_bytes",
        Literal,
        capture.max_bytes,
        bytes,
        "Size of the store in bytes, 1 MiB to 1 PiB."
    ),
    key!(
        "capture.max_age",
        Text,
        capture.max_age,
        age,
        "How long packets are kept, 1s to 10y."
    ),
    key!(
        "capture.min_free",
        Literal,
        capture.min_free,
        bytes,
        "Bytes left free on the store's file system, 1 MiB to 1 PiB."
    ),
    key!(
        "capture.snaplen",
        Literal,
        capture.snaplen,
        snaplen,
        "Bytes kept of each packet, 64 to 262144."
    ),
    key!(
        "capture.filter",
        Text,
        capture.filter,
        owned,
        "Which packets to keep; empty keeps all."
    ),
    key!(
        "capture.dropped",
        Literal,
        capture.dropped,
        sampling,
        "Keep one in this many dropped packets, at most 1000000; 0 keeps none."
    ),
    key!(
        "fleet.enabled",
        Literal,
        fleet.enabled,
        values::not_built,
        "Share with other hosts. Not in this build: the section is checked and has no effect."
    ),
    key!(
        "fleet.env",
        Text,
        fleet.env,
        values::environment,
        "Hosts with the same name here form a fleet."
    ),
    key!(
        "fleet.transport",
        Text,
        fleet.transport,
        values::word,
        "\"local\", \"https\" or \"nats\"."
    ),
    key!(
        "fleet.url",
        Text,
        fleet.url,
        values::url,
        "Where the transport is reached."
    ),
    key!(
        "fleet.credentials",
        Text,
        fleet.credentials,
        values::optional_path,
        |config| shown_or(
            config.fleet.credentials.as_ref().map(|path| path.display()),
            ""
        ),
        "File of the transport's credentials."
    ),
    key!(
        "fleet.check_paths",
        List,
        fleet.check_paths,
        values::paths,
        "What host checks may look at."
    ),
    key!(
        "fleet.scan_targets",
        List,
        fleet.scan_targets,
        values::prefixes,
        "What port scans may go to."
    ),
    key!(
        "fleet.trace_targets",
        List,
        fleet.trace_targets,
        values::prefixes,
        "What route traces may go to."
    ),
    key!(
        "rules",
        Literal,
        rules,
        rules::read_rules,
        "At most 8; any replaces the built-in ones, which are these. `rules = []`, above all\nsections, means none. Each has exactly one of distinct_ports (at most 64), connections,\npackets and bytes; \"forever\" is a ban, too; at most two different prefix_v4 and two\ndifferent prefix_v6 over all rules. With action = \"limit\" so many connections, packets or\nbytes a second pass, and `burst` at once after a pause; the rest is dropped, nobody banned."
    ),
];
