//! Codecs without I/O: bytes to commands, replies to bytes. None knows the store.

pub mod json;
pub mod long_line;
pub mod memcached;
mod next;
pub mod resp;
pub mod sniff;

pub use next::Next;
