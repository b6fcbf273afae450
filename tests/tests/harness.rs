//! The harness itself, without the daemon: what the other suites take for granted.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;
use std::time::{Duration, Instant};

use packetwatch_tests::packet::{ACK, HOP_BY_HOP, RST, SYN};
use packetwatch_tests::{
    Family, Frame, Frames, Lan, Netns, answered, call, serve_http, skip, tell,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const PROMPT: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_millis(300);

#[test]
#[ignore = "needs root: network namespaces"]
fn a_namespace_ends_with_its_last_clone_even_in_a_panic() {
    let first = Netns::new();
    let path = first.path();
    let clone = first.clone();
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _first = first;
        panic!("a test that fails");
    }));
    assert!(panicked.is_err());
    assert!(path.exists(), "the clone holds it");
    let _ = catch_unwind(AssertUnwindSafe(move || {
        let _clone = clone;
        panic!("a test that fails");
    }));
    assert!(!path.exists());
}

#[test]
#[ignore = "needs root: network namespaces"]
fn run_works_inside_and_hands_panics_on() {
    let netns = Netns::new();
    let inside = |netns: &Netns| netns.run(|| std::fs::read_link("/proc/thread-self/ns/net"));
    assert_ne!(
        inside(&netns).unwrap(),
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    );
    let listed = netns.command("ip").args(["-br", "link"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).starts_with("lo "));
    assert_eq!(
        listed.stdout.iter().filter(|byte| **byte == b'\n').count(),
        1
    );
    let panic = catch_unwind(AssertUnwindSafe(|| netns.run(|| panic!("inside"))));
    assert_eq!(panic.unwrap_err().downcast_ref(), Some(&"inside"));
}

#[test]
#[ignore = "needs root: network namespaces"]
fn every_client_address_reaches_the_server_and_a_dead_port_does_not_answer() {
    let lan = Lan::new();
    let segment = lan.segment();
    for family in FAMILIES {
        let server = serve_http(&lan.host, segment.host(family), 8086);
        for n in 0..packetwatch_tests::topology::CLIENT_ADDRESSES {
            let source = segment.client(family, n);
            assert!(segment.clients(family).contains(&source));
            let body = call(&segment.client, Some(source), server.address, PROMPT);
            assert_eq!(body.unwrap(), "pong");
        }
        for outside in [segment.host(family), segment.gateway(family)] {
            assert!(!segment.clients(family).contains(&outside));
        }
        let closed = SocketAddr::new(segment.host(family), 8087);
        assert!(!answered(&segment.client, None, closed, PROMPT));
        let address = server.address;
        drop(server);
        assert!(!answered(&segment.client, None, address, PROMPT));
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_call_that_nobody_answers_ends_in_time() {
    let lan = Lan::new();
    let segment = lan.segment();
    for family in FAMILIES {
        let server = serve_http(&lan.host, segment.host(family), 8086);
        let [silent, heard] = [0, 1].map(|n| segment.client(family, n));
        lan.host.ip([format!("route add blackhole {silent}")]);
        let start = Instant::now();
        assert!(!answered(
            &segment.client,
            Some(silent),
            server.address,
            SILENCE
        ));
        assert!((SILENCE..PROMPT).contains(&start.elapsed()));
        assert!(answered(
            &segment.client,
            Some(heard),
            server.address,
            PROMPT
        ));
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn a_routed_client_is_seen_with_its_own_address() {
    let lan = Lan::routed();
    let segment = lan.segment();
    for family in FAMILIES {
        let listener = lan.host.run(|| {
            UdpSocket::bind((segment.host(family), 9000)).expect("bind a socket on the host")
        });
        listener.set_read_timeout(Some(PROMPT)).unwrap();
        let server = serve_http(&lan.host, segment.host(family), 8086);
        for network in 0..packetwatch_tests::topology::REMOTE_NETWORKS {
            let source = segment.remote_client(network, family, 1);
            assert!(answered(
                &segment.client,
                Some(source),
                server.address,
                PROMPT
            ));
            let sender = segment.client.run(|| UdpSocket::bind((source, 0)).unwrap());
            sender.send_to(b"x", (segment.host(family), 9000)).unwrap();
            let (_, seen) = listener.recv_from(&mut [0; 8]).unwrap();
            assert_eq!(seen.ip(), source);
        }
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn each_interface_has_its_own_client() {
    let lan = Lan::with_interfaces(2);
    assert_eq!(lan.segments[1].interface, "pw1");
    for family in FAMILIES {
        for segment in &lan.segments {
            let server = serve_http(&lan.host, segment.host(family), 8086);
            let source = segment.client(family, 0);
            assert!(answered(
                &segment.client,
                Some(source),
                server.address,
                PROMPT
            ));
            assert_eq!(lan.host.xdp(&segment.interface), None);
        }
    }
}

/// A hand-made frame is right when the kernel takes it for its own: a SYN is answered by a SYN-ACK, with
/// IPv4 options or IPv6 extension headers in the way, and a datagram reaches its socket.
#[test]
#[ignore = "needs root: network namespaces"]
fn the_kernel_answers_hand_made_frames() {
    let lan = Lan::new();
    let segment = lan.segment();
    let link = Frames::open(&segment.client, "eth0");
    for family in FAMILIES {
        let (source, host) = (segment.client(family, 2), segment.host(family));
        let server = serve_http(&lan.host, host, 8086);
        // Both ends know each other's hardware address from this.
        assert!(answered(
            &segment.client,
            Some(source),
            server.address,
            PROMPT
        ));
        let addressed = || between(&lan, source, host);
        let wrapped = |frame: Frame| match family {
            Family::V4 => frame.options(8),
            Family::V6 => frame.extension(HOP_BY_HOP, 2),
        };
        for (port, frame) in [(40_001, addressed()), (40_002, wrapped(addressed()))] {
            link.send(&frame.tcp(port, 8086, SYN).build());
            assert!(
                sees_tcp(&link, 8086, port, SYN | ACK),
                "no SYN-ACK for {port} over {family:?}"
            );
            // The client's kernel knows nothing of the connection.
            assert!(sees_tcp(&link, port, 8086, RST));
        }
        let socket = lan.host.run(|| UdpSocket::bind((host, 9000)).unwrap());
        socket.set_read_timeout(Some(PROMPT)).unwrap();
        link.send(&addressed().udp(5353, 9000).payload(*b"odd").build());
        let mut datagram = [0; 8];
        let (length, from) = socket.recv_from(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"odd");
        assert_eq!(from, SocketAddr::new(source, 5353));
    }
}

#[test]
#[ignore = "needs root: network namespaces"]
fn the_kernel_puts_hand_made_fragments_together() {
    let lan = Lan::new();
    let segment = lan.segment();
    let link = Frames::open(&segment.client, "eth0");
    for family in FAMILIES {
        let (source, host) = (segment.client(family, 3), segment.host(family));
        let socket = lan.host.run(|| UdpSocket::bind((host, 9000)).unwrap());
        socket.set_read_timeout(Some(PROMPT)).unwrap();
        // The whole datagram as the kernel would see it, cut behind 16 bytes.
        let whole = Frame::new().ip(source, host).udp(5353, 9000);
        let datagram = whole.payload(*b"0123456789abcdef").packet();
        let segment_start = datagram.len() - 24;
        let (first, last) = datagram[segment_start..].split_at(16);
        let part = |offset, more, bytes: &[u8]| {
            between(&lan, source, host)
                .fragment(offset, more)
                .protocol(17)
                .payload(bytes)
                .build()
        };
        link.send(&part(0, true, first));
        link.send(&part(2, false, last));
        let mut received = [0; 32];
        let (length, _) = socket.recv_from(&mut received).unwrap();
        assert_eq!(&received[..length], b"0123456789abcdef");
    }
}

/// A frame from the first client's card to the host's.
fn between(lan: &Lan, source: IpAddr, host: IpAddr) -> Frame {
    let segment = lan.segment();
    Frame::new()
        .mac(
            mac(&segment.client, "eth0"),
            mac(&lan.host, &segment.interface),
        )
        .ip(source, host)
}

fn mac(netns: &Netns, interface: &str) -> [u8; 6] {
    let text = netns.run(|| {
        // sysfs shows the namespace it was mounted in, so this asks `ip`.
        let output = Command::new("ip")
            .args(["-j", "link", "show", interface])
            .output()
            .unwrap();
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0]["address"].as_str().unwrap().to_owned()
    });
    let bytes: Vec<u8> = text
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect();
    bytes.try_into().unwrap()
}

/// Whether a TCP segment with these ports and all of these flags passes the link.
fn sees_tcp(link: &Frames, source_port: u16, destination_port: u16, flags: u8) -> bool {
    let ports = [source_port.to_be_bytes(), destination_port.to_be_bytes()].concat();
    let end = Instant::now() + PROMPT;
    while Instant::now() < end {
        let Some(frame) = link.receive(SILENCE) else {
            continue;
        };
        let header = if frame[12..14] == [0x86, 0xdd] {
            54
        } else {
            34
        };
        if frame.get(header..header + 4) == Some(&ports[..]) && frame[header + 13] & flags == flags
        {
            return true;
        }
    }
    false
}

#[test]
fn a_test_that_is_skipped_or_has_something_to_say_tells_the_runner() {
    const AGAIN: &str = "PACKETWATCH_TEST_SKIPS";
    let this = "a_test_that_is_skipped_or_has_something_to_say_tells_the_runner";
    if std::env::var_os(AGAIN).is_some() {
        tell("3 cases");
        skip("nothing to run it with");
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("notes");
    // libtest gives a test a thread of its name only where there is more than one.
    for threads in ["2", "1"] {
        let mut again = Command::new(std::env::current_exe().expect("it knows its path"));
        again.args(["--exact", this, "--test-threads", threads]);
        again.env(AGAIN, "1").env("TEST_NOTES", &file);
        let output = again.output().expect("run this executable");
        assert!(output.status.success(), "{output:?}");
    }
    let told = std::fs::read_to_string(&file).expect("it was written");
    let lines: Vec<_> = told.lines().collect();
    let kinds = [("told", "3 cases"), ("skipped", "nothing to run it with")];
    assert_eq!(lines.len(), 2 * kinds.len(), "{told}");
    for (line, (kind, words)) in lines.iter().zip(kinds) {
        assert_eq!(*line, format!("{kind}\t{this}\t{words}"));
    }
    for (line, (kind, words)) in lines[kinds.len()..].iter().zip(kinds) {
        let [this, place] = [this, file!()].map(|name| format!("{kind}\t{name}\t{words}"));
        assert!([this, place].contains(&(*line).to_owned()), "{told}");
    }
}
