//! Commands that know of freshness, tags and leases.

use super::args::Args;
use super::error::Error;

/// On what a CACHE.SET depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetCondition {
    /// On nothing.
    Always,
    /// There is no such key.
    Absent,
    /// The item has this version.
    Version(u64),
}

/// A cache command.
#[derive(Clone, Copy, Debug)]
pub enum CacheCommand<'a> {
    /// A value with its flags: null, bytes, or both.
    Get(&'a [u8]),
    /// Several values with their flags, as of one instant.
    GetMany(Args<'a>),
    /// An item with everything that is told of it.
    Entry(&'a [u8]),
    /// A value, or the lease to load it.
    Fetch {
        /// Its key.
        key: &'a [u8],
        /// How long the caller waits for somebody else's load, in milliseconds.
        wait: u64,
        /// How long a lease the caller takes, in milliseconds, if it loads.
        lease: Option<u64>,
        /// The outcome of a wait comes as a push.
        ticket: bool,
    },
    /// A value that was loaded under a lease.
    Fill {
        /// Its key.
        key: &'a [u8],
        /// The lease.
        token: u64,
        /// The value.
        value: &'a [u8],
        /// What is kept with it.
        keep: EntryOptions<'a>,
        /// Why it cannot be kept as its options say: then it only ends its lease.
        problem: Option<&'a Error>,
    },
    /// A load failed.
    Fail {
        /// Its key.
        key: &'a [u8],
        /// The lease.
        token: u64,
        /// Why.
        message: &'a [u8],
        /// How long nobody is to try again, in milliseconds.
        retry: Option<u64>,
    },
    /// A load takes longer.
    Renew {
        /// Its key.
        key: &'a [u8],
        /// The lease.
        token: u64,
        /// By how much from now, in milliseconds.
        millis: u64,
    },
    /// A lease is given up.
    Release(&'a [u8], u64),
    /// A wait is given up.
    Cancel(u64),
    /// Writes a value with all that can be kept with it.
    Set {
        /// Its key.
        key: &'a [u8],
        /// The value.
        value: &'a [u8],
        /// What is kept with it.
        keep: EntryOptions<'a>,
        /// On what it depends.
        only: SetCondition,
    },
    /// Adds to a number; what is kept counts only if it is made by this.
    Increment {
        /// Its key.
        key: &'a [u8],
        /// By how much.
        delta: i64,
        /// What is kept with a new one.
        keep: EntryOptions<'a>,
    },
    /// This connection loads what matches these patterns.
    Loader {
        /// The patterns.
        patterns: Args<'a>,
        /// Loads it takes at a time.
        inflight: u64,
    },
    /// These patterns are not served any more.
    Forget(Args<'a>),
    /// Everything known of a key.
    Inspect(&'a [u8]),
    /// The handshake of a client.
    Session {
        /// Its name.
        id: &'a [u8],
        /// Which of its connections is newer.
        generation: u64,
        /// Commands that would wait answer with a ticket.
        tickets: bool,
        /// Hash of the list of servers that it uses.
        servers: Option<&'a [u8]>,
    },
}

/// What is kept with a value that is written. Times in milliseconds from now.
#[derive(Clone, Copy, Debug)]
pub struct EntryOptions<'a> {
    /// After it the value is gone.
    pub ttl: Option<u64>,
    /// After it the value is stale.
    pub refresh: Option<u64>,
    /// How long beyond its time to live a failed load may hand it out.
    pub grace: Option<u64>,
    /// How long its load took.
    pub cost: Option<u32>,
    /// What clients keep with it.
    pub flags: u32,
    /// Its tags.
    pub tags: Args<'a>,
    /// There is no such row.
    pub absent: bool,
}
