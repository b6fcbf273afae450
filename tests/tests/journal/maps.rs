//! No kernel: what the journal keeps is looked at alone.

use ipnet::IpNet;
use packetwatch::dataplane::{Ban, Change, Differences, Error, Region};
use packetwatch::lists::Maps;
use packetwatch_abi::{Standing, Tally};

/// Takes everything and holds nothing.
pub(crate) struct NoMaps;

impl Maps for NoMaps {
    fn set_standings(&self, _: Vec<(Region, Vec<(IpNet, Standing)>)>) -> Change {
        Change::Done
    }

    fn replace_standings(&self, _: &[(IpNet, Standing)]) -> Result<(), Error> {
        Ok(())
    }

    fn compare_standings(&self, _: &[(IpNet, Standing)]) -> Result<Differences, Error> {
        Ok(Differences::default())
    }

    fn mend_ban_filter(&self) -> Vec<IpNet> {
        Vec::new()
    }

    fn standings_as_written(&self) -> bool {
        true
    }

    fn lists_in_force(&self) -> Result<bool, Error> {
        Ok(true)
    }
    fn list_hits(&self, _: u32) -> Result<Tally, Error> {
        Ok(Tally::default())
    }
    fn clear_list_hits(&self, _: u32) -> Result<(), Error> {
        Ok(())
    }
    fn ban(&self, _: IpNet, _: u64) -> Result<(), Error> {
        Ok(())
    }
    fn ban_until(&self, _: IpNet) -> Option<u64> {
        None
    }
    fn ban_of(&self, _: IpNet) -> Result<Option<Ban>, Error> {
        Ok(None)
    }
    fn remove_ban(&self, _: IpNet) -> Result<(), Error> {
        Ok(())
    }
    fn bans_as_written(&self) -> Result<bool, Error> {
        Ok(true)
    }
    fn inherited_standings(&self) -> Result<Vec<(IpNet, Standing)>, Error> {
        Ok(Vec::new())
    }
    fn remove_stray_bans(&self) -> Result<Differences, Error> {
        Ok(Differences::default())
    }
    fn each_ban(&self, _: &mut dyn FnMut(IpNet, u64)) -> Result<(), Error> {
        Ok(())
    }
    fn forget_caller(&self, _: IpNet) -> Result<(), Error> {
        Ok(())
    }
}
