//! Attaching to the configured interfaces, and letting go of them.

use anyhow::{Context as _, Result, bail};

use super::pins;
use crate::{
    config::{Config, OnExit, XdpMode},
    dataplane::{
        AttachError, AttachMode, Dataplane, Interface, Leftover, Present, State, XdpMode as Took,
    },
    log::EVENT,
    netlink::{Link, Netlink},
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

/// Attaches to each that is here, or to none: after a failure those attached to are let go of, but for
/// filters that an earlier process had left. So a start that fails leaves nothing unfiltered that was
/// filtered. Those that are missing, or held by another's program, are told, and attached to when they can
/// be: a host is not without rules and bans for want of one of its interfaces.
///
/// # Errors
/// None is here, which tells of a wrong name, or none that nobody holds, or the first that cannot be
/// attached to for another reason, with the remedy.
pub(super) async fn attach(
    dataplane: &Dataplane,
    netlink: &Netlink,
    interfaces: &[String],
    config: &Config,
) -> Result<()> {
    let mode = asked(config.xdp_mode);
    let links = netlink.links().await?;
    let is_here = |name: &String| links.iter().any(|link| link.name == *name);
    if let Some(name) = interfaces.first()
        && !interfaces.iter().any(is_here)
    {
        let error = AttachError::NoSuchInterface(name.clone());
        tell_failed(name, &error);
        return Err(error).with_context(|| format!("attach to {name}"));
    }
    dataplane.tidy();
    // First the one whose maps this process has: its locks, perhaps of another's name, are free then.
    let inherited = dataplane.inherited().map(|inherited| inherited.interface);
    let (first, others): (Vec<_>, Vec<_>) = interfaces
        .iter()
        .partition(|name| Some(*name) == inherited.as_ref());
    let fail = |interface: &str, error: AttachError| {
        release_where(dataplane, config.on_exit, |name| dataplane.was_kept(name));
        Err(error).with_context(|| format!("attach to {interface}"))
    };
    let mut withheld = None;
    for interface in first.into_iter().chain(others) {
        match attach_or_unchain(dataplane, mode, &links, interface) {
            Ok(attached) => {
                let links = netlink.links().await.unwrap_or_default();
                tell_attached(dataplane, &links, attached);
            }
            Err(error) => {
                tell_failed(interface, &error);
                match error.state() {
                    State::Missing => {}
                    // Two daemons for one interface are a mistake, and none that passes by itself.
                    State::Held if !matches!(error, AttachError::HeldByUs { .. }) => {
                        withheld = withheld.or(Some((interface, error)));
                    }
                    _ => return fail(interface, error),
                }
            }
        }
    }
    let mut known = dataplane.interfaces().into_iter();
    if let Some((interface, error)) = withheld
        && !known.any(|one| one.state.is_filtered())
    {
        return fail(interface, error);
    }
    dataplane.leftovers().iter().for_each(tell_left);
    Ok(())
}

/// A driver may refuse the filter that fits before the chained program. The filter comes first.
pub(super) fn attach_or_unchain(
    dataplane: &Dataplane,
    mode: AttachMode,
    links: &[Link],
    interface: &str,
) -> Result<Interface, AttachError> {
    let attach = || dataplane.attach(interface, mode, present(links, interface));
    let attached = attach();
    let Err(AttachError::NotTakenOver { source, .. } | AttachError::NotNative { source, .. }) =
        &attached
    else {
        return attached;
    };
    let link = links.iter().find(|link| link.name == interface);
    let mtu = link.map(|link| link.mtu);
    if dataplane.unchain_for(interface, mtu, source) {
        return attach();
    }
    attached
}

fn tell_left(leftover: &Leftover) {
    let Leftover {
        interface,
        program_id,
    } = leftover;
    tracing::warn!(
        target: EVENT,
        {
            event.action = "leftover-found",
            observer.ingress.interface.name = interface.as_str(),
            packetwatch.program_id = program_id,
        },
        "{interface} is not configured, and filtered by what an earlier process has left there, with \
         lists, bans and rules that nobody changes any more: `packetwatch detach --interface \
         {interface}` takes it off"
    );
}

pub(super) fn asked(mode: XdpMode) -> AttachMode {
    match mode {
        XdpMode::Auto => AttachMode::Auto,
        XdpMode::Native => AttachMode::Native,
        XdpMode::Generic => AttachMode::Generic,
    }
}

/// What is on an interface that is called so.
pub(super) fn present(links: &[Link], name: &str) -> Option<Present> {
    let link = links.iter().find(|link| link.name == name)?;
    Some(Present {
        program_id: link.xdp_program_id?,
        mode: mode_of(link),
    })
}

fn mode_of(link: &Link) -> Took {
    if link.xdp_generic {
        Took::Generic
    } else {
        Took::Native
    }
}

pub(super) fn tell_attached(dataplane: &Dataplane, links: &[Link], attached: Interface) {
    // A filter that was taken over is in the mode that was chosen before.
    let mode = attached.mode.unwrap_or_else(|| {
        let mut links = links.iter();
        let link = links.find(|link| link.index == attached.ifindex);
        let mode = link.map_or(Took::Native, mode_of);
        dataplane.note_mode(attached.ifindex, mode);
        mode
    });
    let name = attached.name;
    if let Some(reason) = attached.not_native {
        tracing::warn!("{name} is filtered generically, which costs more: {reason}");
    }
    tracing::info!(
        target: EVENT,
        {
            event.action = "attached",
            observer.ingress.interface.name = name.as_str(),
            packetwatch.interface_index = attached.ifindex,
            packetwatch.xdp_mode = %mode,
            packetwatch.program_id = attached.program_id,
        },
        "attached to {name} ({mode} XDP)"
    );
}

pub(super) fn tell_failed(interface: &str, error: &AttachError) {
    tracing::error!(
        target: EVENT,
        {
            event.action = "attach-failed",
            observer.ingress.interface.name = interface,
            error.message = %error,
        },
        "not attached to {interface}: {error}"
    );
}

/// Detaches from all, or leaves the pinned filters in place.
pub(super) fn release(dataplane: &Dataplane, on_exit: OnExit) {
    release_where(dataplane, on_exit, |_| false);
}

/// The same, and leaves those that `stays` in place whatever is asked for.
fn release_where(dataplane: &Dataplane, on_exit: OnExit, stays: impl Fn(&str) -> bool) {
    let is_pinned = dataplane.pin_dir().is_some();
    if is_pinned {
        // What went within the last second is told, or comes back.
        dataplane.keep_pins().iter().for_each(pins::tell);
    }
    for Interface {
        name,
        state,
        not_pinned,
        ..
    } in dataplane.interfaces()
    {
        let keep = is_pinned && (on_exit == OnExit::Keep || stays(&name));
        let released = dataplane.release(&name, keep);
        if !state.is_filtered() {
            continue;
        }
        match released {
            Ok(()) if keep && not_pinned.is_some() => tracing::warn!(
                target: EVENT,
                {
                    event.action = "detached",
                    event.reason = not_pinned,
                    observer.ingress.interface.name = name.as_str(),
                },
                "{name} is not filtered any more: nothing keeps the filter without its pins"
            ),
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
