//! How waits for the memory of several keys overlap instead of following each other.

use super::entry::Entry;
use super::index::Slot;
use super::locked::Locked;
use super::sharded::Store;
use super::types::Key;

/// Keys whose memory is fetched ahead of their use at a time.
pub const AHEAD: usize = 16;
/// How many keys of a read of many lie between two stages of fetching.
const STAGE: usize = 8;

impl Store {
    /// Has the processor fetch the index buckets, then the items, of keys that are about to be used: their waits
    /// for memory overlap instead of following each other.
    #[inline]
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = Key<'k>>) {
        fetch_ahead(
            keys.map(|key| self.hash(key)),
            |hash| self.shards[self.shard_of(hash)].lock().fetch_bucket(hash),
            |hash| _ = self.shards[self.shard_of(hash)].lock().fetch_item(hash),
        );
    }
}

impl Locked<'_> {
    /// What a look touches lies in three places, each found by the one before it: table, bucket and item. Each is
    /// fetched a few keys before it is looked at, so that no key waits for memory alone.
    #[inline(always)]
    pub(super) fn each_hashed<'k>(
        &mut self,
        mut keys: impl Iterator<Item = Key<'k>>,
        hashes: &[u64],
        mut visit: impl FnMut(&mut Entry<'_>) -> bool,
    ) {
        let part = |number: usize| hashes.chunks(STAGE).nth(number).unwrap_or_default();
        let mut slots = [Slot::default(); STAGE];
        for number in 0..hashes.len().div_ceil(STAGE) + 3 {
            for &hash in part(number) {
                self.shard(hash).fetch_table(hash);
            }
            for &hash in part(number.wrapping_sub(1)) {
                self.shard(hash).fetch_bucket(hash);
            }
            for (&hash, slot) in part(number.wrapping_sub(3)).iter().zip(slots) {
                let Some(key) = keys.next() else { return };
                if !visit(&mut self.entry_at(key, hash, Some(slot))) {
                    return;
                }
            }
            for (&hash, slot) in part(number.wrapping_sub(2)).iter().zip(&mut slots) {
                *slot = self.shard(hash).fetch_item(hash);
            }
        }
    }

    /// As [`Store::prefetch`], of keys whose shards are locked.
    #[inline]
    pub fn prefetch<'k>(&self, keys: impl Iterator<Item = Key<'k>>) {
        fetch_ahead(
            keys.map(|key| self.store.hash(key)),
            |hash| self.shard(hash).fetch_bucket(hash),
            |hash| _ = self.shard(hash).fetch_item(hash),
        );
    }
}

/// Fetches the buckets of some hashes, then their items, and so on until all had their turn.
#[inline]
fn fetch_ahead(mut hashes: impl Iterator<Item = u64>, bucket: impl Fn(u64), item: impl Fn(u64)) {
    let mut some = [0; AHEAD];
    loop {
        let mut count = 0;
        for (place, hash) in some.iter_mut().zip(&mut hashes) {
            *place = hash;
            bucket(hash);
            count += 1;
        }
        some[..count].iter().for_each(|&hash| item(hash));
        if count < AHEAD {
            return;
        }
    }
}
