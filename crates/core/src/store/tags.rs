//! Tags: invalidating one is O(1), whatever it covers.
//!
//! A clock counts invalidations, and a table keeps when each tag was last invalidated. An item with tags keeps the clock
//! of its write; it is dead if one of its tags was invalidated after it. The table is bounded: entries that a finished
//! sweep has made useless are forgotten, and when that is not enough the oldest go and a floor rises, below which every
//! tagged item counts as invalidated. Never stale, at worst colder.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;

/// Tags are hashes already.
#[derive(Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn write(&mut self, _: &[u8]) {
        unreachable!("only numbers are hashed");
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[derive(Default)]
struct Table {
    /// When each tag was last invalidated.
    when: HashMap<u64, u64, BuildHasherDefault<Identity>>,
    /// Invalidations in their order; those that a later one of the same tag replaced are still in it.
    order: VecDeque<(u64, u64)>,
    /// Items written before this clock count as invalidated.
    floor: u64,
    /// What was loaded under a lease granted before this clock counts as invalidated: what was forgotten since a sweep
    /// dropped all that it killed can still concern a load that began before.
    grant_floor: u64,
}

/// The tags of a store.
pub(super) struct Tags {
    clock: AtomicU64,
    table: RwLock<Table>,
    most: usize,
}

impl Tags {
    /// Bytes that an entry takes, in the map and in the order, with the room that both keep.
    const ENTRY: usize = 2 * (16 + 1) + 2 * 16;

    /// A table that takes at most so many bytes.
    pub(super) fn new(bytes: usize) -> Tags {
        Tags { clock: AtomicU64::new(1), table: RwLock::default(), most: (bytes / Self::ENTRY).max(16) }
    }

    /// The clock, to be kept with what is written now.
    pub(super) fn clock(&self) -> u64 {
        self.clock.load(Ordering::Acquire)
    }

    /// Invalidates tags: when this returns, no item written before is alive.
    pub(super) fn invalidate(&self, tags: &[u64]) {
        let mut table = self.table.write();
        let now = self.clock.fetch_add(1, Ordering::AcqRel) + 1;
        for &tag in tags {
            table.when.insert(tag, now);
            table.order.push_back((tag, now));
        }
        while table.order.len() > self.most {
            table.forget_oldest(true);
        }
    }

    /// Whether an item with these tags, eight bytes each, written at `clock`, was invalidated since.
    pub(super) fn are_dead(&self, tags: &[u8], clock: u64) -> bool {
        let table = self.table.read();
        let mut tags = tags.chunks_exact(8).map(|tag| u64::from_le_bytes(tag.try_into().expect("eight bytes")));
        clock < table.floor || tags.any(|tag| table.when.get(&tag).is_some_and(|&when| when > clock))
    }

    /// Whether what is loaded with these tags, under a lease granted at `clock`, was invalidated since.
    pub(super) fn are_dead_for_grant(&self, tags: &[u64], clock: u64) -> bool {
        if tags.is_empty() {
            return false;
        }
        let table = self.table.read();
        clock < table.floor.max(table.grant_floor)
            || tags.iter().any(|tag| table.when.get(tag).is_some_and(|&when| when > clock))
    }

    /// Forgets what was invalidated up to `clock`: a sweep that began then has dropped all that it killed.
    pub(super) fn forget(&self, clock: u64) {
        let mut table = self.table.write();
        if table.order.front().is_some_and(|(_, when)| *when <= clock) {
            table.grant_floor = clock;
        }
        while table.order.front().is_some_and(|(_, when)| *when <= clock) {
            table.forget_oldest(false);
        }
    }

    /// How many invalidations are remembered.
    pub(super) fn len(&self) -> usize {
        self.table.read().order.len()
    }
}

impl Table {
    fn forget_oldest(&mut self, raise: bool) {
        let Some((tag, when)) = self.order.pop_front() else { return };
        if self.when.get(&tag) == Some(&when) {
            self.when.remove(&tag);
        }
        if raise {
            self.floor = self.floor.max(when);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dead(tags: &Tags, tag: u64, clock: u64) -> bool {
        tags.are_dead(&tag.to_le_bytes(), clock)
    }

    #[test]
    fn what_was_written_before_is_dead_and_what_comes_after_lives() {
        let tags = Tags::new(1 << 20);
        let before = tags.clock();
        assert!(!dead(&tags, 1, before));
        tags.invalidate(&[1, 2]);
        assert!(dead(&tags, 1, before) && dead(&tags, 2, before) && !dead(&tags, 3, before));
        assert!(!dead(&tags, 1, tags.clock()));
        tags.invalidate(&[1]);
        tags.forget(before + 1);
        assert!(dead(&tags, 1, before + 1) && !dead(&tags, 2, before + 1));
        assert_eq!(tags.len(), 1);
        assert_eq!(tags.table.read().floor, 0);
        // A load that began before what was forgotten is refused; one that began after it is not.
        assert!(tags.are_dead_for_grant(&[1], before) && !tags.are_dead_for_grant(&[1], before + 2));
    }

    #[test]
    fn a_table_that_overflows_kills_too_much_and_never_too_little() {
        let tags = Tags::new(0);
        let first = tags.clock();
        for tag in 0..1000 {
            tags.invalidate(&[tag]);
        }
        assert!(tags.len() <= 16);
        assert!((0..1000).all(|tag| dead(&tags, tag, first)));
        assert!(!dead(&tags, 5000, tags.clock()) && dead(&tags, 5000, first));
    }
}
