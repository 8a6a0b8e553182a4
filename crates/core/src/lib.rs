//! The core of globalcache: commands, sessions, protocols and the store, pure of sockets, threads, clocks and
//! randomness. `now` and seeds are arguments.

pub mod command;
pub mod engine;
pub mod execute;
mod gate;
mod items;
mod json_value;
pub mod output;
pub mod protocol;
pub mod session;
mod stats;
pub mod store;
