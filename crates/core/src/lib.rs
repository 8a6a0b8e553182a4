//! The core of globalcache: commands, sessions, protocols and the store, pure of sockets, threads, clocks and
//! randomness. `now` and seeds are arguments.
//!
//! Layers, each of which imports those below it only:
//!
//! - [`session`]: one connection without its socket;
//! - `commands`: what each command does; and, beside it, [`protocol`]: the codecs, which import the vocabulary only;
//! - [`state`]: what connections share;
//! - [`table`]: the commands there are, and how their arguments are read; and, beside it, [`store`]: the items;
//! - [`vocabulary`]: requests and replies as data; and, beside it, the modules without a folder.

mod base64;
pub mod clock;
mod commands;
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
