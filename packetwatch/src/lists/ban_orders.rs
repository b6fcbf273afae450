//! Orders of the rule loop and of people: to ban, to keep what was banned on trial or to end it, to lift.

use ipnet::IpNet;

use super::{
    Lists,
    entry::{BanEntry, BanOrder, BanOutcome},
    error::WriteError,
    journal::Batch,
};

impl Lists {
    /// Bans a prefix, longer if it was banned before: in the kernel when this returns, in the
    /// journal 50 ms later if none of its transactions takes more than 25 ms. Never waits for the
    /// disk.
    ///
    /// # Errors
    /// [`WriteError::Full`] when every ban in the kernel is in force, [`WriteError::Kernel`].
    pub fn ban(&self, order: BanOrder) -> Result<BanOutcome, WriteError> {
        let shared = &self.0.shared;
        let outcome = shared.bans().ban(order, &*shared.maps, shared.clock)?;
        shared.wake.unwritten();
        Ok(outcome)
    }

    /// Makes the bans that were ordered on the trial with this id what they would be without it: the
    /// rules stay.
    ///
    /// # Errors
    /// [`WriteError::Kernel`]: those that are left end with the trial.
    pub fn keep_bans(&self, trial: &str) -> Result<(), WriteError> {
        let shared = &self.0.shared;
        let now = shared.clock.monotonic_ns();
        let kept = shared.bans().keep_tried(trial, &*shared.maps, now);
        shared.wake.unwritten();
        Ok(kept?)
    }

    /// Ends the bans that were ordered on the trial with this id now: the rules are taken back.
    ///
    /// # Errors
    /// As [`Lists::keep_bans`].
    pub fn end_bans(&self, trial: &str) -> Result<(), WriteError> {
        let shared = &self.0.shared;
        let ended = shared.bans().end_tried(trial, &*shared.maps, shared.clock);
        shared.wake.unwritten();
        Ok(ended?)
    }

    /// Lets go of what was kept of bans of trials that are over: all but the one with this id. To be
    /// called once a second.
    pub fn forget_tried(&self, but: Option<&str>) {
        self.0.shared.bans().forget_tried(but);
    }

    /// Lifts a ban and forgets the offences of its prefix.
    ///
    /// # Errors
    /// [`WriteError::NotFound`], [`WriteError::Journal`], [`WriteError::Kernel`].
    pub fn unban(&self, prefix: IpNet) -> Result<BanEntry, WriteError> {
        let shared = &self.0.shared;
        let prefix = prefix.trunc();
        let not_found = WriteError::NotFound {
            list: "bans",
            prefix,
        };
        let mut journal = shared.journal();
        let record = shared.bans().lifted(prefix, shared.clock);
        let Some(record) = record else {
            return Err(not_found);
        };
        let batch = Batch {
            bans: vec![(prefix, Some(record))],
            offences: vec![(prefix, None)],
            ..Batch::default()
        };
        let written = shared.commit(&mut journal, batch);
        // Whatever became of the ban meanwhile, the flush brings the journal to what is so.
        shared.wake.unwritten();
        written?;
        let lifted = shared.bans().lift(prefix, &*shared.maps, shared.clock)?;
        lifted.ok_or(not_found)
    }
}
