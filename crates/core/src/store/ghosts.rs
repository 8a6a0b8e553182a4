//! The ghost table: fingerprints of keys that left the small queue without being asked for again. A key that comes back
//! while it is remembered goes straight to the main queue (S3-FIFO: Yang et al., "FIFO queues are all you need for cache
//! eviction", SOSP 2023).

/// Fingerprints of a cache line; the oldest of a line makes room for a new one.
const LINE: usize = 16;

#[derive(Default)]
pub(super) struct Ghosts {
    lines: Box<[Line]>,
}

#[derive(Clone)]
#[repr(align(64))]
struct Line([u32; LINE]);

fn fingerprint(hash: u64) -> u32 {
    // Zero is an empty place.
    (hash >> 26) as u32 | 1
}

impl Ghosts {
    /// A table for about so many keys.
    pub(super) fn new(keys: usize) -> Ghosts {
        Ghosts { lines: vec![Line([0; LINE]); keys.div_ceil(LINE)].into() }
    }

    pub(super) fn bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// How many keys it is for.
    pub(super) fn capacity(&self) -> usize {
        self.lines.len() * LINE
    }

    fn line(&mut self, hash: u64) -> Option<&mut [u32; LINE]> {
        let number = (((hash & 0xffff_ffff) * self.lines.len() as u64) >> 32) as usize;
        self.lines.get_mut(number).map(|line| &mut line.0)
    }

    pub(super) fn insert(&mut self, hash: u64) {
        if let Some(line) = self.line(hash) {
            line.copy_within(0..LINE - 1, 1);
            line[0] = fingerprint(hash);
        }
    }

    /// Whether the key is remembered; it is forgotten now.
    pub(super) fn take(&mut self, hash: u64) -> bool {
        let Some(line) = self.line(hash) else { return false };
        let Some(at) = line.iter().position(|known| *known == fingerprint(hash)) else { return false };
        line.copy_within(at + 1.., at);
        line[LINE - 1] = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_remembers_the_latest_and_each_once() {
        let hash = |number: u64| number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut ghosts = Ghosts::new(1000);
        (0..10_000).for_each(|number| ghosts.insert(hash(number)));
        let kept = |ghosts: &mut Ghosts, range: std::ops::Range<u64>| range.filter(|n| ghosts.take(hash(*n))).count();
        assert!(kept(&mut ghosts, 9_500..10_000) > 490);
        assert!(kept(&mut ghosts, 9_500..10_000) < 5);
        assert!(kept(&mut ghosts, 0..5_000) < 50);
        assert!(!Ghosts::default().take(5));
    }
}
