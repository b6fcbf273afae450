//! A change of a list on trial: what it changed is kept, and put back unless the change is confirmed.
//!
//! The kernel knows no more than deadlines, and they go a long way. What a trial has put there ends
//! with it by itself. What it has taken away cannot come back by itself: where an allow entry is
//! missing for the time of a trial, no deny lasts longer than that, and no ban that is set meanwhile, so
//! that with the daemon dead neither leaves anybody cut off. A ban that stood before the trial is left
//! alone: a wider one is of others too, and to be there for them after the trial. A deny entry that a
//! trial has taken away stands again with the next daemon.

use std::{collections::HashMap, sync::Arc};

use ipnet::IpNet;

use super::{
    Lists, Shared,
    entry::{List, Tried},
    error::WriteError,
    event,
    journal::Batch,
    projection::Projection,
    record::{EntryRecord, ListRecord, TrialRecord},
    shelf::{About, Change, Draft, Listed, Node, Shelf},
    state::State,
    writes::Switch,
};
use crate::{
    clock::Clock,
    pending::{self, Pending, Told},
};

#[derive(Debug)]
pub(super) struct Trial {
    pub(super) pending: Pending,
    list: List,
    /// what stood under each prefix that was changed; `None` for nothing
    former: HashMap<IpNet, Option<Draft>>,
}

impl Trial {
    /// Of what stands before `changes`, all of one list, are made.
    pub(super) fn new(pending: Pending, list: List, state: &State, changes: &[Change]) -> Self {
        let former = changes.iter().map(|change| {
            let listed = state.listed(change.shelf, change.prefix);
            (change.prefix, listed.map(Listed::draft))
        });
        Self {
            pending,
            list,
            former: former.collect(),
        }
    }

    pub(super) fn holds(&self, prefix: IpNet) -> bool {
        self.former.contains_key(&prefix)
    }

    /// What stood under a prefix of this list: `None` if the trial is not about it, and nothing within
    /// if nothing did.
    pub(super) fn former(&self, list: List, prefix: IpNet) -> Option<&Option<Draft>> {
        self.former.get(&prefix).filter(|_| list == self.list)
    }

    /// What it makes of what stood, for the log; it is in `state`.
    pub(super) fn told(&self, state: &State) -> Told {
        let (former, now): (Vec<_>, Vec<_>) = self
            .former
            .iter()
            .map(|(prefix, draft)| {
                let listed = state.listed(self.list.into(), *prefix);
                let former = draft.as_ref().map(|draft| draft.about.entry(*prefix));
                (former, listed.map(|listed| listed.about.entry(*prefix)))
            })
            .unzip();
        event::on_trial([&former, &now])
    }

    /// For the journal.
    pub(super) fn record(&self) -> TrialRecord {
        let former = self.former.iter();
        let there = former.clone().filter_map(|(prefix, draft)| {
            let draft = draft.as_ref()?;
            let record = EntryRecord::new(&draft.about.record, draft.forced);
            Some((*prefix, record))
        });
        let absent = former.filter(|(_, draft)| draft.is_none());
        TrialRecord {
            pending: self.pending.record.clone(),
            former: ListRecord::of(there),
            absent: absent.map(|(prefix, _)| *prefix).collect(),
        }
    }

    fn restored(record: TrialRecord, list: List, clock: Clock) -> Self {
        let draft = |record: EntryRecord| {
            let EntryRecord {
                about: record,
                forced,
            } = record;
            let until = record.deadline(clock);
            let about = Arc::new(About { record, until });
            Draft { about, forced }
        };
        let there = record.former.entries();
        let there = there.map(|(prefix, record)| (prefix, Some(draft(record))));
        let absent = record.absent.iter().map(|prefix| (prefix.trunc(), None));
        Self {
            former: there.chain(absent).collect(),
            pending: Pending::restored(record.pending, clock),
            list,
        }
    }

    /// The changes that put back what stood.
    fn undo(self) -> Vec<Change> {
        let shelf = self.list.into();
        let former = self.former.into_iter();
        let back = |(prefix, to)| Change { shelf, prefix, to };
        former.map(back).collect()
    }
}

/// What a trial makes of the deadlines that the kernel is told of one prefix.
#[derive(Clone, Copy)]
pub(super) struct OnTrial {
    shelf: Shelf,
    deadline: u64,
    /// what stood there until when; 0 for nothing
    former_until: u64,
}

impl OnTrial {
    /// Until when an entry stands that ends at `until` unless it is taken back.
    pub(super) fn until(&self, shelf: Shelf, until: u64) -> u64 {
        if shelf != self.shelf || until < self.deadline {
            return until;
        }
        self.former_until.max(self.deadline)
    }

    /// The time from which on no deny may stand here or inside: something that allowed is taken
    /// away by the trial and would not come back.
    pub(super) fn uncovered(&self, node: &Node, now: u64) -> Option<u64> {
        let until = |shelf| node.on(shelf).map_or(0, |listed| listed.about.until);
        let taken = match self.shelf {
            Shelf::Allow => self.former_until > until(Shelf::Allow).max(self.deadline),
            _ => node.on(Shelf::Protected).is_some() && node.protection(now).is_none(),
        };
        taken.then_some(self.deadline)
    }
}

impl State {
    pub(super) fn on_trial(&self, prefix: IpNet) -> Option<OnTrial> {
        let trial = self.trial.as_ref()?;
        let former = trial.former.get(&prefix)?;
        Some(OnTrial {
            shelf: trial.list.into(),
            deadline: trial.pending.deadline,
            former_until: former.as_ref().map_or(0, |draft| draft.about.until),
        })
    }

    /// Every prefix of a trial has a node, also one under which nothing stands for the time being:
    /// the kernel is told of it.
    pub(super) fn begin(&mut self, trial: Trial) {
        for prefix in trial.former.keys() {
            if self.nodes.get(*prefix).is_none() {
                self.nodes.insert(*prefix, Node::default());
            }
        }
        self.exempt.set_allow_on_trial(trial.list == List::Allow);
        self.trial = Some(trial);
    }

    pub(super) fn end_trial(&mut self) -> Option<Trial> {
        let trial = self.trial.take()?;
        self.exempt.set_allow_on_trial(false);
        for prefix in trial.former.keys() {
            if self.nodes.get(*prefix).is_some_and(Node::is_empty) {
                self.nodes.remove(*prefix);
            }
        }
        self.trial_is_unwritten = true;
        Some(trial)
    }

    /// Takes a trial from the journal; puts back what stood if it is over, and returns it then, with
    /// what it was.
    pub(super) fn restore_trial(
        &mut self,
        record: TrialRecord,
        clock: Clock,
    ) -> Option<(Pending, Told)> {
        let list = record.list()?;
        let trial = Trial::restored(record, list, clock);
        if trial.pending.is_live(clock.monotonic_ns()) {
            self.begin(trial);
            // Its mark may be of a boot before this one.
            self.trial_is_unwritten = true;
            return None;
        }
        let (pending, told) = (trial.pending.clone(), trial.told(self));
        let rows: Vec<_> = trial.former.keys().map(|prefix| (list, *prefix)).collect();
        self.apply(trial.undo());
        self.mark_many_unwritten(list, rows);
        self.trial_is_unwritten = true;
        Some((pending, told))
    }
}

impl Lists {
    /// The change that waits to be confirmed.
    pub fn pending(&self) -> Option<Pending> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let state = shared.state();
        let pending = state.trial.as_ref().map(|trial| trial.pending.clone());
        pending.filter(|pending| pending.is_live(now))
    }

    /// Keeps the change on trial.
    ///
    /// # Errors
    /// [`WriteError::Journal`], and it stays on trial; [`WriteError::Kernel`], and it is put in
    /// force for good by the next comparison with the kernel.
    pub fn confirm(&self) -> Result<(), WriteError> {
        let shared = &self.0.shared;
        let mut journal = shared.journal();
        shared.settle_trial(shared.clock.monotonic_ns());
        let Some(trial) = shared.state().end_trial() else {
            return Ok(());
        };
        if let Err(error) = shared.commit(&mut journal, Batch::default()) {
            shared.state().begin(trial);
            return Err(error.into());
        }
        let now = shared.clock.monotonic_ns();
        let projection = {
            let state = shared.state();
            let shelf = trial.list.into();
            let changed = trial.former.keys().map(|prefix| (shelf, *prefix));
            let reach = state.reach(changed, now);
            Projection::of(&state, reach, now)
        };
        let all = || Projection::standings(&shared.state(), now);
        let told = trial.told(&shared.state());
        pending::event::confirmed(&trial.pending, &told);
        Ok(projection.write(&*shared.maps, all)?)
    }

    /// Puts back what stood before the change on trial: in memory and in the kernel first, whatever
    /// becomes of the disk, and in the journal when this returns.
    ///
    /// # Errors
    /// [`WriteError::TakenBack`]: the journal may have the trial still, so that with a restart it would
    /// go on to its end, which puts back the same.
    pub fn roll_back(&self) -> Result<(), WriteError> {
        let shared = &self.0.shared;
        let mut journal = shared.journal();
        shared.end_trial(true);
        let written = shared.commit(&mut journal, Batch::default());
        written.map_err(WriteError::TakenBack)
    }

    /// Puts back what stood before a trial that is over. To be called once a second.
    pub fn settle(&self) {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let is_due = {
            let state = shared.state();
            let trial = state.trial.as_ref();
            trial.is_some_and(|trial| !trial.pending.is_live(now))
        };
        if is_due {
            let _writer = shared.journal();
            shared.settle_trial(now);
        }
    }

    /// The trial that has taken away what allowed this prefix, some of it, or what is around it.
    pub fn uncovered(&self, prefix: IpNet) -> Option<Tried> {
        let shared = &self.0.shared;
        // The rule loop asks of each offence, and waits for no write.
        if !shared.exempt.is_allow_on_trial() {
            return None;
        }
        let now = shared.clock.monotonic_ns();
        let state = shared.state();
        let trial = state.trial.as_ref();
        let trial = trial.filter(|trial| trial.list == List::Allow)?;
        let stood = |(prefix, node): (IpNet, &Node)| {
            let former = trial.former.get(&prefix).and_then(Option::as_ref);
            former.is_some_and(|draft| now < draft.about.until)
                && node.shown(List::Allow, now).is_none()
        };
        let (mut around, mut inside) = (state.nodes.covering(prefix), state.nodes.inside(prefix));
        let is_uncovered = around.any(stood) || inside.any(stood);
        is_uncovered.then(|| Tried::from(&trial.pending))
    }
}

impl Shared {
    /// Refuses a write while a change is on trial: any of its list, and any that is on trial too.
    pub(super) fn see_to_trial(&self, list: List, confirm: bool) -> Result<(), WriteError> {
        let state = self.state();
        let trial = state.trial.as_ref();
        match trial.filter(|trial| confirm || trial.list == list) {
            Some(trial) => Err(trial.pending.in_the_way().into()),
            None => Ok(()),
        }
    }

    /// The caller holds the journal.
    pub(super) fn settle_trial(&self, now: u64) {
        let is_due = {
            let state = self.state();
            let trial = state.trial.as_ref();
            trial.is_some_and(|trial| !trial.pending.is_live(now))
        };
        if is_due {
            self.end_trial(false);
        }
    }

    fn end_trial(&self, asked: bool) {
        let Some(trial) = self.state().end_trial() else {
            return;
        };
        let (pending, list) = (trial.pending.clone(), trial.list);
        let told = trial.told(&self.state());
        let changes = trial.undo();
        let rows: Vec<_> = changes.iter().map(|change| (list, change.prefix)).collect();
        let (_, outcome) = self.project(changes, None, Switch::ByPrefix);
        self.state().mark_many_unwritten(list, rows);
        self.wake.unwritten();
        pending::event::rolled_back(&pending, asked, &told);
        if let Err(error) = outcome {
            // The comparison with the kernel finds it within a second.
            event::kernel_refused("taking back a change on trial", None, &error);
        }
    }
}
