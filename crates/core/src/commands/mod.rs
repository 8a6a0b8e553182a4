//! What each command does: `execute(context, client, command) -> reply`. Commands return replies; they know neither
//! protocol nor connection. Whatever a command does to a key happens in one step under the lock of its shard.

mod acl;
pub(crate) mod cache;
mod client;
mod config;
mod connection;
pub(crate) mod context;
pub(crate) mod execute;
pub(crate) mod gate;
mod info;
mod keys;
mod keyspace;
pub(crate) mod memcached;
mod number;
mod pubsub;
pub(crate) mod read;
mod room;
mod scripts;
mod server;
mod stats;
pub(crate) mod strings;
mod text;
pub(crate) mod transaction;
pub(crate) mod waiting;
