//! Publish and subscribe: who listens to which channels and patterns. Messages go to mailboxes and are kept nowhere else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::mailbox::{Event, Mailboxes};
use crate::glob;
use crate::store::ConnectionId;
use crate::vocabulary::{Blob, Reply, Topic};

/// Channels and patterns that one client may listen to.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 1 << 16;

pub(crate) type Topics = HashMap<Box<[u8]>, Vec<ConnectionId>>;

#[derive(Default)]
pub(crate) struct Listeners {
    pub(crate) channels: Topics,
    patterns: Topics,
}

/// Who listens to what.
#[derive(Default)]
pub struct PubSub {
    pub(crate) listeners: Mutex<Listeners>,
}

/// What one client listens to.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    channels: HashSet<Box<[u8]>>,
    patterns: HashSet<Box<[u8]>>,
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

    pub(crate) fn of(&mut self, topic: Topic) -> &mut HashSet<Box<[u8]>> {
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
    pub(crate) fn join(&self, topic: Topic, name: &[u8], connection: ConnectionId) {
        self.listeners.lock().of(topic).entry(name.into()).or_default().push(connection);
    }

    pub(crate) fn leave(&self, topic: Topic, name: &[u8], connection: ConnectionId) {
        let mut listeners = self.listeners.lock();
        let topics = listeners.of(topic);
        if let Some(connections) = topics.get_mut(name) {
            connections.retain(|known| *known != connection);
            if connections.is_empty() {
                topics.remove(name);
            }
        }
    }

    /// A client listens to nothing any more.
    pub fn leave_all(&self, subscriptions: &Subscriptions, connection: ConnectionId) {
        for name in &subscriptions.channels {
            self.leave(Topic::Channel, name, connection);
        }
        for name in &subscriptions.patterns {
            self.leave(Topic::Pattern, name, connection);
        }
    }

    /// Channels, and patterns, that somebody listens to.
    pub fn counts(&self) -> (usize, usize) {
        let listeners = self.listeners.lock();
        (listeners.channels.len(), listeners.patterns.len())
    }

    /// Posted with the lock held, so that two messages reach all in the same order.
    pub(crate) fn publish(&self, channel: &[u8], message: &[u8], mail: &Mailboxes) -> i64 {
        let listeners = self.listeners.lock();
        let mut told = 0;
        let mut tell = |connections: &[ConnectionId], push: Reply| {
            let push = Arc::new(push);
            for connection in connections {
                mail.post(*connection, Event::Push(Arc::clone(&push)));
                told += 1;
            }
        };
        if let Some(connections) = listeners.channels.get(channel) {
            tell(connections, Reply::Push(vec![Reply::word("message"), bytes(channel), bytes(message)]));
        }
        for (pattern, connections) in listeners.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel)) {
            let push = vec![Reply::word("pmessage"), bytes(pattern), bytes(channel), bytes(message)];
            tell(connections, Reply::Push(push));
        }
        told
    }
}

impl Listeners {
    pub(crate) fn of(&mut self, topic: Topic) -> &mut Topics {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }
}
