//! What a shard must always be between two steps, for tests: every count against a walk over all that it counts.
//!
//! A check costs a look at every item, so only tests and fuzz targets call it, on small stores.

use std::collections::HashSet;

use super::hash::hash;
use super::index::Place;
use super::large_values::large_cost;
use super::log::{HEAP, SPARSE};
use super::record::{Record, Stored};
use super::segment::Segment;
use super::shard::Shard;
use super::types::Key;
use crate::limits::DATABASES;

/// What a walk over all segments counts.
#[derive(Default)]
struct Walk {
    items: u64,
    counts: [u64; DATABASES],
    expires: [u64; DATABASES],
    queue_bytes: [usize; 2],
    log_bytes: usize,
    dead_bytes: usize,
    large: HashSet<u32>,
    large_bytes: usize,
}

impl Shard {
    /// Panics unless segments, index, lists, counts and budget agree. `slack` bytes may be used above the budget: by what
    /// grows without a write that makes room for it.
    pub(super) fn check(&self, slack: usize) {
        let mut walk = Walk::default();
        for (number, segment) in self.log.segments.iter().enumerate() {
            match segment {
                Some(segment) => self.check_segment(number, segment, &mut walk),
                None => assert!(self.log.free.contains(&number), "segment {number} is neither in use nor free"),
            }
        }
        self.check_lists();
        self.check_large(&walk);
        assert_eq!(self.counts.items, walk.items, "items");
        assert_eq!(self.index.len(), walk.items, "places in the index");
        self.index.check();
        self.leases.check();
        assert_eq!(self.counts.live, walk.counts, "items by database");
        assert_eq!(self.counts.expires, walk.expires, "items that expire, by database");
        assert_eq!(self.log.queue_bytes, walk.queue_bytes, "bytes by queue");
        let spare: usize = self.log.spare.iter().map(|data| data.len() + HEAP).sum();
        assert_eq!(self.log.bytes, walk.log_bytes + spare, "bytes of segments");
        let rests = self.flushed.remains.iter().map(|old| old.rest() + old.aside()).sum::<usize>();
        assert_eq!(self.log.dead_bytes(self.large.bytes), walk.dead_bytes, "bytes of segments that no item takes");
        let forgotten = self.flushed.tables.iter().map(|table| table.bytes()).sum::<usize>();
        assert_eq!(self.flushed.bytes, rests + forgotten, "bytes of what was flushed");
        assert!(self.used() <= self.budget + slack, "{} bytes are used of {}", self.used(), self.budget);
        assert!(self.sweep.at <= self.log.segments.len(), "the sweep is in a segment, or at the end");
    }

    /// Walks the items of a segment.
    fn check_segment(&self, number: usize, segment: &Segment, walk: &mut Walk) {
        let (mut at, mut live) = (0, 0);
        let is_swept = self.sweep.at == number && segment.swept > 0;
        let mut borders = HashSet::from([0]);
        while at < segment.used {
            let place = Place { segment: number, offset: at };
            let record = self.record(place);
            let key = Key { db: record.db, bytes: record.key };
            let hash = hash(&self.hasher, key);
            if self.index.find(hash, |known| known == place).is_some() {
                live += record.size;
                self.count_item(key, &record, segment, walk);
                // What the sweep has still to look at in this round is noted when it does.
                let noted = !is_swept || at < segment.swept;
                assert!(!noted || segment.next_expiry <= record.gone_at().unwrap_or(u64::MAX), "next expiry");
            }
            at += record.size;
            borders.insert(at);
        }
        assert_eq!(at, segment.used, "the last item of segment {number} ends where the segment does");
        assert!(borders.contains(&segment.swept), "the sweep stands inside an item of segment {number}");
        assert!(borders.contains(&segment.reclaimed), "reclaiming stands inside an item of segment {number}");
        assert!(segment.swept == 0 || self.sweep.at == number, "the sweep left segment {number}");
        assert_eq!(segment.live, live, "live bytes of segment {number}");
        walk.log_bytes += segment.data.len() + HEAP;
        walk.dead_bytes += segment.data.len() + HEAP - live;
        let roles = [segment.queued, self.log.open.contains(&Some(number)), self.is_victim(number)];
        assert_eq!(roles.iter().filter(|role| **role).count(), 1, "segment {number} has one role: {roles:?}");
        assert!(!segment.queued || segment.live > 0, "the empty segment {number} was not released");
    }

    fn is_victim(&self, number: usize) -> bool {
        self.eviction.victim.is_some_and(|victim| victim.segment == number)
    }

    fn count_item(&self, key: Key<'_>, record: &Record<'_>, segment: &Segment, walk: &mut Walk) {
        let found = self.find(key, hash(&self.hasher, key)).expect("a key in the index is found");
        assert_eq!(self.record(found.place).version, record.version, "a key has two items");
        walk.items += 1;
        walk.queue_bytes[segment.queue as usize] += record.size + self.large.cost_of(record.value);
        if let Stored::Large(number) = record.value {
            assert!(walk.large.insert(number), "two items have one value");
            walk.large_bytes += self.large.cost_of(record.value);
            assert!(self.large.values[number as usize].is_some(), "a value is gone and its item is there");
        }
        let db = usize::from(record.db);
        if self.counts.counts(record) {
            walk.counts[db] += 1;
            walk.expires[db] += u64::from(record.expires_at.is_some());
        }
    }

    fn check_lists(&self) {
        let in_use = |number: usize| self.log.segments[number].as_ref().expect("a list names a segment in use");
        let mut queued = 0;
        for queue in 0..2 {
            for number in self.log.queues.iter(queue) {
                let segment = in_use(number);
                assert!(segment.queued && segment.queue as usize == queue, "segment {number} is in another queue");
                queued += 1;
            }
            let open = self.log.open[queue].map(in_use);
            assert!(open.is_none_or(|segment| segment.queue as usize == queue), "the open segment is of its queue");
        }
        assert_eq!(
            queued,
            self.log.segments.iter().flatten().filter(|segment| segment.queued).count(),
            "queued segments"
        );
        let mut sparse = 0;
        for level in 0..SPARSE {
            for number in self.log.sparse.iter(level) {
                assert!(in_use(number).queued && in_use(number).level() == level, "level of segment {number}");
                sparse += 1;
            }
        }
        let is_sparse = |segment: &&Segment| segment.queued && segment.level() < SPARSE;
        assert_eq!(sparse, self.log.segments.iter().flatten().filter(is_sparse).count(), "sparse segments");
        let free: HashSet<usize> = self.log.free.iter().copied().collect();
        let unused = self.log.segments.iter().filter(|segment| segment.is_none()).count();
        assert!(free.len() == self.log.free.len() && free.len() == unused, "free numbers: {:?}", self.log.free);
    }

    fn check_large(&self, walk: &Walk) {
        let held = self.large.values.iter().flatten();
        assert_eq!(held.clone().count(), walk.large.len(), "values beside the log that no item has");
        assert_eq!(self.large.bytes, walk.large_bytes, "bytes beside the log");
        assert_eq!(self.large.bytes, held.map(|value| large_cost(value.len())).sum::<usize>(), "cost of the values");
        let free: HashSet<u32> = self.large.free.iter().copied().collect();
        assert_eq!(free.len(), self.large.free.len(), "a number of a value is free twice");
        assert_eq!(free.len() + walk.large.len(), self.large.values.len(), "numbers of values");
    }
}
