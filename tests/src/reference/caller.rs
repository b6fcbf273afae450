//! What is counted of a unit, and when that goes beyond a rule.

use std::net::IpAddr;

use ipnet::IpNet;
use packetwatch::rules::{Rule, Trigger};

use super::{
    Packet, Reference,
    limit::{self, Bucket},
    window::{Ports, Window},
};

const OFFENCE_REPEAT_NS: u64 = 100_000_000;

/// The counts of a unit.
#[derive(Clone, Debug)]
pub struct Caller {
    pub first_seen: u64,
    pub last_seen: u64,
    pub calls: u64,
    pub packets: u64,
    pub bytes: u64,
    pub dropped: u64,
    /// nothing from before counts: the end of the last ban, or the first packet under new rules;
    /// to the step ([`Ports::STEP`])
    pub since: u64,
    /// when it was last allowed: what it did until then counts for no rule
    pub allowed_at: Option<u64>,
    pub offence: Option<Offence>,
    pub generation: u32,
    /// one a rule
    pub windows: Vec<Window>,
    /// one a rule, for those that limit
    pub limits: Vec<Bucket>,
    pub ports: Ports,
}

/// A caller that went beyond a rule, as the rule loop is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offence {
    pub at: u64,
    pub unit: IpNet,
    pub source: IpAddr,
    /// index of the first rule that is reached
    pub rule: u32,
    pub destination_port: u16,
}

impl Reference {
    /// Counts what is counted of every packet, and starts anew after a ban or under other rules.
    pub(super) fn meet(
        &mut self,
        unit: IpNet,
        packet: &Packet,
        bytes: u64,
        ended: u64,
        allowed: bool,
    ) {
        let (now, generation) = (self.now, self.generation);
        let windows = || -> Vec<_> {
            let within = self.rules.iter().map(|rule| rule.within.as_nanos() as u64);
            within.map(Window::of).collect()
        };
        let caller = self.callers.entry(unit).or_insert_with(|| Caller {
            first_seen: now,
            last_seen: now,
            calls: 0,
            packets: 0,
            bytes: 0,
            dropped: 0,
            since: 0,
            allowed_at: None,
            offence: None,
            generation,
            windows: windows(),
            limits: vec![Bucket::default(); self.rules.len()],
            ports: Ports::default(),
        });
        if step(ended) > caller.since {
            caller.since = step(ended);
            caller.windows.iter_mut().for_each(Window::clear);
        }
        if caller.generation != generation {
            caller.generation = generation;
            caller.since = step(now);
            caller.windows = windows();
            caller.limits = vec![Bucket::default(); self.rules.len()];
            caller.ports = Ports::default();
        }
        if allowed {
            caller.allowed_at = Some(now);
        } else if let Some(allowed_at) = caller.allowed_at
            && step(allowed_at + Ports::STEP) > caller.since
        {
            caller.since = step(allowed_at + Ports::STEP);
            caller.windows.iter_mut().for_each(Window::clear);
        }
        caller.last_seen = now;
        caller.packets += 1;
        caller.bytes += bytes;
        caller.calls += u64::from(packet.call);
    }

    /// The first of `rules` that looks at this packet and whose N lie in the window already.
    pub(super) fn reached(&self, unit: IpNet, packet: &Packet, rules: &[usize]) -> Option<usize> {
        let caller = &self.callers[&unit];
        let mut banning = rules.iter().copied().filter(|n| self.rules[*n].bans());
        banning.find(|index| {
            let Rule {
                trigger, within, ..
            } = &self.rules[*index];
            let counted = || caller.windows[*index].count(self.now);
            let within = within.as_nanos() as u64;
            match *trigger {
                Trigger::DistinctPorts(n) => {
                    packet.call && caller.ports.count(self.now, caller.since, within) >= n
                }
                Trigger::Connections(n) => packet.call && counted() >= n,
                Trigger::Packets(n) | Trigger::Bytes(n) => counted() >= n,
            }
        })
    }

    /// Remembers an offence; `None` if it was told a moment ago.
    pub(super) fn offend(&mut self, unit: IpNet, packet: &Packet, rule: usize) -> Option<Offence> {
        let now = self.now;
        let caller = self.callers.get_mut(&unit).expect("just met");
        let recent =
            |last: Offence| step(last.at) > caller.since && now - last.at < OFFENCE_REPEAT_NS;
        if caller.offence.is_some_and(recent) {
            return None;
        }
        caller.offence = Some(Offence {
            at: now,
            unit,
            source: packet.source,
            rule: rule as u32,
            destination_port: packet.destination_port,
        });
        caller.offence
    }

    /// Takes a packet from the limits among `rules`; `false`, and it is taken from none, if one of
    /// them is spent.
    pub(super) fn take(
        &mut self,
        unit: IpNet,
        packet: &Packet,
        bytes: u64,
        rules: &[usize],
    ) -> bool {
        for (n, index) in rules.iter().enumerate() {
            let rule = &self.rules[*index];
            let Some(amount) = limit::amount(rule, packet, bytes).filter(|_| !rule.bans()) else {
                continue;
            };
            let caller = self.callers.get_mut(&unit).expect("just met");
            if !caller.limits[*index].take(rule, amount, self.now) {
                self.give_back(unit, packet, bytes, &rules[..n]);
                return false;
            }
        }
        true
    }

    /// Gives back what was taken from limits.
    pub(super) fn give_back(&mut self, unit: IpNet, packet: &Packet, bytes: u64, rules: &[usize]) {
        let caller = self.callers.get_mut(&unit).expect("just met");
        for index in rules {
            let rule = &self.rules[*index];
            if let Some(amount) = limit::amount(rule, packet, bytes).filter(|_| !rule.bans()) {
                caller.limits[*index].give_back(rule, amount);
            }
        }
    }

    /// Adds a packet that passes to the windows of `rules`, and a call's port to the ports.
    pub(super) fn note(&mut self, unit: IpNet, packet: &Packet, bytes: u64, rules: &[usize]) {
        let caller = self.callers.get_mut(&unit).expect("just met");
        for index in rules.iter().filter(|index| self.rules[**index].bans()) {
            let amount = match self.rules[*index].trigger {
                Trigger::DistinctPorts(_) => 0,
                Trigger::Connections(_) => u64::from(packet.call),
                Trigger::Packets(_) => 1,
                Trigger::Bytes(_) => bytes,
            };
            caller.windows[*index].add(self.now, amount);
        }
        if packet.call {
            caller.ports.note(packet.destination_port, self.now);
        }
    }
}

/// The beginning of the step that a time lies in.
fn step(at: u64) -> u64 {
    at - at % Ports::STEP
}
