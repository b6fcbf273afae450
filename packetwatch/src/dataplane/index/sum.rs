//! A sum over an index, to notice what somebody else writes into it: adding up is much cheaper than
//! to compare it with the lists. A write changes two terms.

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a word adds to the sum. It finds mistakes and meddlers, not those who choose their words to
/// the same sum; they have root and could as well replace the program.
pub(super) fn term(at: u32, word: u64) -> u64 {
    if word == 0 {
        return 0;
    }
    let mixed = (word ^ u64::from(at).wrapping_mul(ODD)).wrapping_mul(ODD);
    mixed ^ mixed >> 32
}

pub(super) fn of(words: &[u64]) -> u64 {
    let terms = (0..).zip(words).map(|(at, word)| term(at, *word));
    terms.fold(0, u64::wrapping_add)
}
