//! Client tracking: clients that keep copies of what they read are sent an invalidation when a key changes, so that they
//! drop the copy.
//!
//! A key is registered before it is read, and the invalidation goes to the client's mailbox under the lock of the shard.
//! Mailboxes are emptied between batches, so a client reads a value first and its invalidation afterwards:
//!
//! - C registers K; W writes K, an invalidation is posted and the registration is spent; C reads K. The reply is sent
//!   first, then the invalidation: C drops what it read although it was new. Too much, never too little.
//!
//! Clients in broadcast mode share a [`Batch`] for each prefix: a write appends its key once, however many clients there
//! are, and each I/O thread sends the keys that have come together as one message. A batch is closed when a mailbox that
//! has it is emptied, and stands behind everything else in that mailbox:
//!
//! - C waits for a load of K; a batch is open; the load ends, v1 is posted; W writes K, which joins the batch. If the
//!   batch were sent first, C would drop K and then keep v1.
//!
//! Invalidating a tag touches no key: each client that read a key with a tag drops everything.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::batch::{Batch, Options, Tracker};
use super::mailbox::{Event, Mailboxes};
use super::users::Access;
use crate::store::{ConnectionId, Interest, Store};

/// Prefixes that one client may track, and their length in bytes.
pub(crate) const MAX_PREFIXES: usize = 1024;
pub(crate) const MAX_PREFIX: usize = 1024;

/// The clients of a prefix, and the batch of keys that is open for them.
struct Prefix {
    members: Vec<Arc<Tracker>>,
    batch: Arc<Batch>,
    /// Length of the longest other prefix with which this one begins.
    parent: Option<usize>,
}

/// Prefixes in order. All that a key begins with are the longest of them, its parent, the parent of that, and so on.
#[derive(Default)]
struct Prefixes(BTreeMap<Box<[u8]>, Prefix>);

impl Prefixes {
    /// Length of the longest prefix with which a key begins. Whatever stands between such a prefix and the key in order
    /// begins with that prefix as well, so it is the one right before the key, or one of its parents.
    fn longest(&self, key: &[u8]) -> Option<usize> {
        let (before, prefix) = self.0.range::<[u8], _>((Unbounded, Included(key))).next_back()?;
        let common = before.iter().zip(key).take_while(|(one, other)| one == other).count();
        let (mut length, mut parent) = (before.len(), prefix.parent);
        while length > common {
            length = parent?;
            parent = self.0[&before[..length]].parent;
        }
        Some(length)
    }

    /// The prefixes that begin with this one and are longer.
    fn covered<'a>(&'a mut self, name: &'a [u8]) -> impl Iterator<Item = &'a mut Prefix> {
        let behind = self.0.range_mut::<[u8], _>((Excluded(name), Unbounded));
        behind.take_while(move |(other, _)| other.starts_with(name)).map(|(_, prefix)| prefix)
    }

    fn insert(&mut self, name: &[u8], tracker: &Arc<Tracker>) {
        if !self.0.contains_key(name) {
            let parent = self.longest(name);
            for child in self.covered(name).filter(|child| child.parent == parent) {
                child.parent = Some(name.len());
            }
            self.0.insert(name.into(), Prefix { members: Vec::new(), batch: Arc::default(), parent });
        }
        let Some(known) = self.0.get_mut(name) else { return };
        // The batch that is open was not posted to this member.
        known.batch = Arc::new(Batch::closed());
        known.members.push(Arc::clone(tracker));
    }

    fn remove(&mut self, name: &[u8], id: u64) {
        let Some(known) = self.0.get_mut(name) else { return };
        known.members.retain(|member| member.connection.id != id);
        if known.members.is_empty() {
            let parent = known.parent;
            self.0.remove(name);
            for child in self.covered(name).filter(|child| child.parent == Some(name.len())) {
                child.parent = parent;
            }
        }
    }
}

#[derive(Default)]
struct Trackers {
    clients: HashMap<u64, Arc<Tracker>>,
    prefixes: Prefixes,
    /// Clients whose invalidations are sent to a connection, by its number.
    redirected: HashMap<u64, Vec<u64>>,
}

impl Trackers {
    fn insert(&mut self, tracker: &Arc<Tracker>) {
        for prefix in &tracker.prefixes {
            self.prefixes.insert(prefix, tracker);
        }
        if tracker.target != tracker.connection {
            self.redirected.entry(tracker.target.id).or_default().push(tracker.connection.id);
        }
        self.clients.insert(tracker.connection.id, Arc::clone(tracker));
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Tracker>> {
        let tracker = self.clients.remove(&id)?;
        for prefix in &tracker.prefixes {
            self.prefixes.remove(prefix, id);
        }
        if let Some(clients) = self.redirected.get_mut(&tracker.target.id) {
            clients.retain(|known| *known != id);
            if clients.is_empty() {
                self.redirected.remove(&tracker.target.id);
            }
        }
        Some(tracker)
    }

    fn redirected_to(&self, target: u64) -> impl Iterator<Item = &Arc<Tracker>> {
        self.redirected.get(&target).into_iter().flatten().filter_map(|id| self.clients.get(id))
    }

    /// Appends a key to the batch of each of its prefixes. A client has one at most of them.
    fn broadcast(&mut self, key: &Arc<[u8]>, actor: u64, mail: &Mailboxes) {
        let mut next = self.prefixes.longest(key);
        while let Some(prefix) = next.and_then(|length| self.prefixes.0.get_mut(&key[..length])) {
            next = prefix.parent;
            if !prefix.batch.add(key, actor) {
                prefix.batch = Arc::default();
                prefix.batch.add(key, actor);
                for member in &prefix.members {
                    tell(member, mail, || Event::Keys(Arc::clone(&prefix.batch), Arc::clone(member)));
                }
            }
        }
    }
}

/// The clients that keep copies.
#[derive(Default)]
pub struct Tracking {
    any: AtomicBool,
    /// Held while clients come and go, as the locks of shards are; `trackers` alone is taken under those.
    coming: Mutex<Interest>,
    trackers: Mutex<Trackers>,
}

impl Tracking {
    /// Whether any client keeps copies.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// How many clients keep copies.
    pub fn len(&self) -> usize {
        self.trackers.lock().clients.len()
    }

    /// Whether no client keeps copies.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Prefixes of broadcast.
    pub fn prefixes(&self) -> usize {
        self.trackers.lock().prefixes.0.len()
    }

    /// A client begins to keep copies, or to track in another way: its registrations stay.
    pub fn join(&self, connection: ConnectionId, access: &Access, options: &Options, store: &Store) {
        let mut interest = self.coming.lock();
        let tracker = Arc::new(Tracker::new(connection, access, options));
        {
            let mut trackers = self.trackers.lock();
            let before = trackers.remove(connection.id);
            tracker.tagged.store(before.is_some_and(|before| before.tagged.load(Ordering::Acquire)), Ordering::Release);
            trackers.insert(&tracker);
        }
        self.set_interest(&mut interest, store);
    }

    /// A client keeps no copies any more: its registrations go.
    pub fn leave(&self, connection: ConnectionId, store: &Store) {
        let mut interest = self.coming.lock();
        let tracker = self.trackers.lock().remove(connection.id);
        self.set_interest(&mut interest, store);
        if *interest != Interest::None && tracker.is_some_and(|tracker| !tracker.broadcast) {
            store.untrack(connection.id);
        }
    }

    fn set_interest(&self, before: &mut Interest, store: &Store) {
        let interest = {
            let trackers = self.trackers.lock();
            match (trackers.clients.is_empty(), trackers.prefixes.0.is_empty()) {
                (true, _) => Interest::None,
                (_, true) => Interest::Read,
                (_, false) => Interest::All,
            }
        };
        if std::mem::replace(before, interest) != interest {
            self.any.store(interest != Interest::None, Ordering::Release);
            store.track(interest);
        }
    }

    /// A client is about to read a key that has tags.
    pub(crate) fn tagged(&self, id: u64) {
        if let Some(tracker) = self.trackers.lock().clients.get(&id) {
            tracker.tagged.store(true, Ordering::Release);
        }
    }

    /// The connection of number `actor` changed a key: an invalidation is posted to the clients that read it, and to those with a prefix of it.
    pub(crate) fn changed(&self, key: &[u8], readers: &[ConnectionId], actor: u64, mail: &Mailboxes) {
        let mut trackers = self.trackers.lock();
        let key: Arc<[u8]> = key.into();
        for reader in readers {
            let known = trackers.clients.get(&reader.id).filter(|tracker| !tracker.broadcast);
            if let Some(tracker) = known.filter(|tracker| tracker.wants(&key, actor)) {
                tell(tracker, mail, || Event::Void(Some(Arc::clone(&key))));
            }
        }
        trackers.broadcast(&key, actor, mail);
    }

    /// What a client is about to read has changed since: it is sent an invalidation that follows the reply.
    pub(crate) fn changed_before(&self, id: u64, key: &[u8], mail: &Mailboxes) {
        if let Some(tracker) = self.trackers.lock().clients.get(&id) {
            tell(tracker, mail, || Event::Void(Some(key.into())));
        }
    }

    /// A database was emptied: every client drops everything.
    pub(crate) fn cleared(&self, mail: &Mailboxes) {
        for tracker in self.trackers.lock().clients.values() {
            tell(tracker, mail, || Event::Void(None));
        }
    }

    /// Tags were invalidated: each client that read a key that has any drops everything.
    pub(crate) fn tags_invalidated(&self, mail: &Mailboxes) {
        for tracker in self.trackers.lock().clients.values() {
            if tracker.tagged.swap(false, Ordering::AcqRel) || tracker.broadcast {
                tell(tracker, mail, || Event::Void(None));
            }
        }
    }

    /// A connection closed. Clients whose invalidations went to it keep copies that are never invalidated: they are sent
    /// a message at once, which stands for the next invalidation, and one instead of each later one, as in Redis.
    pub(crate) fn closed(&self, target: u64, mail: &Mailboxes) {
        for tracker in self.trackers.lock().redirected_to(target) {
            if !tracker.broken.swap(true, Ordering::AcqRel) {
                tracker.announced.store(true, Ordering::Release);
                mail.post(tracker.connection, Event::RedirectBroken(target));
            }
        }
    }

    /// Whether invalidations are sent to another connection than the one that reads.
    pub(crate) fn is_target(&self, id: u64) -> bool {
        self.any() && self.trackers.lock().redirected.contains_key(&id)
    }
}

/// Posts an invalidation; if the target has closed, a message about that to the client itself.
fn tell(tracker: &Tracker, mail: &Mailboxes, event: impl FnOnce() -> Event) {
    if !tracker.broken.load(Ordering::Acquire) {
        mail.post(tracker.target, event());
    } else if !tracker.announced.swap(false, Ordering::AcqRel) {
        mail.post(tracker.connection, Event::RedirectBroken(tracker.target.id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(id: u64, prefixes: &[&str]) -> Arc<Tracker> {
        let prefixes = prefixes.iter().map(|prefix| prefix.as_bytes().into()).collect();
        let options = Options { broadcast: true, prefixes, ..Options::default() };
        Arc::new(Tracker::new(ConnectionId { id, ..ConnectionId::default() }, &Access::Unknown, &options))
    }

    /// The prefixes with which a key begins, by the table: longest first.
    fn found(prefixes: &Prefixes, key: &[u8]) -> Vec<usize> {
        std::iter::successors(prefixes.longest(key), |length| prefixes.0[&key[..*length]].parent).collect()
    }

    /// Clients come and go with prefixes of which some begin with others. At each moment the table finds those of a key that
    /// a look at all of them finds.
    #[test]
    fn a_key_finds_all_its_prefixes() {
        let names = ["", "a", "aa", "aab", "aabb", "ab", "abb", "abba", "b", "ba", "bab", "babb", "\u{7f}"];
        let keys = ["", "a", "aab", "aabbab", "abbab", "babbab", "bb", "c", "aaaa"];
        let mut prefixes = Prefixes::default();
        let mut there: Vec<&str> = Vec::new();
        let mut random = 7u64;
        for round in 0..2000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
            let name = names[(random >> 33) as usize % names.len()];
            match there.iter().position(|known| *known == name) {
                Some(at) => {
                    prefixes.remove(name.as_bytes(), 1);
                    there.swap_remove(at);
                }
                None => {
                    prefixes.insert(name.as_bytes(), &tracker(1, &[name]));
                    there.push(name);
                }
            }
            for key in keys {
                let mut wanted: Vec<usize> =
                    there.iter().filter(|name| key.starts_with(**name)).map(|name| name.len()).collect();
                wanted.sort_unstable_by(|one, other| other.cmp(one));
                assert_eq!(found(&prefixes, key.as_bytes()), wanted, "{there:?} {key}");
            }
        }
    }
}
