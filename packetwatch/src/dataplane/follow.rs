//! Interfaces that are filtered, after they were attached to: let go of, lost, renamed, shown.

use std::{collections::BTreeSet, net::IpAddr};

use packetwatch_abi::MAX_INTERFACES;

use super::{
    AttachError, Dataplane, Interface, State, XdpMode, hold,
    links::{Held, Links, Seat},
    lock,
    pins::Pins,
    tidy,
};

impl Dataplane {
    /// Lets go of an interface: detaches, or leaves the pinned filter in place. It is no longer
    /// shown.
    pub fn release(&self, interface: &str, keep: bool) -> Result<(), AttachError> {
        let mut links = lock(&self.0.links);
        let here = |seat: &Seat| seat.interface.name == interface;
        let Some(index) = links.seats.iter().position(here) else {
            return Ok(());
        };
        match links.seats.remove(index).held {
            Some(held) if !keep => let_go(held, links.pins.as_ref()),
            _ => Ok(()),
        }
    }

    /// Whether an earlier process had left the filter of this interface.
    pub fn was_kept(&self, interface: &str) -> bool {
        let links = lock(&self.0.links);
        let mut seats = links.seats.iter();
        let seat = seats.find(|seat| seat.interface.name == interface);
        let held = seat.and_then(|seat| seat.held.as_ref());
        held.is_some_and(|held| held.was_kept)
    }

    /// Forgets the link of an interface that has left this namespace or was removed; wherever it
    /// is now, it is no longer filtered. Its place waits for it, if the configuration names it.
    pub fn lose(&self, interface: &str) {
        let mut links = lock(&self.0.links);
        let Links { pins, seats, .. } = &mut *links;
        for seat in seats {
            if seat.interface.name == interface {
                // A link that is dead has no pin to speak of, and a failure changes nothing.
                let _ = seat.held.take().map(|held| let_go(held, pins.as_ref()));
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
    /// `packetwatch detach` finds them; the filter is pinned at every moment of the move.
    pub fn rename(&self, names: &[(u32, String)]) {
        let mut links = lock(&self.0.links);
        let Links { pins, seats, .. } = &mut *links;
        let mut moving = Vec::new();
        let mut moves = Vec::new();
        // First all go, then all come: names may have been exchanged.
        for (ifindex, name) in names {
            for (index, seat) in seats.iter_mut().enumerate() {
                if seat.interface.ifindex == *ifindex && seat.interface.name != *name {
                    if let Some(pins) = pins {
                        let from = pins.path(&seat.interface.name);
                        moves.push((from, *ifindex, pins.path(name)));
                    }
                    let held = seat.held.take();
                    moving.extend(held.map(|held| (index, held)));
                    seat.interface.name.clone_from(name);
                }
            }
        }
        for error in tidy::relabel(&moves).into_iter().filter_map(Result::err) {
            tracing::warn!("{error}");
        }
        let mut free = Vec::new();
        for (
            index,
            Held {
                link,
                hold,
                was_kept,
            },
        ) in moving
        {
            drop(hold);
            free.push((index, link, was_kept));
        }
        for (index, link, was_kept) in free {
            let interface = &mut seats[index].interface;
            match hold::here(&interface.name) {
                Ok(hold) => {
                    seats[index].held = Some(Held {
                        link,
                        hold,
                        was_kept,
                    });
                }
                Err(error) => interface.lose(error.state(), Some(error.to_string())),
            }
        }
        for slot in links.settle() {
            self.clear_outcomes(slot);
        }
    }

    /// Notes what the kernel says of an interface; without addresses, what it has said of those stays.
    pub fn note(&self, ifindex: u32, up: bool, mtu: u32, addresses: Option<BTreeSet<IpAddr>>) {
        if let Some(seat) = lock(&self.0.links).with_index(ifindex) {
            let interface = &mut seat.interface;
            interface.state = if up { State::Attached } else { State::Down };
            interface.mtu = Some(mtu);
            interface.addresses = addresses.or(interface.addresses.take());
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
}

/// Detaches, and removes the pin and what was around it.
fn let_go(held: Held, pins: Option<&Pins>) -> Result<(), AttachError> {
    let Held {
        link, hold: _hold, ..
    } = held;
    let Some((pins, info)) = pins.zip(link.info().ok()) else {
        return Ok(());
    };
    // By the link: a pin that could not be renamed bears another name.
    let kept = pins.kept().into_iter();
    let removed = kept
        .filter(|kept| kept.info.id == info.id)
        .try_for_each(|kept| kept.remove());
    drop(link);
    pins.remove_empty();
    removed
}
