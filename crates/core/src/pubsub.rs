//! Publish and subscribe: who listens to which channels and patterns. Messages go to mailboxes and are kept nowhere else.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::command::{Args, Blob, Command, Error, Kind, Reply, Row, SYNTAX, is};
use crate::execute::{Client, Context};
use crate::glob;
use crate::mailbox::{Event, Mailboxes};
use crate::store::Party;

/// Channels and patterns that one client may listen to.
const MAX_SUBSCRIPTIONS: usize = 1 << 16;

type Topics = HashMap<Box<[u8]>, Vec<Party>>;

#[derive(Default)]
struct Listeners {
    channels: Topics,
    patterns: Topics,
}

/// Who listens to what.
#[derive(Default)]
pub struct Bus {
    listeners: Mutex<Listeners>,
}

/// What one client listens to.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    channels: HashSet<Box<[u8]>>,
    patterns: HashSet<Box<[u8]>>,
    /// Bytes of all names.
    bytes: usize,
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

    fn of(&mut self, topic: Topic) -> &mut HashSet<Box<[u8]>> {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }

    fn total(&self) -> i64 {
        (self.channels.len() + self.patterns.len()) as i64
    }
}

/// What is listened to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topic {
    /// A channel.
    Channel,
    /// All channels that match.
    Pattern,
}

/// A command on channels.
#[derive(Clone, Copy, Debug)]
pub enum BusCommand<'a> {
    /// Listens to these.
    Subscribe(Topic, Args<'a>),
    /// Listens to these no more; to none without names.
    Unsubscribe(Topic, Args<'a>),
    /// Tells those who listen; how many they are.
    Publish(&'a [u8], &'a [u8]),
    /// Channels that somebody listens to and that match.
    Channels(Option<&'a [u8]>),
    /// How many listen to each of these channels.
    CountChannels(Args<'a>),
    /// How many patterns are listened to.
    CountPatterns,
}

fn command(command: BusCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::Bus(command))
}

pub(crate) fn read_subscribe<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(BusCommand::Subscribe(Topic::Channel, args))
}

pub(crate) fn read_psubscribe<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(BusCommand::Subscribe(Topic::Pattern, args))
}

pub(crate) fn read_unsubscribe<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(BusCommand::Unsubscribe(Topic::Channel, args))
}

pub(crate) fn read_punsubscribe<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(BusCommand::Unsubscribe(Topic::Pattern, args))
}

pub(crate) fn read_publish<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(BusCommand::Publish(args.get(0).ok_or(SYNTAX)?, args.get(1).ok_or(SYNTAX)?))
}

pub(crate) fn read_pubsub<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).ok_or(SYNTAX)?;
    command(match args.len() {
        1 | 2 if is(sub, "CHANNELS") => BusCommand::Channels(args.get(1)),
        _ if is(sub, "NUMSUB") => BusCommand::CountChannels(args.from(1)),
        1 if is(sub, "NUMPAT") => BusCommand::CountPatterns,
        _ => {
            let known = ["channels", "numpat"].into_iter().find(|name| is(sub, name));
            return Err(known.map_or_else(|| row.unknown_subcommand(sub), |name| row.wrong_subcommand_arity(name)));
        }
    })
}

fn bytes(text: &[u8]) -> Reply {
    Reply::Value(Blob::Owned(text.to_vec()))
}

impl Bus {
    fn join(&self, topic: Topic, name: &[u8], party: Party) {
        self.listeners.lock().of(topic).entry(name.into()).or_default().push(party);
    }

    fn leave(&self, topic: Topic, name: &[u8], party: Party) {
        let mut listeners = self.listeners.lock();
        let topics = listeners.of(topic);
        if let Some(parties) = topics.get_mut(name) {
            parties.retain(|known| *known != party);
            if parties.is_empty() {
                topics.remove(name);
            }
        }
    }

    /// A client listens to nothing any more.
    pub fn leave_all(&self, subscriptions: &Subscriptions, party: Party) {
        for name in &subscriptions.channels {
            self.leave(Topic::Channel, name, party);
        }
        for name in &subscriptions.patterns {
            self.leave(Topic::Pattern, name, party);
        }
    }

    /// Channels, and patterns, that somebody listens to.
    pub fn counts(&self) -> (usize, usize) {
        let listeners = self.listeners.lock();
        (listeners.channels.len(), listeners.patterns.len())
    }

    /// Posted with the lock held, so that two messages reach all in the same order.
    fn publish(&self, channel: &[u8], message: &[u8], mail: &Mailboxes) -> i64 {
        let listeners = self.listeners.lock();
        let mut told = 0;
        let mut tell = |parties: &[Party], push: Reply| {
            let push = Arc::new(push);
            for party in parties {
                mail.post(*party, Event::Push(Arc::clone(&push)));
                told += 1;
            }
        };
        if let Some(parties) = listeners.channels.get(channel) {
            tell(parties, Reply::Push(vec![Reply::word("message"), bytes(channel), bytes(message)]));
        }
        for (pattern, parties) in listeners.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel)) {
            let push = vec![Reply::word("pmessage"), bytes(pattern), bytes(channel), bytes(message)];
            tell(parties, Reply::Push(push));
        }
        told
    }
}

impl Listeners {
    fn of(&mut self, topic: Topic) -> &mut Topics {
        match topic {
            Topic::Channel => &mut self.channels,
            Topic::Pattern => &mut self.patterns,
        }
    }
}

pub(crate) fn run(cx: &Context<'_>, client: &mut Client, command: &BusCommand<'_>) -> Result<Reply, Error> {
    let bus = &cx.engine.bus;
    Ok(match *command {
        BusCommand::Subscribe(topic, names) => {
            let subscriptions = client.subscriptions.get_or_insert_default();
            if subscriptions.total() as usize + names.len() > MAX_SUBSCRIPTIONS {
                return Err(Error::new(Kind::TooLarge, "ERR too many subscriptions of one connection"));
            }
            let word = if topic == Topic::Channel { "subscribe" } else { "psubscribe" };
            let each = names.iter().map(|name| {
                if subscriptions.of(topic).insert(name.into()) {
                    subscriptions.bytes += name.len();
                    bus.join(topic, name, client.party);
                }
                Reply::Push(vec![Reply::word(word), bytes(name), Reply::Int(subscriptions.total())])
            });
            Reply::Several(each.collect())
        }
        BusCommand::Unsubscribe(topic, names) => {
            let reply = unsubscribe(bus, client.subscriptions.get_or_insert_default(), client.party, topic, names);
            if client.subscriptions.as_ref().is_some_and(|known| known.total() == 0) {
                client.subscriptions = None;
            }
            reply
        }
        BusCommand::Publish(channel, message) => Reply::Int(bus.publish(channel, message, &cx.engine.mail)),
        BusCommand::Channels(pattern) => {
            let listeners = bus.listeners.lock();
            let wanted = |name: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
            let told = listeners.channels.keys().filter(|name| wanted(name) && client.access.may_hear(name));
            Reply::Array(told.map(|name| bytes(name)).collect())
        }
        BusCommand::CountChannels(names) => {
            let listeners = bus.listeners.lock();
            let known = |name: &[u8]| listeners.channels.get(name).filter(|_| client.access.may_hear(name));
            let count = |name: &[u8]| known(name).map_or(0, Vec::len) as i64;
            Reply::Array(names.iter().flat_map(|name| [bytes(name), Reply::Int(count(name))]).collect())
        }
        BusCommand::CountPatterns => Reply::Int(bus.counts().1 as i64),
    })
}

fn unsubscribe(bus: &Bus, known: &mut Subscriptions, party: Party, topic: Topic, names: Args<'_>) -> Reply {
    let word = if topic == Topic::Channel { "unsubscribe" } else { "punsubscribe" };
    let all: Vec<Box<[u8]>> = known.of(topic).iter().cloned().collect();
    if names.is_empty() && all.is_empty() {
        return Reply::Push(vec![Reply::word(word), Reply::Null, Reply::Int(known.total())]);
    }
    let mut one = |name: &[u8]| {
        if known.of(topic).remove(name) {
            known.bytes -= name.len();
            bus.leave(topic, name, party);
        }
        Reply::Push(vec![Reply::word(word), bytes(name), Reply::Int(known.total())])
    };
    Reply::Several(if names.is_empty() {
        all.iter().map(|name| one(name)).collect()
    } else {
        names.iter().map(one).collect()
    })
}
