//! What a filter has counted, the program's against the reference's.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
};

use ipnet::IpNet;
use packetwatch::{
    dataplane::{self, Dataplane},
    rules::Trigger,
};
use packetwatch_abi::{self as abi, Fault, MAX_INTERFACES, PortSeen, Reason, Tally};
use packetwatch_tests::reference::{Caller, Reference};

/// List slots that steps use.
const SLOTS: u32 = 16;

/// Counters that no one can set back: a sequence is held to what it added to them.
pub(crate) struct Counters {
    /// by reason, and whether observe mode let the packet pass
    outcomes: BTreeMap<(&'static str, bool), Tally>,
    hits: BTreeMap<u32, Tally>,
    faults: Vec<(Fault, u64)>,
}

impl Counters {
    pub(crate) fn read(dataplane: &Dataplane) -> Self {
        let outcomes = dataplane.outcomes_in(MAX_INTERFACES as u32).unwrap();
        let outcomes = outcomes.into_iter();
        Self {
            outcomes: outcomes
                .map(|(reason, observed, tally)| ((reason.as_str(), observed), tally))
                .collect(),
            hits: (0..SLOTS)
                .map(|slot| (slot, dataplane.list_hits(slot).unwrap()))
                .collect(),
            faults: dataplane.faults().unwrap(),
        }
    }

    /// Compares what was counted since, and all bans and callers.
    ///
    /// # Errors
    /// The first difference, in words.
    pub(crate) fn compare(
        &self,
        dataplane: &Dataplane,
        reference: &Reference,
    ) -> Result<(), String> {
        let Self {
            outcomes,
            hits,
            faults,
        } = Self::read(dataplane);
        let nothing = "";
        same("faults", &faults, &self.faults, &nothing)?;
        let expected = reference
            .outcomes
            .iter()
            .map(|(&(reason, observed), &tally)| {
                let reason = Reason::from_number(reason).expect("a reason");
                ((reason.as_str(), observed), tally)
            });
        let expected = expected.collect();
        same(
            "outcomes",
            &moved(&outcomes, &self.outcomes),
            &expected,
            &nothing,
        )?;
        let expected = reference.hits.iter().map(|(&slot, &tally)| (slot, tally));
        let expected = expected.collect();
        same("list hits", &moved(&hits, &self.hits), &expected, &nothing)?;
        let bans: HashMap<_, _> = dataplane.bans().unwrap().into_iter().collect();
        same("bans", &bans, &reference.bans, &nothing)?;
        let callers = dataplane.callers().unwrap();
        same(
            "callers",
            &callers.len(),
            &reference.callers.len(),
            &nothing,
        )?;
        for (unit, caller) in &callers {
            let expected = reference.callers.get(unit);
            let expected = expected.ok_or_else(|| format!("{unit} is counted"))?;
            compare_caller(*unit, caller, expected, reference)?;
        }
        Ok(())
    }
}

/// The tallies that changed, and by how much.
fn moved<K: Ord + Copy>(
    after: &BTreeMap<K, Tally>,
    before: &BTreeMap<K, Tally>,
) -> BTreeMap<K, Tally> {
    let moved = after.iter().map(|(key, after)| {
        let before = before[key];
        let tally = Tally {
            packets: after.packets - before.packets,
            bytes: after.bytes - before.bytes,
        };
        (*key, tally)
    });
    moved
        .filter(|(_, tally)| *tally != Tally::default())
        .collect()
}

fn compare_caller(
    unit: IpNet,
    caller: &abi::Caller,
    expected: &Caller,
    reference: &Reference,
) -> Result<(), String> {
    let counts = [
        ("first seen", caller.first_seen, expected.first_seen),
        ("last seen", caller.last_seen, expected.last_seen),
        ("calls", caller.calls, expected.calls),
        ("packets", caller.packets, expected.packets),
        ("bytes", caller.bytes, expected.bytes),
        ("dropped", caller.dropped, expected.dropped),
        ("since", caller.since.at(), expected.since),
        (
            "generation",
            caller.generation.into(),
            expected.generation.into(),
        ),
    ];
    for (name, program, reference) in counts {
        same(name, &program, &reference, &unit)?;
    }
    let offence = (caller.offended_at != 0).then(|| {
        let offender = dataplane::address(&caller.offender, caller.offender.addr);
        (caller.offended_at, offender, caller.offence_rule)
    });
    let told = expected
        .offence
        .map(|told| (told.at, told.source, told.rule));
    same("offence", &offence, &told, &unit)?;
    let seen = caller
        .ports
        .into_iter()
        .map(PortSeen)
        .filter(|seen| seen.0 != 0);
    let seen: BTreeMap<_, _> = seen.map(|seen| (seen.port(), seen.at() >> 16)).collect();
    same("ports", &seen, expected.ports.steps(), &unit)?;
    if expected.generation != reference.generation() {
        return Ok(());
    }
    for (index, rule) in reference.rules().iter().enumerate() {
        if matches!(rule.trigger, Trigger::DistinctPorts(_)) {
            continue;
        }
        let of = format!("{unit} rule {index}");
        if !rule.bans() {
            let owed = caller.windows[index][0].saturating_sub(reference.now * 16);
            let expected = expected.limits[index].owed(reference.now);
            same("limit", &owed, &expected, &of)?;
            continue;
        }
        // What the program would see if a packet came now, read as the daemon reads it.
        let window = &expected.windows[index];
        let eighth = rule.within.as_nanos() as u64 / 8;
        let epoch = caller.since.epoch(reference.now, eighth);
        let counted = abi::windowed(epoch, |place| caller.windows[index][place]);
        let expected = window.count(reference.now);
        same("window", &counted, &expected, &of)?;
    }
    Ok(())
}

pub(crate) fn same<T: PartialEq + Debug>(
    name: &str,
    program: &T,
    reference: &T,
    of: &dyn Debug,
) -> Result<(), String> {
    if program == reference {
        Ok(())
    } else {
        Err(format!(
            "{name}: program {program:?}, reference {reference:?} ({of:?})"
        ))
    }
}
