//! Messages for connections: each I/O thread empties a mailbox, and whoever changes something that concerns another
//! connection puts a message there.
//!
//! Messages about a key are put under the lock of its shard, so that they arrive in the order in which things happened.
//! Waking the thread is the server's part: it asks which mailboxes were [`stirred`](Mailboxes::stirred) once a batch of
//! requests is done.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::command::Reply;
use crate::store::{Outcome, Party};

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
    /// The connection is to be closed, whatever it has sent.
    Close,
}

#[derive(Default)]
struct Mailbox {
    events: Mutex<Vec<(Party, Event)>>,
    stirred: AtomicBool,
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
    pub fn post(&self, to: Party, event: Event) {
        if let Some(mailbox) = self.boxes.get(usize::from(to.mailbox)) {
            let mut events = mailbox.events.lock();
            events.push((to, event));
            mailbox.stirred.store(true, Ordering::Release);
        }
    }

    /// Whether something was left in a mailbox since this was asked last.
    #[inline]
    pub fn stirred(&self, number: usize) -> bool {
        let stirred = &self.boxes[number].stirred;
        stirred.load(Ordering::Relaxed) && stirred.swap(false, Ordering::AcqRel)
    }

    /// Takes what was left in a mailbox, oldest first.
    pub fn take(&self, number: usize) -> Vec<(Party, Event)> {
        std::mem::take(&mut *self.boxes[number].events.lock())
    }

    /// Takes what was left for one connection, oldest first.
    pub fn take_of(&self, party: Party) -> Vec<Event> {
        let Some(mailbox) = self.boxes.get(usize::from(party.mailbox)) else { return Vec::new() };
        let mut events = mailbox.events.lock();
        if events.iter().all(|(to, _)| *to != party) {
            return Vec::new();
        }
        let (own, others) = std::mem::take(&mut *events).into_iter().partition(|(to, _)| *to == party);
        *events = others;
        own.into_iter().map(|(_, event): (Party, Event)| event).collect()
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
