//! Why a packet passed or was dropped, and where that is counted.

use crate::policy::MAX_INTERFACES;

/// What XDP is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Pass,
    Drop,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal, $action:ident;)*) => {
        /// The outcome of a packet. This table is the only place that says which of them drop.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[$doc])* $name = $number,)* }

        impl Reason {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            #[inline(always)]
            pub const fn action(self) -> Action {
                match self { $(Self::$name => Action::$action,)* }
            }

            /// The label in metrics and logs.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    /// judged, and nothing stood against it
    Pass = 0, "pass", Pass;
    /// the source is on the allow list
    Allow = 1, "allow", Pass;
    /// the source is on the deny list
    Deny = 2, "deny", Drop;
    /// the source is banned by a rule
    Ban = 3, "ban", Drop;
    /// a rule's N lie in the window already; the ban is not set yet
    Threshold = 4, "threshold", Drop;
    /// neither IPv4 nor IPv6 in the outermost header
    NotIp = 5, "not-ip", Pass;
    Arp = 6, "arp", Pass;
    /// ICMPv6 133 to 137, hop limit 255, no extension header: without it IPv6 stops
    NeighbourDiscovery = 7, "neighbour-discovery", Pass;
    /// more than four VLAN tags: Linux would deliver it, unjudged
    TooManyTags = 8, "too-many-tags", Drop;
    /// shorter than its headers say; Linux drops it, a banned source is dropped before
    Malformed = 9, "malformed", Pass;
    /// beyond what a rule lets pass a second
    Limit = 10, "limit", Drop;
}

const REASONS: u32 = Reason::ALL.len() as u32;

/// The counter of calls, after those of the reasons.
pub const CONNECTIONS: u32 = REASONS;

/// Counters of one interface in one mode: a [`crate::Tally`] a reason, and one of calls.
pub const OUTCOMES_PER_INTERFACE: u32 = REASONS + 1;

/// Counters in all: enforced and observed, for each interface and for "any other".
pub const OUTCOMES: u32 = 2 * OUTCOMES_PER_INTERFACE * (MAX_INTERFACES as u32 + 1);

/// Where the counter `what` (a reason's number or [`CONNECTIONS`]) of an interface is.
/// `observed` tells the drops that observe mode let pass from real ones.
#[inline(always)]
pub const fn outcome_index(slot: u32, observed: bool, what: u32) -> u32 {
    (slot * 2 + observed as u32) * OUTCOMES_PER_INTERFACE + what
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What the program could not do. Each is counted; the packet's verdict stands.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Fault { $($(#[$doc])* $name = $number,)* }

        impl Fault {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

faults! {
    /// no room for a new caller: its packets are judged by the lists, not counted
    CallersFull = 0, "callers-full";
    /// a new caller was refused for a cause that none of the others is
    CallersError = 1, "callers-error";
    /// a call within the log's budget found the ring full
    CallsLost = 2, "calls-lost";
    /// a call beyond the log's budget
    CallsSuppressed = 3, "calls-suppressed";
    /// an offence found the ring full; the sweep finds it in the caller
    OffencesLost = 4, "offences-lost";
    /// a counter was fought over too often and kept its value; a call that a rule on ports or a
    /// window would have had to count, or a packet that a limit would have had to, was dropped for it
    Contended = 5, "contended";
    /// the kernel had no memory at hand for a new caller
    CallersNoMemory = 6, "callers-no-memory";
    /// the bucket of a new caller was locked by what this CPU had interrupted
    CallersDeadlock = 7, "callers-deadlock";
    /// the bucket of a new caller was locked for too long by another CPU
    CallersTimedOut = 8, "callers-timed-out";
    /// the same two before kernel 6.15
    CallersBusy = 9, "callers-busy";
}

impl Fault {
    /// What a refused insertion of a caller is counted as. `errno` as the kernel's helper returns it,
    /// negative.
    #[inline(always)]
    pub const fn of_insertion(errno: i32) -> Self {
        match errno {
            -7 => Self::CallersFull,
            -12 => Self::CallersNoMemory,
            -35 => Self::CallersDeadlock,
            -110 => Self::CallersTimedOut,
            -16 => Self::CallersBusy,
            _ => Self::CallersError,
        }
    }

    /// Whether [`Fault::of_insertion`] tells it.
    pub const fn is_of_insertion(self) -> bool {
        matches!(
            self,
            Self::CallersFull
                | Self::CallersNoMemory
                | Self::CallersDeadlock
                | Self::CallersTimedOut
                | Self::CallersBusy
                | Self::CallersError
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_the_place_of_its_number() {
        for (place, fault) in Fault::ALL.iter().enumerate() {
            assert_eq!(*fault as usize, place, "{}", fault.as_str());
        }
    }

    #[test]
    fn refused_insertions_are_told_apart() {
        let of = [-7, -12, -35, -110, -16, -22].map(Fault::of_insertion);
        let others = Fault::ALL.iter().filter(|fault| !of.contains(fault));
        assert!(of.iter().all(|fault| fault.is_of_insertion()));
        assert!(others.into_iter().all(|fault| !fault.is_of_insertion()));
        let of = of.map(Fault::as_str);
        let expected = [
            "callers-full",
            "callers-no-memory",
            "callers-deadlock",
            "callers-timed-out",
            "callers-busy",
            "callers-error",
        ];
        assert_eq!(of, expected);
    }
}
