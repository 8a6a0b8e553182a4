//! Publish and subscribe: who listens to which channels and patterns. Messages go to mailboxes and are kept nowhere else.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;

use crate::command::{Args, Blob, Command, Error, Kind, Reply, Row, SYNTAX, is};
use crate::execute::{Client, Context, TOO_MUCH, TURN};
use crate::glob;
use crate::mailbox::{Event, Mailboxes};
use crate::store::Party;

/// Channels and patterns that one client may listen to.
const MAX_SUBSCRIPTIONS: usize = 1 << 16;

/// Channels and patterns of a client that is gone that are forgotten in one step.
const STEP: usize = 1024;

type Name = Arc<[u8]>;
/// Who listens to one channel or pattern, by the number of its subscriptions.
type Parties = HashMap<u64, Party>;
type Topics = BTreeMap<Name, Parties>;

#[derive(Default)]
struct Listeners {
    channels: Topics,
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
pub struct Bus {
    listeners: Mutex<Listeners>,
    /// How many subscriptions there have been.
    numbered: AtomicU64,
}

/// What one client listens to.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    /// Their number, never used twice.
    number: u64,
    channels: HashSet<Name>,
    patterns: HashSet<Name>,
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

    fn of(&mut self, topic: Topic) -> &mut HashSet<Name> {
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
    /// Subscriptions of a client that listens to nothing yet.
    fn begin(&self) -> Subscriptions {
        Subscriptions { number: self.numbered.fetch_add(1, Relaxed), ..Subscriptions::default() }
    }

    fn join(&self, topic: Topic, name: &Name, number: u64, party: Party) {
        self.listeners.lock().of(topic).entry(Arc::clone(name)).or_default().insert(number, party);
    }

    fn leave(&self, topic: Topic, name: &[u8], number: u64) {
        self.listeners.lock().leave(topic, name, number);
    }

    /// A client listens to nothing any more. Many names are forgotten in [`tick`](Bus::tick); nothing is sent to it
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
    fn publish(&self, channel: &[u8], message: &[u8], mail: &Mailboxes) -> i64 {
        let listeners = self.listeners.lock();
        let mut told = 0;
        let mut tell = |parties: &Parties, push: Reply| {
            let push = Arc::new(push);
            for party in listeners.live(parties) {
                mail.post(*party, Event::Push(Arc::clone(&push)));
                told += 1;
            }
        };
        let shared = |bytes: &Name| Reply::Value(Blob::Shared(Arc::clone(bytes)));
        let mut sent: Option<[Name; 2]> = None;
        let mut both = || {
            let [channel, message] = sent.get_or_insert_with(|| [channel.into(), message.into()]);
            [shared(channel), shared(message)]
        };
        if let Some(parties) = listeners.channels.get(channel) {
            let [channel, message] = both();
            tell(parties, Reply::Push(vec![Reply::Fixed(&MESSAGE), channel, message]));
        }
        for (pattern, parties) in listeners.patterns.iter().filter(|(pattern, _)| glob::matches(pattern, channel)) {
            let [channel, message] = both();
            tell(parties, Reply::Push(vec![Reply::Fixed(&PMESSAGE), shared(pattern), channel, message]));
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
    fn live<'a>(&'a self, parties: &'a Parties) -> impl Iterator<Item = &'a Party> {
        let here = |number: &u64| self.gone.is_empty() || !self.gone.contains(number);
        parties.iter().filter(move |(number, _)| here(number)).map(|(_, party)| party)
    }

    fn leave(&mut self, topic: Topic, name: &[u8], number: u64) {
        let topics = self.of(topic);
        if let Some(parties) = topics.get_mut(name) {
            parties.remove(&number);
            if parties.is_empty() {
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

pub(crate) fn run(cx: &mut Context<'_>, client: &mut Client, command: &BusCommand<'_>) -> Result<Reply, Error> {
    let bus = &cx.engine.bus;
    Ok(match *command {
        BusCommand::Subscribe(topic, names) => return subscribe(bus, client, topic, names),
        BusCommand::Unsubscribe(topic, names) => {
            let reply = unsubscribe(bus, client.subscriptions.get_or_insert_default(), topic, names);
            if client.subscriptions.as_ref().is_some_and(|known| known.total() == 0) {
                client.subscriptions = None;
            }
            reply
        }
        BusCommand::Publish(channel, message) => Reply::Int(bus.publish(channel, message, &cx.engine.mail)),
        BusCommand::Channels(pattern) => return channels(cx, client, pattern),
        BusCommand::CountChannels(names) => {
            let listeners = bus.listeners.lock();
            let known = |name: &[u8]| listeners.channels.get(name).filter(|_| client.access.may_hear(name));
            let count = |name: &[u8]| known(name).map_or(0, |parties| listeners.live(parties).count()) as i64;
            Reply::Array(names.iter().flat_map(|name| [bytes(name), Reply::Int(count(name))]).collect())
        }
        BusCommand::CountPatterns => Reply::Int(bus.counts().1 as i64),
    })
}

fn subscribe(bus: &Bus, client: &mut Client, topic: Topic, names: Args<'_>) -> Result<Reply, Error> {
    let known = client.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.total() as usize);
    if known + names.len() > MAX_SUBSCRIPTIONS {
        return Err(Error::new(Kind::TooLarge, "ERR too many subscriptions of one connection"));
    }
    if topic == Topic::Pattern && names.iter().any(|pattern| pattern.len() > glob::MAX_PATTERN) {
        return Err(glob::TOO_LONG);
    }
    let subscriptions = client.subscriptions.get_or_insert_with(|| Box::new(bus.begin()));
    let word = if topic == Topic::Channel { "subscribe" } else { "psubscribe" };
    let each = names.iter().map(|bytes| {
        let name = Name::from(bytes);
        if subscriptions.of(topic).insert(Arc::clone(&name)) {
            subscriptions.bytes += name.len();
            bus.join(topic, &name, subscriptions.number, client.party);
        }
        Reply::Push(vec![Reply::word(word), Reply::Value(Blob::Shared(name)), Reply::Int(subscriptions.total())])
    });
    Ok(Reply::Several(each.collect()))
}

/// Channels that somebody listens to and that match, in turns.
fn channels(cx: &mut Context<'_>, client: &Client, pattern: Option<&[u8]>) -> Result<Reply, Error> {
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    loop {
        let listeners = cx.engine.bus.listeners.lock();
        let (after, mut cost) = (progress.after.take(), 0);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for (name, parties) in listeners.channels.range::<[u8], _>((from, Bound::Unbounded)) {
            let fits = pattern.is_none_or(|pattern| glob::matches_within(pattern, name, &mut cost));
            cost += glob::STEPS_OF_A_KEY;
            if fits && client.access.may_hear(name) && listeners.live(parties).next().is_some() {
                progress.keep(Reply::Value(Blob::Shared(Arc::clone(name))));
            }
            if progress.bytes > cx.engine.limits.max_reply {
                return Err(TOO_MUCH);
            }
            if cost >= TURN * glob::STEPS_OF_A_KEY {
                progress.after = Some(Arc::clone(name));
                break;
            }
        }
        drop(listeners);
        if progress.after.is_none() {
            return Ok(Reply::Array(progress.found));
        }
        if cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(Reply::Parked);
        }
    }
}

fn unsubscribe(bus: &Bus, known: &mut Subscriptions, topic: Topic, names: Args<'_>) -> Reply {
    let word = if topic == Topic::Channel { "unsubscribe" } else { "punsubscribe" };
    let all: Vec<Name> = if names.is_empty() { known.of(topic).iter().cloned().collect() } else { Vec::new() };
    if names.is_empty() && all.is_empty() {
        return Reply::Push(vec![Reply::word(word), Reply::Null, Reply::Int(known.total())]);
    }
    let mut one = |name: &[u8]| {
        if known.of(topic).remove(name) {
            known.bytes -= name.len();
            bus.leave(topic, name, known.number);
        }
        Reply::Push(vec![Reply::word(word), bytes(name), Reply::Int(known.total())])
    };
    Reply::Several(if names.is_empty() {
        all.iter().map(|name| one(name)).collect()
    } else {
        names.iter().map(one).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(bus: &Bus, topic: Topic, names: impl Iterator<Item = String>, party: Party) -> Subscriptions {
        let mut subscriptions = bus.begin();
        for name in names {
            let name = Name::from(name.as_bytes());
            bus.join(topic, &name, subscriptions.number, party);
            subscriptions.of(topic).insert(name);
        }
        subscriptions
    }

    /// One client listens to 50 patterns that match: all its messages share the bytes of the one that was sent.
    #[test]
    fn a_message_is_not_copied_for_each_pattern() {
        let (bus, mail) = (Bus::default(), Mailboxes::new(1, usize::MAX));
        let patterns = (1..=50).map(|count| "*".repeat(count));
        let _all = listener(&bus, Topic::Pattern, patterns, Party { id: 1, ..Party::default() });
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
        let (bus, mail) = (Bus::default(), Mailboxes::new(1, usize::MAX));
        let (gone, here) = (Party { id: 1, ..Party::default() }, Party { id: 2, ..Party::default() });
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
