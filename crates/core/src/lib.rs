//! The core of globalcache: commands, sessions, protocols and the store, pure of sockets, threads, clocks and
//! randomness. `now` and seeds are arguments.

pub mod cache;
pub mod clients;
pub mod command;
pub mod engine;
pub mod execute;
pub mod fence;
mod gate;
pub mod glob;
mod items;
mod json_value;
pub mod key_list;
pub mod loaders;
pub mod mailbox;
mod number;
pub mod output;
pub mod protocol;
pub mod pubsub;
pub mod session;
mod stats;
pub mod store;
pub mod tracking;
pub mod transaction;
pub mod users;
pub mod waiting;
