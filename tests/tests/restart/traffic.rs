//! A stream of packets through kill, restart and upgrade: of a denied source not one passes, of
//! another not one is lost.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use packetwatch_abi::VERSION;
use packetwatch_tests::patience::until;
use packetwatch_tests::{Family, Netns};

use crate::scene::{PROMPT, Scene};

const PORT: u16 = 9;
/// A pause between two packets, with which a link's queue of 256 lasts for a quarter of a second on a
/// machine that has no time for it.
const PAUSE: Duration = Duration::from_millis(1);

/// Numbers what it sends from one address, until it is stopped.
struct Sender {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Sender {
    fn start(from: &Netns, source: IpAddr, to: SocketAddr) -> Self {
        let socket = from.run(|| UdpSocket::bind((source, 0)).expect("bind the source"));
        let stop = Arc::new(AtomicBool::new(false));
        let sent = Arc::new(AtomicU64::new(0));
        let thread = thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    socket.send_to(b"packet", to).expect("send");
                    sent.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
            }
        });
        Self {
            stop,
            sent,
            thread: Some(thread),
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn stop(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("it sends to its end");
        }
        self.sent()
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Counts what arrives, by source.
struct Receiver {
    good: Arc<AtomicU64>,
    bad: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Receiver {
    fn start(host: &Netns, address: SocketAddr, good: IpAddr) -> Self {
        let socket = host.run(|| UdpSocket::bind(address).expect("bind the host's address"));
        let some = Some(Duration::from_millis(100));
        socket.set_read_timeout(some).expect("set a time-out");
        let receiver = Self {
            good: Arc::default(),
            bad: Arc::default(),
            stop: Arc::default(),
        };
        let (counts, others, stop) = (
            Arc::clone(&receiver.good),
            Arc::clone(&receiver.bad),
            Arc::clone(&receiver.stop),
        );
        thread::spawn(move || {
            let mut packet = [0; 64];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((_, from)) = socket.recv_from(&mut packet) {
                    let count = if from.ip() == good { &counts } else { &others };
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        receiver
    }

    fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    fn bad(&self) -> u64 {
        self.bad.load(Ordering::Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[test]
#[ignore = "needs root: network namespaces and BPF"]
fn kill_restart_and_upgrade_let_nothing_through_and_lose_nothing() {
    let mut scene = Scene::new("10m");
    let (denied, good) = (scene.address(1), scene.address(2));
    scene.expect(201, "PUT", &format!("/v1/deny/{denied}"), None);
    let host = SocketAddr::new(scene.lan.segment().host(Family::V4), PORT);
    let received = Receiver::start(&scene.lan.host, host, good);
    let client = &scene.lan.segment().client;
    let (mut bad, mut fine) = (
        Sender::start(client, denied, host),
        Sender::start(client, good, host),
    );
    let flows = |scene: &str| {
        let before = received.good();
        let more = until(PROMPT, || (received.good() > before + 100).then_some(()));
        assert!(more.is_some(), "nothing arrives: {scene}");
        assert_eq!(received.bad(), 0, "{scene}");
    };
    flows("the daemon runs");
    for mode in ["auto", "native", "native"] {
        scene.daemon.kill();
        flows("killed");
        scene.set("xdp_mode", &format!("{mode:?}"));
        scene.daemon.restart();
        flows(mode);
    }
    scene.daemon.kill();
    scene.move_pin(&scene.pin(VERSION, "pw0"), &scene.pin(1, "pw0"));
    flows("of an older version");
    scene.daemon.restart();
    flows("upgraded");

    let (sent, dropped) = (fine.stop(), bad.stop());
    let all = until(PROMPT, || (received.good() == sent).then_some(()));
    assert!(all.is_some(), "{} of {sent} arrived", received.good());
    assert_eq!(received.bad(), 0, "of {dropped}");
    assert!(dropped > 500, "{dropped} were sent");

    // The other way round: the counts are those of the filter.
    let mut bad = Sender::start(&scene.lan.segment().client, denied, host);
    scene.daemon.terminate();
    let passed = until(PROMPT, || (received.bad() > 0).then_some(()));
    assert!(passed.is_some(), "without a filter they pass");
    bad.stop();
}
