//! Sums over an index, to notice what somebody else writes into it: adding up is a hundred times
//! cheaper than to compare it with the lists.

/// Words of a chunk: 64 KiB.
const CHUNK: usize = 8192;

/// A sum for each chunk; `None` for one that was written here since.
#[derive(Debug, Default)]
pub(super) struct Sums(Vec<Option<u64>>);

impl Sums {
    /// A word was written.
    pub(super) fn changed(&mut self, word: u64) {
        if let Some(sum) = self.0.get_mut(word as usize / CHUNK) {
            *sum = None;
        }
    }

    /// Everything was.
    pub(super) fn forget(&mut self) {
        self.0.clear();
    }

    /// Whether the chunks that were not written here are as they were; sums up the others.
    pub(super) fn agree(&mut self, words: &[u64]) -> bool {
        let chunks = words.chunks(CHUNK);
        self.0.resize(chunks.len(), None);
        let mut agree = true;
        for (known, chunk) in self.0.iter_mut().zip(chunks) {
            let sum = sum(chunk);
            agree &= known.is_none_or(|known| known == sum);
            *known = Some(sum);
        }
        agree
    }
}

/// Four lanes, which the processor adds up side by side. It finds mistakes and meddlers, not those
/// who choose their bytes to the same sum; they have root and could as well replace the program.
fn sum(words: &[u64]) -> u64 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut lanes = [1u64, 2, 3, 4];
    let (fours, rest) = words.as_chunks::<4>();
    for four in fours {
        for (lane, word) in lanes.iter_mut().zip(four) {
            *lane = (*lane ^ word).wrapping_mul(ODD).rotate_left(29);
        }
    }
    let fold = |sum: u64, word: &u64| (sum ^ word).wrapping_mul(ODD).rotate_left(29);
    lanes.iter().chain(rest).fold(words.len() as u64, fold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_of_somebody_else_is_told_from_ours() {
        let mut words = vec![0u64; 3 * CHUNK + 5];
        let mut sums = Sums::default();
        assert!(sums.agree(&words));
        for at in [0, CHUNK - 1, CHUNK, 3 * CHUNK + 4] {
            words[at] ^= 1 << 17;
            assert!(!sums.agree(&words), "{at}");
            assert!(sums.agree(&words), "{at}");
            words[at] ^= 1 << 17;
            sums.changed(at as u64);
            assert!(sums.agree(&words), "{at}");
        }
        words.push(9);
        sums.changed(3 * CHUNK as u64);
        assert!(sums.agree(&words), "what is used grows");
    }
}
