//! The core of globalcache: commands, sessions, protocols and the store, pure of sockets, threads, clocks and
//! randomness. `now` and seeds are arguments.
//!
//! Its layers, each of which knows those below it only: [`session`]; [`commands`]; [`state`]; [`table`] and [`store`];
//! [`vocabulary`]. [`protocol`] knows the vocabulary, and only sessions know it.

pub mod clock;
pub mod commands;
pub mod glob;
mod json_value;
pub mod limits;
pub mod output;
pub mod protocol;
pub mod session;
pub mod state;
pub mod store;
pub mod table;
pub mod version;
pub mod vocabulary;
