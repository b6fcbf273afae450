//! Frames gone wrong, by accident or on purpose.

use packetwatch_tests::random::Random;

/// The kernel's bound on what it runs a program on.
const SHORTEST: u64 = 14;

/// Changes a frame; `other` lends its end to a splice.
pub(crate) fn mutate(random: &mut Random, frame: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..random.between(1, 3) {
        match random.below(6) {
            0 | 1 => flip_bits(random, frame),
            2 => frame.truncate(random.between(SHORTEST, frame.len() as u64) as usize),
            3 => lie_about_lengths(random, frame),
            4 => {
                let at = random.between(SHORTEST, frame.len() as u64) as usize;
                let from = random.below(other.len() as u64) as usize;
                frame.truncate(at);
                frame.extend(&other[from..]);
            }
            _ => {
                let at = random.below(frame.len() as u64) as usize;
                frame[at] = random.next() as u8;
            }
        }
    }
}

/// Mostly among the headers: the payload decides nothing.
fn flip_bits(random: &mut Random, frame: &mut [u8]) {
    let end = if random.percent(90) {
        frame.len().min(120)
    } else {
        frame.len()
    };
    for _ in 0..random.between(1, 4) {
        let bit = random.between(12 * 8, end as u64 * 8 - 1);
        frame[bit as usize / 8] ^= 1 << (bit % 8);
    }
}

/// Overwrites what may be a length: IPv4's header and total length, IPv6's payload length, that of
/// an extension header; in an untagged frame or behind up to two tags.
fn lie_about_lengths(random: &mut Random, frame: &mut [u8]) {
    let network = 14 + 4 * *random.of(&[0, 0, 0, 1, 2]);
    let long = random.next().to_be_bytes();
    let near = random.below(80).to_be_bytes();
    let word = if random.percent(50) {
        [long[6], long[7]]
    } else {
        [near[6], near[7]]
    };
    let (at, lie): (usize, &[u8]) = match random.below(5) {
        0 => (network, &[0x40 | word[1] & 0x0f]),
        1 => (network + 2, &word),
        2 => (network + 4, &word),
        3 => (network + 41, &word[1..]),
        _ => (network + 49, &word[1..]),
    };
    if let Some(field) = frame.get_mut(at..at + lie.len()) {
        field.copy_from_slice(lie);
    }
}
