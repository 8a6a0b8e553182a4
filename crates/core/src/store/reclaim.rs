//! How memory of a shard is reclaimed: a segment is taken apart item by item, or compacted in its place.
//!
//! When memory is short, a sealed segment is taken apart a few items at a time: a sparse one first, whose items are all
//! copied on; then the oldest of the small queue if that is over its share, where items that were asked for again move
//! to the main queue; else the oldest of the main queue, where items that were asked for get another round.

use super::eviction::{Victim, Why};
use super::hash::hash;
use super::index::{Found, Place, fetch};
use super::log::SPARSE;
use super::record::{ALIGN, db_of, decode, key_of};
use super::segment::{Queue, Segment};
use super::shard::Shard;
use super::tags::Tags;
use super::types::Key;

/// How far before the item that is looked at memory is fetched.
const AHEAD_BYTES: usize = 512;

impl Shard {
    /// Takes one victim apart to its end; false if there is none, or if nothing can go.
    pub(super) fn evict_whole(&mut self, tags: &Tags, now: u64) -> bool {
        if self.eviction.victim.is_none() && !self.choose_victim() {
            return false;
        }
        while self.eviction.victim.is_some() {
            if self.reclaim(false, tags, now) == 0 {
                return false;
            }
        }
        true
    }

    /// The sealed segment whose items have come to their end.
    fn oldest(&self) -> Option<usize> {
        let fronts = [0, 1].map(|queue| self.log.queues.front(queue));
        let age = fronts.map(|front| front.map(|number| self.log.age(self.log.segment(number))));
        let [small, main] = fronts;
        let whole = self.log.queue_bytes.iter().sum();
        if self.eviction.selector.policy().takes_small(self.log.queue_bytes[0], whole, age) { small } else { main }
    }

    fn choose_victim(&mut self) -> bool {
        let sparsest = (0..SPARSE).find_map(|level| self.log.sparse.front(level));
        let (segment, why) = if sparsest.is_some() {
            (sparsest, Why::Sparse)
        } else if !self.limits.evict {
            (None, Why::Sparse)
        } else {
            let mut oldest = self.oldest();
            if oldest.is_none() {
                // All that there is stands in open segments: a few items with large values, say.
                self.log.seal(Queue::Small);
                self.log.seal(Queue::Main);
                oldest = self.oldest();
            }
            self.eviction.full = true;
            (oldest, Why::Oldest)
        };
        let Some(segment) = segment else { return false };
        self.log.dequeue(segment);
        self.log.segment_mut(segment).reclaimed = 0;
        self.eviction.victim = Some(Victim { segment, why });
        true
    }

    /// Looks at one item of the victim, choosing one first if there is none; returns the bytes looked at, 0 if there
    /// is nothing to reclaim. With `save` items that deserve it are copied on, else they go.
    pub(super) fn reclaim(&mut self, save: bool, tags: &Tags, now: u64) -> usize {
        if self.eviction.victim.is_none() && !self.choose_victim() {
            return 0;
        }
        let Some(Victim { segment, why }) = self.eviction.victim else { return 0 };
        let at = self.log.segment(segment).reclaimed;
        if at >= self.log.segment(segment).used || self.log.segment(segment).live == 0 {
            self.eviction.victim = None;
            self.log.release(segment);
            return ALIGN;
        }
        let place = Place { segment, offset: at };
        let size = self.record(place).size;
        self.log.segment_mut(segment).reclaimed = at + size;
        self.fetch_ahead(segment, at + size);
        if !self.reclaim_item(place, why, save, tags, now) {
            // Nothing may go and there is nowhere to copy it: the segment stays as it is.
            self.eviction.victim = None;
            self.log.enqueue(segment, true);
            return 0;
        }
        size
    }

    /// Has the processor fetch what looking at the item at `at` will need, and the memory behind it: half of what a write
    /// pays while memory is short are waits for these.
    fn fetch_ahead(&self, segment: usize, at: usize) {
        let segment = self.log.segment(segment);
        let Some(data) = segment.data.get(at..segment.used).filter(|data| !data.is_empty()) else { return };
        let key = Key { db: db_of(data, &segment.bases), bytes: key_of(data) };
        self.index.fetch_bucket(hash(&self.hasher, key));
        if let Some(later) = data.get(AHEAD_BYTES) {
            fetch(later);
        }
    }

    /// False if the item lives, may not go and cannot be copied.
    fn reclaim_item(&mut self, place: Place, why: Why, save: bool, tags: &Tags, now: u64) -> bool {
        let record = self.record(place);
        let hash = hash(&self.hasher, Key { db: record.db, bytes: record.key });
        let kept = self.is_kept(&record, tags, now);
        let expired = record.expires_at.is_some_and(|at| at <= now);
        let Some(found) = self.index.find(hash, |known| known == place) else { return true };
        let queue = self.log.segment(place.segment).queue;
        if !kept {
            self.stats.expired += u64::from(expired);
            self.drop_item(&found);
            return true;
        }
        let target = match (why, queue) {
            (Why::Sparse, queue) => Some((queue, found.freq)),
            // Copied for the time of errors only: the first to go.
            _ if expired => None,
            (Why::Oldest, queue) => self.eviction.selector.policy().next(queue, found.freq),
        };
        if (save || !self.limits.evict) && target.is_some_and(|(queue, freq)| self.move_item(&found, queue, freq, tags))
        {
            return true;
        }
        if self.limits.evict {
            if queue == Queue::Small {
                self.eviction.remember(hash, self.counts.items);
            }
            self.stats.evicted += 1;
            self.drop_item(&found);
        }
        self.limits.evict
    }

    /// Copies an item to the open segment of a queue; false if there is no memory for it.
    fn move_item(&mut self, found: &Found, queue: Queue, freq: u8, tags: &Tags) -> bool {
        let from = found.place;
        // The segment is taken out while its item is copied to another.
        let segment = self.log.segments[from.segment].take().expect("a segment in use");
        let record = decode(&segment.data[from.offset..], &segment.bases);
        let beside = self.large.cost_of(record.value);
        let size = record.size;
        let moved = self.append(queue, &record, record.longest(), tags);
        self.log.segments[from.segment] = Some(segment);
        let Some(place) = moved else { return false };
        self.index.update(found, place, freq);
        let segment = self.log.segment_mut(from.segment);
        segment.live -= size;
        let old = segment.queue as usize;
        self.log.queue_bytes[old] -= size + beside;
        self.log.queue_bytes[queue as usize] += beside;
        true
    }

    /// Makes room for an item of at most `longest` bytes without any memory: the segment with the most dead bytes is
    /// compacted in its place, and is the open one of its queue from then on. Returns the queue; None if no segment has
    /// enough dead bytes.
    #[cold]
    pub(super) fn squeeze(&mut self, longest: usize) -> Option<Queue> {
        let dead = |segment: &Segment| segment.data.len() - segment.live;
        let standard = |segment: &Segment| segment.queued && segment.data.len() == self.log.segment_size;
        let queued =
            self.log.segments.iter().enumerate().filter_map(|(number, segment)| Some((number, segment.as_ref()?)));
        let (number, _) = queued
            .filter(|(_, segment)| standard(segment) && dead(segment) >= longest)
            .max_by_key(|(_, segment)| dead(segment))?;
        self.log.dequeue(number);
        self.compact(number);
        let queue = self.log.segment(number).queue;
        self.log.seal(queue);
        self.log.open[queue as usize] = Some(number);
        Some(queue)
    }

    /// Moves the items of a segment together, within it.
    fn compact(&mut self, number: usize) {
        let mut segment = self.log.segments[number].take().expect("a segment in use");
        let (mut at, mut end, mut next_expiry) = (0, 0, u64::MAX);
        while at < segment.used {
            let record = decode(&segment.data[at..], &segment.bases);
            let (size, key) = (record.size, Key { db: record.db, bytes: record.key });
            let gone_at = record.gone_at().unwrap_or(u64::MAX);
            let hash = hash(&self.hasher, key);
            if let Some(found) = self.index.find(hash, |known| known == Place { segment: number, offset: at }) {
                segment.data.copy_within(at..at + size, end);
                self.index.update(&found, Place { segment: number, offset: end }, found.freq);
                end += size;
                next_expiry = next_expiry.min(gone_at);
            }
            at += size;
        }
        segment.used = end;
        // Items stand elsewhere now: the sweep looks at all of them again. What it had noted so far are the expiries of those
        // that it had passed.
        (segment.swept, segment.reclaimed, segment.next_expiry) = (0, 0, next_expiry);
        self.log.segments[number] = Some(segment);
    }
}
