//! From a sequence that fails to a short one that fails too.

use super::{
    rig::{Care, Mismatch, Rig},
    step::Step,
};

/// Replays at most: a sequence of a thousand steps takes some hundred to become a few.
const REPLAYS: usize = 2000;

/// The kernel runs a program on no less.
const SHORTEST_FRAME: usize = 14;

/// Leaves out what the failure does not need: steps, then the ends of frames.
pub(crate) fn shrink(rig: &mut Rig, mut steps: Vec<Step>) -> (Vec<Step>, String) {
    let mut shrinking = Shrinking { rig, replays: 0 };
    let Some(mismatch) = shrinking.fails(&steps) else {
        let lost = "it does not fail when replayed, with all compared at each step";
        return (steps, lost.to_owned());
    };
    steps.truncate(mismatch.step + 1);
    loop {
        let before = steps.len();
        shrinking.leave_out(&mut steps);
        shrinking.join_clocks(&mut steps);
        if steps.len() == before {
            break;
        }
    }
    for index in 0..steps.len() {
        shrinking.shorten(&mut steps, index);
    }
    let mismatch = shrinking.rig.run(&steps, Care::AtEachStep).err();
    let mismatch = mismatch.map_or_else(|| "it fails now and then".to_owned(), |m| m.to_string());
    (steps, mismatch)
}

struct Shrinking<'a> {
    rig: &'a mut Rig,
    replays: usize,
}

impl Shrinking<'_> {
    fn fails(&mut self, steps: &[Step]) -> Option<Mismatch> {
        if self.replays == REPLAYS {
            return None;
        }
        self.replays += 1;
        self.rig.run(steps, Care::AtEachStep).err()
    }

    /// Takes the place of `steps` if it fails too.
    fn try_instead(&mut self, steps: &mut Vec<Step>, others: Vec<Step>) -> bool {
        let fails = self.fails(&others).is_some();
        if fails {
            *steps = others;
        }
        fails
    }

    /// Halves of the sequence, then quarters, down to single steps, from the end.
    fn leave_out(&mut self, steps: &mut Vec<Step>) {
        let mut size = steps.len().div_ceil(2);
        loop {
            let mut end = steps.len();
            while end > 0 {
                let start = end.saturating_sub(size);
                let mut fewer = steps.clone();
                fewer.drain(start..end);
                self.try_instead(steps, fewer);
                end = start;
            }
            if size == 1 {
                return;
            }
            size /= 2;
        }
    }

    /// Two movements of the clock with nothing in between as one.
    fn join_clocks(&mut self, steps: &mut Vec<Step>) {
        let mut index = 1;
        while index < steps.len() {
            if let (Step::Clock(first), Step::Clock(then)) = (&steps[index - 1], &steps[index]) {
                let mut joined = steps.clone();
                joined[index] = Step::Clock(first + then);
                joined.remove(index - 1);
                if self.try_instead(steps, joined) {
                    continue;
                }
            }
            index += 1;
        }
    }

    /// Cuts off the end of a frame, less and less of it.
    fn shorten(&mut self, steps: &mut Vec<Step>, index: usize) {
        let Step::Frame(frame) = &steps[index] else {
            return;
        };
        let mut len = frame.len();
        let mut cut = len.next_power_of_two() / 2;
        while cut > 0 {
            let shorter = len.saturating_sub(cut);
            if shorter >= SHORTEST_FRAME {
                let mut others = steps.clone();
                if let Step::Frame(frame) = &mut others[index] {
                    frame.truncate(shorter);
                }
                if self.try_instead(steps, others) {
                    len = shorter;
                }
            }
            cut /= 2;
        }
    }
}
