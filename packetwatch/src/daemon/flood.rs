//! The admission threshold: how often a source has to come before it gets counts of its own.
//!
//! As long as the places of each tick suffice, once. Beyond them the program counts sources in a
//! sketch, where each has cells in common with others; the threshold is set above what these others
//! make of a cell, so that the sources found are those that come often themselves.

use std::time::Duration;

use packetwatch_abi::{Admission, LEAST_THRESHOLD, SKETCH_CELLS, SKETCH_EPOCH_SHIFT, SKETCH_ROWS};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::population::Population;
use crate::{
    clock::Clock,
    dataplane::{AdmissionCounts, Dataplane},
    log::EVENT,
};

const EVERY: Duration = Duration::from_millis(200);
/// About as long an entry stays that nobody comes back to, by rules that look back a minute.
const STAY: Duration = Duration::from_secs(60);
/// So many calm looks in a row end a flood: two seconds.
const CALM: u32 = 10;

pub(super) struct FloodWatch {
    pub(super) dataplane: Dataplane,
    pub(super) population: Population,
    pub(super) clock: Clock,
    /// callers that the kernel has room for
    pub(super) capacity: u32,
}

impl FloodWatch {
    /// Sets the threshold until `shutdown`: five times a second, a few system calls, whatever the
    /// number of sources.
    ///
    /// # Errors
    /// None; a map that cannot be read is told, and read again.
    pub(super) async fn run(self, shutdown: CancellationToken) -> std::io::Result<()> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut gauge = Gauge::new(self.capacity);
        let mut failed = false;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let looked = self.look(&mut gauge);
            if let Err(error) = &looked
                && !failed
            {
                tracing::error!(
                    "cannot watch for a flood: {error}; tried again five times a second"
                );
            }
            failed = looked.is_err();
        }
    }

    fn look(&self, gauge: &mut Gauge) -> Result<(), crate::dataplane::Error> {
        let counts = self.dataplane.admission_counts()?;
        let entries = self.population.entries(counts.admitted());
        let before = gauge.threshold;
        let change = gauge.look(counts, entries, self.clock.monotonic_ns());
        if gauge.threshold != before {
            self.dataplane.set_admission(Admission {
                threshold: gauge.threshold,
                ..Admission::of(self.capacity)
            })?;
        }
        match change {
            None => {}
            Some(Change::Began) => tracing::warn!(
                target: EVENT,
                {
                    event.action = "flood-began",
                    packetwatch.admission_threshold = gauge.threshold,
                },
                "more new sources come than get counts of their own: rules apply to those that \
                 call {} times and more",
                gauge.threshold
            ),
            Some(Change::Ended {
                admitted,
                not_admitted,
            }) => tracing::warn!(
                target: EVENT,
                {
                    event.action = "flood-ended",
                    packetwatch.admitted = admitted,
                    packetwatch.not_admitted = not_admitted,
                },
                "every new source gets counts of its own again: of the flood {admitted} sources \
                 got them, and {not_admitted} packets were of others"
            ),
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Began,
    Ended {
        /// sources that got an entry meanwhile
        admitted: u64,
        /// packets of the others
        not_admitted: u64,
    },
}

/// What the threshold follows from.
struct Gauge {
    threshold: u64,
    capacity: u64,
    places: u64,
    /// what others make of a cell, on average
    noise: f64,
    epoch: u64,
    last: AdmissionCounts,
    /// as the flood began, if there is one
    flood: Option<AdmissionCounts>,
    calm: u32,
}

impl Gauge {
    fn new(capacity: u32) -> Self {
        let Admission { threshold, places } = Admission::of(capacity);
        Self {
            threshold,
            places,
            capacity: capacity.into(),
            noise: 0.0,
            epoch: 0,
            last: AdmissionCounts::default(),
            flood: None,
            calm: 0,
        }
    }

    /// A look at the counts, every [`EVERY`].
    fn look(&mut self, counts: AdmissionCounts, entries: u64, now: u64) -> Option<Change> {
        let unseen = counts.sketched.saturating_sub(self.last.sketched);
        let refused = counts.refused.saturating_sub(self.last.refused);
        let found = counts.by_count.saturating_sub(self.last.by_count);
        self.last = counts;
        let epoch = now >> SKETCH_EPOCH_SHIFT;
        let halvings = epoch.saturating_sub(self.epoch).min(64);
        self.epoch = epoch;
        // A packet raises each row's cell by one at most.
        let growth = (unseen + found) as f64 / SKETCH_CELLS as f64;
        self.noise = self.noise / 2f64.powi(halvings as i32) + growth;

        let many = unseen > self.places;
        // Whatever the table is full of.
        let crowded = entries > self.capacity / 8 * 7 || refused > 0;
        let is_roomy = entries < self.capacity / 4 * 3 && refused == 0;
        let calm = unseen < self.places / 2 && is_roomy;
        self.calm = if calm { self.calm + 1 } else { 0 };
        match self.flood {
            None if many || crowded => {
                self.flood = Some(counts);
                self.threshold = self.above_noise(growth, unseen, entries);
                Some(Change::Began)
            }
            Some(then) if self.calm >= CALM => {
                self.flood = None;
                self.threshold = 1;
                Some(Change::Ended {
                    admitted: counts.admitted() - then.admitted(),
                    not_admitted: counts.not_admitted() - then.not_admitted(),
                })
            }
            Some(_) => {
                // Up at once; down in steps, or each epoch's end would let some in.
                let least = self.threshold - self.threshold / 16;
                self.threshold = self.above_noise(growth, unseen, entries).max(least);
                None
            }
            None => None,
        }
    }

    /// What few sources that come once reach by others' doing until the next look: so many that in the
    /// time for which they stay they take no more than the places that are free up to half the table. With
    /// none free, hardly one: the mean and four deviations.
    fn above_noise(&self, growth: f64, unseen: u64, entries: u64) -> u64 {
        let mean = self.noise + growth;
        let highest = ((mean + 4.0 * mean.sqrt() + 1.0).ceil() as u64).max(LEAST_THRESHOLD);
        let free = (self.capacity / 2).saturating_sub(entries) as f64;
        let bearable = free * EVERY.as_secs_f64() / STAY.as_secs_f64();
        let reach = |threshold: &u64| {
            let one = at_least(threshold - 1, mean);
            unseen as f64 * one.powi(SKETCH_ROWS as i32) <= bearable
        };
        (LEAST_THRESHOLD..highest).find(reach).unwrap_or(highest)
    }
}

/// The share of cells that hold so much, if each is raised at random and they hold `mean` on average.
fn at_least(count: u64, mean: f64) -> f64 {
    let (mut exactly, mut below) = ((-mean).exp(), 0.0);
    for n in 0..count {
        below += exactly;
        exactly *= mean / (n + 1) as f64;
    }
    (1.0 - below).max(0.0)
}

#[cfg(test)]
mod tests {
    use packetwatch_abi::capacity::LEAST_CALLERS;

    use super::*;

    const CAPACITY: u32 = 32_768;
    const STEP: u64 = EVERY.as_nanos() as u64;

    struct Scene {
        gauge: Gauge,
        counts: AdmissionCounts,
        now: u64,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                gauge: Gauge::new(CAPACITY),
                counts: AdmissionCounts::default(),
                now: 0,
            }
        }

        fn look(&mut self, sketched: u64, entries: u64) -> Option<Change> {
            self.counts.sketched += sketched;
            self.now += STEP;
            self.gauge.look(self.counts, entries, self.now)
        }
    }

    #[test]
    fn a_flood_raises_the_threshold_above_the_noise_and_its_end_takes_it_back() {
        let mut scene = Scene::new();
        assert_eq!(scene.look(100, 0), None, "places were short for a moment");
        assert_eq!(scene.gauge.threshold, 1);
        // A million calls a second.
        assert_eq!(scene.look(200_000, 1000), Some(Change::Began));
        for _ in 0..200 {
            assert_eq!(scene.look(200_000, 1000), None);
            let noise = scene.gauge.noise;
            let threshold = scene.gauge.threshold as f64;
            assert!(threshold > noise + noise.sqrt(), "{threshold} over {noise}");
        }
        // At most two epochs' worth lies in a cell.
        let most = 2.0 * 4.3 * 1e6 / SKETCH_CELLS as f64;
        let bound = most + 4.0 * most.sqrt() + 5.0;
        assert!(
            (scene.gauge.threshold as f64) < bound,
            "{}",
            scene.gauge.threshold
        );
        let calm: Vec<_> = (0..CALM).map(|_| scene.look(10, 1000)).collect();
        assert_eq!(calm[..CALM as usize - 1], [None; CALM as usize - 1]);
        let not_admitted = 200 * 200_000 + 10 * u64::from(CALM);
        let admitted = 0;
        assert_eq!(
            calm.last(),
            Some(&Some(Change::Ended {
                admitted,
                not_admitted
            }))
        );
        assert_eq!(scene.gauge.threshold, 1);
    }

    /// Slow scanners are found among few others as long as there is room for those who are not.
    #[test]
    fn the_threshold_leaves_as_much_to_chance_as_there_is_room_for() {
        let least_with = |entries: u64| {
            let mut scene = Scene::new();
            // 32 000 calls a second, for a minute.
            let thresholds = (0..300).map(|_| {
                scene.look(6_400, entries);
                scene.gauge.threshold
            });
            thresholds.max().unwrap()
        };
        let half = u64::from(CAPACITY) / 2;
        let thresholds = [0, half / 2, half - 1, half, 2 * half].map(least_with);
        assert_eq!(thresholds, [5, 6, 8, 10, 10]);
    }

    #[test]
    fn the_share_of_cells_is_that_of_a_poisson_distribution() {
        let near = |count, mean, share: f64| {
            let found = at_least(count, mean);
            assert!((found - share).abs() < 1e-4, "{found} {share}");
        };
        near(0, 2.0, 1.0);
        near(1, 2.0, 0.8647);
        near(4, 2.0, 0.1429);
        near(80, 60.0, 0.0078);
        near(9, 0.0, 0.0);
    }

    #[test]
    fn a_flood_that_pauses_for_a_moment_is_one_flood() {
        let mut scene = Scene::new();
        assert_eq!(scene.look(50_000, 0), Some(Change::Began));
        for _ in 0..20 {
            for _ in 0..CALM - 1 {
                assert_eq!(scene.look(0, 0), None);
            }
            assert_eq!(scene.look(50_000, 0), None);
        }
        assert!(scene.gauge.threshold >= LEAST_THRESHOLD);
    }

    #[test]
    fn a_table_that_takes_nobody_is_crowded_whatever_it_is_full_of() {
        let mut scene = Scene::new();
        assert_eq!(scene.look(0, 0), None);
        scene.counts.refused = 1;
        assert_eq!(scene.look(0, 0), Some(Change::Began));
        for _ in 0..2 * CALM {
            scene.counts.refused += 1;
            assert_eq!(scene.look(0, 0), None);
        }
        let calm: Vec<_> = (0..CALM).map(|_| scene.look(0, 0)).collect();
        let not_admitted = 2 * u64::from(CALM);
        let ended = Change::Ended {
            admitted: 0,
            not_admitted,
        };
        assert_eq!(calm.last(), Some(&Some(ended)));
    }

    #[test]
    fn a_table_that_fills_up_admits_nobody_at_first_sight() {
        for capacity in [LEAST_CALLERS, CAPACITY] {
            let mut scene = Scene {
                gauge: Gauge::new(capacity),
                ..Scene::new()
            };
            let full = u64::from(capacity);
            assert_eq!(scene.look(0, full / 8 * 7), None);
            assert_eq!(scene.look(0, full / 8 * 7 + 1), Some(Change::Began));
            assert_eq!(scene.gauge.threshold, LEAST_THRESHOLD);
            for _ in 0..100 {
                assert_eq!(scene.look(0, full / 4 * 3), None, "still crowded");
            }
            let calm: Vec<_> = (0..CALM).map(|_| scene.look(0, full / 4 * 3 - 1)).collect();
            assert!(matches!(calm.last(), Some(Some(Change::Ended { .. }))));
        }
    }
}
