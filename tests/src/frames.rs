//! Whole frames on a link, past the kernel's own protocols.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use crate::netns::Netns;
use crate::patience::uninterrupted;

/// The longest frame that [`Frames::receive`] returns whole: a jumbo frame with its tags.
const MAX_FRAME: usize = 9216;

/// A packet socket on one interface. What it sends leaves the interface as it is; the veth peer, and an
/// XDP program there, receives it.
#[derive(Debug)]
pub struct Frames {
    socket: OwnedFd,
    interface: String,
}

impl Frames {
    /// Opens the interface of a namespace.
    pub fn open(netns: &Netns, interface: &str) -> Self {
        let socket = netns
            .run(|| open(interface))
            .unwrap_or_else(|error| panic!("open {interface} in {}: {error}", netns.name()));
        Self {
            socket,
            interface: interface.to_owned(),
        }
    }

    /// Sends a frame, which starts with its Ethernet header and has no check sequence.
    pub fn send(&self, frame: &[u8]) {
        let sent =
            send(self.socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap_or_else(|error| {
                panic!("send {} bytes on {}: {error}", frame.len(), self.interface)
            });
        assert_eq!(sent, frame.len(), "a frame is sent whole");
    }

    /// The next frame that passes the interface in either direction; `None` when there is none for
    /// `limit` (of a microsecond or more).
    pub fn receive(&self, limit: Duration) -> Option<Vec<u8>> {
        let micros = i64::try_from(limit.as_micros()).expect("a time-out of a test");
        let time = TimeVal::new(micros / 1_000_000, micros % 1_000_000);
        setsockopt(&self.socket, sockopt::ReceiveTimeout, &time).expect("set the time-out");
        let mut frame = vec![0; MAX_FRAME];
        let socket = self.socket.as_raw_fd();
        match uninterrupted(|| Ok(recv(socket, &mut frame, MsgFlags::empty())?)) {
            Ok(length) => {
                frame.truncate(length);
                Some(frame)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            Err(error) => panic!("receive on {}: {error}", self.interface),
        }
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let index = if_nametoindex(interface)?;
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    // SAFETY: sockaddr_ll is plain integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = i32::try_from(index).expect("interface numbers are positive ints");
    // SAFETY: the pointer and the length are those of `address`, which outlives the call.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    if bound == 0 {
        Ok(socket)
    } else {
        Err(io::Error::last_os_error())
    }
}
