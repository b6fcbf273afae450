//! The rules and the mode in force, and the kernel's policy that follows from them.

use std::{
    collections::BTreeSet,
    fmt, fs,
    io::{self, Write as _},
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use packetwatch_abi::{MAX_BAN_LENGTHS, Policy};

use crate::{
    config::{Config, Mode, Word as _},
    dataplane::{self, Dataplane},
    log::EVENT,
    prefix::Family,
    rules::{
        Rule, RuleErrors, RuleSet, RuleText, RulesTextError,
        policy::{Compiled, compile},
    },
};

/// What `PUT /v1/rules` writes in the state directory.
const RULES_FILE: &str = "rules.toml";

/// Where the rules in force come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesFrom {
    /// the configuration: the built-in ones, a file, a variable
    Configuration(String),
    /// `rules.toml` in the state directory, written by the API
    Api,
}

impl fmt::Display for RulesFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configuration(origin) => f.write_str(origin),
            Self::Api => f.write_str("api"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    #[error(transparent)]
    Invalid(#[from] RuleErrors),
    #[error("{}: {source}; `packetwatch rules reset` or removing the file mends it", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: Box<RulesTextError>,
    },
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "bans of {lengths} different prefix lengths would stand beside each other, and the kernel \
         looks under {MAX_BAN_LENGTHS}: wait for bans to end or remove some"
    )]
    TooManyLengths { lengths: usize },
    #[error(transparent)]
    Kernel(#[from] dataplane::Error),
}

/// Changes of rules and mode, one at a time.
pub struct RulesControl {
    dataplane: Dataplane,
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Clone)]
struct State {
    rules: RuleSet,
    from: RulesFrom,
    /// what the rules are when the API's are reset
    configured: (RuleSet, String),
    mode: Mode,
    call_budget: u32,
    generation: u32,
    /// what the kernel was told last
    in_force: Option<Policy>,
}

impl State {
    /// Windows kept under the rules before are void.
    fn take(&mut self, rules: RuleSet, from: RulesFrom) {
        self.generation = self.generation.wrapping_add(1);
        self.rules = rules;
        self.from = from;
    }

    fn tell(&self, before: &RuleSet) {
        tracing::info!(
            target: EVENT,
            {
                event.action = "rules-changed",
                packetwatch.rules = self.rules.len() as u64,
                packetwatch.rules_from = %self.from,
                packetwatch.before = written(before),
                packetwatch.after = written(&self.rules),
            },
            "{} rules in force", self.rules.len()
        );
    }
}

/// For the log: 8 rules take half of what a value may.
fn written(rules: &RuleSet) -> String {
    let texts: Vec<RuleText> = rules.iter().cloned().map(RuleText::from).collect();
    serde_json::to_string(&texts).unwrap_or_default()
}

impl RulesControl {
    /// The rules of the state directory if there are any, else the configuration's; in force in
    /// the kernel when this returns.
    ///
    /// # Errors
    /// `rules.toml` cannot be read, or the kernel refuses the policy.
    pub fn new(dataplane: Dataplane, config: &Config) -> Result<Self, RulesError> {
        let control = Self {
            dataplane,
            path: config.state_dir.join(RULES_FILE),
            state: Mutex::new(State {
                rules: config.rules.clone(),
                from: RulesFrom::Configuration(config.rules_from()),
                configured: (config.rules.clone(), config.rules_from()),
                mode: config.mode,
                call_budget: config.log.connections_per_second,
                generation: 1,
                in_force: None,
            }),
        };
        let mut state = control.state();
        if let Some(rules) = control.read_file()? {
            state.rules = rules;
            state.from = RulesFrom::Api;
        }
        control.enforce(&mut state)?;
        drop(state);
        Ok(control)
    }

    pub fn current(&self) -> (RuleSet, RulesFrom) {
        let state = self.state();
        (state.rules.clone(), state.from.clone())
    }

    /// The rules with the generation that offences are judged by.
    pub fn generation(&self) -> (RuleSet, u32) {
        let state = self.state();
        (state.rules.clone(), state.generation)
    }

    pub fn mode(&self) -> Mode {
        self.state().mode
    }

    /// Calls a second that get a line in the log.
    pub fn call_budget(&self) -> u32 {
        self.state().call_budget
    }

    /// Validates, writes `rules.toml`, puts in force. Blocks on the disk.
    ///
    /// # Errors
    /// With all that is wrong; the rules before stay in force.
    pub fn put(&self, rules: Vec<Rule>) -> Result<RuleSet, RulesError> {
        let rules = RuleSet::validate(rules)?;
        let mut state = self.state();
        self.check_lengths(&rules)?;
        self.write_file(&rules.to_toml())?;
        self.replace(&mut state, rules, RulesFrom::Api)
    }

    /// Back to the configuration's rules. Blocks on the disk.
    ///
    /// # Errors
    /// `rules.toml` cannot be removed, or the kernel refuses the policy.
    pub fn reset(&self) -> Result<RuleSet, RulesError> {
        let mut state = self.state();
        let (rules, origin) = state.configured.clone();
        self.check_lengths(&rules)?;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.io("remove", error));
            }
            _ => {}
        }
        self.replace(&mut state, rules, RulesFrom::Configuration(origin))
    }

    /// Takes over what a reloaded configuration says of rules, mode and budget. Rules that the API
    /// has put stay.
    ///
    /// # Errors
    /// The kernel refuses the policy.
    pub fn reload(&self, config: &Config) -> Result<(), RulesError> {
        let mut state = self.state();
        let mut next = state.clone();
        next.configured = (config.rules.clone(), config.rules_from());
        next.call_budget = config.log.connections_per_second;
        next.mode = config.mode;
        let configured = matches!(state.from, RulesFrom::Configuration(_));
        let other_rules = configured && state.rules != config.rules;
        if other_rules {
            self.check_lengths(&config.rules)?;
            next.take(
                config.rules.clone(),
                RulesFrom::Configuration(config.rules_from()),
            );
        }
        // All of it or nothing: a refused policy leaves the state as it was.
        self.enforce(&mut next)?;
        let before = std::mem::replace(&mut *state, next);
        if before.mode != state.mode {
            tracing::warn!(
                target: EVENT,
                {
                    event.action = "mode-changed",
                    packetwatch.mode = config.mode.word(),
                    packetwatch.before = before.mode.word(),
                    packetwatch.after = config.mode.word(),
                },
                "mode changed to {}", config.mode.word()
            );
        }
        if other_rules {
            state.tell(&before.rules);
        }
        Ok(())
    }

    /// Writes the policy anew: interfaces have come or gone, or bans of other lengths.
    ///
    /// # Errors
    /// The kernel refuses the policy.
    pub fn refresh(&self) -> Result<(), RulesError> {
        self.enforce(&mut self.state())
    }

    /// Puts the policy in force again if somebody else has changed it; tells whether.
    ///
    /// # Errors
    /// The kernel refuses to tell it or to take it.
    pub fn reconcile(&self) -> Result<bool, RulesError> {
        let mut state = self.state();
        let differs = self.dataplane.policy()? != state.in_force;
        if differs {
            self.enforce(&mut state)?;
        }
        Ok(differs)
    }

    fn replace(
        &self,
        state: &mut State,
        rules: RuleSet,
        from: RulesFrom,
    ) -> Result<RuleSet, RulesError> {
        let mut next = state.clone();
        next.take(rules, from);
        self.enforce(&mut next)?;
        let before = std::mem::replace(state, next);
        state.tell(&before.rules);
        Ok(state.rules.clone())
    }

    /// Puts the state in force in the kernel: one store.
    fn enforce(&self, state: &mut State) -> Result<(), RulesError> {
        let Compiled {
            call_rules,
            volume_rules,
            limit_rules,
            units,
            unit_rules,
            rules,
        } = compile(&state.rules);
        let mut ban_lengths = [[0; MAX_BAN_LENGTHS]; 2];
        for (row, lengths) in self.lengths(&state.rules)?.into_iter().enumerate() {
            if lengths.len() > MAX_BAN_LENGTHS {
                return Err(RulesError::TooManyLengths {
                    lengths: lengths.len(),
                });
            }
            for (place, length) in ban_lengths[row].iter_mut().zip(lengths) {
                *place = length;
            }
        }
        let policy = Policy {
            observe: (state.mode == Mode::Observe).into(),
            generation: state.generation,
            call_budget: state.call_budget,
            limit_rules,
            call_rules,
            volume_rules,
            interfaces: self.dataplane.interface_slots(),
            units,
            unit_rules,
            ban_lengths,
            rules,
        };
        self.dataplane.set_policy(&policy)?;
        state.in_force = Some(policy);
        Ok(())
    }

    /// The prefix lengths under which bans stand or may come to stand, per family: the rules'
    /// units, the single address, and those of bans that earlier rules have set.
    fn lengths(&self, rules: &RuleSet) -> Result<[BTreeSet<u32>; 2], RulesError> {
        let units = |family, single| {
            let units = rules.units(family).into_iter().map(u32::from);
            units.chain([single]).collect::<BTreeSet<_>>()
        };
        let mut lengths = [units(Family::V4, 32), units(Family::V6, 128)];
        self.dataplane.each_ban(|prefix, _| {
            let row = usize::from(prefix.addr().is_ipv6());
            lengths[row].insert(prefix.prefix_len().into());
        })?;
        Ok(lengths)
    }

    fn check_lengths(&self, rules: &RuleSet) -> Result<(), RulesError> {
        match self.lengths(rules)?.iter().map(BTreeSet::len).max() {
            Some(lengths) if lengths > MAX_BAN_LENGTHS => {
                Err(RulesError::TooManyLengths { lengths })
            }
            _ => Ok(()),
        }
    }

    fn read_file(&self) -> Result<Option<RuleSet>, RulesError> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.io("read", error)),
        };
        match RuleSet::from_toml(&text) {
            Ok(rules) => Ok(Some(rules)),
            Err(source) => Err(RulesError::File {
                path: self.path.clone(),
                source: Box::new(source),
            }),
        }
    }

    /// Whole or not at all, whatever happens meanwhile.
    fn write_file(&self, text: &str) -> Result<(), RulesError> {
        let aside = self.path.with_extension("toml.new");
        let write = || {
            let mut file = fs::File::create(&aside)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&aside, &self.path)?;
            fs::File::open(self.path.parent().unwrap_or(&self.path))?.sync_all()
        };
        write().map_err(|error| self.io("write", error))
    }

    fn io(&self, operation: &'static str, source: io::Error) -> RulesError {
        RulesError::Io {
            operation,
            path: self.path.clone(),
            source,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
