//! The user's own program behind the filter: over kills and restarts, and while its pin comes and goes.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use packetwatch_abi::VERSION;
use packetwatch_tests::intruder::Intruder;
use packetwatch_tests::patience::until;
use packetwatch_tests::{Family, Program, Runs};
use serde_json::{Value, json};

use crate::scene::{PORTS, PROMPT, Scene};
use crate::streams::{Link, Receiver, Sender};

/// A daemon before a program, by its pin, that closes the first port. `frags`: it takes frames of
/// several buffers.
struct Chained {
    scene: Scene,
    frags: bool,
}

impl Chained {
    /// `on_exit`: what becomes of the filter.
    fn new(frags: bool) -> Self {
        let scene = Scene::with("10m", |builder| builder.arg("--on-exit").arg("keep"));
        let mut chained = Self { scene, frags };
        chained.pin(&Program::closing(PORTS[0]));
        chained.start(&chained.path());
        chained
    }

    fn path(&self) -> PathBuf {
        self.scene.daemon.bpffs().join("own")
    }

    fn pin(&self, program: &Program) {
        let program = program.clone();
        let program = if self.frags {
            program.with_frags()
        } else {
            program
        };
        program.pin(&self.path());
    }

    /// In the place of what is pinned, at no moment nothing.
    fn pin_over(&self, program: &Program) {
        let next = self.path().with_file_name("next");
        program.pin(&next);
        std::fs::rename(next, self.path()).expect("rename the pin");
    }

    fn unpin(&self) {
        std::fs::remove_file(self.path()).expect("remove the pin");
    }

    fn start(&mut self, chain: &Path) {
        self.scene.set("chain", &format!("{chain:?}"));
        self.scene.daemon.restart();
    }

    fn status(&self) -> Value {
        self.scene.expect(200, "GET", "/v1/status", None)["chain"].clone()
    }

    /// A line of the log behind those that there were.
    fn told(&self, mark: usize, action: &'static str) -> Value {
        let is_it = |line: &Value| line["event.action"] == action;
        self.scene.daemon.log().wait_from(mark, is_it, PROMPT)
    }

    fn is_up(&self) -> bool {
        let metrics = self.scene.daemon.api("GET", "/metrics", None);
        let text = String::from_utf8(metrics.body).expect("text");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("packetwatch_chain_up "));
        match line {
            Some("1") => true,
            Some("0") => false,
            other => panic!("packetwatch_chain_up is {other:?}"),
        }
    }

    /// The first port is closed by the program behind the filter, and by nobody else.
    #[track_caller]
    fn assert_chained(&self, n: u8) {
        self.scene.assert_silence(n);
        self.scene.assert_served(n, &PORTS[1..]);
    }

    /// A start has told it in each place, with this word and the path.
    #[track_caller]
    fn assert_lacking(&self, word: &str) {
        let shown = self.path().display().to_string();
        let line = self.told(0, "chain-ended");
        let reason = line["event.reason"].as_str().expect("a reason");
        assert!(reason.contains(word) && reason.contains(&shown), "{line}");
        let status = self.status();
        assert_eq!(status["state"], "refused", "{status}");
        assert_eq!(status["error"], reason, "{status}");
        let ready = self.scene.daemon.api("GET", "/readyz", None);
        assert_eq!(ready.status, 503, "{ready:?}");
        let told = ready.json()["detail"].to_string();
        assert!(told.contains("the chained program does not run"), "{told}");
        assert!(told.contains(word), "{told}");
        assert!(!self.is_up());
    }

    #[track_caller]
    fn assert_alone(&self, n: u8) {
        self.scene.assert_served(n, &PORTS);
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_chain_outlives_a_killed_daemon() {
    for frags in [false, true] {
        let mut chained = Chained::new(frags);
        let status = chained.status();
        assert_eq!(status["path"], json!(chained.path()), "{status}");
        assert_eq!(status["state"], "up", "{status}");
        assert_eq!(status["program"], "closing", "{status}");
        assert!(status["program_id"].as_u64() > Some(0), "{status}");
        let shown = chained.scene.daemon.cli(&["status", "--output", "table"]);
        let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
        let line = format!("chain       {}: up, program ", chained.path().display());
        assert!(shown.contains(&line), "{shown}");
        chained.told(0, "chain-began");
        chained.assert_chained(0);

        chained.scene.daemon.kill();
        chained.assert_chained(1);
        // Not even the pin is needed.
        chained.unpin();
        chained.assert_chained(2);

        // Another one is taken over to in one step, and none, and one of the other kind.
        chained.pin(&Program::closing(PORTS[1]));
        chained.start(&chained.path());
        chained.scene.assert_served(3, &[PORTS[0], PORTS[2]]);
        chained.scene.daemon.kill();
        chained.start(Path::new(""));
        assert_eq!(chained.status(), Value::Null);
        let pins = chained.scene.pins();
        assert!(!pins.iter().any(|pin| pin.contains("CHAIN")), "{pins:?}");
        chained.assert_alone(4);
        chained.scene.daemon.kill();
        chained.frags = !frags;
        chained.unpin();
        chained.pin(&Program::closing(PORTS[0]));
        chained.start(&chained.path());
        chained.assert_chained(5);
        // A clean end keeps it, too, where it keeps the filter.
        chained.scene.daemon.terminate();
        chained.assert_chained(6);
        let detached = chained.scene.detach(&[]);
        assert!(detached.status.success(), "{detached:?}");
        chained.assert_alone(7);
        // The pins of the chain went with the filter.
        assert_eq!(chained.scene.pins(), ["own"]);
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn the_pin_is_looked_at_each_second() {
    let chained = Chained::new(true);
    let log = || chained.scene.daemon.log().len();
    assert!(chained.is_up());
    let mark = log();
    chained.unpin();
    let line = chained.told(mark, "chain-ended");
    assert_eq!(line["log.level"], "warn", "{line}");
    assert_eq!(line["file.path"], json!(chained.path()), "{line}");
    assert_eq!(chained.status()["state"], "gone");
    assert!(!chained.is_up());
    chained.assert_alone(0);
    let doctor = chained.scene.daemon.cli(&["doctor", "--output", "jsonl"]);
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let line = found.lines().find(|line| line.contains("\"chain\""));
    let line: Value = serde_json::from_str(line.expect("a line")).expect("JSON");
    assert_eq!(line["ok"], false, "{line}");

    let mark = log();
    chained.pin(&Program::closing(PORTS[0]));
    let line = chained.told(mark, "chain-began");
    let status = chained.status();
    assert_eq!(line["packetwatch.program_id"], status["program_id"]);
    assert_eq!(line["packetwatch.program"], "closing", "{line}");
    assert!(chained.is_up());
    chained.assert_chained(1);

    let mark = log();
    chained.unpin();
    Runs::new().pin(&chained.path());
    chained.told(mark, "chain-ended");
    let refused = until(PROMPT, || {
        let status = chained.status();
        (status["state"] == "refused").then_some(status)
    });
    let error = refused.expect("it is no program")["error"].to_string();
    assert!(error.contains("of a map"), "{error}");
    chained.assert_alone(2);
}

/// Whoever owns the pin does not take the daemon away: not where it is killed and started again, over
/// which nobody whom the filter refuses gets through, and not at a boot.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_start_before_what_cannot_be_chained_filters_and_takes_what_can() {
    let map: fn(&Path) = |path| Runs::new().pin(path);
    let of_sockets: fn(&Path) = |path| Program::of_sockets().pin(path);
    let directory: fn(&Path) = |path| std::fs::create_dir(path).expect("a directory");
    let cases = [
        (map, "of a map"),
        (of_sockets, "none of XDP"),
        (directory, "a directory"),
    ];
    let mut chained = Chained::new(false);
    let path = chained.path();
    let (denied, good) = (chained.scene.address(6), chained.scene.address(7));
    let entry = Some(json!([{"prefix": denied.to_string()}]));
    chained.scene.expect(200, "POST", "/v1/deny", entry);
    let client = chained.scene.lan.segment().client.clone();
    let host = SocketAddr::new(chained.scene.lan.segment().host(Family::V4), 9);
    let received = Receiver::start(&chained.scene.lan.host, host, good);
    let mut senders = [denied, good].map(|source| Sender::start(&client, source, host));
    for (n, (pin, word)) in (0..).zip(cases) {
        chained.scene.daemon.kill();
        chained.unpin();
        chained.scene.assert_silence(n);
        pin(&path);
        chained.scene.daemon.restart_lacking();
        chained.assert_lacking(word);
        chained.scene.assert_served(n, &PORTS[..1]);

        let mark = chained.scene.daemon.log().len();
        match path.is_dir() {
            true => std::fs::remove_dir(&path).expect("remove it"),
            false => chained.unpin(),
        }
        chained.pin(&Program::closing(PORTS[0]));
        chained.told(mark, "chain-began");
        chained.scene.expect(200, "GET", "/readyz", None);
        chained.scene.assert_silence(n);
    }
    let [refused, _] = senders.each_mut().map(Sender::stop);
    assert!(received.good() > 0);
    assert_eq!(received.bad(), 0, "of {refused}");

    chained.scene.daemon.kill();
    assert!(chained.scene.detach(&[]).status.success());
    chained.unpin();
    map(&path);
    chained.scene.daemon.restart_lacking();
    chained.assert_lacking("of a map");
    assert!(chained.scene.is_filtered());
}

/// After a boot nothing is pinned yet, and the host had better be filtered.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_start_before_what_is_not_pinned_yet_waits_for_it() {
    for frags in [true, false] {
        let mut chained = Chained::new(frags);
        chained.scene.daemon.terminate();
        chained.unpin();
        chained.scene.daemon.restart();
        let line = chained.told(0, "chain-ended");
        assert_eq!(
            line["event.reason"], "nothing is pinned there yet",
            "{line}"
        );
        assert_eq!(chained.status()["state"], "gone");
        chained.assert_alone(0);
        chained.pin(&Program::closing(PORTS[0]));
        chained.told(0, "chain-began");
        chained.assert_chained(1);
        // It is as lasting as one that was there at the start.
        chained.scene.daemon.kill();
        chained.assert_chained(2);
        chained.scene.daemon.restart();
        chained.assert_chained(3);
        assert_eq!(chained.status()["state"], "up");
    }
}

/// Of the two programs of ours, one takes the other's place at each pin: nobody whom both chained
/// programs refuse gets through, and of others not one packet is lost.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn one_of_the_other_kind_takes_over_without_a_gap_or_a_loss() {
    const CHANGES: usize = 6;
    let chained = Chained::new(true);
    let scene = &chained.scene;
    let (refused, good) = (scene.address(1), scene.address(2));
    let IpAddr::V4(address) = refused else {
        panic!("{refused} is of IPv6");
    };
    let program = Program::refusing(address);
    let client = scene.lan.segment().client.clone();
    let host = SocketAddr::new(scene.lan.segment().host(Family::V4), 9);
    let link = Link::between(&client, "eth0", &scene.lan.host, "pw0", host);
    let received = Receiver::start(&scene.lan.host, host, good);
    let mark = scene.daemon.log().len();
    chained.pin_over(&program.clone().with_frags());
    chained.told(mark, "chain-began");
    let mut fine = Sender::start(&client, good, host);
    let mut few = Sender::start(&client, refused, host);
    let programs = (0..CHANGES).map(|change| {
        let mark = chained.scene.daemon.log().len();
        let before = received.good();
        chained.pin_over(&match change % 2 {
            0 => program.clone(),
            _ => program.clone().with_frags(),
        });
        let line = chained.told(mark, "chain-began");
        let more = until(PROMPT, || (received.good() > before + 50).then_some(()));
        assert!(more.is_some(), "nothing arrives behind {line}");
        let xdp = chained.scene.lan.host.xdp("pw0").expect("it is filtered");
        xdp["prog"]["id"].as_u64().expect("an id")
    });
    let programs: Vec<u64> = programs.collect();
    let sent = few.stop();
    let good = fine.stop();
    let overflown = || link.overflown() + received.overflown();
    let all = until(PROMPT, || {
        (received.good() + overflown() >= good).then_some(())
    });
    println!(
        "{good} good packets in {CHANGES} changes, {} arrived",
        received.good()
    );
    assert!(all.is_some(), "of {good} only {} arrived", received.good());
    assert_eq!(received.bad(), 0, "of {sent}");
    let [plain, frags, ..] = programs[..] else {
        panic!("{programs:?}");
    };
    assert_ne!(plain, frags);
    assert_eq!(programs, [plain, frags].repeat(CHANGES / 2));
    // Nobody took it for another's program.
    let log = chained.scene.daemon.log().lines();
    let detached = log.iter().find(|line| line["event.action"] == "detached");
    assert!(detached.is_none(), "{detached:?}");
}

/// A driver refuses a program of single buffers on an interface with a large MTU. Then no interface
/// changes, and who asks is told.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn one_that_an_interface_cannot_have_is_a_lack_until_it_can() {
    let mut chained = Chained::new(true);
    chained.scene.daemon.terminate();
    assert!(chained.scene.detach(&[]).status.success());
    chained.unpin();
    let host = &chained.scene.lan.host;
    let client = &chained.scene.lan.segments[1].client;
    client.ip(["link set eth0 mtu 9000"]);
    host.ip(["link set pw1 mtu 9000"]);
    chained.scene.set("interfaces", "[\"pw0\", \"pw1\"]");
    chained.scene.daemon.restart();
    let programs = || ["pw0", "pw1"].map(|name| chained.scene.lan.host.xdp(name));
    let before = programs();
    let ready = || chained.scene.daemon.api("GET", "/readyz", None);
    assert_eq!(ready().status, 200);

    let mark = chained.scene.daemon.log().len();
    Program::closing(PORTS[0]).pin(&chained.path());
    let line = chained.told(mark, "chain-ended");
    let reason = line["event.reason"].to_string();
    for word in ["closing", "pw1 (MTU 9000)", "single buffer", "xdp.frags"] {
        assert!(reason.contains(word), "{word}: {reason}");
    }
    assert_eq!(programs(), before, "of both interfaces");
    assert_eq!(chained.status()["state"], "refused");
    let told = until(PROMPT, || {
        (ready().status == 503).then(|| ready().text().to_owned())
    });
    let told = told.expect("it is a lack");
    assert!(told.contains("the chained program does not run"), "{told}");
    assert!(told.contains("pw1 (MTU 9000)"), "{told}");
    chained.assert_alone(0);

    // Its driver goes by the other end, and could have it now. But it is not asked each second, since
    // the interfaces before it would change their programs to and fro.
    client.ip(["link set eth0 mtu 1500"]);
    let link = chained.scene.pin(VERSION, "pw0");
    for _ in 0..2 {
        // The chain is looked at after the pins, so before the second of them is found.
        let mark = chained.scene.daemon.log().len();
        std::fs::remove_file(chained.scene.daemon.bpffs().join(&link)).expect("remove the pin");
        chained.told(mark, "pins-restored");
    }
    assert_eq!(chained.status()["state"], "refused");
    assert_eq!(programs(), before);

    // The remedy that was told is one.
    let mark = chained.scene.daemon.log().len();
    host.ip(["link set pw1 mtu 1500"]);
    chained.told(mark, "chain-began");
    let after = programs();
    assert!(after[0] != before[0] && after[1] != before[1], "{after:?}");
    let is_ready = until(PROMPT, || (ready().status == 200).then_some(()));
    assert!(is_ready.is_some(), "{}", ready().text());
    chained.assert_chained(1);

    // It is the same at a start, before a filter on pw0 that fits and one on pw1 that it cannot have.
    client.ip(["link set eth0 mtu 9000"]);
    chained.scene.daemon.terminate();
    chained.assert_chained(2);
    chained.scene.daemon.restart_lacking();
    chained.assert_lacking("pw1 (MTU 1500)");
    chained.assert_alone(3);
    let [pw0, pw1] = programs().map(|xdp| xdp.expect("it is filtered")["prog"]["id"].clone());
    assert_eq!(pw0, pw1);
    chained.unpin();
    chained.pin(&Program::closing(PORTS[0]));
    chained.told(0, "chain-began");
    chained.assert_chained(4);
}

/// Frames of several buffers are what a driver gives a program of an interface with a large MTU.
#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn without_frags_a_large_mtu_is_filtered_generically_and_the_chain_named_as_the_cause() {
    let mut chained = Chained::new(false);
    chained.scene.daemon.terminate();
    assert!(chained.scene.detach(&[]).status.success());
    let segment = chained.scene.lan.segment();
    segment.client.ip(["link set eth0 mtu 9000"]);
    chained.scene.lan.host.ip(["link set pw0 mtu 9000"]);
    // Where that is not wanted, the filter comes before the chain.
    chained
        .scene
        .daemon
        .set_env("PACKETWATCH_XDP_MODE", "native");
    chained.scene.daemon.restart_lacking();
    chained.assert_lacking("pw0 (MTU 9000)");
    chained.assert_alone(1);
    chained.scene.daemon.terminate();
    assert!(chained.scene.detach(&[]).status.success());
    chained.scene.daemon.set_env("PACKETWATCH_XDP_MODE", "auto");
    chained.scene.daemon.restart();
    let status = chained.scene.expect(200, "GET", "/v1/status", None);
    let interface = &status["interfaces"][0];
    assert_eq!(interface["xdp_mode"], "generic", "{interface}");
    let why = interface["not_native"].to_string();
    assert!(why.contains("xdp.frags"), "{why}");
    chained.assert_chained(0);
    // With them it is filtered natively.
    chained.scene.daemon.terminate();
    assert!(chained.scene.detach(&[]).status.success());
    chained.unpin();
    chained.frags = true;
    chained.pin(&Program::closing(PORTS[0]));
    chained.scene.daemon.restart();
    let status = chained.scene.expect(200, "GET", "/v1/status", None);
    assert_eq!(status["interfaces"][0]["xdp_mode"], "native", "{status}");
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn a_place_that_somebody_empties_is_filled_again_and_told() {
    let chained = Chained::new(true);
    let status = chained.scene.expect(200, "GET", "/v1/status", None);
    let program = status["interfaces"][0]["program_id"].as_u64().unwrap();
    let mark = chained.scene.daemon.log().len();
    Intruder::of(program.try_into().unwrap()).unchain();
    let line = chained.told(mark, "reconciled");
    assert_eq!(line["packetwatch.map"], "chain", "{line}");
    assert_eq!(line["packetwatch.missing"], 1, "{line}");
    chained.assert_chained(0);
    let metrics = chained.scene.daemon.api("GET", "/metrics", None);
    let series = "packetwatch_map_differences_total{map=\"chain\",kind=\"missing\"} 1";
    let is_counted = metrics.text().lines().any(|line| line == series);
    assert!(is_counted, "{}", metrics.text());
    // Another program at the pin is its owner's business.
    let mark = chained.scene.daemon.log().len();
    chained.unpin();
    chained.pin(&Program::closing(PORTS[1]));
    chained.told(mark, "chain-began");
    let lines = chained.scene.daemon.lines();
    let told = lines
        .iter()
        .filter(|line| line["event.action"] == "reconciled");
    assert_eq!(told.count(), 1, "{lines:?}");
}
