//! Tags: what makes all items with a tag dead in one step, whatever their number.
//!
//! A clock counts invalidations; the table keeps when a tag was last invalidated. An item is dead if one of its tags
//! was invalidated after the clock it carries, or if that clock lies below the floor. Entries older than the start
//! of the last finished sweep speak of items that are gone: they are forgotten. Only an overflow before that raises the floor of the items.

use std::collections::HashMap;

use parking_lot::{RwLock, RwLockReadGuard};

/// Most tags in the table: 24 bytes each, about 2 MiB.
const MOST: usize = 1 << 16;

pub(super) struct Table {
    last: HashMap<u64, u64, ahash::RandomState>,
    clock: u64,
    floor: u64,
    /// By shard: the clock at the start of the last finished sweep.
    swept: Vec<u64>,
    most: usize,
}

/// The tag clock and table of a store; locked after shards, never before.
pub(super) struct Tags(RwLock<Table>);

impl Tags {
    pub(super) fn new(shards: usize, memory: u64, seed: [u64; 4]) -> Tags {
        let most = MOST.min((memory / 1024) as usize).max(16);
        let last = HashMap::with_hasher(ahash::RandomState::with_seeds(
            seed[3], seed[2], seed[1], seed[0],
        ));
        Tags(RwLock::new(Table {
            last,
            clock: 1,
            floor: 0,
            swept: vec![0; shards],
            most,
        }))
    }

    /// Bytes that the table may come to take; set aside from the start.
    pub(super) fn bytes(memory: u64) -> u64 {
        MOST.min((memory / 1024) as usize).max(16) as u64 * 34
    }

    /// Held for one look only; never taken twice by a thread.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read()
    }

    pub(super) fn clock(&self) -> u64 {
        self.read().clock
    }

    /// One step for all of `tags`. When this returns, no item with one of them lives.
    pub(super) fn invalidate(&self, tags: &[u64]) -> u64 {
        let mut table = self.0.write();
        table.clock += 1;
        for &tag in tags {
            let clock = table.clock;
            table.last.insert(tag, clock);
            if table.last.len() > table.most {
                table.shrink();
            }
        }
        table.clock
    }

    pub(super) fn swept(&self, shard: usize, started: u64) {
        self.0.write().swept[shard] = started;
    }
}

impl Table {
    fn shrink(&mut self) {
        let swept = self.swept.iter().copied().min().unwrap_or(0);
        self.last.retain(|_, &mut at| at > swept);
        if self.last.len() > self.most {
            let mut clocks: Vec<u64> = self.last.values().copied().collect();
            let middle = clocks.len() / 2;
            let floor = *clocks.select_nth_unstable(middle).1;
            self.last.retain(|_, &mut at| at > floor);
            self.floor = self.floor.max(floor);
        }
    }

    pub(super) fn dead(&self, tags: &[u64], clock: u64) -> bool {
        !tags.is_empty()
            && (clock < self.floor
                || tags
                    .iter()
                    .any(|tag| self.last.get(tag).is_some_and(|&at| at > clock)))
    }
}
