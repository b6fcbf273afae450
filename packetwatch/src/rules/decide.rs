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

/// The rule that the unit is to be banned by; `None` if nobody is.
///
/// An offence against rules that have been replaced is void, and so is one of a source that has been
/// allowed since, or of a unit that holds an allowed address: the program counts its addresses one by one
/// as soon as it is told, and what several did until then is no offence of one.
pub fn decide<'r>(
    offence: &Offence,
    rules: &'r RuleSet,
    generation: u32,
    standing: &impl Standing,
) -> Option<&'r Rule> {
    let rule = rules.iter().nth(offence.rule)?;
    let is_single = offence.unit == IpNet::from(offence.offender);
    let is_void = offence.generation != generation
        || standing.is_allowed(offence.offender)
        || !is_single && standing.holds_allowed(offence.unit);
    (!is_void).then_some(rule)
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

    fn is_banned(offence: &Offence, allowed: &'static [&'static str]) -> bool {
        decide(offence, &rules(), 7, &Allowed(allowed)).is_some()
    }

    #[test]
    fn the_unit_is_banned() {
        let offence = offence("2001:db8:1:2::/64", "2001:db8:1:2::9");
        assert!(is_banned(&offence, &["2001:db8:1:3::1/128"]));
    }

    #[test]
    fn beside_an_allowed_address_nobody_is_banned_for_what_the_unit_did() {
        let allowed = &["2001:db8:1:2::1/128"];
        let shared = offence("2001:db8:1:2::/64", "2001:db8:1:2::9");
        assert!(!is_banned(&shared, allowed));
        let single = offence("2001:db8:1:2::9/128", "2001:db8:1:2::9");
        assert!(is_banned(&single, allowed));
    }

    #[test]
    fn an_allowed_source_is_never_banned() {
        let offence = offence("198.18.0.9/32", "198.18.0.9");
        assert!(!is_banned(&offence, &["198.18.0.0/24"]));
    }

    #[test]
    fn replaced_rules_convict_nobody() {
        let offence = offence("198.18.0.9/32", "198.18.0.9");
        assert_eq!(decide(&offence, &rules(), 8, &Allowed(&[])), None);
        let none = RuleSet::validate(Vec::new()).unwrap();
        assert_eq!(decide(&offence, &none, 7, &Allowed(&[])), None);
    }
}
