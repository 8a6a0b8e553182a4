//! The store: items behind sharded locks.
//!
//! Time is an argument (milliseconds of a monotonic clock), randomness is an option, and nothing here knows
//! of connections or protocols. Whatever is done to a key happens in one closure under the lock of its shard
//! ([`Store::with`], [`Store::with_all`]), so a read, a decision and a write are one step.

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
mod locked;
mod log;
mod policy_selector;
mod prefetch;
mod queue;
mod reclaim;
mod record;
mod room;
mod scan;
mod segment;
mod shard;
mod sharded;
mod sweep;
mod tags;
mod tracked;
mod types;
mod upkeep;
mod write;

pub use entry::{Copied, Entry};
pub use events::{ConnectionId, EventSink, Granted, Loaded, Outcome, StoreEvent};
pub use fetch::Inspection;
pub use lease::{Changes, FetchRequest, FetchResult, Hold, HoldOff, Holds};
pub use locked::{Locked, Written};
pub use prefetch::AHEAD;
pub use room::MAX_INLINE;
pub use scan::SCAN_MOST;
pub use sharded::{Store, shards_for};
pub use tracked::Interest;
pub use types::{Item, Key, MAX_SHARDS, Meta, Options, Refused, RefusedFills, Stats, Step, Value};
pub use upkeep::TICK_PARTS;
