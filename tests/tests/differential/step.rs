//! One thing that happens to a filter.

use std::{fmt, time::Duration};

use ipnet::IpNet;
use packetwatch::rules::{Rule, Trigger};
use packetwatch_abi::Standing;

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Frame(Vec<u8>),
    /// CLOCK_MONOTONIC goes on by nanoseconds.
    Clock(u64),
    Rules(Vec<Rule>),
    Observe(bool),
    /// A node of the lists: prefix, allowed until, denied until. Slots follow from the prefix.
    Stand(IpNet, u64, u64),
    Unstand(IpNet),
    /// all nodes at once
    Replace(Vec<(IpNet, u64, u64)>),
    Ban(IpNet, u64),
    Unban(IpNet),
    /// The daemon removes a caller.
    Forget(IpNet),
}

/// What a node of the lists says; its slots are among the first sixteen, shared by some.
pub(crate) fn standing(prefix: IpNet, allow_until: u64, deny_until: u64) -> Standing {
    let slot = u32::from(prefix.prefix_len()) % 8 * 2;
    Standing {
        allow_until,
        deny_until,
        allow_slot: slot,
        deny_slot: slot + 1,
        is_derived: false,
        shared_len: [0, 16, 24, 64][usize::from(prefix.prefix_len() / 2 % 4)],
    }
}

/// A rule as sequences use it.
pub(crate) fn rule(index: usize, trigger: Trigger, within_ns: u64, units: (u8, u8)) -> Rule {
    Rule {
        within: Duration::from_nanos(within_ns),
        prefix_v4: units.0,
        prefix_v6: units.1,
        ..Rule::new(format!("rule-{index}"), trigger)
    }
}

/// A rule that lets so much pass a second.
pub(crate) fn limit(index: usize, trigger: Trigger, burst: u64, units: (u8, u8)) -> Rule {
    Rule {
        burst,
        prefix_v4: units.0,
        prefix_v6: units.1,
        ..Rule::limit(format!("rule-{index}"), trigger)
    }
}

/// From two hexadecimal digits a byte.
pub(crate) fn frame(hex: &str) -> Step {
    let digits = hex.as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    Step::Frame(digits.map(byte).collect())
}

/// Writes each step as the Rust that makes it.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(bytes) => {
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                write!(f, "frame(\"{hex}\")")
            }
            Self::Rules(rules) => {
                f.write_str("Rules(vec![")?;
                for (index, of) in rules.iter().enumerate() {
                    let (trigger, units) = (of.trigger, (of.prefix_v4, of.prefix_v6));
                    let (maker, number) = match of.bans() {
                        true => ("rule", of.within.as_nanos()),
                        false => ("limit", of.burst.into()),
                    };
                    write!(
                        f,
                        "{maker}({index}, Trigger::{trigger:?}, {number}, {units:?}),"
                    )?;
                }
                f.write_str("])")
            }
            Self::Stand(net, allow, deny) => write!(f, "Stand(net(\"{net}\"), {allow}, {deny})"),
            Self::Unstand(net) => write!(f, "Unstand(net(\"{net}\"))"),
            Self::Replace(nodes) => {
                f.write_str("Replace(vec![")?;
                for (net, allow, deny) in nodes {
                    write!(f, "(net(\"{net}\"), {allow}, {deny}),")?;
                }
                f.write_str("])")
            }
            Self::Ban(net, until) => write!(f, "Ban(net(\"{net}\"), {until})"),
            Self::Unban(net) => write!(f, "Unban(net(\"{net}\"))"),
            Self::Forget(net) => write!(f, "Forget(net(\"{net}\"))"),
            Self::Clock(_) | Self::Observe(_) => write!(f, "{self:?}"),
        }
    }
}

/// A test for `regressions`.
pub(crate) fn as_test(steps: &[Step]) -> String {
    let steps: String = steps
        .iter()
        .map(|step| format!("        {step},\n"))
        .collect();
    format!(
        "#[test]\n#[ignore = \"needs root: loads the XDP program\"]\nfn name_what_went_wrong() {{\n    \
         agree(vec![\n{steps}    ]);\n}}"
    )
}
