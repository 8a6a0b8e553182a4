//! Hashes of keys and tags.

use std::hash::{BuildHasher, Hasher};

use ahash::RandomState;

use super::types::Key;

/// The hash of a key; its highest bits choose the shard.
#[inline(always)]
pub(super) fn hash(hasher: &RandomState, key: Key<'_>) -> u64 {
    let mut state = hasher.build_hasher();
    state.write(key.bytes);
    state.finish() ^ u64::from(key.db).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What tells the tags of a database from those of others. An item that goes to another database takes its tags along.
pub(super) fn tag_salt(db: u8) -> u64 {
    u64::from(db).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
