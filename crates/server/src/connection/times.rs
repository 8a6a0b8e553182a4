//! How long a connection may take for what it does.

use globalcache_core::clock::Now;

/// A request must arrive whole within this time, and a reply be taken; longer for long ones, see [`SLOWEST`].
pub(super) const PATIENCE_MS: u64 = 60_000;
/// Bytes per millisecond that a client has to manage beyond that.
const SLOWEST: u64 = 16;
/// How long a client may take for the handshake of TLS and to authenticate: who is unknown must not hold a place.
pub(super) const AUTH_TIMEOUT_MS: u64 = 10_000;
/// How long a connection that was closed by us is listened to, so that the last reply is not lost to a reset.
const LINGER_MS: u64 = 1_000;

/// Moments in the life of a connection, in milliseconds of the monotonic clock.
pub(super) struct Times {
    /// When it was opened.
    pub(super) opened: u64,
    /// When something last arrived.
    pub(super) last_input: u64,
    /// Since when the same request or output is waiting.
    pub(super) stuck_since: Option<u64>,
    /// When it was decided to close.
    pub(super) closing: Option<u64>,
}

impl Times {
    /// Of a connection that is opened now.
    pub(super) fn new(now: Now) -> Times {
        Times { opened: now.mono, last_input: now.mono, stuck_since: None, closing: None }
    }

    /// Whether a request that does not arrive, of which `input` bytes are there, or a reply that is not taken, has waited for
    /// too long, or nothing was asked for `idle` milliseconds (0: that is no matter).
    pub(super) fn is_out_of_patience(&self, now: Now, idle: u64, input: usize) -> bool {
        let patience = PATIENCE_MS + (input as u64) / SLOWEST;
        idle > 0 && since(self.last_input, now) > idle
            || self.stuck_since.is_some_and(|then| since(then, now) > patience)
    }

    /// Whether the time to authenticate is over.
    pub(super) fn is_late_to_authenticate(&self, now: Now) -> bool {
        since(self.opened, now) > AUTH_TIMEOUT_MS
    }

    /// Whether the time is over in which a peer may still take the last reply and close.
    pub(super) fn has_lingered(&self, now: Now) -> bool {
        self.closing.is_some_and(|then| since(then, now) > LINGER_MS)
    }
}

fn since(then: u64, now: Now) -> u64 {
    now.mono.saturating_sub(then)
}
