//! Publish and subscribe: who listens to which channels and patterns. Messages go to mailboxes and are kept nowhere else.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use super::mailbox::{Event, Mailboxes};
use crate::glob;
use crate::store::ConnectionId;
use crate::vocabulary::{Blob, Reply, Topic};

/// Channels and patterns that one client may listen to.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 1 << 16;

/// Channels and patterns of a client that is gone that are forgotten in one step.
const STEP: usize = 1024;

pub(crate) type Name = Arc<[u8]>;
/// Who listens to one channel or pattern, by the number of its subscriptions.
pub(crate) type Connections = HashMap<u64, ConnectionId>;
pub(crate) type Topics = BTreeMap<Name, Connections>;

#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) channels: Topics,
    patterns: Topics,
    /// Subscriptions whose client is gone, while they are in the tables still.
    gone: HashSet<u64>,
    /// What is left of them there.
    left: VecDeque<Left>,
}

/// The rest of the subscriptions of a client that is gone.
struct Left {
    number: u64,
    names: Box<dyn Iterator<Item = (Topic, Name)> + Send>,
}

/// Who listens to what.
#[derive(Default)]
pub struct PubSub {
    pub(crate) listeners: Mutex<Listeners>,
    /// How many subscriptions there have been.
    numbered: AtomicU64,
}

/// What one client listens to.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    /// Their number, never used twice.
    pub(crate) number: u64,
    channels: HashSet<Name>,
    patterns: HashSet<Name>,
    /// Bytes of all names.
    pub(crate) bytes: usize,
}

/// Bytes of the tables for each name, in the connection's own and in that of all who listen.
const TABLES: usize = 160;

impl Subscriptions {
    /// Bytes that the server holds for them: each name is kept here and in the table of all who listen.
    pub(crate) fn memory(&self) -> usize {
        2 * self.bytes + (self.channels.len() + self.patterns.len()) * TABLES
    }

    /// Channels, and patterns.
    pub fn counts(&self) -> (usize, usize) {
        (self.channels.len(), self.patterns.len())
    }

    pub(crate) fn of(&mut self, topic: Topic) -> &mut HashSet<Name> {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }

    pub(crate) fn total(&self) -> i64 {
        (self.channels.len() + self.patterns.len()) as i64
    }
}

pub(crate) fn bytes(text: &[u8]) -> Reply {
    Reply::Value(Blob::Owned(text.to_vec()))
}

impl PubSub {
    /// Subscriptions of a client that listens to nothing yet.
    pub(crate) fn begin(&self) -> Subscriptions {
        Subscriptions { number: self.numbered.fetch_add(1, Relaxed), ..Subscriptions::default() }
    }

    pub(crate) fn join(&self, topic: Topic, name: &Name, number: u64, connection: ConnectionId) {
        self.listeners.lock().of(topic).entry(Arc::clone(name)).or_default().insert(number, connection);
    }

    pub(crate) fn leave(&self, topic: Topic, name: &[u8], number: u64) {
        self.listeners.lock().leave(topic, name, number);
    }

    /// A client listens to nothing any more. Many names are forgotten in [`tick`](PubSub::tick); nothing is sent to it
    /// meanwhile, and it is not counted.
    pub fn leave_all(&self, subscriptions: Subscriptions) {
        let Subscriptions { number, channels, patterns, .. } = subscriptions;
        let of = |topic: Topic, names: HashSet<Name>| names.into_iter().map(move |name| (topic, name));
        let names = of(Topic::Channel, channels).chain(of(Topic::Pattern, patterns));
        let mut listeners = self.listeners.lock();
        listeners.gone.insert(number);
        listeners.left.push_back(Left { number, names: Box::new(names) });
        if listeners.left.len() == 1 {
            listeners.forget_some();
        }
    }

    /// Forgets some of what clients listened to that are gone; whether there may be more.
    pub fn tick(&self) -> bool {
        self.listeners.lock().forget_some()
    }

    /// Channels, and patterns, that somebody listens to.
    pub fn counts(&self) -> (usize, usize) {
        let listeners = self.listeners.lock();
        (listeners.channels.len(), listeners.patterns.len())
    }

    /// Posted with the lock held, so that two messages reach all in the same order. All share the bytes.
    pub(crate) fn publish(&self, channel: &[u8], message: &[u8], mail: &Mailboxes) -> i64 {
        let listeners = self.listeners.lock();
        let mut told = 0;
        let mut tell = |connections: &Connections, push: Reply| {
            let push = Arc::new(push);
            for connection in listeners.live(connections) {
                mail.post(*connection, Event::Push(Arc::clone(&push)));
                told += 1;
            }
        };
        let shared = |bytes: &Name| Reply::Value(Blob::Shared(Arc::clone(bytes)));
        let mut sent: Option<[Name; 2]> = None;
        let mut both = || {
            let [channel, message] = sent.get_or_insert_with(|| [channel.into(), message.into()]);
            [shared(channel), shared(message)]
        };
        if let Some(connections) = listeners.channels.get(channel) {
            let [channel, message] = both();
            tell(connections, Reply::Push(vec![Reply::Fixed(&MESSAGE), channel, message]));
        }
        for (pattern, connections) in listeners.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel)) {
            let [channel, message] = both();
            tell(connections, Reply::Push(vec![Reply::Fixed(&PMESSAGE), shared(pattern), channel, message]));
        }
        told
    }
}

static MESSAGE: LazyLock<Reply> = LazyLock::new(|| Reply::word("message"));
static PMESSAGE: LazyLock<Reply> = LazyLock::new(|| Reply::word("pmessage"));

impl Listeners {
    fn of(&mut self, topic: Topic) -> &mut Topics {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }

    /// Those of them who are still there.
    pub(crate) fn live<'a>(&'a self, connections: &'a Connections) -> impl Iterator<Item = &'a ConnectionId> {
        let here = |number: &u64| self.gone.is_empty() || !self.gone.contains(number);
        connections.iter().filter(move |(number, _)| here(number)).map(|(_, connection)| connection)
    }

    fn leave(&mut self, topic: Topic, name: &[u8], number: u64) {
        let topics = self.of(topic);
        if let Some(connections) = topics.get_mut(name) {
            connections.remove(&number);
            if connections.is_empty() {
                topics.remove(name);
            }
        }
    }

    fn forget_some(&mut self) -> bool {
        let Some(mut left) = self.left.pop_front() else { return false };
        for (topic, name) in left.names.by_ref().take(STEP) {
            self.leave(topic, &name, left.number);
        }
        if left.names.size_hint().1 == Some(0) {
            self.gone.remove(&left.number);
        } else {
            self.left.push_front(left);
        }
        !self.left.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(
        bus: &PubSub,
        topic: Topic,
        names: impl Iterator<Item = String>,
        connection: ConnectionId,
    ) -> Subscriptions {
        let mut subscriptions = bus.begin();
        for name in names {
            let name = Name::from(name.as_bytes());
            bus.join(topic, &name, subscriptions.number, connection);
            subscriptions.of(topic).insert(name);
        }
        subscriptions
    }

    /// One client listens to 50 patterns that match: all its messages share the bytes of the one that was sent.
    #[test]
    fn a_message_is_not_copied_for_each_pattern() {
        let (bus, mail) = (PubSub::default(), Mailboxes::new(1, usize::MAX));
        let patterns = (1..=50).map(|count| "*".repeat(count));
        let _all = listener(&bus, Topic::Pattern, patterns, ConnectionId { id: 1, ..ConnectionId::default() });
        assert_eq!(bus.publish(b"news", &[b'm'; 1000], &mail), 50);
        let taken = mail.take(0);
        let bytes = taken.iter().filter_map(|(_, event)| match event {
            Event::Push(push) => match &**push {
                Reply::Push(parts) => match &parts[..] {
                    [.., Reply::Value(Blob::Shared(message))] => Some(message.as_ptr()),
                    _ => None,
                },
                _ => None,
            },
            _ => None,
        });
        let bytes: Vec<_> = bytes.collect();
        assert_eq!(bytes.len(), 50);
        assert!(bytes.iter().all(|one| *one == bytes[0]));
    }

    /// A client that listens to many channels leaves, and another one listens to one of them. What the first has left in the
    /// tables goes step by step; meanwhile nothing is sent to it and it is not counted.
    #[test]
    fn many_subscriptions_are_forgotten_in_steps() {
        let (bus, mail) = (PubSub::default(), Mailboxes::new(1, usize::MAX));
        let (gone, here) =
            (ConnectionId { id: 1, ..ConnectionId::default() }, ConnectionId { id: 2, ..ConnectionId::default() });
        let names = || (0..10 * STEP).map(|number| number.to_string());
        let old = listener(&bus, Topic::Channel, names(), gone);
        let _one = listener(&bus, Topic::Channel, names().take(1), here);
        bus.leave_all(old);
        assert_eq!(bus.counts().0, 9 * STEP + usize::from(!bus.listeners.lock().channels[&b"0"[..]].contains_key(&0)));
        assert!(
            names()
                .map(|name| bus.publish(name.as_bytes(), b"m", &mail))
                .eq(names().map(|name| i64::from(name == "0")))
        );
        assert!(mail.take(0).iter().all(|(to, _)| *to == here));
        // It comes back under the same number while its old names are there still.
        let _back = listener(&bus, Topic::Channel, ["5".to_owned()].into_iter(), gone);
        assert_eq!(bus.publish(b"5", b"m", &mail), 1);
        assert_eq!(std::iter::repeat_with(|| bus.tick()).take_while(|more| *more).count(), 8);
        assert_eq!((bus.counts().0, bus.publish(b"5", b"m", &mail)), (2, 1));
        assert!(bus.listeners.lock().gone.is_empty());
    }
}
