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
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::batch::{Batch, Options, Tracker};
use super::mailbox::{Event, Mailboxes};
use super::users::Access;
use crate::store::{ConnectionId, Interest, Store};

/// Prefixes that one client may track.
pub(crate) const MAX_PREFIXES: usize = 1024;

/// The clients of a prefix, and the batch of keys that is open for them.
struct Prefix {
    members: Vec<Arc<Tracker>>,
    batch: Arc<Batch>,
}

#[derive(Default)]
struct Trackers {
    clients: HashMap<u64, Arc<Tracker>>,
    prefixes: HashMap<Box<[u8]>, Prefix>,
    /// How many prefixes there are of each length.
    lengths: BTreeMap<usize, usize>,
    /// Clients whose invalidations are sent to a connection, by its number.
    redirected: HashMap<u64, Vec<u64>>,
}

impl Trackers {
    fn insert(&mut self, tracker: &Arc<Tracker>) {
        for prefix in &tracker.prefixes {
            let known = self.prefixes.entry(prefix.clone()).or_insert_with(|| {
                *self.lengths.entry(prefix.len()).or_default() += 1;
                Prefix { members: Vec::new(), batch: Arc::default() }
            });
            // The batch that is open was not posted to this member.
            known.batch = Arc::new(Batch::closed());
            known.members.push(Arc::clone(tracker));
        }
        if tracker.target != tracker.connection {
            self.redirected.entry(tracker.target.id).or_default().push(tracker.connection.id);
        }
        self.clients.insert(tracker.connection.id, Arc::clone(tracker));
    }

    fn remove(&mut self, id: u64) -> Option<Arc<Tracker>> {
        let tracker = self.clients.remove(&id)?;
        for prefix in &tracker.prefixes {
            let Some(known) = self.prefixes.get_mut(prefix) else { continue };
            known.members.retain(|member| member.connection.id != id);
            if known.members.is_empty() {
                self.prefixes.remove(prefix);
                let count = self.lengths.get_mut(&prefix.len()).expect("every prefix is counted");
                *count -= 1;
                if *count == 0 {
                    self.lengths.remove(&prefix.len());
                }
            }
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
        for length in self.lengths.range(..=key.len()).map(|(length, _)| *length) {
            let Some(prefix) = self.prefixes.get_mut(&key[..length]) else { continue };
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
        self.trackers.lock().prefixes.len()
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
            match (trackers.clients.is_empty(), trackers.prefixes.is_empty()) {
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
