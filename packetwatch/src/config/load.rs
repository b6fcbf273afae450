//! Reading the four layers.

use std::{
    ffi::OsString,
    fs,
    io::{self, Read as _},
    ops::Range,
    path::{Path, PathBuf},
};

use toml::de::{DeTable, DeValue};

use super::{
    Config, ConfigError, Flags, Origin, Violation, env,
    keys::{self, KEYS, Key},
};
use crate::document::{self, Fault, Position, Value};

/// Read when no file is named; it may be missing.
const DEFAULT_FILE: &str = "/etc/packetwatch/packetwatch.toml";

/// A hand-written file has a few kilobytes; the lists live in the journal.
const MAX_FILE: u64 = 1 << 20;

/// Where a configuration is read from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// What was typed; `flags.config` names a file that must be there.
    pub flags: Flags,
    /// The environment; variables that do not begin with `PACKETWATCH_` are passed over.
    pub env: Vec<(OsString, OsString)>,
    /// The file to read when no flag names one; it may be missing.
    pub default_file: PathBuf,
}

impl Sources {
    /// This process's environment and [`DEFAULT_FILE`].
    pub fn of_process(flags: Flags) -> Self {
        Self {
            flags,
            env: std::env::vars_os().collect(),
            default_file: DEFAULT_FILE.into(),
        }
    }

    /// The file that these flags have a process read; the default one may be missing.
    pub fn file_of(flags: &Flags) -> PathBuf {
        flags.config.clone().unwrap_or_else(|| DEFAULT_FILE.into())
    }
}

impl Config {
    /// Reads every layer: flag over environment over file over default.
    ///
    /// A value is checked even where a higher layer replaces it. An empty variable means the
    /// default, whatever the file says.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`] for the file, else everything that is wrong at once.
    pub fn load(sources: Sources) -> Result<Self, ConfigError> {
        let mut layers = Layers {
            config: Self::default(),
            violations: Vec::new(),
        };
        let Sources {
            flags,
            env,
            default_file,
        } = sources;
        let file = flags.config.as_ref().unwrap_or(&default_file);
        if let Some(text) = read_file(file, flags.config.is_some())? {
            layers.file(file, &text);
        }
        layers.env(&env);
        for (flag, key, value) in flags.given() {
            layers.set(key, &value, |_| Origin::Flag(flag));
        }
        if let Some((key, message)) = layers.config.api.fault() {
            layers.violations.push(Violation {
                origin: layers.config.origin(key).clone(),
                key: Some(key),
                message,
            });
        }
        if layers.violations.is_empty() {
            Ok(layers.config)
        } else {
            Err(ConfigError::Invalid(layers.violations))
        }
    }
}

struct Layers {
    config: Config,
    violations: Vec<Violation>,
}

impl Layers {
    fn set(
        &mut self,
        key: &'static Key,
        value: &Value<'_>,
        origin: impl Fn(Range<usize>) -> Origin,
    ) {
        match (key.read)(&mut self.config, value) {
            Ok(()) => {
                self.config.origins.insert(key.path, origin(value.span()));
            }
            Err(faults) => self
                .violations
                .extend(faults.into_iter().map(|fault| Violation {
                    origin: origin(fault.span),
                    key: Some(key.path),
                    message: fault.message,
                })),
        }
    }

    fn file(&mut self, path: &Path, text: &str) {
        let origin = |span: Range<usize>| Origin::File {
            path: path.to_owned(),
            at: Position::of(text, span.start),
        };
        let faults = match document::parse(text) {
            Ok(table) => self.table("", &table, &origin),
            Err(fault) => vec![fault],
        };
        self.violations
            .extend(faults.into_iter().map(|fault| Violation {
                origin: origin(fault.span),
                key: None,
                message: fault.message,
            }));
        let place = |violation: &Violation| match &violation.origin {
            Origin::File { at, .. } => Some(*at),
            _ => None,
        };
        self.violations.sort_by_key(place);
    }

    /// Sets the keys of one table; answers what is wrong with the keys themselves.
    fn table(
        &mut self,
        section: &str,
        table: &DeTable<'_>,
        origin: &impl Fn(Range<usize>) -> Origin,
    ) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (name, value) in table.iter() {
            let path = match section {
                "" => name.get_ref().to_string(),
                _ => format!("{section}.{}", name.get_ref()),
            };
            let is_section = KEYS.iter().any(|key| key.section() == path);
            match (keys::find(&path), value.get_ref()) {
                (Some(key), _) => self.set(key, value, origin),
                (None, DeValue::Table(inner)) if is_section => {
                    faults.extend(self.table(&path, inner, origin));
                }
                (None, _) if is_section => {
                    let message = format!("{path:?} is a section: write it as [{path}]");
                    faults.push(Fault::new(value.span(), message));
                }
                (None, _) => faults.push(Fault::new(name.span(), unknown(&path))),
            }
        }
        faults
    }

    fn env(&mut self, env: &[(OsString, OsString)]) {
        for variable in env::variables(env) {
            match variable {
                Ok(variable) if variable.text.is_empty() => {
                    let default = (variable.key.show)(&Config::default()).to_string();
                    let default = DeValue::parse(&default).expect("a default is TOML");
                    let origin = Origin::EmptyVariable(variable.name);
                    self.set(variable.key, &default, |_| origin.clone());
                }
                Ok(variable) => {
                    let origin = Origin::Variable(variable.name.clone());
                    self.set(variable.key, &variable.value(), |_| origin.clone());
                }
                Err(violation) => self.violations.push(violation),
            }
        }
    }
}

fn unknown(path: &str) -> String {
    let sections = KEYS
        .iter()
        .map(Key::section)
        .filter(|section| !section.is_empty());
    match document::nearest(path, KEYS.iter().map(|key| key.path).chain(sections)) {
        Some(near) => format!("unknown key {path:?}: the nearest known key is {near:?}"),
        None => format!("unknown key {path:?}: `packetwatch config template` shows all keys"),
    }
}

/// The file's text; `None` when it is missing and need not be there.
fn read_file(path: &Path, required: bool) -> Result<Option<String>, ConfigError> {
    let unreadable = |source, remedy| ConfigError::Unreadable {
        path: path.to_owned(),
        source,
        remedy,
    };
    let read = fs::File::open(path).and_then(|file| {
        let mut text = String::new();
        match file.take(MAX_FILE + 1).read_to_string(&mut text)? as u64 {
            0..=MAX_FILE => Ok(text),
            _ => Err(io::Error::other("it is longer than 1 MiB")),
        }
    });
    match read {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !required => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(unreadable(
            error,
            "name another with --config, or write one with `packetwatch config template`",
        )),
        Err(error) => Err(unreadable(
            error,
            "make it a readable file in UTF-8 of at most 1 MiB",
        )),
    }
}
