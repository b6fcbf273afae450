//! Taking over the filter that is on an interface already: without a gap where the kernel can.
//!
//! `BPF_LINK_UPDATE` puts any XDP program in the place of another, whatever maps it has, so an older
//! ABI is no obstacle; the new program's maps are filled before. Only the mode of a link is fixed.
//! The kernel takes no native and generic program side by side (EEXIST, `dev_xdp_attach`), so another
//! mode means that the one goes before the other comes.

use std::{io, os::fd::BorrowedFd, path::PathBuf};

use super::{
    AttachError, XdpMode,
    attach::{Attached, Target, attach},
    link::{LinkInfo, XdpLink},
    pins::{self, Kept},
    tidy,
};

/// A filter that is there, of an earlier process or this one.
pub(super) struct Former {
    pub(super) link: XdpLink,
    info: LinkInfo,
    /// where an earlier process pinned it; more than one if it was killed between two steps
    pins: Vec<PathBuf>,
}

impl Former {
    /// `None` when the link is dead.
    pub(super) fn of_ours(link: XdpLink) -> Option<Self> {
        let info = link.info().ok().filter(|info| info.ifindex != 0)?;
        Some(Self {
            link,
            info,
            pins: Vec::new(),
        })
    }

    /// What is pinned whose link is on this interface, of whatever ABI version. Names move on and
    /// another may bear the one of a pin, so the index counts. An interface that moved to another
    /// namespace may bear the same index there, but the program here is then not that link's.
    pub(super) fn kept_on(target: &Target<'_>) -> Option<Self> {
        let program_id = target.present?.program_id;
        let is_here =
            |info: &LinkInfo| info.ifindex == target.ifindex && info.program_id == program_id;
        let kept = target.pins?.kept().into_iter();
        let mut here = kept.filter(|kept| is_here(&kept.info));
        let Kept {
            path, link, info, ..
        } = here.next()?;
        let mut pins = vec![path];
        pins.extend(here.map(|kept| kept.path));
        Some(Self { link, info, pins })
    }

    /// The mode that it is in, where that is known and is not the one asked for.
    fn other_mode(&self, target: &Target<'_>) -> Option<XdpMode> {
        let present = target.present?;
        let is_it = present.program_id == self.info.program_id;
        (is_it && target.mode.refuses(present.mode)).then_some(present.mode)
    }

    pub(super) fn take_over(
        self,
        program: BorrowedFd<'_>,
        target: &Target<'_>,
    ) -> Result<Attached, AttachError> {
        if let Some(mode) = self.other_mode(target) {
            return self.swap(mode, program, target);
        }
        let Self {
            link,
            info: _,
            pins,
        } = self;
        match link.update(program) {
            Ok(()) => {
                let mode = target.present.map(|present| present.mode);
                let attached = Attached {
                    link,
                    mode,
                    not_native: None,
                };
                attached.pinned(target, &pins)
            }
            // It died a moment ago.
            Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                drop(link);
                remove(&pins)?;
                attach(program, target)?.pinned(target, &[])
            }
            Err(source) => Err(AttachError::NotTakenOver {
                interface: target.interface.to_owned(),
                frames: target.frames(),
                source,
            }),
        }
    }

    /// With a gap that cannot be avoided. If the mode that is asked for is refused, the former one is
    /// put back, with our program.
    fn swap(
        self,
        former: XdpMode,
        program: BorrowedFd<'_>,
        target: &Target<'_>,
    ) -> Result<Attached, AttachError> {
        let interface = target.interface;
        tracing::warn!(
            "{interface} is unfiltered for a moment: the filter on it is {former}, and the kernel \
             takes a program of another mode only when that one is gone; `--xdp-mode auto` keeps it"
        );
        let Self {
            link,
            info: _,
            pins,
        } = self;
        let ours = target.pins.map(|pins| pins.path(interface));
        // The link goes with its last pin and this descriptor.
        remove(&pins)?;
        if let Some(path) = ours {
            remove(&[path])?;
        }
        drop(link);
        let asked = attach(program, target);
        asked
            .and_then(|attached| attached.pinned(target, &[]))
            .map_err(|source| {
                let restored = XdpLink::create(program, target.ifindex, former)
                    .map_err(|error| error.to_string())
                    .and_then(|link| match target.pins {
                        Some(pins) => pins.pin(interface, &link).map_err(|error| error.to_string()),
                        None => Err("there is no BPF file system to pin it to".to_owned()),
                    });
                AttachError::ModeRefused {
                    interface: interface.to_owned(),
                    state: match restored {
                        Ok(()) => format!(
                            "It is filtered in {former} mode as before, with the lists of this start \
                             and without a daemon, until the next start or `packetwatch detach \
                             --interface {interface}`"
                        ),
                        Err(error) => format!(
                            "IT IS NOT FILTERED NOW: {former} mode could not be put back ({error}); \
                             start with `--xdp-mode auto`"
                        ),
                    },
                    source: Box::new(source),
                }
            })
    }
}

impl Attached {
    /// Pins it where this build looks for it, and removes the pins that it had before, in this order.
    pub(super) fn pinned(
        self,
        target: &Target<'_>,
        before: &[PathBuf],
    ) -> Result<Self, AttachError> {
        let Some(pins) = target.pins else {
            return Ok(self);
        };
        // A filter without pins is better than none: who looks after them tells of it, and pins it as
        // soon as there is a BPF file system again.
        if !pins.are_on_bpffs() {
            return Ok(self);
        }
        let path = pins.path(target.interface);
        if !pins
            .is_pinned(target.interface, &self.link)
            .unwrap_or(false)
        {
            // One interface takes one link, so another that claims its index is elsewhere.
            let ours = self.link.info().map(|info| info.id).ok();
            pins.kept()
                .into_iter()
                .filter(|kept| kept.info.ifindex == target.ifindex && Some(kept.info.id) != ours)
                .for_each(tidy::let_go);
            pins.pin(target.interface, &self.link)?;
        }
        for former in before.iter().filter(|former| **former != path) {
            remove(std::slice::from_ref(former))?;
            tracing::info!(
                "{} is taken over from another build of packetwatch: {} is now {}",
                target.interface,
                former.display(),
                path.display()
            );
        }
        if before.iter().any(|former| *former != path) {
            pins.remove_empty();
        }
        Ok(self)
    }
}

fn remove(paths: &[PathBuf]) -> Result<(), AttachError> {
    paths.iter().try_for_each(|path| {
        pins::remove(path).map_err(|source: io::Error| AttachError::Pin {
            operation: "remove",
            path: path.clone(),
            source,
        })
    })
}
