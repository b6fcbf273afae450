//! The bans that a start finds: in the journal, and in a filter that an earlier process has left.

use std::collections::HashSet;

use ipnet::IpNet;

use super::{Bans, Held, trial::Whole};
use crate::{
    clock::Clock,
    dataplane,
    lists::{
        error::OpenError,
        maps::Maps,
        offences::Offences,
        record::{BanRecord, OffenceRecord},
    },
};

/// What the kernel has.
#[derive(Clone, Copy)]
pub(in crate::lists) struct Left<'m> {
    pub(in crate::lists) maps: &'m dyn Maps,
    /// The journal is newer: a process was killed between the two.
    pub(in crate::lists) is_behind: bool,
}

impl Bans {
    /// Takes all that the journal has.
    ///
    /// # Errors
    /// More live bans than the capacity; the kernel refuses.
    pub(in crate::lists) fn read(
        mut rows: Vec<(IpNet, BanRecord)>,
        offences: Vec<(IpNet, OffenceRecord)>,
        left: Left<'_>,
        capacity: u32,
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let mut left_out = without_spent(&mut rows, capacity as usize);
        if left.is_behind {
            left_out.extend(without_newest(&mut rows, capacity as usize));
        }
        if rows.len() > capacity as usize {
            return Err(OpenError::Capacity {
                table: "bans",
                found: rows.len(),
                capacity,
            });
        }
        let mut remembered = Offences::default();
        for (prefix, record) in &offences {
            remembered.restore(*prefix, record, clock);
        }
        let mut bans = Self::new(capacity, remembered);
        if left.is_behind {
            left.keep_only(&rows)?;
        }
        for (prefix, record) in rows {
            bans.restore(prefix, record, left, clock)?;
        }
        bans.mark_unwritten(left_out);
        Ok(bans)
    }

    /// Takes a ban from the journal. The kernel's own deadline, if it has one, is the better one:
    /// the wall clock may have been set while no daemon ran.
    fn restore(
        &mut self,
        prefix: IpNet,
        record: BanRecord,
        Left { maps, is_behind }: Left<'_>,
        clock: Clock,
    ) -> Result<(), dataplane::Error> {
        let now = clock.monotonic_ns();
        let (within, spent) = (record.within, record.spent);
        let is_to_be_marked = record.is_to_be_marked(clock);
        let tried = Whole::restored(&record, clock);
        let mut until = record.deadline(clock);
        let entry = record.into_entry(prefix);
        match maps.ban_until(prefix) {
            Some(_) if is_behind && !spent => ban_if_room(maps, prefix, until)?,
            // It was lifted, and the process killed before the kernel knew.
            Some(kept) if spent && now < kept => {
                until = until.min(now);
                ban_if_room(maps, prefix, until)?;
                self.unwritten.insert(prefix);
            }
            Some(kept) if spent || now < kept => until = kept,
            None if spent => {
                self.unwritten.insert(prefix);
                return Ok(());
            }
            // Also one that has ended: the sweep turns it into a spent one, which the kernel knows.
            _ => ban_if_room(maps, prefix, until)?,
        }
        if is_to_be_marked {
            self.unwritten.insert(prefix);
        }
        if let Some(tried) = tried {
            self.on_trial.insert(prefix, tried);
        }
        self.hold(Held {
            entry,
            until,
            within,
            spent,
        });
        Ok(())
    }
}

impl Left<'_> {
    /// Takes away what the journal does not have, as a restore does that is not killed.
    fn keep_only(self, rows: &[(IpNet, BanRecord)]) -> Result<(), dataplane::Error> {
        let maps = self.maps;
        let kept: HashSet<IpNet> = rows.iter().map(|(prefix, _)| *prefix).collect();
        let mut gone = Vec::new();
        maps.each_ban(&mut |prefix, _| gone.push(prefix))?;
        gone.retain(|prefix| !kept.contains(prefix));
        for prefix in gone {
            // As where it makes room.
            maps.forget_caller(prefix)?;
            maps.remove_ban(prefix)?;
        }
        Ok(())
    }
}

/// Takes out bans that have ended, which windows reach back beyond, while there are too many: those that
/// ended first.
fn without_spent(rows: &mut Vec<(IpNet, BanRecord)>, capacity: usize) -> Vec<IpNet> {
    let beyond = rows.len().saturating_sub(capacity);
    if beyond == 0 {
        return Vec::new();
    }
    let spent = rows.iter().filter(|(_, record)| record.spent);
    let mut spent: Vec<_> = spent
        .map(|(prefix, record)| (record.expires_at, *prefix))
        .collect();
    spent.sort();
    let gone: HashSet<IpNet> = spent
        .into_iter()
        .take(beyond)
        .map(|(_, prefix)| prefix)
        .collect();
    rows.retain(|(prefix, _)| !gone.contains(prefix));
    gone.into_iter().collect()
}

/// Takes out the bans that were made last, while there are too many: the rules' own, made while a restore
/// was written, which it would have ended.
fn without_newest(rows: &mut Vec<(IpNet, BanRecord)>, capacity: usize) -> Vec<IpNet> {
    rows.sort_by_key(|(_, record)| record.created_at);
    let beyond = capacity.min(rows.len());
    rows.split_off(beyond)
        .into_iter()
        .map(|(prefix, _)| prefix)
        .collect()
}

/// At a start. Who has filled the kernel's table is foreign to the comparison with it, which sets this ban
/// when they are gone.
fn ban_if_room(maps: &dyn Maps, prefix: IpNet, until: u64) -> Result<(), dataplane::Error> {
    match maps.ban(prefix, until) {
        Err(error) if error.is_full() => Ok(()),
        banned => banned,
    }
}
