//! The policy in force: two slots and a switch.

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use packetwatch_abi::Policy;

use super::{Dataplane, Error, error::map_error, lock, object::take};

pub(super) struct Policies {
    slots: Array<MapData, Policy>,
    active: Array<MapData, u32>,
    clock: Array<MapData, u64>,
}

impl Policies {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let mut policies = Self {
            slots: take(ebpf, "POLICY")?,
            active: take(ebpf, "ACTIVE")?,
            clock: take(ebpf, "CLOCK")?,
        };
        policies.put(&Policy::idle())?;
        Ok(policies)
    }

    fn put(&mut self, policy: &Policy) -> Result<(), Error> {
        let next = u32::from(self.active()? == 0);
        self.slots
            .set(next, policy, 0)
            .map_err(map_error("POLICY", "write", 2))?;
        self.active
            .set(0, next, 0)
            .map_err(map_error("ACTIVE", "write", 1))
    }

    /// Number of the slot in force.
    fn active(&self) -> Result<u32, Error> {
        self.active
            .get(&0, 0)
            .map_err(map_error("ACTIVE", "read", 1))
    }
}

impl Dataplane {
    /// Puts a policy in force with a single store: no packet sees half of it.
    pub fn set_policy(&self, policy: &Policy) -> Result<(), Error> {
        lock(&self.0.policies).put(policy)
    }

    /// The policy in force; `None` if somebody has switched to one that there is not.
    pub fn policy(&self) -> Result<Option<Policy>, Error> {
        let policies = lock(&self.0.policies);
        let active = policies.active()?;
        if active >= policies.slots.len() {
            return Ok(None);
        }
        let policy = policies.slots.get(&active, 0);
        policy.map(Some).map_err(map_error("POLICY", "read", 2))
    }

    /// The program's time, where [`super::Options::clock_from_map`] asked for it.
    pub fn set_clock(&self, now: u64) -> Result<(), Error> {
        lock(&self.0.policies)
            .clock
            .set(0, now, 0)
            .map_err(map_error("CLOCK", "write", 1))
    }
}
