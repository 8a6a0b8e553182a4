//! Workers, what waits for them, and what they were sent.

use std::collections::{HashMap, VecDeque};

use super::queue::{Queue, Wanted};
use crate::store::{ConnectionId, Hold};

/// How often full queues are searched for keys that are not wanted any more, in milliseconds.
const PRUNE_EVERY: u64 = 1_000;

pub(super) struct Worker {
    pub(super) connection: ConnectionId,
    pub(super) patterns: Vec<usize>,
    /// Loads that it takes at a time.
    pub(super) credit: usize,
    /// Loads that it was sent and may still answer, and those that are being sent.
    pub(super) busy: usize,
}

/// What one look at the queues finds to be done.
#[derive(Default)]
pub(super) struct Turn {
    /// What to send to whom.
    pub(super) sent: Vec<(Wanted, ConnectionId)>,
    /// New loads that nobody is there for.
    pub(super) alone: Vec<Wanted>,
    /// New loads for which no queue has room.
    pub(super) refused: Vec<Wanted>,
    /// Those that no pattern covers any more.
    pub(super) unserved: Vec<Wanted>,
    /// Queues are searched for keys that are not wanted any more.
    pub(super) searching: bool,
    /// There is more to be done.
    pub(super) more: bool,
}

#[derive(Default)]
pub(super) struct Work {
    pub(super) workers: Vec<Worker>,
    /// What waits for a worker, for each pattern.
    pub(super) queues: Vec<Queue>,
    /// The queue that is searched for keys that are not wanted any more, and when full queues may be searched again.
    pub(super) pruned: Option<usize>,
    pub(super) prune_at: u64,
    /// How often a queue was taken away as a whole.
    pub(super) taken: u64,
    /// Whose turn it is.
    pub(super) next: usize,
    /// What workers were sent: to whom, and until when it may answer.
    pub(super) loads: HashMap<Hold, (ConnectionId, u64)>,
    /// When loads whose time is over are looked for.
    pub(super) expire_at: u64,
}

impl Work {
    pub(super) fn give_back(&mut self, connection: ConnectionId) {
        if let Some(worker) = self.workers.iter_mut().find(|worker| worker.connection == connection) {
            worker.busy = worker.busy.saturating_sub(1);
        }
    }

    pub(super) fn is_waited_for(&self) -> bool {
        self.queues.iter().any(|queue| !queue.is_empty())
    }

    pub(super) fn take_queue(&mut self, number: usize) -> VecDeque<Wanted> {
        self.taken += 1;
        self.queues.get_mut(number).map(Queue::take).unwrap_or_default()
    }

    /// The queue that is searched now, with some of its keys; `begin` if a search is to begin, unless there was one a while
    /// ago that is too short.
    pub(super) fn unchecked(&mut self, begin: bool, now: u64) -> Option<(usize, Vec<Wanted>)> {
        if begin && self.pruned.is_none() && now >= self.prune_at {
            (self.pruned, self.prune_at) = (Some(0), now + PRUNE_EVERY);
        }
        let first = self.pruned.take()?;
        for (number, queue) in self.queues.iter_mut().enumerate().skip(first) {
            let some = queue.unchecked();
            if !some.is_empty() {
                self.pruned = Some(number);
                return Some((number, some));
            }
        }
        None
    }
}
