//! Asking for a lease, and waiting for whoever has it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::key_lease::{WAITER_BYTES, Waiter, lease_bytes};
use super::request::{FetchRequest, FetchResult, StepContext};
use super::table::Leases;
use crate::limits::MAX_AGE;
use crate::store::events::{ConnectionId, Outcome, StoreEvent};
use crate::store::types::Key;

/// Who may wait for one key: more than a fleet has requests under way.
const MAX_WAITERS: usize = 1 << 16;
/// Part of the bound beyond which workers are asked for no key that nobody waits for, as a divisor.
const UNAWAITED_PART: usize = 2;

impl Leases {
    /// Asks for the lease of a key that has no value, or waits for whoever has it.
    pub(in crate::store) fn fetch(
        &mut self,
        hash: u64,
        key: Key<'_>,
        request: &FetchRequest,
        moment: StepContext,
    ) -> FetchResult<'static> {
        self.drop_flushed(hash);
        let waits = request.deadline.is_some_and(|deadline| deadline > moment.now);
        let charged = self.get(hash, key).is_some_and(|lease| lease.place.charged.is_some());
        let has_share =
            self.has_share(request.connection, WAITER_BYTES + if charged { 0 } else { lease_bytes(key.bytes) });
        if !self.map.contains_key(&hash) {
            if request.lease.is_none() && !request.served {
                return FetchResult::Nothing;
            }
            let unawaited = !waits && self.taken() > self.most_of_loads() / UNAWAITED_PART;
            let refused = if request.served { unawaited || waits && !has_share } else { !has_share };
            if refused || !self.make_room(key) {
                return FetchResult::Full;
            }
            self.insert(hash, key);
        }
        let full = self.taken() > self.most_of_loads() || !has_share;
        let answer = self.fetch_among(hash, key, request, full, moment);
        self.drop_if_idle(hash, moment.now);
        answer
    }

    /// As [`fetch`](Leases::fetch), of a key for which there is a lease; `full` if the connection may take no more memory.
    fn fetch_among(
        &mut self,
        hash: u64,
        key: Key<'_>,
        request: &FetchRequest,
        full: bool,
        moment: StepContext,
    ) -> FetchResult<'static> {
        let now = moment.now;
        let Some(lease) = self.get_mut(hash, key) else { return FetchResult::Full };
        if let Some(hold_off) = lease.held_off(now) {
            return FetchResult::Failed(Arc::clone(&hold_off.message));
        }
        // Also while an application loads it: if that gives up, a worker is to be asked for those who do not load.
        lease.served |= request.served;
        if lease.may_grant(now) {
            if request.served {
                if !full {
                    self.charge(hash, request.connection);
                    self.want(hash, now);
                }
            } else if let Some(length) = request.lease {
                if full {
                    return FetchResult::Full;
                }
                self.charge(hash, request.connection);
                self.grant(hash, request.bound.then_some(request.connection), length, false, moment);
                return FetchResult::Lease(moment.token);
            } else if !lease.queued {
                return FetchResult::Nothing;
            }
        }
        let Some(deadline) = request.deadline.filter(|deadline| *deadline > now) else { return FetchResult::Busy };
        self.wait(hash, request, deadline, full, moment.clock)
    }

    /// Puts a connection into the queue of those who wait.
    pub(super) fn wait(
        &mut self,
        hash: u64,
        request: &FetchRequest,
        deadline: u64,
        full: bool,
        clock: u64,
    ) -> FetchResult<'static> {
        let Some(lease) = self.map.get_mut(&hash) else { return FetchResult::Full };
        if full || lease.waiters.len() >= MAX_WAITERS {
            return FetchResult::Full;
        }
        let FetchRequest { connection, wait, lease: length, bound, .. } = *request;
        let voids = lease.voids;
        if lease.waiters.capacity() == 0 {
            // Most keys are waited for by one.
            lease.waiters.reserve_exact(1);
        }
        let length = length.map(|length| length.min(MAX_AGE) as u32);
        lease.waiters.push_back(Waiter { connection, wait, deadline, lease: length, bound, voids, clock });
        let charged = lease.place.charged.is_some();
        self.waiters += 1;
        self.shares.take(connection, WAITER_BYTES);
        if !charged {
            self.charge(hash, connection);
        }
        self.schedule(hash, deadline);
        FetchResult::Waits
    }

    /// As [`fetch`](Leases::fetch), for a key whose value is to be loaded anew while it is served: nobody waits. The token,
    /// if the caller got it.
    pub(in crate::store) fn refresh(
        &mut self,
        hash: u64,
        key: Key<'_>,
        request: &FetchRequest,
        moment: StepContext,
    ) -> Option<u64> {
        let alone = FetchRequest { deadline: None, ..*request };
        match self.fetch(hash, key, &alone, moment) {
            FetchResult::Lease(token) => Some(token),
            _ => None,
        }
    }

    /// Whether anybody waits for the key.
    pub(in crate::store) fn has_waiters(&self, hash: u64) -> bool {
        self.map.get(&hash).is_some_and(|lease| !lease.waiters.is_empty())
    }

    /// Tells those who wait; who is told nothing goes on waiting.
    pub(super) fn answer(&mut self, hash: u64, mut outcome: impl FnMut(&Waiter) -> Option<Outcome>) {
        self.retain_waiters(hash, |waiter, events| {
            let outcome = outcome(waiter);
            let stays = outcome.is_none();
            events.extend(outcome.map(|outcome| StoreEvent::Outcome(waiter.connection, waiter.wait, outcome)));
            stays
        });
    }

    /// Keeps the waiters that `stays` keeps; how many are gone. With the last of them the worker is not wanted any more,
    /// and the memory of a crowd is given back.
    pub(super) fn retain_waiters(
        &mut self,
        hash: u64,
        mut stays: impl FnMut(&Waiter, &mut Vec<StoreEvent>) -> bool,
    ) -> usize {
        let Some(lease) = self.map.get_mut(&hash) else { return 0 };
        let before = lease.waiters.len();
        let (events, shares) = (&mut self.events, &mut self.shares);
        lease.waiters.retain(|waiter| {
            let stays = stays(waiter, events);
            if !stays {
                shares.give_back(waiter.connection, WAITER_BYTES);
            }
            stays
        });
        let gone = before - lease.waiters.len();
        if gone > 0 && lease.waiters.is_empty() {
            (lease.queued, lease.waiters) = (false, VecDeque::new());
        }
        self.waiters -= gone;
        gone
    }

    /// Somebody leaves the queue. Whether it stood there.
    pub(in crate::store) fn leave(
        &mut self,
        hash: u64,
        key: Key<'_>,
        connection: ConnectionId,
        wait: u64,
        now: u64,
    ) -> bool {
        if self.get(hash, key).is_none() {
            return false;
        }
        let left = self.retain_waiters(hash, |waiter, _| waiter.connection != connection || waiter.wait != wait);
        self.drop_if_idle(hash, now);
        left > 0
    }

    /// A connection waits for the key no more, under none of its numbers. A lease that it holds stays its own.
    pub(in crate::store) fn leave_all(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId, now: u64) {
        if self.get(hash, key).is_some() {
            self.retain_waiters(hash, |waiter, _| waiter.connection != connection);
            self.drop_if_idle(hash, now);
        }
    }
}
