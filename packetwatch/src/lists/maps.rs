//! The kernel side of the lists.

use ipnet::IpNet;
use packetwatch_abi::{Ban, Standing, Tally};

use crate::dataplane::{Dataplane, Error};

/// The maps that the lists are projected into.
///
/// Removing or forgetting what is not there is no error. Times are CLOCK_MONOTONIC nanoseconds.
pub trait Maps: Send + Sync + 'static {
    fn put_standing(&self, prefix: IpNet, standing: Standing) -> Result<(), Error>;
    fn remove_standing(&self, prefix: IpNet) -> Result<(), Error>;
    /// All at once: no packet sees a mixture of the former standings and these.
    fn replace_standings(&self, standings: Vec<(IpNet, Standing)>) -> Result<(), Error>;
    /// Visits what the kernel judges by, in no order; one may come twice if it changes meanwhile.
    fn each_standing(&self, visit: &mut dyn FnMut(IpNet, Standing)) -> Result<(), Error>;
    /// Whether what [`Maps::put_standing`] writes is what the kernel judges by.
    fn lists_in_force(&self) -> Result<bool, Error>;
    /// What the entry with this slot decided on, over all CPUs.
    fn list_hits(&self, slot: u32) -> Result<Tally, Error>;
    fn clear_list_hits(&self, slot: u32) -> Result<(), Error>;
    /// Bans until `until_ns`, or moves the end of a ban there.
    fn ban(&self, prefix: IpNet, until_ns: u64) -> Result<(), Error>;
    fn ban_of(&self, prefix: IpNet) -> Result<Option<Ban>, Error>;
    fn remove_ban(&self, prefix: IpNet) -> Result<(), Error>;
    /// Visits all bans, ended ones too, in no order.
    fn each_ban(&self, visit: &mut dyn FnMut(IpNet, Ban)) -> Result<(), Error>;
    /// Forgets what was counted of a unit.
    fn forget_caller(&self, unit: IpNet) -> Result<(), Error>;
}

impl Maps for Dataplane {
    fn put_standing(&self, prefix: IpNet, standing: Standing) -> Result<(), Error> {
        Self::put_standing(self, prefix, standing)
    }

    fn remove_standing(&self, prefix: IpNet) -> Result<(), Error> {
        Self::remove_standing(self, prefix)
    }

    fn replace_standings(&self, standings: Vec<(IpNet, Standing)>) -> Result<(), Error> {
        Self::replace_standings(self, standings)
    }

    fn each_standing(&self, visit: &mut dyn FnMut(IpNet, Standing)) -> Result<(), Error> {
        Self::each_standing(self, visit)
    }

    fn lists_in_force(&self) -> Result<bool, Error> {
        Self::lists_in_force(self)
    }

    fn list_hits(&self, slot: u32) -> Result<Tally, Error> {
        Self::list_hits(self, slot)
    }

    fn clear_list_hits(&self, slot: u32) -> Result<(), Error> {
        Self::clear_list_hits(self, slot)
    }

    fn ban(&self, prefix: IpNet, until_ns: u64) -> Result<(), Error> {
        Self::ban(self, prefix, until_ns)
    }

    fn ban_of(&self, prefix: IpNet) -> Result<Option<Ban>, Error> {
        Self::ban_of(self, prefix)
    }

    fn remove_ban(&self, prefix: IpNet) -> Result<(), Error> {
        Self::remove_ban(self, prefix)
    }

    fn each_ban(&self, visit: &mut dyn FnMut(IpNet, Ban)) -> Result<(), Error> {
        Self::each_ban(self, visit)
    }

    fn forget_caller(&self, unit: IpNet) -> Result<(), Error> {
        Self::forget_caller(self, unit)
    }
}
