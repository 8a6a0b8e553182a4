//! The store: shards behind one lock each, and what is done to one of them, or to one after the other.
//!
//! `locked.rs` has what needs several shards at once, `upkeep.rs` what is to be done from time to time, `scan.rs` how all items
//! are visited, and `prefetch.rs` how waits for memory overlap.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use ahash::RandomState;
use parking_lot::Mutex;

use super::entry::Entry;
use super::events::{ConnectionId, EventSink, Nobody};
use super::hash::{hash, tag_salt};
use super::lease::Hold;
use super::log::MIN_SEGMENT;
use super::shard::{self, Shard};
use super::sweep::SweepRound;
use super::tags::{TagTable, Tags};
use super::tracked::Interest;
use super::types::{Key, MAX_SHARDS, Options, Stats, Step};

/// The cache: shards behind one lock each.
pub struct Store {
    pub(super) shards: Box<[Mutex<Shard>]>,
    pub(super) tags: TagTable,
    pub(super) hasher: RandomState,
    pub(super) options: Options,
    /// The options as they are for the shards: with the memory that tags leave.
    pub(super) shard_options: Options,
    /// Bytes of the smallest segment.
    pub(super) least_segment: usize,
    pub(super) sweep: Mutex<SweepRound>,
    /// The shard whose leases are looked at first in the next tick.
    pub(super) next_tick: AtomicUsize,
    pub(super) sink: Arc<dyn EventSink>,
}

/// The actor of steps of upkeep.
pub(super) const NOBODY: u64 = 0;
/// Part of the memory that the table of tags may take, as a divisor.
const TAG_PART: u64 = 64;
/// Shards for each thread: those of other threads are then rarely in the way, and what each shard keeps for itself stays in
/// the cache of the processor. With 16 instead of 4, a thread takes a tenth more for each request.
const PER_THREAD: usize = 4;

/// How many shards a store of so many bytes has that so many threads use: each large enough for many segments and for two
/// of the longest values, since a shard evicts only what is its own.
pub fn shards_for(memory: u64, max_value: usize, threads: usize) -> usize {
    let least = (2 * max_value as u64).max(4 << 20);
    let most = (PER_THREAD * threads).next_power_of_two().clamp(1, MAX_SHARDS);
    1 << (memory / least).clamp(1, most as u64).ilog2()
}

impl Store {
    /// An empty store that nobody waits for.
    pub fn new(options: Options) -> Store {
        Store::with_event_sink(options, Arc::new(Nobody))
    }

    /// An empty store that tells `sink` what concerns others.
    pub fn with_event_sink(options: Options, sink: Arc<dyn EventSink>) -> Store {
        Store::with_segments(options, sink, MIN_SEGMENT)
    }

    /// An empty store whose segments may be as short as `least_segment` bytes: for tests, which reach every border of a
    /// segment within a few steps.
    #[doc(hidden)]
    pub fn with_small_segments(options: Options, least_segment: usize) -> Store {
        Store::with_segments(options, Arc::new(Nobody), least_segment)
    }

    fn with_segments(options: Options, sink: Arc<dyn EventSink>, least_segment: usize) -> Store {
        assert!(options.shards.is_power_of_two() && options.shards <= MAX_SHARDS);
        let [a, b, c, d] = options.seed;
        let hasher = RandomState::with_seeds(a, b, c, d);
        let tags = options.memory / TAG_PART;
        let shard_options = Options { memory: options.memory - tags, ..options.clone() };
        Store {
            shards: (0..options.shards)
                .map(|_| Mutex::new(Shard::new(&shard_options, least_segment, &hasher)))
                .collect(),
            tags: TagTable::new(tags as usize),
            hasher,
            sweep: Mutex::default(),
            next_tick: AtomicUsize::new(0),
            options,
            shard_options,
            least_segment,
            sink,
        }
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    #[inline(always)]
    pub(super) fn hash(&self, key: Key<'_>) -> u64 {
        hash(&self.hasher, key)
    }

    pub(super) fn shard_of(&self, hash: u64) -> usize {
        (hash >> 58) as usize & (self.options.shards - 1)
    }

    /// Bytes of a shard that has neither lent nor borrowed any.
    pub(super) fn share(&self) -> usize {
        shard::share(&self.shard_options)
    }

    /// Runs `f` on the entry of `key` under the lock of its shard: one step for everybody else.
    #[inline]
    pub fn with<R>(&self, key: Key<'_>, step: impl Into<Step>, f: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        let Step { now, actor } = step.into();
        let hash = self.hash(key);
        let mut shard = self.shards[self.shard_of(hash)].lock();
        let now = shard.advance(now);
        let tags = self.tags.step();
        let result = f(&mut Entry::new(&mut shard, &tags, key, hash, now, None));
        if shard.leases.has_pending() {
            self.deliver_events(&mut shard, &tags, actor);
        }
        result
    }

    /// The end of a step that others wait for.
    #[cold]
    pub(super) fn deliver_events(&self, shard: &mut Shard, tags: &Tags<'_>, actor: u64) {
        shard.end_step(tags);
        for event in shard.leases.take_events() {
            self.sink.send(event, actor);
        }
    }

    /// The lease of a key under a token, as its holder remembers it.
    pub fn hold(&self, key: Key<'_>, token: u64) -> Hold {
        Hold::new(self.hash(key), token)
    }

    /// Whether a connection holds this lease, or loads under it although it was voided.
    pub fn stands(&self, hold: Hold, connection: ConnectionId) -> bool {
        self.shards[self.shard_of(hold.hash)].lock().leases.stands(hold, connection)
    }

    /// The connection that holds a lease is gone: the lease passes on, and what is loaded under it stays good.
    pub fn lost(&self, hold: Hold, connection: ConnectionId, now: u64) {
        let mut shard = self.shards[self.shard_of(hold.hash)].lock();
        shard.advance(now);
        let tags = self.tags.step();
        shard.lost(hold, connection, &tags);
        if shard.leases.has_pending() {
            self.deliver_events(&mut shard, &tags, NOBODY);
        }
    }

    /// The connection that holds a lease is gone, and another one may renew it until a moment, at which it passes on.
    pub fn unheld(&self, hold: Hold, connection: ConnectionId, until: u64, now: u64) {
        let mut shard = self.shards[self.shard_of(hold.hash)].lock();
        shard.advance(now);
        shard.leases.unheld(hold, connection, until);
    }

    /// Visits the numbers of the connections that hold leases, None for leases that belong to no connection, and how many
    /// each of them holds in one shard.
    pub fn each_holder(&self, mut visit: impl FnMut(Option<u64>, usize)) {
        self.shards.iter().for_each(|shard| shard.lock().leases.holders().for_each(|(id, count)| visit(id, count)));
    }

    /// What is told of changes from now on.
    pub fn track(&self, interest: Interest) {
        for shard in &self.shards {
            shard.lock().set_interest(interest);
        }
    }

    /// A connection keeps no copies any more: its registrations go.
    pub fn untrack(&self, id: u64) {
        for shard in &self.shards {
            shard.lock().untrack(id);
        }
    }

    /// The hash under which a tag is kept.
    pub fn tag(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// The hash under which a tag of a database is kept: a tag means the items of its own database only.
    pub fn tag_in(&self, db: u8, name: &[u8]) -> u64 {
        self.tag(name) ^ tag_salt(db)
    }

    /// Items of a database: those that expired count until they are swept or asked for.
    pub fn len(&self, db: u8) -> u64 {
        self.shards.iter().map(|shard| shard.lock().len(db)).sum()
    }

    /// Bytes that each shard may take. For tests.
    #[doc(hidden)]
    pub fn budgets(&self) -> Vec<usize> {
        self.shards.iter().map(|shard| shard.lock().budget).collect()
    }

    /// What is held, and what happened since the start.
    pub fn stats(&self) -> Stats {
        let mut total = Stats::default();
        for shard in &self.shards {
            let one = shard.lock().stats();
            total.add(&one);
        }
        total
    }
}
