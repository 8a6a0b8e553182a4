//! What connections share beside the store: who is connected, who waits, loads, listens, keeps copies and may do what.

pub mod batch;
pub mod client;
pub mod client_sessions;
pub mod clients;
pub mod control;
pub mod counters;
pub mod engine;
mod events;
pub mod facts;
pub mod key_list;
pub mod loaders;
pub mod mailbox;
pub mod pubsub;
pub mod queue;
pub mod tracking;
pub mod users;
pub mod waits;
