//! Interfaces that change while the daemon runs.
//!
//! The configuration names interfaces, a link belongs to the interface itself. From that follows:
//!
//! * set down and up, given another MTU or address: it stays attached;
//! * removed, or moved to another network namespace: lost and let go of. It is attached to again
//!   when an interface of that name is here;
//! * renamed: it stays filtered and is shown under its new name. If an interface of the configured
//!   name appears, that one is attached to as well;
//! * our program taken off or replaced by somebody: put back, in one step where its link lives;
//! * held by another's program when it is to be attached to: tried each second until it is free.
//!
//! The kernel tells of links that change, within 100 ms. It does not tell of programs that do, so
//! once a second the links are looked at in any case: one dump, 2 ms with a thousand interfaces. So are
//! the pins that keep the filter when the process is gone, and the program that is chained behind ours.

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

const EVERY: Duration = Duration::from_secs(1);

pub(super) struct Watch {
    pub(super) dataplane: Dataplane,
    pub(super) netlink: Netlink,
    pub(super) rules: Arc<RulesControl>,
    pub(super) readiness: Readiness,
    pub(super) counters: Counters,
    pub(super) mode: AttachMode,
}

/// Where the table of interfaces and the kernel differ.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
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
        what: String,
        up: bool,
        mtu: u32,
    },
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
                    Some(change) if !change.links => continue,
                    Some(_) => {}
                    // Without it everything is noticed all the same, a second late.
                    None => changes = None,
                },
            }
            match self.netlink.links().await {
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

fn findings(known: &[Interface], links: &[Link]) -> Vec<Finding> {
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
    let mut what = Vec::new();
    if was_up != link.up {
        what.push(if link.up { "up" } else { "down" }.to_owned());
    }
    match interface.mtu {
        Some(mtu) if mtu == link.mtu => {}
        Some(mtu) => what.push(format!("MTU {} instead of {mtu}", link.mtu)),
        // the first look
        None => what.clear(),
    }
    (interface.mtu.is_none() || !what.is_empty()).then(|| Finding::Changed {
        ifindex: link.index,
        name: link.name.clone(),
        what: what.join(", "),
        up: link.up,
        mtu: link.mtu,
    })
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
            } => {
                dataplane.note(*ifindex, *up, *mtu);
                if !what.is_empty() {
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
                dataplane.note(ifindex, link.up, link.mtu);
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
