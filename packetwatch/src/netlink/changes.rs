//! What the kernel tells unasked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use rtnetlink::{MulticastGroup, packet_core::NetlinkPayload, packet_route::RouteNetlinkMessage};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use super::Error;

/// What changes within this time after the first change is one change: bringing a link up is a
/// dozen messages.
const SETTLE: Duration = Duration::from_millis(100);

/// What kinds of things have changed since the last one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub links: bool,
    pub addresses: bool,
    pub routes: bool,
}

impl Change {
    /// What to assume when the kernel had to leave messages out.
    const ALL: u8 = 0b111;

    fn bits_of(message: &RouteNetlinkMessage) -> u8 {
        use RouteNetlinkMessage::{DelAddress, DelLink, DelRoute, NewAddress, NewLink, NewRoute};
        match message {
            NewLink(_) | DelLink(_) => 0b001,
            NewAddress(_) | DelAddress(_) => 0b010,
            NewRoute(_) | DelRoute(_) => 0b100,
            _ => 0,
        }
    }

    fn from_bits(bits: u8) -> Self {
        Self {
            links: bits & 0b001 != 0,
            addresses: bits & 0b010 != 0,
            routes: bits & 0b100 != 0,
        }
    }
}

/// Changes of links, addresses and routes from now on; those within 100 ms come as one. A
/// reader that is slow finds them added up, never a backlog. The stream ends if the socket
/// fails. Must be called within a tokio runtime.
pub fn changes() -> Result<impl Stream<Item = Change> + Send + Unpin, Error> {
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .map_err(Error::Open)?;
    let connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let pending = Arc::new(Pending::default());
    let reader = AbortOnDropHandle::new(tokio::spawn({
        let pending = Arc::clone(&pending);
        async move {
            while let Some((message, _)) = messages.next().await {
                pending.add(match &message.payload {
                    NetlinkPayload::InnerMessage(inner) => Change::bits_of(inner),
                    NetlinkPayload::Overrun(_) => Change::ALL,
                    _ => 0,
                });
            }
            pending.add(Pending::ENDED);
        }
    }));
    // They live as long as the stream: the connection ends when its handle is dropped.
    let tasks = (connection, handle, reader);
    let changes = stream::unfold((pending, tasks), |(pending, tasks)| async move {
        let change = pending.take().await?;
        Some((change, (pending, tasks)))
    });
    Ok(Box::pin(changes))
}

/// The changes that nobody has taken yet.
#[derive(Default)]
struct Pending {
    bits: AtomicU8,
    added: Notify,
}

impl Pending {
    const ENDED: u8 = 0b1000_0000;

    fn add(&self, bits: u8) {
        if bits != 0 {
            self.bits.fetch_or(bits, Ordering::AcqRel);
            self.added.notify_one();
        }
    }

    /// None at the end.
    async fn take(&self) -> Option<Change> {
        while self.bits.load(Ordering::Acquire) == 0 {
            self.added.notified().await;
        }
        tokio::time::sleep(SETTLE).await;
        let bits = self.bits.swap(0, Ordering::AcqRel);
        (bits & Self::ENDED == 0).then(|| Change::from_bits(bits))
    }
}
