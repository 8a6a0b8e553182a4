//! Publish and subscribe.

use std::ops::Bound;
use std::sync::Arc;

use super::context::{Context, TOO_MUCH, TURN};
use crate::glob;
use crate::limits::MAX_PATTERN;
use crate::state::client::Client;
use crate::state::pubsub::{MAX_SUBSCRIPTIONS, Name, PubSub, Subscriptions, bytes};
use crate::vocabulary::{Args, Blob, Error, Kind, PubSubCommand, Reply, Topic};

/// A pattern is longer than those that are kept.
const PATTERN_TOO_LONG: Error = Error::new(Kind::TooLarge, "ERR a pattern cannot be longer than 1024 bytes");

pub(crate) fn run(cx: &mut Context<'_>, client: &mut Client, command: &PubSubCommand<'_>) -> Result<Reply, Error> {
    let bus = &cx.engine.pubsub;
    Ok(match *command {
        PubSubCommand::Subscribe(topic, names) => return subscribe(bus, client, topic, names),
        PubSubCommand::Unsubscribe(topic, names) => {
            let reply = unsubscribe(bus, client.subscriptions.get_or_insert_default(), topic, names);
            if client.subscriptions.as_ref().is_some_and(|known| known.total() == 0) {
                client.subscriptions = None;
            }
            reply
        }
        PubSubCommand::Publish(channel, message) => Reply::Int(bus.publish(channel, message, &cx.engine.mail)),
        PubSubCommand::Channels(pattern) => return channels(cx, client, pattern),
        PubSubCommand::CountChannels(names) => {
            let listeners = bus.listeners.lock();
            let known = |name: &[u8]| listeners.channels.get(name).filter(|_| client.access.may_hear(name));
            let count = |name: &[u8]| known(name).map_or(0, |connections| listeners.live(connections).count()) as i64;
            Reply::Array(names.iter().flat_map(|name| [bytes(name), Reply::Int(count(name))]).collect())
        }
        PubSubCommand::CountPatterns => Reply::Int(bus.counts().1 as i64),
    })
}

fn subscribe(bus: &PubSub, client: &mut Client, topic: Topic, names: Args<'_>) -> Result<Reply, Error> {
    let known = client.subscriptions.as_ref().map_or(0, |subscriptions| subscriptions.total() as usize);
    if known + names.len() > MAX_SUBSCRIPTIONS {
        return Err(Error::new(Kind::TooLarge, "ERR too many subscriptions of one connection"));
    }
    if topic == Topic::Pattern && names.iter().any(|pattern| pattern.len() > MAX_PATTERN) {
        return Err(PATTERN_TOO_LONG);
    }
    let subscriptions = client.subscriptions.get_or_insert_with(|| Box::new(bus.begin()));
    let word = if topic == Topic::Channel { "subscribe" } else { "psubscribe" };
    let each = names.iter().map(|bytes| {
        let name = Name::from(bytes);
        if subscriptions.of(topic).insert(Arc::clone(&name)) {
            subscriptions.bytes += name.len();
            bus.join(topic, &name, subscriptions.number, client.connection);
        }
        Reply::Push(vec![Reply::word(word), Reply::Value(Blob::Shared(name)), Reply::Int(subscriptions.total())])
    });
    Ok(Reply::Several(each.collect()))
}

/// Channels that somebody listens to and that match, in turns.
fn channels(cx: &mut Context<'_>, client: &Client, pattern: Option<&[u8]>) -> Result<Reply, Error> {
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    loop {
        let listeners = cx.engine.pubsub.listeners.lock();
        let (after, mut cost) = (progress.after.take(), 0);
        let from = after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for (name, connections) in listeners.channels.range::<[u8], _>((from, Bound::Unbounded)) {
            let fits = pattern.is_none_or(|pattern| glob::matches_within(pattern, name, &mut cost));
            cost += glob::STEPS_OF_A_KEY;
            if fits && client.access.may_hear(name) && listeners.live(connections).next().is_some() {
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

fn unsubscribe(bus: &PubSub, known: &mut Subscriptions, topic: Topic, names: Args<'_>) -> Reply {
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
