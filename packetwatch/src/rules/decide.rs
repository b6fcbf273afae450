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
pub enum Action<'r> {
    Ban {
        prefix: IpNet,
        offender: IpAddr,
        rule: &'r Rule,
    },
    /// Count a unit anew: one of its addresses was banned for what the unit did.
    CountAnew(IpNet),
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
) -> Vec<Action<'r>> {
    let Some(rule) = rules.iter().nth(offence.rule) else {
        return Vec::new();
    };
    if offence.generation != generation || standing.is_allowed(offence.offender) {
        return Vec::new();
    }
    let single = IpNet::from(offence.offender);
    if offence.unit == single || !standing.holds_allowed(offence.unit) {
        return vec![Action::Ban {
            prefix: offence.unit,
            offender: offence.offender,
            rule,
        }];
    }
    vec![
        Action::Ban {
            prefix: single,
            offender: offence.offender,
            rule,
        },
        Action::CountAnew(offence.unit),
    ]
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

    fn banned(actions: &[Action<'_>]) -> Vec<String> {
        let prefixes = actions.iter().filter_map(|action| match action {
            Action::Ban { prefix, .. } => Some(prefix.to_string()),
            Action::CountAnew(_) => None,
        });
        prefixes.collect()
    }

    #[test]
    fn the_unit_is_banned() {
        let offence = offence("2001:db8:1:2::/64", "2001:db8:1:2::9");
        let rules = rules();
        let actions = decide(&offence, &rules, 7, &Allowed(&[]));
        assert_eq!(banned(&actions), ["2001:db8:1:2::/64"]);
    }

    #[test]
    fn beside_an_allowed_address_the_offender_alone_is_banned() {
        let offence = offence("2001:db8:1:2::/64", "2001:db8:1:2::9");
        let rules = rules();
        let actions = decide(&offence, &rules, 7, &Allowed(&["2001:db8:1:2::1/128"]));
        assert_eq!(banned(&actions), ["2001:db8:1:2::9/128"]);
        assert_eq!(actions[1], Action::CountAnew(offence.unit));
    }

    #[test]
    fn an_allowed_source_is_never_banned() {
        let offence = offence("198.18.0.9/32", "198.18.0.9");
        assert_eq!(
            decide(&offence, &rules(), 7, &Allowed(&["198.18.0.0/24"])),
            []
        );
    }

    #[test]
    fn replaced_rules_convict_nobody() {
        let offence = offence("198.18.0.9/32", "198.18.0.9");
        assert_eq!(decide(&offence, &rules(), 8, &Allowed(&[])), []);
        let none = RuleSet::validate(Vec::new()).unwrap();
        assert_eq!(decide(&offence, &none, 7, &Allowed(&[])), []);
    }
}
