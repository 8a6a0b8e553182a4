//! What becomes of leases with time.

use std::cmp::Reverse;

use super::key_lease::{Grant, REMEMBERED};
use super::request::{Because, StepContext};
use super::table::{FEW_LEASES, Leases};
use crate::store::events::Outcome;

/// Waiters that are looked at as fast as one lease.
const WAITERS_PER_LOOK: usize = 16;
/// How often many leases are looked through for the oldest token, in milliseconds; few are each time.
const OLDEST_EVERY: u64 = 1_000;

impl Leases {
    /// Looks at leases that are due: waits end, leases pass on, what is too old is forgotten. `most` is how many may be
    /// looked at, and is lowered. Tokens are drawn from `token`.
    pub(in crate::store) fn tick(&mut self, token: &mut dyn FnMut() -> u64, clock: u64, now: u64, most: &mut usize) {
        while *most > 0 {
            match self.due.peek() {
                Some(Reverse((at, _))) if *at <= now => {}
                _ => return,
            }
            let Some(Reverse((_, hash))) = self.due.pop() else { return };
            let Some(lease) = self.map.get_mut(&hash).filter(|lease| lease.place.scheduled <= now) else { continue };
            lease.place.scheduled = u64::MAX;
            *most = most.saturating_sub(1 + lease.waiters.len() / WAITERS_PER_LOOK);
            self.look(hash, StepContext { token: token(), clock, now });
        }
    }

    /// Looks at a lease that is due.
    pub(super) fn look(&mut self, hash: u64, moment: StepContext) {
        let now = moment.now;
        let Some(lease) = self.map.get_mut(&hash) else { return };
        lease.voided.retain(|voided| voided.deadline > now);
        // Nobody waits for the worker that was asked for: whoever asks next asks anew.
        lease.queued &= !lease.waiters.is_empty();
        let late = lease.holder().filter(|grant| grant.deadline <= now);
        let late = late.map(|grant| if grant.unheld { Because::Released } else { Because::TimedOut });
        lease.grants.retain(|grant| grant.good_until > now);
        if lease.hold_off.as_ref().is_some_and(|hold_off| hold_off.until + REMEMBERED <= now) {
            lease.hold_off = None;
        }
        self.answer(hash, |waiter| (waiter.deadline <= now).then_some(Outcome::Timeout));
        if let Some(because) = late {
            self.pass_on(hash, because, moment);
        } else {
            self.grant_next(hash, moment);
        }
        if !self.drop_if_idle(hash, now)
            && let Some(next) = self.map.get(&hash).map(|lease| lease.next_look(now))
        {
            self.schedule(hash, next);
        }
    }

    /// The tag clock of the oldest token that is good; `clock` if there is none. It may be older than that, but for tables
    /// of many leases no more than a second is looked back.
    pub(in crate::store) fn oldest_clock(&mut self, clock: u64, now: u64) -> u64 {
        if self.map.len() <= FEW_LEASES || now >= self.oldest.1 + OLDEST_EVERY {
            let good = |grant: &&Grant| now < grant.good_until;
            let grants = self.map.values().flat_map(|lease| lease.grants.iter().filter(good));
            self.oldest = (grants.map(|grant| grant.clock).min().unwrap_or(clock), now);
        }
        self.oldest.0
    }
}
