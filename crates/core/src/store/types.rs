//! Keys, values and what is kept beside them, as everybody knows them who uses the store.

use std::sync::Arc;

use crate::limits::DATABASES;

/// Most shards a store can have: beyond it threads hardly meet less often. A set of shards is a bit mask in one word.
pub const MAX_SHARDS: usize = 16;

/// How a store is made. `seed` keys the hash, `epoch` is the first version and lease token it hands out and
/// must lie above everything an earlier life of the same server handed out.
#[derive(Clone, Debug)]
pub struct Options {
    /// Bytes that items, index, tags and ghosts may take together.
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
    /// How long a load may take before whoever does it cannot renew its lease any more, in milliseconds.
    pub load_limit: u64,
}

/// When something is done to the store, and by whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds of the monotonic clock.
    pub now: u64,
    /// The number of the connection that asked for it; 0 if none did.
    pub actor: u64,
}

impl From<u64> for Step {
    /// A step that no connection asked for.
    fn from(now: u64) -> Step {
        Step { now, actor: 0 }
    }
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
    /// When the value was written; kept for those who ask for its age.
    pub written_at: Option<u64>,
    /// "There is no such row": counts as absent for everything but a fetch.
    pub absent: bool,
    /// The number that a client wants to know this version by, instead of the version itself.
    pub cas: Option<u64>,
    /// Hashes of the tags, at most [`MAX_TAGS`](crate::limits::MAX_TAGS).
    pub tags: &'a [u64],
}

/// A live item.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its value.
    pub value: Value<'a>,
    /// Grows with every write in its shard; memcached's CAS number, unless a client chose one.
    pub version: u64,
    /// As in [`Meta`].
    pub flags: u32,
    /// As in [`Meta`].
    pub expires_at: Option<u64>,
    /// As in [`Meta`].
    pub fresh_until: Option<u64>,
    /// As in [`Meta`].
    pub error_until: Option<u64>,
    /// As in [`Meta`].
    pub cost: Option<u32>,
    /// As in [`Meta`].
    pub written_at: Option<u64>,
    /// As in [`Meta`].
    pub absent: bool,
    /// As in [`Meta`].
    pub cas: Option<u64>,
}

impl<'a> Item<'a> {
    /// A value with nothing beside it.
    pub(super) fn plain(value: &'a [u8]) -> Item<'a> {
        Item {
            value: Value::Inline(value),
            version: 0,
            flags: 0,
            expires_at: None,
            fresh_until: None,
            error_until: None,
            cost: None,
            written_at: None,
            absent: false,
            cas: None,
        }
    }

    /// The number that clients compare to see whether the item is still what they read.
    pub fn number(&self) -> u64 {
        self.cas.unwrap_or(self.version)
    }

    /// Whether its time to be fresh is over.
    pub fn is_stale(&self, now: u64) -> bool {
        self.fresh_until.is_some_and(|at| at <= now)
    }
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
    /// Items that are to expire, by database.
    pub expires: [u64; DATABASES],
    /// Keys that clients keep copies of.
    pub tracked: u64,
    /// Pairs of such a key and a client.
    pub tracked_pairs: u64,
    /// Leases that are known, whether or not anybody holds them.
    pub leases: u64,
    /// Fills that were refused.
    pub refused: RefusedFills,
}

/// Fills that were refused, by their reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RefusedFills {
    /// The key was changed since the lease was granted.
    pub changed: u64,
    /// A tag of the value was invalidated since.
    pub tag: u64,
    /// The token is unknown or too old, or another fill was faster.
    pub late: u64,
    /// The token was good, and the value could not be stored.
    pub value: u64,
}

impl Stats {
    pub(super) fn add(&mut self, one: &Stats) {
        self.items += one.items;
        self.used += one.used;
        self.hits += one.hits;
        self.misses += one.misses;
        self.evicted += one.evicted;
        self.expired += one.expired;
        self.tracked += one.tracked;
        self.leases += one.leases;
        self.refused.changed += one.refused.changed;
        self.refused.tag += one.refused.tag;
        self.refused.late += one.refused.late;
        self.refused.value += one.refused.value;
        self.tracked_pairs += one.tracked_pairs;
        for (total, expires) in self.expires.iter_mut().zip(one.expires) {
            *total += expires;
        }
    }
}
