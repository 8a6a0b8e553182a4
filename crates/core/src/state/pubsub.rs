//! Publish and subscribe: who listens to which channels and patterns. Messages go to mailboxes and are kept nowhere else.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use super::mailbox::{Event, Mailboxes};
use crate::glob::{Pattern, STEPS_OF_A_KEY};
use crate::limits::MAX_CHANNEL;
use crate::store::ConnectionId;
use crate::vocabulary::{Blob, Reply, Topic};

/// Channels and patterns that one client may listen to.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 1 << 16;

/// Channels and patterns of clients that are gone that are forgotten in one step.
const STEP: usize = 1024;
/// As many are forgotten for each new subscription: clients that come and go leave fewer than they make.
const STEP_OF_ONE: usize = 2;

/// Steps that a message may take to be compared with all patterns that anybody listens to: some milliseconds, since all
/// who use channels wait meanwhile. A pattern that would take more is refused, so every message reaches all whom it
/// concerns. A key may take as many to be compared with the patterns of loaders.
pub(crate) const MOST_STEPS: usize = 1 << 24;
/// Steps of the patterns of one client.
pub(crate) const MOST_STEPS_OF_ONE: usize = MOST_STEPS / 4;

pub(crate) type Name = Arc<[u8]>;

/// Steps that a message takes at most for a pattern: to be compared with it, and to be sent.
pub(crate) fn most_steps(pattern: &Pattern) -> usize {
    2 * STEPS_OF_A_KEY + pattern.most_steps(MAX_CHANNEL)
}
/// Who listens to one channel or pattern, by the number of its subscriptions.
pub(crate) type Connections = HashMap<u64, ConnectionId>;

/// A pattern, and who listens to it.
struct Listened {
    pattern: Pattern,
    connections: Connections,
}

#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) channels: BTreeMap<Name, Connections>,
    patterns: BTreeMap<Name, Listened>,
    /// Steps that a message may take for all patterns, with those that were [reserved](PubSub::reserve).
    steps: usize,
    /// Subscriptions whose client is gone, while they are in the tables still.
    gone: HashSet<u64>,
    /// What is left of them there.
    left: VecDeque<Left>,
}

/// The rest of the subscriptions of a client that is gone.
struct Left {
    number: u64,
    names: Box<dyn Iterator<Item = (Topic, Name)> + Send>,
    /// Bytes of what is left.
    bytes: usize,
}

/// Who listens to what.
#[derive(Default)]
pub struct PubSub {
    pub(crate) listeners: Mutex<Listeners>,
    /// How many subscriptions there have been.
    numbered: AtomicU64,
    /// Bytes of subscriptions that are in the tables still although their clients are gone.
    left: AtomicUsize,
}

/// What one client listens to.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    /// Their number, never used twice.
    pub(crate) number: u64,
    channels: HashSet<Name>,
    patterns: HashSet<Name>,
    /// Bytes of all names, and of patterns as they are compared.
    bytes: usize,
    /// Steps that a message may take for its patterns.
    steps: usize,
}

/// Bytes of the tables for each name, in the connection's own and in that of all who listen.
const TABLES: usize = 160;

impl Subscriptions {
    /// Bytes that the server holds for them: each name is kept here and in the table of all who listen.
    pub(crate) fn memory(&self) -> usize {
        self.bytes + (self.channels.len() + self.patterns.len()) * TABLES
    }

    /// Steps that a message may take for its patterns.
    pub(crate) fn steps(&self) -> usize {
        self.steps
    }

    /// Whether it listens to something of this name already.
    pub(crate) fn has(&self, topic: Topic, name: &[u8]) -> bool {
        match topic {
            Topic::Channel => self.channels.contains(name),
            Topic::Pattern => self.patterns.contains(name),
        }
    }

    /// Takes a channel in; whether it is new.
    pub(crate) fn add_channel(&mut self, name: &Name) -> bool {
        let is_new = self.channels.insert(Arc::clone(name));
        self.bytes += if is_new { 2 * name.len() } else { 0 };
        is_new
    }

    /// Takes a pattern in that is new.
    pub(crate) fn add_pattern(&mut self, name: &Name, pattern: &Pattern) {
        self.patterns.insert(Arc::clone(name));
        self.bytes += bytes_of_pattern(name, pattern);
        self.steps += most_steps(pattern);
    }

    /// Takes a channel or pattern out; whether it was there.
    pub(crate) fn remove(&mut self, topic: Topic, name: &[u8]) -> bool {
        let was_there = self.of(topic).remove(name);
        match topic {
            Topic::Channel if was_there => self.bytes -= 2 * name.len(),
            Topic::Pattern if was_there => {
                let pattern = Pattern::new(name).expect("it was read before");
                self.bytes -= bytes_of_pattern(name, &pattern);
                self.steps -= most_steps(&pattern);
            }
            _ => {}
        }
        was_there
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

fn bytes_of_pattern(name: &[u8], pattern: &Pattern) -> usize {
    2 * name.len() + pattern.memory()
}

pub(crate) fn bytes(text: &[u8]) -> Reply {
    Reply::bytes(text)
}

impl PubSub {
    /// Subscriptions of a client that listens to nothing yet.
    pub(crate) fn begin(&self) -> Subscriptions {
        Subscriptions { number: self.numbered.fetch_add(1, Relaxed), ..Subscriptions::default() }
    }

    /// Reserves steps for patterns that a client is about to listen to; false if a message would then take too many.
    pub(crate) fn reserve(&self, steps: usize) -> bool {
        let mut listeners = self.listeners.lock();
        let fits = listeners.steps + steps <= MOST_STEPS;
        listeners.steps += if fits { steps } else { 0 };
        fits
    }

    pub(crate) fn join_channel(&self, name: &Name, number: u64, connection: ConnectionId) {
        let mut listeners = self.listeners.lock();
        self.forget(&mut listeners, STEP_OF_ONE);
        listeners.channels.entry(Arc::clone(name)).or_default().insert(number, connection);
    }

    /// As [`join_channel`](PubSub::join_channel), to a pattern whose steps were reserved.
    pub(crate) fn join_pattern(&self, name: &Name, pattern: Pattern, number: u64, connection: ConnectionId) {
        let mut listeners = self.listeners.lock();
        self.forget(&mut listeners, STEP_OF_ONE);
        let Listeners { patterns, steps, .. } = &mut *listeners;
        match patterns.entry(Arc::clone(name)) {
            Entry::Occupied(known) => {
                *steps -= most_steps(&pattern);
                known.into_mut().connections.insert(number, connection);
            }
            Entry::Vacant(free) => {
                free.insert(Listened { pattern, connections: Connections::from([(number, connection)]) });
            }
        }
    }

    pub(crate) fn leave(&self, topic: Topic, name: &[u8], number: u64) {
        self.listeners.lock().leave(topic, name, number);
    }

    /// A client listens to nothing any more. What it has beyond the first [`STEP`] names is forgotten later, in
    /// [`tick`](PubSub::tick) and while others subscribe; nothing is sent to it meanwhile, and it is not counted.
    pub fn leave_all(&self, subscriptions: Subscriptions) {
        let bytes = subscriptions.memory();
        let Subscriptions { number, channels, patterns, .. } = subscriptions;
        let of = |topic: Topic, names: HashSet<Name>| names.into_iter().map(move |name| (topic, name));
        let names = of(Topic::Channel, channels).chain(of(Topic::Pattern, patterns));
        let mut listeners = self.listeners.lock();
        listeners.gone.insert(number);
        self.left.fetch_add(bytes, Relaxed);
        // Before the older ones: most clients have fewer names than this, and leave nothing to be done later.
        listeners.left.push_front(Left { number, names: Box::new(names), bytes });
        self.forget(&mut listeners, STEP);
    }

    /// Bytes of subscriptions that are in the tables still although their clients are gone.
    pub fn left_bytes(&self) -> usize {
        self.left.load(Relaxed)
    }

    /// Forgets so many names of clients that are gone; whether there may be more.
    fn forget(&self, listeners: &mut Listeners, names: usize) -> bool {
        if listeners.left.is_empty() {
            return false;
        }
        self.left.fetch_sub(listeners.forget(names), Relaxed);
        !listeners.left.is_empty()
    }

    /// Forgets some of what clients listened to that are gone; whether there may be more.
    pub fn tick(&self) -> bool {
        self.forget(&mut self.listeners.lock(), STEP)
    }

    /// Channels, and patterns, that somebody listens to.
    pub fn counts(&self) -> (usize, usize) {
        let listeners = self.listeners.lock();
        (listeners.channels.len(), listeners.patterns.len())
    }

    /// Posted with the lock held, so that two messages reach all in the same order. All share the bytes. Adds the steps
    /// that it takes to `spent`.
    pub(crate) fn publish(&self, channel: &[u8], message: &[u8], mail: &Mailboxes, spent: &mut usize) -> i64 {
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
        for (name, Listened { pattern, connections }) in &listeners.patterns {
            if pattern.matches_within(channel, spent) {
                let [channel, message] = both();
                tell(connections, Reply::Push(vec![Reply::Fixed(&PMESSAGE), shared(name), channel, message]));
            }
        }
        *spent += (listeners.patterns.len() + told as usize) * STEPS_OF_A_KEY;
        told
    }
}

static MESSAGE: LazyLock<Reply> = LazyLock::new(|| Reply::bytes("message"));
static PMESSAGE: LazyLock<Reply> = LazyLock::new(|| Reply::bytes("pmessage"));

impl Listeners {
    /// Those of them who are still there.
    pub(crate) fn live<'a>(&'a self, connections: &'a Connections) -> impl Iterator<Item = &'a ConnectionId> {
        let here = |number: &u64| self.gone.is_empty() || !self.gone.contains(number);
        connections.iter().filter(move |(number, _)| here(number)).map(|(_, connection)| connection)
    }

    fn leave(&mut self, topic: Topic, name: &[u8], number: u64) {
        let connections = match topic {
            Topic::Channel => self.channels.get_mut(name),
            Topic::Pattern => self.patterns.get_mut(name).map(|known| &mut known.connections),
        };
        let Some(connections) = connections else { return };
        connections.remove(&number);
        if !connections.is_empty() {
            return;
        }
        match topic {
            Topic::Channel => _ = self.channels.remove(name),
            Topic::Pattern => self.steps -= self.patterns.remove(name).map_or(0, |known| most_steps(&known.pattern)),
        }
    }

    /// Forgets so many names of clients that are gone, of as many clients as have them; the bytes that this gives back.
    fn forget(&mut self, mut names: usize) -> usize {
        let mut freed = 0;
        while names > 0
            && let Some(mut left) = self.left.pop_front()
        {
            let before = left.names.size_hint().0;
            for (topic, name) in left.names.by_ref().take(names) {
                self.leave(topic, &name, left.number);
            }
            let after = left.names.size_hint().0;
            names = names.saturating_sub((before - after).max(1));
            // What each name took is not known any more: as much as the others on average.
            let kept = (left.bytes * after).checked_div(before).unwrap_or(0);
            freed += left.bytes - kept;
            left.bytes = kept;
            if after == 0 {
                self.gone.remove(&left.number);
            } else {
                self.left.push_front(left);
            }
        }
        freed
    }

    /// How many of them are still there.
    pub(crate) fn count(&self, connections: &Connections) -> usize {
        if self.gone.len() < connections.len() {
            connections.len() - self.gone.iter().filter(|number| connections.contains_key(number)).count()
        } else {
            self.live(connections).count()
        }
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
            match topic {
                Topic::Channel => {
                    subscriptions.add_channel(&name);
                    bus.join_channel(&name, subscriptions.number, connection);
                }
                Topic::Pattern => {
                    let pattern = Pattern::new(&name).unwrap();
                    assert!(bus.reserve(most_steps(&pattern)));
                    subscriptions.add_pattern(&name, &pattern);
                    bus.join_pattern(&name, pattern, subscriptions.number, connection);
                }
            }
        }
        subscriptions
    }

    /// One client listens to 50 patterns that match: all its messages share the bytes of the one that was sent.
    #[test]
    fn a_message_is_not_copied_for_each_pattern() {
        let (bus, mail) = (PubSub::default(), Mailboxes::new(1, usize::MAX));
        let patterns = (1..=50).map(|count| "*".repeat(count));
        let _all = listener(&bus, Topic::Pattern, patterns, ConnectionId { id: 1, ..ConnectionId::default() });
        assert_eq!(bus.publish(b"news", &[b'm'; 1000], &mail, &mut 0), 50);
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
                .map(|name| bus.publish(name.as_bytes(), b"m", &mail, &mut 0))
                .eq(names().map(|name| i64::from(name == "0")))
        );
        assert!(mail.take(0).iter().all(|(to, _)| *to == here));
        // It comes back under the same number while its old names are there still.
        let _back = listener(&bus, Topic::Channel, ["5".to_owned()].into_iter(), gone);
        assert_eq!(bus.publish(b"5", b"m", &mail, &mut 0), 1);
        assert_eq!(std::iter::repeat_with(|| bus.tick()).take_while(|more| *more).count(), 8);
        assert_eq!((bus.counts().0, bus.publish(b"5", b"m", &mail, &mut 0)), (2, 1));
        assert!(bus.listeners.lock().gone.is_empty());
    }

    /// Clients connect, listen to a few channels and patterns and leave, again and again; the upkeep never runs. Nothing of
    /// them is left, so a message costs as much as before.
    #[test]
    fn clients_with_few_names_leave_nothing() {
        let bus = PubSub::default();
        let large = listener(&bus, Topic::Channel, (0..3 * STEP).map(|number| number.to_string()), Default::default());
        bus.leave_all(large);
        for client in 0..1000 {
            let name = |number: usize| format!("{client}:{number}");
            bus.leave_all(listener(&bus, Topic::Channel, (0..3).map(name), Default::default()));
            bus.leave_all(listener(&bus, Topic::Pattern, (0..3).map(|number| name(number) + "*"), Default::default()));
        }
        let listeners = bus.listeners.lock();
        assert_eq!((listeners.channels.len(), listeners.patterns.len(), listeners.steps), (0, 0, 0));
        assert!(listeners.left.is_empty() && listeners.gone.is_empty());
        assert_eq!(bus.left_bytes(), 0);
    }

    /// Clients that listen to many channels come and go faster than the upkeep runs. Who comes forgets more than it adds, so
    /// what is left is what one of them has, at most, and counts as memory until it is forgotten.
    #[test]
    fn clients_with_many_names_leave_a_bounded_rest() {
        let bus = PubSub::default();
        for client in 0..20 {
            let names = (0..20 * STEP).map(|number| format!("{client:2}:{number:6}"));
            let many = listener(&bus, Topic::Channel, names, Default::default());
            let most = many.memory();
            bus.leave_all(many);
            assert_eq!(bus.counts().0, 19 * STEP);
            assert!((most / 20 * 18..most).contains(&bus.left_bytes()), "{} of {most}", bus.left_bytes());
        }
        while bus.tick() {}
        assert_eq!((bus.counts().0, bus.left_bytes()), (0, 0));
    }

    /// Patterns that a message could not be compared with in time are refused; what a client had gives back its steps.
    #[test]
    fn all_patterns_fit_a_message() {
        let (bus, mail) = (PubSub::default(), Mailboxes::new(1, usize::MAX));
        let name = |number: usize| format!("*{}{number:4}*", "a".repeat(500));
        let costly = most_steps(&Pattern::new(name(0).as_bytes()).unwrap());
        let mut held = Vec::new();
        while bus.listeners.lock().steps + costly <= MOST_STEPS {
            held.push(listener(&bus, Topic::Pattern, std::iter::once(name(held.len())), Default::default()));
        }
        assert!(!bus.reserve(costly));
        let mut spent = 0;
        assert_eq!(bus.publish(&[b'a'; MAX_CHANNEL], b"m", &mail, &mut spent), 0);
        assert!((MOST_STEPS / 4..MOST_STEPS).contains(&spent), "{spent} steps of {} patterns", held.len());
        // Another client that listens to the same pattern costs nothing more.
        let same = listener(&bus, Topic::Pattern, std::iter::empty(), Default::default());
        bus.listeners.lock().steps += costly;
        bus.join_pattern(
            &Name::from(name(0).as_bytes()),
            Pattern::new(name(0).as_bytes()).unwrap(),
            same.number,
            ConnectionId::default(),
        );
        assert!(!bus.reserve(costly));
        bus.leave_all(held.pop().unwrap());
        assert!(bus.reserve(costly));
    }
}
