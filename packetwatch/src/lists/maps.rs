//! The kernel side of the lists.

use ipnet::IpNet;
use packetwatch_abi::{Standing, Tally};

use crate::dataplane::{Ban, Change, Dataplane, Differences, Error, Region};

/// The maps that the lists are projected into.
///
/// Removing or forgetting what is not there is no error. Times are CLOCK_MONOTONIC nanoseconds.
pub trait Maps: Send + Sync + 'static {
    /// Puts the standings of some regions in force, each with what covers it and what lies inside.
    fn set_standings(&self, regions: Vec<(Region, Vec<(IpNet, Standing)>)>) -> Change;
    /// All at once: no packet sees a mixture of the former standings and these, which are in order.
    fn replace_standings(&self, nodes: &[(IpNet, Standing)]) -> Result<(), Error>;
    /// How what the kernel judges by differs from these standings, in order.
    fn compare_standings(&self, nodes: &[(IpNet, Standing)]) -> Result<Differences, Error>;
    /// Whether nobody but [`Maps::set_standings`] has written what the kernel judges by.
    fn standings_as_written(&self) -> bool;
    /// Whether what [`Maps::set_standings`] writes is what the kernel judges by.
    fn lists_in_force(&self) -> Result<bool, Error>;
    /// What the entry with this slot decided on, over all CPUs.
    fn list_hits(&self, slot: u32) -> Result<Tally, Error>;
    fn clear_list_hits(&self, slot: u32) -> Result<(), Error>;
    /// Bans until `until_ns`, or moves the end of a ban there.
    fn ban(&self, prefix: IpNet, until_ns: u64) -> Result<(), Error>;
    /// The deadline of a ban as it was written last.
    fn ban_until(&self, prefix: IpNet) -> Option<u64>;
    fn ban_of(&self, prefix: IpNet) -> Result<Option<Ban>, Error>;
    fn remove_ban(&self, prefix: IpNet) -> Result<(), Error>;
    /// Whether nobody but [`Maps::ban`] and [`Maps::remove_ban`] has written the bans.
    fn bans_as_written(&self) -> Result<bool, Error>;
    /// Removes what stands among the bans and is none, and returns what that was: foreign, all of it.
    fn remove_stray_bans(&self) -> Result<Differences, Error>;
    /// Visits all bans with their deadlines, ended ones too, in no order. The deadline of what
    /// [`Maps::ban`] has not written is 0.
    fn each_ban(&self, visit: &mut dyn FnMut(IpNet, u64)) -> Result<(), Error>;
    /// Bans that the program does not look for, though they stand; from now on it does.
    fn mend_ban_filter(&self) -> Vec<IpNet>;
    /// Forgets what was counted of a unit.
    fn forget_caller(&self, unit: IpNet) -> Result<(), Error>;
    /// What the lists of a filter say that an earlier process has left, as prefixes that do not
    /// overlap; empty when there is none.
    fn inherited_standings(&self) -> Result<Vec<(IpNet, Standing)>, Error>;
}

impl Maps for Dataplane {
    fn set_standings(&self, regions: Vec<(Region, Vec<(IpNet, Standing)>)>) -> Change {
        Self::set_standings(self, regions)
    }

    fn replace_standings(&self, nodes: &[(IpNet, Standing)]) -> Result<(), Error> {
        Self::replace_standings(self, nodes)
    }

    fn compare_standings(&self, nodes: &[(IpNet, Standing)]) -> Result<Differences, Error> {
        Self::compare_standings(self, nodes)
    }

    fn standings_as_written(&self) -> bool {
        Self::standings_as_written(self)
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

    fn ban_until(&self, prefix: IpNet) -> Option<u64> {
        Self::ban_until(self, prefix)
    }

    fn ban_of(&self, prefix: IpNet) -> Result<Option<Ban>, Error> {
        Self::ban_of(self, prefix)
    }

    fn remove_ban(&self, prefix: IpNet) -> Result<(), Error> {
        Self::remove_ban(self, prefix)
    }

    fn bans_as_written(&self) -> Result<bool, Error> {
        Self::bans_as_written(self)
    }

    fn remove_stray_bans(&self) -> Result<Differences, Error> {
        Self::remove_stray_bans(self)
    }

    fn each_ban(&self, visit: &mut dyn FnMut(IpNet, u64)) -> Result<(), Error> {
        Self::each_ban(self, visit)
    }

    fn mend_ban_filter(&self) -> Vec<IpNet> {
        Self::mend_ban_filter(self)
    }

    fn forget_caller(&self, unit: IpNet) -> Result<(), Error> {
        Self::forget_caller(self, unit)
    }

    fn inherited_standings(&self) -> Result<Vec<(IpNet, Standing)>, Error> {
        Self::inherited_standings(self)
    }
}
