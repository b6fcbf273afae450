//! Interfaces that change while the daemon runs.
//!
//! The configuration names interfaces, a link belongs to the interface itself. From that follows:
//!
//! * set down and up, given another MTU or address: it stays attached, and that is told;
//! * removed, or moved to another network namespace: lost and let go of. It is attached to again
//!   when an interface of that name is here;
//! * renamed: it stays filtered and is shown under its new name. If an interface of the configured
//!   name appears, that one is attached to as well;
//! * our program taken off or replaced by somebody: put back, in one step where its link lives;
//! * held by another's program when it is to be attached to: tried each second until it is free.
//!
//! The kernel tells of links and addresses that change, within 100 ms. It does not tell of programs that
//! do, so once a second the links are looked at in any case: one dump, 2 ms with a thousand interfaces,
//! and one of the addresses of each that is filtered. So are the pins that keep the filter when the
//! process is gone, and the program that is chained behind ours.

mod findings;

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Readiness, RulesControl, chain,
    interfaces::{attach_or_unchain, tell_attached, tell_failed},
    pins,
    readiness::Lack,
};
use crate::{
    dataplane::{AttachMode, Dataplane, Interface, State},
    log::EVENT,
    metrics::Counters,
    netlink::{self, Change, Link, Netlink},
};
use findings::{Finding, findings};

const EVERY: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    pub(super) dataplane: Dataplane,
    pub(super) netlink: Netlink,
    pub(super) rules: Arc<RulesControl>,
    pub(super) readiness: Readiness,
    pub(super) counters: Counters,
    pub(super) mode: AttachMode,
}

impl Watch {
    /// Keeps interfaces filtered until `shutdown`.
    pub(super) async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut changes = subscribe();
        while !shutdown.is_cancelled() {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => changes = changes.or_else(subscribe),
                change = next(&mut changes) => match change {
                    Some(change) if !change.links && !change.addresses => continue,
                    Some(_) => {}
                    // Without it everything is noticed all the same, a second late.
                    None => changes = None,
                },
            }
            let known = self.dataplane.interfaces().into_iter();
            let filtered: Vec<u32> = known.map(|interface| interface.ifindex).collect();
            match self.netlink.links_with_addresses(&filtered).await {
                Ok(links) => self.round(links).await,
                Err(error) => tracing::warn!("interfaces are not watched: {error}"),
            }
            pins::keep(&self.dataplane, &self.counters);
            self.follow_chain().await;
        }
        Ok(())
    }

    async fn follow_chain(&self) {
        let (dataplane, readiness) = (self.dataplane.clone(), self.readiness.clone());
        let counters = self.counters.clone();
        // A driver takes its time here, too, where a program of the other kind is pinned.
        let followed = spawn_blocking(move || chain::follow(&dataplane, &readiness, &counters));
        if let Err(error) = followed.await {
            tracing::error!("the chain is not looked at: {error}");
        }
    }

    async fn round(&self, links: Vec<Link>) {
        let findings = findings(&self.dataplane.interfaces(), &links);
        if !findings.is_empty() {
            let (dataplane, counters, mode) =
                (self.dataplane.clone(), self.counters.clone(), self.mode);
            let rules = Arc::clone(&self.rules);
            // A driver takes its time to set its queues up anew.
            let acted = spawn_blocking(move || {
                act(&dataplane, &counters, mode, &findings, &links);
                if let Err(error) = rules.refresh() {
                    tracing::error!("cannot refresh the policy: {error}");
                }
            });
            if let Err(error) = acted.await {
                tracing::error!("interfaces are not as they should be: {error}");
            }
        }
        for (lack, why) in unfiltered(&self.dataplane.interfaces()) {
            self.readiness.set_lack(lack, why);
        }
    }
}

fn act(
    dataplane: &Dataplane,
    counters: &Counters,
    mode: AttachMode,
    findings: &[Finding],
    links: &[Link],
) {
    let detached = |name: &str, cause: &'static str, reason: String| {
        counters.detached(cause);
        tell_detached(name, &reason);
    };
    let mut names = Vec::new();
    for finding in findings {
        match finding {
            Finding::Gone { name, was_filtered } => {
                dataplane.lose(name);
                if *was_filtered {
                    let reason = "removed, or moved to another network namespace";
                    detached(name, "gone", reason.to_owned());
                }
            }
            Finding::Renamed { ifindex, from, to } => {
                names.push((*ifindex, to.clone()));
                tell_changed(to, *ifindex, &format!("renamed from {from}"));
            }
            _ => {}
        }
    }
    if !names.is_empty() {
        dataplane.rename(&names);
    }
    for finding in findings {
        match finding {
            Finding::Tampered { name, program_id } => {
                match program_id {
                    None => detached(name, "taken-off", "the program was taken off".to_owned()),
                    Some(id) => detached(
                        name,
                        "replaced",
                        format!("the program was replaced by another ({id})"),
                    ),
                }
                attach(dataplane, mode, name, links);
            }
            Finding::Unfiltered { name } => attach(dataplane, mode, name, links),
            Finding::Changed {
                ifindex,
                name,
                what,
                up,
                mtu,
                addresses,
            } => {
                dataplane.note(*ifindex, *up, *mtu, addresses.clone());
                for what in what {
                    tell_changed(name, *ifindex, what);
                }
            }
            Finding::Gone { .. } | Finding::Renamed { .. } => {}
        }
    }
}

/// Tried again every second; told once for each different reason.
fn attach(dataplane: &Dataplane, mode: AttachMode, name: &str, links: &[Link]) {
    let known = dataplane.interfaces();
    let before = known.iter().find(|interface| interface.name == name);
    let told = before.and_then(|interface| interface.error.clone());
    match attach_or_unchain(dataplane, mode, links, name) {
        Ok(attached) => {
            let ifindex = attached.ifindex;
            tell_attached(dataplane, links, attached);
            if let Some(link) = links.iter().find(|link| link.index == ifindex) {
                dataplane.note(ifindex, link.up, link.mtu, None);
            }
        }
        Err(error) if told != Some(error.to_string()) => tell_failed(name, &error),
        Err(_) => {}
    }
}

fn tell_detached(name: &str, reason: &str) {
    tracing::warn!(
        target: EVENT,
        {
            event.action = "detached",
            event.reason = reason,
            observer.ingress.interface.name = name,
        },
        "{name} is no longer filtered: {reason}"
    );
}

fn tell_changed(name: &str, ifindex: u32, what: &str) {
    tracing::info!(
        target: EVENT,
        {
            event.action = "interface-changed",
            event.reason = what,
            observer.ingress.interface.name = name,
            packetwatch.interface_index = ifindex,
        },
        "{name} is still filtered: {what}"
    );
}

/// Which configured interfaces are not filtered, for whoever asks why the daemon is not ready: those that
/// are not here, or another's, while another is filtered, and the others. The former a process that is
/// started anew has no more than this one.
fn unfiltered(known: &[Interface]) -> [(Lack, Option<String>); 2] {
    let is_some_filtered = known.iter().any(|one| one.state.is_filtered());
    let is_withheld =
        |one: &&Interface| is_some_filtered && matches!(one.state, State::Missing | State::Held);
    let configured = known.iter().filter(|one| one.configured.is_some());
    let (withheld, others): (Vec<_>, Vec<_>) = configured
        .filter(|one| !one.state.is_filtered())
        .partition(is_withheld);
    [(Lack::Withheld, withheld), (Lack::Interfaces, others)].map(|(lack, found)| {
        let words = found.into_iter().map(|one| match &one.error {
            Some(error) => error.clone(),
            None => format!("interface {} is {}", one.name, one.state.as_str()),
        });
        let words: Vec<String> = words.collect();
        (lack, (!words.is_empty()).then(|| words.join("; ")))
    })
}

fn subscribe() -> Option<impl Stream<Item = Change> + Send + Unpin> {
    netlink::changes()
        .inspect_err(|error| tracing::warn!("changes of interfaces are seen late: {error}"))
        .ok()
}

/// Waits for ever without a stream.
async fn next(changes: &mut Option<impl Stream<Item = Change> + Unpin>) -> Option<Change> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
