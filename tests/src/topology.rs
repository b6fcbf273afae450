//! Networks for the tests: a protected host, and clients at the other ends of its links.
//!
//! Every address is of 198.18.0.0/15 or 2001:db8::/32, which no real network uses, and no namespace has
//! a way to the world.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::netns::Netns;

/// Addresses that the client of a segment has of each family, [`Segment::client`] 0 to 7. They fill
/// half of [`Segment::clients`], so that a prefix can be named that holds them and nobody else.
pub const CLIENT_ADDRESSES: u8 = 8;

/// Networks behind the router of [`Lan::routed`], each an IPv4 /24 and an IPv6 /64.
pub const REMOTE_NETWORKS: u8 = 2;

/// Host parts of the addresses of a segment.
const HOST: u8 = 1;
const FIRST_CLIENT: u8 = 16;
const GATEWAY: u8 = 254;

/// The two families that everything is tested for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Length of a prefix that names one address.
    pub fn address_bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// The protected host and the segments it has an interface in.
#[derive(Debug)]
pub struct Lan {
    /// Where the daemon and the servers run. Its default routes go over the first interface, to an
    /// address that is no client: the daemon protects its gateway, and a protected scanner proves
    /// nothing.
    pub host: Netns,
    /// One for each interface of the host: `pw0`, `pw1`, ...
    pub segments: Vec<Segment>,
    /// What [`Lan::routed`] puts between the host and its client.
    router: Option<Netns>,
}

/// A network and the client in it: of the host's own link, or behind the router.
#[derive(Debug)]
pub struct Segment {
    /// Where the calls come from; its end of the link is `eth0`.
    pub client: Netns,
    /// The host's interface that the calls arrive on.
    pub interface: String,
    local: Network,
    remote: Vec<Network>,
}

impl Lan {
    /// One client on one link.
    pub fn new() -> Self {
        Self::with_interfaces(1)
    }

    /// `count` links (at most 8), each with its own client and networks.
    pub fn with_interfaces(count: u8) -> Self {
        assert!((1..=8).contains(&count), "{count} interfaces, of 1 to 8");
        let host = Netns::new();
        let segments: Vec<_> = (0..count).map(|n| Segment::on_link(&host, n)).collect();
        add_default_routes(&host, &segments[0].local);
        Self {
            host,
            segments,
            router: None,
        }
    }

    /// One client behind a router, in [`REMOTE_NETWORKS`] networks that hold no address of the host or
    /// its gateway: what the host sees of a stranger on the Internet.
    pub fn routed() -> Self {
        let host = Netns::new();
        let router = Netns::new();
        let client = Netns::new();
        let local = Network::local(0);
        let remote: Vec<_> = (0..REMOTE_NETWORKS).map(Network::remote).collect();
        join(&host, "pw0", &router, "up0");
        join(&router, "down0", &client, "eth0");
        add_addresses(&host, "pw0", &local.host_net(HOST));
        add_addresses(&router, "up0", &local.host_net(GATEWAY));
        for network in &remote {
            add_addresses(&router, "down0", &network.host_net(GATEWAY));
            add_addresses(&client, "eth0", &network.client_nets());
        }
        router.sysctl("net/ipv4/ip_forward", "1");
        router.sysctl("net/ipv6/conf/all/forwarding", "1");
        add_default_routes(&host, &local);
        add_default_routes(&client, &remote[0]);
        Self {
            host,
            segments: vec![Segment {
                client,
                interface: "pw0".to_owned(),
                local,
                remote,
            }],
            router: Some(router),
        }
    }

    /// The first segment, which most tests have alone.
    pub fn segment(&self) -> &Segment {
        &self.segments[0]
    }

    /// Makes the first link again, after one of its ends was deleted or renamed.
    pub fn replug(&self) {
        self.segment().plug(&self.host);
        add_default_routes(&self.host, &self.segment().local);
    }

    /// The namespace between the host and the client of [`Lan::routed`].
    pub fn router(&self) -> Option<&Netns> {
        self.router.as_ref()
    }
}

impl Default for Lan {
    fn default() -> Self {
        Self::new()
    }
}

impl Segment {
    fn on_link(host: &Netns, number: u8) -> Self {
        let segment = Self {
            client: Netns::new(),
            interface: format!("pw{number}"),
            local: Network::local(number),
            remote: Vec::new(),
        };
        segment.plug(host);
        segment
    }

    /// Makes the link and gives both ends their addresses.
    fn plug(&self, host: &Netns) {
        let Self {
            client,
            interface,
            local,
            remote: _,
        } = self;
        join(host, interface, client, "eth0");
        add_addresses(host, interface, &local.host_net(HOST));
        add_addresses(client, "eth0", &local.client_nets());
        add_addresses(client, "eth0", &local.host_net(GATEWAY));
    }

    /// The host's own address on this segment.
    pub fn host(&self, family: Family) -> IpAddr {
        self.local.address(family, HOST)
    }

    /// The next hop of the host's default route, if this is its first segment.
    pub fn gateway(&self, family: Family) -> IpAddr {
        self.local.address(family, GATEWAY)
    }

    /// The client's `n`-th address (below [`CLIENT_ADDRESSES`]); behind a router, of the first remote
    /// network.
    pub fn client(&self, family: Family, n: u8) -> IpAddr {
        self.remote.first().unwrap_or(&self.local).client(family, n)
    }

    /// The client's `n`-th address in the `network`-th network behind the router.
    pub fn remote_client(&self, network: u8, family: Family, n: u8) -> IpAddr {
        self.remote[usize::from(network)].client(family, n)
    }

    /// A prefix that holds every address of [`Segment::client`], and neither host nor gateway.
    pub fn clients(&self, family: Family) -> IpNet {
        let length = family.address_bits() - 4;
        IpNet::new(self.client(family, 0), length)
            .expect("shorter than an address")
            .trunc()
    }
}

/// An IPv4 /24 and an IPv6 /64 that go together.
#[derive(Debug)]
struct Network {
    v4: Ipv4Addr,
    v6: Ipv6Addr,
}

impl Network {
    /// On the host's `number`-th link.
    fn local(number: u8) -> Self {
        Self {
            v4: Ipv4Addr::new(198, 18, number, 0),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0, number.into(), 0, 0, 0, 0),
        }
    }

    /// Behind the router.
    fn remote(number: u8) -> Self {
        Self {
            v4: Ipv4Addr::new(198, 19, number, 0),
            v6: Ipv6Addr::new(0x2001, 0xdb8, 0x100, number.into(), 0, 0, 0, 0),
        }
    }

    fn address(&self, family: Family, host_part: u8) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::from_bits(self.v4.to_bits() | u32::from(host_part)).into(),
            Family::V6 => Ipv6Addr::from_bits(self.v6.to_bits() | u128::from(host_part)).into(),
        }
    }

    fn client(&self, family: Family, n: u8) -> IpAddr {
        assert!(
            n < CLIENT_ADDRESSES,
            "client address {n} of {CLIENT_ADDRESSES}"
        );
        self.address(family, FIRST_CLIENT + n)
    }

    fn host_net(&self, host_part: u8) -> [IpNet; 2] {
        let net = |family, length| {
            IpNet::new(self.address(family, host_part), length).expect("24 and 64 are lengths")
        };
        [net(Family::V4, 24), net(Family::V6, 64)]
    }

    fn client_nets(&self) -> Vec<IpNet> {
        (0..CLIENT_ADDRESSES)
            .flat_map(|n| self.host_net(FIRST_CLIENT + n))
            .collect()
    }
}

/// Joins two namespaces by a veth pair and brings both ends up.
fn join(left: &Netns, left_name: &str, right: &Netns, right_name: &str) {
    left.ip([
        format!(
            "link add {left_name} type veth peer name {right_name} netns {}",
            right.name()
        ),
        format!("link set {left_name} up"),
    ]);
    right.ip([format!("link set {right_name} up")]);
}

fn add_addresses(netns: &Netns, interface: &str, addresses: &[IpNet]) {
    netns.ip(addresses.iter().map(|address| match address {
        IpNet::V4(address) => format!("address add {address} dev {interface}"),
        IpNet::V6(address) => format!("address add {address} dev {interface} nodad"),
    }));
}

fn add_default_routes(netns: &Netns, network: &Network) {
    netns.ip([
        format!(
            "route add 0.0.0.0/0 via {}",
            network.address(Family::V4, GATEWAY)
        ),
        format!(
            "route add ::/0 via {}",
            network.address(Family::V6, GATEWAY)
        ),
    ]);
}
