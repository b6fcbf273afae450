//! Random histories of writes against sets of prefixes that are scanned: what each write answers, what
//! is listed, and what decides at an address.

use std::collections::BTreeSet;

use proptest::{collection::vec, sample::select};

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Put(List, IpNet, bool),
    Remove(List, IpNet),
    Add(List, Vec<IpNet>),
    Replace(List, Vec<IpNet>),
    Protect(Vec<IpNet>),
}

/// Three a step at most, so that sixteen steps never fill the lists.
fn any_step(prefixes: Vec<IpNet>) -> impl Strategy<Value = Step> {
    let list = || select(vec![List::Allow, List::Deny]);
    let one = move || select(prefixes.clone());
    let some = vec(one(), 0..4);
    prop_oneof![
        3 => (list(), one(), any::<bool>()).prop_map(|(list, one, force)| Step::Put(list, one, force)),
        3 => (list(), one()).prop_map(|(list, one)| Step::Remove(list, one)),
        2 => (list(), some.clone()).prop_map(|(list, some)| Step::Add(list, some)),
        1 => (list(), some.clone()).prop_map(|(list, some)| Step::Replace(list, some)),
        2 => some.prop_map(Step::Protect),
    ]
}

/// From few prefixes, so that writes meet.
fn any_history() -> impl Strategy<Value = Vec<Step>> {
    let few = vec(any_prefix(), 1..5);
    few.prop_flat_map(|few| vec(any_step(few), 1..16))
}

/// What a write comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Done,
    NotFound,
    Protected,
}

#[derive(Debug, Default)]
struct Model {
    allow: BTreeSet<IpNet>,
    /// and whether it was forced
    deny: BTreeMap<IpNet, bool>,
    protected: BTreeSet<IpNet>,
}

impl Model {
    fn is_forced(&self, prefix: IpNet) -> bool {
        self.deny.get(&prefix) == Some(&true)
    }

    fn is_protected(&self, prefix: IpNet) -> bool {
        self.protected.contains(&prefix) && !self.is_forced(prefix)
    }

    fn put(&mut self, list: List, prefix: IpNet, force: bool) {
        match list {
            List::Allow => drop(self.allow.insert(prefix)),
            List::Deny => *self.deny.entry(prefix).or_default() |= force,
        }
    }

    fn write(&mut self, step: &Step) -> Came {
        match step {
            Step::Put(List::Deny, prefix, false) if self.is_protected(*prefix) => Came::Protected,
            Step::Put(list, prefix, force) => {
                self.put(*list, *prefix, *force);
                Came::Done
            }
            Step::Remove(list, prefix) => {
                let there = match list {
                    List::Allow => self.allow.remove(prefix),
                    List::Deny => self.deny.remove(prefix).is_some(),
                };
                match there {
                    true => Came::Done,
                    false if *list == List::Allow && self.is_protected(*prefix) => Came::Protected,
                    false => Came::NotFound,
                }
            }
            Step::Add(list, prefixes) | Step::Replace(list, prefixes) => {
                let protected = |prefix: &IpNet| self.is_protected(*prefix);
                if *list == List::Deny && prefixes.iter().any(protected) {
                    return Came::Protected;
                }
                if matches!(step, Step::Replace(..)) {
                    match list {
                        List::Allow => self.allow.clear(),
                        List::Deny => self.deny.retain(|prefix, _| prefixes.contains(prefix)),
                    }
                }
                prefixes
                    .iter()
                    .for_each(|prefix| self.put(*list, *prefix, false));
                Came::Done
            }
            Step::Protect(prefixes) => {
                self.protected = prefixes.iter().copied().collect();
                Came::Done
            }
        }
    }

    /// Allow and protection beat deny, whatever the lengths.
    fn verdict(&self, addr: IpAddr) -> Option<List> {
        let covers = |prefix: &&IpNet| prefix.contains(&addr);
        let kept = |prefix: &IpNet| self.is_protected(*prefix);
        if self.allow.iter().any(|prefix| covers(&prefix))
            || self.protected.iter().filter(covers).any(kept)
        {
            return Some(List::Allow);
        }
        let is_denied = self.deny.keys().any(|prefix| covers(&prefix));
        is_denied.then_some(List::Deny)
    }

    fn listed(&self, list: List) -> Vec<String> {
        let prefixes: BTreeSet<IpNet> = match list {
            List::Deny => self.deny.keys().copied().collect(),
            List::Allow => {
                let kept = self.protected.iter().filter(|p| self.is_protected(**p));
                self.allow.iter().chain(kept).copied().collect()
            }
        };
        prefixes.iter().map(IpNet::to_string).collect()
    }
}

fn write(f: &Fixture, step: &Step) -> Came {
    let entries = |prefixes: &[IpNet]| prefixes.iter().map(|p| new(&p.to_string())).collect();
    let done = match step {
        Step::Put(list, prefix, force) => {
            let entry = new(&prefix.to_string());
            f.lists.put(*list, entry, Force(*force)).map(drop)
        }
        Step::Remove(list, prefix) => f.lists.remove(*list, *prefix).map(drop),
        Step::Add(list, prefixes) => f.lists.add(*list, entries(prefixes)).map(drop),
        Step::Replace(list, prefixes) => f.lists.replace(*list, entries(prefixes)).map(drop),
        Step::Protect(prefixes) => {
            let own = prefixes.iter().map(|prefix| (*prefix, "own".to_owned()));
            f.lists.protect(own.collect())
        }
    };
    match done {
        Ok(()) => Came::Done,
        Err(WriteError::NotFound { .. }) => Came::NotFound,
        Err(WriteError::Protected { .. }) => Came::Protected,
        Err(error) => panic!("{step:?}: {error}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_lists_are_what_sets_of_prefixes_are(
        steps in any_history(),
        asked in vec(any_address(), 20),
    ) {
        let f = Fixture::new();
        let mut model = Model::default();
        for step in &steps {
            prop_assert_eq!(write(&f, step), model.write(step), "{:?}", step);
            for list in [List::Allow, List::Deny] {
                prop_assert_eq!(f.listed(list), model.listed(list), "after {:?}", step);
            }
            let now = f.clock.monotonic_ns();
            for addr in &asked {
                prop_assert_eq!(f.maps.verdict(*addr, now), model.verdict(*addr), "{}", addr);
                let is_allowed = model.verdict(*addr) == Some(List::Allow);
                prop_assert_eq!(f.lists.is_allowed(*addr), is_allowed, "{}", addr);
                let unit = IpNet::new(*addr, 16).unwrap();
                let allowed = f.lists.allowed_inside(unit);
                prop_assert_eq!(f.lists.holds_allowed(unit), !allowed.is_empty(), "{}", unit);
            }
        }
        // The next daemon derives the protected ones anew.
        let clock = f.clock;
        let f = f.reopened(FakeMaps::default(), clock);
        write(&f, &Step::Protect(model.protected.iter().copied().collect()));
        for addr in &asked {
            let now = f.clock.monotonic_ns();
            prop_assert_eq!(f.maps.verdict(*addr, now), model.verdict(*addr), "{} later", addr);
        }
    }
}
