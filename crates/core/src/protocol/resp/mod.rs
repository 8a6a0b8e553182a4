//! The Redis protocol: RESP2 and RESP3 replies, requests as arrays of bulk strings or as inline lines.
//!
//! `request.rs` reads arrays, `inline.rs` lines, and `reply.rs` writes.

mod inline;
mod reply;
mod request;

pub(super) use inline::is_http;
pub use reply::{bulk, bulk_shared, encode, header, null};
pub use request::{Reader, whole};
