//! From the kernel's messages to what they mean here.

use std::{collections::BTreeSet, net::IpAddr};

use rtnetlink::packet_route::{
    address::AddressAttribute,
    link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp, XdpAttached},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteVia},
};

use super::Link;

pub(super) fn link(message: LinkMessage) -> Link {
    let mut link = Link {
        name: String::new(),
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        xdp_program_id: None,
        xdp_generic: false,
        mtu: 0,
        addresses: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Xdp(xdp) => {
                link.xdp_program_id = xdp_program(&xdp);
                link.xdp_generic = xdp.contains(&LinkXdp::Attached(XdpAttached::SocketBuffer));
            }
            _ => {}
        }
    }
    link
}

/// With one program the kernel names it in PROG_ID; with one a mode, in the attributes of the modes.
fn xdp_program(xdp: &[LinkXdp]) -> Option<u32> {
    let pick = |of: fn(&LinkXdp) -> Option<u32>| xdp.iter().find_map(of);
    pick(|xdp| match xdp {
        LinkXdp::ProgId(id) | LinkXdp::DrvProgId(id) => Some(*id),
        _ => None,
    })
    .or_else(|| {
        pick(|xdp| match xdp {
            LinkXdp::SkbProgId(id) | LinkXdp::HwProgId(id) => Some(*id),
            _ => None,
        })
    })
    .filter(|id| *id != 0)
}

/// IFA_LOCAL where there is one; IFA_ADDRESS is then the peer of a point-to-point link.
pub(super) fn own_address(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// Adds the next hops of `route` that are behind `ifindex`.
pub(super) fn next_hops(route: &RouteMessage, ifindex: u32, hops: &mut BTreeSet<IpAddr>) {
    hops.extend(route.attributes.iter().filter_map(gateway));
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(paths) = attribute {
            for path in paths.iter().filter(|path| path.interface_index == ifindex) {
                hops.extend(path.attributes.iter().filter_map(gateway));
            }
        }
    }
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address))
        | RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Gateway(RouteAddress::Inet6(address))
        | RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

/// Metric and interface of a default route.
pub(super) fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0 {
        return None;
    }
    let mut metric = 0;
    let mut ifindex = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(value) => ifindex = Some(*value),
            RouteAttribute::MultiPath(paths) => {
                ifindex = ifindex.or(paths.first().map(|path| path.interface_index));
            }
            _ => {}
        }
    }
    ifindex.map(|ifindex| (metric, ifindex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_of_a_link_is_the_native_one() {
        use LinkXdp::{DrvProgId, HwProgId, ProgId, SkbProgId};
        assert_eq!(xdp_program(&[]), None);
        assert_eq!(xdp_program(&[ProgId(0)]), None);
        assert_eq!(xdp_program(&[SkbProgId(4), ProgId(4)]), Some(4));
        assert_eq!(xdp_program(&[SkbProgId(4), DrvProgId(5)]), Some(5));
        assert_eq!(xdp_program(&[HwProgId(6)]), Some(6));
    }
}
