//! The store: items behind sharded locks.
//!
//! Time is an argument (milliseconds of a monotonic clock), randomness is an option, and nothing here knows
//! of connections or protocols. Whatever is done to a key happens in one closure under the lock of its shard
//! ([`Store::with`], [`Store::with_all`]), so a read, a decision and a write are one step.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};

mod bases;
mod check;
mod counts;
mod entry;
mod events;
mod eviction;
mod fetch;
mod flushed;
mod ghosts;
mod hash;
mod index;
mod large_values;
mod lease;
mod log;
mod policy_selector;
mod queue;
mod reclaim;
mod record;
mod room;
mod segment;
mod shard;
mod sweep;
mod tags;
mod tracked;
mod types;
mod write;

pub use entry::{Copied, Entry};
pub use events::{ConnectionId, EventSink, Granted, Loaded, Outcome, StoreEvent};
pub use fetch::{FetchResult, Inspection};
use hash::{hash, tag_salt};
use index::Slot;
pub use lease::{Changes, FetchRequest, Hold, HoldOff, Holds};
use log::MIN_SEGMENT;
use shard::Shard;
use tags::{TagTable, Tags};
pub use tracked::Interest;
pub use types::{Item, Key, MAX_SHARDS, Meta, Options, Refused, RefusedFills, Stats, Step, Value};

use crate::limits::MAX_TAGS;
use events::Nobody;

/// The cache: shards behind one lock each.
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    tags: TagTable,
    hasher: RandomState,
    options: Options,
    /// The options as they are for the shards: with the memory that tags leave.
    shard_options: Options,
    /// Bytes of the smallest segment.
    least_segment: usize,
    sweep: Mutex<Sweep>,
    /// The shard whose leases are looked at first in the next tick.
    next_tick: AtomicUsize,
    sink: Arc<dyn EventSink>,
}

/// The actor of steps of upkeep.
const NOBODY: u64 = 0;

/// One round of the sweep through all shards.
#[derive(Default)]
struct Sweep {
    /// The shard it is in.
    shard: usize,
    begun: bool,
    /// The tag clock when it began: what was invalidated before is dropped when it ends.
    clock: u64,
    /// The tag clock of the oldest live token, as far as it was seen.
    oldest: u64,
    /// There were invalidations that no sweep had passed, so that it looks at every item.
    thorough: bool,
}

/// Parts of a tick, between which a thread that has other work as well does it.
pub const TICK_PARTS: usize = 8;
/// Steps of the sweep in one tick; the lock of a shard is released between them.
const SWEEPS: usize = 128;
/// Bytes of what was flushed that are given back in one tick.
const SHED: usize = 16 << 20;
/// Items that one step of the sweep looks at: requests of other threads wait for it.
const SWEEP: usize = 128;

/// Leases that are looked at in one tick.
const LOOKS: usize = 2048;

/// Keys whose memory is fetched ahead of their use at a time.
pub const AHEAD: usize = 16;

/// How many keys of a read of many lie between two stages of fetching.
const STAGE: usize = 8;

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
    fn hash(&self, key: Key<'_>) -> u64 {
        hash(&self.hasher, key)
    }

    fn shard_of(&self, hash: u64) -> usize {
        (hash >> 58) as usize & (self.options.shards - 1)
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
    fn deliver_events(&self, shard: &mut Shard, tags: &Tags<'_>, actor: u64) {
        shard.end_step(tags);
        for event in shard.leases.take_events() {
            self.sink.send(event, actor);
        }
    }

    /// Runs `f` with the shards of all `keys` locked, in ascending order, so that two such calls never wait for
    /// each other.
    pub fn with_all<'k, R>(
        &self,
        keys: impl Iterator<Item = Key<'k>>,
        step: impl Into<Step>,
        f: impl FnOnce(&mut Locked<'_>) -> R,
    ) -> R {
        let mask = keys.fold(0u64, |mask, key| mask | 1 << self.shard_of(self.hash(key)));
        f(&mut self.lock(mask, step.into()))
    }

    /// Reads `keys` as of one instant: `visit` is given the clock and the live item of each in their order, as by
    /// [`Entry::get`], until it returns false.
    #[inline]
    pub fn read_all<'k>(
        &self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        step: impl Into<Step>,
        mut visit: impl FnMut(u64, Option<Item<'_>>) -> bool,
    ) {
        self.each(keys, step, |entry| visit(entry.now(), entry.get()));
    }

    /// Gives `visit` the entry of each of `keys` in their order, all in one step, until it returns false.
    #[inline]
    pub fn each<'k>(
        &self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        step: impl Into<Step>,
        visit: impl FnMut(&mut Entry<'_>) -> bool,
    ) {
        let mut hashes = Vec::with_capacity(keys.size_hint().0);
        hashes.extend(keys.clone().map(|key| self.hash(key)));
        let mask = hashes.iter().fold(0u64, |mask, hash| mask | 1 << self.shard_of(*hash));
        self.lock(mask, step.into()).each_hashed(keys, &hashes, visit);
    }

    /// Runs `f` with every shard locked.
    pub fn with_everything<R>(&self, step: impl Into<Step>, f: impl FnOnce(&mut Locked<'_>) -> R) -> R {
        f(&mut self.lock(u64::MAX, step.into()))
    }

    fn lock(&self, mask: u64, Step { now, actor }: Step) -> Locked<'_> {
        let mut guards = [const { None }; MAX_SHARDS];
        for (index, shard) in self.shards.iter().enumerate() {
            if mask & 1 << index != 0 {
                guards[index] = Some(shard.lock());
            }
        }
        Locked { store: self, tags: self.tags.step(), guards, now, actor }
    }

    /// Has the processor fetch the index buckets, then the items, of keys that are about to be used: their waits
    /// for memory overlap instead of following each other.
    #[inline]
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = Key<'k>>) {
        fetch_ahead(
            keys.map(|key| self.hash(key)),
            |hash| self.shards[self.shard_of(hash)].lock().fetch_bucket(hash),
            |hash| _ = self.shards[self.shard_of(hash)].lock().fetch_item(hash),
        );
    }

    /// Ends waits and leases whose time is over, a bounded number of them; to be called every few milliseconds while there
    /// are any. Whether there are.
    pub fn tick_leases(&self, now: u64) -> bool {
        let (mut any, mut most) = (false, LOOKS);
        let first = self.next_tick.load(Ordering::Relaxed);
        for number in (0..self.shards.len()).map(|step| (first + step) % self.shards.len()) {
            let mut shard = self.shards[number].lock();
            if shard.leases.is_empty() {
                continue;
            }
            any = true;
            shard.advance(now);
            let tags = self.tags.step();
            shard.tick_leases(&tags, &mut most);
            self.deliver_events(&mut shard, &tags, NOBODY);
            if most == 0 {
                // The next call goes on here, so that one shard does not delay the others for ever.
                self.next_tick.store((number + 1) % self.shards.len(), Ordering::Relaxed);
                break;
            }
        }
        any
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

    /// Visits who holds each lease that stands now; None holds one that belongs to no connection.
    pub fn each_holder(&self, mut visit: impl FnMut(Option<ConnectionId>)) {
        self.shards.iter().for_each(|shard| shard.lock().leases.holders().for_each(&mut visit));
    }

    /// A bounded step of upkeep, to be called some twenty times in a second: what has expired or was invalidated goes.
    pub fn tick(&self, now: u64) {
        for _ in 0..TICK_PARTS {
            if self.tick_part(now) {
                return;
            }
        }
    }

    /// One of [`TICK_PARTS`] parts of a step of upkeep, which takes a millisecond or two of processor time at most; whether
    /// the others have nothing to do.
    pub fn tick_part(&self, now: u64) -> bool {
        let more = self.shed(SHED / TICK_PARTS);
        self.level_budgets();
        let left = self.shards.iter().filter(|shard| shard.lock().drop_left()).count() > 0;
        self.sweep(SWEEPS / TICK_PARTS, SWEEP, now) && !more && !left
    }

    /// Gives back so many bytes of what was flushed, or somewhat more, in pieces of a segment; whether there may be more.
    pub fn shed(&self, most: usize) -> bool {
        let mut left = most;
        while left > 0 {
            let before = left;
            for shard in &self.shards {
                left = left.saturating_sub(shard.lock().flushed.shed());
                if left == 0 {
                    return true;
                }
            }
            if left == before {
                return false;
            }
        }
        true
    }

    /// Without eviction a shard may hold more than its share of the memory, since items came to it by new names: what it needs
    /// no more goes back to those that have less.
    fn level_budgets(&self) {
        let share = self.share();
        if self.options.evict || self.shards.iter().all(|shard| shard.lock().surplus(share) == 0) {
            return;
        }
        let mut all = self.lock(u64::MAX, Step::default());
        let mut shards: Vec<&mut Shard> = all.guards.iter_mut().flatten().map(|guard| &mut **guard).collect();
        let mut returned: usize = shards.iter_mut().map(|shard| shard.return_surplus(share)).sum();
        for shard in shards {
            let more = share.saturating_sub(shard.budget).min(returned);
            shard.budget += more;
            returned -= more;
        }
        debug_assert_eq!(returned, 0, "the budgets of all shards are the whole");
    }

    /// Bytes of a shard that has neither lent nor borrowed any.
    fn share(&self) -> usize {
        shard::share(&self.shard_options)
    }

    /// So many steps of the sweep, each of which looks at so many items of one shard; whether they ended a round.
    #[doc(hidden)]
    pub fn sweep(&self, steps: usize, items: usize, now: u64) -> bool {
        let mut sweep = self.sweep.lock();
        for _ in 0..steps {
            if sweep.shard == 0 && !sweep.begun {
                (sweep.begun, sweep.clock, sweep.oldest) = (true, self.tags.clock(), u64::MAX);
            }
            let mut shard = self.shards[sweep.shard].lock();
            let now = shard.advance(now);
            let tags = self.tags.step();
            let round = shard.sweep(items, &tags, sweep.thorough, now);
            if shard.leases.has_pending() {
                self.deliver_events(&mut shard, &tags, NOBODY);
            }
            if !round {
                continue;
            }
            // What is granted from now on is granted after everything that this round can have made forgettable.
            sweep.oldest = sweep.oldest.min(shard.leases.oldest_clock(tags.clock(), now));
            drop((tags, shard));
            sweep.shard = (sweep.shard + 1) % self.shards.len();
            if sweep.shard == 0 {
                sweep.begun = false;
                self.end_round(&mut sweep);
                return true;
            }
        }
        false
    }

    /// Forgets the invalidations that nothing depends on any more.
    fn end_round(&self, sweep: &mut Sweep) {
        if self.tags.any() {
            // Only a round that looked at every item has dropped all that is dead by its tags.
            if sweep.thorough {
                self.tags.swept(sweep.clock);
            }
            self.tags.forget(sweep.oldest);
        }
        sweep.thorough = self.tags.any_unswept();
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

    /// Invalidates tags, all in one step: when this returns, no item that was written with one of them before is served
    /// again.
    pub fn invalidate_tags(&self, tags: &[u64]) {
        self.lock(0, Step::default()).invalidate_tags(tags);
    }

    /// Removes everything, or everything in one database.
    pub fn clear(&self, db: Option<u8>, step: impl Into<Step>) {
        self.with_everything(step, |all| all.clear(db));
    }

    /// Items of a database: those that expired count until they are swept or asked for.
    pub fn len(&self, db: u8) -> u64 {
        self.shards.iter().map(|shard| shard.lock().len(db)).sum()
    }

    /// Visits live items of a database, about `count` of them, from `cursor` on (0 to begin); returns the cursor to
    /// go on with, 0 when all was seen. What is there from beginning to end is visited at least once.
    pub fn scan(&self, db: u8, cursor: u64, count: usize, now: u64, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        scan(cursor, count, visit, |number, from, visit| {
            let mut shard = self.shards.get(number)?.lock();
            shard.advance(now);
            Some(shard.scan(db, from, count, &self.tags.step(), visit))
        })
    }

    /// A cursor for [`scan`](Store::scan) somewhere among the items, by a number drawn at random.
    pub fn cursor_at(&self, random: u64) -> u64 {
        let shard = self.shard_of(random);
        scan_cursor(shard, self.shards[shard].lock().scan_place(random))
    }

    /// Panics unless every shard is what it must be between two steps. For tests: it looks at every item. `slack` bytes of a
    /// shard may be used above its budget, by what grows without a write that makes room for it: leases, ghosts.
    #[doc(hidden)]
    pub fn check(&self, slack: usize) {
        let all = self.lock(u64::MAX, Step::default());
        all.guards.iter().flatten().for_each(|shard| shard.check(slack));
        let budgets = all.guards.iter().flatten().map(|shard| shard.budget).sum::<usize>();
        assert_eq!(budgets, self.share() * self.shards.len(), "the budgets of all shards are the whole");
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

/// Fetches the buckets of some hashes, then their items, and so on until all had their turn.
#[inline]
fn fetch_ahead(mut hashes: impl Iterator<Item = u64>, bucket: impl Fn(u64), item: impl Fn(u64)) {
    let mut some = [0; AHEAD];
    loop {
        let mut count = 0;
        for (place, hash) in some.iter_mut().zip(&mut hashes) {
            *place = hash;
            bucket(hash);
            count += 1;
        }
        some[..count].iter().for_each(|&hash| item(hash));
        if count < AHEAD {
            return;
        }
    }
}

/// Bits of a cursor that tell the place within a shard.
const SHARD_SHIFT: u32 = 56;

fn scan_cursor(shard: usize, from: u64) -> u64 {
    (shard as u64) << SHARD_SHIFT | from
}

/// Items that a scan passes at most in one call for each that it is asked for.
pub const SCAN_MOST: usize = 16;
/// Items that a scan passes at most in one call, whatever it is asked for: a few milliseconds.
const MOST_LOOKED_AT: usize = 16_384;

/// Goes through shards: `step` scans one from a place on and returns the next place in it, or None when there is no such
/// shard. Items of other databases are passed over, within bounds.
fn scan(
    cursor: u64,
    count: usize,
    visit: &mut dyn FnMut(&[u8], &Item<'_>),
    mut step: impl FnMut(usize, u64, &mut dyn FnMut(&[u8], &Item<'_>)) -> Option<Option<u64>>,
) -> u64 {
    let mut number = (cursor >> SHARD_SHIFT) as usize;
    let mut from = cursor & ((1 << SHARD_SHIFT) - 1);
    let (mut seen, mut looked_at) = (0, 0);
    while let Some(next) = step(number, from, &mut |key, item| {
        seen += 1;
        visit(key, item);
    }) {
        looked_at += count;
        (number, from) = next.map_or((number + 1, 0), |next| (number, next));
        if seen >= count || looked_at >= (SCAN_MOST * count).min(MOST_LOOKED_AT) {
            return scan_cursor(number, from);
        }
    }
    0
}

/// Bytes that are kept beside a value at most.
const MOST_BESIDE: usize = 64 + 8 * MAX_TAGS;

/// Several shards, locked.
pub struct Locked<'s> {
    store: &'s Store,
    tags: Tags<'s>,
    guards: [Option<MutexGuard<'s, Shard>>; MAX_SHARDS],
    now: u64,
    actor: u64,
}

impl Drop for Locked<'_> {
    /// Whom the step concerns is told once, from what is there at its end, before any lock is released.
    fn drop(&mut self) {
        for shard in self.guards.iter_mut().flatten() {
            if shard.leases.has_pending() {
                self.store.deliver_events(shard, &self.tags, self.actor);
            }
        }
    }
}

/// A value that a step writes.
#[derive(Clone, Copy, Debug)]
pub struct Written<'k> {
    /// Its key.
    pub key: Key<'k>,
    /// Its greatest length.
    pub length: usize,
    /// The key that it has before, if the item is moved; the same key if something beside the value changes.
    pub from: Option<Key<'k>>,
}

impl Locked<'_> {
    /// The entry of a key whose shard is locked.
    pub fn entry<'a>(&'a mut self, key: Key<'a>) -> Entry<'a> {
        let hash = self.store.hash(key);
        self.entry_at(key, hash, None)
    }

    #[inline]
    fn entry_at<'a>(&'a mut self, key: Key<'a>, hash: u64, slot: Option<Slot>) -> Entry<'a> {
        let shard = self.guards[self.store.shard_of(hash)].as_mut().expect("the shard of every key is locked");
        let now = shard.advance(self.now);
        Entry::new(shard, &self.tags, key, hash, now, slot)
    }

    /// Invalidates tags, all at once and in this step.
    pub fn invalidate_tags(&mut self, tags: &[u64]) {
        if !tags.is_empty() {
            self.tags.invalidate(tags);
            self.store.sink.send(StoreEvent::TagsInvalidated, self.actor);
        }
    }

    /// To be called before anything is looked at in a step that will invalidate tags: else those of others could be
    /// invalidated in its middle.
    pub fn hold_to_invalidate(&mut self) {
        self.tags.hold_to_invalidate();
    }

    /// Moves the value of a key, with all that is kept beside it, to another key, over what is there. Whether there is one.
    /// It is refused for want of memory only when the new key is the longer one.
    pub fn rename(&mut self, from: Key<'_>, to: Key<'_>) -> Result<bool, Refused> {
        let Some(copy) = self.entry(from).copied() else { return Ok(false) };
        match self.entry(to).put_copied(&copy) {
            Ok(_) => {}
            // A value as long as a whole shard may be too long for one whose list of values would have to grow.
            Err(Refused::Full | Refused::TooLarge) if !self.store.options.evict => {
                self.rename_when_full(from, to, &copy)?;
            }
            Err(why) => return Err(why),
        }
        self.entry(from).remove();
        Ok(true)
    }

    /// Where nothing may be evicted: the memory that the item gives up is passed on to the shard of the new key first.
    #[cold]
    fn rename_when_full(&mut self, from: Key<'_>, to: Key<'_>, copy: &Copied) -> Result<(), Refused> {
        let [from_hash, to_hash] = [from, to].map(|key| self.store.hash(key));
        let giver = self.shard(from_hash);
        let lent = giver.freed_with(from, from_hash).min(giver.budget);
        let replaced = self.shard(to_hash).freed_with(to, to_hash);
        self.shard_mut(to_hash).budget += lent;
        let moved = self.entry(to).put_moved(copy);
        let taker = self.shard_mut(to_hash);
        // The item that was there needs its memory no more.
        let returned = if moved.is_ok() { lent.min(replaced).min(taker.headroom()) } else { lent };
        taker.budget -= returned;
        self.shard_mut(from_hash).budget -= lent - returned;
        moved.map(|_| ())
    }

    /// As [`Store::read_all`], of keys whose shards are locked.
    pub fn read_all<'k>(
        &mut self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        mut visit: impl FnMut(u64, Option<Item<'_>>) -> bool,
    ) {
        let hashes: Vec<u64> = keys.clone().map(|key| self.store.hash(key)).collect();
        self.each_hashed(keys, &hashes, |entry| visit(entry.now(), entry.get()));
    }

    /// What a look touches lies in three places, each found by the one before it: table, bucket and item. Each is
    /// fetched a few keys before it is looked at, so that no key waits for memory alone.
    #[inline(always)]
    fn each_hashed<'k>(
        &mut self,
        mut keys: impl Iterator<Item = Key<'k>>,
        hashes: &[u64],
        mut visit: impl FnMut(&mut Entry<'_>) -> bool,
    ) {
        let part = |number: usize| hashes.chunks(STAGE).nth(number).unwrap_or_default();
        let mut slots = [Slot::default(); STAGE];
        for number in 0..hashes.len().div_ceil(STAGE) + 3 {
            for &hash in part(number) {
                self.shard(hash).fetch_table(hash);
            }
            for &hash in part(number.wrapping_sub(1)) {
                self.shard(hash).fetch_bucket(hash);
            }
            for (&hash, slot) in part(number.wrapping_sub(3)).iter().zip(slots) {
                let Some(key) = keys.next() else { return };
                if !visit(&mut self.entry_at(key, hash, Some(slot))) {
                    return;
                }
            }
            for (&hash, slot) in part(number.wrapping_sub(2)).iter().zip(&mut slots) {
                *slot = self.shard(hash).fetch_item(hash);
            }
        }
    }

    #[inline(always)]
    fn shard(&self, hash: u64) -> &Shard {
        self.guards[self.store.shard_of(hash)].as_ref().expect("the shard of every key is locked")
    }

    fn shard_mut(&mut self, hash: u64) -> &mut Shard {
        self.guards[self.store.shard_of(hash)].as_mut().expect("the shard of every key is locked")
    }

    /// Whether all these values can be written for sure, under keys whose shards are locked. Where nothing may be evicted,
    /// what is dead makes room for them first; it may say no too early when memory is nearly full.
    pub fn fits<'k>(&mut self, values: impl Iterator<Item = Written<'k>>) -> bool {
        if self.store.options.evict {
            return true;
        }
        let (mut wanted, mut moved, mut lent) = ([0; MAX_SHARDS], [0; MAX_SHARDS], [0; MAX_SHARDS]);
        // What is longer is refused anyway.
        let longest = self.store.options.max_value + MOST_BESIDE;
        for Written { key, length, from } in values {
            let (hash, length) = (self.store.hash(key), length.min(longest));
            let (place, shard) = (self.store.shard_of(hash), self.shard(hash));
            let (whole, anew) = (shard.wanted(key, length), shard.wanted_anew(key, length));
            match from.map(|from| self.store.shard_of(self.store.hash(from))) {
                None => wanted[place] += whole,
                Some(before) => {
                    moved[place] += anew;
                    lent[place] += if before == place { 0 } else { whole - anew };
                }
            }
        }
        let mut shards = self.guards.iter_mut().enumerate();
        shards.all(|(place, shard)| {
            let Some(shard) = shard else { return true };
            let (wanted, moved) = (wanted[place], moved[place]);
            // Where nothing else is written, what moves takes what is kept for that, and the memory of values beside the log.
            let bytes = match wanted {
                0 if !shard.moves_too_much(moved) => return true,
                0 => moved,
                _ => wanted + moved + lent[place],
            };
            let now = shard.advance(self.now);
            shard.make_room_for(bytes, &self.tags, now)
        })
    }

    /// As [`Store::prefetch`], of keys whose shards are locked.
    #[inline]
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = Key<'k>>) {
        fetch_ahead(
            keys.map(|key| self.store.hash(key)),
            |hash| self.shard(hash).fetch_bucket(hash),
            |hash| _ = self.shard(hash).fetch_item(hash),
        );
    }

    /// Items of a database in the locked shards.
    pub fn len(&self, db: u8) -> u64 {
        self.guards.iter().flatten().map(|shard| shard.len(db)).sum()
    }

    /// What the locked shards hold, and what happened in them.
    pub fn stats(&self) -> Stats {
        let mut total = Stats::default();
        for shard in self.guards.iter().flatten() {
            total.add(&shard.stats());
        }
        total
    }

    /// As [`Store::each_holder`], in the locked shards.
    pub fn each_holder(&self, mut visit: impl FnMut(Option<ConnectionId>)) {
        self.guards.iter().flatten().for_each(|shard| shard.leases.holders().for_each(&mut visit));
    }

    /// As [`Store::cursor_at`], with every shard locked.
    pub fn cursor_at(&self, random: u64) -> u64 {
        scan_cursor(self.store.shard_of(random), self.shard(random).scan_place(random))
    }

    /// As [`Store::scan`], with every shard locked.
    pub fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        scan(cursor, count, visit, |number, from, visit| {
            let shard = self.guards.get_mut(number)?.as_mut()?;
            shard.advance(self.now);
            Some(shard.scan(db, from, count, &self.tags, visit))
        })
    }

    /// Removes everything, or everything in one database, from the locked shards. Memory comes free in the ticks that follow,
    /// or as it is needed.
    pub fn clear(&mut self, db: Option<u8>) {
        let (options, least) = (&self.store.shard_options, self.store.least_segment);
        self.store.sink.send(StoreEvent::Cleared, self.actor);
        self.guards.iter_mut().flatten().for_each(|shard| shard.clear(db, options, least));
    }
}
