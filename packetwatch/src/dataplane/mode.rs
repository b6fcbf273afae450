//! Where in the kernel the program runs: in the driver (native) or behind it (generic).

use std::fmt;

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// native, and generic where the driver cannot
    #[default]
    Auto,
    Native,
    Generic,
}

impl AttachMode {
    /// Whether a filter that is there may not stay in the mode that it is in.
    pub(super) fn refuses(self, mode: XdpMode) -> bool {
        match self {
            Self::Auto => false,
            Self::Native => mode == XdpMode::Generic,
            Self::Generic => mode == XdpMode::Native,
        }
    }
}

/// What took effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    Native,
    Generic,
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// The XDP program that is on an interface, as the kernel told over netlink a moment ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Present {
    pub program_id: u32,
    pub mode: XdpMode,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_mode_that_is_named_refuses_the_other() {
        use AttachMode::{Auto, Generic, Native};
        let refused = [Auto, Native, Generic]
            .map(|asked| [XdpMode::Native, XdpMode::Generic].map(|mode| asked.refuses(mode)));
        assert_eq!(refused, [[false, false], [false, true], [true, false]]);
    }
}
