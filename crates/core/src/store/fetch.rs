//! What a key can be asked by those who load it: its value or its lease, and what comes of a lease.
//!
//! Nothing here is on the path of a hit by plain commands. The rules of leases stand in `lease/mod.rs`; here they meet the
//! items.

use std::sync::Arc;

use super::entry::Entry;
use super::events::{ConnectionId, Loaded};
use super::lease::{Changes, FetchRequest, FetchResult, Hold, HoldOff, StepContext, TokenCheck};
use super::types::{Item, Meta, Refused, RefusedFills};

/// Everything known of a key.
#[derive(Clone, Copy, Debug)]
pub struct Inspection<'a> {
    /// A live value, a proof of absence, or a value that only errors may use.
    pub item: Option<Item<'a>>,
    /// How many tags it has.
    pub tags: usize,
    /// Since when somebody holds the lease.
    pub held_since: Option<u64>,
    /// How many wait.
    pub waiters: usize,
    /// Set while nobody loads it after a failure.
    pub held_off: Option<&'a HoldOff>,
}

/// A value is refreshed early with a chance that grows as its end comes near, and the sooner the longer its load takes:
/// then it rarely ends while many want it. At `cost * -ln(random)` before the end, of A. Vattani, F. Chierichetti and
/// K. Lowenstein, "Optimal Probabilistic Cache Stampede Prevention", VLDB 2015, with beta = 1.
fn is_early(random: &mut u64, cost: u32, left: u64) -> bool {
    // Beyond thirty times the cost the chance is below 10^-13.
    if u64::from(cost) * 30 < left {
        return false;
    }
    // xorshift64*: its quality is ample for this.
    *random ^= *random >> 12;
    *random ^= *random << 25;
    *random ^= *random >> 27;
    let drawn = (random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1u64 << 53) as f64;
    f64::from(cost) * -drawn.max(f64::MIN_POSITIVE).ln() >= left as f64
}

impl RefusedFills {
    fn count(&mut self, why: TokenCheck) {
        match why {
            TokenCheck::Changed => self.changed += 1,
            TokenCheck::TagInvalidated => self.tag += 1,
            TokenCheck::Late => self.late += 1,
            TokenCheck::Good(_) => {}
        }
    }
}

impl Entry<'_> {
    /// Asks for the value; on a miss for the lease; and waits, if the caller does, for whoever has it.
    pub fn fetch(&mut self, request: &FetchRequest) -> FetchResult<'_> {
        let now = self.now;
        let Some((absent, stale, early)) = self.look() else {
            if request.lease.is_some() || !request.served {
                // A plain read that comes to wait was counted when it found nothing.
                self.shard.miss(self.hash);
            }
            return self.lease(request);
        };
        let token = if !absent && (stale || early) { self.refresh(request) } else { None };
        match self.shard.find(self.key, self.hash) {
            Some(found) => {
                self.shard.hit(&found, self.hash);
                let item = self.shard.view(&self.shard.record(found.place));
                FetchResult::Found { item, stale: item.is_stale(now), token }
            }
            None => FetchResult::Nothing,
        }
    }

    /// A value for which [`fetch`](Entry::fetch) would return neither a token nor an error, as that would count it; of
    /// anything else nothing, and nothing is counted.
    pub fn fresh(&mut self) -> Option<Item<'_>> {
        let Some((false, false, false)) = self.look() else { return None };
        let found = self.shard.find(self.key, self.hash)?;
        self.shard.hit(&found, self.hash);
        Some(self.shard.view(&self.shard.record(found.place)))
    }

    /// Whether something is there: a proof of absence, stale, to be refreshed early.
    fn look(&mut self) -> Option<(bool, bool, bool)> {
        let now = self.now;
        let found = self.shard.find(self.key, self.hash)?;
        let record = self.shard.record(found.place);
        let there = record.expires_at.is_none_or(|at| now < at) && self.shard.is_kept(&record, self.tags, now);
        if !there {
            return None;
        }
        let (absent, stale) = (record.absent, record.fresh_until.is_some_and(|at| at <= now));
        let end = record.fresh_until.or(record.expires_at);
        let due = record.cost.zip(end).filter(|_| !stale);
        let early = due.is_some_and(|(cost, end)| is_early(&mut self.shard.random, cost, end - now));
        Some((absent, stale, early))
    }

    /// Takes the lease of a value that is served meanwhile, or has a worker take it; the token, if the caller got one.
    pub fn refresh(&mut self, request: &FetchRequest) -> Option<u64> {
        let moment = self.moment();
        self.shard.leases.refresh(self.hash, self.key, request, moment)
    }

    /// The moment of this step, with a token that nobody was ever granted.
    fn moment(&mut self) -> StepContext {
        StepContext { token: self.shard.next_version(), clock: self.tags.clock(), now: self.now }
    }

    /// Asks for the lease of a key that is known to have no value; a miss that is counted already.
    pub fn lease(&mut self, request: &FetchRequest) -> FetchResult<'_> {
        let moment = self.moment();
        match self.shard.leases.fetch(self.hash, self.key, request, moment) {
            FetchResult::Failed(message) => match self.kept() {
                Some(item) => FetchResult::Found { item, stale: true, token: None },
                None => FetchResult::Failed(message),
            },
            other => other,
        }
    }

    /// What may be handed out after a failed load: a value that is stale, or past its time but not past that of errors.
    fn kept(&self) -> Option<Item<'_>> {
        let record = self.shard.record(self.shard.find(self.key, self.hash)?.place);
        let kept = !record.absent && self.shard.is_kept(&record, self.tags, self.now);
        kept.then(|| self.shard.view(&record))
    }

    /// Until when somebody holds the lease, if nobody gives it up before.
    #[inline]
    pub fn held_until(&self) -> Option<u64> {
        if self.shard.leases.is_empty() {
            return None;
        }
        let until = self.shard.leases.get(self.hash, self.key)?.held_until()?;
        (self.now < until).then_some(until)
    }

    /// Whether it is known that there is no such row.
    pub fn is_known_absent(&self) -> bool {
        self.shard.find(self.key, self.hash).is_some_and(|found| {
            let record = self.shard.record(found.place);
            let now = self.now;
            let there = record.expires_at.is_none_or(|at| now < at) && self.shard.is_kept(&record, self.tags, now);
            record.absent && there
        })
    }

    /// Stores a value that was loaded under `token`: its version, or None if the token is not good any more. If it cannot
    /// be stored the lease ends all the same, and those who wait get the value.
    pub fn fill(&mut self, token: u64, value: &[u8], meta: &Meta<'_>) -> Result<Option<u64>, Refused> {
        self.end_with(token, value, meta, |entry, clock| entry.put_loaded(value, meta, clock))
    }

    /// As [`fill`](Entry::fill), of a value that cannot be stored as its sender asks.
    #[cold]
    pub fn fill_unstored(&mut self, token: u64, value: &[u8], meta: &Meta<'_>) {
        let _ = self.end_with(token, value, meta, |_, _| Err(Refused::TooLarge));
    }

    /// As [`fill`](Entry::fill), of a value that was not even read: those who wait get the message.
    #[cold]
    pub fn fill_unread(&mut self, token: u64, message: &Arc<str>) {
        if self.takes(token) {
            self.shard.stats.refused.value += 1;
        }
        self.fail(token, message, None);
    }

    fn end_with(
        &mut self,
        token: u64,
        value: &[u8],
        meta: &Meta<'_>,
        store: impl FnOnce(&mut Self, u64) -> Result<u64, Refused>,
    ) -> Result<Option<u64>, Refused> {
        let loaded = |version| Loaded {
            value: Arc::from(value),
            version,
            flags: meta.flags,
            expires_at: meta.expires_at,
            stale: false,
            absent: meta.absent,
        };
        let tags = self.tags;
        let dead = |clock| tags.are_dead_for_grant(meta.tags, clock);
        let judged = self.shard.leases.check_fill_token(self.hash, self.key, token, &|| loaded(None), dead, self.now);
        let clock = match judged {
            TokenCheck::Good(clock) => clock,
            refused => {
                self.shard.stats.refused.count(refused);
                return Ok(None);
            }
        };
        let stored = store(self, clock);
        self.shard.stats.refused.value += u64::from(stored.is_err());
        if stored.is_ok() && !meta.absent {
            self.shard.leases.appeared(self.hash);
        }
        let waited = self.shard.leases.has_waiters(self.hash);
        let told = waited.then(|| loaded(stored.ok()));
        self.shard.leases.filled(self.hash, told.as_ref(), self.now);
        stored.map(Some)
    }

    /// The load under `token` failed: those who wait get what may still be handed out, or the message. Whether the token
    /// meant anything.
    pub fn fail(&mut self, token: u64, message: &Arc<str>, retry: Option<u64>) -> bool {
        let kept = self.kept().map(|item| Loaded::new(&item, true));
        self.shard.leases.fail(self.hash, self.key, token, (message, retry), kept.as_ref(), self.now)
    }

    /// The load takes so many milliseconds longer; `connection` holds the lease from now on. Until when, if it still may.
    pub fn renew(&mut self, token: u64, millis: u64, connection: ConnectionId) -> Option<u64> {
        self.shard.leases.renew(self.hash, self.key, token, millis, connection, self.now)
    }

    /// Gives the lease up without a failure; whether it was held.
    pub fn release(&mut self, token: u64) -> bool {
        let moment = self.moment();
        self.shard.leases.release(self.hash, self.key, token, moment)
    }

    /// A transaction of a connection depends on this key's being absent, until [`unwatch`](Entry::unwatch): what is to be
    /// compared with [`changes`](Entry::changes). None if too many keys are watched, by all or by this connection.
    pub fn watch(&mut self, connection: ConnectionId) -> Option<Changes> {
        self.shard.leases.watch(self.hash, self.key, connection)
    }

    /// It does so no more.
    pub fn unwatch(&mut self, connection: ConnectionId) {
        self.shard.leases.unwatch(self.hash, self.key, connection, self.now);
    }

    /// How often the item was changed, while the key is watched.
    pub fn changes(&self) -> Option<Changes> {
        self.shard.leases.get(self.hash, self.key).map(|lease| lease.changes())
    }

    /// Leaves the queue; whether it stood there.
    pub fn leave(&mut self, connection: ConnectionId, wait: u64) -> bool {
        self.shard.leases.leave(self.hash, self.key, connection, wait, self.now)
    }

    /// Leaves the queue, under whatever number.
    pub fn leave_all(&mut self, connection: ConnectionId) {
        self.shard.leases.leave_all(self.hash, self.key, connection, self.now);
    }

    /// A lease that its holder was never told of goes on to somebody else.
    pub fn give_up(&mut self, token: u64) {
        let moment = self.moment();
        self.shard.leases.give_up(self.hash, self.key, token, moment);
    }

    /// A connection that waited for this key is gone.
    pub fn left(&mut self, connection: ConnectionId) {
        let moment = self.moment();
        self.shard.leases.left(self.hash, self.key, connection, moment);
    }

    /// The lease under a token, as its holder remembers it.
    pub fn hold(&self, token: u64) -> Hold {
        Hold::new(self.hash, token)
    }

    /// Gives a worker that was asked for the lease; None if it is not wanted any more.
    pub fn assign(&mut self, worker: ConnectionId, millis: u64) -> Option<u64> {
        let moment = self.moment();
        self.shard.leases.assign(self.hash, self.key, worker, millis, moment).then_some(moment.token)
    }

    /// There is no worker: somebody who waits and can load gets the lease.
    pub fn fall_back(&mut self) {
        let moment = self.moment();
        self.shard.leases.fall_back(self.hash, self.key, moment);
    }

    /// No pattern covers the key any more: those who wait and can load do, and the others learn that nobody does.
    pub fn unserve(&mut self) {
        let moment = self.moment();
        self.shard.leases.unserve(self.hash, self.key, moment);
    }

    /// Whether a worker was asked for and has not come.
    pub fn is_queued(&self) -> bool {
        self.shard.leases.is_queued(self.hash, self.key)
    }

    /// The key waits for a worker no more: there was no room for it. If anybody waits, one is asked for again in a while.
    pub fn unqueue(&mut self) {
        self.shard.leases.unqueue(self.hash, self.key, self.now);
    }

    /// Whether a value loaded under `token` would be stored, as far as can be told.
    pub fn takes(&self, token: u64) -> bool {
        self.shard.leases.get(self.hash, self.key).is_some_and(|lease| lease.takes(token, self.now))
    }

    /// Whether a load runs under `token` whose value cannot be stored any more, since the key was changed.
    pub fn is_voided(&self, token: u64) -> bool {
        let leases = &self.shard.leases;
        !leases.is_empty() && leases.get(self.hash, self.key).is_some_and(|lease| lease.is_voided(token))
    }

    /// Everything known of the key; leaves no trace.
    pub fn inspect(&self) -> Inspection<'_> {
        let lease = self.shard.leases.get(self.hash, self.key);
        let record = self.shard.find(self.key, self.hash).map(|found| self.shard.record(found.place));
        let record = record.filter(|record| self.shard.is_kept(record, self.tags, self.now));
        Inspection {
            tags: record.as_ref().map_or(0, |record| record.tags.len() / 8),
            item: record.map(|record| self.shard.view(&record)),
            held_since: lease.and_then(|lease| lease.held_since()),
            waiters: lease.map_or(0, |lease| lease.waiting()),
            held_off: lease.and_then(|lease| lease.held_off(self.now)),
        }
    }
}
