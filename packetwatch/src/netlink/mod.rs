//! Links, addresses and routes of the network namespace that the process is in.
//!
//! Requests are checked strictly by the kernel (NETLINK_GET_STRICT_CHK, Linux 4.20), so that it
//! filters dumps by interface and table itself: a router's full table is not copied for one link.

mod changes;
mod messages;
#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeSet, io, net::IpAddr, sync::Arc};

use futures_util::TryStreamExt as _;
use rtnetlink::{
    Handle, IpVersion,
    packet_route::{
        AddressFamily,
        link::LinkExtentMask,
        route::{RouteAttribute, RouteHeader, RouteMessage, RouteType},
    },
};
use tokio_util::task::AbortOnDropHandle;

pub use changes::{Change, changes};
use messages::{default_route, link, next_hops, own_address};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("open a route netlink socket: {0}")]
    Open(#[source] io::Error),
    #[error("{what} over netlink: {source}")]
    Request {
        what: String,
        source: rtnetlink::Error,
    },
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub name: String,
    pub index: u32,
    /// set up by the administrator (IFF_UP), whether or not there is a carrier
    pub up: bool,
    /// the XDP program that is attached, whoever did it; the native one if there are several
    pub xdp_program_id: Option<u32>,
    /// it runs in the network stack instead of the driver
    pub xdp_generic: bool,
    /// bytes
    pub mtu: u32,
    /// `None` where they were not asked for, or it was gone before they were
    pub addresses: Option<BTreeSet<IpAddr>>,
}

/// A way to ask the kernel. Cheap to clone; the socket is closed with the last clone.
///
/// The kernel answers one dump of a socket at a time and refuses a second one (EBUSY): tasks that ask
/// side by side each need a connection of their own.
#[derive(Clone)]
pub struct Netlink {
    handle: Handle,
    _connection: Arc<AbortOnDropHandle<()>>,
}

impl Netlink {
    /// Must be called within a tokio runtime.
    pub fn connect() -> Result<Self, Error> {
        let (connection, handle, _) =
            rtnetlink::new_connection_with_strict_check().map_err(Error::Open)?;
        let connection = AbortOnDropHandle::new(tokio::spawn(connection));
        Ok(Self {
            handle,
            _connection: Arc::new(connection),
        })
    }

    pub async fn links(&self) -> Result<Vec<Link>, Error> {
        // Statistics are most of a link's message, and nobody here reads them.
        self.handle
            .link()
            .get()
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
            .execute()
            .map_ok(link)
            .try_collect()
            .await
            .map_err(|source| request("list the interfaces", source))
    }

    /// As [`Netlink::links`], with the addresses of some of them.
    pub async fn links_with_addresses(&self, of: &[u32]) -> Result<Vec<Link>, Error> {
        let mut links = self.links().await?;
        for link in links.iter_mut().filter(|link| of.contains(&link.index)) {
            link.addresses = self.addresses(link.index).await.ok();
        }
        Ok(links)
    }

    /// The addresses of an interface: of a point-to-point link the own end.
    pub async fn addresses(&self, ifindex: u32) -> Result<BTreeSet<IpAddr>, Error> {
        let mut dump = self.handle.address().get();
        dump.message_mut().header.index = ifindex;
        let messages: Vec<_> = dump.execute().try_collect().await.map_err(|source| {
            request(
                &format!("list the addresses of interface {ifindex}"),
                source,
            )
        })?;
        Ok(messages
            .into_iter()
            .filter_map(|message| own_address(&message.attributes))
            .collect())
    }

    /// The next hops of every route over an interface, in every table.
    pub async fn gateways(&self, ifindex: u32) -> Result<BTreeSet<IpAddr>, Error> {
        let mut hops = BTreeSet::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut filter = filter(&version);
            filter.attributes.push(RouteAttribute::Oif(ifindex));
            let routes: Vec<_> = self
                .handle
                .route()
                .get(filter)
                .execute()
                .try_collect()
                .await
                .map_err(|source| {
                    request(&format!("list the routes over interface {ifindex}"), source)
                })?;
            for route in &routes {
                next_hops(route, ifindex, &mut hops);
            }
        }
        Ok(hops)
    }

    /// The interface of the default route with the lowest metric; of IPv6 if IPv4 has none.
    pub async fn default_interface(&self) -> Result<Option<String>, Error> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let mut filter = filter(&version);
            filter.header.table = RouteHeader::RT_TABLE_MAIN;
            let mut routes = self.handle.route().get(filter).execute();
            let mut best: Option<(u32, u32)> = None;
            while let Some(route) = routes
                .try_next()
                .await
                .map_err(|source| request("list the default routes", source))?
            {
                if let Some(candidate) = default_route(&route) {
                    best = Some(best.map_or(candidate, |best| best.min(candidate)));
                }
            }
            if let Some((_, ifindex)) = best {
                let links = self.links().await?;
                let link = links.into_iter().find(|link| link.index == ifindex);
                return Ok(link.map(|link| link.name));
            }
        }
        Ok(None)
    }
}

fn request(what: &str, source: rtnetlink::Error) -> Error {
    Error::Request {
        what: what.to_owned(),
        source,
    }
}

/// Every unicast route of a family.
fn filter(version: &IpVersion) -> RouteMessage {
    let mut filter = RouteMessage::default();
    filter.header.address_family = match version {
        IpVersion::V4 => AddressFamily::Inet,
        IpVersion::V6 => AddressFamily::Inet6,
    };
    filter.header.kind = RouteType::Unicast;
    filter
}
