//! What a shard knows of what it evicts: which policy suits, which keys it remembers, and which segment is being taken apart.
//!
//! New items go to the small queue, or to the main queue if their key is remembered as a ghost. How large the small queue is,
//! or that recency decides instead, is the policy that did best lately (`policy_selector.rs`).

use super::ghosts::Ghosts;
use super::policy_selector::PolicySelector;
use super::segment::Queue;

/// Fewest keys that ghosts remember.
const MIN_GHOSTS: usize = 1024;

/// A segment that is being taken apart. It is neither open nor queued, so only reclaiming it releases it.
#[derive(Clone, Copy)]
pub(super) struct Victim {
    pub(super) segment: usize,
    pub(super) why: Why,
}

/// Why a segment is taken apart.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It is sparse: everything that lives is copied on.
    Sparse,
    /// It is the oldest of its queue.
    Oldest,
}

/// The state of eviction in a shard.
pub(super) struct Eviction {
    pub(super) ghosts: Ghosts,
    pub(super) selector: PolicySelector,
    pub(super) victim: Option<Victim>,
    /// Something had to go: no new item finds room without that any more.
    pub(super) full: bool,
}

impl Eviction {
    /// Of an empty shard of so many bytes.
    pub(super) fn new(budget: usize) -> Eviction {
        Eviction { ghosts: Ghosts::default(), selector: PolicySelector::new(budget), victim: None, full: false }
    }

    /// Bytes that it takes.
    pub(super) fn bytes(&self) -> usize {
        self.ghosts.bytes() + self.selector.bytes()
    }

    /// Ghosts remember about as many keys as there are items; the table grows with them, and forgets when it does.
    pub(super) fn remember(&mut self, hash: u64, items: u64) {
        let wanted = (items as usize).max(MIN_GHOSTS);
        let capacity = self.ghosts.capacity();
        if capacity < wanted * 3 / 4 || capacity > wanted * 4 {
            self.ghosts = Ghosts::new(wanted);
        }
        self.ghosts.insert(hash);
    }

    /// Where a new item goes that no ghost speaks for. While nothing had to go yet, what the small queue has no share
    /// for fills the main queue: a loop, or the popular keys, are there from the start.
    pub(super) fn queue_for_new(&self, queue_bytes: [usize; 2]) -> Queue {
        let policy = self.selector.policy();
        let total = queue_bytes[0] + queue_bytes[1];
        let filled = !self.full && queue_bytes[0] * 100 > total * policy.small;
        if policy.is_recency() || filled { Queue::Main } else { Queue::Small }
    }
}
