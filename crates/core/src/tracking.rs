//! Client tracking: clients that keep copies of what they read are told when a key changes, so that they drop the copy.
//!
//! A key is registered before it is read, and what is told goes to the client's mailbox under the lock of the shard.
//! Mailboxes are emptied between batches, so a client reads a value first and that it is void afterwards:
//!
//! - C registers K; W writes K, C is told, the registration is spent; C reads K. The reply goes out first, then the
//!   message: C drops what it read although it was new. Too much, never too little.
//!
//! Invalidating a tag touches no key: everybody who read a key with a tag drops everything.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::mailbox::{Event, Mailboxes};
use crate::store::{Interest, Party, Store};
use crate::users::Access;

thread_local! {
    /// The client whose requests this thread runs: what it changes itself need not be told to it.
    static ACTOR: Cell<u64> = const { Cell::new(0) };
}

/// The requests of a client are run from now on; 0: of none.
#[inline]
pub(crate) fn acting(id: u64) {
    ACTOR.set(id);
}

/// Prefixes that one client may be told of.
pub(crate) const MAX_PREFIXES: usize = 1024;

/// How a client wants to be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Of every key with one of the prefixes, read or not.
    pub broadcast: bool,
    /// Only of keys that are read after CLIENT CACHING YES.
    pub opt_in: bool,
    /// Not of keys that are read after CLIENT CACHING NO.
    pub opt_out: bool,
    /// Not of what it changed itself.
    pub no_loop: bool,
    /// The connection that is told instead.
    pub redirect: Option<Party>,
    /// Prefixes of broadcast; none: all keys.
    pub prefixes: Vec<Box<[u8]>>,
    /// CLIENT CACHING was said for the next command.
    pub caching: bool,
}

impl Options {
    /// Bytes that the server holds for it: the prefixes are kept here and in the table of all who are told.
    pub(crate) fn memory(&self) -> usize {
        let prefixes: usize = self.prefixes.iter().map(|prefix| size_of_val(prefix) + prefix.len()).sum();
        size_of::<Options>() + 2 * prefixes
    }
}

struct Tracker {
    target: Party,
    no_loop: bool,
    /// Prefixes, if it is told of every change.
    broadcast: Option<Vec<Box<[u8]>>>,
    /// It read keys that have tags.
    tagged: bool,
    /// Which keys may be named to it.
    access: Access,
}

/// The clients that keep copies.
#[derive(Default)]
pub struct Tracking {
    any: AtomicBool,
    /// Held while clients come and go; `clients` alone is taken under the locks of shards.
    coming: Mutex<()>,
    clients: Mutex<HashMap<u64, Tracker>>,
}

impl Tracking {
    /// Whether anybody keeps copies.
    #[inline]
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// How many keep copies.
    pub fn len(&self) -> usize {
        self.clients.lock().len()
    }

    /// Whether nobody keeps copies.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A client begins to keep copies, or wants to be told otherwise.
    pub fn join(&self, party: Party, access: &Access, options: &Options, store: &Store) {
        let _coming = self.coming.lock();
        let tracker = Tracker {
            target: options.redirect.unwrap_or(party),
            no_loop: options.no_loop,
            broadcast: options.broadcast.then(|| options.prefixes.clone()),
            tagged: false,
            access: access.clone(),
        };
        self.clients.lock().insert(party.id, tracker);
        self.settle(store);
    }

    /// A client keeps no copies any more.
    pub fn leave(&self, party: Party, store: &Store) {
        let _coming = self.coming.lock();
        self.clients.lock().remove(&party.id);
        self.settle(store);
    }

    fn settle(&self, store: &Store) {
        let interest = {
            let clients = self.clients.lock();
            let all = clients.values().any(|tracker| tracker.broadcast.is_some());
            match (clients.is_empty(), all) {
                (true, _) => Interest::None,
                (_, true) => Interest::All,
                (_, false) => Interest::Read,
            }
        };
        self.any.store(interest != Interest::None, Ordering::Release);
        store.track(interest);
    }

    /// A client is about to read a key that has tags.
    pub(crate) fn tagged(&self, id: u64) {
        if let Some(tracker) = self.clients.lock().get_mut(&id) {
            tracker.tagged = true;
        }
    }

    /// A key changed: those who read it are told, and those who are told of all with its prefix.
    pub(crate) fn changed(&self, key: &[u8], readers: &[Party], mail: &Mailboxes) {
        let clients = self.clients.lock();
        let key: Arc<[u8]> = key.into();
        let actor = ACTOR.get();
        let tell = |id: u64, tracker: &Tracker| {
            if !(tracker.no_loop && id == actor) && tracker.access.may_read(&key) {
                mail.post(tracker.target, Event::Void(Some(Arc::clone(&key))));
            }
        };
        for reader in readers {
            if let Some(tracker) = clients.get(&reader.id).filter(|tracker| tracker.broadcast.is_none()) {
                tell(reader.id, tracker);
            }
        }
        for (id, tracker) in clients.iter() {
            let prefixes = tracker.broadcast.as_ref();
            if prefixes.is_some_and(|all| all.is_empty() || all.iter().any(|prefix| key.starts_with(prefix))) {
                tell(*id, tracker);
            }
        }
    }

    /// A database was emptied: everybody drops everything.
    pub(crate) fn cleared(&self, mail: &Mailboxes) {
        for tracker in self.clients.lock().values() {
            mail.post(tracker.target, Event::Void(None));
        }
    }

    /// Tags were invalidated: whoever read a key that has any drops everything.
    pub(crate) fn tags_invalidated(&self, mail: &Mailboxes) {
        for tracker in self.clients.lock().values_mut() {
            if std::mem::take(&mut tracker.tagged) || tracker.broadcast.is_some() {
                mail.post(tracker.target, Event::Void(None));
            }
        }
    }
}
