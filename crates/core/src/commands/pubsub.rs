//! Publish and subscribe.

use super::context::Context;
use crate::glob;
use crate::state::client::Client;
use crate::state::pubsub::{MAX_SUBSCRIPTIONS, PubSub, Subscriptions, bytes};
use crate::store::ConnectionId;
use crate::vocabulary::{Args, Error, Kind, PubSubCommand, Reply, Topic};

pub(crate) fn run(cx: &Context<'_>, client: &mut Client, command: &PubSubCommand<'_>) -> Result<Reply, Error> {
    let bus = &cx.engine.pubsub;
    Ok(match *command {
        PubSubCommand::Subscribe(topic, names) => {
            let subscriptions = client.subscriptions.get_or_insert_default();
            if subscriptions.total() as usize + names.len() > MAX_SUBSCRIPTIONS {
                return Err(Error::new(Kind::TooLarge, "ERR too many subscriptions of one connection"));
            }
            let word = if topic == Topic::Channel { "subscribe" } else { "psubscribe" };
            let each = names.iter().map(|name| {
                if subscriptions.of(topic).insert(name.into()) {
                    subscriptions.bytes += name.len();
                    bus.join(topic, name, client.connection);
                }
                Reply::Push(vec![Reply::word(word), bytes(name), Reply::Int(subscriptions.total())])
            });
            Reply::Several(each.collect())
        }
        PubSubCommand::Unsubscribe(topic, names) => {
            let reply = unsubscribe(bus, client.subscriptions.get_or_insert_default(), client.connection, topic, names);
            if client.subscriptions.as_ref().is_some_and(|known| known.total() == 0) {
                client.subscriptions = None;
            }
            reply
        }
        PubSubCommand::Publish(channel, message) => Reply::Int(bus.publish(channel, message, &cx.engine.mail)),
        PubSubCommand::Channels(pattern) => {
            let listeners = bus.listeners.lock();
            let wanted = |name: &[u8]| pattern.is_none_or(|pattern| glob::matches(pattern, name));
            let told = listeners.channels.keys().filter(|name| wanted(name) && client.access.may_hear(name));
            Reply::Array(told.map(|name| bytes(name)).collect())
        }
        PubSubCommand::CountChannels(names) => {
            let listeners = bus.listeners.lock();
            let known = |name: &[u8]| listeners.channels.get(name).filter(|_| client.access.may_hear(name));
            let count = |name: &[u8]| known(name).map_or(0, Vec::len) as i64;
            Reply::Array(names.iter().flat_map(|name| [bytes(name), Reply::Int(count(name))]).collect())
        }
        PubSubCommand::CountPatterns => Reply::Int(bus.counts().1 as i64),
    })
}

fn unsubscribe(
    bus: &PubSub,
    known: &mut Subscriptions,
    connection: ConnectionId,
    topic: Topic,
    names: Args<'_>,
) -> Reply {
    let word = if topic == Topic::Channel { "unsubscribe" } else { "punsubscribe" };
    let all: Vec<Box<[u8]>> = known.of(topic).iter().cloned().collect();
    if names.is_empty() && all.is_empty() {
        return Reply::Push(vec![Reply::word(word), Reply::Null, Reply::Int(known.total())]);
    }
    let mut one = |name: &[u8]| {
        if known.of(topic).remove(name) {
            known.bytes -= name.len();
            bus.leave(topic, name, connection);
        }
        Reply::Push(vec![Reply::word(word), bytes(name), Reply::Int(known.total())])
    };
    Reply::Several(if names.is_empty() {
        all.iter().map(|name| one(name)).collect()
    } else {
        names.iter().map(one).collect()
    })
}
