//! The policy in force: two slots and a switch.

use aya::{
    Ebpf,
    maps::{Array, MapData},
};
use packetwatch_abi::{POLICIES, Policy};

use super::{Dataplane, Error, error::map_error, lock, object::take};

/// Where the second pair begins.
const PAIR: u32 = POLICIES as u32 / 2;

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
        policies.put(&[Policy::idle(); 2])?;
        Ok(policies)
    }

    fn put(&mut self, pair: &[Policy; 2]) -> Result<(), Error> {
        let next = if self.active()? == 0 { PAIR } else { 0 };
        for (slot, policy) in (next..).zip(pair) {
            self.slots.set(slot, policy, 0).map_err(map_error(
                "POLICY",
                "write",
                POLICIES as u32,
            ))?;
        }
        self.active
            .set(0, next, 0)
            .map_err(map_error("ACTIVE", "write", 1))
    }

    /// The first slot of the pair in force.
    fn active(&self) -> Result<u32, Error> {
        self.active
            .get(&0, 0)
            .map_err(map_error("ACTIVE", "read", 1))
    }
}

impl Dataplane {
    /// Puts a policy in force with a single store, and behind it the one that takes its place at
    /// its end: no packet sees half of either.
    pub fn set_policies(&self, pair: &[Policy; 2]) -> Result<(), Error> {
        lock(&self.0.policies).put(pair)
    }

    /// The pair in force; `None` if somebody has switched to one that there is not.
    pub fn policies(&self) -> Result<Option<[Policy; 2]>, Error> {
        let policies = lock(&self.0.policies);
        let active = policies.active()?;
        if active != 0 && active != PAIR {
            return Ok(None);
        }
        let policy = |slot| {
            let policy = policies.slots.get(&slot, 0);
            policy.map_err(map_error("POLICY", "read", POLICIES as u32))
        };
        Ok(Some([policy(active)?, policy(active + 1)?]))
    }

    /// The program's time, where [`super::Options::clock_from_map`] asked for it.
    pub fn set_clock(&self, now: u64) -> Result<(), Error> {
        lock(&self.0.policies)
            .clock
            .set(0, now, 0)
            .map_err(map_error("CLOCK", "write", 1))
    }
}
