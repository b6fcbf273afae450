//! Attaching to interfaces: native where the driver can, else generic, and pinned.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use super::{
    AttachError, AttachMode, Dataplane, Error, Holder, Interface, Present, State, XdpMode, hold,
    link::XdpLink,
    links::{Held, Links},
    lock,
    pins::Pins,
    takeover::Former,
    tidy,
};

/// Where to attach, and how.
pub(super) struct Target<'a> {
    pub(super) interface: &'a str,
    pub(super) ifindex: u32,
    pub(super) mode: AttachMode,
    pub(super) present: Option<Present>,
    pub(super) pins: Option<&'a Pins>,
    /// The program takes frames of several buffers.
    pub(super) has_frags: bool,
    /// whose program it is, if that is known
    holder: Option<Box<Holder>>,
}

impl Target<'_> {
    /// For an error: what may be the matter with a program that takes single buffers alone.
    pub(super) fn frames(&self) -> &'static str {
        if self.has_frags {
            return "";
        }
        "; the chained program, and so the filter, takes no frames of several buffers, without which \
         drivers refuse an MTU beyond some 3500 bytes: give it a section `xdp.frags`, or lower the MTU"
    }

    fn holder(&self, present: Present) -> Box<Holder> {
        self.holder.clone().unwrap_or_else(|| {
            let found = Holder::find(self.interface, self.ifindex, present, self.pins);
            Box::new(found)
        })
    }
}

pub(super) struct Attached {
    pub(super) link: XdpLink,
    /// `None` for a filter that was taken over, when nobody knows
    pub(super) mode: Option<XdpMode>,
    pub(super) not_native: Option<String>,
}

impl Dataplane {
    /// Attaches to an interface on which is what `present` says. A filter that is there already, of
    /// an earlier process or our own that somebody else put a program into, is replaced in one step,
    /// so that no packet passes unjudged.
    ///
    /// # Errors
    /// There is no such interface, another program holds it, or the driver cannot. What was filtered
    /// before stays so.
    pub fn attach(
        &self,
        interface: &str,
        mode: AttachMode,
        present: Option<Present>,
    ) -> Result<Interface, AttachError> {
        let mut links = lock(&self.0.links);
        let attached = self.attach_in(&mut links, interface, mode, present);
        if let Err(error) = &attached {
            let (seat, _) = links.seat(interface);
            seat.holder = match error {
                AttachError::Held { holder, .. } => Some(holder.clone()),
                _ => None,
            };
            seat.interface.lose(error.state(), Some(error.to_string()));
        }
        for slot in links.settle() {
            self.clear_outcomes(slot);
        }
        attached
    }

    fn attach_in(
        &self,
        links: &mut Links,
        name: &str,
        mode: AttachMode,
        present: Option<Present>,
    ) -> Result<Interface, AttachError> {
        let ifindex = nix::net::if_::if_nametoindex(name)
            .map_err(|_| AttachError::NoSuchInterface(name.to_owned()))?;
        let ours = links.with_index(ifindex).and_then(|seat| seat.held.take());
        let target = Target {
            interface: name,
            ifindex,
            mode,
            present,
            pins: links.pins.as_ref(),
            has_frags: self.variant().has_frags(),
            holder: present.and_then(|present| links.holder(name, present.program_id)),
        };
        let (former, hold, was_kept) = match ours {
            Some(Held {
                link,
                hold,
                was_kept,
            }) => (Former::of_ours(link), hold, was_kept),
            None => {
                let mut inheritance = lock(&self.0.inheritance);
                let taken = inheritance.as_mut().and_then(|i| i.take_hold(name));
                let hold = taken.map_or_else(|| hold::here(name), Ok)?;
                drop(inheritance);
                if let Some(pins) = target.pins {
                    tidy::follow_names(pins, name);
                }
                let kept = Former::kept_on(&target);
                let was_kept = kept.is_some();
                (kept, hold, was_kept)
            }
        };
        links.announce_chain(name);
        let attached = self.with_program_fd(name, |program| match former {
            Some(former) => former.take_over(program, &target),
            None => attach(program, &target)?.pinned(&target, &[]),
        });
        match &attached {
            // A mode that is refused leaves this program in the former one.
            Ok(_) | Err(AttachError::ModeRefused { .. }) => {
                links.adopt_chain(name);
                links.pin_maps(name);
            }
            Err(_) => links.withdraw_chain(name),
        }
        let Attached {
            link,
            mode,
            not_native,
        } = attached?;
        let program_id = link.info().map(|info| info.program_id).unwrap_or_default();
        let (seat, stale) = links.seat(name);
        let known = &mut seat.interface;
        known.state = State::Attached;
        known.ifindex = ifindex;
        known.mode = mode;
        if mode.is_some() {
            known.not_native = not_native;
        }
        known.program_id = program_id;
        known.error = None;
        let attached = known.clone();
        seat.held = Some(Held {
            link,
            hold,
            was_kept,
        });
        if let Some(inheritance) = lock(&self.0.inheritance).as_mut() {
            inheritance.attached();
        }
        if let Some(slot) = stale {
            self.clear_outcomes(slot);
        }
        Ok(attached)
    }

    fn with_program_fd<T>(
        &self,
        interface: &str,
        run: impl FnOnce(BorrowedFd<'_>) -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        let ran = self.with_program(|program| {
            let program = program.fd().map_err(|source| Error::Refused {
                reason: source.to_string(),
                source: Box::new(source),
            })?;
            Ok(run(program.as_fd()))
        });
        ran.unwrap_or_else(|error| {
            Err(AttachError::Failed {
                interface: interface.to_owned(),
                mode: "any",
                source: io::Error::other(error),
            })
        })
    }
}

/// Attaches where nothing is.
pub(super) fn attach(
    program: BorrowedFd<'_>,
    target: &Target<'_>,
) -> Result<Attached, AttachError> {
    let not_native = match target.mode {
        AttachMode::Generic => None,
        AttachMode::Native | AttachMode::Auto => {
            match attach_as(program, target, XdpMode::Native) {
                Ok(link) => {
                    return Ok(Attached {
                        link,
                        mode: Some(XdpMode::Native),
                        not_native: None,
                    });
                }
                Err(error @ AttachError::NotNative { .. }) if target.mode == AttachMode::Auto => {
                    Some(error.to_string())
                }
                Err(error) => return Err(error),
            }
        }
    };
    Ok(Attached {
        link: attach_as(program, target, XdpMode::Generic)?,
        mode: Some(XdpMode::Generic),
        not_native,
    })
}

fn attach_as(
    program: BorrowedFd<'_>,
    target: &Target<'_>,
    mode: XdpMode,
) -> Result<XdpLink, AttachError> {
    XdpLink::create(program, target.ifindex, mode).map_err(|source| explain(target, mode, source))
}

fn explain(target: &Target<'_>, mode: XdpMode, source: io::Error) -> AttachError {
    let interface = target.interface.to_owned();
    match source.raw_os_error() {
        Some(libc::ENODEV) => AttachError::NoSuchInterface(interface),
        // EEXIST: held in the other mode
        Some(libc::EBUSY | libc::EEXIST) => match target.present {
            Some(present) => AttachError::Held {
                interface,
                holder: target.holder(present),
            },
            None => AttachError::HeldByAnother { interface },
        },
        Some(libc::EPERM) => AttachError::NotPermitted { interface },
        // What drivers answer when they cannot: no support, too few queues, MTU, offloads.
        Some(_) if mode == XdpMode::Native => AttachError::NotNative {
            interface,
            frames: target.frames(),
            source,
        },
        _ => AttachError::Failed {
            interface,
            mode: match mode {
                XdpMode::Native => "native",
                XdpMode::Generic => "generic",
            },
            source,
        },
    }
}
