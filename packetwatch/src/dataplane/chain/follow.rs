//! What is in the place, at the pin, and in force before it, while the daemon runs.

use std::io;

use super::{Chain, ChainState, ChainStatus, Objected, up};
use crate::dataplane::{
    ChainError, Dataplane, Differences, Error, chained::Chained, lock, variant::Objection,
};

impl Dataplane {
    /// What is chained behind the filter; `None` where nothing is asked for.
    pub fn chain(&self) -> Option<ChainStatus> {
        let chain = self.0.chain.as_ref()?;
        Some(lock(chain).status.clone())
    }

    /// How the place of the chained program differs from what was put there. [`Dataplane::follow_chain`] mends
    /// it.
    ///
    /// # Errors
    /// The kernel refuses to read the place.
    pub fn compare_chain(&self) -> Result<Differences, Error> {
        let mut differences = Differences::default();
        let Some(chain) = &self.0.chain else {
            return Ok(differences);
        };
        let mut chain = lock(chain);
        let holds = chain.place(self.variant()).holds()?;
        match (&chain.status.state, holds) {
            (ChainState::Up { program_id, .. }, Some(id)) if *program_id == id => {}
            (ChainState::Up { .. }, Some(_)) => differences.changed = 1,
            (ChainState::Up { .. }, None) => differences.missing = 1,
            (ChainState::Gone | ChainState::Refused(_), Some(_)) => differences.foreign = 1,
            (ChainState::Gone | ChainState::Refused(_), None) => {}
        }
        Ok(differences)
    }

    /// Looks at the pin, and takes what is there now: a program, or none. One that takes frames as the
    /// one before did not changes the filter on each interface, for which drivers may take their time.
    /// Returns the chain if it has changed.
    ///
    /// # Errors
    /// The kernel refuses to read or to write the place.
    pub fn follow_chain(&self) -> Result<Option<ChainStatus>, Error> {
        let Some(chain) = &self.0.chain else {
            return Ok(None);
        };
        let mut chain = lock(chain);
        let state = match self.take_chained(&mut chain) {
            Ok(state) => state,
            // Of this process's want of descriptors or memory, and not of the pin.
            Err(Error::Chain(error)) if matches!(*error, ChainError::Unreadable { .. }) => {
                return Err(Error::Chain(error));
            }
            Err(Error::Chain(error)) => ChainState::without(*error),
            Err(error) => return Err(error),
        };
        if !state.is_up() {
            chain.empty()?;
        }
        if state == chain.status.state {
            return Ok(None);
        }
        chain.status.state = state;
        Ok(Some(chain.status.clone()))
    }

    fn take_chained(&self, chain: &mut Chain) -> Result<ChainState, Error> {
        let program = Chained::open(&chain.status.path)?;
        let in_force = self.variant();
        if chain.place(in_force).holds()? == Some(program.id) {
            chain.place(in_force.other()).empty()?;
            return Ok(up(&program));
        }
        if let Some(objected) = &chain.objected
            && objected.program_id == program.id
            && objected.interfaces == self.filtered()
        {
            return Ok(objected.state.clone());
        }
        chain.objected = None;
        let fit = chain.put(&program, in_force)?;
        if fit == in_force {
            return Ok(up(&program));
        }
        // It is behind the other already when that comes into force. Who was behind the one before gets the
        // packets that are on their way through it, and goes at the next look.
        let Some(objection) = self.put_in_force(fit)? else {
            return Ok(up(&program));
        };
        let is_passing = objection.is_passing();
        let path = &chain.status.path;
        let state =
            ChainState::Refused(ChainError::unfit(path, &program, fit, objection).to_string());
        if !is_passing {
            chain.objected = Some(Objected {
                program_id: program.id,
                interfaces: self.filtered(),
                state: state.clone(),
            });
        }
        Ok(state)
    }

    /// Where the driver of an interface refuses the filter without frags: puts the one with them in force,
    /// and nobody behind it, as [`Dataplane::follow_chain`] does at run time. `mtu` is the interface's, in
    /// bytes. Returns whether that may help.
    pub fn unchain_for(&self, interface: &str, mtu: Option<u32>, source: &io::Error) -> bool {
        let unfit = self.variant();
        let (Some(chain), false) = (&self.0.chain, unfit.has_frags()) else {
            return false;
        };
        let mut chain = lock(chain);
        let Ok(program) = Chained::open(&chain.status.path) else {
            return false;
        };
        if !matches!(self.put_in_force(unfit.other()), Ok(None)) {
            return false;
        }
        let objection = Objection {
            interface: interface.to_owned(),
            mtu,
            source: source
                .raw_os_error()
                .map_or_else(|| source.kind().into(), io::Error::from_raw_os_error),
        };
        let why = ChainError::unfit(&chain.status.path, &program, unfit, objection);
        chain.status.state = ChainState::without(why);
        true
    }

    /// Index and MTU of each filtered interface.
    fn filtered(&self) -> Vec<(u32, Option<u32>)> {
        let interfaces = self.interfaces().into_iter();
        let filtered = interfaces.filter(|interface| interface.state.is_filtered());
        filtered
            .map(|interface| (interface.ifindex, interface.mtu))
            .collect()
    }
}
