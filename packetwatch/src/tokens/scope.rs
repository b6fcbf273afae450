//! What a token is good for.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One right. A token has one or more; [`Scope::Admin`] includes all others, which include none.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    ToSchema,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// look at everything but the tokens
    Read,
    /// change the allow and the deny list, end bans
    Lists,
    /// kept packets, in builds that have them
    Capture,
    /// jobs over several hosts, in builds that have them
    Fleet,
    /// everything: rules, mode, tokens too
    Admin,
}

impl Scope {
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Lists,
        Self::Capture,
        Self::Fleet,
        Self::Admin,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Lists => "lists",
            Self::Capture => "capture",
            Self::Fleet => "fleet",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == name)
    }

    /// Whether `held` permits what asks for this one.
    pub fn is_in(self, held: &[Self]) -> bool {
        held.contains(&self) || held.contains(&Self::Admin)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_includes_all_and_the_others_themselves_alone() {
        for needed in Scope::ALL {
            for held in Scope::ALL {
                let permitted = held == needed || held == Scope::Admin;
                assert_eq!(needed.is_in(&[held]), permitted, "{held} for {needed}");
            }
            assert!(!needed.is_in(&[]));
            assert_eq!(Scope::named(needed.as_str()), Some(needed));
        }
        assert!(Scope::Lists.is_in(&[Scope::Read, Scope::Lists]));
        assert_eq!(Scope::named("Admin"), None);
    }
}
