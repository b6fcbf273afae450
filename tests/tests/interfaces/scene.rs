//! A daemon on one link, with one client denied: as long as the link is filtered, that one is silent.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use packetwatch_tests::daemon::Builder;
use packetwatch_tests::{Daemon, Family, Lan, Server, answered, patience, serve_http};
use serde_json::Value;

/// A second is promised; the other is the machine's, which runs other tests beside this one.
pub(crate) const NOTICED: Duration = Duration::from_secs(2);

const PROMPT: Duration = Duration::from_secs(30);
/// Shorter than the second after which TCP would try again.
const SILENCE: Duration = Duration::from_millis(700);
const PORT: u16 = 8086;

/// Daemon, server and network, in the order in which they must end.
pub(crate) struct Scene {
    pub(crate) daemon: Daemon,
    _server: Server,
    pub(crate) lan: Lan,
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::on(Lan::new())
    }

    pub(crate) fn on(lan: Lan) -> Self {
        Self::with(lan, |daemon| daemon)
    }

    /// With more to the daemon.
    pub(crate) fn with(lan: Lan, more: impl FnOnce(Builder) -> Builder) -> Self {
        // Any address, so that it outlives the link.
        let server = serve_http(&lan.host, "0.0.0.0".parse().unwrap(), PORT);
        let builder = more(Daemon::builder(&lan.host).rules_toml(""));
        let daemon = lan
            .segments
            .iter()
            .fold(builder, |daemon, one| daemon.interface(&one.interface))
            .start();
        let scene = Self {
            daemon,
            _server: server,
            lan,
        };
        let denied = scene.lan.segment().client(Family::V4, 0);
        let path = format!("/v1/deny/{denied}%2F32");
        assert_eq!(scene.daemon.api("PUT", &path, None).status, 201);
        scene.assert_filtered();
        // What was logged so far has been read.
        let started = |line: &Value| line["event.action"] == "started";
        scene.daemon.wait_for(started, PROMPT);
        // The first look is over when the MTU is known.
        scene.wait_for_interfaces(|all| all.iter().all(|one| one["mtu"].is_u64()));
        scene
    }

    /// The denied client gets no answer, the other one does.
    pub(crate) fn assert_filtered(&self) {
        let segment = self.lan.segment();
        let server = SocketAddr::new(segment.host(Family::V4), PORT);
        let is_answered = |n, limit| {
            let source = Some(segment.client(Family::V4, n));
            answered(&segment.client, source, server, limit)
        };
        assert!(is_answered(1, PROMPT), "the link is dead");
        assert!(!is_answered(0, SILENCE), "the link is not filtered");
    }

    pub(crate) fn interfaces(&self) -> Vec<Value> {
        let status = self.daemon.api("GET", "/v1/status", None).json();
        status["interfaces"].as_array().expect("a list").clone()
    }

    /// The interfaces of the status, as soon as they are as `wanted`.
    pub(crate) fn wait_for_interfaces(&self, wanted: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        let found = patience::until(NOTICED, || {
            Some(self.interfaces()).filter(|all| wanted(all))
        });
        found.unwrap_or_else(|| panic!("not in {NOTICED:?}: {:?}", self.interfaces()))
    }

    /// Waits until the only interface has this name and state.
    pub(crate) fn wait_for_state(&self, name: &str, state: &str) -> Value {
        let is = |one: &Value| one["name"] == name && one["state"] == state;
        self.wait_for_interfaces(|all| all.len() == 1 && is(&all[0]))
            .remove(0)
    }

    /// Makes a change, and waits for the line with this action about the interface. Returns it.
    pub(crate) fn after(&self, change: impl FnOnce(), action: &str, name: &str) -> Value {
        let mark = self.daemon.log().len();
        change();
        let changed = Instant::now();
        let line = self.wait_for_line(mark, action, name);
        println!("{action} {name} after {:?}", changed.elapsed());
        line
    }

    pub(crate) fn wait_for_line(&self, mark: usize, action: &str, name: &str) -> Value {
        let is = |line: &Value| {
            line["event.action"] == action && line["observer.ingress.interface.name"] == name
        };
        self.daemon.log().wait_from(mark, is, NOTICED)
    }

    pub(crate) fn lines_of(&self, action: &str) -> usize {
        let lines = self.daemon.lines();
        let of = lines.iter().filter(|line| line["event.action"] == action);
        of.count()
    }

    pub(crate) fn readiness(&self) -> u16 {
        self.daemon.api("GET", "/readyz", None).status
    }

    /// The status tells of an interface a moment before the readiness does.
    pub(crate) fn wait_for_readiness(&self, status: u16) {
        let ready = patience::until(NOTICED, || (self.readiness() == status).then_some(()));
        assert!(ready.is_some(), "{} instead of {status}", self.readiness());
    }

    /// The interfaces whose link is pinned, in order; each has its maps beside it.
    pub(crate) fn pinned(&self) -> Vec<String> {
        let mut level = vec![self.daemon.bpffs().join("packetwatch")];
        // the ABI version, the namespace, the interface
        for _ in 0..3 {
            let entries = level
                .iter()
                .flat_map(|path| std::fs::read_dir(path).into_iter().flatten());
            level = entries
                .map(|entry| entry.expect("read a directory").path())
                .collect();
        }
        let names = level.iter().filter_map(|path| path.file_name()?.to_str());
        let mut names: Vec<_> = names.map(str::to_owned).collect();
        names.sort();
        let (maps, links): (Vec<_>, Vec<_>) = names.into_iter().partition(|n| n.contains(':'));
        let beside: Vec<_> = links.iter().map(|link| format!("{link}:maps")).collect();
        assert_eq!(maps, beside);
        links
    }

    /// The value of a series; panics if there is none.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let answer = self.daemon.api("GET", "/metrics", None);
        let value = answer
            .text()
            .lines()
            .find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("no {series} in\n{}", answer.text()))
    }
}
