//! An interface as the daemon shows it.

use std::{collections::BTreeSet, net::IpAddr};

use super::XdpMode;

/// Whether an interface is filtered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// the program is on it
    Attached,
    /// the same, and the interface is set down: nothing comes in
    Down,
    /// it is there, and the program could not be attached
    Detached,
    /// The same, since another's program is on it, or another process of ours: until that one leaves, no
    /// process has it.
    Held,
    /// no interface bears the name
    Missing,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Attached => "attached",
            Self::Down => "down",
            Self::Detached | Self::Held => "detached",
            Self::Missing => "missing",
        }
    }

    /// Whether every packet that comes in is judged.
    pub fn is_filtered(self) -> bool {
        matches!(self, Self::Attached | Self::Down)
    }
}

/// An interface that is filtered, or that the configuration wants filtered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// as it is called now, or was when it was last here
    pub name: String,
    /// Its name in the configuration. `None` for one that was renamed, and whose name another
    /// bears now: it stays filtered for as long as it is here.
    pub configured: Option<String>,
    pub state: State,
    /// 0 when it is not filtered
    pub ifindex: u32,
    /// `None` for a filter taken over from an earlier process, until the kernel was asked
    pub mode: Option<XdpMode>,
    /// 0 when it is not filtered
    pub program_id: u32,
    /// why native was not possible, where it was tried
    pub not_native: Option<String>,
    /// bytes; `None` until the kernel was asked
    pub mtu: Option<u32>,
    /// Without link-local ones of IPv6, which come and go with the link; `None` until the kernel was asked.
    pub addresses: Option<BTreeSet<IpAddr>>,
    /// why it is not filtered
    pub error: Option<String>,
    /// Why the filter ends with this process, however it ends: pins were taken away and cannot be made
    /// anew.
    pub not_pinned: Option<String>,
}

impl Interface {
    pub(super) fn missing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            configured: Some(name.to_owned()),
            state: State::Missing,
            ifindex: 0,
            mode: None,
            program_id: 0,
            not_native: None,
            mtu: None,
            addresses: None,
            error: None,
            not_pinned: None,
        }
    }

    pub(super) fn lose(&mut self, state: State, error: Option<String>) {
        self.state = state;
        self.ifindex = 0;
        self.program_id = 0;
        self.addresses = None;
        self.error = error;
        self.not_pinned = None;
    }
}
