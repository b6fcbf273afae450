//! Both families, and the frames whose source a [`crate::reel`] replaces.

use std::{fmt, net::IpAddr};

use packetwatch_tests::{Frame, packet::SYN};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Family {
    #[serde(rename = "IPv4")]
    V4,
    #[serde(rename = "IPv6")]
    V6,
}

const ETHERNET: i16 = 14;

impl Family {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    /// Where the source address is in a frame.
    pub(crate) fn source_at(self) -> i16 {
        ETHERNET
            + match self {
                Self::V4 => 12,
                Self::V6 => 8,
            }
    }

    /// Bytes of Ethernet and IP.
    pub(crate) fn headers(self) -> i32 {
        i32::from(ETHERNET)
            + match self {
                Self::V4 => 20,
                Self::V6 => 40,
            }
    }

    /// Bytes of an address.
    pub(crate) fn width(self) -> usize {
        match self {
            Self::V4 => 4,
            Self::V6 => 16,
        }
    }

    /// Bytes of an address in an array, whose values are rounded up.
    pub(crate) fn reel_width(self) -> usize {
        self.width().next_multiple_of(8)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

fn from(family: Family) -> Frame {
    match family {
        Family::V4 => Frame::new().ip([198, 19, 3, 1].into(), [198, 18, 0, 1].into()),
        Family::V6 => {
            let address = |text: &str| text.parse().expect("an address");
            Frame::new().ip(address("2001:db8:900d::1"), address("2001:db8::1"))
        }
    }
}

/// A SYN, which the default rules count.
pub(crate) fn call(family: Family) -> Vec<u8> {
    from(family).tcp(40_000, 80, SYN).payload([0; 6]).build()
}

/// A packet that no default rule looks at.
pub(crate) fn datagram(family: Family) -> Vec<u8> {
    from(family).udp(40_000, 53).payload([0; 18]).build()
}
