//! Ranges in lines.

use packetwatch_abi::index::{Line, RANGES_V4, RANGES_V6};

/// Ranges of a line.
pub(super) fn per_line(is_v6: bool) -> usize {
    if is_v6 { RANGES_V6 } else { RANGES_V4 }
}

/// A line of ranges; the last one is repeated, so that what is looked for beyond it finds it.
pub(super) fn pack(is_v6: bool, ranges: &[(u128, u32)]) -> Line {
    let range = |n: usize| ranges[n.min(ranges.len() - 1)];
    if !is_v6 {
        return std::array::from_fn(|n| {
            let (at, number) = range(n);
            (at as u64) << 32 | u64::from(number)
        });
    }
    let [(a, x), (b, y), (c, z)] = [range(0), range(1), range(2)];
    let half = |at: u128| [(at >> 64) as u64, at as u64];
    let ([a, aa], [b, bb], [c, cc]) = (half(a), half(b), half(c));
    [
        a,
        aa,
        b,
        bb,
        c,
        cc,
        u64::from(x) | u64::from(y) << 32,
        z.into(),
    ]
}

/// The ranges of a line, those that stand in for none included.
pub(super) fn unpack(is_v6: bool, line: &Line) -> Vec<(u128, u32)> {
    if !is_v6 {
        return line
            .iter()
            .map(|word| (u128::from(word >> 32), *word as u32))
            .collect();
    }
    let at = |n: usize| u128::from(line[2 * n]) << 64 | u128::from(line[2 * n + 1]);
    let numbers = [line[6] as u32, (line[6] >> 32) as u32, line[7] as u32];
    (0..RANGES_V6).map(|n| (at(n), numbers[n])).collect()
}
