//! Messages for connections: each I/O thread empties a mailbox, and whoever changes something that concerns another
//! connection puts a message there.
//!
//! Messages about a key are put under the lock of its shard, so that they arrive in the order in which things happened.
//! Waking the thread is the server's part: it asks which mailboxes [have something new](Mailboxes::has_pending) once a batch
//! of requests is done.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use super::batch::{Batch, Tracker};
use crate::store::{ConnectionId, Outcome};
use crate::vocabulary::Reply;

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
        let beside = match self {
            Event::Load(_, key, _) | Event::Void(Some(key)) => key.len(),
            Event::Push(reply) => reply.memory(),
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
    /// Bytes of messages for each connection, by its number, of those that nothing else bounds.
    unread: HashMap<u64, u64>,
}

impl Letters {
    /// Counts a message of which a connection may be left any number; what is left for it. One that is left too much is
    /// closed instead, and left nothing more.
    fn count(&mut self, to: ConnectionId, event: Event, most: u64) -> Option<Event> {
        if !matches!(event, Event::Push(_) | Event::Void(Some(_))) {
            return Some(event);
        }
        let unread = self.unread.entry(to.id).or_default();
        if *unread > most {
            return None;
        }
        *unread += event.memory();
        Some(if *unread > most { Event::Close } else { event })
    }
}

#[derive(Default)]
struct Mailbox {
    letters: Mutex<Letters>,
    has_pending: AtomicBool,
}

/// The mailboxes of all I/O threads.
pub struct Mailboxes {
    boxes: Box<[Mailbox]>,
    /// Bytes of messages that a connection may be left before it takes them.
    most: u64,
}

impl Mailboxes {
    /// Mailboxes for so many threads, in which a connection may be left so many bytes of messages.
    pub fn new(threads: usize, most: usize) -> Mailboxes {
        Mailboxes { boxes: (0..threads).map(|_| Mailbox::default()).collect(), most: most as u64 }
    }

    /// Leaves a message for a connection. One that would have more unread than it may is closed.
    pub fn post(&self, to: ConnectionId, event: Event) {
        if let Some(mailbox) = self.boxes.get(usize::from(to.mailbox)) {
            let mut letters = mailbox.letters.lock();
            let Some(event) = letters.count(to, event, self.most) else { return };
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
        let Letters { mut events, batches, .. } = std::mem::take(&mut *letters);
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
        let Letters { events, batches, mut unread } = std::mem::take(&mut *letters);
        unread.remove(&connection.id);
        let mut own = Vec::new();
        let mut sort = |all: Vec<(ConnectionId, Event)>| -> Vec<(ConnectionId, Event)> {
            let (mine, others) = all.into_iter().partition(|(to, _)| *to == connection);
            own.extend::<Vec<_>>(mine);
            others
        };
        *letters = Letters { events: sort(events), batches: sort(batches), unread };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Blob;

    fn push(length: usize) -> Event {
        Event::Push(Arc::new(Reply::Value(Blob::Owned(vec![0; length]))))
    }

    /// A thread is busy while messages for two of its connections come. The one that has too many is closed, and nothing
    /// more is kept for it; the other one gets its own. What was taken does not count any more.
    #[test]
    fn a_connection_with_too_many_unread_is_closed() {
        let mail = Mailboxes::new(1, 10_000);
        let (slow, other) =
            (ConnectionId { id: 1, ..ConnectionId::default() }, ConnectionId { id: 2, ..ConnectionId::default() });
        for _ in 0..20 {
            mail.post(slow, push(1000));
        }
        mail.post(other, push(1000));
        let taken = mail.take(0);
        let of =
            |connection: ConnectionId| taken.iter().filter(move |(to, _)| *to == connection).map(|(_, event)| event);
        assert!(of(slow).count() <= 10);
        assert!(matches!(of(slow).next_back(), Some(Event::Close)));
        assert!(matches!(of(other).collect::<Vec<_>>()[..], [Event::Push(_)]));
        for _ in 0..20 {
            mail.post(other, push(1000));
            assert!(matches!(mail.take_of(other)[..], [Event::Push(_)]));
        }
    }
}
