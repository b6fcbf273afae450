//! The table of filtered interfaces, and of those that ought to be.
//!
//! The configuration names interfaces; a link belongs to the interface itself. So an interface that
//! is renamed stays filtered and is shown under its new name, and whichever interface bears a
//! configured name is the configured one. One that was removed keeps its place in the table, with
//! its row of counters, until it comes back.

use std::path::PathBuf;

use aya::maps::MapData;
use packetwatch_abi::MAX_INTERFACES;

use super::{Holder, Interface, hold::Hold, link::XdpLink, pinned::PinnedMaps, pins::Pins};

/// What holds the filter on an interface. Dropping it lets go, but for a pin.
pub(super) struct Held {
    pub(super) link: XdpLink,
    pub(super) hold: Hold,
    /// An earlier process had left the filter, and this one took it over.
    pub(super) was_kept: bool,
}

pub(super) struct Seat {
    pub(super) interface: Interface,
    /// row of the outcome counters
    pub(super) slot: u32,
    pub(super) held: Option<Held>,
    /// Who kept us off it at the last attempt, which a search of the host has found out.
    pub(super) holder: Option<Box<Holder>>,
}

pub(super) struct Links {
    pub(super) pins: Option<Pins>,
    /// what is pinned beside each link; `None` in tests of this table
    pub(super) maps: Option<PinnedMaps>,
    /// the program arrays by name, to be pinned beside each link; none where nothing is chained
    pub(super) chain: Vec<(&'static str, MapData)>,
    /// who held interfaces when the process could still find out
    holders: Vec<Holder>,
    /// the names to filter, in the order in which they were asked for
    configured: Vec<String>,
    pub(super) seats: Vec<Seat>,
    /// slots below it have been used
    used: u32,
}

impl Links {
    pub(super) fn new(pins: Option<Pins>, maps: Option<PinnedMaps>, holders: Vec<Holder>) -> Self {
        Self {
            pins,
            maps,
            chain: Vec::new(),
            holders,
            configured: Vec::new(),
            seats: Vec::new(),
            used: 0,
        }
    }

    pub(super) fn pin_dir(&self) -> Option<PathBuf> {
        self.pins.as_ref().map(|pins| pins.dir())
    }

    /// Row of the outcome counters and name of each interface.
    pub(super) fn slots(&self) -> Vec<(u32, String)> {
        self.seats
            .iter()
            .map(|seat| (seat.slot, seat.interface.name.clone()))
            .collect()
    }

    /// Who kept us off an interface when we tried last, or held a program of this id at the start.
    pub(super) fn holder(&self, name: &str, program_id: u32) -> Option<Box<Holder>> {
        let tried = self.named(name);
        let tried = tried.and_then(|index| self.seats[index].holder.clone());
        let is_it = |holder: &Holder| holder.program_id == program_id;
        tried.filter(|holder| is_it(holder)).or_else(|| {
            let known = self.holders.iter().find(|holder| is_it(holder));
            known.cloned().map(Box::new)
        })
    }

    pub(super) fn with_index(&mut self, ifindex: u32) -> Option<&mut Seat> {
        self.seats
            .iter_mut()
            .find(|seat| ifindex != 0 && seat.interface.ifindex == ifindex)
    }

    pub(super) fn named(&self, name: &str) -> Option<usize> {
        self.seats
            .iter()
            .position(|seat| seat.interface.name == name)
    }

    /// The place of an interface, a new one if it has none: then it is configured from now on.
    /// Returns it with the slot whose counters are another interface's and to be cleared.
    pub(super) fn seat(&mut self, name: &str) -> (&mut Seat, Option<u32>) {
        let (index, stale) = match self.named(name) {
            Some(index) => (index, None),
            None => {
                if !self.configured.iter().any(|known| known == name) {
                    self.configured.push(name.to_owned());
                }
                self.take_place(name)
            }
        };
        (&mut self.seats[index], stale)
    }

    fn take_place(&mut self, name: &str) -> (usize, Option<u32>) {
        let is_free = |slot: &u32| self.seats.iter().all(|seat| seat.slot != *slot);
        let free = (0..MAX_INTERFACES as u32).find(is_free);
        // Beyond them all share the row of interfaces that the policy does not name.
        let slot = free.unwrap_or(MAX_INTERFACES as u32);
        let stale = free.filter(|slot| *slot < self.used);
        self.used = self.used.max(slot + 1);
        self.seats.push(Seat {
            interface: Interface::missing(name),
            slot,
            held: None,
            holder: None,
        });
        (self.seats.len() - 1, stale)
    }

    /// Brings table and configuration together again, after names have changed or interfaces gone:
    /// whoever bears a configured name is the configured one; a configured interface that was
    /// renamed stays it until another bears its name; every configured name has a place. Returns
    /// slots to be cleared.
    pub(super) fn settle(&mut self) -> Vec<u32> {
        // Of two places of one name the filtered one is the interface.
        let filtered: Vec<(u32, String)> = self
            .seats
            .iter()
            .filter(|seat| seat.held.is_some())
            .map(|seat| (seat.slot, seat.interface.name.clone()))
            .collect();
        self.seats.retain(|seat| {
            let is_other =
                |(slot, name): &(u32, String)| *slot != seat.slot && *name == seat.interface.name;
            seat.held.is_some() || !filtered.iter().any(is_other)
        });
        let mut stale = Vec::new();
        let mut former: Vec<Option<String>> = self
            .seats
            .iter_mut()
            .map(|seat| seat.interface.configured.take())
            .collect();
        for name in self.configured.clone() {
            let index = match self.named(&name) {
                Some(index) => index,
                None => {
                    let keeps = |index: &usize| {
                        let bears = &self.seats[*index].interface;
                        former[*index].as_ref() == Some(&name)
                            && bears.configured.is_none()
                            && !self.configured.contains(&bears.name)
                    };
                    let found = (0..self.seats.len()).find(keeps);
                    found.unwrap_or_else(|| {
                        let (index, slot) = self.take_place(&name);
                        stale.extend(slot);
                        former.push(None);
                        index
                    })
                }
            };
            self.seats[index].interface.configured = Some(name);
        }
        self.seats
            .retain(|seat| seat.held.is_some() || seat.interface.configured.is_some());
        stale
    }
}

impl Drop for Links {
    /// A start that failed leaves no empty directory.
    fn drop(&mut self) {
        self.seats.clear();
        if let Some(pins) = &self.pins {
            pins.remove_empty();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(configured: &[&str]) -> Links {
        let mut links = Links::new(None, None, Vec::new());
        for name in configured {
            links.seat(name);
        }
        links.settle();
        links
    }

    fn rename(links: &mut Links, from: &str, to: &str) {
        let index = links.named(from).unwrap();
        links.seats[index].interface.name = to.to_owned();
    }

    /// name, configured as, slot
    fn shown(links: &Links) -> Vec<(&str, Option<&str>, u32)> {
        links
            .seats
            .iter()
            .map(|seat| {
                let Interface {
                    name, configured, ..
                } = &seat.interface;
                (name.as_str(), configured.as_deref(), seat.slot)
            })
            .collect()
    }

    #[test]
    fn a_renamed_interface_is_the_configured_one_until_another_bears_the_name() {
        let mut links = table(&["eth0"]);
        rename(&mut links, "eth0", "wan0");
        assert!(links.settle().is_empty());
        assert_eq!(shown(&links), [("wan0", Some("eth0"), 0)]);
        links.seat("eth0");
        links.settle();
        // Without a link nothing keeps the one that is configured no more.
        assert_eq!(shown(&links), [("eth0", Some("eth0"), 1)]);
    }

    #[test]
    fn exchanged_names_exchange_the_roles() {
        let mut links = table(&["eth0", "wan0"]);
        rename(&mut links, "eth0", "between");
        rename(&mut links, "wan0", "eth0");
        rename(&mut links, "between", "wan0");
        assert!(links.settle().is_empty());
        let expected = [("wan0", Some("wan0"), 0), ("eth0", Some("eth0"), 1)];
        assert_eq!(shown(&links), expected);
    }

    #[test]
    fn attaching_anew_configures_no_other_name() {
        let mut links = table(&["eth0"]);
        rename(&mut links, "eth0", "wan0");
        links.seat("wan0");
        links.settle();
        assert_eq!(shown(&links), [("wan0", Some("eth0"), 0)]);
    }

    #[test]
    fn a_slot_that_another_had_is_cleared() {
        let mut links = table(&["eth0"]);
        assert_eq!(links.seat("wan0").1, None);
        links.seats.remove(0);
        links.settle();
        let slots: Vec<u32> = links.seats.iter().map(|seat| seat.slot).collect();
        assert_eq!(slots, [1, 0]);
        links.seats.retain(|seat| seat.slot != 0);
        assert_eq!(links.settle(), [0]);
    }

    #[test]
    fn beyond_the_slots_all_share_the_last_row() {
        let names: Vec<String> = (0..MAX_INTERFACES + 2).map(|n| format!("eth{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let links = table(&names);
        let shared = |seat: &&Seat| seat.slot == MAX_INTERFACES as u32;
        assert_eq!(links.seats.iter().filter(shared).count(), 2);
    }
}
