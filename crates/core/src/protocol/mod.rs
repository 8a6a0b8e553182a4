//! Codecs without I/O: bytes to commands, replies to bytes. None knows the store.

pub mod json;
pub mod resp;
pub mod sniff;
