//! A flood at full rate and a stream of good packets through kill, restart, upgrade and reload: of a
//! source that a rule has banned, and of a denied one, not one passes; of another not one is lost.
//!
//! `KILL_ROUNDS` sets how often all of it happens; with `OTHER_BIN`, the path of another build, that one
//! and this one take turns, each with a state directory of its own: an older one does not read a newer
//! one's journal. The names have no `PACKETWATCH_` in front, because the daemon would refuse
//! them as unknown keys.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use packetwatch_abi::VERSION;
use packetwatch_tests::daemon::binary;
use packetwatch_tests::environment::number;
use packetwatch_tests::generator::Generator;
use packetwatch_tests::patience::until;
use packetwatch_tests::{Family, Frame};

use crate::scene::{PROMPT, Scene};
use crate::streams::{Flood, Link, Receiver, Sender};

/// Rounds in a CI run, each of which has every way to end and begin.
const ROUNDS: u64 = 2;
const PORT: u16 = 9;
/// This one of the clients, by a rule.
const BANNED: u8 = 1;
/// The state directories of this build and of the other, in one directory.
const STATE: &str = "state";
const OTHER_STATE: &str = "state-of-the-other";
/// Good packets that arrive in each state, one a millisecond at most.
const ENOUGH: u64 = 50;

/// One of the ways in which a daemon gives way to the next, or to itself.
#[derive(Clone, Copy, Debug)]
enum Change {
    /// SIGKILL.
    Kill,
    /// SIGTERM, with a filter that is kept.
    End,
    /// SIGKILL, and a build of another ABI version.
    Upgrade,
    /// SIGHUP.
    Reload,
}

const CHANGES: [Change; 4] = [Change::Kill, Change::End, Change::Upgrade, Change::Reload];

/// What becomes of the packets while the daemons change.
struct Traffic<'s> {
    scene: &'s mut Scene,
    received: Receiver,
    /// of who is banned, before the ban
    before: u64,
    other: Option<PathBuf>,
}

impl Traffic<'_> {
    /// Good packets arrive, and none of another source has.
    #[track_caller]
    fn flows(&self, state: &str) {
        let before = self.received.good();
        let more = until(PROMPT, || {
            (self.received.good() > before + ENOUGH).then_some(())
        });
        assert!(more.is_some(), "nothing arrives: {state}");
        let passed = self.received.bad() - self.before;
        assert_eq!(
            passed, 0,
            "of the banned source or the denied one have passed: {state}"
        );
    }

    fn change(&mut self, change: Change, round: u64) {
        let state = format!("{change:?} in round {round}");
        match change {
            Change::Kill => drop(self.scene.daemon.kill()),
            Change::End => drop(self.scene.daemon.terminate()),
            Change::Upgrade => self.upgrade(),
            Change::Reload => {
                self.scene.daemon.signal(Signal::SIGHUP);
                let reloaded = |line: &serde_json::Value| line["event.action"] == "reloaded";
                self.scene.daemon.wait_for(reloaded, PROMPT);
                return self.flows(&state);
            }
        }
        self.flows(&format!("{state}, without a daemon"));
        self.scene.daemon.restart();
        self.flows(&format!("{state}, with the next"));
    }

    /// To another build if there is one, and back; else this one takes the other's place.
    fn upgrade(&mut self) {
        if let Some(other) = &self.other {
            turn_to(self.scene, other, OTHER_STATE);
            self.flows("with the other build");
            self.scene.daemon.kill();
            become_of(self.scene, binary(), STATE);
        } else {
            self.scene.daemon.kill();
            let [from, to] = [VERSION, 1].map(|abi| self.scene.pin(abi, "pw0"));
            self.scene.move_pin(&from, &to);
        }
    }
}

/// Another build with another state directory for the next start.
fn become_of(scene: &mut Scene, build: &Path, state: &str) {
    let state = scene.daemon.state_dir().with_file_name(state);
    scene.set("state_dir", &format!("{:?}", state.display().to_string()));
    scene.daemon.set_binary(build);
}

/// Kills the daemon, and starts that one.
fn turn_to(scene: &mut Scene, build: &Path, state: &str) {
    scene.daemon.kill();
    become_of(scene, build, state);
    scene.daemon.restart();
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn kills_restarts_upgrades_and_reloads_let_nothing_through_and_lose_nothing() {
    let mut scene = Scene::with("24h", |builder| builder.arg("--on-exit").arg("keep"));
    let [banned, good, denied] = [BANNED, 2, 3].map(|n| scene.address(n));
    let host = SocketAddr::new(scene.lan.segment().host(Family::V4), PORT);
    let client = scene.lan.segment().client.clone();
    let link = Link::between(&client, "eth0", &scene.lan.host, "pw0", host);
    let received = Receiver::start(&scene.lan.host, host, good);
    let frame = frame(banned, host, &link);
    let generator = Generator::new(&client, "eth0").expect("live frames: Linux 5.18 and ethtool");

    // What is counted as passed would pass.
    let few = 64;
    generator.flood(&frame, few).expect("send live frames");
    let passed = until(PROMPT, || (received.bad() == u64::from(few)).then_some(()));
    assert!(passed.is_some(), "{} of {few} passed", received.bad());
    let deny = format!("/v1/deny/{denied}");
    let other = std::env::var_os("OTHER_BIN").map(PathBuf::from);
    let refuse = |scene: &Scene| {
        // The filter that was left may have the ban.
        if scene.is_served(BANNED) {
            scene.scan_into_ban(BANNED);
        }
        // It takes the ban along to the disk.
        scene.expect(201, "PUT", &deny, None);
    };
    if let Some(other) = &other {
        turn_to(&mut scene, other, OTHER_STATE);
        refuse(&scene);
        turn_to(&mut scene, binary(), STATE);
    }
    refuse(&scene);

    let rounds = number("KILL_ROUNDS").unwrap_or(ROUNDS);
    let dropped = link.filtered();
    let mut fine = Sender::start(&client, good, host);
    // The stack's own packets take another way through the driver than the flood's frames.
    let mut few = Sender::start(&client, denied, host);
    let mut traffic = Traffic {
        before: received.bad(),
        scene: &mut scene,
        received,
        other,
    };
    let flood = Flood::start(generator, frame);
    traffic.flows("the daemon runs");
    for round in 0..rounds {
        for change in CHANGES {
            traffic.change(change, round);
        }
    }
    let sent = flood.stop();
    few.stop();
    let dropped = link.filtered() - dropped;

    let good = fine.stop();
    let received = &traffic.received;
    // What the link's queue or the socket's buffer had no room for was not the filter's to lose.
    let overflown = || link.overflown() + received.overflown();
    let all = until(PROMPT, || {
        (received.good() + overflown() >= good).then_some(())
    });
    println!(
        "{rounds} rounds: {good} good packets, {} arrived, {} found queues full; {sent} of the banned \
         source sent, {dropped} dropped, {} passed",
        received.good(),
        overflown(),
        received.bad() - traffic.before,
    );
    assert!(all.is_some(), "good packets are lost");
    assert_eq!(received.bad(), traffic.before);
    assert!(dropped > 10_000 * rounds, "no flood: {dropped} of {sent}");
}

/// As the host's own stack takes it.
fn frame(source: IpAddr, to: SocketAddr, link: &Link) -> Vec<u8> {
    Frame::new()
        .mac(link.sender, link.receiver)
        .ip(source, to.ip())
        .udp(40_000, to.port())
        .payload(*b"packet")
        .build()
}
