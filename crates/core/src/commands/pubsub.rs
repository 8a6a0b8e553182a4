//! Publish and subscribe.

use std::collections::HashSet;
use std::ops::Bound;
use std::sync::Arc;

use super::context::{Context, TOO_MUCH, TURN, read_pattern};
use crate::glob::{Pattern, STEPS_OF_A_KEY};
use crate::state::client::Client;
use crate::state::pubsub::{MAX_SUBSCRIPTIONS, MOST_STEPS_OF_ONE, Name, PubSub, Subscriptions, bytes, most_steps};
use crate::vocabulary::{Args, Blob, Error, Kind, PubSubCommand, Reply, Topic};

/// Patterns of one client, or of all, that a message would be compared with for too long.
const TOO_COSTLY: Error = Error::new(
    Kind::TooLarge,
    "ERR the patterns of one connection are too many or too costly to compare; subscribe to channels, or use fewer stars",
);
const ALL_TOO_COSTLY: Error =
    Error::new(Kind::Busy, "BUSY the patterns of all clients are too many or too costly to compare; try again later");

pub(crate) fn run(cx: &mut Context<'_>, client: &mut Client, command: &PubSubCommand<'_>) -> Result<Reply, Error> {
    let bus = &cx.engine.pubsub;
    Ok(match *command {
        PubSubCommand::Subscribe(topic, names) => return subscribe(cx, client, topic, names),
        PubSubCommand::Unsubscribe(topic, names) => unsubscribe(cx, client, topic, names),
        PubSubCommand::Publish(channel, message) => {
            cx.may_look()?;
            let mut spent = 0;
            let told = bus.publish(channel, message, &cx.engine.mail, &mut spent);
            cx.waits.looked_at += spent / STEPS_OF_A_KEY;
            Reply::Int(told)
        }
        PubSubCommand::Channels(pattern) => return channels(cx, client, pattern),
        PubSubCommand::CountChannels(names) => {
            cx.may_look()?;
            cx.waits.looked_at += names.len();
            let listeners = bus.listeners.lock();
            let known = |name: &[u8]| listeners.channels.get(name).filter(|_| client.access.may_hear(name));
            let count = |name: &[u8]| known(name).map_or(0, |connections| listeners.count(connections)) as i64;
            Reply::Array(names.iter().flat_map(|name| [bytes(name), Reply::Int(count(name))]).collect())
        }
        PubSubCommand::CountPatterns => {
            cx.may_look()?;
            cx.waits.looked_at += 1;
            Reply::Int(bus.counts().1 as i64)
        }
    })
}

/// Names that are taken in or out in one turn: a few milliseconds. A pattern takes longer, since it is read.
fn names_of_turn(topic: Topic) -> usize {
    match topic {
        Topic::Channel => TURN / 2,
        Topic::Pattern => TURN / 8,
    }
}

/// Listens to all of these in turns, the names of each confirmed at its end. What is refused in a later turn is an error behind
/// the confirmations of those before.
fn subscribe(cx: &mut Context<'_>, client: &mut Client, topic: Topic, names: Args<'_>) -> Result<Reply, Error> {
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let known = client.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.total() as usize);
    if progress.at == 0 && known + names.len() > MAX_SUBSCRIPTIONS {
        return Err(Error::new(Kind::TooLarge, "ERR too many subscriptions of one connection"));
    }
    loop {
        let rest = names.from(progress.at as usize);
        let some = rest.to(names_of_turn(topic).min(rest.len()));
        subscribe_some(&cx.engine.pubsub, client, topic, some, &mut progress.pushes)?;
        progress.at += some.len() as u64;
        if progress.at as usize == names.len() {
            return Ok(Reply::Several(progress.pushes));
        }
        if cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(Reply::Parked);
        }
    }
}

fn subscribe_some(
    bus: &PubSub,
    client: &mut Client,
    topic: Topic,
    names: Args<'_>,
    pushes: &mut Vec<Reply>,
) -> Result<(), Error> {
    let mut new = Vec::new();
    if topic == Topic::Pattern {
        new = new_patterns(bus, client.subscriptions.as_deref(), names)?;
    }
    let mut new = new.into_iter();
    let subscriptions = client.subscriptions.get_or_insert_with(|| Box::new(bus.begin()));
    let word = if topic == Topic::Channel { "subscribe" } else { "psubscribe" };
    pushes.extend(names.iter().map(|bytes| {
        let name = Name::from(bytes);
        match topic {
            Topic::Channel if subscriptions.add_channel(&name) => {
                bus.join_channel(&name, subscriptions.number, client.connection);
            }
            Topic::Pattern if !subscriptions.has(topic, bytes) => {
                let pattern = new.next().expect("each new pattern was read");
                subscriptions.add_pattern(&name, &pattern);
                bus.join_pattern(&name, pattern, subscriptions.number, client.connection);
            }
            _ => {}
        }
        Reply::Push(vec![Reply::bytes(word), Reply::Value(Blob::Shared(name)), Reply::Int(subscriptions.total())])
    }));
    Ok(())
}

/// The patterns among these to which a client does not listen yet, each once, with their steps reserved.
fn new_patterns(bus: &PubSub, known: Option<&Subscriptions>, names: Args<'_>) -> Result<Vec<Pattern>, Error> {
    let mut seen: HashSet<&[u8]> = HashSet::new();
    let unknown = names.iter().filter(|name| !known.is_some_and(|known| known.has(Topic::Pattern, name)));
    let new = unknown.filter(|name| seen.insert(name)).map(read_pattern).collect::<Result<Vec<_>, _>>()?;
    let steps = new.iter().map(most_steps).sum();
    if known.map_or(0, Subscriptions::steps) + steps > MOST_STEPS_OF_ONE {
        return Err(TOO_COSTLY);
    }
    if bus.reserve(steps) { Ok(new) } else { Err(ALL_TOO_COSTLY) }
}

/// Channels that somebody listens to and that match, in turns.
fn channels(cx: &mut Context<'_>, client: &Client, pattern: Option<&[u8]>) -> Result<Reply, Error> {
    cx.may_look()?;
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let pattern = pattern.map(read_pattern).transpose()?;
    loop {
        let listeners = cx.engine.pubsub.listeners.lock();
        let (after, mut cost) = (progress.after.take(), 0);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for (name, connections) in listeners.channels.range::<[u8], _>((from, Bound::Unbounded)) {
            let fits = pattern.as_ref().is_none_or(|pattern| pattern.matches_within(name, &mut cost));
            cost += STEPS_OF_A_KEY;
            if fits && client.access.may_hear(name) && listeners.live(connections).next().is_some() {
                progress.keep(Reply::Value(Blob::Shared(Arc::clone(name))));
            }
            if progress.bytes > cx.engine.limits.max_reply {
                return Err(TOO_MUCH);
            }
            if cost >= TURN * STEPS_OF_A_KEY {
                progress.after = Some(Arc::clone(name));
                break;
            }
        }
        drop(listeners);
        cx.waits.looked_at += cost / STEPS_OF_A_KEY;
        if progress.after.is_none() {
            return Ok(Reply::Array(progress.found));
        }
        cx.may_look()?;
        if cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(Reply::Parked);
        }
    }
}

/// Listens to these no more, or to none without names, in turns as [`subscribe`].
fn unsubscribe(cx: &mut Context<'_>, client: &mut Client, topic: Topic, names: Args<'_>) -> Reply {
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let known = client.subscriptions.get_or_insert_with(|| Box::new(cx.engine.pubsub.begin()));
    let word = if topic == Topic::Channel { "unsubscribe" } else { "punsubscribe" };
    let is_done = loop {
        let rest = names.from(progress.at as usize);
        let some: Vec<Name> = match names.is_empty() {
            true => known.of(topic).iter().take(names_of_turn(topic)).cloned().collect(),
            false => rest.iter().take(names_of_turn(topic)).map(Name::from).collect(),
        };
        progress.at += some.len() as u64;
        progress.pushes.extend(some.into_iter().map(|name| {
            if known.remove(topic, &name) {
                cx.engine.pubsub.leave(topic, &name, known.number);
            }
            Reply::Push(vec![Reply::bytes(word), Reply::Value(Blob::Shared(name)), Reply::Int(known.total())])
        }));
        let is_over = if names.is_empty() { known.of(topic).is_empty() } else { progress.at as usize == names.len() };
        if is_over {
            break true;
        }
        if cx.may_stop() {
            break false;
        }
    };
    if !is_done {
        cx.waits.progress = Some(progress);
        return Reply::Parked;
    }
    if progress.at == 0 {
        progress.pushes.push(Reply::Push(vec![Reply::bytes(word), Reply::Null, Reply::Int(known.total())]));
    }
    if known.total() == 0 {
        client.subscriptions = None;
    }
    Reply::Several(progress.pushes)
}
