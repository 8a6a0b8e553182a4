//! Latencies in buckets whose width is at most 1/64 of their value: few kilobytes for any range.

const FINE: u32 = 6;

#[derive(Debug)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { counts: vec![0; (64 - FINE as usize + 1) << FINE], total: 0 }
    }
}

impl Histogram {
    pub(crate) fn add(&mut self, nanos: u64) {
        let shift = (63 - (nanos | 1 << FINE).leading_zeros()) - FINE;
        self.counts[((shift as usize) << FINE) + (nanos >> shift) as usize] += 1;
        self.total += 1;
    }

    /// Microseconds that a share of all latencies does not exceed by more than the width of a bucket.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                // Buckets below 2 << FINE hold one value each; above, a power of two has 1 << FINE of them.
                let shift = (bucket >> FINE).saturating_sub(1);
                return ((bucket - (shift << FINE)) as u64).wrapping_shl(shift as u32) as f64 / 1000.0;
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_what_was_added() {
        let mut histogram = Histogram::default();
        (1..=100_000u64).for_each(|micros| histogram.add(micros * 1000));
        for (share, micros) in [(0.5, 50_000.0), (0.99, 99_000.0), (0.9999, 99_990.0), (1.0, 100_000.0)] {
            let found = histogram.quantile(share);
            assert!((found - micros).abs() / micros < 1.0 / 64.0, "{share}: {found}");
        }
        let mut small = Histogram::default();
        [0, 1, 63, 64, 100, u64::MAX].into_iter().for_each(|nanos| small.add(nanos));
        assert_eq!(small.quantile(0.5), 0.063);
    }
}
