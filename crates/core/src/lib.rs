//! The core of globalcache: commands, sessions, protocols and the store, pure of sockets, threads, clocks and
//! randomness. `now` and seeds are arguments.

pub mod store;
