//! All leases of a shard: how one is found and dropped, and the memory that they take.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use super::holders::Holders;
use super::key_lease::{LEASE_BYTES, Lease, WAITER_BYTES, lease_bytes};
use super::shares::Shares;
use crate::limits::DATABASES;
use crate::store::events::{ConnectionId, StoreEvent};
use crate::store::tags::Identity;
use crate::store::types::Key;

/// Leases that are few: below this no table is shrunk, and all of them are looked through at any time.
pub(super) const FEW_LEASES: usize = 1024;
/// Part of the bound that loads may not take, as a divisor, whatever is watched: see `WATCHED_PART`.
const UNLOADED_PART: usize = 4;
/// A connection that loads may take no more than its share once this part of the bound, or less, is left, as a divisor.
const LOADS_LEFT_PART: usize = 3;
/// What a place takes in the table of leases, among those that are due, and among those that nobody uses, in bytes.
const PLACE_BYTES: usize = size_of::<(u64, Box<Lease>)>() + 1;
const DUE_BYTES: usize = size_of::<(u64, u64)>();
const UNUSED_BYTES: usize = size_of::<(u64, u64)>();

/// Leases that nobody holds or waits for: they remember old tokens and failures, and are forgotten for want of room.
#[derive(Default)]
pub(super) struct Unused {
    /// Each with its number here, in the order in which they were left. Some are used again, or gone.
    order: VecDeque<(u64, u64)>,
    /// How many were put here so far, and how many of them when each database was flushed: those are as good as gone.
    pub(super) left: u64,
    pub(super) flushed: [u64; DATABASES],
    /// Bytes of those that are here, with their keys.
    bytes: usize,
}

/// Leases that transactions depend on.
#[derive(Default)]
pub(super) struct Watched {
    /// Their bytes, with their keys, and what each connection has of them.
    pub(super) bytes: usize,
    pub(super) shares: Shares,
}

/// The leases of a shard.
#[derive(Default)]
pub(in crate::store) struct Leases {
    /// Each in memory of its own, so that the table is small beside what it holds: else one doubling of the table could
    /// take more than all leases may, and leave no room until the table is given back.
    pub(super) map: HashMap<u64, Box<Lease>, BuildHasherDefault<Identity>>,
    /// When which lease is to be looked at.
    pub(super) due: BinaryHeap<Reverse<(u64, u64)>>,
    /// Leases of keys that were changed in this step.
    pub(super) touched: Vec<u64>,
    pub(super) events: Vec<StoreEvent>,
    pub(super) unused: Unused,
    pub(super) waiters: usize,
    /// Bytes that the waiters of each connection take, and the leases that count in its share.
    pub(super) shares: Shares,
    pub(super) holders: Holders,
    pub(super) key_bytes: usize,
    /// Bytes of the lists of grants and of voided loads.
    pub(super) list_bytes: usize,
    /// Those that transactions depend on.
    pub(super) watched: Watched,
    /// Bytes that all may take.
    pub(super) most: usize,
    /// How long a load may take, in milliseconds.
    pub(super) load_limit: u64,
    /// The tag clock of the oldest token, and when that was looked for.
    pub(super) oldest: (u64, u64),
}

impl Leases {
    pub(in crate::store) fn new(most: usize, load_limit: u64) -> Leases {
        Leases { most, load_limit, ..Leases::default() }
    }

    /// Whether any key has a lease: the one look that a write without them pays for.
    #[inline]
    pub(in crate::store) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// How many there are.
    pub(in crate::store) fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether the step has something to settle or to tell.
    #[inline]
    pub(in crate::store) fn has_pending(&self) -> bool {
        !self.touched.is_empty() || !self.events.is_empty()
    }

    pub(in crate::store) fn bytes(&self) -> usize {
        let shares =
            self.shares.0.capacity() + self.watched.shares.0.capacity() + self.holders.by_connection.capacity();
        let places = self.map.capacity() + shares;
        let table =
            places * PLACE_BYTES + self.due.capacity() * DUE_BYTES + self.unused.order.capacity() * UNUSED_BYTES;
        let leases = self.map.len() * LEASE_BYTES + self.key_bytes + self.list_bytes;
        table + leases + self.waiters * WAITER_BYTES
    }

    /// Panics unless the bytes that are counted are those of the leases that there are.
    pub(in crate::store) fn check(&self) {
        let all = || self.map.values();
        assert_eq!(self.key_bytes, all().map(|lease| lease.key.len()).sum::<usize>(), "bytes of keys");
        assert_eq!(self.list_bytes, all().map(|lease| lease.list_bytes()).sum::<usize>(), "bytes of lists");
        let mut holders = Holders::default();
        all().for_each(|lease| holders.replace(None, lease.holder().map(|grant| grant.holder.map(|known| known.id))));
        assert_eq!(self.holders.by_connection, holders.by_connection, "leases by connection");
        assert_eq!(self.holders.unbound, holders.unbound, "leases of no connection");
        assert_eq!(self.waiters, all().map(|lease| lease.waiters.len()).sum::<usize>(), "waiters");
        let unused = all().filter(|lease| lease.place.unused > 0);
        let bytes = unused.map(|lease| lease_bytes(&lease.key) + lease.list_bytes());
        assert_eq!(self.unused.bytes, bytes.sum::<usize>(), "bytes of unused leases");
    }

    /// Whether there is room for the lease of a key that has none, the growth of the table included. Leases that nobody uses
    /// make room for it, oldest first: what is filled under their tokens is refused as too late.
    pub(super) fn make_room(&mut self, key: Key<'_>) -> bool {
        let most = self.most_of_loads();
        loop {
            let grows = if self.map.len() == self.map.capacity() { self.map.capacity() * PLACE_BYTES } else { 0 };
            if self.taken() + self.unused.bytes + grows + lease_bytes(key.bytes) <= most {
                return true;
            }
            if !self.forget_oldest() {
                return false;
            }
        }
    }

    /// Forgets the lease that was left first, of those that nobody uses; false if there is none.
    fn forget_oldest(&mut self) -> bool {
        while let Some((hash, number)) = self.unused.order.pop_front() {
            if self.map.get(&hash).is_some_and(|lease| lease.place.unused == number) {
                self.remove(hash);
                return true;
            }
        }
        false
    }

    /// Bytes of all that loads have here and that cannot be forgotten.
    pub(super) fn taken(&self) -> usize {
        self.bytes() - self.watched.bytes - self.unused.bytes
    }

    /// Bytes that loads may take.
    pub(super) fn most_of_loads(&self) -> usize {
        self.most - self.most / UNLOADED_PART
    }

    /// Whether a connection may wait or load, at the cost of so many bytes: one that asks for very much leaves room for others.
    pub(super) fn has_share(&self, connection: ConnectionId, bytes: usize) -> bool {
        let most = self.most_of_loads();
        self.taken() + bytes <= most - most / LOADS_LEFT_PART || self.shares.allow(connection, bytes, most)
    }

    pub(in crate::store) fn take_touched(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.touched)
    }

    /// Has somebody told when the step is done.
    pub(in crate::store) fn emit(&mut self, event: StoreEvent) {
        self.events.push(event);
    }

    pub(in crate::store) fn take_events(&mut self) -> Vec<StoreEvent> {
        std::mem::take(&mut self.events)
    }

    pub(in crate::store) fn get(&self, hash: u64, key: Key<'_>) -> Option<&Lease> {
        self.map.get(&hash).map(|lease| &**lease).filter(|lease| lease.is_of(key) && !self.is_flushed(lease))
    }

    pub(super) fn get_mut(&mut self, hash: u64, key: Key<'_>) -> Option<&mut Lease> {
        self.get(hash, key)?;
        self.map.get_mut(&hash).map(|lease| &mut **lease)
    }

    /// Whether nobody has used a lease since its database was flushed.
    fn is_flushed(&self, lease: &Lease) -> bool {
        (1..=self.unused.flushed[usize::from(lease.db)]).contains(&lease.place.unused)
    }

    /// Drops the lease under a hash if it is as good as gone.
    pub(super) fn drop_flushed(&mut self, hash: u64) {
        if self.map.get(&hash).is_some_and(|lease| self.is_flushed(lease)) {
            self.remove(hash);
        }
    }

    /// The key of a lease, by its hash.
    pub(in crate::store) fn key_of(&self, hash: u64) -> Option<(u8, Arc<[u8]>)> {
        self.map.get(&hash).map(|lease| (lease.db, Arc::clone(&lease.key)))
    }

    /// Adds the lease of a key, unless there is one under its hash.
    pub(super) fn insert(&mut self, hash: u64, key: Key<'_>) {
        if !self.map.contains_key(&hash) {
            self.key_bytes += key.bytes.len();
            self.map.insert(hash, Lease::new(key));
        }
    }

    /// The lease is used, and counts in the share of this connection and of no other.
    pub(super) fn charge(&mut self, hash: u64, connection: ConnectionId) {
        self.use_again(hash);
        let Some(lease) = self.map.get_mut(&hash) else { return };
        let before = lease.place.charged.replace(connection);
        let bytes = lease_bytes(&lease.key);
        if let Some(before) = before {
            self.shares.give_back(before, bytes);
        }
        self.shares.take(connection, bytes);
    }

    /// The lease is none of those that can be forgotten, whether or not it was.
    pub(super) fn use_again(&mut self, hash: u64) {
        if let Some(lease) = self.map.get_mut(&hash)
            && std::mem::take(&mut lease.place.unused) > 0
        {
            self.unused.bytes -= lease_bytes(&lease.key) + lease.list_bytes();
        }
    }

    pub(super) fn recount(&mut self, hash: u64) {
        if let Some(lease) = self.map.get_mut(&hash) {
            self.holders.recount(lease);
        }
    }

    /// Who holds the leases that stand now, None for those that belong to no connection, each with their number.
    pub(in crate::store) fn holders(&self) -> impl Iterator<Item = (Option<u64>, usize)> {
        self.holders.iter()
    }

    /// Drops a lease that nothing is to be remembered of; whether it did. One that nobody uses can be forgotten from now on.
    pub(super) fn drop_if_idle(&mut self, hash: u64, now: u64) -> bool {
        self.recount(hash);
        let Some(lease) = self.map.get_mut(&hash).filter(|lease| !lease.is_used()) else { return false };
        let bytes = lease_bytes(&lease.key);
        if let Some(connection) = lease.place.charged.take() {
            self.shares.give_back(connection, bytes);
        }
        if lease.is_idle(now) {
            self.remove(hash);
            return true;
        }
        if lease.place.unused == 0 && lease.watchers == 0 {
            self.unused.left += 1;
            lease.place.unused = self.unused.left;
            self.unused.order.push_back((hash, self.unused.left));
            self.unused.bytes += bytes + lease.list_bytes();
            if self.unused.order.len() > 2 * self.map.len() + FEW_LEASES {
                self.forget_past_unused();
            }
        }
        false
    }

    /// Drops a lease that nobody uses.
    pub(super) fn remove(&mut self, hash: u64) {
        self.use_again(hash);
        if let Some(lease) = self.map.remove(&hash) {
            self.holders.replace(lease.place.counted, None);
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
            self.unused.order.shrink_to(2 * length);
            self.shares.0.shrink_to_fit();
            self.holders.by_connection.shrink_to_fit();
            self.watched.shares.0.shrink_to_fit();
        }
    }

    pub(super) fn schedule(&mut self, hash: u64, at: u64) {
        if let Some(lease) = self.map.get_mut(&hash)
            && at < lease.place.scheduled
        {
            lease.place.scheduled = at;
            self.due.push(Reverse((at, hash)));
            if self.due.len() > 2 * self.map.len() + FEW_LEASES {
                self.forget_past_looks();
            }
        }
    }

    /// Forgets when leases are due that are gone, or are looked at sooner.
    fn forget_past_looks(&mut self) {
        let map = &self.map;
        self.due.retain(|Reverse((at, hash))| map.get(hash).is_some_and(|lease| lease.place.scheduled == *at));
    }

    /// Drops the places of leases that are used again, or gone.
    fn forget_past_unused(&mut self) {
        let map = &self.map;
        self.unused.order.retain(|(hash, number)| map.get(hash).is_some_and(|lease| lease.place.unused == *number));
    }
}
