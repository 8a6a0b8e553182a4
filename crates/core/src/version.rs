//! What the server says that it is.

/// The version of Redis whose commands and replies these are; clients choose features by it.
pub const REDIS_VERSION: &str = "7.4.0";

/// What memcached clients are told: the version whose commands and replies these are.
pub const MEMCACHED_VERSION: &str = "VERSION 1.6.18";

/// The version of this server.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
