//! Leases: at most one party at a time holds the lease to load a key; everyone else gets a stale value or waits.
//!
//! A lease is a state of its key, changed only under the lock of the key's shard. The rules, and what goes wrong
//! without each:
//!
//! 1. Tokens come from the counter of versions, so none is ever granted twice: not by a later life of the server either.
//! 2. A change of the value *voids*: no token granted before is good for storing any more. Else: A reads v1 from the
//!    database, B writes v2 and removes the key, A stores v1, and v1 stays. Expiry, eviction and new times to live void
//!    nothing: what a load returns is as good as before.
//! 3. A lease that passes on (its time is over, its holder is gone) voids nothing either, nor does a failure: every other
//!    token since the last void stays good until it is too old, and the first to store wins. Else a query slower than the
//!    lease is never stored.
//! 4. Who waits remembers how often the key was voided and the tag clock when it joined. A refused value is handed,
//!    unstored, to those who joined before what refused it; the others go on waiting, since they may have seen the write.
//! 5. At most one voided load runs beside the valid one. Else a key that is invalidated faster than it is loaded starts
//!    one more query with each invalidation.
//! 6. At most two holders in a row may end or let their time pass, then all who wait get an error. Else a row that kills
//!    its loader kills one after another. A failure holds the key off for a while, so that a database in trouble is asked
//!    seldom. A waiter that is gone and a lease that could not be delivered are no failures: nobody has tried to load.
//!    Nor is it one if a lease lapses whose connection is gone while others of the same client are there: that client has
//!    not renewed what it does not know of, because it was interrupted before it read the grant.
//! 7. A lease that is released is granted again at once, but not to one that releases it again and again: then it rests.
//!    Else server and worker hand it back and forth as fast as they can.
//! 8. Whom a step concerns is decided from what the key is when the step is over: inside a transaction nobody is shown
//!    what was there for a moment.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;

use super::events::{ConnectionId, Granted, Loaded, Outcome, StoreEvent};
use super::tags::Identity;
use super::types::{Item, Key};
use crate::limits::{DATABASES, MAX_AGE};

/// Who asks for a key and what for.
#[derive(Clone, Copy, Debug)]
pub struct FetchRequest {
    /// Who.
    pub connection: ConnectionId,
    /// The number under which the outcome is told, if it has to wait.
    pub wait: u64,
    /// Until when it would wait, if it does.
    pub deadline: Option<u64>,
    /// How long a lease it would take, in milliseconds, if it loads.
    pub lease: Option<u64>,
    /// Whether workers load the key.
    pub served: bool,
    /// Whether its lease ends with its connection.
    pub bound: bool,
}

/// What a fetch returns.
#[derive(Clone, Debug)]
pub enum FetchResult<'a> {
    /// A value, or the proof that there is no such row (`item.absent`); and a token, if the caller is to load it anew.
    Found {
        /// What is there.
        item: Item<'a>,
        /// Its time is over.
        stale: bool,
        /// The lease to load it anew, if the caller got it.
        token: Option<u64>,
    },
    /// Nothing is there, and the caller is to load it.
    Lease(u64),
    /// Somebody else loads it; the outcome is told when it is there.
    Waits,
    /// Somebody else loads it, and the caller does not wait.
    Busy,
    /// Nothing is there, nobody loads it, and the caller does not either.
    Nothing,
    /// The last load failed, too short a while ago to try again, for this reason.
    Failed(Arc<str>),
    /// Too many wait or load: the caller loads without a lease.
    Full,
}

/// A lease as its holder remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// The hash of its key.
    pub(super) hash: u64,
    token: u64,
}

impl Hold {
    pub(super) fn new(hash: u64, token: u64) -> Hold {
        Hold { hash, token }
    }
}

impl Hash for Hold {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // A hash already, and few tokens of one key are known at a time.
        state.write_u64(self.hash);
    }
}

/// The leases that a connection was granted and has not answered. Those that ended otherwise, because another connection
/// filled them, say, are forgotten when the list has doubled: it has at most twice as many as the connection holds, and a
/// few.
#[derive(Clone, Debug, Default)]
pub struct Holds {
    all: HashSet<Hold, BuildHasherDefault<Identity>>,
    /// How many there may be before those that ended are looked for.
    most: usize,
    /// When a full list may be looked through again.
    full_until: u64,
}

impl Holds {
    /// How many there are before it is worth while to look for ended ones.
    const FEW: usize = 64;
    /// How often a list that is full is looked through, in milliseconds.
    const PAUSE: u64 = 100;

    /// A lease was granted to the connection; `stands` tells whether it still holds a lease.
    pub fn add(&mut self, hold: Hold, stands: impl FnMut(Hold) -> bool) {
        self.all.insert(hold);
        if self.all.len() > self.most.max(Self::FEW) {
            self.forget_ended(stands);
        }
    }

    /// The connection has answered for a lease.
    pub fn remove(&mut self, hold: Hold) {
        self.all.remove(&hold);
    }

    /// Whether it remembers a lease.
    pub fn has(&self, hold: Hold) -> bool {
        self.all.contains(&hold)
    }

    /// Whether the connection holds any lease.
    pub fn any(&mut self, mut stands: impl FnMut(Hold) -> bool) -> bool {
        while let Some(hold) = self.all.iter().next().copied() {
            if stands(hold) {
                return true;
            }
            self.all.remove(&hold);
        }
        false
    }

    /// Whether it holds so many leases.
    pub fn is_full(&mut self, limit: usize, now: u64, stands: impl FnMut(Hold) -> bool) -> bool {
        if self.all.len() >= limit && now >= self.full_until {
            self.forget_ended(stands);
            self.full_until = now + Self::PAUSE;
        }
        self.all.len() >= limit
    }

    /// Takes all of them.
    pub fn take(&mut self) -> impl Iterator<Item = Hold> + use<> {
        std::mem::take(self).all.into_iter()
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> usize {
        self.all.capacity() * (size_of::<Hold>() + 1)
    }

    fn forget_ended(&mut self, mut stands: impl FnMut(Hold) -> bool) {
        self.all.retain(|hold| stands(*hold));
        self.most = 2 * self.all.len();
        self.all.shrink_to(self.most);
    }
}

/// A token was granted to somebody.
#[derive(Clone, Debug)]
struct Grant {
    token: u64,
    /// The tag clock when it was granted.
    clock: u64,
    holder: Option<ConnectionId>,
    granted_at: u64,
    /// When the lease passes on.
    deadline: u64,
    /// When the token is too old: never while the lease is held, however often it is renewed.
    good_until: u64,
    /// The server chose the holder, a worker, and would choose it again.
    assigned: bool,
    /// The holder's connection is gone, and another one of its session may renew the lease until the deadline.
    unheld: bool,
}

/// A load that runs on although its value cannot be stored any more.
#[derive(Clone, Debug)]
struct Voided {
    token: u64,
    holder: Option<ConnectionId>,
    deadline: u64,
    /// Which void it was.
    number: u32,
    /// The tag clock when it was granted.
    clock: u64,
}

#[derive(Clone, Debug)]
struct Waiter {
    connection: ConnectionId,
    wait: u64,
    deadline: u64,
    /// How long a lease it would take, if it loads; at most `MAX_AGE`.
    lease: Option<u32>,
    bound: bool,
    voids: u32,
    clock: u64,
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

/// The lease of one key. It exists while somebody holds it or waits, and for a while after.
#[derive(Debug)]
pub(super) struct Lease {
    db: u8,
    key: Arc<[u8]>,
    /// Granted since the last void, oldest first; the last one holds the lease if `held`.
    grants: Vec<Grant>,
    held: bool,
    voided: Vec<Voided>,
    voids: u32,
    waiters: VecDeque<Waiter>,
    /// Workers load the key.
    served: bool,
    /// A worker was asked for.
    queued: bool,
    /// Holders in a row that did not answer, and how many of them ended.
    failures: u8,
    ended: u8,
    /// Holders in a row that released the lease although the server would grant it to them again, and the last one.
    releases: u8,
    released_by: Option<ConnectionId>,
    /// Nobody is granted the lease before, since it was released again and again.
    rests_until: u64,
    hold_off: Option<HoldOff>,
    /// Transactions that depend on the key's being absent.
    watchers: u32,
    changes: Changes,
    /// The connection in whose share it counts: the one that took the lease last, or that asked for it first. None while
    /// nobody uses it.
    charged: Option<ConnectionId>,
    /// Who holds it, as it is counted in [`Holders`].
    counted: Option<Option<u64>>,
    /// Its number among those that can be forgotten; 0 while it is none of them.
    unused: u64,
    /// The earliest moment at which it is looked at again.
    scheduled: u64,
}

/// Tokens of one key that are good at the same time.
const MAX_GRANTS: usize = 3;
/// Voided loads beside which another one may begin.
const MAX_VOIDED: usize = 1;
/// Holders in a row that may fail to answer.
const MAX_FAILURES: u8 = 2;
/// Who may wait for one key: more than a fleet has requests under way.
const MAX_WAITERS: usize = 1 << 16;
/// For how long a key is held off after a failure, in milliseconds: at first, and at most.
const HOLD_OFF: (u64, u64) = (100, 1_000);
/// How long a failure is remembered, so that another one soon after holds the key off for longer.
const REMEMBERED: u64 = 10_000;
/// Releases in a row after which a lease rests, as long as after a failure.
const MAX_RELEASES: u8 = 2;
/// Waiters that are looked at as fast as one lease.
const WAITERS_PER_LOOK: usize = 16;
/// Waiters of one key that are looked through at most once in a millisecond; twice as many, every other millisecond.
const CROWD: usize = 1024;
/// How often many leases are looked through for the oldest token, in milliseconds; few are each time.
const OLDEST_EVERY: u64 = 1_000;
const FEW_LEASES: usize = 1024;
/// Parts of the bound, as divisors: loads may take all but the first of them, whatever is watched, and keys that
/// transactions depend on may take the second, whatever is loaded. Both together are seldom large.
const UNLOADED_PART: usize = 4;
const WATCHED_PART: usize = 2;
/// What a lease takes beside its key, and a waiter, in bytes.
const LEASE_BYTES: usize = size_of::<Lease>() + 64;
const WAITER_BYTES: usize = size_of::<Waiter>();
/// Part of a bound that one connection may take, as a divisor, once all that is taken leaves no more than another part of it:
/// a connection that is alone is refused nothing that nobody else needs, and others find room beside it.
const SHARE_PART: usize = 4;
const LOADS_LEFT_PART: usize = 3;
const WATCHED_LEFT_PART: usize = 2;
/// Part of the bound beyond which workers are asked for no key that nobody waits for, as a divisor.
const UNAWAITED_PART: usize = 2;
/// What a place of the table of leases takes, and a place among those that are due, in bytes.
const PLACE_BYTES: usize = size_of::<(u64, Box<Lease>)>() + 1;
const DUE_BYTES: usize = size_of::<(u64, u64)>();
const UNUSED_BYTES: usize = size_of::<(u64, u64)>();

/// What became of a FILL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenCheck {
    /// The token is good; the value is to be kept with this tag clock.
    Good(u64),
    /// The key was changed, or a tag of the value invalidated, since the token was granted; or the token means nothing.
    Changed,
    TagInvalidated,
    Late,
}

/// Why a lease passes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Because {
    /// Its holder gave it up, never got it, or is a client that has other connections and did not renew it over them.
    Released,
    /// Its holder is gone.
    Ended,
    /// Its time is over.
    TimedOut,
}

/// The moment of a step: the token that it may grant, the tag clock, and the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct StepContext {
    pub(super) token: u64,
    pub(super) clock: u64,
    pub(super) now: u64,
}

/// What the lease of a key takes, in bytes.
fn lease_bytes(key: &[u8]) -> usize {
    LEASE_BYTES + key.len()
}

/// Makes room for one more in a list of a few, of which most leases have one; by how many bytes it has grown.
fn reserve_one<T>(list: &mut Vec<T>) -> usize {
    let before = list.capacity();
    if list.len() == before {
        list.reserve_exact(1);
    }
    (list.capacity() - before) * size_of::<T>()
}

/// Bytes that each connection has of something.
#[derive(Default)]
struct Shares(HashMap<u64, usize, BuildHasherDefault<Identity>>);

impl Shares {
    fn take(&mut self, connection: ConnectionId, bytes: usize) {
        *self.0.entry(connection.id).or_default() += bytes;
    }

    fn give_back(&mut self, connection: ConnectionId, bytes: usize) {
        if let Some(used) = self.0.get_mut(&connection.id) {
            *used = used.saturating_sub(bytes);
            if *used == 0 {
                self.0.remove(&connection.id);
            }
        }
    }

    /// Whether a connection may have so many bytes more, if it may have a share of `most`.
    fn allow(&self, connection: ConnectionId, bytes: usize, most: usize) -> bool {
        self.0.get(&connection.id).is_none_or(|used| used + bytes <= most / SHARE_PART)
    }
}

/// How many leases each connection holds, and how many belong to no connection.
#[derive(Default)]
struct Holders {
    by_connection: HashMap<u64, usize, BuildHasherDefault<Identity>>,
    unbound: usize,
}

impl Holders {
    /// Who holds a lease may be another one now, or nobody.
    #[inline]
    fn recount(&mut self, lease: &mut Lease) {
        let holder = lease.holder().map(|grant| grant.holder.map(|connection| connection.id));
        if holder != lease.counted {
            self.replace(std::mem::replace(&mut lease.counted, holder), holder);
        }
    }

    fn replace(&mut self, before: Option<Option<u64>>, after: Option<Option<u64>>) {
        match after {
            Some(Some(id)) => *self.by_connection.entry(id).or_default() += 1,
            Some(None) => self.unbound += 1,
            None => {}
        }
        match before {
            Some(Some(id)) => {
                if let Some(count) = self.by_connection.get_mut(&id) {
                    *count -= 1;
                    if *count == 0 {
                        self.by_connection.remove(&id);
                    }
                }
            }
            Some(None) => self.unbound -= 1,
            None => {}
        }
    }

    /// Each connection that holds any, or None, with their number.
    fn iter(&self) -> impl Iterator<Item = (Option<u64>, usize)> {
        self.by_connection.iter().map(|(id, count)| (Some(*id), *count)).chain([(None, self.unbound)])
    }
}

/// The leases of a shard.
pub(super) struct Leases {
    /// Each in memory of its own, so that the table is small beside what it holds: else one doubling of the table could
    /// take more than all leases may, and leave no room until the table is given back.
    map: HashMap<u64, Box<Lease>, BuildHasherDefault<Identity>>,
    /// When which lease is to be looked at.
    due: BinaryHeap<Reverse<(u64, u64)>>,
    /// Leases of keys that were changed in this step.
    touched: Vec<u64>,
    events: Vec<StoreEvent>,
    /// Those that nobody holds or waits for, each with its number there, in the order in which they were left: they remember
    /// old tokens and failures, and are forgotten for want of room. Some are used again, or gone.
    unused: VecDeque<(u64, u64)>,
    /// How many were put there so far, and how many of them when each database was flushed: those are as good as gone.
    left: u64,
    flushed: [u64; DATABASES],
    /// Bytes of those that are there, with their keys.
    unused_bytes: usize,
    waiters: usize,
    /// Bytes that the waiters of each connection take, and the leases that count in its share.
    shares: Shares,
    holders: Holders,
    key_bytes: usize,
    /// Bytes of the lists of grants and of voided loads.
    list_bytes: usize,
    /// Bytes of those that transactions depend on, with their keys, and what each connection has of them.
    watched_bytes: usize,
    watch_shares: Shares,
    /// Bytes that all may take.
    most: usize,
    /// How long a load may take, in milliseconds.
    load_limit: u64,
    /// The tag clock of the oldest token, and when that was looked for.
    oldest: (u64, u64),
}

impl Leases {
    pub(super) fn new(most: usize, load_limit: u64) -> Leases {
        Leases {
            map: HashMap::default(),
            due: BinaryHeap::new(),
            touched: Vec::new(),
            events: Vec::new(),
            unused: VecDeque::new(),
            left: 0,
            flushed: [0; DATABASES],
            unused_bytes: 0,
            waiters: 0,
            shares: Shares::default(),
            holders: Holders::default(),
            key_bytes: 0,
            list_bytes: 0,
            watched_bytes: 0,
            watch_shares: Shares::default(),
            most,
            load_limit,
            oldest: (0, 0),
        }
    }

    /// Whether any key has a lease: the one look that a write without them pays for.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the step has something to settle or to tell.
    #[inline]
    pub(super) fn has_pending(&self) -> bool {
        !self.touched.is_empty() || !self.events.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        let shares = self.shares.0.capacity() + self.watch_shares.0.capacity() + self.holders.by_connection.capacity();
        let places = self.map.capacity() + shares;
        let table = places * PLACE_BYTES + self.due.capacity() * DUE_BYTES + self.unused.capacity() * UNUSED_BYTES;
        let leases = self.map.len() * LEASE_BYTES + self.key_bytes + self.list_bytes;
        table + leases + self.waiters * WAITER_BYTES
    }

    /// Panics unless the bytes that are counted are those of the leases that there are.
    pub(super) fn check(&self) {
        let all = || self.map.values();
        assert_eq!(self.key_bytes, all().map(|lease| lease.key.len()).sum::<usize>(), "bytes of keys");
        assert_eq!(self.list_bytes, all().map(|lease| lease.list_bytes()).sum::<usize>(), "bytes of lists");
        let mut holders = Holders::default();
        all().for_each(|lease| holders.replace(None, lease.holder().map(|grant| grant.holder.map(|known| known.id))));
        assert_eq!(self.holders.by_connection, holders.by_connection, "leases by connection");
        assert_eq!(self.holders.unbound, holders.unbound, "leases of no connection");
        assert_eq!(self.waiters, all().map(|lease| lease.waiters.len()).sum::<usize>(), "waiters");
        let unused = all().filter(|lease| lease.unused > 0);
        let bytes = unused.map(|lease| lease_bytes(&lease.key) + lease.list_bytes());
        assert_eq!(self.unused_bytes, bytes.sum::<usize>(), "bytes of unused leases");
    }

    /// Whether there is room for the lease of a key that has none, the growth of the table included. Leases that nobody uses
    /// make room for it, oldest first: what is filled under their tokens is refused as too late.
    fn make_room(&mut self, key: Key<'_>) -> bool {
        let most = self.most_of_loads();
        loop {
            let grows = if self.map.len() == self.map.capacity() { self.map.capacity() * PLACE_BYTES } else { 0 };
            if self.taken() + self.unused_bytes + grows + lease_bytes(key.bytes) <= most {
                return true;
            }
            if !self.forget_oldest() {
                return false;
            }
        }
    }

    /// Forgets the lease that was left first, of those that nobody uses; false if there is none.
    fn forget_oldest(&mut self) -> bool {
        while let Some((hash, number)) = self.unused.pop_front() {
            if self.map.get(&hash).is_some_and(|lease| lease.unused == number) {
                self.remove(hash);
                return true;
            }
        }
        false
    }

    /// Bytes of all that loads have here and that cannot be forgotten.
    fn taken(&self) -> usize {
        self.bytes() - self.watched_bytes - self.unused_bytes
    }

    /// Bytes that loads may take.
    fn most_of_loads(&self) -> usize {
        self.most - self.most / UNLOADED_PART
    }

    /// Whether a connection may wait or load, at the cost of so many bytes: one that asks for very much leaves room for others.
    fn has_share(&self, connection: ConnectionId, bytes: usize) -> bool {
        let most = self.most_of_loads();
        self.taken() + bytes <= most - most / LOADS_LEFT_PART || self.shares.allow(connection, bytes, most)
    }

    pub(super) fn take_touched(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.touched)
    }

    /// Has somebody told when the step is done.
    pub(super) fn emit(&mut self, event: StoreEvent) {
        self.events.push(event);
    }

    pub(super) fn take_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.events)
    }

    pub(super) fn get(&self, hash: u64, key: Key<'_>) -> Option<&Lease> {
        self.map.get(&hash).map(|lease| &**lease).filter(|lease| lease.is_of(key) && !self.is_flushed(lease))
    }

    fn get_mut(&mut self, hash: u64, key: Key<'_>) -> Option<&mut Lease> {
        self.get(hash, key)?;
        self.map.get_mut(&hash).map(|lease| &mut **lease)
    }

    /// Whether nobody has used a lease since its database was flushed.
    fn is_flushed(&self, lease: &Lease) -> bool {
        (1..=self.flushed[usize::from(lease.db)]).contains(&lease.unused)
    }

    /// Drops the lease under a hash if it is as good as gone.
    fn drop_flushed(&mut self, hash: u64) {
        if self.map.get(&hash).is_some_and(|lease| self.is_flushed(lease)) {
            self.remove(hash);
        }
    }

    /// The key of a lease, by its hash.
    pub(super) fn key_of(&self, hash: u64) -> Option<(u8, Arc<[u8]>)> {
        self.map.get(&hash).map(|lease| (lease.db, Arc::clone(&lease.key)))
    }

    /// A transaction of a connection depends on a key that is absent: how often the key has been written or removed so far.
    /// None if there is no room to count it.
    pub(super) fn watch(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId) -> Option<Changes> {
        let most = self.most / WATCHED_PART;
        let cost = lease_bytes(key.bytes);
        let is_watched = self.get(hash, key).is_some_and(|lease| lease.watchers > 0);
        let taken = self.watched_bytes + if is_watched { 0 } else { cost };
        let crowded = taken > most - most / WATCHED_LEFT_PART;
        if taken > most || crowded && !self.watch_shares.allow(connection, cost, most) {
            return None;
        }
        self.drop_flushed(hash);
        self.insert(hash, key);
        self.get(hash, key)?;
        self.use_again(hash);
        let lease = self.get_mut(hash, key)?;
        lease.watchers += 1;
        let changes = lease.changes;
        self.watched_bytes = taken;
        self.watch_shares.take(connection, cost);
        Some(changes)
    }

    /// It does so no more.
    pub(super) fn unwatch(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId, now: u64) {
        let Some(lease) = self.get_mut(hash, key).filter(|lease| lease.watchers > 0) else { return };
        lease.watchers -= 1;
        let cost = lease_bytes(key.bytes);
        if lease.watchers == 0 {
            self.watched_bytes -= cost;
        }
        self.watch_shares.give_back(connection, cost);
        self.drop_if_idle(hash, now);
    }

    /// Adds the lease of a key, unless there is one under its hash.
    fn insert(&mut self, hash: u64, key: Key<'_>) {
        if !self.map.contains_key(&hash) {
            self.key_bytes += key.bytes.len();
            self.map.insert(hash, Lease::new(key));
        }
    }

    /// Asks for the lease of a key that has no value, or waits for whoever has it.
    pub(super) fn fetch(
        &mut self,
        hash: u64,
        key: Key<'_>,
        request: &FetchRequest,
        moment: StepContext,
    ) -> FetchResult<'static> {
        self.drop_flushed(hash);
        let waits = request.deadline.is_some_and(|deadline| deadline > moment.now);
        let charged = self.get(hash, key).is_some_and(|lease| lease.charged.is_some());
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
    fn wait(
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
        let charged = lease.charged.is_some();
        self.waiters += 1;
        self.shares.take(connection, WAITER_BYTES);
        if !charged {
            self.charge(hash, connection);
        }
        self.schedule(hash, deadline);
        FetchResult::Waits
    }

    /// The lease is used, and counts in the share of this connection and of no other.
    fn charge(&mut self, hash: u64, connection: ConnectionId) {
        self.use_again(hash);
        let Some(lease) = self.map.get_mut(&hash) else { return };
        let before = lease.charged.replace(connection);
        let bytes = lease_bytes(&lease.key);
        if let Some(before) = before {
            self.shares.give_back(before, bytes);
        }
        self.shares.take(connection, bytes);
    }

    /// The lease is none of those that can be forgotten, whether or not it was.
    fn use_again(&mut self, hash: u64) {
        if let Some(lease) = self.map.get_mut(&hash)
            && std::mem::take(&mut lease.unused) > 0
        {
            self.unused_bytes -= lease_bytes(&lease.key) + lease.list_bytes();
        }
    }

    /// As [`fetch`](Leases::fetch), for a key whose value is to be loaded anew while it is served: nobody waits. The token,
    /// if the caller got it.
    pub(super) fn refresh(
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

    fn grant(&mut self, hash: u64, holder: Option<ConnectionId>, length: u64, assigned: bool, moment: StepContext) {
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
    fn want(&mut self, hash: u64, now: u64) {
        if let Some(lease) = self.map.get_mut(&hash)
            && !lease.queued
        {
            lease.queued = true;
            self.events.push(StoreEvent::Wanted(lease.db, Arc::clone(&lease.key)));
            self.schedule(hash, now + MAX_AGE);
        }
    }

    /// Gives the lease that a worker was asked for to `worker`; whether one is still wanted.
    pub(super) fn assign(
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
    pub(super) fn fall_back(&mut self, hash: u64, key: Key<'_>, moment: StepContext) {
        if self.get(hash, key).is_some_and(|lease| lease.queued && lease.may_grant(moment.now)) {
            self.grant_to_waiter(hash, moment);
        }
    }

    /// Whether a worker was asked for and has not come.
    pub(super) fn is_queued(&self, hash: u64, key: Key<'_>) -> bool {
        self.get(hash, key).is_some_and(|lease| lease.queued)
    }

    /// The key waits for a worker no more, although one was asked for. If anybody waits for it, one is asked for again in
    /// a while.
    pub(super) fn unqueue(&mut self, hash: u64, key: Key<'_>, now: u64) {
        if let Some(lease) = self.get_mut(hash, key)
            && std::mem::take(&mut lease.queued)
        {
            self.schedule(hash, now + HOLD_OFF.0);
            self.drop_if_idle(hash, now);
        }
    }

    /// Workers load the key no more: somebody who waits and can load gets the lease, and the others learn that nobody loads
    /// for them. A load that is under way goes on: if it ends without a value, a worker is asked for again.
    pub(super) fn unserve(&mut self, hash: u64, key: Key<'_>, moment: StepContext) {
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
            let holders = lease.grants.iter().map(|grant| grant.holder).chain([lease.released_by]);
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
    fn grant_next(&mut self, hash: u64, moment: StepContext) {
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
    fn pass_on(&mut self, hash: u64, because: Because, moment: StepContext) {
        let Some(lease) = self.map.get_mut(&hash) else { return };
        lease.held = false;
        if lease.waiters.is_empty() {
            (lease.failures, lease.ended) = (0, 0);
            if !lease.served {
                (lease.releases, lease.rests_until) = (0, 0);
            }
            return;
        }
        lease.failures += u8::from(because != Because::Released);
        lease.ended += u8::from(because == Because::Ended);
        if lease.failures >= MAX_FAILURES {
            let message: Arc<str> = Arc::from(lease.why_failed());
            lease.hold_off(&message, None, moment.now);
            self.answer(hash, |_| Some(Outcome::Failed(Arc::clone(&message))));
            return;
        }
        self.grant_next(hash, moment);
    }

    /// Tells those who wait; who is told nothing goes on waiting.
    fn answer(&mut self, hash: u64, mut outcome: impl FnMut(&Waiter) -> Option<Outcome>) {
        self.retain_waiters(hash, |waiter, events| {
            let outcome = outcome(waiter);
            let stays = outcome.is_none();
            events.extend(outcome.map(|outcome| StoreEvent::Outcome(waiter.connection, waiter.wait, outcome)));
            stays
        });
    }

    /// Keeps the waiters that `stays` keeps; how many are gone. With the last of them the worker is not wanted any more,
    /// and the memory of a crowd is given back.
    fn retain_waiters(&mut self, hash: u64, mut stays: impl FnMut(&Waiter, &mut Vec<StoreEvent>) -> bool) -> usize {
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

    /// An item was written, or removed, while transactions may depend on the key's being absent.
    pub(super) fn changed(&mut self, hash: u64, key: Key<'_>) {
        if let Some(lease) = self.get_mut(hash, key) {
            lease.changes.written = lease.changes.written.wrapping_add(1);
        }
    }

    /// The value of a key was changed or taken away by somebody who was not asked to load it.
    pub(super) fn void(&mut self, hash: u64, key: Key<'_>) {
        let Some(lease) = self.get_mut(hash, key) else { return };
        if lease.is_loading() {
            // Whoever reads what this load brings reads what was there before the change.
            lease.changes.written = lease.changes.written.wrapping_add(1);
        }
        self.list_bytes += lease.void();
        self.touched.push(hash);
        self.recount(hash);
    }

    fn recount(&mut self, hash: u64) {
        if let Some(lease) = self.map.get_mut(&hash) {
            self.holders.recount(lease);
        }
    }

    /// Everything was taken away, or everything in one database. That is no change for watchers: an item that somebody wrote
    /// was counted then, and one that was loaded may go at any time. Leases that nobody uses are many, perhaps, and all
    /// shards are locked: they count as gone, and go when their keys or their room are wanted.
    pub(super) fn void_all(&mut self, db: Option<u8>) {
        let all = db.map_or(0..self.flushed.len(), |db| usize::from(db)..usize::from(db) + 1);
        self.flushed[all].fill(self.left);
        let of_db = |lease: &Lease| db.is_none_or(|db| db == lease.db);
        for (hash, lease) in self.map.iter_mut().filter(|(_, lease)| lease.unused == 0 && of_db(lease)) {
            self.list_bytes += lease.void();
            self.holders.recount(lease);
            // A void load goes on, and nobody waits for it.
            if !lease.waiters.is_empty() || !lease.is_used() {
                self.touched.push(*hash);
            }
        }
    }

    /// After a step that changed a key: those who wait get what is there now, or somebody loads.
    pub(super) fn settle(&mut self, hash: u64, value: Option<&Loaded>, moment: StepContext) {
        if let Some(loaded) = value {
            self.answer(hash, |_| Some(Outcome::Loaded(loaded.clone())));
            if let Some(lease) = self.map.get_mut(&hash) {
                lease.hold_off = None;
            }
        } else {
            self.grant_next(hash, moment);
        }
        self.drop_if_idle(hash, moment.now);
    }

    /// Whether a value loaded under `token` may be stored. Those who wait are told by [`filled`](Leases::filled), or
    /// here if it may not: `refused_by_tags` says whether a tag was invalidated since a clock; `value` is what was loaded.
    pub(super) fn check_fill_token(
        &mut self,
        hash: u64,
        key: Key<'_>,
        token: u64,
        loaded: &dyn Fn() -> Loaded,
        refused_by_tags: impl FnOnce(u64) -> bool,
        now: u64,
    ) -> TokenCheck {
        let Some(lease) = self.get_mut(hash, key) else { return TokenCheck::Late };
        if let Some(place) = lease.voided.iter().position(|voided| voided.token == token) {
            let voided = lease.voided.remove(place);
            let loaded = Outcome::Loaded(loaded());
            // A tag may have been invalidated between the grant and the void: who joined after that must not have it.
            let may = |waiter: &Waiter| waiter.voids < voided.number && waiter.clock <= voided.clock;
            self.answer(hash, |waiter| may(waiter).then(|| loaded.clone()));
            self.touched.push(hash);
            return TokenCheck::Changed;
        }
        let Some(grant) = lease.good(token, now) else { return TokenCheck::Late };
        let clock = grant.clock;
        if refused_by_tags(clock) {
            // Who has the lease now, if it passed on, may have read after the invalidation.
            if !lease.forget_passed_on(token) {
                let grown = lease.void();
                lease.forget_voided(token);
                self.list_bytes += grown;
                self.recount(hash);
            }
            // Who joined when the clock stood as at the grant has seen no invalidation that the load has not.
            let loaded = Outcome::Loaded(loaded());
            self.answer(hash, |waiter| (waiter.clock <= clock).then(|| loaded.clone()));
            self.touched.push(hash);
            return TokenCheck::TagInvalidated;
        }
        TokenCheck::Good(clock)
    }

    /// A row was stored that somebody had loaded, while transactions may depend on the key's being absent.
    pub(super) fn appeared(&mut self, hash: u64) {
        if let Some(lease) = self.map.get_mut(&hash) {
            lease.changes.loaded = lease.changes.loaded.wrapping_add(1);
        }
    }

    /// A load has ended with a value, stored or not.
    pub(super) fn filled(&mut self, hash: u64, loaded: Option<&Loaded>, now: u64) {
        let Some(lease) = self.map.get_mut(&hash) else { return };
        lease.end();
        lease.hold_off = None;
        if let Some(loaded) = loaded {
            self.answer(hash, |_| Some(Outcome::Loaded(loaded.clone())));
        }
        self.drop_if_idle(hash, now);
    }

    /// Whether anybody waits for the key.
    pub(super) fn has_waiters(&self, hash: u64) -> bool {
        self.map.get(&hash).is_some_and(|lease| !lease.waiters.is_empty())
    }

    /// A load has ended without a value. Those who wait get `kept`, if something may still be handed out, or the
    /// message. Whether the token meant anything.
    pub(super) fn fail(
        &mut self,
        hash: u64,
        key: Key<'_>,
        token: u64,
        (message, retry): (&Arc<str>, Option<u64>),
        kept: Option<&Loaded>,
        now: u64,
    ) -> bool {
        let Some(lease) = self.get_mut(hash, key) else { return false };
        if lease.forget_voided(token) {
            self.touched.push(hash);
            return true;
        }
        if lease.good(token, now).is_none() {
            return false;
        }
        // Who has the lease now, if it passed on, may still succeed; and a failure that comes while the key is held off
        // for another one says nothing new.
        let another = lease.forget_passed_on(token);
        lease.grants.retain(|grant| grant.token != token);
        if another || !lease.held && lease.held_off(now).is_some() {
            return true;
        }
        lease.hold_off(message, retry, now);
        let until = lease.hold_off.as_ref().map_or(now, |hold_off| hold_off.until + REMEMBERED);
        let outcome = kept.map_or_else(|| Outcome::Failed(Arc::clone(message)), |kept| Outcome::Loaded(kept.clone()));
        self.answer(hash, |_| Some(outcome.clone()));
        self.schedule(hash, until);
        self.drop_if_idle(hash, now);
        true
    }

    /// The load takes longer; whoever says so holds the lease from now on. Until when, if it is still its to hold.
    pub(super) fn renew(
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
        if lease.charged.is_none() {
            self.charge(hash, holder);
        }
        self.recount(hash);
        self.schedule(hash, deadline);
        Some(deadline)
    }

    /// The holder gives the lease up without a failure. Whether it had it.
    pub(super) fn release(&mut self, hash: u64, key: Key<'_>, token: u64, moment: StepContext) -> bool {
        if let Some(lease) = self.get_mut(hash, key)
            && let Some(until) = lease.count_release(token, moment.now)
        {
            self.schedule(hash, until);
        }
        self.give_up(hash, key, token, moment)
    }

    /// A lease goes back unused: its holder never got it, or does not want it. Whether the token meant anything.
    pub(super) fn give_up(&mut self, hash: u64, key: Key<'_>, token: u64, moment: StepContext) -> bool {
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

    /// Somebody leaves the queue. Whether it stood there.
    pub(super) fn leave(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId, wait: u64, now: u64) -> bool {
        if self.get(hash, key).is_none() {
            return false;
        }
        let left = self.retain_waiters(hash, |waiter, _| waiter.connection != connection || waiter.wait != wait);
        self.drop_if_idle(hash, now);
        left > 0
    }

    /// A connection waits for the key no more, under none of its numbers. A lease that it holds stays its own.
    pub(super) fn leave_all(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId, now: u64) {
        if self.get(hash, key).is_some() {
            self.retain_waiters(hash, |waiter, _| waiter.connection != connection);
            self.drop_if_idle(hash, now);
        }
    }

    /// A connection that waited for the key is gone. If it was granted the lease meanwhile, it never learned of it.
    pub(super) fn left(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId, moment: StepContext) {
        if self.get(hash, key).is_some() {
            self.retain_waiters(hash, |waiter, _| waiter.connection != connection);
            self.leave_load(hash, connection, Because::Released, moment);
        }
    }

    /// The connection that holds a lease is gone. What it loads stays good.
    pub(super) fn lost(&mut self, hold: Hold, connection: ConnectionId, moment: StepContext) {
        if self.stands(hold, connection) {
            self.leave_load(hold.hash, connection, Because::Ended, moment);
        }
    }

    /// The connection that holds a lease is gone, and another one may renew it until a moment: until then at most it is
    /// held. A lease that was renewed over another connection meanwhile is that one's. A load that was voided ends in the
    /// same way, but nobody renews it.
    pub(super) fn unheld(&mut self, hold: Hold, connection: ConnectionId, until: u64) {
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
    pub(super) fn stands(&self, Hold { hash, token }: Hold, connection: ConnectionId) -> bool {
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

    /// The tag clock of the oldest token that is good; `clock` if there is none. It may be older than that, but for tables
    /// of many leases no more than a second is looked back.
    pub(super) fn oldest_clock(&mut self, clock: u64, now: u64) -> u64 {
        if self.map.len() <= FEW_LEASES || now >= self.oldest.1 + OLDEST_EVERY {
            let good = |grant: &&Grant| now < grant.good_until;
            let grants = self.map.values().flat_map(|lease| lease.grants.iter().filter(good));
            self.oldest = (grants.map(|grant| grant.clock).min().unwrap_or(clock), now);
        }
        self.oldest.0
    }

    /// Who holds the leases that stand now, None for those that belong to no connection, each with their number.
    pub(super) fn holders(&self) -> impl Iterator<Item = (Option<u64>, usize)> {
        self.holders.iter()
    }

    fn schedule(&mut self, hash: u64, at: u64) {
        if let Some(lease) = self.map.get_mut(&hash)
            && at < lease.scheduled
        {
            lease.scheduled = at;
            self.due.push(Reverse((at, hash)));
            if self.due.len() > 2 * self.map.len() + FEW_LEASES {
                self.forget_past_looks();
            }
        }
    }

    /// Looks at leases that are due: waits end, leases pass on, what is too old is forgotten. `most` is how many may be
    /// looked at, and is lowered. Tokens are drawn from `token`.
    pub(super) fn tick(&mut self, token: &mut dyn FnMut() -> u64, clock: u64, now: u64, most: &mut usize) {
        while *most > 0 {
            match self.due.peek() {
                Some(Reverse((at, _))) if *at <= now => {}
                _ => return,
            }
            let Some(Reverse((_, hash))) = self.due.pop() else { return };
            let Some(lease) = self.map.get_mut(&hash).filter(|lease| lease.scheduled <= now) else { continue };
            lease.scheduled = u64::MAX;
            *most = most.saturating_sub(1 + lease.waiters.len() / WAITERS_PER_LOOK);
            self.look(hash, StepContext { token: token(), clock, now });
        }
    }

    /// Looks at a lease that is due.
    fn look(&mut self, hash: u64, moment: StepContext) {
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

    /// Drops a lease that nothing is to be remembered of; whether it did. One that nobody uses can be forgotten from now on.
    fn drop_if_idle(&mut self, hash: u64, now: u64) -> bool {
        self.recount(hash);
        let Some(lease) = self.map.get_mut(&hash).filter(|lease| !lease.is_used()) else { return false };
        let bytes = lease_bytes(&lease.key);
        if let Some(connection) = lease.charged.take() {
            self.shares.give_back(connection, bytes);
        }
        if lease.is_idle(now) {
            self.remove(hash);
            return true;
        }
        if lease.unused == 0 && lease.watchers == 0 {
            self.left += 1;
            lease.unused = self.left;
            self.unused.push_back((hash, self.left));
            self.unused_bytes += bytes + lease.list_bytes();
            if self.unused.len() > 2 * self.map.len() + FEW_LEASES {
                self.forget_past_unused();
            }
        }
        false
    }

    /// Drops a lease that nobody uses.
    fn remove(&mut self, hash: u64) {
        self.use_again(hash);
        if let Some(lease) = self.map.remove(&hash) {
            self.holders.replace(lease.counted, None);
            self.key_bytes -= lease.key.len();
            self.list_bytes -= lease.list_bytes();
            self.shrink();
        }
    }

    /// Gives back most of what a burst took. Seldom: the table is a quarter full then, and half full afterwards.
    fn shrink(&mut self) {
        let length = self.map.len();
        if self.map.capacity() > FEW_LEASES && length < self.map.capacity() / 4 {
            self.map.shrink_to(2 * length);
            self.forget_past_looks();
            self.due.shrink_to(2 * length);
            self.forget_past_unused();
            self.unused.shrink_to(2 * length);
            self.shares.0.shrink_to_fit();
            self.holders.by_connection.shrink_to_fit();
            self.watch_shares.0.shrink_to_fit();
        }
    }

    /// Forgets when leases are due that are gone, or are looked at sooner.
    fn forget_past_looks(&mut self) {
        let map = &self.map;
        self.due.retain(|Reverse((at, hash))| map.get(hash).is_some_and(|lease| lease.scheduled == *at));
    }

    /// Drops the places of leases that are used again, or gone.
    fn forget_past_unused(&mut self) {
        let map = &self.map;
        self.unused.retain(|(hash, number)| map.get(hash).is_some_and(|lease| lease.unused == *number));
    }
}

impl Lease {
    fn new(key: Key<'_>) -> Box<Lease> {
        Box::new(Lease {
            db: key.db,
            key: Arc::from(key.bytes),
            grants: Vec::new(),
            held: false,
            voided: Vec::new(),
            voids: 0,
            waiters: VecDeque::new(),
            served: false,
            queued: false,
            failures: 0,
            ended: 0,
            releases: 0,
            released_by: None,
            rests_until: 0,
            hold_off: None,
            watchers: 0,
            changes: Changes::default(),
            charged: None,
            counted: None,
            unused: 0,
            scheduled: u64::MAX,
        })
    }

    fn is_loading(&self) -> bool {
        self.queued || !self.grants.is_empty() || !self.waiters.is_empty()
    }

    fn is_of(&self, key: Key<'_>) -> bool {
        self.db == key.db && *self.key == *key.bytes
    }

    fn holder(&self) -> Option<&Grant> {
        self.grants.last().filter(|_| self.held)
    }

    fn may_grant(&self, now: u64) -> bool {
        !self.held && self.voided.len() <= MAX_VOIDED && self.rests_until <= now
    }

    /// Why nobody tries any more.
    fn why_failed(&self) -> &'static str {
        match (self.ended >= MAX_FAILURES, self.served) {
            (true, true) => "the worker that loaded it ended, twice",
            (true, false) => "the client that loaded it ended, twice",
            (false, _) => "no one who loaded it answered in time",
        }
    }

    /// The holder releases the lease. If that was done too often in a row, it rests; until when.
    fn count_release(&mut self, token: u64, now: u64) -> Option<u64> {
        let (holder, assigned) = self.holder().filter(|grant| grant.token == token).map(|g| (g.holder, g.assigned))?;
        self.releases = if assigned || holder == self.released_by { self.releases.saturating_add(1) } else { 1 };
        self.released_by = holder;
        let more = self.releases.checked_sub(MAX_RELEASES + 1)?;
        self.rests_until = now + (HOLD_OFF.0 << more.min(8)).min(HOLD_OFF.1);
        Some(self.rests_until)
    }

    fn good(&self, token: u64, now: u64) -> Option<&Grant> {
        self.grants.iter().find(|grant| grant.token == token && now < grant.good_until)
    }

    /// The key was changed; by how many bytes its lists have grown.
    fn void(&mut self) -> usize {
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
    fn list_bytes(&self) -> usize {
        self.grants.capacity() * size_of::<Grant>() + self.voided.capacity() * size_of::<Voided>()
    }

    /// No token is good any more, and nobody holds the lease.
    fn end(&mut self) {
        self.grants.clear();
        self.lay_down();
    }

    /// Nobody holds the lease, and what became of those who held it is forgotten; tokens stay good.
    fn lay_down(&mut self) {
        (self.held, self.queued) = (false, false);
        (self.failures, self.ended, self.releases, self.released_by, self.rests_until) = (0, 0, 0, None, 0);
    }

    /// Ends the load under a token from which the lease has passed on to another, and that load alone; whether it had.
    fn forget_passed_on(&mut self, token: u64) -> bool {
        let passed_on = self.holder().is_some_and(|grant| grant.token != token);
        if passed_on {
            self.grants.retain(|grant| grant.token != token);
        }
        passed_on
    }

    fn forget_voided(&mut self, token: u64) -> bool {
        let before = self.voided.len();
        self.voided.retain(|voided| voided.token != token);
        self.voided.len() < before
    }

    fn hold_off(&mut self, message: &Arc<str>, retry: Option<u64>, now: u64) {
        let before = self.hold_off.take().map_or(0, |hold_off| hold_off.delay);
        let delay = retry.unwrap_or((before * 2).max(HOLD_OFF.0)).min(HOLD_OFF.1.max(retry.unwrap_or(0).min(MAX_AGE)));
        self.lay_down();
        self.hold_off = Some(HoldOff { until: now + delay, delay, message: Arc::clone(message) });
    }

    /// Whether anybody holds it, loads under a voided token, or waits, or a worker was asked for.
    fn is_used(&self) -> bool {
        self.held || self.queued || !self.voided.is_empty() || !self.waiters.is_empty()
    }

    fn is_idle(&self, now: u64) -> bool {
        !self.is_used()
            && self.hold_off.is_none()
            && self.rests_until <= now
            && self.watchers == 0
            && !self.grants.iter().any(|grant| now < grant.good_until)
    }

    /// When it is to be looked at again.
    fn next_look(&self, now: u64) -> u64 {
        let held = self.holder().map(|grant| grant.deadline);
        let old = self.grants.iter().map(|grant| grant.good_until);
        let voided = self.voided.iter().map(|voided| voided.deadline);
        let waiters = self.waiters.iter().map(|waiter| waiter.deadline);
        let hold_off = self.hold_off.iter().flat_map(|hold_off| [hold_off.until, hold_off.until + REMEMBERED]);
        let all = held.into_iter().chain(old).chain(voided).chain(waiters).chain(hold_off).chain([self.rests_until]);
        let next = all.filter(|at| *at > now).min().unwrap_or(now + MAX_AGE);
        // A crowd is not looked through for each of its waiters.
        next.max(now + (self.waiters.len() / CROWD) as u64)
    }

    /// How often the item was changed while this was there.
    pub(super) fn changes(&self) -> Changes {
        self.changes
    }

    /// How many wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Since when somebody holds it.
    pub(super) fn held_since(&self) -> Option<u64> {
        self.holder().map(|grant| grant.granted_at)
    }

    /// Until when nobody loads, and why the last load failed.
    pub(super) fn held_off(&self, now: u64) -> Option<&HoldOff> {
        self.hold_off.as_ref().filter(|hold_off| now < hold_off.until)
    }

    /// Until when somebody holds it, if nobody gives it up before.
    pub(super) fn held_until(&self) -> Option<u64> {
        self.holder().map(|grant| grant.deadline)
    }

    /// Whether a load runs on under a token that was voided.
    pub(super) fn is_voided(&self, token: u64) -> bool {
        self.voided.iter().any(|voided| voided.token == token)
    }

    /// Whether a token would be taken.
    pub(super) fn takes(&self, token: u64, now: u64) -> bool {
        self.good(token, now).is_some()
    }
}
