//! What a caller did lately.

use std::collections::BTreeMap;

/// Calls, packets or bytes, each with its time.
///
/// Counted are those in the eighth of the window that it is now and in the seven eighths before,
/// where eighths are numbered from the clock's zero. That reaches back more than 7/8 and at most
/// 8/8 of the window.
#[derive(Clone, Debug)]
pub struct Window {
    eighth_ns: u64,
    /// number of the eighth, amount
    log: Vec<(u64, u64)>,
}

impl Window {
    pub fn of(within_ns: u64) -> Self {
        Self {
            eighth_ns: within_ns / 8,
            log: Vec::new(),
        }
    }

    /// The number of the eighth that `now` lies in.
    pub fn eighth(&self, now: u64) -> u64 {
        now / self.eighth_ns
    }

    pub fn add(&mut self, now: u64, amount: u64) {
        let eighth = self.eighth(now);
        self.log.retain(|(then, _)| then + 8 > eighth);
        match self.log.last_mut() {
            Some((then, sum)) if *then == eighth => *sum += amount,
            _ => self.log.push((eighth, amount)),
        }
    }

    pub fn count(&self, now: u64) -> u64 {
        let eighth = self.eighth(now);
        let recent = self.log.iter().filter(|(then, _)| then + 8 > eighth);
        recent.map(|(_, amount)| amount).sum()
    }

    pub fn clear(&mut self) {
        self.log.clear();
    }
}

/// Destination ports and the time of their last call, in steps of [`Ports::STEP`].
#[derive(Clone, Debug, Default)]
pub struct Ports(BTreeMap<u16, u64>);

impl Ports {
    /// nanoseconds
    pub const STEP: u64 = 65_536;
    const MOST: usize = 64;

    /// The 65th port takes the place of the one called longest ago; of several such, the lowest.
    pub fn note(&mut self, port: u16, now: u64) {
        if !self.0.contains_key(&port) && self.0.len() == Self::MOST {
            let oldest = self.0.iter().min_by_key(|(port, then)| (**then, **port));
            let oldest = *oldest.expect("64 ports").0;
            self.0.remove(&oldest);
        }
        self.0.insert(port, now / Self::STEP);
    }

    /// Ports called less than `within_ns` ago and not before `since`, both to the step.
    pub fn count(&self, now: u64, since: u64, within_ns: u64) -> u64 {
        let (now, since) = (now / Self::STEP, since / Self::STEP);
        let fresh = |then: u64| then >= since && (now - then) * Self::STEP < within_ns;
        self.0.values().filter(|then| fresh(**then)).count() as u64
    }

    /// Port and step of its last call.
    pub fn steps(&self) -> &BTreeMap<u16, u64> {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_reaches_back_between_seven_eighths_and_the_whole() {
        let mut window = Window::of(80);
        window.add(109, 3);
        assert_eq!(window.count(179), 3, "seven eighths later");
        assert_eq!(window.count(180), 0, "in the eighth eighth after it");
        window.add(110, 4);
        assert_eq!(window.count(189), 4);
        assert_eq!(window.count(190), 0);
    }

    #[test]
    fn a_port_counts_once_until_its_last_call_is_old() {
        let mut ports = Ports::default();
        let step = Ports::STEP;
        for (port, now) in [(80, step), (443, 5 * step), (80, 6 * step)] {
            ports.note(port, now);
        }
        assert_eq!(ports.count(6 * step, 0, 10 * step), 2);
        assert_eq!(ports.count(15 * step, 0, 10 * step), 1, "443 is ten old");
        assert_eq!(ports.count(6 * step, 6 * step, 10 * step), 1);
    }

    #[test]
    fn the_65th_port_takes_the_place_of_the_oldest() {
        let mut ports = Ports::default();
        (0..65).for_each(|port| ports.note(port, u64::from(port / 2) * Ports::STEP));
        assert_eq!(ports.steps().len(), 64);
        assert!(!ports.steps().contains_key(&0) && ports.steps().contains_key(&1));
    }
}
