//! Commands on many keys, and what they do when memory is full and nothing may be evicted.

mod full;
#[path = "../random/mod.rs"]
mod random;
mod talk;
mod transactions;
mod turns;
