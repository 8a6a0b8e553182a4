//! Keys whose absence transactions depend on.

use super::key_lease::{Changes, lease_bytes};
use super::table::Leases;
use crate::store::events::ConnectionId;
use crate::store::types::Key;

/// Part of the bound that keys which transactions depend on may take, as a divisor, whatever is loaded. This and what loads
/// may take are more than all, but both are seldom large.
const WATCHED_PART: usize = 2;
/// A connection may watch no more than its share once this part of that, or less, is left, as a divisor.
const WATCHED_LEFT_PART: usize = 2;

impl Leases {
    /// A transaction of a connection depends on a key that is absent: how often the key has been written or removed so far.
    /// None if there is no room to count it.
    pub(in crate::store) fn watch(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId) -> Option<Changes> {
        let most = self.most / WATCHED_PART;
        let cost = lease_bytes(key.bytes);
        let is_watched = self.get(hash, key).is_some_and(|lease| lease.watchers > 0);
        let taken = self.watched.bytes + if is_watched { 0 } else { cost };
        let crowded = taken > most - most / WATCHED_LEFT_PART;
        if taken > most || crowded && !self.watched.shares.allow(connection, cost, most) {
            return None;
        }
        self.drop_flushed(hash);
        self.insert(hash, key);
        self.get(hash, key)?;
        self.use_again(hash);
        let lease = self.get_mut(hash, key)?;
        lease.watchers += 1;
        let changes = lease.changes;
        self.watched.bytes = taken;
        self.watched.shares.take(connection, cost);
        Some(changes)
    }

    /// It does so no more.
    pub(in crate::store) fn unwatch(&mut self, hash: u64, key: Key<'_>, connection: ConnectionId, now: u64) {
        let Some(lease) = self.get_mut(hash, key).filter(|lease| lease.watchers > 0) else { return };
        lease.watchers -= 1;
        let cost = lease_bytes(key.bytes);
        if lease.watchers == 0 {
            self.watched.bytes -= cost;
        }
        self.watched.shares.give_back(connection, cost);
        self.drop_if_idle(hash, now);
    }

    /// An item was written, or removed, while transactions may depend on the key's being absent.
    pub(in crate::store) fn changed(&mut self, hash: u64, key: Key<'_>) {
        if let Some(lease) = self.get_mut(hash, key) {
            lease.changes.written = lease.changes.written.wrapping_add(1);
        }
    }

    /// A row was stored that somebody had loaded, while transactions may depend on the key's being absent.
    pub(in crate::store) fn appeared(&mut self, hash: u64) {
        if let Some(lease) = self.map.get_mut(&hash) {
            lease.changes.loaded = lease.changes.loaded.wrapping_add(1);
        }
    }
}
