//! What each command does: `execute(context, client, command) -> reply`. Commands return replies; they know neither
//! protocol nor connection. Whatever a command does to a key happens in one step under the lock of its shard.

mod acl;
mod client;
mod config;
mod connection;
mod keys;
mod keyspace;
mod room;
mod scripts;
mod server;
mod strings;
mod text;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::cache::CacheCommand;
use crate::command::{Args, Blob, Command, Error, Expiry, Kind, Reply, Row, TABLE, flag};
use crate::engine::{Engine, Now};
use crate::pubsub::BusCommand;
use crate::store::{Entry, Item, Key, Locked, Party, Refused, Stats, Value, Written};
use crate::waiting::{Waits, load_first};
use crate::{cache, items, pubsub, stats, transaction};

pub use acl::AclCommand;
pub(crate) use acl::read_acl;
pub(crate) use client::read_client;
pub use client::{ClientCommand, Replies};
pub use config::ConfigCommand;
pub(crate) use config::read_config;
pub use connection::Client;
use connection::hello;
use keys::{count, expire, persist, remove, ttl};
pub use keyspace::KeyCommand;
pub(crate) use keyspace::{
    read_copy, read_expiretime, read_keys, read_memory, read_move, read_object, read_pexpiretime, read_randomkey,
    read_rename, read_renamenx, read_scan, read_type,
};
pub(crate) use room::Writes;
pub use scripts::{Script, ScriptCommand};
pub(crate) use scripts::{read_eval, read_evalsha, read_function, read_script};
use server::{ALL, DOCUMENTS, describe_named, document_named, info, keys_of, list, memory_stats};
#[cfg(test)]
pub(crate) use strings::get_served;
pub(crate) use strings::{OVERFLOW, why_refused};
use strings::{get, increment, mget, mset, set};
pub use text::TextCommand;
pub(crate) use text::{
    read_append, read_delifeq, read_getdel, read_getex, read_getrange, read_incrbyfloat, read_msetnx, read_setnx,
    read_setrange, read_strlen,
};

/// What a command works with.
pub struct Context<'a> {
    /// What all connections share.
    pub engine: &'a Engine,
    /// The clocks.
    pub now: Now,
    /// Small values of a reply are copied here under the lock; kept between commands for its capacity.
    pub scratch: &'a mut Vec<u8>,
    /// The shards that a transaction has locked: all that its commands touch.
    pub held: Option<&'a mut (dyn Held + 'a)>,
    /// What the command waits for, or was told when it had waited.
    pub waits: &'a mut Waits,
}

/// Is given the clock and a live item, or None where there is none, with the scratch buffer; whether to go on.
type Visit<'v> = dyn FnMut(u64, Option<Item<'_>>, &mut Vec<u8>) -> bool + 'v;

/// Keys that are used in one step: those of a command of several keys, or all of a transaction.
pub trait Held {
    /// The entry of a key whose shard is locked.
    fn entry<'e>(&'e mut self, key: Key<'e>) -> Entry<'e>;
    /// As [`Locked::fits`].
    fn fits<'k>(&mut self, values: &mut dyn Iterator<Item = Written<'k>>) -> bool;
    /// As [`Locked::rename`].
    fn rename(&mut self, from: Key<'_>, to: Key<'_>) -> Result<bool, Refused>;
    /// As [`Store::read_all`](crate::store::Store::read_all), of keys whose shards are locked.
    fn read_all(&mut self, db: u8, keys: Args<'_>, scratch: &mut Vec<u8>, visit: &mut Visit<'_>);
    /// Invalidates tags, by their hashes.
    fn invalidate_tags(&mut self, tags: &[u64]);
    /// As [`Locked::hold_to_invalidate`].
    fn hold_to_invalidate(&mut self);
    /// Removes everything, or everything in one database; all shards are locked.
    fn clear(&mut self, db: Option<u8>);
    /// Items of a database; all shards are locked.
    fn len(&self, db: u8) -> u64;
    /// As [`Store::stats`](crate::store::Store::stats); all shards are locked.
    fn stats(&self) -> Stats;
    /// As [`Store::each_holder`](crate::store::Store::each_holder); all shards are locked.
    fn each_holder(&self, visit: &mut dyn FnMut(Option<Party>));
    /// As [`Store::cursor_at`](crate::store::Store::cursor_at); all shards are locked.
    fn cursor_at(&self, random: u64) -> u64;
    /// As [`Store::scan`](crate::store::Store::scan); all shards are locked.
    fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64;
}

impl Held for Locked<'_> {
    fn entry<'e>(&'e mut self, key: Key<'e>) -> Entry<'e> {
        Locked::entry(self, key)
    }

    fn fits<'k>(&mut self, values: &mut dyn Iterator<Item = Written<'k>>) -> bool {
        Locked::fits(self, values)
    }

    fn rename(&mut self, from: Key<'_>, to: Key<'_>) -> Result<bool, Refused> {
        Locked::rename(self, from, to)
    }

    fn read_all(&mut self, db: u8, keys: Args<'_>, scratch: &mut Vec<u8>, visit: &mut Visit<'_>) {
        let keys = keys.iter().map(|bytes| Key { db, bytes });
        Locked::read_all(self, keys, |now, item| visit(now, item, scratch));
    }

    fn invalidate_tags(&mut self, tags: &[u64]) {
        Locked::invalidate_tags(self, tags);
    }

    fn hold_to_invalidate(&mut self) {
        Locked::hold_to_invalidate(self);
    }

    fn clear(&mut self, db: Option<u8>) {
        Locked::clear(self, db);
    }

    fn len(&self, db: u8) -> u64 {
        Locked::len(self, db)
    }

    fn stats(&self) -> Stats {
        Locked::stats(self)
    }

    fn each_holder(&self, visit: &mut dyn FnMut(Option<Party>)) {
        Locked::each_holder(self, visit);
    }

    fn cursor_at(&self, random: u64) -> u64 {
        Locked::cursor_at(self, random)
    }

    fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        Locked::scan(self, db, cursor, count, visit)
    }
}

/// What a turn of a command may cost that need not be one step, in items that it looks at: a few milliseconds.
pub(crate) const TURN: usize = 8192;

/// Keys that a transaction may have looked at without naming them when it begins to look at more.
const MAX_LOOKED_AT: usize = 1 << 20;

impl Context<'_> {
    /// Runs `step` on the entry of `key`, with the scratch buffer beside it: one step for everybody else.
    #[inline]
    pub fn with<R>(&mut self, key: Key<'_>, step: impl FnOnce(&mut Entry<'_>, &mut Vec<u8>) -> R) -> R {
        let scratch = &mut *self.scratch;
        match &mut self.held {
            None => self.engine.store.with(key, self.now.mono, |entry| step(entry, scratch)),
            Some(held) => step(&mut held.entry(key), scratch),
        }
    }

    /// Runs `step` with all `keys` in one step.
    pub fn with_all<'k, R>(
        &mut self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        step: impl FnOnce(&mut dyn Held, &mut Vec<u8>) -> R,
    ) -> R {
        let scratch = &mut *self.scratch;
        match &mut self.held {
            None => self.engine.store.with_all(keys.clone(), self.now.mono, |all| {
                all.prefetch(keys);
                step(all, scratch)
            }),
            Some(held) => step(*held, scratch),
        }
    }

    /// As [`Store::read_all`](crate::store::Store::read_all), with the scratch buffer beside each item.
    #[inline]
    pub fn read_all(
        &mut self,
        db: u8,
        keys: Args<'_>,
        mut visit: impl FnMut(u64, Option<Item<'_>>, &mut Vec<u8>) -> bool,
    ) {
        let scratch = &mut *self.scratch;
        match &mut self.held {
            None => {
                let keys = keys.iter().map(|bytes| Key { db, bytes });
                self.engine.store.read_all(keys, self.now.mono, |now, item| visit(now, item, scratch));
            }
            Some(held) => held.read_all(db, keys, scratch, &mut visit),
        }
    }

    /// Whether a command that has used up its turn may stop, to be run again: what need not be one step, unless it belongs to
    /// a transaction.
    pub fn may_stop(&self) -> bool {
        self.waits.in_turns && self.held.is_none()
    }

    /// An error if a transaction, which has locked all shards, has looked at so many keys already without naming them that it
    /// may not begin to look at more.
    pub(crate) fn may_look(&self) -> Result<(), Error> {
        let busy = self.held.is_some() && self.waits.looked_at >= MAX_LOOKED_AT;
        if busy {
            Err(Error::new(Kind::Busy, "BUSY the transaction has looked at too many keys already"))
        } else {
            Ok(())
        }
    }

    /// Removes everything, or everything in one database.
    pub fn clear(&mut self, db: Option<u8>) {
        match &mut self.held {
            None => self.engine.store.clear(db, self.now.mono),
            Some(held) => held.clear(db),
        }
    }

    /// Items of a database.
    pub fn len(&self, db: u8) -> u64 {
        self.held.as_ref().map_or_else(|| self.engine.store.len(db), |held| held.len(db))
    }

    /// What is held, and what happened since the start.
    pub fn stats(&self) -> Stats {
        self.held.as_ref().map_or_else(|| self.engine.store.stats(), |held| held.stats())
    }

    /// As [`Store::each_holder`](crate::store::Store::each_holder).
    pub fn each_holder(&self, visit: &mut dyn FnMut(Option<Party>)) {
        match &self.held {
            None => self.engine.store.each_holder(visit),
            Some(held) => held.each_holder(visit),
        }
    }

    /// As [`Store::cursor_at`](crate::store::Store::cursor_at).
    pub fn cursor_at(&self, random: u64) -> u64 {
        self.held.as_ref().map_or_else(|| self.engine.store.cursor_at(random), |held| held.cursor_at(random))
    }

    /// As [`Store::scan`](crate::store::Store::scan).
    pub fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        match &mut self.held {
            None => self.engine.store.scan(db, cursor, count, self.now.mono, visit),
            Some(held) => held.scan(db, cursor, count, visit),
        }
    }
}

const NO_PASSWORD: Error = Error::new(
    Kind::Denied,
    "ERR AUTH <password> called without any password configured for the default user. \
     Are you sure your configuration is correct?",
);
const WRONG_PASSWORD: Error = Error::new(Kind::Denied, "WRONGPASS invalid username-password pair or user is disabled.");

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            Refused::TooLarge => {
                Error::new(Kind::TooLarge, "ERR string exceeds maximum allowed size (proto-max-bulk-len)")
            }
            Refused::Full => Error::new(Kind::OutOfMemory, "OOM command not allowed when used memory > 'maxmemory'."),
        }
    }
}

/// Runs a command of the table, after loading what it depends on where workers load.
#[inline]
pub(crate) fn execute_row(
    cx: &mut Context<'_>,
    client: &mut Client,
    row: &'static Row,
    args: Args<'_>,
    command: &Command<'_>,
) -> Reply {
    if cx.engine.loaders.any() {
        // Reads of values look for themselves: a hit must not look twice.
        let reads = matches!(
            command,
            Command::Get(_) | Command::MGet(_) | Command::Cache(CacheCommand::Get(_) | CacheCommand::GetMany(_))
        );
        let db = client.db;
        match load_first(cx, client, needed(row, args, command).filter(|_| !reads).map(|bytes| Key { db, bytes })) {
            Ok(false) => {}
            Ok(true) => return Reply::Parked,
            Err(error) => return Reply::Error(error),
        }
    }
    if client.tracking.is_some() {
        client::remember_reads(cx, client, row, args);
    }
    let reply = execute(cx, client, command);
    if !client.watched.is_empty() && !matches!(reply, Reply::Parked) {
        transaction::note_reads(client, row, args, command, cx.waits);
    }
    if row.flags & (flag::CONNECTION | flag::TRANSACTION) != 0
        && !matches!(command, Command::Ping(_) | Command::Echo(_) | Command::Bus(BusCommand::Publish(..)))
    {
        client.show();
    }
    reply
}

/// The keys that a command wants loaded before it runs.
pub(crate) fn needed<'a>(row: &Row, args: Args<'a>, command: &Command<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let marked = row.flags & flag::LOAD != 0;
    let more = if marked { None } else { command.depends_on() };
    row.keys(args).filter(move |_| marked).chain(more)
}

/// Runs a command.
#[inline]
pub fn execute(cx: &mut Context<'_>, client: &mut Client, command: &Command<'_>) -> Reply {
    // What most requests are is not looked for among all the others.
    if let Command::Get(bytes) = *command {
        return get(cx, client, Key { db: client.db, bytes });
    }
    run(cx, client, command).unwrap_or_else(Reply::Error)
}

fn run(cx: &mut Context<'_>, client: &mut Client, command: &Command<'_>) -> Result<Reply, Error> {
    let db = client.db;
    Ok(match *command {
        Command::Get(key) => get(cx, client, Key { db, bytes: key }),
        Command::Set { key, value, expiry, condition, get } => {
            return set(cx, Key { db, bytes: key }, value, expiry, condition, get);
        }
        Command::MGet(keys) => return mget(cx, client, keys),
        Command::MSet(pairs) => return mset(cx, db, pairs),
        Command::Delete(keys) => return Ok(remove(cx, db, keys)),
        Command::Exists(keys) => count(cx, db, keys, |entry| entry.get().is_some()),
        Command::Ttl { key, millis } => ttl(cx, Key { db, bytes: key }, millis),
        Command::Expire { key, millis, absolute, when } => expire(cx, Key { db, bytes: key }, millis, absolute, when),
        Command::Persist(key) => persist(cx, Key { db, bytes: key }),
        Command::Increment(key, by) => return increment(cx, Key { db, bytes: key }, by),
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
            let message = Reply::Value(Blob::Owned(message.unwrap_or_default().to_vec()));
            Reply::Array(vec![Reply::word("pong"), message])
        }
        Command::Ping(None) => Reply::Word("PONG"),
        Command::Ping(Some(message)) | Command::Echo(message) => Reply::Value(Blob::Owned(message.to_vec())),
        Command::Select(db) => {
            client.db = db;
            Reply::Ok
        }
        Command::Info(sections) => return info(cx, sections).map(Reply::Text),
        Command::Hello { version, auth, name } => return hello(cx.engine, client, version, auth, name),
        Command::Auth(user, password) => return connection::auth(cx.engine, client, user, password),
        Command::Acl(command) => return acl::run(cx, client, &command),
        Command::Client(command) => return client::run(cx, client, &command),
        Command::Bus(command) => return pubsub::run(cx, client, &command),
        Command::CommandAll => Reply::Fixed(&ALL),
        Command::CommandCount => Reply::Int(TABLE.len() as i64),
        Command::CommandList(filter) => return list(filter),
        Command::CommandInfo(names) => return describe_named(names),
        Command::CommandDocs(names) if names.is_empty() => Reply::Fixed(&DOCUMENTS),
        Command::CommandDocs(names) => return document_named(names),
        Command::Text(command) => return text::run(cx, client, &command),
        Command::Key(command) => return keyspace::run(cx, client, &command),
        Command::Config(command) => return config::run(cx, &command),
        Command::Script(command) => return scripts::run(cx, client, &command),
        Command::MemoryStats => memory_stats(cx),
        Command::CommandKeys(words, flags) => return keys_of(words, flags),
        Command::Time => {
            let micros = (cx.now.wall % 1000) * 1000;
            let text = |number: u64| Reply::Value(Blob::Owned(number.to_string().into_bytes()));
            Reply::Array(vec![text(cx.now.wall / 1000), text(micros)])
        }
        Command::LastSave => Reply::Int(cx.engine.started_wall(cx.now) as i64 / 1000),
        Command::Nothing => Reply::Ok,
        Command::Help(lines) => Reply::Array(lines.iter().map(|line| Reply::Word(line)).collect()),
        Command::Multi => return transaction::begin(client),
        Command::Exec => return transaction::exec(cx, client),
        Command::Discard => return transaction::discard(cx, client),
        Command::Watch(keys) => return transaction::watch(cx, client, keys),
        Command::Unwatch => {
            transaction::unwatch(cx.engine, cx.now.mono, client);
            Reply::Ok
        }
        Command::Reset => {
            client.leave(cx.engine);
            transaction::unwatch(cx.engine, cx.now.mono, client);
            client.reset();
            client.access = cx.engine.users.at_first();
            Reply::Word("RESET")
        }
        Command::Item(item) => return items::run(cx, client, &item),
        Command::Cache(command) => return cache::run(cx, client, &command),
        Command::Stats(section) => return stats::stats(cx, section),
        Command::FlushAt(when) => {
            match expires_at(cx.now, cx.now.mono, when, None).filter(|at| *at > cx.now.mono) {
                Some(at) => cx.engine.pending.flush_at(db, at),
                None => cx.clear(Some(db)),
            }
            Reply::Ok
        }
        Command::Advance(millis) => {
            cx.engine.pending.advance(millis);
            Reply::Ok
        }
        Command::Panic(false) => panic!("debugpanic was asked for"),
        Command::Panic(true) => {
            cx.engine.pending.panic.store(true, Relaxed);
            Reply::Ok
        }
        Command::Shutdown => {
            client.quitting = true;
            cx.engine.pending.stop.store(true, Relaxed);
            Reply::Ok
        }
        Command::Quit => {
            client.quitting = true;
            Reply::Ok
        }
    })
}

/// Takes a value out of the store: small ones are copied while the lock is held, large ones shared.
#[inline(always)]
pub(crate) fn take(scratch: &mut Vec<u8>, value: Value<'_>) -> Blob {
    match value {
        Value::Inline(bytes) => {
            let start = scratch.len();
            scratch.extend_from_slice(bytes);
            Blob::Scratch(start..scratch.len())
        }
        Value::Shared(bytes) => Blob::Shared(Arc::clone(bytes)),
    }
}

/// A short request can name a long value a million times: copies end at the limit of a request.
pub(crate) const TOO_MUCH: Error = Error::new(Kind::OutOfMemory, "ERR the reply is too long");

/// The moment of the monotonic clock at which a value written now expires. One that lies in the past expires at once.
pub(crate) fn expires_at(now: Now, mono: u64, expiry: Expiry, before: Option<u64>) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::Keep => before,
        Expiry::In(millis) => Some(mono.saturating_add(millis)),
        Expiry::At(wall) => Some(mono.saturating_add(wall.saturating_sub(now.wall))),
    }
}
