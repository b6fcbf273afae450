//! The real XDP bytecode in the real kernel, on frames and at times of the test's choosing.

use std::{collections::BTreeMap, net::IpAddr, path::Path, sync::Mutex, time::Duration};

use ipnet::IpNet;
use packetwatch::{
    dataplane::{Capacities, Change, Dataplane, Events, Options, Region},
    rules::{Rule, RuleSet, policy::compile},
};
use packetwatch_abi::{
    Action, Admission, Caller, FOREVER, MAX_BAN_LENGTHS, MAX_INTERFACES, Offence, Policy, Reason,
    Standing,
};

/// A loaded program, not attached to anything. Unless it is loaded in real time, its time stands still
/// until [`Kernel::advance`].
pub struct Kernel {
    pub dataplane: Dataplane,
    pub events: Events,
    policy: Policy,
    now: u64,
    /// what the lists hold
    nodes: Mutex<BTreeMap<IpNet, Standing>>,
}

/// What became of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub action: Action,
    pub reason: Reason,
    pub observed: bool,
}

impl Kernel {
    /// Counts by single IPv4 addresses and by /64, with no rule.
    pub fn new() -> Self {
        Self::with_rules(Vec::new())
    }

    pub fn with_rules(rules: Vec<Rule>) -> Self {
        Self::with_capacities(rules, Capacities::default())
    }

    pub fn with_capacities(rules: Vec<Rule>, capacities: Capacities) -> Self {
        let options = Options {
            capacities,
            ..Options::default()
        };
        Self::with_options(rules, options)
    }

    /// Before the program that is pinned there.
    pub fn before(chained: &Path, rules: Vec<Rule>) -> Self {
        let options = Options {
            chain: Some(chained.to_owned()),
            ..Options::default()
        };
        Self::with_options(rules, options)
    }

    /// Whose time is the kernel's, and goes on.
    pub fn in_real_time(rules: Vec<Rule>) -> Self {
        Self::loaded(rules, Options::default())
    }

    fn with_options(rules: Vec<Rule>, options: Options) -> Self {
        let options = Options {
            clock_from_map: true,
            ..options
        };
        Self::loaded(rules, options)
    }

    fn loaded(rules: Vec<Rule>, options: Options) -> Self {
        let (dataplane, events) = Dataplane::load(options).expect("load the XDP program");
        // Everyone has a place at first sight: a clock that stands still would never give new ones.
        let unlimited = Admission {
            threshold: 1,
            places: u64::from(u32::MAX),
        };
        dataplane.set_admission(unlimited).unwrap();
        let mut kernel = Self {
            dataplane,
            events,
            policy: Policy {
                call_budget: 1_000_000,
                ..Policy::idle()
            },
            now: 0,
            nodes: Mutex::default(),
        };
        kernel.set_rules(rules);
        // Late enough that no window reaches back before the start of time, and on no boundary.
        kernel.advance(Duration::from_millis(100_000_123));
        kernel
    }

    /// Puts rules in force, as a new generation.
    pub fn set_rules(&mut self, rules: Vec<Rule>) {
        let compiled = compile(&RuleSet::validate(rules).expect("rules within their bounds"));
        let mut ban_lengths = [[0; MAX_BAN_LENGTHS]; 2];
        for (row, single) in [32, 128].into_iter().enumerate() {
            let mut lengths = compiled.units[row].to_vec();
            lengths.retain(|len| *len != 0 && *len != single);
            lengths.push(single);
            ban_lengths[row][..lengths.len()].copy_from_slice(&lengths);
        }
        self.policy = Policy {
            generation: self.policy.generation + 1,
            call_rules: compiled.call_rules,
            volume_rules: compiled.volume_rules,
            limit_rules: compiled.limit_rules,
            units: compiled.units,
            unit_rules: compiled.unit_rules,
            ban_lengths,
            rules: compiled.rules,
            ..self.policy
        };
        self.put_policy();
    }

    pub fn observe(&mut self, observe: bool) {
        self.observe_until(if observe { FOREVER } else { 0 });
    }

    /// Drops nothing before this time.
    pub fn observe_until(&mut self, until: u64) {
        self.policy.observe_until = until;
        self.put_policy();
    }

    /// The numbers of the interfaces that are counted by name, `MAX_INTERFACES` at most, in the order
    /// of their rows. [`Kernel::judge`] wants none.
    pub fn set_interfaces(&mut self, numbers: &[u32]) {
        self.policy.interfaces = [0; MAX_INTERFACES];
        self.policy.interfaces[..numbers.len()].copy_from_slice(numbers);
        self.put_policy();
    }

    pub fn set_call_budget(&mut self, calls: u32) {
        self.policy.call_budget = calls;
        self.put_policy();
    }

    fn put_policy(&self) {
        self.dataplane.set_policies(&[self.policy; 2]).unwrap();
    }

    /// Puts rules in force on trial: from `until` on the former ones stand again.
    pub fn try_rules(&mut self, rules: Vec<Rule>, until: u64) {
        let former = self.policy;
        self.set_rules(rules);
        let trial = Policy {
            until,
            ..self.policy
        };
        self.dataplane.set_policies(&[trial, former]).unwrap();
        self.policy = former;
    }

    /// CLOCK_MONOTONIC as the program sees it, in nanoseconds.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// Of the rules in force.
    pub fn generation(&self) -> u32 {
        self.policy.generation
    }

    pub fn advance(&mut self, by: Duration) {
        self.set_now(self.now + by.as_nanos() as u64);
    }

    pub fn set_now(&mut self, now: u64) {
        self.now = now;
        self.dataplane.set_clock(now).unwrap();
    }

    /// Judges a frame. The reason is read from the counters: exactly one of them moved, by one
    /// packet of the frame's length.
    pub fn judge(&self, frame: &[u8]) -> Outcome {
        let before = self.outcomes();
        let probe = self.dataplane.probe(frame, 1).expect("run the program");
        let moved: Vec<_> = before
            .into_iter()
            .zip(self.outcomes())
            .filter(|(before, after)| before != after)
            .collect();
        let [(before, (reason, observed, after))] = moved[..] else {
            panic!("a packet is counted once, not as {moved:?}");
        };
        assert_eq!(after.packets - before.2.packets, 1);
        assert_eq!(after.bytes - before.2.bytes, frame.len() as u64);
        Outcome {
            action: probe.action,
            reason,
            observed,
        }
    }

    /// The reason alone, for frames whose action follows from it.
    pub fn reason(&self, frame: &[u8]) -> Reason {
        let outcome = self.judge(frame);
        assert_eq!(outcome.action, outcome.reason.action(), "{outcome:?}");
        outcome.reason
    }

    fn outcomes(&self) -> Vec<(Reason, bool, packetwatch_abi::Tally)> {
        self.dataplane.outcomes_in(MAX_INTERFACES as u32).unwrap()
    }

    pub fn allow(&self, prefix: &str) {
        self.put(prefix, FOREVER, 0);
    }

    pub fn deny(&self, prefix: &str) {
        self.put(prefix, 0, FOREVER);
    }

    pub fn put(&self, prefix: &str, allow_until: u64, deny_until: u64) {
        let standing = Standing {
            allow_until,
            deny_until,
            allow_slot: 1,
            deny_slot: 2,
            is_derived: false,
            shared_len: 0,
        };
        self.stand(net(prefix), Some(standing));
    }

    /// Lists a prefix or, with `None`, no longer, as single writes do: by region.
    pub fn stand(&self, prefix: IpNet, standing: Option<Standing>) {
        let prefix = prefix.trunc();
        let mut nodes = self.nodes.lock().unwrap();
        match standing {
            Some(standing) => nodes.insert(prefix, standing),
            None => nodes.remove(&prefix),
        };
        let all = || -> Vec<_> { nodes.iter().map(|(prefix, s)| (*prefix, *s)).collect() };
        if Region::of(prefix).len() > 256 {
            return self.dataplane.replace_standings(&all()).unwrap();
        }
        let regions = Region::of(prefix).map(|region| {
            let around = region.prefix();
            let is_there = |(prefix, _): &(&IpNet, &Standing)| {
                prefix.contains(&around) || around.contains(*prefix)
            };
            let there = nodes.iter().filter(is_there);
            (region, there.map(|(prefix, s)| (*prefix, *s)).collect())
        });
        let change = self.dataplane.set_standings(regions.collect::<Vec<_>>());
        if change == Change::Outgrown {
            self.dataplane.replace_standings(&all()).unwrap();
        }
    }

    /// Makes these the lists, in one step.
    pub fn replace(&self, nodes: impl IntoIterator<Item = (IpNet, Standing)>) {
        let nodes: BTreeMap<IpNet, Standing> = nodes.into_iter().collect();
        let all: Vec<_> = nodes.iter().map(|(prefix, s)| (*prefix, *s)).collect();
        self.dataplane.replace_standings(&all).unwrap();
        *self.nodes.lock().unwrap() = nodes;
    }

    /// Bans for `length` from now.
    pub fn ban(&self, prefix: &str, length: Duration) {
        let until = self.now + length.as_nanos() as u64;
        self.dataplane.ban(net(prefix), until).unwrap();
    }

    /// The counts of a unit; panics if it was never seen.
    pub fn caller(&self, unit: &str) -> Caller {
        let caller = self.dataplane.caller(net(unit)).unwrap();
        caller.unwrap_or_else(|| panic!("{unit} was not counted"))
    }

    pub fn is_counted(&self, unit: &str) -> bool {
        self.dataplane.caller(net(unit)).unwrap().is_some()
    }

    pub fn offences(&mut self) -> Vec<Offence> {
        std::iter::from_fn(|| self.events.offences.poll()).collect()
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

/// A prefix or an address.
pub fn net(text: &str) -> IpNet {
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .unwrap_or_else(|_| panic!("{text} is no prefix"))
}
