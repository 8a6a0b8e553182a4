//! What was flushed and still takes memory: given back piece by piece, since all at once takes too long.

use super::eviction::Eviction;
use super::index::Index;
use super::large_values::LargeValues;
use super::log::Log;
use super::tracked::Tracked;

/// What was flushed and is no larger is given back at once.
const LEAST_REST: usize = 64 << 10;

/// What is left of a shard that was flushed.
pub(super) struct Remains {
    pub(super) log: Log,
    pub(super) large: LargeValues,
    pub(super) index: Index,
    pub(super) eviction: Eviction,
    /// The table of the index that is given back next.
    pub(super) shrink_at: usize,
}

/// All that is to be given back.
#[derive(Default)]
pub(super) struct Flushed {
    pub(super) remains: Vec<Remains>,
    /// Tables of keys that were registered, which are given back in steps, too.
    pub(super) tables: Vec<Tracked>,
    /// Bytes of both.
    pub(super) bytes: usize,
}

impl Remains {
    /// Bytes that can be given back in pieces.
    pub(super) fn rest(&self) -> usize {
        self.log.bytes + self.large.bytes + self.index.held()
    }

    /// Bytes that are given back with the last piece.
    pub(super) fn aside(&self) -> usize {
        self.eviction.bytes()
    }

    /// Gives back a segment, or a value beside the log, or else a table of the index.
    fn shed(&mut self) {
        if !self.log.shed() && !self.large.shed() {
            self.index.shed_table(&mut self.shrink_at);
        }
    }
}

impl Flushed {
    /// What is left of a shard is not used any more.
    pub(super) fn add_remains(&mut self, remains: Remains) {
        let rest = remains.rest();
        if rest > LEAST_REST {
            self.bytes += rest + remains.aside();
            self.remains.push(remains);
        }
    }

    /// A table of registered keys is not used any more.
    pub(super) fn add_table(&mut self, table: Tracked) {
        if table.len() > 0 {
            self.bytes += table.bytes();
            self.tables.push(table);
        }
    }

    /// Gives back a piece of what was flushed; how many bytes, 0 when nothing is left.
    pub(super) fn shed(&mut self) -> usize {
        if let Some(table) = self.tables.last_mut() {
            let before = table.bytes();
            let given = if table.shed() { before - table.bytes() } else { before };
            self.bytes -= given;
            if given == before {
                self.tables.pop();
            }
            return given;
        }
        let Some(old) = self.remains.last_mut() else { return 0 };
        let before = old.rest();
        old.shed();
        let after = old.rest();
        self.bytes -= before - after;
        if after == 0 {
            self.bytes -= old.aside();
            self.remains.pop();
        }
        before - after
    }
}
