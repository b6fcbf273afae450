//! What a write of many entries does, in numbers and the first names: so that whoever audits it later is
//! told more than how many there were.

use std::sync::Arc;

use ipnet::IpNet;

use super::shelf::Change;
use super::state::State;

/// So many prefixes of a kind are named in a line; those of IPv6 take up to 3 KiB.
pub(super) const NAMED: usize = 64;

/// Prefixes that meet the same fate.
#[derive(Debug, Default)]
pub(super) struct Prefixes {
    pub(super) total: usize,
    /// the first [`NAMED`], in order
    named: Vec<IpNet>,
}

impl Prefixes {
    fn push(&mut self, prefix: IpNet) {
        self.total += 1;
        if self.named.len() < NAMED {
            self.named.push(prefix);
        }
    }

    /// The names, separated by spaces, and with an ellipsis if there are more; `None` of none.
    pub(super) fn names(&self) -> Option<String> {
        let names: Vec<String> = self.named.iter().map(IpNet::to_string).collect();
        let more = if self.total > names.len() { " …" } else { "" };
        (!names.is_empty()).then(|| names.join(" ") + more)
    }
}

impl FromIterator<IpNet> for Prefixes {
    fn from_iter<I: IntoIterator<Item = IpNet>>(prefixes: I) -> Self {
        let mut of = Self::default();
        prefixes.into_iter().for_each(|prefix| of.push(prefix));
        of
    }
}

/// What becomes of the entries of a list.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub(super) added: Prefixes,
    /// that have another reason, end or force
    pub(super) changed: Prefixes,
    pub(super) removed: Prefixes,
    /// put again as they are
    pub(super) same: usize,
}

impl Touched {
    /// `changes` of `state`, which has not seen them yet.
    pub(super) fn by(changes: &[Change], state: &State) -> Self {
        let mut touched = Self::default();
        for change in changes {
            let former = state.listed(change.shelf, change.prefix);
            match (former, &change.to) {
                (_, None) => touched.removed.push(change.prefix),
                (None, Some(_)) => touched.added.push(change.prefix),
                (Some(former), Some(draft)) => {
                    let is_same =
                        Arc::ptr_eq(&former.about, &draft.about) && former.forced == draft.forced;
                    match is_same {
                        true => touched.same += 1,
                        false => touched.changed.push(change.prefix),
                    }
                }
            }
        }
        touched
    }

    pub(super) fn updated(&self) -> usize {
        self.changed.total + self.same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_are_named_as_is_said() {
        let mut prefixes = Prefixes::default();
        assert_eq!(prefixes.names(), None);
        for n in 0..NAMED {
            prefixes.push(IpNet::from(std::net::IpAddr::from([192, 0, 2, n as u8])));
        }
        let names = prefixes.names().unwrap();
        assert!(names.starts_with("192.0.2.0/32 192.0.2.1/32 "), "{names}");
        assert!(names.ends_with(" 192.0.2.63/32"), "{names}");
        prefixes.push("2001:db8::/32".parse().unwrap());
        let names = prefixes.names().unwrap();
        assert!(names.ends_with(" 192.0.2.63/32 …"), "{names}");
        assert_eq!(prefixes.total, NAMED + 1);
    }
}
