//! Keys that wait for a worker of one pattern.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

/// What a queued key takes beside its bytes: a place in the queue, one or two in the table of what is queued, and the
/// counters of the shared bytes.
const QUEUED_BYTES: usize = 3 * size_of::<Wanted>() + 2 * size_of::<usize>();
/// Keys for which an empty queue keeps its memory.
const KEPT: usize = 16;
/// Keys that one step puts into queues, takes out of them, or looks at there: about a millisecond.
pub(super) const STEP: usize = 1 << 10;

pub(super) type Wanted = (u8, Arc<[u8]>);

/// What waits for a worker of one pattern, each key once, and the bytes that this takes.
#[derive(Default)]
pub(super) struct Queue {
    /// Those that were found to be wanted still while the queue is searched, and those behind them.
    pub(super) checked: VecDeque<Wanted>,
    pub(super) keys: VecDeque<Wanted>,
    /// The last of them were taken to be checked: what comes behind is for the next search.
    pub(super) searched: bool,
    /// All of them: a key that is given up and wanted again before its turn keeps its place.
    pub(super) known: HashSet<Wanted>,
    pub(super) bytes: usize,
}

impl Queue {
    pub(super) fn cost((_, key): &Wanted) -> usize {
        QUEUED_BYTES + key.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    pub(super) fn push(&mut self, wanted: Wanted) {
        if self.count_in(&wanted) {
            self.keys.push_back(wanted);
        }
    }

    /// Counts a key as queued; whether it was not.
    pub(super) fn count_in(&mut self, wanted: &Wanted) -> bool {
        let new = self.known.insert(wanted.clone());
        self.bytes += if new { Queue::cost(wanted) } else { 0 };
        new
    }

    /// A key was taken out.
    pub(super) fn count_out(&mut self, wanted: &Wanted) {
        self.known.remove(wanted);
        self.bytes -= Queue::cost(wanted);
        if self.is_empty() && self.known.capacity() > KEPT {
            self.take();
        }
    }

    pub(super) fn pop(&mut self) -> Option<Wanted> {
        let wanted = self.checked.pop_front().or_else(|| self.keys.pop_front())?;
        self.count_out(&wanted);
        Some(wanted)
    }

    pub(super) fn take(&mut self) -> VecDeque<Wanted> {
        let Queue { mut checked, mut keys, .. } = std::mem::take(self);
        checked.append(&mut keys);
        checked
    }

    /// Takes some that were not checked; none if all of them were, and then the next search begins with the first.
    pub(super) fn unchecked(&mut self) -> Vec<Wanted> {
        if std::mem::take(&mut self.searched) || self.keys.is_empty() {
            self.checked.append(&mut self.keys);
            std::mem::swap(&mut self.checked, &mut self.keys);
            return Vec::new();
        }
        let some: Vec<Wanted> = self.keys.drain(..self.keys.len().min(STEP)).collect();
        some.iter().for_each(|wanted| self.count_out(wanted));
        self.searched = self.keys.is_empty();
        some
    }

    /// Puts back what is wanted still, unless it was queued anew meanwhile.
    pub(super) fn keep(&mut self, some: Vec<Wanted>) {
        for wanted in some {
            if self.count_in(&wanted) {
                self.checked.push_back(wanted);
            }
        }
    }
}
