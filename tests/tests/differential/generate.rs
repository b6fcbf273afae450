//! Sequences: a few sources, so that windows fill, and everything that may change between packets.

mod frame;

use std::net::IpAddr;

use ipnet::IpNet;
use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::FOREVER;
use packetwatch_tests::random::Random;

use super::{
    mutate::mutate,
    step::{self, Step},
};

const SECOND: u64 = 1_000_000_000;

/// Steps of a sequence. More find no more: what matters is how many rules and moments are tried.
const STEPS: u64 = 1200;

/// Neighbours in every unit that is tried, link-local ones, and a mapped address.
const SOURCES: [&str; 14] = [
    "198.18.5.1",
    "198.18.5.2",
    "198.18.5.130",
    "198.18.6.1",
    "198.19.5.1",
    "169.254.1.9",
    "169.254.1.10",
    "2001:db8:5::1",
    "2001:db8:5::2",
    "2001:db8:5:1::1",
    "2001:db8:6::1",
    "fe80::bad",
    "fe80::1",
    "::ffff:198.18.5.1",
];

const UNITS_V4: [u8; 6] = [32, 32, 24, 25, 16, 8];
const UNITS_V6: [u8; 6] = [64, 64, 128, 48, 63, 16];

/// What a sequence is made of.
pub(super) struct Scene {
    sources: Vec<IpAddr>,
    /// so few ports that some are called again, or so many that a table fills
    ports: u64,
    /// two for each family, from which rules choose
    units: [(u8, u8); 2],
    rules: Vec<Rule>,
    /// when something ends
    deadlines: Vec<u64>,
    now: u64,
    last_frame: Vec<u8>,
}

/// A sequence for [`super::rig::Rig::run`].
pub(crate) fn sequence(random: &mut Random) -> Vec<Step> {
    let unit = |random: &mut Random| (*random.of(&UNITS_V4), *random.of(&UNITS_V6));
    let mut scene = Scene {
        sources: (0..random.between(1, 6)).map(|_| source(random)).collect(),
        ports: *random.of(&[3, 8, 100, 65_536]),
        units: [unit(random), unit(random)],
        rules: Vec::new(),
        deadlines: Vec::new(),
        now: SECOND,
        last_frame: vec![0; 14],
    };
    let mut steps = vec![scene.change_rules(random)];
    if random.percent(70) {
        // Long after the start; the others see a clock younger than their windows.
        steps.push(scene.advance(random.below(20 * 86_400 * SECOND)));
    }
    if random.percent(10) {
        steps.push(Step::Observe(true));
    }
    for _ in 0..STEPS {
        let step = match random.below(1000) {
            0..880 => Step::Frame(scene.frame(random)),
            880..960 => scene.clock(random),
            960..963 => scene.change_rules(random),
            963..965 => Step::Observe(random.percent(30)),
            965..975 => {
                let (net, allow, deny) = scene.node(random);
                Step::Stand(net, allow, deny)
            }
            975..983 => Step::Unstand(scene.prefix(random)),
            983..985 => Step::Replace((0..random.below(4)).map(|_| scene.node(random)).collect()),
            985..992 => Step::Ban(scene.unit(random), scene.deadline(random)),
            992..997 => Step::Unban(scene.unit(random)),
            _ => Step::Forget(scene.unit(random)),
        };
        steps.push(step);
    }
    steps
}

fn source(random: &mut Random) -> IpAddr {
    random.of(&SOURCES).parse().expect("an address")
}

/// Rates that a few packets reach, and bursts from the least to more than a sequence spends.
fn limit(random: &mut Random, index: usize, units: (u8, u8)) -> Rule {
    let rate = *random.of(&[1, 2, 7, 100, 10_000, 1_000_003]);
    let burst = *random.of(&[1, 2, 5, 40]);
    let (trigger, burst) = match random.below(3) {
        0 => (Trigger::Connections(rate), burst),
        1 => (Trigger::Packets(rate), burst),
        _ => (Trigger::Bytes(rate * 60), 65_535 + burst * 60),
    };
    let least = trigger.count().div_ceil(100);
    step::limit(index, trigger, burst.max(least), units)
}

impl Scene {
    fn frame(&mut self, random: &mut Random) -> Vec<u8> {
        let mut frame = frame::frame(random, &self.sources, self.ports);
        let whole = frame.clone();
        if random.percent(15) {
            mutate(random, &mut frame, &self.last_frame);
        }
        self.last_frame = whole;
        frame
    }

    fn advance(&mut self, by: u64) -> Step {
        self.now += by;
        Step::Clock(by)
    }

    /// To where something may change, and a nanosecond before and after it.
    fn clock(&mut self, random: &mut Random) -> Step {
        let now = self.now;
        let window = match self.rules.is_empty() {
            true => SECOND,
            false => random.of(&self.rules).within.as_nanos() as u64,
        };
        let eighth = window / 8;
        let target = match random.below(10) {
            0 | 1 => now + random.below(eighth),
            2 => (now / eighth + random.between(1, 8)) * eighth,
            3 => now + eighth * random.between(1, 9),
            4 => now + window,
            5 => now + random.below(200_000),
            6 => now + 100_000_000,
            7 if !self.deadlines.is_empty() => *random.of(&self.deadlines),
            8 => now + random.below(2 * window),
            _ => now + random.below(10 * SECOND),
        };
        let target = if random.percent(1) {
            target + 86_400 * SECOND
        } else {
            target
        };
        let target = (target + random.below(3)).saturating_sub(1);
        self.advance(target.saturating_sub(now))
    }

    fn change_rules(&mut self, random: &mut Random) -> Step {
        let count = *random.of(&[0, 1, 1, 1, 2, 2, 3, 8]);
        self.rules = (0..count)
            .map(|index| {
                let units = *random.of(&self.units);
                if random.percent(25) {
                    return limit(random, index, units);
                }
                let trigger = match random.below(4) {
                    0 => Trigger::DistinctPorts(*random.of(&[1, 2, 3, 5, 10, 63, 64])),
                    1 => Trigger::Connections(random.between(1, 12)),
                    2 => Trigger::Packets(random.between(1, 40)),
                    _ => Trigger::Bytes(random.between(60, 4000)),
                };
                let within =
                    *random.of(&[SECOND, SECOND + 7, 8 * SECOND, 60 * SECOND, 86_400 * SECOND]);
                step::rule(index, trigger, within, units)
            })
            .collect();
        Step::Rules(self.rules.clone())
    }

    /// A deadline to come, or one that has just passed, or none.
    fn deadline(&mut self, random: &mut Random) -> u64 {
        if random.percent(10) {
            return FOREVER;
        }
        let reach = *random.of(&[1, 2, SECOND, 30 * SECOND]);
        let deadline = self.now + random.below(reach);
        self.deadlines.push(deadline);
        self.deadlines
            .drain(..self.deadlines.len().saturating_sub(4));
        deadline
    }

    fn node(&mut self, random: &mut Random) -> (IpNet, u64, u64) {
        let prefix = self.prefix(random);
        let allow = if random.percent(50) {
            self.deadline(random)
        } else {
            0
        };
        let deny = if random.percent(60) {
            self.deadline(random)
        } else {
            0
        };
        (prefix, allow, deny)
    }

    /// A prefix that covers a source, or just not.
    fn prefix(&self, random: &mut Random) -> IpNet {
        let source = *random.of(&self.sources);
        let len = match source {
            IpAddr::V4(_) => *random.of(&[32, 32, 31, 25, 24, 16, 1, 0]),
            IpAddr::V6(_) => *random.of(&[128, 128, 127, 96, 64, 48, 33, 1, 0]),
        };
        IpNet::new(source, len)
            .expect("a length of the family")
            .trunc()
    }

    /// What a source is counted or banned as.
    fn unit(&self, random: &mut Random) -> IpNet {
        let source = *random.of(&self.sources);
        let (v4, v6) = *random.of(&self.units);
        let len = match source {
            IpAddr::V4(_) => *random.of(&[v4, v4, 32]),
            IpAddr::V6(_) => *random.of(&[v6, v6, 128, 64]),
        };
        IpNet::new(source, len)
            .expect("a length of the family")
            .trunc()
    }
}
