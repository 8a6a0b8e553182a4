//! Leases between connections: several sessions over one engine, with messages delivered as a server would.
//!
//! Each test is one of the interleavings that a naive cache gets wrong.

mod fills;
mod holders;
mod room;
mod sessions;
mod transactions;
mod waits;
mod workers;
#[path = "../world/mod.rs"]
mod world;
