//! A connection without its socket: bytes in, bytes out. Sockets, stdin, tests and fuzzers all drive this one seam.
//!
//! Rules: replies keep the order of requests; input is taken a whole request at a time, and what is left over comes
//! again with the next call; once a protocol is recognised it never changes; a stream that broke is never read again;
//! while too many replies wait to be taken, no further request is run.
//!
//! A request that waits for a load stays at the front of the input, and nothing behind it is run: else a lease could be
//! granted to a client that cannot hear of it. Clients whose replies carry numbers (tickets of RESP3, JSON) go on: their
//! request is kept here, and its outcome follows.
//!
//! `feed.rs` takes the bytes; `words.rs` reads requests of Redis and memcached ahead (`frame.rs`) and runs them, by
//! `fast_path.rs`, `resp.rs` or `memcached.rs`; `json.rs` does so for JSON. `waiting.rs` has the requests that wait
//! (`ticket.rs`), `pushes.rs` what a client did not ask for just now, `end.rs` what becomes of its leases. What a session
//! knows of its client stands in `connection.rs`, and what sessions of a thread share in `run.rs`.

mod connection;
mod end;
mod fast_path;
mod feed;
mod frame;
mod json;
mod memcached;
mod pushes;
mod resp;
mod run;
mod ticket;
mod waiting;
mod words;

pub use connection::{Flow, Session};
pub use run::{Scratch, TurnEnd};
