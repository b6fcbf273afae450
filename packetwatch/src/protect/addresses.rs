//! What the kernel knows: own addresses and next hops.

use super::{Set, Settings};
use crate::netlink::{Error, Netlink};

pub(super) async fn collect(
    netlink: &Netlink,
    settings: &Settings,
    set: &mut Set,
) -> Result<(), Error> {
    if !settings.own && !settings.gateway {
        return Ok(());
    }
    let links = netlink.links().await?;
    let ours = |name: &String| settings.interfaces.contains(name);
    for link in links.iter().filter(|link| ours(&link.name)) {
        if settings.own {
            for address in netlink.addresses(link.index).await? {
                set.add(address, &format!("own address of {}", link.name));
            }
        }
        if settings.gateway {
            for address in netlink.gateways(link.index).await? {
                set.add(address, &format!("next hop of {}", link.name));
            }
        }
    }
    Ok(())
}
