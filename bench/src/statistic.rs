//! What is said of many samples.

/// The middle one; of an even number, the mean of the two in the middle. Panics without samples.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let sorted = sorted(samples);
    let half = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) {
        f64::midpoint(sorted[half - 1], sorted[half])
    } else {
        sorted[half]
    }
}

/// The smallest sample that `share` (0 to 1) of them do not exceed. Panics without samples.
pub(crate) fn quantile(samples: &[f64], share: f64) -> f64 {
    let sorted = sorted(samples);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn a_quantile_is_one_of_the_samples() {
        let samples: Vec<f64> = (1..=300).map(f64::from).collect();
        assert_eq!(quantile(&samples, 0.99), 297.0);
        assert_eq!(quantile(&samples, 1.0), 300.0);
        assert_eq!(quantile(&samples[..1], 0.0), 1.0);
    }
}
