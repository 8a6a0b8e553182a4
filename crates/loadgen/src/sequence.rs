//! Which key is asked for next, and whether to read or to write it: drawn before the load begins.

use crate::protocol::Request;

/// Drawn requests, used over and over: long enough that no server learns them.
const LENGTH: usize = 1 << 20;

pub(crate) struct Sequence {
    requests: Vec<Request>,
    at: usize,
}

/// Steele, Lea, Flood: "Fast splittable pseudorandom number generators" (OOPSLA 2014).
fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut word = *state;
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

fn next_share(state: &mut u64) -> f64 {
    (next_random(state) >> 11) as f64 / (1u64 << 53) as f64
}

impl Sequence {
    pub(crate) fn new(keys: u32, theta: f64, reads: f64, seed: u64) -> Sequence {
        let mut state = seed;
        // The sum of 1 / rank^theta up to each rank; a drawn share of the whole sum falls to a rank.
        let mut sums = Vec::with_capacity(keys as usize);
        let mut sum = 0.0;
        for rank in 1..=keys {
            sum += f64::from(rank).powf(-theta);
            sums.push(sum);
        }
        let mut draw = || {
            let wanted = next_share(&mut state) * sum;
            let rank = sums.partition_point(|&below| below <= wanted) as u64;
            // Popular keys lie anywhere, not side by side.
            let key = (rank.wrapping_mul(0x9e37_79b1) % u64::from(keys)) as u32;
            Request { read: next_share(&mut state) < reads, key }
        };
        Sequence { requests: (0..LENGTH).map(|_| draw()).collect(), at: 0 }
    }

    pub(crate) fn next(&mut self) -> Request {
        self.at = (self.at + 1) % LENGTH;
        self.requests[self.at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skew_and_share_of_reads_are_what_was_asked_for() {
        for (theta, wanted) in [(0.0, 0.001), (0.99, 0.13)] {
            let mut sequence = Sequence::new(1000, theta, 0.9, 7);
            let drawn: Vec<Request> = (0..LENGTH).map(|_| sequence.next()).collect();
            let top = drawn.iter().filter(|request| request.key == 0).count() as f64 / LENGTH as f64;
            assert!((top / wanted - 1.0).abs() < 0.1, "{theta}: {top}");
            let reads = drawn.iter().filter(|request| request.read).count() as f64 / LENGTH as f64;
            assert!((reads - 0.9).abs() < 0.01);
        }
    }
}
