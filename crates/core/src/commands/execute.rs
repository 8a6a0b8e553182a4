//! From a command to the function that does it.

use std::sync::atomic::Ordering::Relaxed;

use super::connection::hello;
use super::context::{Context, expires_at};
use super::info::info;
use super::keys::{exist, expire, persist, remove, ttl};
use super::memcached::is_fill;
use super::read::{Form, get, get_many};
use super::server::{ALL, DOCUMENTS, describe_named, document_named, keys_of, list, memory_stats};
use super::strings::{add, mset, set};
use super::waiting::load_first;
use super::{acl, cache, client, config, connection, keyspace, memcached, pubsub, scripts, stats, text, transaction};
use crate::state::client::Client;
use crate::store::{Key, Meta};
use crate::table::{Request, TABLE, flag};
use crate::vocabulary::{Command, Error, Reply};

/// Runs the command of a request, after loading what it depends on where workers load.
#[inline]
pub(crate) fn execute_request(
    cx: &mut Context<'_>,
    client: &mut Client,
    request: &Request<'_>,
    command: &Command<'_>,
) -> Reply {
    // What goes on in another turn has asked for its keys.
    let begins = cx.waits.progress.is_none();
    let fills = |cx: &mut _, client: &_| matches!(command, Command::Memcached(item) if is_fill(cx, client, item));
    if begins && cx.engine.loaders.any() && !request.looks && !fills(cx, client) {
        let db = client.db;
        match load_first(cx, client, request.needed(command).map(|bytes| Key { db, bytes })) {
            Ok(false) => {}
            Ok(true) => return Reply::Parked,
            Err(error) => return Reply::Error(error),
        }
    }
    if begins && client.tracking.is_some() {
        client::remember_reads(cx, client, request);
    }
    let reply = execute(cx, client, command);
    if !client.transaction.watched.is_empty() && !matches!(reply, Reply::Parked) {
        transaction::note_reads(client, request, command, cx.waits);
    }
    if request.row.has(flag::CONNECTION | flag::TRANSACTION) && !request.row.has(flag::UNSEEN) {
        client.show();
    }
    reply
}

/// Runs a command.
#[inline]
pub fn execute(cx: &mut Context<'_>, client: &mut Client, command: &Command<'_>) -> Reply {
    // What most requests are is not looked for among all the others.
    if let Command::Get(bytes) = *command {
        return get(cx, client, Key { db: client.db, bytes }, Form::Plain);
    }
    run(cx, client, command).unwrap_or_else(Reply::Error)
}

fn run(cx: &mut Context<'_>, client: &mut Client, command: &Command<'_>) -> Result<Reply, Error> {
    let db = client.db;
    Ok(match *command {
        Command::Get(key) => get(cx, client, Key { db, bytes: key }, Form::Plain),
        Command::Set { key, value, expiry, condition, get } => {
            return set(cx, Key { db, bytes: key }, value, expiry, condition, get);
        }
        Command::MGet(keys) => return get_many(cx, client, keys, Form::Plain),
        Command::MSet(pairs) => return mset(cx, db, pairs),
        Command::Delete(keys) => return Ok(remove(cx, db, keys)),
        Command::Exists(keys) => exist(cx, db, keys),
        Command::Ttl { key, millis } => ttl(cx, Key { db, bytes: key }, millis),
        Command::Expire { key, millis, absolute, when } => expire(cx, Key { db, bytes: key }, millis, absolute, when),
        Command::Persist(key) => persist(cx, Key { db, bytes: key }),
        Command::Increment(key, by) => {
            return cx.with(Key { db, bytes: key }, |entry, _| add(entry, by, &Meta::default())).map(Reply::Int);
        }
        Command::DbSize => Reply::Int(cx.len(db) as i64),
        Command::Flush { all } => {
            cx.clear((!all).then_some(db));
            Reply::Ok
        }
        Command::Invalidate { keys, tags } => {
            let store = &cx.engine.store;
            let hashes: Vec<u64> = tags.iter().map(|tag| store.tag_in(db, tag)).collect();
            let named = keys.iter().map(|bytes| Key { db, bytes });
            let removed = cx.with_all(named.clone(), |all, _| {
                // Tags first: what they kill is not counted as a key that was removed.
                all.invalidate_tags(&hashes);
                named.filter(|key| all.entry(*key).remove()).count()
            });
            Reply::Int((removed + tags.len()) as i64)
        }
        Command::Ping(message) if client.only_listens() => {
            let message = Reply::bytes(message.unwrap_or_default());
            Reply::Array(vec![Reply::bytes("pong"), message])
        }
        Command::Ping(None) => Reply::Word("PONG"),
        Command::Ping(Some(message)) | Command::Echo(message) => Reply::bytes(message),
        Command::Select(db) => {
            client.db = db;
            Reply::Ok
        }
        Command::Info(sections) => return info(cx, sections).map(Reply::Text),
        Command::Hello { version, auth, name } => return hello(cx.engine, client, version, auth, name),
        Command::Auth(user, password) => return connection::auth(cx.engine, client, user, password),
        Command::Acl(command) => return acl::run(cx, client, &command),
        Command::Client(command) => return client::run(cx, client, &command),
        Command::PubSub(command) => return pubsub::run(cx, client, &command),
        Command::CommandAll => {
            cx.may_look()?;
            Reply::Fixed(&ALL)
        }
        Command::CommandCount => Reply::Int(TABLE.len() as i64),
        Command::CommandList(filter) => return list(cx, filter),
        Command::CommandInfo(names) => {
            cx.may_look()?;
            return describe_named(names);
        }
        Command::CommandDocs(names) => {
            cx.may_look()?;
            return if names.is_empty() { Ok(Reply::Fixed(&DOCUMENTS)) } else { document_named(names) };
        }
        Command::Text(command) => return text::run(cx, client, &command),
        Command::Key(command) => return keyspace::run(cx, client, &command),
        Command::Config(command) => return config::run(cx, &command),
        Command::Script(command) => return scripts::run(cx, client, &command),
        Command::MemoryStats => memory_stats(cx),
        Command::CommandKeys(words, flags) => return keys_of(words, flags),
        Command::Time => {
            let micros = (cx.now.wall % 1000) * 1000;
            let text = |number: u64| Reply::bytes(number.to_string());
            Reply::Array(vec![text(cx.now.wall / 1000), text(micros)])
        }
        Command::LastSave => Reply::Int(cx.engine.started_wall(cx.now) as i64 / 1000),
        Command::Nothing => Reply::Ok,
        Command::Help(lines) => Reply::Array(lines.iter().map(|line| Reply::Word(line)).collect()),
        Command::Multi => return transaction::begin(client),
        Command::Exec => return transaction::exec(cx, client, execute_request),
        Command::Discard => return transaction::discard(cx, client),
        Command::Watch(keys) => return transaction::watch(cx, client, keys),
        Command::Unwatch => {
            transaction::unwatch(cx.engine, cx.now.mono, client);
            Reply::Ok
        }
        Command::Reset => {
            cx.engine.stop_pushes(client);
            transaction::unwatch(cx.engine, cx.now.mono, client);
            client.reset();
            client.access = cx.engine.users.initial_access();
            Reply::Word("RESET")
        }
        Command::Memcached(item) => return memcached::run(cx, client, &item),
        Command::Cache(command) => return cache::run(cx, client, &command),
        Command::Stats(section) => return stats::stats(cx, section),
        Command::FlushAt(when) => {
            match expires_at(cx.now, cx.now.mono, when, None).filter(|at| *at > cx.now.mono) {
                Some(at) => cx.engine.control.flush_at(db, at),
                None => cx.clear(Some(db)),
            }
            Reply::Ok
        }
        Command::Advance(millis) => {
            cx.engine.control.advance(millis);
            Reply::Ok
        }
        Command::Panic(false) => panic!("debugpanic was asked for"),
        Command::Panic(true) => {
            cx.engine.control.panic.store(true, Relaxed);
            Reply::Ok
        }
        Command::Shutdown => {
            client.quitting = true;
            cx.engine.control.stop.store(true, Relaxed);
            Reply::Ok
        }
        Command::Quit => {
            client.quitting = true;
            Reply::Ok
        }
    })
}
