//! Upkeep of the store: what expired or was invalidated goes, what was flushed is given back, leases end, in bounded steps.

use std::sync::atomic::Ordering;

use super::shard::Shard;
use super::sharded::{NOBODY, Store};
use super::sweep::SweepRound;
use super::types::Step;

/// Parts of a tick, between which a thread that has other work as well does it.
pub const TICK_PARTS: usize = 8;
/// Steps of the sweep in one tick; the lock of a shard is released between them.
const SWEEPS: usize = 128;
/// Bytes of what was flushed that are given back in one tick.
const SHED: usize = 16 << 20;
/// Items that one step of the sweep looks at: requests of other threads wait for it.
const SWEEP: usize = 128;
/// Leases that are looked at in one tick.
const LOOKS: usize = 2048;

impl Store {
    /// Ends waits and leases whose time is over, a bounded number of them; to be called every few milliseconds while there
    /// are any. Whether there are.
    pub fn tick_leases(&self, now: u64) -> bool {
        let (mut any, mut most) = (false, LOOKS);
        let first = self.next_tick.load(Ordering::Relaxed);
        for number in (0..self.shards.len()).map(|step| (first + step) % self.shards.len()) {
            let mut shard = self.shards[number].lock();
            if shard.leases.is_empty() {
                continue;
            }
            any = true;
            shard.advance(now);
            let tags = self.tags.step();
            shard.tick_leases(&tags, &mut most);
            self.deliver_events(&mut shard, &tags, NOBODY);
            if most == 0 {
                // The next call goes on here, so that one shard does not delay the others for ever.
                self.next_tick.store((number + 1) % self.shards.len(), Ordering::Relaxed);
                break;
            }
        }
        any
    }

    /// A bounded step of upkeep, to be called some twenty times in a second: what has expired or was invalidated goes.
    pub fn tick(&self, now: u64) {
        for _ in 0..TICK_PARTS {
            if self.tick_part(now) {
                return;
            }
        }
    }

    /// One of [`TICK_PARTS`] parts of a step of upkeep, which takes a millisecond or two of processor time at most; whether
    /// the others have nothing to do.
    pub fn tick_part(&self, now: u64) -> bool {
        let more = self.shed(SHED / TICK_PARTS);
        self.level_budgets();
        let left = self.shards.iter().filter(|shard| shard.lock().drop_left()).count() > 0;
        self.sweep(SWEEPS / TICK_PARTS, SWEEP, now) && !more && !left
    }

    /// Gives back so many bytes of what was flushed, or somewhat more, in pieces of a segment; whether there may be more.
    pub fn shed(&self, most: usize) -> bool {
        let mut left = most;
        while left > 0 {
            let before = left;
            for shard in &self.shards {
                left = left.saturating_sub(shard.lock().flushed.shed());
                if left == 0 {
                    return true;
                }
            }
            if left == before {
                return false;
            }
        }
        true
    }

    /// Without eviction a shard may hold more than its share of the memory, since items came to it by new names: what it needs
    /// no more goes back to those that have less.
    fn level_budgets(&self) {
        let share = self.share();
        if self.options.evict || self.shards.iter().all(|shard| shard.lock().surplus(share) == 0) {
            return;
        }
        let mut all = self.lock(u64::MAX, Step::default());
        let mut shards: Vec<&mut Shard> = all.guards.iter_mut().flatten().map(|guard| &mut **guard).collect();
        let mut returned: usize = shards.iter_mut().map(|shard| shard.return_surplus(share)).sum();
        for shard in shards {
            let more = share.saturating_sub(shard.budget).min(returned);
            shard.budget += more;
            returned -= more;
        }
        debug_assert_eq!(returned, 0, "the budgets of all shards are the whole");
    }

    /// So many steps of the sweep, each of which looks at so many items of one shard; whether they ended a round.
    #[doc(hidden)]
    pub fn sweep(&self, steps: usize, items: usize, now: u64) -> bool {
        let mut sweep = self.sweep.lock();
        for _ in 0..steps {
            if sweep.shard == 0 && !sweep.begun {
                (sweep.begun, sweep.clock, sweep.oldest) = (true, self.tags.clock(), u64::MAX);
            }
            let mut shard = self.shards[sweep.shard].lock();
            let now = shard.advance(now);
            let tags = self.tags.step();
            let round = shard.sweep(items, &tags, sweep.thorough, now);
            if shard.leases.has_pending() {
                self.deliver_events(&mut shard, &tags, NOBODY);
            }
            if !round {
                continue;
            }
            // What is granted from now on is granted after everything that this round can have made forgettable.
            sweep.oldest = sweep.oldest.min(shard.leases.oldest_clock(tags.clock(), now));
            drop((tags, shard));
            sweep.shard = (sweep.shard + 1) % self.shards.len();
            if sweep.shard == 0 {
                sweep.begun = false;
                self.end_round(&mut sweep);
                return true;
            }
        }
        false
    }

    /// Forgets the invalidations that nothing depends on any more.
    fn end_round(&self, sweep: &mut SweepRound) {
        if self.tags.any() {
            // Only a round that looked at every item has dropped all that is dead by its tags.
            if sweep.thorough {
                self.tags.swept(sweep.clock);
            }
            self.tags.forget(sweep.oldest);
        }
        sweep.thorough = self.tags.any_unswept();
    }
}
