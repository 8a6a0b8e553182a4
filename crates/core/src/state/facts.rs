//! What does not change while the server runs.

/// Facts that do not change while the server runs.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Port of the first TCP listener, 0 if there is none.
    pub port: u16,
    /// Process id.
    pub pid: u32,
    /// Number of I/O threads.
    pub threads: usize,
    /// Reading of the monotonic clock at the start.
    pub started: u64,
    /// Most connections at a time.
    pub max_clients: u64,
    /// A connection that asked nothing for so many seconds is closed; 0: never.
    pub idle_seconds: u64,
    /// Drawn anew at every start, so that clients see a restart: 40 hexadecimal digits.
    pub run_id: String,
}
