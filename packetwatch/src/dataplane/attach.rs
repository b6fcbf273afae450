//! Attaching to interfaces: native where the driver can, else generic, and pinned.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use aya::programs::{
    ProgramError, Xdp,
    links::{FdLink, PinnedLink},
    xdp::{XdpLink, XdpMode as AyaMode},
};
use packetwatch_abi::MAX_INTERFACES;

use super::{
    AttachError, Dataplane, Error,
    error::Errno as _,
    lock,
    pins::{self, Hold, Pins},
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

/// An interface that is filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    pub name: String,
    pub ifindex: u32,
    /// `None` for a filter taken over from an earlier process, until the kernel was asked
    pub mode: Option<XdpMode>,
    pub program_id: u32,
    /// why native was not possible, where it was tried
    pub not_native: Option<String>,
}

enum Link {
    Pinned(PinnedLink),
    Own(FdLink),
}

struct Holding {
    attached: Attached,
    /// row of the outcome counters
    slot: u32,
    link: Link,
    _hold: Hold,
}

/// The attached interfaces, by name.
pub(super) struct Links {
    pins: Option<Pins>,
    held: BTreeMap<String, Holding>,
}

impl Links {
    pub(super) fn new(pins: Option<Pins>) -> Self {
        Self {
            pins,
            held: BTreeMap::new(),
        }
    }

    pub(super) fn pin_dir(&self) -> Option<PathBuf> {
        self.pins.as_ref().map(|pins| pins.dir().to_owned())
    }

    /// Row of the outcome counters and name of each interface.
    pub(super) fn slots(&self) -> Vec<(u32, String)> {
        self.held
            .values()
            .map(|holding| (holding.slot, holding.attached.name.clone()))
            .collect()
    }

    fn free_slot(&self) -> Option<u32> {
        (0..MAX_INTERFACES as u32).find(|slot| self.held.values().all(|held| held.slot != *slot))
    }
}

impl Dataplane {
    /// Attaches to an interface. A filter that an earlier process left there is replaced in one
    /// step, so that no packet passes unjudged.
    ///
    /// # Errors
    /// There is no such interface, another program holds it, or the driver cannot.
    pub fn attach(&self, interface: &str, mode: AttachMode) -> Result<Attached, AttachError> {
        let mut links = lock(&self.0.links);
        let ifindex = nix::net::if_::if_nametoindex(interface)
            .map_err(|_| AttachError::NoSuchInterface(interface.to_owned()))?;
        let slot = links.free_slot().unwrap_or(MAX_INTERFACES as u32);
        let hold = pins::hold(interface)?;
        let left = links
            .pins
            .as_ref()
            .and_then(|pins| pins.left_behind(interface));
        let attempt = self.with_program_link(interface, |program| {
            if let Some(link) = left.filter(|_| mode == AttachMode::Auto)
                && let Some(link) = take_over(program, link)
            {
                return Ok((link, None, None));
            }
            // A pin whose interface is gone, or a mode that is asked for, stands in the way.
            if let Some(pins) = &links.pins {
                let _ = pins.unpin(interface);
            }
            attach(program, interface, mode)
        })?;
        let (link, mode, not_native) = attempt;
        let program_id = link
            .info()
            .map(|info| info.program_id())
            .unwrap_or_default();
        let link = match &links.pins {
            Some(pins) => {
                let _ = pins.unpin(interface);
                Link::Pinned(pins.pin(interface, link)?)
            }
            None => Link::Own(link),
        };
        let attached = Attached {
            name: interface.to_owned(),
            ifindex,
            mode,
            program_id,
            not_native,
        };
        let holding = Holding {
            attached: attached.clone(),
            slot,
            link,
            _hold: hold,
        };
        links.held.insert(interface.to_owned(), holding);
        Ok(attached)
    }

    /// Lets go of an interface: detaches, or leaves the pinned filter in place.
    pub fn release(&self, interface: &str, keep: bool) -> Result<(), AttachError> {
        let Some(holding) = lock(&self.0.links).held.remove(interface) else {
            return Ok(());
        };
        match holding.link {
            Link::Pinned(_) if keep => Ok(()),
            Link::Pinned(link) => match link.unpin() {
                Ok(link) => {
                    drop(link);
                    Ok(())
                }
                Err(source) => Err(AttachError::Pin {
                    operation: "remove the pin of",
                    path: interface.into(),
                    source,
                }),
            },
            Link::Own(link) => {
                drop(link);
                Ok(())
            }
        }
    }

    /// What is filtered.
    pub fn interfaces(&self) -> Vec<Attached> {
        let links = lock(&self.0.links);
        links
            .held
            .values()
            .map(|held| held.attached.clone())
            .collect()
    }

    /// The interfaces by slot of the outcome counters, for the policy.
    pub fn interface_slots(&self) -> [u32; MAX_INTERFACES] {
        let mut slots = [0; MAX_INTERFACES];
        for holding in lock(&self.0.links).held.values() {
            if let Some(slot) = slots.get_mut(holding.slot as usize) {
                *slot = holding.attached.ifindex;
            }
        }
        slots
    }

    /// Notes what the kernel says of a filter that was taken over.
    pub fn note_mode(&self, interface: &str, mode: XdpMode) {
        if let Some(holding) = lock(&self.0.links).held.get_mut(interface) {
            holding.attached.mode = Some(mode);
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
