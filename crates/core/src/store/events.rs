//! What the store tells others: how waits end, which keys have changed.

use std::sync::Arc;

use super::types::{Item, Value};

/// A connection: where its messages go, and its number, which is never used twice, so that what comes too late for one
/// is not taken for another's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// The mailbox that the connection's thread empties.
    pub mailbox: u16,
    /// Its place among the connections of that thread.
    pub slot: u32,
    /// Its number.
    pub id: u64,
}

/// A value as waiters get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// The value.
    pub value: Arc<[u8]>,
    /// The item's version, if the value was stored.
    pub version: Option<u64>,
    /// What clients keep with it.
    pub flags: u32,
    /// When it is gone.
    pub expires_at: Option<u64>,
    /// It is handed out although its time is over.
    pub stale: bool,
    /// "There is no such row."
    pub absent: bool,
}

/// A lease that somebody waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// Database of the key.
    pub db: u8,
    /// The key.
    pub key: Arc<[u8]>,
    /// The lease.
    pub token: u64,
}

/// How a wait ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// With a value, or with the proof that there is none.
    Loaded(Loaded),
    /// With the lease: whoever waited is to load now.
    Lease(Granted),
    /// The load failed, for this reason.
    Failed(Arc<str>),
    /// The time to wait is over.
    Timeout,
    /// There was no room to wait.
    Full,
    /// Workers do not load the key any more, and whoever waited does not load it either.
    Unserved,
}

/// What a step has to tell others. It is handed over under the lock of the shard, so that nothing overtakes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// The wait of this number has ended.
    Outcome(ConnectionId, u64, Outcome),
    /// A worker is wanted to load a key.
    Wanted(u8, Arc<[u8]>),
    /// A key changed or went: who read it, and wants to know.
    Changed(Box<[u8]>, Vec<ConnectionId>),
    /// A database was emptied, or all were.
    Cleared,
    /// Tags were invalidated.
    TagsInvalidated,
}

impl Loaded {
    /// A copy of an item for those who wait; large values are shared.
    pub fn new(item: &Item<'_>, stale: bool) -> Loaded {
        let value = match item.value {
            Value::Inline(bytes) => Arc::from(bytes),
            Value::Shared(bytes) => Arc::clone(bytes),
        };
        let Item { version, flags, expires_at, absent, .. } = *item;
        Loaded { value, version: Some(version), flags, expires_at, stale, absent }
    }
}

/// Where the store tells others of what a step means for them: called under the lock of the shard, so that nothing that
/// happens later is told earlier.
pub trait EventSink: Send + Sync {
    /// Takes an event of a step that the connection of number `actor` asked for (0: none did); must not use the store.
    fn send(&self, event: StoreEvent, actor: u64);
}

/// Tells nobody: for a store that nobody waits for.
pub(super) struct Nobody;

impl EventSink for Nobody {
    fn send(&self, _: StoreEvent, _: u64) {}
}
