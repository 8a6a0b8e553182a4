//! Keys of a shard that clients keep copies of: each registered client is sent one invalidation when the key changes or
//! goes.
//!
//! The table is bounded in bytes, so in pairs of a key and a connection: when it is full, keys are dropped and their
//! clients are sent an invalidation as if the key had changed. A connection that closes takes its registrations with it,
//! so each connection has a list of its keys.

use std::collections::{HashMap, HashSet, hash_set};
use std::hash::BuildHasherDefault;

use super::events::ConnectionId;
use super::tags::Identity;

/// Bytes of a key in the table beside the key itself: its entry, its place and two allocations.
const KEY_BYTES: usize = 128;
/// Bytes of a pair: the connection in the list of the key, and the key in the set of the connection.
const PAIR_BYTES: usize = 48;
/// Bytes of a connection that has registrations.
const CLIENT_BYTES: usize = 96;

/// Registrations that are dropped in one step when their connection has closed, and keys that are given back in one.
const STEP: usize = 512;

/// Which changes are reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Interest {
    /// None: no client keeps copies.
    #[default]
    None,
    /// Changes of keys that a client has read.
    Read,
    /// Every change.
    All,
}

/// A key, and the connections that keep a copy of it.
struct Copied {
    hash: u64,
    key: Box<[u8]>,
    connections: Vec<ConnectionId>,
}

type Hashed<V> = HashMap<u64, V, BuildHasherDefault<Identity>>;
type Hashes = HashSet<u64, BuildHasherDefault<Identity>>;

pub(super) struct Tracked {
    keys: Vec<Copied>,
    /// Where a key stands in `keys`, by its hash.
    places: Hashed<u32>,
    /// Hashes of the keys that a connection has registered.
    clients: Hashed<Hashes>,
    /// Connections that keep no copies any more, and what they had registered that is not dropped yet.
    left: Vec<(u64, hash_set::IntoIter<u64>)>,
    /// Which key is dropped next when the table is full: all have their turn.
    hand: usize,
    key_bytes: usize,
    pairs: usize,
    /// Bytes that the table may take.
    most: usize,
    /// Every change is reported.
    pub(super) all: bool,
}

/// Keys, and the connections to be sent an invalidation of each.
pub(super) type Told = Vec<(Box<[u8]>, Vec<ConnectionId>)>;

impl Tracked {
    pub(super) fn new(most: usize) -> Tracked {
        Tracked {
            keys: Vec::new(),
            places: HashMap::default(),
            clients: HashMap::default(),
            left: Vec::new(),
            hand: 0,
            key_bytes: 0,
            pairs: 0,
            most,
            all: false,
        }
    }

    /// Registers a connection that is about to read a key. Returns the keys that were dropped to make room.
    pub(super) fn read(&mut self, hash: u64, key: &[u8], connection: ConnectionId) -> Told {
        let mut dropped = Told::new();
        // Two keys of one hash are as good as never met: the one that was there is dropped.
        if self.places.get(&hash).is_some_and(|at| *self.keys[*at as usize].key != *key) {
            dropped.extend(self.remove(hash));
        }
        if !self.clients.entry(connection.id).or_default().insert(hash) {
            return dropped;
        }
        match self.places.get(&hash) {
            Some(at) => self.keys[*at as usize].connections.push(connection),
            None => {
                self.places.insert(hash, self.keys.len() as u32);
                self.keys.push(Copied { hash, key: key.into(), connections: vec![connection] });
                self.key_bytes += key.len();
            }
        }
        self.pairs += 1;
        while self.bytes() > self.most && self.keys.len() > 1 {
            dropped.extend(self.drop_other(hash));
        }
        dropped
    }

    /// Drops the next key that is not the one with this hash.
    fn drop_other(&mut self, hash: u64) -> Option<(Box<[u8]>, Vec<ConnectionId>)> {
        self.hand = (self.hand + 1) % self.keys.len();
        if self.keys[self.hand].hash == hash {
            self.hand = (self.hand + 1) % self.keys.len();
        }
        self.remove(self.keys[self.hand].hash)
    }

    /// Takes a key out of the table, with all its registrations.
    fn remove(&mut self, hash: u64) -> Option<(Box<[u8]>, Vec<ConnectionId>)> {
        let at = self.places.remove(&hash)? as usize;
        let Copied { key, connections, .. } = self.keys.swap_remove(at);
        if let Some(moved) = self.keys.get(at) {
            self.places.insert(moved.hash, at as u32);
        }
        self.key_bytes -= key.len();
        self.pairs -= connections.len();
        for connection in &connections {
            self.forget_key(connection.id, hash);
        }
        self.shrink();
        Some((key, connections))
    }

    fn forget_key(&mut self, id: u64, hash: u64) {
        if let Some(known) = self.clients.get_mut(&id) {
            known.remove(&hash);
            if known.is_empty() {
                self.clients.remove(&id);
            } else if is_sparse(known.len(), known.capacity()) {
                known.shrink_to(known.len() * 2);
            }
        }
    }

    /// A key changed or went: the connections to be sent an invalidation.
    pub(super) fn changed(&mut self, hash: u64, key: &[u8]) -> Told {
        let mut told: Told = self.remove(hash).into_iter().collect();
        if self.all && !told.iter().any(|(known, _)| **known == *key) {
            told.push((key.into(), Vec::new()));
        }
        told
    }

    /// A connection keeps no copies any more: its registrations are dropped, some now and the others by
    /// [`drop_left`](Tracked::drop_left).
    pub(super) fn leave(&mut self, id: u64) {
        let Some(known) = self.clients.remove(&id) else { return };
        self.left.push((id, known.into_iter()));
        self.drop_left();
    }

    /// Drops some registrations of connections that keep no copies any more; whether there are others.
    pub(super) fn drop_left(&mut self) -> bool {
        let Some((id, mut known)) = self.left.pop() else { return false };
        for hash in known.by_ref().take(STEP) {
            self.drop_one(id, hash);
        }
        if known.len() > 0 {
            self.left.push((id, known));
        } else {
            self.shrink();
        }
        !self.left.is_empty()
    }

    /// Drops one registration, unless the key has changed since. The connection may have registered the key again, which
    /// stands.
    fn drop_one(&mut self, id: u64, hash: u64) {
        let Some(copied) = self.places.get(&hash).map(|at| &mut self.keys[*at as usize]) else { return };
        let again = self.clients.get(&id).is_some_and(|known| known.contains(&hash));
        let mut own =
            copied.connections.iter().enumerate().filter(|(_, connection)| connection.id == id).map(|(at, _)| at);
        let (first, second) = (own.next(), own.next());
        let Some(at) = (if again { second } else { first }) else { return };
        copied.connections.swap_remove(at);
        self.pairs -= 1;
        if copied.connections.is_empty() {
            self.remove(hash);
        }
    }

    /// Gives memory back once most of it is unused.
    fn shrink(&mut self) {
        if is_sparse(self.keys.len(), self.keys.capacity()) {
            let wanted = self.keys.len() * 2;
            self.keys.shrink_to(wanted);
            self.places.shrink_to(wanted);
        }
        if is_sparse(self.clients.len(), self.clients.capacity()) {
            self.clients.shrink_to(self.clients.len() * 2);
        }
    }

    /// Everything went, and all clients are sent one invalidation of everything. Returns what was registered, to be given
    /// back in parts.
    pub(super) fn forget(&mut self) -> Tracked {
        std::mem::replace(self, Tracked { all: self.all, ..Tracked::new(self.most) })
    }

    /// Gives back some keys of a table that was [forgotten](Tracked::forget); whether it has others.
    pub(super) fn shed(&mut self) -> bool {
        for copied in self.keys.drain(self.keys.len().saturating_sub(STEP)..) {
            self.key_bytes -= copied.key.len();
            self.pairs -= copied.connections.len();
        }
        !self.keys.is_empty()
    }

    /// Keys that are registered.
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Pairs of a key and a connection.
    pub(super) fn pairs(&self) -> usize {
        self.pairs
    }

    /// Bytes that the table takes.
    pub(super) fn bytes(&self) -> usize {
        self.keys.len() * KEY_BYTES + self.key_bytes + self.pairs * PAIR_BYTES + self.clients.len() * CLIENT_BYTES
    }
}

/// Whether a table is so empty that it is worth a copy to a smaller one.
fn is_sparse(len: usize, capacity: usize) -> bool {
    capacity > 64 && len < capacity / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(id: u64) -> ConnectionId {
        ConnectionId { mailbox: 0, slot: 0, id }
    }

    /// The counts agree with the entries, and the two directions with each other.
    fn check(tracked: &Tracked) {
        let pairs: usize = tracked.clients.values().map(HashSet::len).sum();
        assert_eq!(pairs, tracked.pairs());
        assert_eq!(pairs, tracked.keys.iter().map(|copied| copied.connections.len()).sum::<usize>());
        assert_eq!(tracked.key_bytes, tracked.keys.iter().map(|copied| copied.key.len()).sum::<usize>());
        assert_eq!(tracked.places.len(), tracked.keys.len());
        for (at, copied) in tracked.keys.iter().enumerate() {
            assert_eq!(tracked.places[&copied.hash] as usize, at);
            assert!(copied.connections.iter().all(|connection| tracked.clients[&connection.id].contains(&copied.hash)));
        }
    }

    /// 100 connections read the same keys: the table counts pairs, not keys. Whoever loses a registration is returned.
    #[test]
    fn the_table_is_bounded_in_pairs() {
        let mut tracked = Tracked::new(64 << 10);
        let mut lost = 0;
        for id in 0..100 {
            for hash in 0..200u64 {
                let told = tracked.read(hash, &hash.to_le_bytes(), connection(id));
                lost += told.iter().map(|(_, connections)| connections.len()).sum::<usize>();
            }
            assert!(tracked.bytes() <= 64 << 10);
            check(&tracked);
        }
        assert_eq!(tracked.pairs() + lost, 100 * 200);
    }

    /// A client that comes back 200 times and reads the same keys leaves nothing behind, while another one stays.
    #[test]
    fn a_closed_connection_leaves_nothing() {
        let mut tracked = Tracked::new(1 << 20);
        tracked.read(7, b"kept", connection(0));
        let before = (tracked.bytes(), tracked.pairs());
        for id in 1..200 {
            for hash in 0..100u64 {
                assert!(tracked.read(hash, if hash == 7 { b"kept" } else { b"k" }, connection(id)).is_empty());
            }
            tracked.leave(id);
            check(&tracked);
            assert_eq!((tracked.bytes(), tracked.pairs()), before);
        }
        assert_eq!(tracked.changed(7, b"kept"), [(b"kept"[..].into(), vec![connection(0)])]);
    }

    /// A client reads many keys and all but one of them change: the memory that they took is given back.
    #[test]
    fn keys_that_changed_leave_no_memory() {
        let mut tracked = Tracked::new(64 << 20);
        for hash in 0..100_000u64 {
            tracked.read(hash, b"k", connection(1));
        }
        for hash in 1..100_000u64 {
            tracked.changed(hash, b"k");
        }
        check(&tracked);
        let capacities = [tracked.keys.capacity(), tracked.places.capacity(), tracked.clients[&1].capacity()];
        assert!(capacities.iter().all(|capacity| *capacity < 128), "{capacities:?}");
    }

    /// A client that has registered many keys stops to keep copies, begins again and reads one of them, while most of what it
    /// had registered is still there. Dropping the rest leaves the new registration, also of a key that changed meanwhile.
    #[test]
    fn what_is_registered_again_stays() {
        let mut tracked = Tracked::new(64 << 20);
        let many = 10 * STEP as u64;
        for hash in 0..many {
            tracked.read(hash, b"k", connection(1));
        }
        tracked.leave(1);
        assert!(tracked.pairs() >= 8 * STEP);
        for hash in 0..many {
            tracked.read(hash, b"k", connection(1));
        }
        tracked.changed(7, b"k");
        tracked.read(7, b"k", connection(1));
        let steps = std::iter::repeat_with(|| tracked.drop_left()).take_while(|more| *more).count();
        assert!(steps >= 7, "{steps}");
        check(&tracked);
        for hash in 0..many {
            assert_eq!(tracked.changed(hash, b"k"), [(b"k"[..].into(), vec![connection(1)])]);
        }
        assert_eq!(tracked.bytes(), 0);
    }

    /// A table that was forgotten is given back in steps, and what it has left is known after each.
    #[test]
    fn a_forgotten_table_goes_in_steps() {
        let mut tracked = Tracked::new(64 << 20);
        for hash in 0..10 * STEP as u64 {
            tracked.read(hash, b"k", connection(hash % 7));
        }
        let mut old = tracked.forget();
        assert_eq!(tracked.bytes(), 0);
        let mut steps = 1;
        while old.shed() {
            steps += 1;
            assert!(old.len() == (10 - steps + 1) * STEP && old.pairs() == old.len());
        }
        assert_eq!((steps, old.pairs()), (10, 0));
    }

    #[test]
    fn a_key_of_the_same_hash_invalidates_the_one_before() {
        let mut tracked = Tracked::new(1 << 20);
        assert!(tracked.read(1, b"a", connection(1)).is_empty());
        assert_eq!(tracked.read(1, b"b", connection(2)), [(b"a"[..].into(), vec![connection(1)])]);
        check(&tracked);
        assert_eq!(tracked.changed(1, b"b"), [(b"b"[..].into(), vec![connection(2)])]);
        assert_eq!((tracked.bytes(), tracked.pairs()), (0, 0));
    }
}
