//! Allow, deny, ban, threshold, limit, pass: the state of a filter and what it does to one frame.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use packetwatch::dataplane::Ban;
use packetwatch::rules::Rule;
use packetwatch_abi::{Action, Reason, Standing, Tally};

use super::{
    Packet, Parsed,
    caller::{Caller, Offence},
    parse,
};

/// What `BPF_PROG_TEST_RUN` puts into the linear part: a page of 4096 bytes less 256 of headroom
/// and the 320 of `struct skb_shared_info`.
const LINEAR: usize = 4096 - 256 - 320;

/// A filter: what it was told, and what it has counted.
#[derive(Clone, Debug)]
pub struct Reference {
    pub now: u64,
    pub observe: bool,
    /// nodes with their precedence resolved, as the daemon writes them; the longest match decides
    pub standings: HashMap<IpNet, Standing>,
    pub bans: HashMap<IpNet, Ban>,
    pub callers: HashMap<IpNet, Caller>,
    pub hits: HashMap<u32, Tally>,
    /// by reason's number, and whether observe mode let the packet pass
    pub outcomes: HashMap<(u32, bool), Tally>,
    pub(super) rules: Vec<Rule>,
    pub(super) generation: u32,
}

/// What becomes of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    pub action: Action,
    pub reason: Reason,
    /// the packet, if it is a call that the log is told of
    pub call: Option<Packet>,
    pub offences: Vec<Offence>,
}

impl Reference {
    pub fn new(now: u64, generation: u32, rules: Vec<Rule>) -> Self {
        Self {
            now,
            observe: false,
            standings: HashMap::new(),
            bans: HashMap::new(),
            callers: HashMap::new(),
            hits: HashMap::new(),
            outcomes: HashMap::new(),
            rules,
            generation,
        }
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Other rules: everyone's windows start from nothing.
    pub fn set_rules(&mut self, rules: Vec<Rule>) {
        self.rules = rules;
        self.generation += 1;
    }

    /// As the daemon bans: a later end is a new ban, with a tally of its own.
    pub fn ban(&mut self, prefix: IpNet, until: u64) {
        let ban = self.bans.entry(prefix).or_default();
        if until > ban.until {
            *ban = Ban::default();
        }
        ban.until = until;
    }

    /// Judges a frame and counts it.
    pub fn judge(&mut self, frame: &[u8]) -> Judged {
        let bytes = frame.len() as u64;
        let mut offences = Vec::new();
        let (reason, call) = match parse(frame, LINEAR) {
            Parsed::Unjudged(reason) => (reason, None),
            Parsed::Packet(packet) => {
                let reason = self.judge_packet(&packet, bytes, &mut offences);
                let dropped = matches!(reason, Reason::Deny | Reason::Ban);
                let told = packet.call && (self.observe || !dropped);
                (reason, told.then_some(packet))
            }
        };
        let drops = match reason {
            Reason::Deny
            | Reason::Ban
            | Reason::Threshold
            | Reason::Limit
            | Reason::TooManyTags => true,
            Reason::Pass
            | Reason::Allow
            | Reason::NotIp
            | Reason::Arp
            | Reason::NeighbourDiscovery
            | Reason::Malformed => false,
        };
        let observed = drops && self.observe;
        count(
            self.outcomes.entry((reason as u32, observed)).or_default(),
            bytes,
        );
        let action = if drops && !observed {
            Action::Drop
        } else {
            Action::Pass
        };
        Judged {
            action,
            reason,
            call,
            offences,
        }
    }

    fn judge_packet(&mut self, packet: &Packet, bytes: u64, offences: &mut Vec<Offence>) -> Reason {
        let now = self.now;
        let standing = self.standing(packet.source);
        if now < standing.allow_until {
            count(self.hits.entry(standing.allow_slot).or_default(), bytes);
            // Counted for people to see, by itself, against no rule.
            let unit = IpNet::from(packet.source);
            self.meet(unit, packet, bytes, 0, true);
            self.note(unit, packet, bytes, &[]);
            return Reason::Allow;
        }
        if now < standing.deny_until {
            count(self.hits.entry(standing.deny_slot).or_default(), bytes);
            return Reason::Deny;
        }
        let mut ended = Vec::new();
        for prefix in self.ban_prefixes(packet.source) {
            let Some(ban) = self.bans.get_mut(&prefix) else {
                continue;
            };
            if now < ban.until {
                ban.packets += 1;
                ban.bytes += bytes;
                return Reason::Ban;
            }
            ended.push((prefix, ban.until));
        }
        let units = self.units(packet.source, standing.shared_len);
        let mut over = false;
        for (unit, rules) in &units {
            // The end of a narrower ban is no new beginning for the unit.
            let of_unit = ended.iter().filter(|(prefix, _)| prefix.contains(unit));
            let ended = of_unit.map(|(_, until)| *until).max().unwrap_or(0);
            self.meet(*unit, packet, bytes, ended, false);
            let Some(rule) = self.reached(*unit, packet, rules) else {
                continue;
            };
            offences.extend(self.offend(*unit, packet, rule));
            self.callers.get_mut(unit).expect("just met").dropped += 1;
            over = true;
        }
        if over && !self.observe {
            return Reason::Threshold;
        }
        // What a threshold drops costs no limit; what a limit drops is in no window.
        for (n, (unit, rules)) in units.iter().enumerate() {
            if over || self.take(*unit, packet, bytes, rules) {
                continue;
            }
            self.callers.get_mut(unit).expect("just met").dropped += 1;
            for (unit, rules) in &units[..n] {
                self.give_back(*unit, packet, bytes, rules);
            }
            return Reason::Limit;
        }
        for (unit, rules) in &units {
            self.note(*unit, packet, bytes, rules);
        }
        if over {
            Reason::Threshold
        } else if packet.malformed {
            Reason::Malformed
        } else {
            Reason::Pass
        }
    }

    fn standing(&self, source: IpAddr) -> Standing {
        let covering = self
            .standings
            .iter()
            .filter(|(net, _)| net.contains(&source));
        let longest = covering.max_by_key(|(net, _)| net.prefix_len());
        longest.map_or_else(Standing::default, |(_, standing)| *standing)
    }

    /// Lengths that sources of a family are counted by, shortest first: those of the rules, or
    /// without a rule a single IPv4 address and a /64.
    fn unit_lengths(&self, source: IpAddr) -> BTreeSet<u8> {
        let length = |rule: &Rule| {
            if source.is_ipv4() {
                rule.prefix_v4
            } else {
                rule.prefix_v6
            }
        };
        let default = if source.is_ipv4() { 32 } else { 64 };
        let lengths: BTreeSet<u8> = self.rules.iter().map(length).collect();
        if lengths.is_empty() {
            BTreeSet::from([default])
        } else {
            lengths
        }
    }

    /// What bans of this source may be written as, widest first.
    fn ban_prefixes(&self, source: IpAddr) -> Vec<IpNet> {
        let mut lengths = self.unit_lengths(source);
        lengths.insert(IpNet::from(source).prefix_len());
        lengths.iter().map(|len| network(source, *len)).collect()
    }

    /// The units that a source is counted in, each with the rules that count by it.
    ///
    /// fe80::/64 is every neighbour at once, and of a unit that holds an allowed address one source would
    /// be banned for what others do: they are counted by single address.
    fn units(&self, source: IpAddr, shared_len: u8) -> Vec<(IpNet, Vec<usize>)> {
        let single = IpNet::from(source).prefix_len();
        let counted_by = |len: u8| match len {
            _ if is_link_local(source) || len <= shared_len => single,
            len => len,
        };
        let of = |rule: &Rule| {
            if source.is_ipv4() {
                rule.prefix_v4
            } else {
                rule.prefix_v6
            }
        };
        let lengths: BTreeSet<u8> = self
            .unit_lengths(source)
            .into_iter()
            .map(counted_by)
            .collect();
        let by = |len: u8| {
            let rules = self.rules.iter().enumerate();
            rules
                .filter(|(_, rule)| counted_by(of(rule)) == len)
                .map(|(index, _)| index)
                .collect()
        };
        lengths
            .into_iter()
            .map(|len| (network(source, len), by(len)))
            .collect()
    }
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    }
}

fn network(address: IpAddr, len: u8) -> IpNet {
    let net = IpNet::new(address, len).expect("a length of the address's family");
    net.trunc()
}

fn count(tally: &mut Tally, bytes: u64) {
    tally.packets += 1;
    tally.bytes += bytes;
}
