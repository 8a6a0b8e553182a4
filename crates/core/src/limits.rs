//! Bounds on what one client may ask, and on what one key, item or lease may be.

/// Limits on what one client may ask; each is on by default.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Arguments of one request: what Redis allows.
    pub max_args: usize,
    /// Bytes of one value.
    pub max_value: usize,
    /// Bytes of one request: room for many values at once, yet far from what would hurt the machine.
    pub max_request: usize,
    /// Bytes of a reply that is built whole, and of messages for a connection that its thread has not taken yet: no more
    /// than all connections may make the server hold.
    pub max_reply: usize,
    /// Longest argument that is read and dropped although it is longer than a value may be, so that the client gets an
    /// error and goes on; a longer one closes the connection.
    pub max_skipped: usize,
    /// Bytes of replies not yet taken by the client, after which its requests are left unread.
    pub pause_output: usize,
    /// How long a read waits for a load, and a load may renew its lease, in milliseconds.
    pub load_limit: u64,
    /// Whether a client may stop the server.
    pub shutdown: bool,
    /// Whether a client may let the clock run ahead, so that tests of expiry need not wait.
    pub debug_time: bool,
}

impl Limits {
    /// What is enough to say who one is, and not enough to hurt.
    pub fn pre_auth(&self) -> Limits {
        Limits {
            max_args: 10,
            max_value: self.max_value.min(16 << 10),
            max_request: 64 << 10,
            max_skipped: 0,
            pause_output: self.pause_output.min(64 << 10),
            ..self.clone()
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            max_args: 1024 * 1024,
            max_value: 16 << 20,
            max_request: 256 << 20,
            max_reply: 256 << 20,
            max_skipped: 256 << 20,
            pause_output: 1 << 20,
            load_limit: 30_000,
            shutdown: false,
            debug_time: false,
        }
    }
}

/// How long a lease lasts unless the caller says otherwise, in milliseconds.
pub const LEASE: u64 = 3_000;

/// Longest time of an option, in milliseconds: beyond it sums of times could pass 63 bits.
pub const MAX_MILLIS: i64 = 1 << 50;

/// Longest name of a session.
pub const MAX_SESSION: usize = 64;

/// Loads that a worker takes at a time unless it says otherwise, and at most.
pub const INFLIGHT: (u64, u64) = (256, 1 << 16);

/// Patterns that loader workers may serve: far more than an application has.
pub const MAX_PATTERNS: usize = 1024;

/// Longest pattern in bytes, of keys, channels, loaders and users.
pub const MAX_PATTERN: usize = 1024;

/// Longest name of a channel, in bytes.
pub const MAX_CHANNEL: usize = 1024;

/// Databases of a store.
pub const DATABASES: usize = 16;

/// Most tags of an item: sixteen, and one for the namespace that clients put it in.
pub const MAX_TAGS: usize = 17;

/// How long a token is good after its grant and after each renewal, in milliseconds, if nothing voids it; and the longest
/// lease.
pub const MAX_AGE: u64 = 60_000;
