//! Filters that run on without a process: of interfaces that the one which started has not taken over.
//!
//! They judge by the lists, bans and rules of their own time, which nobody changes. Whether somebody
//! wants them is not for another process to say, so they stay until `packetwatch detach`; but they get
//! no share in the tables of the process that runs (`inherit.rs`): counting under other rules into the
//! same windows, the two would void each other's.

use super::{Dataplane, hold::try_hold, lock};

/// A filter that an earlier process has left, and no process has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// as it is called now
    pub interface: String,
    /// as `bpftool prog` shows it
    pub program_id: u32,
}

impl Dataplane {
    /// Those of this network namespace, by builds of whatever ABI version, in the order of their names.
    pub fn leftovers(&self) -> Vec<Leftover> {
        let links = lock(&self.0.links);
        let Some(pins) = &links.pins else {
            return Vec::new();
        };
        let is_ours = |ifindex| {
            let mut seats = links.seats.iter().filter(|seat| seat.held.is_some());
            seats.any(|seat| seat.interface.ifindex == ifindex)
        };
        let is_free = |name: &str| try_hold(name, pins.namespace()).is_ok();
        let kept = pins.kept().into_iter();
        let mut leftovers: Vec<_> = kept
            .filter(|kept| !is_ours(kept.info.ifindex))
            .filter_map(|kept| {
                let interface = kept.interface()?;
                (is_free(&kept.pinned_as) && is_free(&interface)).then_some(Leftover {
                    interface,
                    program_id: kept.info.program_id,
                })
            })
            .collect();
        leftovers.sort_by(|a, b| a.interface.cmp(&b.interface));
        leftovers
    }
}
