//! The slots of the kernel's table of hits.

use std::collections::VecDeque;

use packetwatch_abi::NO_SLOT;

/// Indices into the kernel's table of hits. The one given back longest ago is given next, so that
/// a former owner's last packets are seldom counted for the new one.
#[derive(Debug)]
pub(super) struct Slots {
    next: u32,
    capacity: u32,
    given_back: VecDeque<u32>,
}

impl Slots {
    pub(super) fn new(capacity: u32) -> Self {
        Self {
            next: 0,
            capacity,
            given_back: VecDeque::new(),
        }
    }

    /// `None` when all are taken.
    pub(super) fn take(&mut self) -> Option<u32> {
        if self.next < self.capacity {
            self.next += 1;
            Some(self.next - 1)
        } else {
            self.given_back.pop_front()
        }
    }

    pub(super) fn give_back(&mut self, slot: u32) {
        if slot != NO_SLOT {
            self.given_back.push_back(slot);
        }
    }
}
