//! The lease of one key: who was granted it, who waits, and how it went before.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::limits::MAX_AGE;
use crate::store::events::ConnectionId;
use crate::store::types::Key;

/// Tokens of one key that are good at the same time.
pub(super) const MAX_GRANTS: usize = 3;
/// Voided loads beside which another one may begin.
const MAX_VOIDED: usize = 1;
/// Holders in a row that may fail to answer.
pub(super) const MAX_FAILURES: u8 = 2;
/// For how long a key is held off after a failure, in milliseconds: at first, and at most.
pub(super) const HOLD_OFF: (u64, u64) = (100, 1_000);
/// How long a failure is remembered, so that another one soon after holds the key off for longer.
pub(super) const REMEMBERED: u64 = 10_000;
/// Releases in a row after which a lease rests, as long as after a failure.
const MAX_RELEASES: u8 = 2;
/// Waiters of one key that are looked through at most once in a millisecond; twice as many, every other millisecond.
const CROWD: usize = 1024;
/// What a lease takes beside its key, and a waiter, in bytes.
pub(super) const LEASE_BYTES: usize = size_of::<Lease>() + 64;
pub(super) const WAITER_BYTES: usize = size_of::<Waiter>();

/// A token was granted to somebody.
#[derive(Clone, Debug)]
pub(super) struct Grant {
    pub(super) token: u64,
    /// The tag clock when it was granted.
    pub(super) clock: u64,
    pub(super) holder: Option<ConnectionId>,
    pub(super) granted_at: u64,
    /// When the lease passes on.
    pub(super) deadline: u64,
    /// When the token is too old: never while the lease is held, however often it is renewed.
    pub(super) good_until: u64,
    /// The server chose the holder, a worker, and would choose it again.
    pub(super) assigned: bool,
    /// The holder's connection is gone, and another one of its session may renew the lease until the deadline.
    pub(super) unheld: bool,
}

/// A load that runs on although its value cannot be stored any more.
#[derive(Clone, Debug)]
pub(super) struct Voided {
    pub(super) token: u64,
    pub(super) holder: Option<ConnectionId>,
    pub(super) deadline: u64,
    /// Which void it was.
    pub(super) number: u32,
    /// The tag clock when it was granted.
    pub(super) clock: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Waiter {
    pub(super) connection: ConnectionId,
    pub(super) wait: u64,
    pub(super) deadline: u64,
    /// How long a lease it would take, if it loads; at most `MAX_AGE`.
    pub(super) lease: Option<u32>,
    pub(super) bound: bool,
    pub(super) voids: u32,
    pub(super) clock: u64,
}

/// After a failure nobody loads for a while.
#[derive(Clone, Debug)]
pub struct HoldOff {
    /// Until when.
    pub until: u64,
    delay: u64,
    /// Why the last load failed.
    pub message: Arc<str>,
}

/// How often the item of a key was changed, for transactions that depend on the key's being absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Written or removed by others than those who load. A void may be less than that: what is removed was not there.
    pub written: u32,
    /// Stored by those who load.
    pub loaded: u32,
}

/// How it went with those who held the lease since the last load that was answered, or the last change.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Holders in a row that did not answer, and how many of them ended.
    pub(super) failures: u8,
    pub(super) ended: u8,
    /// Holders in a row that released the lease although the server would grant it to them again, and the last one.
    pub(super) releases: u8,
    pub(super) released_by: Option<ConnectionId>,
    /// Nobody is granted the lease before, since it was released again and again.
    pub(super) rests_until: u64,
}

/// What the table of leases keeps of one.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The connection in whose share it counts: the one that took the lease last, or that asked for it first. None while
    /// nobody uses it.
    pub(super) charged: Option<ConnectionId>,
    /// Who holds it, as it is counted in [`Holders`].
    pub(super) counted: Option<Option<u64>>,
    /// Its number among those that can be forgotten; 0 while it is none of them.
    pub(super) unused: u64,
    /// The earliest moment at which it is looked at again.
    pub(super) scheduled: u64,
}

/// The lease of one key. It exists while somebody holds it or waits, and for a while after.
#[derive(Debug, Default)]
pub(in crate::store) struct Lease {
    pub(super) db: u8,
    pub(super) key: Arc<[u8]>,
    /// Granted since the last void, oldest first; the last one holds the lease if `held`.
    pub(super) grants: Vec<Grant>,
    pub(super) held: bool,
    pub(super) voided: Vec<Voided>,
    pub(super) voids: u32,
    pub(super) waiters: VecDeque<Waiter>,
    /// Workers load the key.
    pub(super) served: bool,
    /// A worker was asked for.
    pub(super) queued: bool,
    pub(super) attempts: Attempts,
    pub(super) hold_off: Option<HoldOff>,
    /// Transactions that depend on the key's being absent.
    pub(super) watchers: u32,
    pub(super) changes: Changes,
    /// What the table keeps of it.
    pub(super) place: Place,
}

/// What the lease of a key takes, in bytes.
pub(super) fn lease_bytes(key: &[u8]) -> usize {
    LEASE_BYTES + key.len()
}

/// Makes room for one more in a list of a few, of which most leases have one; by how many bytes it has grown.
pub(super) fn reserve_one<T>(list: &mut Vec<T>) -> usize {
    let before = list.capacity();
    if list.len() == before {
        list.reserve_exact(1);
    }
    (list.capacity() - before) * size_of::<T>()
}

impl Lease {
    pub(super) fn new(key: Key<'_>) -> Box<Lease> {
        let place = Place { scheduled: u64::MAX, ..Place::default() };
        Box::new(Lease { db: key.db, key: Arc::from(key.bytes), place, ..Lease::default() })
    }

    pub(super) fn is_loading(&self) -> bool {
        self.queued || !self.grants.is_empty() || !self.waiters.is_empty()
    }

    pub(super) fn is_of(&self, key: Key<'_>) -> bool {
        self.db == key.db && *self.key == *key.bytes
    }

    pub(super) fn holder(&self) -> Option<&Grant> {
        self.grants.last().filter(|_| self.held)
    }

    pub(super) fn may_grant(&self, now: u64) -> bool {
        !self.held && self.voided.len() <= MAX_VOIDED && self.attempts.rests_until <= now
    }

    /// Why nobody tries any more.
    pub(super) fn why_failed(&self) -> &'static str {
        match (self.attempts.ended >= MAX_FAILURES, self.served) {
            (true, true) => "the worker that loaded it ended, twice",
            (true, false) => "the client that loaded it ended, twice",
            (false, _) => "no one who loaded it answered in time",
        }
    }

    /// The holder releases the lease. If that was done too often in a row, it rests; until when.
    pub(super) fn count_release(&mut self, token: u64, now: u64) -> Option<u64> {
        let (holder, assigned) = self.holder().filter(|grant| grant.token == token).map(|g| (g.holder, g.assigned))?;
        self.attempts.releases =
            if assigned || holder == self.attempts.released_by { self.attempts.releases.saturating_add(1) } else { 1 };
        self.attempts.released_by = holder;
        let more = self.attempts.releases.checked_sub(MAX_RELEASES + 1)?;
        self.attempts.rests_until = now + (HOLD_OFF.0 << more.min(8)).min(HOLD_OFF.1);
        Some(self.attempts.rests_until)
    }

    pub(super) fn good(&self, token: u64, now: u64) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.token == token && now < grant.good_until)
    }

    /// The key was changed; by how many bytes its lists have grown.
    pub(super) fn void(&mut self) -> usize {
        self.voids += 1;
        let mut grown = 0;
        // Whoever changes the value, or takes it away, knows more of its source than the last failure does.
        self.hold_off = None;
        if let Some(Grant { token, holder, deadline, clock, .. }) = self.holder() {
            let voided =
                Voided { token: *token, holder: *holder, deadline: *deadline, number: self.voids, clock: *clock };
            grown = reserve_one(&mut self.voided);
            self.voided.push(voided);
        }
        // A key that is waited for stays queued for a worker: it is not queued once more with each change.
        let queued = self.queued && !self.waiters.is_empty();
        self.end();
        self.queued = queued;
        grown
    }

    /// Bytes of its lists of grants and of voided loads.
    pub(super) fn list_bytes(&self) -> usize {
        self.grants.capacity() * size_of::<Grant>() + self.voided.capacity() * size_of::<Voided>()
    }

    /// No token is good any more, and nobody holds the lease.
    pub(super) fn end(&mut self) {
        self.grants.clear();
        self.lay_down();
    }

    /// Nobody holds the lease, and what became of those who held it is forgotten; tokens stay good.
    fn lay_down(&mut self) {
        (self.held, self.queued) = (false, false);
        self.attempts = Attempts::default();
    }

    /// Ends the load under a token from which the lease has passed on to another, and that load alone; whether it had.
    pub(super) fn forget_passed_on(&mut self, token: u64) -> bool {
        let passed_on = self.holder().is_some_and(|grant| grant.token != token);
        if passed_on {
            self.grants.retain(|grant| grant.token != token);
        }
        passed_on
    }

    pub(super) fn forget_voided(&mut self, token: u64) -> bool {
        let before = self.voided.len();
        self.voided.retain(|voided| voided.token != token);
        self.voided.len() < before
    }

    pub(super) fn hold_off(&mut self, message: &Arc<str>, retry: Option<u64>, now: u64) {
        let before = self.hold_off.take().map_or(0, |hold_off| hold_off.delay);
        let delay = retry.unwrap_or((before * 2).max(HOLD_OFF.0)).min(HOLD_OFF.1.max(retry.unwrap_or(0).min(MAX_AGE)));
        self.lay_down();
        self.hold_off = Some(HoldOff { until: now + delay, delay, message: Arc::clone(message) });
    }

    /// Whether anybody holds it, loads under a voided token, or waits, or a worker was asked for.
    pub(super) fn is_used(&self) -> bool {
        self.held || self.queued || !self.voided.is_empty() || !self.waiters.is_empty()
    }

    pub(super) fn is_idle(&self, now: u64) -> bool {
        !self.is_used()
            && self.hold_off.is_none()
            && self.attempts.rests_until <= now
            && self.watchers == 0
            && !self.grants.iter().any(|grant| now < grant.good_until)
    }

    /// When it is to be looked at again.
    pub(super) fn next_look(&self, now: u64) -> u64 {
        let held = self.holder().map(|grant| grant.deadline);
        let old = self.grants.iter().map(|grant| grant.good_until);
        let voided = self.voided.iter().map(|voided| voided.deadline);
        let waiters = self.waiters.iter().map(|waiter| waiter.deadline);
        let hold_off = self.hold_off.iter().flat_map(|hold_off| [hold_off.until, hold_off.until + REMEMBERED]);
        let all =
            held.into_iter().chain(old).chain(voided).chain(waiters).chain(hold_off).chain([self.attempts.rests_until]);
        let next = all.filter(|at| *at > now).min().unwrap_or(now + MAX_AGE);
        // A crowd is not looked through for each of its waiters.
        next.max(now + (self.waiters.len() / CROWD) as u64)
    }

    /// How often the item was changed while this was there.
    pub(in crate::store) fn changes(&self) -> Changes {
        self.changes
    }

    /// How many wait.
    pub(in crate::store) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Since when somebody holds it.
    pub(in crate::store) fn held_since(&self) -> Option<u64> {
        self.holder().map(|grant| grant.granted_at)
    }

    /// Until when nobody loads, and why the last load failed.
    pub(in crate::store) fn held_off(&self, now: u64) -> Option<&HoldOff> {
        self.hold_off.as_ref().filter(|hold_off| now < hold_off.until)
    }

    /// Until when somebody holds it, if nobody gives it up before.
    pub(in crate::store) fn held_until(&self) -> Option<u64> {
        self.holder().map(|grant| grant.deadline)
    }

    /// Whether a load runs on under a token that was voided.
    pub(in crate::store) fn is_voided(&self, token: u64) -> bool {
        self.voided.iter().any(|voided| voided.token == token)
    }

    /// Whether a token would be taken.
    pub(in crate::store) fn takes(&self, token: u64, now: u64) -> bool {
        self.good(token, now).is_some()
    }
}
