//! Where the table of interfaces and the kernel differ.

use std::{collections::BTreeSet, net::IpAddr};

use crate::{
    dataplane::{Interface, State},
    netlink::Link,
};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Finding {
    /// what was filtered, or could not be, is not here
    Gone { name: String, was_filtered: bool },
    Renamed {
        ifindex: u32,
        from: String,
        to: String,
    },
    /// it has another program, or none
    Tampered {
        name: String,
        program_id: Option<u32>,
    },
    /// here, and to be filtered
    Unfiltered { name: String },
    Changed {
        ifindex: u32,
        name: String,
        /// a line each; none at the first look
        what: Vec<String>,
        up: bool,
        mtu: u32,
        addresses: Option<BTreeSet<IpAddr>>,
    },
}

pub(super) fn findings(known: &[Interface], links: &[Link]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut others = Vec::new();
    let filtered = |interface: &&Interface| interface.state.is_filtered();
    for interface in known.iter().filter(filtered) {
        let Some(link) = links.iter().find(|link| link.index == interface.ifindex) else {
            findings.push(Finding::Gone {
                name: interface.name.clone(),
                was_filtered: true,
            });
            continue;
        };
        if link.name != interface.name {
            findings.push(Finding::Renamed {
                ifindex: link.index,
                from: interface.name.clone(),
                to: link.name.clone(),
            });
        }
        if link.xdp_program_id != Some(interface.program_id) {
            others.push(Finding::Tampered {
                name: link.name.clone(),
                program_id: link.xdp_program_id,
            });
        } else {
            others.extend(changed(interface, link));
        }
    }
    // A configured name that nobody bears, or that another bears than who is filtered for it.
    let bears = |name: &str| {
        known
            .iter()
            .any(|one| one.state.is_filtered() && one.name == name)
    };
    for interface in known {
        let Some(name) = &interface.configured else {
            continue;
        };
        let link = links.iter().find(|link| link.name == *name);
        let is_known = |link: &Link| {
            let same = |one: &Interface| one.state.is_filtered() && one.ifindex == link.index;
            known.iter().any(same)
        };
        match link {
            Some(link) if !is_known(link) => {
                others.push(Finding::Unfiltered { name: name.clone() })
            }
            None if matches!(interface.state, State::Detached | State::Held) && !bears(name) => {
                findings.push(Finding::Gone {
                    name: interface.name.clone(),
                    was_filtered: false,
                });
            }
            _ => {}
        }
    }
    // What is gone makes room for what comes; names are right before anything goes by them.
    findings.extend(others);
    findings
}

fn changed(interface: &Interface, link: &Link) -> Option<Finding> {
    let was_up = interface.state == State::Attached;
    let mut of_link = Vec::new();
    if was_up != link.up {
        of_link.push(if link.up { "up" } else { "down" }.to_owned());
    }
    match interface.mtu {
        Some(mtu) if mtu == link.mtu => {}
        Some(mtu) => of_link.push(format!("MTU {} instead of {mtu}", link.mtu)),
        // the first look
        None => of_link.clear(),
    }
    let mut what = Vec::new();
    if !of_link.is_empty() {
        what.push(of_link.join(", "));
    }
    let addresses = link.addresses.as_ref().map(lasting);
    let is_first =
        interface.mtu.is_none() || (interface.addresses.is_none() && addresses.is_some());
    if let (Some(before), Some(now)) = (&interface.addresses, &addresses) {
        what.extend(listed(now.difference(before), "added"));
        what.extend(listed(before.difference(now), "removed"));
    }
    (is_first || !what.is_empty()).then(|| Finding::Changed {
        ifindex: link.index,
        name: link.name.clone(),
        what,
        up: link.up,
        mtu: link.mtu,
        addresses,
    })
}

/// Without link-local addresses of IPv6: they come and go with the link, and say nothing of who is served.
fn lasting(addresses: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let is_lasting = |address: &&IpAddr| match address {
        IpAddr::V4(_) => true,
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    };
    addresses.iter().filter(is_lasting).copied().collect()
}

/// Addresses that came or went, in words; none of none. Of many the first are named.
fn listed<'a>(addresses: impl Iterator<Item = &'a IpAddr>, what: &str) -> Option<String> {
    const NAMED: usize = 8;
    let all: Vec<String> = addresses.map(ToString::to_string).collect();
    let noun = if all.len() == 1 {
        "address"
    } else {
        "addresses"
    };
    let named = all[..all.len().min(NAMED)].join(", ");
    match all.len().saturating_sub(NAMED) {
        _ if all.is_empty() => None,
        0 => Some(format!("{noun} {named} {what}")),
        more => Some(format!("{noun} {named} and {more} more {what}")),
    }
}
