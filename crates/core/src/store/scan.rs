//! How all items are visited, a bounded number at a time: what is there from beginning to end is visited at least once.

use super::locked::Locked;
use super::sharded::Store;
use super::types::Item;

/// Bits of a cursor that tell the place within a shard.
const SHARD_SHIFT: u32 = 56;
/// Items that a scan passes at most in one call for each that it is asked for.
pub const SCAN_MOST: usize = 16;
/// Items that a scan passes at most in one call, whatever it is asked for: a few milliseconds.
const MOST_LOOKED_AT: usize = 16_384;

impl Store {
    /// Visits live items of a database, about `count` of them, from `cursor` on (0 to begin); returns the cursor to
    /// go on with, 0 when all was seen. What is there from beginning to end is visited at least once.
    pub fn scan(&self, db: u8, cursor: u64, count: usize, now: u64, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        scan(cursor, count, visit, |number, from, visit| {
            let mut shard = self.shards.get(number)?.lock();
            shard.advance(now);
            Some(shard.scan(db, from, count, &self.tags.step(), visit))
        })
    }

    /// A cursor for [`scan`](Store::scan) somewhere among the items, by a number drawn at random.
    pub fn cursor_at(&self, random: u64) -> u64 {
        let shard = self.shard_of(random);
        scan_cursor(shard, self.shards[shard].lock().scan_place(random))
    }
}

impl Locked<'_> {
    /// As [`Store::scan`], with every shard locked.
    pub fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        scan(cursor, count, visit, |number, from, visit| {
            let shard = self.guards.get_mut(number)?.as_mut()?;
            shard.advance(self.now);
            Some(shard.scan(db, from, count, &self.tags, visit))
        })
    }

    /// As [`Store::cursor_at`], with every shard locked.
    pub fn cursor_at(&self, random: u64) -> u64 {
        scan_cursor(self.store.shard_of(random), self.shard(random).scan_place(random))
    }
}

fn scan_cursor(shard: usize, from: u64) -> u64 {
    (shard as u64) << SHARD_SHIFT | from
}

/// Goes through shards: `step` scans one from a place on and returns the next place in it, or None when there is no such
/// shard. Items of other databases are passed over, within bounds.
fn scan(
    cursor: u64,
    count: usize,
    visit: &mut dyn FnMut(&[u8], &Item<'_>),
    mut step: impl FnMut(usize, u64, &mut dyn FnMut(&[u8], &Item<'_>)) -> Option<Option<u64>>,
) -> u64 {
    let mut number = (cursor >> SHARD_SHIFT) as usize;
    let mut from = cursor & ((1 << SHARD_SHIFT) - 1);
    let (mut seen, mut looked_at) = (0, 0);
    while let Some(next) = step(number, from, &mut |key, item| {
        seen += 1;
        visit(key, item);
    }) {
        looked_at += count;
        (number, from) = next.map_or((number + 1, 0), |next| (number, next));
        if seen >= count || looked_at >= (SCAN_MOST * count).min(MOST_LOOKED_AT) {
            return scan_cursor(number, from);
        }
    }
    0
}
