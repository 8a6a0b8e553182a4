//! Clients that keep copies, and the keys that changed since they were last sent any.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::users::Access;
use crate::store::ConnectionId;

/// Keys of a batch, and their bytes; beyond it the clients drop everything.
const MAX_BATCH: usize = 1 << 16;
const MAX_BATCH_BYTES: usize = 8 << 20;

/// How a client tracks.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Every key with one of the prefixes, read or not.
    pub broadcast: bool,
    /// Only keys that are read after CLIENT CACHING YES.
    pub opt_in: bool,
    /// No keys that are read after CLIENT CACHING NO.
    pub opt_out: bool,
    /// No invalidations of the client's own changes.
    pub no_loop: bool,
    /// The connection that is sent the invalidations instead.
    pub redirect: Option<ConnectionId>,
    /// That connection has closed.
    pub broken: bool,
    /// Prefixes of broadcast; an empty one means all keys.
    pub prefixes: Vec<Box<[u8]>>,
    /// CLIENT CACHING was called for the next command.
    pub caching: bool,
}

impl Options {
    /// Bytes that the server holds for it: the prefixes are kept here and in the table of all who are told.
    pub(crate) fn memory(&self) -> usize {
        let prefixes: usize = self.prefixes.iter().map(|prefix| size_of_val(prefix) + prefix.len()).sum();
        size_of::<Options>() + 2 * prefixes
    }
}

/// A client that keeps copies.
#[derive(Debug)]
pub struct Tracker {
    pub(super) connection: ConnectionId,
    pub(super) target: ConnectionId,
    pub(super) no_loop: bool,
    pub(super) broadcast: bool,
    pub(super) prefixes: Vec<Box<[u8]>>,
    /// It read keys that have tags.
    pub(super) tagged: AtomicBool,
    /// The target has closed.
    pub(super) broken: AtomicBool,
    /// The client has been sent a message about that which stands for the next invalidation.
    pub(super) announced: AtomicBool,
    /// Which keys it may read.
    pub(super) access: Access,
}

impl Tracker {
    pub(super) fn new(connection: ConnectionId, access: &Access, options: &Options) -> Tracker {
        Tracker {
            connection,
            target: options.redirect.unwrap_or(connection),
            no_loop: options.no_loop,
            broadcast: options.broadcast,
            prefixes: options.prefixes.clone(),
            tagged: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            announced: AtomicBool::new(false),
            access: access.clone(),
        }
    }

    /// Whether it is sent every change of its prefixes, without a look at each.
    pub(super) fn takes_all(&self) -> bool {
        !self.no_loop && matches!(self.access, Access::All(_))
    }

    /// Whether it is to be sent the invalidation of a key that `actor` changed.
    pub(crate) fn wants(&self, key: &[u8], actor: u64) -> bool {
        !(self.no_loop && self.connection.id == actor) && self.access.may_read(key)
    }
}

/// Keys that changed since the clients of a prefix were last sent any.
#[derive(Debug, Default)]
pub struct Batch {
    changes: Mutex<Changes>,
    /// The message to RESP3 clients that take all keys.
    encoded: OnceLock<Box<[u8]>>,
}

#[derive(Debug, Default)]
struct Changes {
    /// Keys and the clients that changed them; 0 where there were several.
    keys: Vec<(Arc<[u8]>, u64)>,
    bytes: usize,
    /// There were too many.
    everything: bool,
    closed: bool,
}

impl Changes {
    /// Sorts the keys and leaves one of each.
    pub(super) fn unite(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup_by(|next, kept| {
            let same = next.0 == kept.0;
            if same && next.1 != kept.1 {
                kept.1 = 0;
            }
            same
        });
        self.bytes = self.keys.iter().map(|(key, _)| key.len()).sum();
    }
}

impl Batch {
    pub(super) fn closed() -> Batch {
        let batch = Batch::default();
        batch.close();
        batch
    }

    /// Takes no more keys.
    pub(crate) fn close(&self) {
        let mut changes = self.changes.lock();
        if !std::mem::replace(&mut changes.closed, true) {
            changes.unite();
        }
    }

    /// Appends a key; false if the batch is closed.
    pub(super) fn add(&self, key: &Arc<[u8]>, actor: u64) -> bool {
        let mut changes = self.changes.lock();
        if changes.closed {
            return false;
        }
        if changes.keys.len() == MAX_BATCH || changes.bytes > MAX_BATCH_BYTES {
            changes.unite();
            if changes.keys.len() > MAX_BATCH / 2 || changes.bytes > MAX_BATCH_BYTES / 2 {
                changes.everything = true;
                changes.keys = Vec::new();
            }
        }
        if !changes.everything {
            changes.bytes += key.len();
            changes.keys.push((Arc::clone(key), actor));
        }
        true
    }

    /// The keys of a closed batch that a client is to be sent; None: it drops everything.
    pub(crate) fn keys_for(&self, wants: impl Fn(&[u8], u64) -> bool) -> Option<Vec<Arc<[u8]>>> {
        let changes = self.changes.lock();
        let wanted = changes.keys.iter().filter(|(key, actor)| wants(key, *actor)).map(|(key, _)| Arc::clone(key));
        (!changes.everything).then(|| wanted.collect())
    }

    /// The message of a closed batch to a client that takes all keys, made once for all of them.
    pub(crate) fn encoded(&self, tracker: &Tracker, encode: impl FnOnce() -> Vec<u8>) -> Option<&[u8]> {
        tracker.takes_all().then(|| &**self.encoded.get_or_init(|| encode().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writers change long keys while the thread of a client is busy: the batch is bounded in bytes, and then stands for
    /// everything.
    #[test]
    fn a_batch_is_bounded_in_bytes() {
        let batch = Batch::default();
        for number in 0..1000u32 {
            let mut key = vec![b'k'; 60_000];
            key.extend(number.to_le_bytes());
            assert!(batch.add(&key.into(), 1));
            assert!(batch.changes.lock().bytes <= MAX_BATCH_BYTES + 64 * 1024);
        }
        batch.close();
        assert!(batch.keys_for(|_, _| true).is_none());
        let same = Batch::default();
        (0..1000).for_each(|_| assert!(same.add(&Arc::from(&vec![b'k'; 60_000][..]), 1)));
        same.close();
        assert_eq!(same.keys_for(|_, _| true).map(|keys| keys.len()), Some(1));
    }
}
