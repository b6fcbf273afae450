//! Memory of a map with a sum over what is written here, to notice what somebody else writes: adding
//! up is much cheaper than to compare with the lists. A write changes two terms.

use super::super::mapped::Mapped;

pub(super) struct Written {
    memory: Mapped,
    sum: u64,
}

impl Written {
    /// Over memory of zeroes.
    pub(super) fn new(memory: Mapped) -> Self {
        Self { memory, sum: 0 }
    }

    pub(super) fn word(&self, at: u32) -> u64 {
        self.memory.word(at)
    }

    /// All words, as the program reads them.
    pub(super) fn words(&self) -> &[u64] {
        self.memory.plain()
    }

    /// The one way to write, which keeps the sum: of what was there, as it is read, and of what is
    /// there now.
    pub(super) fn put(&mut self, at: u32, word: u64) {
        let before = term(at, self.memory.word(at));
        self.sum = self.sum.wrapping_sub(before).wrapping_add(term(at, word));
        self.memory.publish(at, word);
    }

    /// Whether the first `count` words are as they were written here and nothing else was, as far as
    /// a sum tells.
    pub(super) fn is_as_written(&self, count: u32) -> bool {
        let words = &self.words()[..count as usize];
        let terms = (0..).zip(words).map(|(at, word)| term(at, *word));
        terms.fold(0, u64::wrapping_add) == self.sum
    }

    /// As somebody else would write.
    #[cfg(test)]
    pub(super) fn meddle(&self, at: u32, word: u64) {
        self.memory.publish(at, word);
    }
}

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a word adds to the sum. It finds mistakes and meddlers, not those who choose their words to
/// the same sum; they have root and could as well replace the program.
fn term(at: u32, word: u64) -> u64 {
    if word == 0 {
        return 0;
    }
    let mixed = (word ^ u64::from(at).wrapping_mul(ODD)).wrapping_mul(ODD);
    mixed ^ mixed >> 32
}
