//! What follows from an offence: a pure function of what was seen and what stands.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Rule, RuleSet};

/// A caller beyond a rule, as the XDP program saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offence {
    /// what is counted and banned as one
    pub unit: IpNet,
    /// the address that went beyond
    pub offender: IpAddr,
    /// index into the rules
    pub rule: usize,
    /// of the rules that the offence was judged by
    pub generation: u32,
}

/// What the lists hold, as far as a decision asks.
pub trait Standing {
    fn is_allowed(&self, address: IpAddr) -> bool;
    /// Whether some allowed address or prefix lies in the unit, or covers it.
    fn holds_allowed(&self, unit: IpNet) -> bool;
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Sentence<'r> {
    pub prefix: IpNet,
    pub offender: IpAddr,
    pub rule: &'r Rule,
    /// The unit to count anew once the ban stands: this one of its addresses is banned for what the unit
    /// did. Where no ban comes to be, what was counted is all that holds the source back.
    pub count_anew: Option<IpNet>,
}

/// Decides on an offence.
///
/// A unit that holds an allowed address is not banned: its offender is, alone. An offence against
/// rules that have been replaced is void, and so is one of a source that has been allowed since.
pub fn decide<'r>(
    offence: &Offence,
    rules: &'r RuleSet,
    generation: u32,
    standing: &impl Standing,
) -> Option<Sentence<'r>> {
    let rule = rules.iter().nth(offence.rule)?;
    if offence.generation != generation || standing.is_allowed(offence.offender) {
        return None;
    }
    let single = IpNet::from(offence.offender);
    let is_alone = offence.unit != single && standing.holds_allowed(offence.unit);
    Some(Sentence {
        prefix: if is_alone { single } else { offence.unit },
        offender: offence.offender,
        rule,
        count_anew: is_alone.then_some(offence.unit),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::Trigger;

    struct Allowed(&'static [&'static str]);

    impl Standing for Allowed {
        fn is_allowed(&self, address: IpAddr) -> bool {
            let nets = self.0.iter().map(|net| net.parse::<IpNet>().unwrap());
            nets.into_iter().any(|net| net.contains(&address))
        }

        fn holds_allowed(&self, unit: IpNet) -> bool {
            let nets = self.0.iter().map(|net| net.parse::<IpNet>().unwrap());
            nets.into_iter()
                .any(|net| unit.contains(&net) || net.contains(&unit))
        }
    }

    fn rules() -> RuleSet {
        RuleSet::validate(vec![Rule::new("scan", Trigger::DistinctPorts(3))]).unwrap()
    }

    fn offence(unit: &str, offender: &str) -> Offence {
        Offence {
            unit: unit.parse().unwrap(),
            offender: offender.parse().unwrap(),
            rule: 0,
            generation: 7,
        }
    }

    /// The prefix that is banned, and the unit that is counted anew.
    fn decided(
        offence: &Offence,
        allowed: &'static [&'static str],
    ) -> Option<(String, Option<IpNet>)> {
        let rules = rules();
        let sentence = decide(offence, &rules, 7, &Allowed(allowed))?;
        assert_eq!(sentence.offender, offence.offender);
        Some((sentence.prefix.to_string(), sentence.count_anew))
    }

    #[test]
    fn the_unit_is_banned() {
        let offence = offence("2001:db8:1:2::/64", "2001:db8:1:2::9");
        let banned = decided(&offence, &[]);
        assert_eq!(banned, Some(("2001:db8:1:2::/64".to_owned(), None)));
    }

    #[test]
    fn beside_an_allowed_address_the_offender_alone_is_banned() {
        let offence = offence("2001:db8:1:2::/64", "2001:db8:1:2::9");
        let banned = decided(&offence, &["2001:db8:1:2::1/128"]);
        let single = "2001:db8:1:2::9/128".to_owned();
        assert_eq!(banned, Some((single, Some(offence.unit))));
    }

    #[test]
    fn an_allowed_source_is_never_banned() {
        let offence = offence("198.18.0.9/32", "198.18.0.9");
        assert_eq!(decided(&offence, &["198.18.0.0/24"]), None);
    }

    #[test]
    fn replaced_rules_convict_nobody() {
        let offence = offence("198.18.0.9/32", "198.18.0.9");
        assert_eq!(decide(&offence, &rules(), 8, &Allowed(&[])), None);
        let none = RuleSet::validate(Vec::new()).unwrap();
        assert_eq!(decide(&offence, &none, 7, &Allowed(&[])), None);
    }
}
