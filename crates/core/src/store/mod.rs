//! The store: items behind sharded locks.
//!
//! Time is an argument (milliseconds of a monotonic clock), randomness is an option, and nothing here knows
//! of connections or protocols. Whatever is done to a key happens in one closure under the lock of its shard
//! ([`Store::with`], [`Store::with_all`]), so a read, a decision and a write are one step.

use std::sync::Arc;

use ahash::RandomState;
use parking_lot::{Mutex, MutexGuard};

/// Most shards a store can have: a set of shards is a bit mask in one word.
pub const MAX_SHARDS: usize = 64;

/// How a store is made. `seed` keys the hash, `epoch` is the first version and lease token it hands out and
/// must lie above everything an earlier life of the same server handed out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that items, index, tags, leases and ghosts may take together.
    pub memory: u64,
    /// Number of shards, a power of two, at most [`MAX_SHARDS`].
    pub shards: usize,
    /// Whether writes push old items out when memory is full; if not they are refused.
    pub evict: bool,
    /// Longest value in bytes.
    pub max_value: usize,
    /// Key of the hash, drawn anew for every process.
    pub seed: [u64; 4],
    /// First version and token.
    pub epoch: u64,
}

/// A key in one of the numbered databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key<'a> {
    /// Number of the database.
    pub db: u8,
    /// The key itself, 1 to 65,535 bytes.
    pub bytes: &'a [u8],
}

/// A value as it lies in the store.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// Bytes within a segment: copied out under the lock.
    Inline(&'a [u8]),
    /// A large value beside the log: shared without copying.
    Shared(&'a Arc<[u8]>),
}

impl<'a> Value<'a> {
    /// The bytes, wherever they lie.
    pub fn bytes(self) -> &'a [u8] {
        match self {
            Value::Inline(bytes) => bytes,
            Value::Shared(bytes) => bytes,
        }
    }
}

/// What is kept beside a value. Times are milliseconds of the clock that `now` is read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta<'a> {
    /// The number that memcached clients keep with a value.
    pub flags: u32,
    /// After it the value is gone for every reader.
    pub expires_at: Option<u64>,
    /// After it the value is stale: still served, and somebody refreshes it.
    pub fresh_until: Option<u64>,
    /// After `expires_at` and until then a failed load may still hand the value out.
    pub error_until: Option<u64>,
    /// How long the load of the value took, in milliseconds.
    pub cost: Option<u32>,
    /// "There is no such row": counts as absent for everything but a fetch.
    pub absent: bool,
    /// Hashes of the tags, at most 16.
    pub tags: &'a [u64],
}

/// A live item.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its value.
    pub value: Value<'a>,
    /// Grows with every write in its shard; memcached's CAS number.
    pub version: u64,
    /// As in [`Meta`].
    pub flags: u32,
    /// As in [`Meta`].
    pub expires_at: Option<u64>,
    /// As in [`Meta`].
    pub fresh_until: Option<u64>,
    /// As in [`Meta`].
    pub absent: bool,
}

/// Why a write was refused; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The value is longer than the limit.
    TooLarge,
    /// Memory is full and nothing may be evicted.
    Full,
}

/// Counts since the start, and what is held now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Items held, dead ones that were not swept yet included.
    pub items: u64,
    /// Bytes of the budget in use.
    pub used: u64,
    /// Reads that found a live item.
    pub hits: u64,
    /// Reads that found none.
    pub misses: u64,
    /// Items pushed out to make room.
    pub evicted: u64,
    /// Items that reached their time.
    pub expired: u64,
}

mod index;
mod item;
mod shard;
mod tags;
pub use shard::Entry;
use shard::Shard;
use tags::Tags;

/// The cache: shards behind one lock each.
pub struct Store {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    tags: Arc<Tags>,
    options: Options,
}

impl Store {
    /// An empty store.
    pub fn new(options: Options) -> Store {
        assert!(options.shards.is_power_of_two() && options.shards <= MAX_SHARDS);
        let [a, b, c, d] = options.seed;
        let mut options = options;
        // A shard is an eviction domain: one that cannot hold a few of the largest values is too small to be one.
        while options.shards > 1
            && options.memory / (options.shards as u64)
                < (2 * options.max_value as u64).max(1 << 20)
        {
            options.shards /= 2;
        }
        let hasher = RandomState::with_seeds(a, b, c, d);
        let tags = Arc::new(Tags::new(options.shards, options.memory, options.seed));
        let shard = |number| Mutex::new(Shard::new(&options, number, hasher.clone(), tags.clone()));
        Store {
            shards: (0..options.shards).map(shard).collect(),
            hasher,
            tags,
            options,
        }
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    fn hash(&self, key: Key<'_>) -> u64 {
        self.hasher.hash_one(key)
    }

    fn shard_of(&self, hash: u64) -> usize {
        (hash >> 58) as usize & (self.options.shards - 1)
    }

    /// Runs `f` on the entry of `key` under the lock of its shard: one step for everybody else.
    #[inline]
    pub fn with<R>(&self, key: Key<'_>, now: u64, f: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        let hash = self.hash(key);
        let mut shard = self.shards[self.shard_of(hash)].lock();
        let now = shard.advance(now);
        f(&mut Entry::new(&mut shard, key, hash, now))
    }

    /// Runs `f` with the shards of all `keys` locked, in ascending order, so that two such calls never wait for
    /// each other.
    pub fn with_all<'k, R>(
        &self,
        keys: impl Iterator<Item = Key<'k>>,
        now: u64,
        f: impl FnOnce(&mut Locked<'_>) -> R,
    ) -> R {
        let mask = keys.fold(0u64, |mask, key| mask | 1 << self.shard_of(self.hash(key)));
        f(&mut self.lock(mask, now))
    }

    /// Runs `f` with every shard locked.
    pub fn with_everything<R>(&self, now: u64, f: impl FnOnce(&mut Locked<'_>) -> R) -> R {
        f(&mut self.lock(u64::MAX, now))
    }

    fn lock(&self, mask: u64, now: u64) -> Locked<'_> {
        let mut guards = [const { None }; MAX_SHARDS];
        for (index, shard) in self.shards.iter().enumerate() {
            if mask & 1 << index != 0 {
                guards[index] = Some(shard.lock());
            }
        }
        Locked {
            store: self,
            guards,
            now,
        }
    }

    /// Touches the index bucket of `key`, so that a batch of commands finds its buckets in the processor's cache.
    #[inline]
    pub fn prefetch(&self, key: Key<'_>) {
        let hash = self.hash(key);
        if let Some(shard) = self.shards[self.shard_of(hash)].try_lock() {
            shard.touch(hash);
        }
    }

    /// The hash under which a tag is kept.
    pub fn tag(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Makes every item with one of these tags dead, in one step. Items written before are dead for all who read
    /// after this returned.
    pub fn invalidate_tags(&self, tags: &[u64]) {
        self.tags.invalidate(tags);
    }

    /// A bounded step of upkeep: expired items go, sparse segments are compacted.
    pub fn tick(&self, now: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock();
            let now = shard.advance(now);
            shard.sweep(now);
        }
    }

    /// Removes everything, or everything in one database.
    pub fn clear(&self, db: Option<u8>, now: u64) {
        self.with_everything(now, |all| all.clear(db));
    }

    /// Items of a database; what ended counts until it is swept.
    pub fn len(&self, db: u8, now: u64) -> u64 {
        let _ = now;
        self.shards.iter().map(|shard| shard.lock().len(db)).sum()
    }

    /// Visits live items of a database, about `count` of them, from `cursor` on (0 to begin); returns the cursor to
    /// go on with, 0 when all was seen. What is there from beginning to end is visited at least once.
    pub fn scan(
        &self,
        db: u8,
        cursor: u64,
        count: usize,
        now: u64,
        visit: &mut dyn FnMut(&[u8], &Item<'_>),
    ) -> u64 {
        let number = (cursor >> 48) as usize;
        let Some(shard) = self.shards.get(number) else {
            return 0;
        };
        let mut shard = shard.lock();
        shard.advance(now);
        match shard.scan(db, cursor & 0xffff_ffff_ffff, count.max(1), visit) {
            Some(next) => (number as u64) << 48 | next,
            None if number + 1 == self.shards.len() => 0,
            None => (number as u64 + 1) << 48,
        }
    }

    /// What is held, and what happened since the start.
    pub fn stats(&self) -> Stats {
        let mut total = Stats::default();
        for shard in &self.shards {
            let one = shard.lock().stats();
            total.items += one.items;
            total.used += one.used;
            total.hits += one.hits;
            total.misses += one.misses;
            total.evicted += one.evicted;
            total.expired += one.expired;
        }
        total
    }
}

/// Several shards, locked.
pub struct Locked<'s> {
    store: &'s Store,
    guards: [Option<MutexGuard<'s, Shard>>; MAX_SHARDS],
    now: u64,
}

impl Locked<'_> {
    /// The entry of a key whose shard is locked.
    pub fn entry<'a>(&'a mut self, key: Key<'a>) -> Entry<'a> {
        let hash = self.store.hash(key);
        let shard = self.guards[self.store.shard_of(hash)]
            .as_mut()
            .expect("the shard of every key is locked");
        let now = shard.advance(self.now);
        Entry::new(shard, key, hash, now)
    }

    /// Removes everything, or everything in one database, from the locked shards.
    pub fn clear(&mut self, db: Option<u8>) {
        for shard in self.guards.iter_mut().flatten() {
            shard.clear(db);
        }
    }
}
