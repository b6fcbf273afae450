//! Attaching to the configured interfaces, and letting go of them.

use anyhow::{Context as _, Result, bail};

use crate::{
    config::{Config, OnExit, XdpMode},
    dataplane::{AttachError, AttachMode, Attached, Dataplane, XdpMode as Took},
    log::EVENT,
    netlink::Netlink,
};

/// The interfaces to filter: those of the configuration, else the one of the default route.
///
/// # Errors
/// There is no default route, or netlink does not answer.
pub(super) async fn chosen(config: &Config, netlink: &Netlink) -> Result<Vec<String>> {
    if !config.interfaces.is_empty() {
        return Ok(config.interfaces.clone());
    }
    match netlink.default_interface().await? {
        Some(interface) => Ok(vec![interface]),
        None => bail!(
            "there is no default route, so the interface must be named: --interface IF, or \
             `interfaces` in the configuration; `ip link` lists them"
        ),
    }
}

/// Attaches to each, or to none.
///
/// # Errors
/// The first that cannot be attached to, with the remedy.
pub(super) async fn attach(
    dataplane: &Dataplane,
    netlink: &Netlink,
    interfaces: &[String],
    mode: XdpMode,
) -> Result<()> {
    let mode = match mode {
        XdpMode::Auto => AttachMode::Auto,
        XdpMode::Native => AttachMode::Native,
        XdpMode::Generic => AttachMode::Generic,
    };
    for interface in interfaces {
        match dataplane.attach(interface, mode) {
            Ok(attached) => tell(dataplane, netlink, attached).await,
            Err(error) => {
                tracing::error!(
                    target: EVENT,
                    {
                        event.action = "attach-failed",
                        observer.ingress.interface.name = interface.as_str(),
                        error.message = %error,
                    },
                    "not attached to {interface}: {error}"
                );
                release(dataplane, OnExit::Detach);
                return Err(error).with_context(|| format!("attach to {interface}"));
            }
        }
    }
    Ok(())
}

async fn tell(dataplane: &Dataplane, netlink: &Netlink, attached: Attached) {
    let Attached {
        name,
        ifindex,
        mode,
        program_id,
        not_native,
    } = attached;
    let mode = match mode {
        Some(mode) => mode,
        // Taken over from an earlier process, so it is in the mode that one chose.
        None => {
            let links = netlink.links().await.unwrap_or_default();
            let link = links.iter().find(|link| link.index == ifindex);
            let mode = match link {
                Some(link) if link.xdp_generic => Took::Generic,
                _ => Took::Native,
            };
            dataplane.note_mode(&name, mode);
            mode
        }
    };
    if let Some(reason) = not_native {
        tracing::warn!("{name} is filtered generically, which costs more: {reason}");
    }
    tracing::info!(
        target: EVENT,
        {
            event.action = "attached",
            observer.ingress.interface.name = name.as_str(),
            packetwatch.xdp_mode = %mode,
            packetwatch.program_id = program_id,
        },
        "attached to {name} ({mode} XDP)"
    );
}

/// Detaches from all, or leaves the pinned filters in place.
pub(super) fn release(dataplane: &Dataplane, on_exit: OnExit) {
    let keep = on_exit == OnExit::Keep && dataplane.pin_dir().is_some();
    for Attached { name, .. } in dataplane.interfaces() {
        match dataplane.release(&name, keep) {
            Ok(()) if keep => tracing::info!(
                "{name} stays filtered; `packetwatch detach --interface {name}` takes the filter off"
            ),
            Ok(()) => tracing::info!(
                target: EVENT,
                { event.action = "detached", observer.ingress.interface.name = name.as_str() },
                "detached from {name}"
            ),
            Err(AttachError::Pin { source, path, .. }) => {
                tracing::error!("cannot detach from {name}: {}: {source}", path.display());
            }
            Err(error) => tracing::error!("cannot detach from {name}: {error}"),
        }
    }
}
