//! One shard: index, log, counts and leases of a part of the keys, under one lock.
//!
//! Rules: an item lives exactly where the index points; a segment is never changed behind the index; no step moves more
//! than a bounded number of items, so that no write waits for a whole segment; the budget bounds all memory together.
//!
//! Here is what a shard is made of and how an item is found, counted and dropped. `entry.rs` has what can be done to a key,
//! `write.rs` how an item is written, `room.rs` and `reclaim.rs` how memory is found for it, `sweep.rs` what becomes of
//! items that expired.

use ahash::RandomState;

use super::counts::Counts;
use super::events::{ConnectionId, Loaded, StoreEvent};
use super::eviction::Eviction;
use super::flushed::{Flushed, Remains};
use super::hash::hash;
use super::index::{Found, Index, MAX_FREQ, Place, Slot, fetch};
use super::large_values::LargeValues;
use super::lease::{Hold, Leases, StepContext};
use super::log::Log;
use super::record::{Plain, Record, Stored, db_of, key_of, plain, plain_life, view};
use super::tags::Tags;
use super::tracked::{Interest, Told, Tracked};
use super::types::{Item, Key, Options, Stats};

/// Smallest item that the index is laid out for; with many smaller ones its tables only grow somewhat larger.
const SMALLEST: u64 = 48;
/// Part of the memory that leases may take, as a divisor, and the least of it in bytes.
const LEASE_PART: usize = 16;
const LEAST_LEASES: usize = 64 << 10;
/// Part of the memory that registrations of client tracking may take, as a divisor, and the least of it in bytes.
const TRACKED_PART: usize = 8;
const LEAST_TRACKED: usize = 64 << 10;

pub(super) struct Shard {
    pub(super) index: Index,
    pub(super) log: Log,
    pub(super) large: LargeValues,
    pub(super) eviction: Eviction,
    pub(super) counts: Counts,
    pub(super) leases: Leases,
    /// Keys that clients keep copies of, if any do.
    pub(super) tracked: Option<Box<Tracked>>,
    pub(super) flushed: Flushed,
    pub(super) hasher: RandomState,
    /// Bytes that it may take. Without eviction shards pass parts of it to each other as items move.
    pub(super) budget: usize,
    pub(super) limits: ShardLimits,
    pub(super) clock: ShardClock,
    /// State of the generator that early refreshes are drawn from.
    pub(super) random: u64,
    pub(super) stats: Stats,
    pub(super) sweep: SweepPosition,
}

/// What the options of the store mean for a shard.
pub(super) struct ShardLimits {
    /// Its budget at first, and again when nothing is passed on any more.
    pub(super) share: usize,
    /// Longest value in bytes.
    pub(super) max_value: usize,
    /// Whether writes push old items out when memory is full.
    pub(super) evict: bool,
}

/// The time and the versions of a shard, neither of which ever goes back.
#[derive(Clone, Copy)]
pub(super) struct ShardClock {
    pub(super) now: u64,
    pub(super) version: u64,
}

/// How far the sweep has come.
#[derive(Default)]
pub(super) struct SweepPosition {
    /// The segment that it is in; the offset is kept there.
    pub(super) at: usize,
    /// This round looks at every item, since a database was flushed before it.
    pub(super) all: bool,
    /// A database was flushed since this round began.
    pub(super) flushed: bool,
    /// The table of the index that is looked at next.
    pub(super) shrink_at: usize,
}

/// Bytes of each shard at first.
pub(super) fn share(options: &Options) -> usize {
    (options.memory / options.shards as u64) as usize
}

impl ShardClock {
    /// Time never goes back within a shard, whatever clock reading a thread comes with.
    #[inline]
    pub(super) fn advance(&mut self, now: u64) -> u64 {
        self.now = self.now.max(now);
        self.now
    }

    pub(super) fn next_version(&mut self) -> u64 {
        self.version += 1;
        self.version
    }
}

impl Shard {
    /// An empty shard, whose segments have `least` bytes or more.
    pub(super) fn new(options: &Options, least: usize, hasher: &RandomState) -> Shard {
        let budget = share(options);
        Shard {
            index: Index::new(budget as u64 / SMALLEST),
            log: Log::new(budget, least),
            large: LargeValues::default(),
            eviction: Eviction::new(budget),
            counts: Counts::default(),
            leases: Leases::new((budget / LEASE_PART).max(LEAST_LEASES), options.load_limit),
            tracked: None,
            flushed: Flushed::default(),
            hasher: hasher.clone(),
            budget,
            limits: ShardLimits { share: budget, max_value: options.max_value, evict: options.evict },
            clock: ShardClock { now: 0, version: options.epoch },
            random: options.seed[0] | 1,
            stats: Stats::default(),
            sweep: SweepPosition::default(),
        }
    }

    /// See [`ShardClock::advance`].
    #[inline]
    pub(super) fn advance(&mut self, now: u64) -> u64 {
        self.clock.advance(now)
    }

    pub(super) fn next_version(&mut self) -> u64 {
        self.clock.next_version()
    }

    /// Has the processor fetch where the bucket of a hash is written.
    #[inline]
    pub(super) fn fetch_table(&self, hash: u64) {
        self.index.fetch_table(hash);
    }

    /// Has the processor fetch the bucket of a hash.
    #[inline]
    pub(super) fn fetch_bucket(&self, hash: u64) {
        self.index.fetch_bucket(hash);
    }

    /// Has the processor fetch the first lines of the item that a hash most likely has; where that is written.
    #[inline]
    pub(super) fn fetch_item(&self, hash: u64) -> Slot {
        let (slot, place) = self.index.guess(hash);
        if let Some(place) = place {
            let data = &self.log.segment(place.segment).data[place.offset..];
            fetch(&data[0]);
            for next in [64, 128] {
                if let Some(next) = data.get(next) {
                    fetch(next);
                }
            }
        }
        slot
    }

    /// Bytes that the shard takes.
    pub(super) fn used(&self) -> usize {
        self.log.bytes
            + self.log.place_bytes()
            + self.index.bytes()
            + self.large.bytes
            + self.large.place_bytes()
            + self.eviction.bytes()
            + self.leases.bytes()
            + self.tracked.as_ref().map_or(0, |tracked| tracked.bytes())
            + self.flushed.bytes
    }

    pub(super) fn headroom(&self) -> usize {
        self.budget.saturating_sub(self.used())
    }

    /// Counts a read that found an item.
    #[inline]
    pub(super) fn hit(&mut self, found: &Found, hash: u64) {
        self.eviction.selector.read(hash, true);
        self.stats.hits += 1;
        self.touch(found);
    }

    /// Counts a read that found none.
    pub(super) fn miss(&mut self, hash: u64) {
        self.eviction.selector.read(hash, false);
        self.stats.misses += 1;
    }

    /// Remembers that an item was asked for, unless it is so young that this says nothing.
    #[inline]
    pub(super) fn touch(&mut self, found: &Found) {
        if found.freq == MAX_FREQ {
            return;
        }
        let segment = self.log.segment(found.place.segment);
        let age = self.log.age(segment) - found.place.offset;
        let freq =
            self.eviction.selector.policy().used(found.freq, segment.queue, age, self.log.queue_bytes.iter().sum());
        if freq != found.freq {
            self.index.update(found, found.place, freq);
        }
    }

    #[inline]
    pub(super) fn find(&self, key: Key<'_>, hash: u64) -> Option<Found> {
        self.index.find(hash, |place| {
            let segment = self.log.segment(place.segment);
            let data = &segment.data[place.offset..];
            key_of(data) == key.bytes && db_of(data, &segment.bases) == key.db
        })
    }

    /// The item at a place, if it is a plain one, has this key, and is alive.
    #[inline(always)]
    pub(super) fn plain_at(&self, place: Place, key: &[u8], now: u64) -> Option<Plain> {
        let segment = self.log.segment(place.segment);
        let data = &segment.data[place.offset..];
        plain(data, &segment.bases).filter(|plain| {
            !self.counts.is_flushed(0, plain.version)
                && plain.expires_at.is_none_or(|at| now < at)
                && data[plain.key.clone()] == *key
        })
    }

    #[inline(always)]
    pub(super) fn record(&self, place: Place) -> Record<'_> {
        self.log.record(place)
    }

    #[inline(always)]
    pub(super) fn view<'a>(&'a self, record: &Record<'a>) -> Item<'a> {
        view(record, |number| self.large.get(number))
    }

    /// Whether nothing was done that took the item away: its tags, its database, its time as far as errors may use it.
    #[inline]
    pub(super) fn is_kept(&self, record: &Record<'_>, tags: &Tags, now: u64) -> bool {
        record.gone_at().is_none_or(|at| now < at)
            && !self.counts.is_flushed(record.db, record.version)
            && (record.tags.is_empty() || !tags.are_dead(record.tags, record.clock))
    }

    #[inline]
    pub(super) fn is_live(&self, record: &Record<'_>, tags: &Tags, now: u64) -> bool {
        !record.absent && record.expires_at.is_none_or(|at| now < at) && self.is_kept(record, tags, now)
    }

    /// As [`is_live`](Shard::is_live), of the item at a place.
    #[inline]
    pub(super) fn is_live_at(&self, place: Place, tags: &Tags, now: u64) -> bool {
        let segment = self.log.segment(place.segment);
        match plain_life(&segment.data[place.offset..], &segment.bases) {
            Some((version, expires_at)) => !self.counts.is_flushed(0, version) && expires_at.is_none_or(|at| now < at),
            None => self.is_live(&self.record(place), tags, now),
        }
    }

    /// Takes the item at a found slot out of all counts; its value beside the log goes unless `keep` is its number.
    pub(super) fn unaccount(&mut self, found: &Found, keep: Option<u32>) {
        let record = self.log.record(found.place);
        let (size, beside) = (record.size, self.large.cost_of(record.value));
        if let Stored::Large(number) = record.value
            && keep != Some(number)
        {
            self.large.remove(number);
        }
        self.counts.remove(&record);
        self.log.unaccount(found.place.segment, size, beside);
    }

    /// Removes the item at a found slot.
    pub(super) fn drop_item(&mut self, found: &Found) {
        if self.tracked.is_some() {
            self.emit_dropped(found.place);
        }
        self.unaccount(found, None);
        self.index.remove(found);
        self.log.free_if_empty(found.place.segment);
    }

    /// Has those who keep a copy of a key that changes or goes hear of it when the step is done.
    #[inline]
    pub(super) fn emit_changed(&mut self, hash: u64, key: &[u8]) {
        if let Some(tracked) = &mut self.tracked {
            let events = tracked.changed(hash, key);
            self.emit(events);
        }
    }

    #[cold]
    pub(super) fn emit(&mut self, events: Told) {
        for (key, readers) in events {
            self.leases.emit(StoreEvent::Changed(key, readers));
        }
    }

    #[cold]
    fn emit_dropped(&mut self, place: Place) {
        let record = self.record(place);
        let (hash, key) = (hash(&self.hasher, Key { db: record.db, bytes: record.key }), Box::<[u8]>::from(record.key));
        self.emit_changed(hash, &key);
    }

    /// What is told of changes from now on.
    pub(super) fn set_interest(&mut self, interest: Interest) {
        if interest == Interest::None {
            let old = self.tracked.take();
            old.into_iter().for_each(|old| self.flushed.add_table(*old));
        } else {
            let most = (self.budget / TRACKED_PART).max(LEAST_TRACKED);
            let tracked = self.tracked.get_or_insert_with(|| Box::new(Tracked::new(most)));
            tracked.all = interest == Interest::All;
        }
    }

    /// A connection keeps no copies any more.
    pub(super) fn untrack(&mut self, id: u64) {
        if let Some(tracked) = &mut self.tracked {
            tracked.leave(id);
        }
    }

    /// Drops some registrations of connections that keep no copies any more; whether there are others.
    pub(super) fn drop_left(&mut self) -> bool {
        self.tracked.as_mut().is_some_and(|tracked| tracked.drop_left())
    }

    /// Removes everything, or one database. The memory comes free step by step.
    pub(super) fn clear(&mut self, db: Option<u8>, options: &Options, least: usize) {
        self.leases.void_all(db);
        let forgotten = self.tracked.as_mut().map(|tracked| tracked.forget());
        forgotten.into_iter().for_each(|table| self.flushed.add_table(table));
        if let Some(db) = db {
            self.counts.flush(db, self.clock.version);
            self.sweep.flushed = true;
            return;
        }
        if self.log.bytes + self.large.bytes + self.index.held() == 0 {
            // Nothing is there, and a new shard would cost more than all else that this does.
            self.budget = self.limits.share;
        } else {
            self.begin_anew(options, least);
        }
        // Its budget may have been larger, by what other shards had passed to it.
        while self.used() > self.budget && self.flushed.shed() > 0 {}
    }

    /// Puts an empty shard in the place of this one, whose memory comes free step by step.
    fn begin_anew(&mut self, options: &Options, least: usize) {
        let fresh = Shard { clock: self.clock, stats: self.stats, ..Shard::new(options, least, &self.hasher) };
        let old = std::mem::replace(self, fresh);
        (self.leases, self.tracked, self.flushed) = (old.leases, old.tracked, old.flushed);
        let Shard { log, large, index, eviction, sweep: SweepPosition { shrink_at, .. }, .. } = old;
        self.flushed.add_remains(Remains { log, large, index, eviction, shrink_at });
    }

    /// Tells those who wait for keys that were changed in this step what is there now, or who is to load.
    pub(super) fn end_step(&mut self, tags: &Tags) {
        for hash in self.leases.take_touched() {
            let Some((db, key)) = self.leases.key_of(hash) else { continue };
            let loaded =
                if self.leases.has_waiters(hash) { self.loaded(Key { db, bytes: &key }, hash, tags) } else { None };
            let moment = StepContext { token: self.next_version(), clock: tags.clock(), now: self.clock.now };
            self.leases.settle(hash, loaded.as_ref(), moment);
        }
    }

    /// Ends waits and leases whose time is over.
    pub(super) fn tick_leases(&mut self, tags: &Tags, most: &mut usize) {
        let now = self.clock.now;
        self.leases.tick(&mut || self.clock.next_version(), tags.clock(), now, most);
    }

    /// The connection that holds a lease is gone.
    pub(super) fn lost(&mut self, hold: Hold, connection: ConnectionId, tags: &Tags) {
        let moment = StepContext { token: self.next_version(), clock: tags.clock(), now: self.clock.now };
        self.leases.lost(hold, connection, moment);
    }

    /// The live value of a key, or that there is none for certain, for those who wait for it.
    fn loaded(&self, key: Key<'_>, hash: u64, tags: &Tags) -> Option<Loaded> {
        let record = self.record(self.find(key, hash)?.place);
        let there =
            record.expires_at.is_none_or(|at| self.clock.now < at) && self.is_kept(&record, tags, self.clock.now);
        there.then(|| {
            let item = self.view(&record);
            Loaded::new(&item, item.is_stale(self.clock.now))
        })
    }

    pub(super) fn len(&self, db: u8) -> u64 {
        self.counts.live[usize::from(db)]
    }

    pub(super) fn stats(&self) -> Stats {
        Stats {
            items: self.counts.items,
            used: self.used() as u64,
            expires: self.counts.expires,
            tracked: self.tracked.as_ref().map_or(0, |known| known.len() as u64),
            leases: self.leases.len() as u64,
            tracked_pairs: self.tracked.as_ref().map_or(0, |known| known.pairs() as u64),
            ..self.stats
        }
    }

    /// See `Index::scan_place`.
    pub(super) fn scan_place(&self, random: u64) -> u64 {
        self.index.scan_place(random)
    }

    /// Visits live items of a database; see `Index::scan`.
    pub(super) fn scan(
        &self,
        db: u8,
        cursor: u64,
        count: usize,
        tags: &Tags,
        visit: &mut dyn FnMut(&[u8], &Item<'_>),
    ) -> Option<u64> {
        if self.len(db) == 0 {
            return None;
        }
        self.index.scan(cursor, count, &mut |place| {
            let record = self.record(place);
            if record.db == db && self.is_live(&record, tags, self.clock.now) {
                visit(record.key, &self.view(&record));
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Meta, Store};

    /// FLUSHALL of an empty store, again and again in one transaction: nothing is made anew, which takes far longer than all
    /// else. What was written in between is gone.
    #[test]
    fn an_empty_shard_is_cleared_for_nothing() {
        let options = Options {
            memory: 64 << 20,
            shards: 1,
            evict: true,
            max_value: 1 << 20,
            seed: [1, 2, 3, 4],
            epoch: 1,
            load_limit: 30_000,
        };
        let (store, key) = (Store::new(options), Key { db: 0, bytes: b"k" });
        let tables = || store.shards[0].lock().index.tables_at();
        let before = tables();
        store.clear(None, 1);
        assert_eq!(tables(), before);
        store.with(key, 1, |entry| entry.set(b"v", &Meta::default()).unwrap());
        store.clear(None, 1);
        let after = tables();
        assert!(after != before && store.with(key, 1, |entry| entry.peek().is_none()));
        store.clear(None, 1);
        assert_eq!((tables(), store.len(0)), (after, 0));
        store.check(0);
    }
}
