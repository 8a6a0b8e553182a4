//! The memcached protocol: classic text and meta commands.
//!
//! A request is a line of words, and for some verbs a block of data whose length the line gives. It is read without
//! allocating: words and block are spans of the input, and reading goes on where it stopped. Whether a block follows
//! is decided as memcached 1.6.45 decides it: a line without a readable length has none, so what follows is read as
//! commands; a line with one that is wrong otherwise has its block skipped, because the client may have taken the block
//! from somebody else and it must never be run as commands. Replies are spelled as memcached 1.6.18 spells them.
//!
//! Flags of meta commands are those of the current protocol document. Of these memcached 1.6.18 lacks E (a number of
//! the client's choice for `c` and `C`), x of `md` and s of `ms`, which are read as later releases read them.
//!
//! Not offered: the binary protocol and UDP; `watch`, `lru`, `slabs` and `cache_memlimit`, which steer what is not here.
//! h and l are taken and not told: a read writes nothing here that would say when an item was last read. E of `mg` is
//! taken and does nothing: the number of a win is the token of a lease, which the client may not choose.
//!
//! A client that has to say who it is says so by a first `set`, which the session takes before it runs anything.
//!
//! `frame.rs` cuts the input into requests, `classic.rs` and `meta.rs` make commands of their words, `arguments.rs` reads keys,
//! numbers and times, and `reply.rs` writes what comes of it.

mod arguments;
mod classic;
mod frame;
mod meta;
mod reply;

pub(crate) use arguments::TOO_LARGE;
pub use arguments::{KeyBuffer, MAX_KEY};
pub use frame::{Block, Call, Reader, Verb, verb};
pub use reply::{Form, encode, encode_error, refuse};
