//! What clients have set going: a delayed flush, a clock that runs ahead, the end of the server.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;

/// What clients have set going and every call looks at.
#[derive(Debug, Default)]
pub struct ServerControl {
    /// When a database is to be emptied, in milliseconds times 16, with its number; 0: never.
    pub(super) flush: AtomicU64,
    /// Milliseconds by which the clock runs ahead.
    pub(super) ahead: AtomicU64,
    /// A client asked the server to stop.
    pub stop: AtomicBool,
    /// A client asked the thread that accepts connections to panic: a test of what the server does then.
    pub panic: AtomicBool,
    /// Counts as of the last reset of memcached's statistics.
    pub baseline: Mutex<BTreeMap<&'static str, u64>>,
}

impl ServerControl {
    /// Empties a database when the monotonic clock reads `at`; of several such wishes the last holds, as in memcached.
    pub fn flush_at(&self, db: u8, at: u64) {
        self.flush.store(at.min(u64::MAX >> 4) << 4 | u64::from(db), Relaxed);
    }

    /// Lets the clock run ahead by so many milliseconds more.
    pub fn advance(&self, millis: u64) {
        self.ahead.fetch_add(millis, Relaxed);
    }
}
