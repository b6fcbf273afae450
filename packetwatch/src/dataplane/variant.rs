//! Which of our programs is in force: the filter alone, or one of the two before a chained program.
//!
//! A running daemon may load no program (it has given CAP_PERFMON up), and what is pinned later may be of
//! either kind. So where a chain is asked for both are loaded at the start, over the same maps, and
//! the one takes the other's place under each link.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd},
};

use aya::{Ebpf, programs::Xdp};

use super::{
    Dataplane, Error,
    links::{Held, Seat},
    lock,
    object::refused,
};

/// One of the programs in the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// The filter, and nobody behind it.
    Alone,
    /// Before one that takes frames of several buffers, as from a section `xdp.frags`.
    Frags,
    /// Before one that takes frames of a single buffer alone, as from a section `xdp`.
    SingleBuffer,
}

impl Variant {
    /// Those before a chained program.
    pub(super) const CHAINING: [Self; 2] = [Self::Frags, Self::SingleBuffer];

    const ALL: [Self; 3] = [Self::Alone, Self::Frags, Self::SingleBuffer];

    const fn name(self) -> &'static str {
        match self {
            Self::Alone => "packetwatch",
            Self::Frags => "packetwatch_mb",
            Self::SingleBuffer => "packetwatch_sb",
        }
    }

    /// Before one of the other kind.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Alone => Self::Alone,
            Self::Frags => Self::SingleBuffer,
            Self::SingleBuffer => Self::Frags,
        }
    }

    /// Whether drivers can give it frames of several buffers.
    pub(super) fn has_frags(self) -> bool {
        self != Self::SingleBuffer
    }
}

/// Whether a program on this host is called as ours are.
pub(super) fn is_ours(name: &str) -> bool {
    Variant::ALL.iter().any(|variant| variant.name() == name)
}

/// The programs that this process has loaded.
pub(super) struct Programs {
    ebpf: Ebpf,
    in_force: Variant,
}

impl Programs {
    /// `in_force` is loaded.
    pub(super) fn new(ebpf: Ebpf, in_force: Variant) -> Self {
        Self { ebpf, in_force }
    }

    fn descriptor(&self, variant: Variant) -> Result<BorrowedFd<'_>, Error> {
        let program = self.ebpf.program(variant.name());
        let program: &Xdp = program
            .ok_or(Error::Missing("program"))?
            .try_into()
            .map_err(refused)?;
        program.fd().map(|fd| fd.as_fd()).map_err(refused)
    }
}

/// Loads programs of an object.
///
/// # Errors
/// The verifier refuses one.
pub(super) fn load(ebpf: &mut Ebpf, variants: &[Variant]) -> Result<(), Error> {
    variants
        .iter()
        .try_for_each(|variant| find(ebpf, *variant)?.load().map_err(refused))
}

fn find(ebpf: &mut Ebpf, variant: Variant) -> Result<&mut Xdp, Error> {
    let program = ebpf.program_mut(variant.name());
    let program = program.ok_or(Error::Missing("program"))?;
    program.try_into().map_err(refused)
}

/// An interface whose driver refuses a variant.
pub(super) struct Objection {
    pub(super) interface: String,
    /// bytes; `None` until the kernel was asked
    pub(super) mtu: Option<u32>,
    pub(super) source: io::Error,
}

impl Objection {
    /// It is not of the program, and the next attempt may do.
    pub(super) fn is_passing(&self) -> bool {
        let errno = self.source.raw_os_error();
        matches!(errno, Some(libc::ENOMEM | libc::EAGAIN | libc::EINTR))
    }
}

impl Dataplane {
    pub(super) fn variant(&self) -> Variant {
        lock(&self.0.programs).in_force
    }

    pub(super) fn with_program<T>(
        &self,
        run: impl FnOnce(&mut Xdp) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let mut programs = lock(&self.0.programs);
        let in_force = programs.in_force;
        run(find(&mut programs.ebpf, in_force)?)
    }

    /// Puts another variant under each link (`BPF_LINK_UPDATE`), at no moment none: on all interfaces,
    /// or, if the driver of one objects, on none of them.
    ///
    /// # Errors
    /// It is not loaded.
    pub(super) fn put_in_force(&self, variant: Variant) -> Result<Option<Objection>, Error> {
        let mut links = lock(&self.0.links);
        let mut programs = lock(&self.0.programs);
        let next = programs.descriptor(variant)?;
        let former = programs.descriptor(programs.in_force)?;
        let mut replaced: Vec<&mut Seat> = Vec::new();
        for seat in &mut links.seats {
            let Some(Held { link, .. }) = &seat.held else {
                continue;
            };
            match link.update(next) {
                Ok(()) => replaced.push(seat),
                // It is dead, which the look at the interfaces finds.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(source) => {
                    let links = replaced.iter().filter_map(|seat| seat.held.as_ref());
                    for Held { link, .. } in links {
                        // One that does not go back filters on, and is found as another's program is.
                        let _ = link.update(former);
                    }
                    return Ok(Some(Objection {
                        interface: seat.interface.name.clone(),
                        mtu: seat.interface.mtu,
                        source,
                    }));
                }
            }
        }
        for Seat {
            interface, held, ..
        } in replaced
        {
            let info = held.as_ref().and_then(|held| held.link.info().ok());
            interface.program_id = info.map_or(interface.program_id, |info| info.program_id);
        }
        programs.in_force = variant;
        Ok(None)
    }
}
