//! Packets by the million and packets that are counted one by one, on one link.

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use packetwatch_tests::Netns;
use packetwatch_tests::generator::{Generator, accept_frames, counter};

/// A pause between two good packets: a socket's buffer lasts for minutes.
const PAUSE: Duration = Duration::from_millis(1);
/// Of the receiving socket.
const BUFFER: usize = 16 << 20;
/// Frames of one order to the kernel, milliseconds' worth.
const AT_ONCE: u32 = 8192;

/// Both ends of the link on which everything goes.
pub(crate) struct Link {
    client: Netns,
    client_end: &'static str,
    host: Netns,
    host_end: &'static str,
    /// Ethernet addresses
    pub(crate) sender: [u8; 6],
    pub(crate) receiver: [u8; 6],
}

impl Link {
    /// The client knows the host's Ethernet address for good: it could not ask under the flood. What
    /// it sends waits for room in the link's queue (Linux 6.16), or is counted as dropped.
    pub(crate) fn between(
        client: &Netns,
        client_end: &'static str,
        host: &Netns,
        host_end: &'static str,
        address: SocketAddr,
    ) -> Self {
        let (sender, receiver) = (client.mac(client_end), host.mac(host_end));
        let octets = receiver.map(|octet| format!("{octet:02x}")).join(":");
        let ip = address.ip();
        client.ip([format!(
            "neighbor replace {ip} lladdr {octets} dev {client_end} nud permanent"
        )]);
        let queue = client
            .command("tc")
            .args(["qdisc", "replace", "dev", client_end, "root"])
            .args(["pfifo", "limit", "100000"])
            .status();
        assert!(queue.is_ok_and(|status| status.success()), "run tc");
        // Without it the host's end takes no live frames while it has no program: none would slip
        // through a gap.
        accept_frames(host, host_end).expect("run ethtool");
        Self {
            client: client.clone(),
            client_end,
            host: host.clone(),
            host_end,
            sender,
            receiver,
        }
    }

    /// What the client's stack sent and the link had no room for; without the flood's frames.
    pub(crate) fn overflown(&self) -> u64 {
        let link = self.client.link(self.client_end);
        let all = link["stats64"]["tx"]["dropped"].as_u64();
        let frames = counter(
            &self.client,
            self.client_end,
            "tx_queue_",
            "_xdp_xmit_errors",
        );
        all.expect("a counter") - frames.expect("a counter of veth")
    }

    /// What the program on the host's end has dropped.
    pub(crate) fn filtered(&self) -> u64 {
        counter(&self.host, self.host_end, "rx_queue_", "_xdp_drops").expect("a counter of veth")
    }
}

/// Live frames of one source, as many as go; ends with its value.
pub(crate) struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Flood {
    pub(crate) fn start(generator: Generator, frame: Vec<u8>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sent = 0;
            while !raised.load(Ordering::Relaxed) {
                generator.flood(&frame, AT_ONCE).expect("send live frames");
                sent += u64::from(AT_ONCE);
            }
            sent
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// How many it has sent.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("it sends to its end")
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Sends from one address and counts, until it is stopped.
pub(crate) struct Sender {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
}

impl Sender {
    pub(crate) fn start(from: &Netns, source: IpAddr, to: SocketAddr) -> Self {
        let socket = from.run(|| UdpSocket::bind((source, 0)).expect("bind the source"));
        let stop = Arc::new(AtomicBool::new(false));
        let raised = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sent = 0;
            while !raised.load(Ordering::Relaxed) {
                socket.send_to(b"packet", to).expect("send");
                sent += 1;
                thread::sleep(PAUSE);
            }
            sent
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }

    /// How many it has sent.
    pub(crate) fn stop(&mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is stopped once");
        thread.join().expect("it sends to its end")
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Counts what arrives, by source.
pub(crate) struct Receiver {
    good: Arc<AtomicU64>,
    bad: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    host: Netns,
    port: u16,
}

impl Receiver {
    pub(crate) fn start(host: &Netns, address: SocketAddr, good: IpAddr) -> Self {
        let socket = host.run(|| UdpSocket::bind(address).expect("bind the host's address"));
        let some = Some(Duration::from_millis(100));
        socket.set_read_timeout(some).expect("set a time-out");
        setsockopt(&socket, sockopt::RcvBufForce, &BUFFER).expect("root may have any buffer");
        let receiver = Self {
            good: Arc::default(),
            bad: Arc::default(),
            stop: Arc::default(),
            host: host.clone(),
            port: address.port(),
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

    pub(crate) fn good(&self) -> u64 {
        self.good.load(Ordering::Relaxed)
    }

    pub(crate) fn bad(&self) -> u64 {
        self.bad.load(Ordering::Relaxed)
    }

    /// What found the socket's buffer full.
    pub(crate) fn overflown(&self) -> u64 {
        let sockets = self
            .host
            .run(|| fs::read_to_string("/proc/thread-self/net/udp"));
        let port = format!(":{:04X}", self.port);
        let sockets = sockets.expect("read the namespace's sockets");
        let mut sockets = sockets.lines().map(|line| line.split_whitespace());
        let drops = sockets.find_map(|mut fields| {
            let is_ours = fields.nth(1)?.ends_with(&port);
            is_ours.then(|| fields.last()?.parse().ok())?
        });
        drops.expect("the socket is open")
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
