//! Who is granted a lease, and to whom it passes on.

use std::sync::Arc;

use super::holds::Hold;
use super::key_lease::{Grant, HOLD_OFF, MAX_FAILURES, MAX_GRANTS, WAITER_BYTES, Waiter, reserve_one};
use super::request::{Because, StepContext};
use super::table::Leases;
use crate::limits::MAX_AGE;
use crate::store::events::{ConnectionId, Granted, Outcome, StoreEvent};
use crate::store::types::Key;

impl Leases {
    pub(super) fn grant(
        &mut self,
        hash: u64,
        holder: Option<ConnectionId>,
        length: u64,
        assigned: bool,
        moment: StepContext,
    ) {
        let StepContext { token, clock, now } = moment;
        let Some(lease) = self.map.get_mut(&hash) else { return };
        let deadline = now + length.min(MAX_AGE);
        if lease.grants.len() == MAX_GRANTS {
            lease.grants.remove(0);
        }
        let good_until = now + MAX_AGE;
        self.list_bytes += reserve_one(&mut lease.grants);
        lease.grants.push(Grant {
            token,
            clock,
            holder,
            granted_at: now,
            deadline,
            good_until,
            assigned,
            unheld: false,
        });
        (lease.held, lease.queued) = (true, false);
        self.holders.recount(lease);
        self.schedule(hash, deadline);
    }

    /// Asks for a worker, once.
    pub(super) fn want(&mut self, hash: u64, now: u64) {
        if let Some(lease) = self.map.get_mut(&hash)
            && !lease.queued
        {
            lease.queued = true;
            self.events.push(StoreEvent::Wanted(lease.db, Arc::clone(&lease.key)));
            self.schedule(hash, now + MAX_AGE);
        }
    }

    /// Gives the lease that a worker was asked for to `worker`; whether one is still wanted.
    pub(in crate::store) fn assign(
        &mut self,
        hash: u64,
        key: Key<'_>,
        worker: ConnectionId,
        length: u64,
        moment: StepContext,
    ) -> bool {
        let wanted = self.get(hash, key).is_some_and(|lease| lease.queued && lease.may_grant(moment.now));
        if wanted {
            self.grant(hash, Some(worker), length, true, moment);
        } else {
            self.unqueue(hash, key, moment.now);
        }
        wanted
    }

    /// No worker is there: somebody who waits and can load gets the lease.
    pub(in crate::store) fn fall_back(&mut self, hash: u64, key: Key<'_>, moment: StepContext) {
        if self.get(hash, key).is_some_and(|lease| lease.queued && lease.may_grant(moment.now)) {
            self.grant_to_waiter(hash, moment);
        }
    }

    /// Whether a worker was asked for and has not come.
    pub(in crate::store) fn is_queued(&self, hash: u64, key: Key<'_>) -> bool {
        self.get(hash, key).is_some_and(|lease| lease.queued)
    }

    /// The key waits for a worker no more, although one was asked for. If anybody waits for it, one is asked for again in
    /// a while.
    pub(in crate::store) fn unqueue(&mut self, hash: u64, key: Key<'_>, now: u64) {
        if let Some(lease) = self.get_mut(hash, key)
            && std::mem::take(&mut lease.queued)
        {
            self.schedule(hash, now + HOLD_OFF.0);
            self.drop_if_idle(hash, now);
        }
    }

    /// Workers load the key no more: somebody who waits and can load gets the lease, and the others learn that nobody loads
    /// for them. A load that is under way goes on: if it ends without a value, a worker is asked for again.
    pub(in crate::store) fn unserve(&mut self, hash: u64, key: Key<'_>, moment: StepContext) {
        let Some(lease) = self.get_mut(hash, key).filter(|lease| !lease.held) else { return };
        (lease.served, lease.queued) = (false, false);
        self.answer(hash, |waiter| waiter.lease.is_none().then_some(Outcome::Unserved));
        self.grant_next(hash, moment);
        self.drop_if_idle(hash, moment.now);
    }

    fn grant_to_waiter(&mut self, hash: u64, moment: StepContext) {
        let Some(lease) = self.map.get_mut(&hash) else { return };
        // Who had the lease and did not answer is asked again only if nobody else is there: others that wait on the same
        // connection belong to the same process, which may have been stopped.
        let had = |waiter: &Waiter| {
            let holders = lease.grants.iter().map(|grant| grant.holder).chain([lease.attempts.released_by]);
            holders.flatten().any(|holder| holder == waiter.connection)
        };
        let other = lease.waiters.iter().position(|waiter| waiter.lease.is_some() && !had(waiter));
        let place = other.or_else(|| lease.waiters.iter().position(|waiter| waiter.lease.is_some()));
        let Some(place) = place else { return };
        let Some(waiter) = lease.waiters.remove(place) else { return };
        self.shares.give_back(waiter.connection, WAITER_BYTES);
        let Waiter { connection, wait, lease: length, bound, .. } = waiter;
        let length = length.map_or(MAX_AGE, u64::from);
        self.waiters -= 1;
        let granted = Granted { db: lease.db, key: Arc::clone(&lease.key), token: moment.token };
        self.events.push(StoreEvent::Outcome(connection, wait, Outcome::Lease(granted)));
        self.charge(hash, connection);
        self.grant(hash, bound.then_some(connection), length, false, moment);
    }

    /// Sees to it that those who wait are loaded for.
    pub(super) fn grant_next(&mut self, hash: u64, moment: StepContext) {
        let Some(lease) = self.map.get(&hash) else { return };
        if lease.may_grant(moment.now) && !lease.waiters.is_empty() {
            if lease.served {
                self.want(hash, moment.now);
            } else {
                self.grant_to_waiter(hash, moment);
            }
        }
    }

    /// The lease goes on to somebody else.
    pub(super) fn pass_on(&mut self, hash: u64, because: Because, moment: StepContext) {
        let Some(lease) = self.map.get_mut(&hash) else { return };
        lease.held = false;
        if lease.waiters.is_empty() {
            (lease.attempts.failures, lease.attempts.ended) = (0, 0);
            if !lease.served {
                (lease.attempts.releases, lease.attempts.rests_until) = (0, 0);
            }
            return;
        }
        lease.attempts.failures += u8::from(because != Because::Released);
        lease.attempts.ended += u8::from(because == Because::Ended);
        if lease.attempts.failures >= MAX_FAILURES {
            let message: Arc<str> = Arc::from(lease.why_failed());
            lease.hold_off(&message, None, moment.now);
            self.answer(hash, |_| Some(Outcome::Failed(Arc::clone(&message))));
            return;
        }
        self.grant_next(hash, moment);
    }

    /// The load takes longer; whoever says so holds the lease from now on. Until when, if it is still its to hold.
    pub(in crate::store) fn renew(
        &mut self,
        hash: u64,
        key: Key<'_>,
        token: u64,
        length: u64,
        holder: ConnectionId,
        now: u64,
    ) -> Option<u64> {
        let limit = self.load_limit;
        let lease = self.get_mut(hash, key)?;
        let grant = lease.grants.last_mut()?;
        let last = grant.granted_at + limit;
        if grant.token != token || now >= last.min(grant.good_until) {
            return None;
        }
        grant.deadline = last.min(now + length.min(MAX_AGE));
        grant.good_until = now + MAX_AGE;
        grant.holder = grant.holder.map(|_| holder);
        grant.unheld = false;
        let deadline = grant.deadline;
        (lease.held, lease.queued) = (true, false);
        if lease.place.charged.is_none() {
            self.charge(hash, holder);
        }
        self.recount(hash);
        self.schedule(hash, deadline);
        Some(deadline)
    }

    /// The holder gives the lease up without a failure. Whether it had it.
    pub(in crate::store) fn release(&mut self, hash: u64, key: Key<'_>, token: u64, moment: StepContext) -> bool {
        if let Some(lease) = self.get_mut(hash, key)
            && let Some(until) = lease.count_release(token, moment.now)
        {
            self.schedule(hash, until);
        }
        self.give_up(hash, key, token, moment)
    }

    /// A lease goes back unused: its holder never got it, or does not want it. Whether the token meant anything.
    pub(in crate::store) fn give_up(&mut self, hash: u64, key: Key<'_>, token: u64, moment: StepContext) -> bool {
        let Some(lease) = self.get_mut(hash, key) else { return false };
        if lease.forget_voided(token) {
            self.touched.push(hash);
            return true;
        }
        let holds = lease.holder().is_some_and(|grant| grant.token == token);
        let before = lease.grants.len();
        lease.grants.retain(|grant| grant.token != token);
        let had = lease.grants.len() < before;
        if holds {
            self.pass_on(hash, Because::Released, moment);
            self.drop_if_idle(hash, moment.now);
        }
        had
    }

    /// A connection that waited for the key is gone. If it was granted the lease meanwhile, it never learned of it.
    pub(in crate::store) fn left(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId, moment: StepContext) {
        if self.get(hash, key).is_some() {
            self.retain_waiters(hash, |waiter, _| waiter.connection != connection);
            self.leave_load(hash, connection, Because::Released, moment);
        }
    }

    /// The connection that holds a lease is gone. What it loads stays good.
    pub(in crate::store) fn lost(&mut self, hold: Hold, connection: ConnectionId, moment: StepContext) {
        if self.stands(hold, connection) {
            self.leave_load(hold.hash, connection, Because::Ended, moment);
        }
    }

    /// The connection that holds a lease is gone, and another one may renew it until a moment: until then at most it is
    /// held. A lease that was renewed over another connection meanwhile is that one's. A load that was voided ends in the
    /// same way, but nobody renews it.
    pub(in crate::store) fn unheld(&mut self, hold: Hold, connection: ConnectionId, until: u64) {
        if !self.stands(hold, connection) {
            return;
        }
        let Some(lease) = self.map.get_mut(&hold.hash) else { return };
        if let Some(grant) = lease.grants.last_mut().filter(|grant| lease.held && grant.token == hold.token) {
            (grant.deadline, grant.unheld) = (grant.deadline.min(until), true);
        }
        for voided in lease.voided.iter_mut().filter(|voided| voided.token == hold.token) {
            voided.deadline = voided.deadline.min(until);
        }
        self.schedule(hold.hash, until);
    }

    /// Whether a connection loads under this lease: it holds it, or the lease was voided meanwhile.
    pub(in crate::store) fn stands(&self, Hold { hash, token }: Hold, connection: ConnectionId) -> bool {
        self.map.get(&hash).is_some_and(|lease| {
            let holder = lease.holder().map(|grant| (grant.token, grant.holder));
            let voided = lease.voided.iter().map(|voided| (voided.token, voided.holder));
            holder.into_iter().chain(voided).any(|known| known == (token, Some(connection)))
        })
    }

    /// A connection does not hold the lease any more, and does not load under a voided one.
    fn leave_load(&mut self, hash: u64, connection: ConnectionId, because: Because, moment: StepContext) {
        let Some(lease) = self.map.get_mut(&hash) else { return };
        // What was granted before and is left to another connection is none of those that were not delivered.
        let holds = lease
            .holder()
            .is_some_and(|grant| grant.holder == Some(connection) && (because == Because::Ended || !grant.unheld));
        let voided = lease.voided.len();
        lease.voided.retain(|voided| voided.holder != Some(connection));
        let freed = lease.voided.len() < voided;
        if holds {
            self.pass_on(hash, because, moment);
        } else if freed {
            self.grant_next(hash, moment);
        }
        self.drop_if_idle(hash, moment.now);
    }
}
