//! Connections without sockets and threads of the system: `socket.rs` does what a test says, and `world.rs` takes the turns.
//!
//! `orders.rs` takes the steps of a client, the server and a load in every order; `turns.rs` has what one turn leaves to the
//! next.

mod orders;
mod socket;
mod turns;
mod world;

pub(crate) use socket::Socket;
pub(crate) use world::options;
