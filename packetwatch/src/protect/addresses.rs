//! What the kernel knows: own addresses and next hops.

use super::{Claim, Set, Settings};
use crate::netlink::{Error, Link, Netlink};

pub(super) async fn collect(
    netlink: &Netlink,
    settings: &Settings,
    filtered: &[u32],
    set: &mut Set,
) -> Result<(), Error> {
    if !settings.own && !settings.gateway {
        return Ok(());
    }
    let links = netlink.links().await?;
    let ours =
        |link: &&Link| settings.interfaces.contains(&link.name) || filtered.contains(&link.index);
    for link in links.iter().filter(ours) {
        if settings.own {
            for address in netlink.addresses(link.index).await? {
                set.add(
                    address,
                    Claim::Own,
                    &format!("own address of {}", link.name),
                );
            }
        }
        if settings.gateway {
            for address in netlink.gateways(link.index).await? {
                set.add(
                    address,
                    Claim::NextHop,
                    &format!("next hop of {}", link.name),
                );
            }
        }
    }
    Ok(())
}
