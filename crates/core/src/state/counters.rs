//! What is counted.

use std::sync::atomic::AtomicU64;

/// What is counted. Read by INFO; written by sessions and by the server.
#[derive(Debug, Default)]
pub struct Counters {
    /// Commands run.
    pub commands: AtomicU64,
    /// Commands answered with an error.
    pub errors: AtomicU64,
    /// Bytes received.
    pub bytes_in: AtomicU64,
    /// Bytes sent.
    pub bytes_out: AtomicU64,
    /// Connections now open.
    pub connected: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections refused because there were too many.
    pub rejected: AtomicU64,
    /// Bytes that the buffers of connections hold now.
    pub client_bytes: AtomicU64,
    /// Keys that were drawn at random.
    pub drawn: AtomicU64,
    /// The longest turn of a thread of the server, in microseconds of its processor time.
    pub longest_turn: AtomicU64,
}
