//! The addresses that no rule and no deny of a larger prefix may cut off: the host's own, its next
//! hops, and those its owner is working from. They become allow entries with source "protect".

mod addresses;
mod sessions;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::{Stream, StreamExt as _};
use ipnet::IpNet;
use packetwatch_abi::capacity;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    log::EVENT,
    netlink::{self, Change, Netlink},
};

pub use sessions::{Sessions, starting_shell};

/// Sessions and accepted tokens announce themselves to nobody: they are looked up.
const EVERY: Duration = Duration::from_secs(5);

/// What to protect: `[protect]` of the configuration, and whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub interfaces: Vec<String>,
    /// own addresses of the interfaces
    pub own: bool,
    /// next hops of all routes over the interfaces
    pub gateway: bool,
    /// remote hosts of sessions, see [`Sessions`], and API peers
    pub sessions: bool,
    pub extra: Vec<IpNet>,
}

/// Keeps the protected set up to date.
pub struct Protector {
    netlink: Netlink,
    settings: watch::Receiver<Settings>,
    /// the settings of the last round
    followed: watch::Sender<Settings>,
    sessions: Sessions,
    api_peers: Box<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
    filtered: Box<dyn Fn() -> Vec<u32> + Send + Sync>,
    left_out: Box<LeftOut>,
}

type LeftOut = dyn Fn(&[(IpNet, String)]) + Send + Sync;

impl Protector {
    /// `settings` may change while it runs. `api_peers` tells the addresses whose API token was
    /// accepted lately.
    pub fn new(
        netlink: Netlink,
        settings: watch::Receiver<Settings>,
        sessions: Sessions,
        api_peers: impl Fn() -> Vec<IpAddr> + Send + Sync + 'static,
    ) -> Self {
        let followed = watch::Sender::new(settings.borrow().clone());
        Self {
            netlink,
            settings,
            followed,
            sessions,
            api_peers: Box::new(api_peers),
            filtered: Box::new(Vec::new),
            left_out: Box::new(|_| {}),
        }
    }

    /// Besides the interfaces of those names, the ones with the indices that `filtered` tells: an
    /// interface that was renamed is filtered as before, and its addresses are as much our own.
    pub fn following(mut self, filtered: impl Fn() -> Vec<u32> + Send + Sync + 'static) -> Self {
        self.filtered = Box::new(filtered);
        self
    }

    /// Whenever the set is looked up, `left_out` is told what there is no place for.
    pub fn telling(
        mut self,
        left_out: impl Fn(&[(IpNet, String)]) + Send + Sync + 'static,
    ) -> Self {
        self.left_out = Box::new(left_out);
        self
    }

    /// The settings that [`Protector::run`] went by last, whether or not that went well.
    pub fn followed(&self) -> watch::Receiver<Settings> {
        self.followed.subscribe()
    }

    /// The whole set as it is now, in order, each prefix with the reason; [`capacity::PROTECTED`] of them
    /// at most. An interface that does not exist has nothing to protect. An error says nothing about the set: keep the one before.
    pub async fn current(&self) -> Result<Vec<(IpNet, String)>, netlink::Error> {
        let settings = self.settings.borrow().clone();
        self.by(&settings).await
    }

    async fn by(&self, settings: &Settings) -> Result<Vec<(IpNet, String)>, netlink::Error> {
        let mut set = Set::default();
        let filtered = (self.filtered)();
        addresses::collect(&self.netlink, settings, &filtered, &mut set).await?;
        if settings.sessions {
            for (address, reason) in self.sessions.current() {
                set.add(address, Claim::Session, &reason);
            }
            for address in (self.api_peers)() {
                set.add(address, Claim::ApiClient, "API client with a token");
            }
        }
        for prefix in &settings.extra {
            set.add_prefix(*prefix, Claim::Extra, "protect.extra of the configuration");
        }
        let (set, left_out) = set.cut(capacity::PROTECTED as usize);
        (self.left_out)(&left_out);
        Ok(set)
    }

    /// Hands the set to `apply` whenever it differs from what is `protected`: looked at at once, when
    /// the kernel tells of a change of links, addresses or routes, when the settings change, and every
    /// five seconds. Both may block; after a failure the set is offered again, even
    /// if it is what was protected before.
    ///
    /// # Errors
    /// One of them panicked.
    pub async fn run<E: Display>(
        mut self,
        protected: impl Fn() -> Vec<(IpNet, String)> + Send + Sync + 'static,
        apply: impl Fn(Vec<(IpNet, String)>) -> Result<(), E> + Send + Sync + 'static,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        // What was `protected`, if that was not the set.
        let establish = Arc::new(move |set: Vec<(IpNet, String)>, is_refused: bool| {
            let before = protected();
            if before == set && !is_refused {
                return Ok(None);
            }
            apply(set).map_err(|error| error.to_string())?;
            Ok::<_, String>(Some(before))
        });
        let mut changes = Self::changes();
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut is_refused = false;
        let mut settings = self.settings.borrow().clone();
        loop {
            self.followed.send_replace(settings.clone());
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                Ok(()) = self.settings.changed() => {}
                _ = tick.tick() => changes = changes.or_else(Self::changes),
                change = next(&mut changes) => {
                    if change.is_none() {
                        warn!("netlink tells of no more changes; it is asked anew in five seconds");
                        changes = None;
                        continue;
                    }
                    tick.reset_at(Instant::now() + EVERY);
                }
            }
            settings = self.settings.borrow_and_update().clone();
            let set = match self.by(&settings).await {
                Ok(set) => set,
                Err(error) => {
                    warn!("protected addresses stay as they are: {error}");
                    continue;
                }
            };
            let outcome = tokio::task::spawn_blocking({
                let (establish, set) = (Arc::clone(&establish), set.clone());
                move || establish(set, is_refused)
            });
            let outcome = outcome.await;
            is_refused = matches!(outcome, Ok(Err(_)));
            match outcome {
                Ok(Ok(None)) => {}
                Ok(Ok(Some(before))) => tell(&before, &set),
                Ok(Err(error)) => warn!("protected addresses stay as they are: {error}"),
                Err(error) => return Err(std::io::Error::other(error)),
            }
        }
    }

    fn changes() -> Option<impl Stream<Item = Change> + Send + Unpin> {
        netlink::changes()
            .inspect_err(|error| warn!("changes of addresses are seen late: {error}"))
            .ok()
    }
}

/// Waits for ever without a stream.
async fn next(changes: &mut Option<impl Stream<Item = Change> + Unpin>) -> Option<Change> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Says in the log what has changed of the protected prefixes, if anything has.
pub(crate) fn tell(before: &[(IpNet, String)], now: &[(IpNet, String)]) {
    let prefixes = |set: &[(IpNet, String)]| set.iter().map(|(p, _)| *p).collect::<BTreeSet<_>>();
    let (there, stays) = (prefixes(before), prefixes(now));
    let added: Vec<_> = now.iter().filter(|(p, _)| !there.contains(p)).collect();
    let removed: Vec<_> = before.iter().filter(|(p, _)| !stays.contains(p)).collect();
    if added.is_empty() && removed.is_empty() {
        // The same prefixes for another reason.
        return;
    }
    for (prefix, reason) in &added {
        debug!("protect {prefix}: {reason}");
    }
    for (prefix, reason) in &removed {
        debug!("protect {prefix} no more: {reason}");
    }
    info!(
        target: EVENT,
        {
            event.action = "protect-changed",
            packetwatch.entries = now.len(),
            packetwatch.added = added.len(),
            packetwatch.removed = removed.len(),
        },
        "{} protected prefixes: {} new, {} gone", now.len(), added.len(), removed.len()
    );
}

/// Those of these addresses that can be protected, in order, each with its first reason.
pub(crate) fn protectable(
    addresses: impl IntoIterator<Item = (IpAddr, String)>,
) -> Vec<(IpNet, String)> {
    let mut set = Set::default();
    for (address, reason) in addresses {
        set.add(address, Claim::ApiClient, &reason);
    }
    let (set, _) = set.cut(usize::MAX);
    set
}

/// Prefixes in order, each with the reason.
type Protected = Vec<(IpNet, String)>;

/// What a prefix is protected as. Where there is no place for all, the first ones have theirs: what the
/// owner has named, before what others may have many of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    Extra,
    Own,
    NextHop,
    Session,
    ApiClient,
}

/// A prefix has one reason: the first, so that a session from the gateway does not hide it; and its best
/// claim.
#[derive(Debug, Default)]
struct Set(BTreeMap<IpNet, (Claim, String)>);

impl Set {
    fn add(&mut self, address: IpAddr, claim: Claim, reason: &str) {
        self.add_prefix(IpNet::from(address.to_canonical()), claim, reason);
    }

    fn add_prefix(&mut self, prefix: IpNet, claim: Claim, reason: &str) {
        let prefix = prefix.trunc();
        if is_a_host_elsewhere(&prefix) {
            let entry = self.0.entry(prefix);
            let (best, _) = entry.or_insert_with(|| (claim, reason.to_owned()));
            *best = claim.min(*best);
        }
    }

    /// So many of the best claims, and the others; both in order.
    fn cut(self, at_most: usize) -> (Protected, Protected) {
        let mut claims: Vec<(Claim, IpNet)> = self.0.iter().map(|(p, (c, _))| (*c, *p)).collect();
        claims.sort_unstable();
        let left_out: BTreeSet<IpNet> = claims.iter().skip(at_most).map(|(_, p)| *p).collect();
        let all = self
            .0
            .into_iter()
            .map(|(prefix, (_, reason))| (prefix, reason));
        all.partition(|(prefix, _)| !left_out.contains(prefix))
    }
}

/// Loopback never comes in over a wire, and the others are nobody's source address. An allow entry
/// for one would only help who forges it.
fn is_a_host_elsewhere(prefix: &IpNet) -> bool {
    let address = prefix.addr();
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let whole = prefix.prefix_len() == prefix.max_prefix_len();
    !(address.is_loopback()
        || address.is_multicast()
        || broadcast
        || (address.is_unspecified() && whole))
}
