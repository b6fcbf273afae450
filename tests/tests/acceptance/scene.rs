//! A protected host with three servers, a daemon in front of them, and somebody who calls.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use packetwatch_tests::daemon::{Builder, Daemon};
use packetwatch_tests::{Family, Lan, Netns, Segment, Server, answered, serve_http};
use serde_json::Value;

/// Where the servers listen, as in the seed's tests.
pub(crate) const PORTS: [u16; 3] = [8086, 8087, 8088];

/// For what must happen: long, since a loaded machine may be slow and nobody waits for it otherwise.
pub(crate) const PROMPT: Duration = Duration::from_secs(30);

/// For what must not happen: shorter than the second after which TCP would try again.
const SILENCE: Duration = Duration::from_millis(700);

/// Lan, servers and daemon, in the order in which they must end.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    pub(crate) family: Family,
    _servers: Vec<Server>,
    pub(crate) lan: Lan,
}

/// One source address in the client's namespace.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) address: IpAddr,
    netns: Netns,
    host: IpAddr,
}

/// The rule of the tests: three ports, single addresses, the rest as given.
pub(crate) fn rule(within: &str, ban: &str, more: &str) -> String {
    format!(
        "[[rules]]\nname = \"port-scan\"\ndistinct_ports = 3\nwithin = \"{within}\"\nban = \"{ban}\"\n\
         prefix_v6 = 128\n{more}\n"
    )
}

impl Scene {
    /// One client on one link, under `rules`.
    pub(crate) fn new(family: Family, rules: &str) -> Self {
        Self::on(Lan::new(), family, |daemon| daemon.rules_toml(rules))
    }

    /// Any network, and any daemon on all of the host's interfaces in it.
    pub(crate) fn on(lan: Lan, family: Family, configure: impl FnOnce(Builder) -> Builder) -> Self {
        let servers = lan
            .segments
            .iter()
            .flat_map(|segment| PORTS.map(|port| (segment.host(family), port)))
            .map(|(address, port)| serve_http(&lan.host, address, port))
            .collect();
        let builder = lan
            .segments
            .iter()
            .fold(Daemon::builder(&lan.host), |builder, segment| {
                builder.interface(&segment.interface)
            });
        Self {
            daemon: configure(builder).start(),
            family,
            _servers: servers,
            lan,
        }
    }

    /// The client's `n`-th address on the first link.
    pub(crate) fn caller(&self, n: u8) -> Caller {
        let segment = self.lan.segment();
        self.caller_at(segment, segment.client(self.family, n))
    }

    /// Any address that the segment's client has.
    pub(crate) fn caller_at(&self, segment: &Segment, address: IpAddr) -> Caller {
        Caller {
            address,
            netns: segment.client.clone(),
            host: segment.host(self.family),
        }
    }

    /// The caller's address as a prefix, the way the daemon shows it.
    pub(crate) fn single(&self, caller: &Caller) -> String {
        format!("{}/{}", caller.address, self.family.address_bits())
    }

    /// Scans until the caller is banned and the ban is logged: the ports are all answered, the next call
    /// is not. Returns the log line.
    pub(crate) fn scan_into_ban(&self, caller: &Caller) -> Value {
        let before = self.daemon.log().len();
        caller.assert_served(&PORTS);
        caller.assert_silence(PORTS[0]);
        self.wait_for_action(before, "ban", caller)
    }

    /// The first line from place `from` on with this `event.action` about the caller.
    pub(crate) fn wait_for_action(&self, from: usize, action: &str, caller: &Caller) -> Value {
        let source = caller.address.to_string();
        let matches =
            |line: &Value| line["event.action"] == action && line["source.ip"] == source.as_str();
        self.daemon.log().wait_from(from, matches, PROMPT)
    }

    /// The entries of `/v1/bans`.
    pub(crate) fn bans(&self) -> Vec<Value> {
        let answer = self.daemon.api("GET", "/v1/bans", None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["entries"]
            .as_array()
            .expect("entries are a list")
            .clone()
    }

    /// The answer of `/v1/explain/{address}`.
    pub(crate) fn explained(&self, caller: &Caller) -> Value {
        let path = format!("/v1/explain/{}", caller.address);
        let answer = self.daemon.api("GET", &path, None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// The entry of `/v1/callers/{address}`.
    pub(crate) fn counted(&self, caller: &Caller) -> Value {
        let path = format!("/v1/callers/{}", caller.address);
        let answer = self.daemon.api("GET", &path, None);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["callers"][0].clone()
    }

    /// `PUT` or `DELETE` of a prefix in a list; panics unless the answer has the status.
    pub(crate) fn change(&self, method: &str, list: &str, prefix: &str, status: u16) {
        let path = format!("/v1/{list}/{}", prefix.replace('/', "%2F"));
        let answer = self.daemon.api(method, &path, None);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
    }
}

impl Caller {
    /// Calls each port in turn; panics unless every call is answered in full.
    pub(crate) fn assert_served(&self, ports: &[u16]) {
        for port in ports {
            assert!(
                self.is_answered(*port, PROMPT),
                "{} got no answer from port {port}",
                self.address
            );
        }
    }

    /// Calls each port in turn, whether or not it answers.
    pub(crate) fn call(&self, ports: &[u16]) {
        for port in ports {
            self.is_answered(*port, SILENCE);
        }
    }

    /// Calls the port; panics when there is an answer.
    pub(crate) fn assert_silence(&self, port: u16) {
        assert!(
            !self.is_answered(port, SILENCE),
            "{} was answered by port {port}",
            self.address
        );
    }

    fn is_answered(&self, port: u16, limit: Duration) -> bool {
        let server = SocketAddr::new(self.host, port);
        answered(&self.netns, Some(self.address), server, limit)
    }
}
