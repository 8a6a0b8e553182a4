//! What each command does: `execute(context, client, command) -> reply`. Commands return replies; they know neither
//! protocol nor connection. Whatever a command does to a key happens in one step under the lock of its shard.

mod acl;
pub mod cache;
mod client;
mod config;
mod connection;
pub mod context;
pub mod execute;
pub mod gate;
mod info;
mod keys;
mod keyspace;
pub mod memcached;
mod number;
mod pubsub;
mod room;
mod scripts;
mod server;
mod stats;
pub(crate) mod strings;
mod text;
pub mod transaction;
pub mod waiting;
