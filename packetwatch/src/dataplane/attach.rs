//! Attaching to interfaces: native where the driver can, else generic, and pinned.

use std::fmt;

use aya::programs::{
    ProgramError, Xdp,
    links::FdLink,
    xdp::{XdpLink, XdpMode as AyaMode},
};
use packetwatch_abi::MAX_INTERFACES;

use super::{
    AttachError, Dataplane, Error,
    error::Errno as _,
    links::{Held, Interface, Link, Links, Seat, State},
    lock,
    pins::{self, Pins},
};

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// native, and generic where the driver cannot
    #[default]
    Auto,
    Native,
    Generic,
}

/// What took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    Native,
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

impl Dataplane {
    /// Attaches to an interface. A filter that is there already, of an earlier process or our own
    /// that somebody else put a program into, is replaced in one step, so that no packet passes
    /// unjudged.
    ///
    /// # Errors
    /// There is no such interface, another program holds it, or the driver cannot.
    pub fn attach(&self, interface: &str, mode: AttachMode) -> Result<Interface, AttachError> {
        let mut links = lock(&self.0.links);
        let attached = self.attach_in(&mut links, interface, mode);
        if let Err(error) = &attached {
            let state = match error {
                AttachError::NoSuchInterface(_) => State::Missing,
                _ => State::Detached,
            };
            let (seat, _) = links.seat(interface);
            seat.interface.lose(state, Some(error.to_string()));
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
    ) -> Result<Interface, AttachError> {
        let ifindex = nix::net::if_::if_nametoindex(name)
            .map_err(|_| AttachError::NoSuchInterface(name.to_owned()))?;
        let ours = links.with_index(ifindex).and_then(|seat| seat.held.take());
        let (left, hold) = match ours {
            Some(Held { link, hold }) => (Some(link.into_fd()), hold),
            None => {
                let hold = pins::hold(name)?;
                // A mode that is asked for need not be the one that the earlier process chose.
                let pins = links.pins.as_ref().filter(|_| mode == AttachMode::Auto);
                (pins.and_then(|pins| pins.left_behind(name)), hold)
            }
        };
        let unpin = |pins: &Option<Pins>| pins.as_ref().map(|pins| pins.unpin(name));
        let (link, mode, not_native) = self.with_program_link(name, |program| {
            if let Some(link) = left.and_then(|link| take_over(program, link)) {
                return Ok((link, None, None));
            }
            // The pin of a link that is dead, or of another mode, stands in the way.
            let _ = unpin(&links.pins);
            attach(program, name, mode)
        })?;
        let program_id = link
            .info()
            .map(|info| info.program_id())
            .unwrap_or_default();
        let link = match &links.pins {
            Some(pins) => {
                let _ = pins.unpin(name);
                Link::Pinned(pins.pin(name, link)?)
            }
            None => Link::Own(link),
        };
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
        seat.held = Some(Held { link, hold });
        if let Some(slot) = stale {
            self.clear_outcomes(slot);
        }
        Ok(attached)
    }

    /// Lets go of an interface: detaches, or leaves the pinned filter in place. It is no longer
    /// shown.
    pub fn release(&self, interface: &str, keep: bool) -> Result<(), AttachError> {
        let mut links = lock(&self.0.links);
        let here = |seat: &Seat| seat.interface.name == interface;
        let Some(index) = links.seats.iter().position(here) else {
            return Ok(());
        };
        match links.seats.remove(index).held {
            Some(held) if !keep => let_go(held, interface),
            _ => Ok(()),
        }
    }

    /// Forgets the link of an interface that has left this namespace or was removed; wherever it
    /// is now, it is no longer filtered. Its place waits for it, if the configuration names it.
    pub fn lose(&self, interface: &str) {
        let mut links = lock(&self.0.links);
        for seat in &mut links.seats {
            if seat.interface.name == interface {
                // A link that is dead has no pin to speak of, and a failure changes nothing.
                let _ = seat.held.take().map(|held| let_go(held, interface));
                if let Some(name) = seat.interface.configured.clone() {
                    seat.interface.name = name;
                }
                seat.interface.lose(State::Missing, None);
            }
        }
        for slot in links.settle() {
            self.clear_outcomes(slot);
        }
    }

    /// Takes over the names that interfaces bear now, by index. Pins and locks go by name, so that
    /// `packetwatch detach` finds them; for the moment of the move the filter has no pin.
    pub fn rename(&self, names: &[(u32, String)]) {
        let mut links = lock(&self.0.links);
        let Links { pins, seats, .. } = &mut *links;
        let mut moving = Vec::new();
        // First all go, then all come: names may have been exchanged.
        for (ifindex, name) in names {
            for (index, seat) in seats.iter_mut().enumerate() {
                if seat.interface.ifindex == *ifindex && seat.interface.name != *name {
                    if let Some(pins) = pins {
                        let _ = pins.unpin(&seat.interface.name);
                    }
                    let held = seat.held.take();
                    moving.extend(held.map(|Held { link, hold }| (index, link.into_fd(), hold)));
                    seat.interface.name.clone_from(name);
                }
            }
        }
        let mut free = Vec::new();
        for (index, link, hold) in moving {
            drop(hold);
            free.push((index, link));
        }
        for (index, link) in free {
            let interface = &mut seats[index].interface;
            let held = pins::hold(&interface.name).and_then(|hold| {
                let link = match pins {
                    Some(pins) => {
                        let _ = pins.unpin(&interface.name);
                        Link::Pinned(pins.pin(&interface.name, link)?)
                    }
                    None => Link::Own(link),
                };
                Ok(Held { link, hold })
            });
            match held {
                Ok(held) => seats[index].held = Some(held),
                Err(error) => interface.lose(State::Detached, Some(error.to_string())),
            }
        }
        for slot in links.settle() {
            self.clear_outcomes(slot);
        }
    }

    /// Notes what the kernel says of an interface.
    pub fn note(&self, ifindex: u32, up: bool, mtu: u32) {
        if let Some(seat) = lock(&self.0.links).with_index(ifindex) {
            seat.interface.state = if up { State::Attached } else { State::Down };
            seat.interface.mtu = Some(mtu);
        }
    }

    /// What is filtered, and what is configured and cannot be.
    pub fn interfaces(&self) -> Vec<Interface> {
        let links = lock(&self.0.links);
        links
            .seats
            .iter()
            .map(|seat| seat.interface.clone())
            .collect()
    }

    /// The interfaces by slot of the outcome counters, for the policy.
    pub fn interface_slots(&self) -> [u32; MAX_INTERFACES] {
        let mut slots = [0; MAX_INTERFACES];
        for seat in &lock(&self.0.links).seats {
            if let Some(slot) = slots.get_mut(seat.slot as usize) {
                *slot = seat.interface.ifindex;
            }
        }
        slots
    }

    /// Notes what the kernel says of a filter that was taken over.
    pub fn note_mode(&self, ifindex: u32, mode: XdpMode) {
        if let Some(seat) = lock(&self.0.links).with_index(ifindex) {
            seat.interface.mode = Some(mode);
        }
    }

    fn with_program_link<T>(
        &self,
        interface: &str,
        run: impl FnOnce(&mut Xdp) -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        let mut result = None;
        let found = self.with_program(|program| {
            result = Some(run(program));
            Ok(())
        });
        match (found, result) {
            (Ok(()), Some(result)) => result,
            (Err(Error::Refused { source, .. }), _) => Err(AttachError::Failed {
                interface: interface.to_owned(),
                mode: "any",
                source,
            }),
            _ => Err(AttachError::NoSuchInterface(interface.to_owned())),
        }
    }
}

/// Detaches, and removes the pin.
fn let_go(held: Held, interface: &str) -> Result<(), AttachError> {
    let Held { link, hold: _hold } = held;
    match link {
        Link::Pinned(link) => link.unpin().map(drop).map_err(|source| AttachError::Pin {
            operation: "remove the pin of",
            path: interface.into(),
            source,
        }),
        Link::Own(link) => {
            drop(link);
            Ok(())
        }
    }
}

/// Puts our program under the link of an earlier process (`BPF_LINK_UPDATE`).
fn take_over(program: &mut Xdp, link: FdLink) -> Option<FdLink> {
    let link = XdpLink::try_from(link).ok()?;
    let id = program.attach_to_link(link).ok()?;
    FdLink::try_from(program.take_link(id).ok()?).ok()
}

type Attachment = (FdLink, Option<XdpMode>, Option<String>);

fn attach(program: &mut Xdp, interface: &str, mode: AttachMode) -> Result<Attachment, AttachError> {
    let native = match mode {
        AttachMode::Generic => None,
        AttachMode::Native | AttachMode::Auto => {
            match attach_as(program, interface, XdpMode::Native) {
                Ok(link) => return Ok((link, Some(XdpMode::Native), None)),
                Err(error @ AttachError::NotNative { .. }) if mode == AttachMode::Auto => {
                    Some(error.to_string())
                }
                Err(error) => return Err(error),
            }
        }
    };
    let link = attach_as(program, interface, XdpMode::Generic)?;
    Ok((link, Some(XdpMode::Generic), native))
}

fn attach_as(program: &mut Xdp, interface: &str, mode: XdpMode) -> Result<FdLink, AttachError> {
    let aya_mode = match mode {
        XdpMode::Native => AyaMode::Driver,
        XdpMode::Generic => AyaMode::Skb,
    };
    let attached = program
        .attach(interface, aya_mode)
        .and_then(|id| program.take_link(id));
    let link = attached.map_err(|error| explain(interface, mode, error))?;
    FdLink::try_from(link).map_err(|_| AttachError::Failed {
        interface: interface.to_owned(),
        mode: "without a BPF link",
        source: Box::new(ProgramError::UnexpectedProgramType),
    })
}

fn explain(interface: &str, mode: XdpMode, error: ProgramError) -> AttachError {
    let interface = interface.to_owned();
    match error.errno() {
        _ if matches!(error, ProgramError::UnknownInterface { .. }) => {
            AttachError::NoSuchInterface(interface)
        }
        Some(libc::ENODEV) => AttachError::NoSuchInterface(interface),
        // EEXIST: held in the other mode
        Some(libc::EBUSY | libc::EEXIST) => AttachError::Held { interface },
        Some(libc::EPERM) => AttachError::NotPermitted { interface },
        // What drivers answer when they cannot: no support, too few queues, MTU, offloads.
        Some(errno) if mode == XdpMode::Native => AttachError::NotNative {
            interface,
            source: std::io::Error::from_raw_os_error(errno),
        },
        _ => AttachError::Failed {
            interface,
            mode: match mode {
                XdpMode::Native => "native",
                XdpMode::Generic => "generic",
            },
            source: Box::new(error),
        },
    }
}
