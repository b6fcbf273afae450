//! What a start does while it is a single thread, and gives its rights up on the way.

use std::{io::ErrorKind, net::IpAddr, path::Path};

use anyhow::{Context as _, Result};
use nix::unistd::{AccessFlags, access};

use super::interfaces;
use crate::{
    config::{Config, OnExit, Origin},
    dataplane::{
        AttachError, Capacities, ChainError, Dataplane, Error, Events, Holder, Inherited, LOCKS,
        Options, Pins,
    },
    lists::JOURNAL_FILE,
    log::EVENT,
    netlink::Netlink,
    privileges::{self, Reduced, Reduction, Wanted},
    protect::starting_shell,
};

/// The loaded program, what was found out, and what is left of the rights.
pub(super) struct Before {
    pub(super) dataplane: Dataplane,
    pub(super) events: Events,
    /// The environment of the shells above is for those to read who could trace them.
    pub(super) starting_shell: Option<IpAddr>,
    reduced: Reduced,
    warning: Option<String>,
}

impl Before {
    /// Asks what only root is told, gives up what the daemon does without, and loads the program.
    /// `debug`: with its own messages.
    ///
    /// # Errors
    /// There is nothing to pin to and `on_exit` is `keep`; there is no such user, or it cannot reach
    /// what it needs; the kernel refuses the program; the one to be chained is where the daemon never
    /// sees it.
    pub(super) fn of(config: &Config, debug: bool) -> Result<Self> {
        Self::load(config, debug).inspect_err(|_| Pins::leave(&config.bpffs))
    }

    fn load(config: &Config, debug: bool) -> Result<Self> {
        let starting_shell = starting_shell();
        let (pins, warning) = pins(&config.bpffs, config.on_exit)?;
        let Scouted {
            interfaces,
            holders,
        } = scout(config, pins.as_ref());
        let root = pins.as_ref().map(Pins::root);
        let chain = config.chain.as_deref();
        // Of a symbolic link itself: where it leads its owner says, who is to stop no start.
        let is_there = |path: &&Path| {
            let found = path.symlink_metadata();
            !found.is_err_and(|error| error.kind() == ErrorKind::NotFound)
        };
        let pinned = chain.filter(is_there);
        let wanted = match config.origin("user") {
            Origin::Default | Origin::EmptyVariable(_) => Wanted::IfThere(&config.user),
            _ => Wanted::Named(&config.user),
        };
        let reduction = Reduction {
            wanted,
            state: (&config.state_dir, JOURNAL_FILE),
            locks: Path::new(LOCKS),
            socket: config.api.socket.as_deref(),
            pins: root.as_deref(),
        };
        reduction.here()?;
        // What root has seen is not missing, but hidden: by where it is, and so for ever.
        if let (Some(path), Some(ours)) = (pinned, &root)
            && !is_there(&path)
        {
            return Err(Error::from(ChainError::unreachable(path, ours)).into());
        }
        let (dataplane, events) = Dataplane::load(Options {
            capacities: Capacities {
                lists: config.capacity.lists,
                bans: config.capacity.bans,
                callers: config.capacity.callers,
            },
            pins,
            interfaces,
            holders,
            chain: config.chain.clone(),
            clock_from_map: false,
            debug,
        })?;
        Ok(Self {
            dataplane,
            events,
            starting_shell,
            reduced: privileges::loaded()?,
            warning,
        })
    }

    /// Tells it in the log, which there was none of before. `file`: the configuration, which SIGHUP has
    /// this process read again.
    pub(super) fn tell(&self, file: &Path) {
        if let Some(warning) = &self.warning {
            tracing::warn!("{warning}");
        }
        if let Some(inherited) = self.dataplane.inherited() {
            tell_inherited(&inherited);
        }
        let Reduced { user, capabilities } = &self.reduced;
        if access(file, AccessFlags::R_OK) == Err(nix::Error::EACCES) {
            tracing::warn!(
                "SIGHUP will be refused: {user} may not read {}; `chgrp` it to a group of {user} and \
                 `chmod g+r` it",
                file.display()
            );
        }
        let capabilities = capabilities.join(" ");
        tracing::info!(
            target: EVENT,
            {
                event.action = "privileges-dropped",
                user.name = user.as_str(),
                packetwatch.capabilities = capabilities.as_str(),
            },
            "runs as {user} with {}",
            if capabilities.is_empty() { "no capability" } else { &capabilities }
        );
    }
}

fn tell_inherited(inherited: &Inherited) {
    let Inherited {
        interface,
        callers,
        bans,
        left_out,
        beside,
    } = inherited;
    let used_on = beside.as_ref().map(|other| {
        format!(
            "bans are copied and callers count anew, since the filter on {other} uses its tables on"
        )
    });
    let of = match (callers, bans) {
        _ if used_on.is_some() => used_on.as_deref().unwrap_or_default(),
        (true, true) => "its callers and bans go on",
        (true, false) => "its callers go on; bans are copied, since capacity.bans has changed",
        (false, true) => "its bans go on; callers count anew, since capacity.callers has changed",
        (false, false) => {
            "bans are copied and callers count anew, since the capacities have changed"
        }
    };
    tracing::info!(
        target: EVENT,
        {
            event.action = "inherited",
            observer.ingress.interface.name = interface.as_str(),
        },
        "takes over the filter that was left on {interface}: {of}"
    );
    if *left_out > 0 {
        tracing::warn!(
            "the filter that was left on {interface} holds {left_out} bans more than there is room for: \
             those in the journal are set again within a second; raise `bans` in [capacity] if more \
             are yours"
        );
    }
}

/// Pins keep the filter when the process dies. Without a bpffs it works all the same, and ends
/// with the process.
fn pins(bpffs: &Path, on_exit: OnExit) -> Result<(Option<Pins>, Option<String>)> {
    match Pins::prepare(bpffs) {
        Ok(pins) => Ok((Some(pins), None)),
        Err(error @ AttachError::NotBpffs(_)) => Err(error.into()),
        Err(error) if on_exit == OnExit::Keep => Err(error).context(
            "on_exit = \"keep\" needs a bpffs to pin the filter to; `mount -t bpf bpf \
             /sys/fs/bpf`, or choose --on-exit detach",
        ),
        Err(error) => Ok((
            None,
            Some(format!(
                "the filter ends with this process, however it ends: {error}; `mount -t bpf bpf \
                 /sys/fs/bpf` mends it"
            )),
        )),
    }
}

/// What is asked for before the rights are given up.
#[derive(Default)]
struct Scouted {
    /// that are to be filtered
    interfaces: Vec<String>,
    /// who holds them
    holders: Vec<Holder>,
}

/// The kernel tells who holds an interface to CAP_SYS_ADMIN alone. What cannot be found out now, the
/// attempt to attach will tell in other words.
fn scout(config: &Config, pins: Option<&Pins>) -> Scouted {
    // One of this thread alone, since a thread keeps the rights that it was started with.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return Scouted::default();
    };
    let found = runtime.block_on(async {
        let netlink = Netlink::connect().ok()?;
        let interfaces = interfaces::chosen(config, &netlink).await.ok()?;
        let links = netlink.links().await.ok()?;
        let held = links.iter().filter(|link| interfaces.contains(&link.name));
        let held = held.filter_map(|link| {
            let present = interfaces::present(&links, &link.name)?;
            Some(Holder::find(&link.name, link.index, present, pins))
        });
        let holders = held.collect();
        Some(Scouted {
            interfaces,
            holders,
        })
    });
    found.unwrap_or_default()
}
