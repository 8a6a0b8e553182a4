//! Messages for connections: each I/O thread empties a mailbox, and whoever changes something that concerns another
//! connection puts a message there.
//!
//! Messages about a key are put under the lock of its shard, so that they arrive in the order in which things happened.
//! Waking the thread is the server's part: it asks which mailboxes [have something new](Mailboxes::has_pending) once a batch
//! of requests is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::batch::{Batch, Tracker};
use crate::store::{ConnectionId, Outcome};
use crate::vocabulary::{Blob, Reply};

/// What a connection is told that it did not just ask for.
#[derive(Clone, Debug)]
pub enum Event {
    /// A wait has ended.
    Outcome(u64, Outcome),
    /// A worker is to load a key of a database, under a token.
    Load(u8, Arc<[u8]>, u64),
    /// Something to push as it is.
    Push(Arc<Reply>),
    /// What it keeps a copy of is void: a key, or everything.
    Void(Option<Arc<[u8]>>),
    /// Keys that changed, for a client that tracks a prefix of them.
    Keys(Arc<Batch>, Arc<Tracker>),
    /// The connection of this number, to which its invalidations were redirected, has closed.
    RedirectBroken(u64),
    /// The connection is to be closed, whatever it has sent.
    Close,
}

impl Event {
    /// Bytes that it holds until it is delivered, as if nothing of it were shared with other connections.
    pub fn memory(&self) -> u64 {
        let part = |part: &Reply| match part {
            Reply::Value(Blob::Shared(bytes)) => size_of::<Reply>() + bytes.len(),
            Reply::Value(Blob::Owned(bytes)) => size_of::<Reply>() + bytes.len(),
            _ => size_of::<Reply>(),
        };
        let beside = match self {
            Event::Load(_, key, _) | Event::Void(Some(key)) => key.len(),
            Event::Push(reply) => match &**reply {
                Reply::Push(parts) => parts.iter().map(part).sum(),
                reply => part(reply),
            },
            _ => 0,
        };
        (size_of::<Event>() + beside) as u64
    }
}

/// Ends the batches among messages that are taken, under the lock of the mailbox: a key that is added later goes to a new
/// batch, of which each of its connections has a message again, and overtakes nothing that is posted in between.
fn close_batches(taken: &[(ConnectionId, Event)]) {
    for (_, event) in taken {
        if let Event::Keys(batch, _) = event {
            batch.close();
        }
    }
}

#[derive(Default)]
struct Letters {
    events: Vec<(ConnectionId, Event)>,
    /// Batches of keys, which grow until they are taken and stand behind everything else: what was posted earlier is
    /// older than the last key.
    batches: Vec<(ConnectionId, Event)>,
}

#[derive(Default)]
struct Mailbox {
    letters: Mutex<Letters>,
    has_pending: AtomicBool,
}

/// The mailboxes of all I/O threads.
pub struct Mailboxes {
    boxes: Box<[Mailbox]>,
}

impl Mailboxes {
    /// Mailboxes for so many threads.
    pub fn new(threads: usize) -> Mailboxes {
        Mailboxes { boxes: (0..threads).map(|_| Mailbox::default()).collect() }
    }

    /// Leaves a message for a connection.
    pub fn post(&self, to: ConnectionId, event: Event) {
        if let Some(mailbox) = self.boxes.get(usize::from(to.mailbox)) {
            let mut letters = mailbox.letters.lock();
            match event {
                Event::Keys(..) => letters.batches.push((to, event)),
                _ => letters.events.push((to, event)),
            }
            mailbox.has_pending.store(true, Ordering::Release);
        }
    }

    /// Whether something was left in a mailbox since this was asked last.
    #[inline]
    pub fn has_pending(&self, number: usize) -> bool {
        let has_pending = &self.boxes[number].has_pending;
        has_pending.load(Ordering::Relaxed) && has_pending.swap(false, Ordering::AcqRel)
    }

    /// Takes what was left in a mailbox, oldest first.
    pub fn take(&self, number: usize) -> Vec<(ConnectionId, Event)> {
        let mut letters = self.boxes[number].letters.lock();
        let Letters { mut events, batches } = std::mem::take(&mut *letters);
        close_batches(&batches);
        events.extend(batches);
        events
    }

    /// Takes what was left for one connection, oldest first.
    pub fn take_of(&self, connection: ConnectionId) -> Vec<Event> {
        let Some(mailbox) = self.boxes.get(usize::from(connection.mailbox)) else { return Vec::new() };
        let mut letters = mailbox.letters.lock();
        if !letters.events.iter().chain(&letters.batches).any(|(to, _)| *to == connection) {
            return Vec::new();
        }
        let Letters { events, batches } = std::mem::take(&mut *letters);
        let mut own = Vec::new();
        let mut sort = |all: Vec<(ConnectionId, Event)>| -> Vec<(ConnectionId, Event)> {
            let (mine, others) = all.into_iter().partition(|(to, _)| *to == connection);
            own.extend::<Vec<_>>(mine);
            others
        };
        *letters = Letters { events: sort(events), batches: sort(batches) };
        close_batches(&own);
        own.into_iter().map(|(_, event)| event).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.boxes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.boxes.is_empty()
    }
}
