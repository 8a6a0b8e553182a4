//! What each command does: `execute(context, client, command) -> reply`. Commands return replies; they know neither
//! protocol nor connection. Whatever a command does to a key happens in one step under the lock of its shard.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use crate::command::{
    Args, Blob, Command, Condition, Error, ExpireWhen, Expiry, Kind, NOT_AN_INTEGER, Reply, Row, TABLE, flag, integer,
    lookup,
};
use crate::engine::{Engine, Now, REDIS_VERSION, VERSION};
use crate::fence::Joined;
use crate::store::{Entry, Item, Key, Locked, Meta, Party, Refused, Value};
use crate::waiting::{self, Standing, Waits, stand};
use crate::{cache, items, json_value, stats};

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

/// Keys that are used in one step: those of a command of several keys, or all of a transaction.
pub trait Held {
    /// The entry of a key whose shard is locked.
    fn entry<'e>(&'e mut self, key: Key<'e>) -> Entry<'e>;
    /// Removes everything, or everything in one database; all shards are locked.
    fn clear(&mut self, db: Option<u8>);
    /// Items of a database; all shards are locked.
    fn len(&self, db: u8) -> u64;
    /// As [`Store::scan`](crate::store::Store::scan); all shards are locked.
    fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64;
}

impl Held for Locked<'_> {
    fn entry<'e>(&'e mut self, key: Key<'e>) -> Entry<'e> {
        Locked::entry(self, key)
    }

    fn clear(&mut self, db: Option<u8>) {
        drop(Locked::clear(self, db));
    }

    fn len(&self, db: u8) -> u64 {
        Locked::len(self, db)
    }

    fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        Locked::scan(self, db, cursor, count, visit)
    }
}

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

    /// As [`Store::scan`](crate::store::Store::scan).
    pub fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        match &mut self.held {
            None => self.engine.store.scan(db, cursor, count, self.now.mono, visit),
            Some(held) => held.scan(db, cursor, count, visit),
        }
    }
}

/// What the server knows of the client at the other end.
#[derive(Clone, Debug)]
pub struct Client {
    /// Number of the connection, never used twice.
    pub id: u64,
    /// Selected database.
    pub db: u8,
    /// Version of RESP: 2 or 3.
    pub resp: u8,
    /// Name it gave itself.
    pub name: Vec<u8>,
    /// Library at the other end.
    pub lib_name: Vec<u8>,
    /// Its version.
    pub lib_version: Vec<u8>,
    /// It said that it is leaving.
    pub quitting: bool,
    /// Where its messages go.
    pub party: Party,
    /// Commands that would wait answer with a ticket, and the outcome is pushed.
    pub tickets: bool,
    /// As `tickets`, for the command that is run.
    pub ticket_once: bool,
    /// Answers may come in another order than requests: they carry numbers.
    pub unordered: bool,
    /// It is a loader worker, and asks for nothing that could wait.
    pub worker: bool,
    /// Leases that it was granted: database, key and token.
    pub holds: Vec<(u8, Box<[u8]>, u64)>,
    /// Its place behind the fence of its session.
    pub joined: Option<Joined>,
}

impl Client {
    /// A client of whom nothing is known yet.
    pub fn new(party: Party) -> Client {
        Client {
            id: party.id,
            db: 0,
            resp: 2,
            name: Vec::new(),
            lib_name: Vec::new(),
            lib_version: Vec::new(),
            quitting: false,
            party,
            tickets: false,
            ticket_once: false,
            unordered: false,
            worker: false,
            holds: Vec::new(),
            joined: None,
        }
    }

    /// It was granted a lease.
    pub fn remember(&mut self, key: &[u8], token: u64) {
        if !self.holds.iter().any(|(_, _, known)| *known == token) {
            self.holds.push((self.db, key.into(), token));
        }
    }

    /// It has answered for a lease.
    pub fn forget(&mut self, key: &[u8], token: u64) {
        if let Some(at) = self.holds.iter().position(|(_, known, held)| *held == token && **known == *key) {
            self.holds.swap_remove(at);
        }
    }
}

/// Longest name that a client may give itself or its library: enough for any, and a bound on what is kept.
const MAX_NAME: usize = 256;

const NO_SUCH_USER: Error = Error::new(
    Kind::Denied,
    "ERR AUTH <password> called without any password configured for the default user. \
     Are you sure your configuration is correct?",
);
pub(crate) const OVERFLOW: Error = Error::new(Kind::Malformed, "ERR increment or decrement would overflow");

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            Refused::TooLarge => Error::new(Kind::TooLarge, "ERR string exceeds maximum allowed size"),
            Refused::Full => Error::new(Kind::OutOfMemory, "OOM command not allowed when used memory > 'maxmemory'."),
        }
    }
}

/// Runs a command.
pub fn execute(cx: &mut Context<'_>, client: &mut Client, command: &Command<'_>) -> Reply {
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
        Command::Delete(keys) => count(cx, db, keys, |entry| entry.remove()),
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
            // Tags first: what is removed below is counted, and nobody reads it by its tag in between.
            for tag in tags.iter() {
                store.invalidate_tags(&[store.tag(tag)]);
            }
            let Reply::Int(removed) = count(cx, db, keys, |entry| entry.remove()) else { unreachable!() };
            Reply::Int(removed + tags.len() as i64)
        }
        Command::Ping(None) => Reply::Word("PONG"),
        Command::Ping(Some(message)) | Command::Echo(message) => Reply::Value(Blob::Owned(message.to_vec())),
        Command::Select(db) => {
            client.db = db;
            Reply::Ok
        }
        Command::Info(sections) => Reply::Text(info(cx, sections)),
        Command::Hello { version, auth, name } => return hello(client, version, auth.is_some(), name),
        Command::Auth(..) => return Err(NO_SUCH_USER),
        Command::ClientId => Reply::Int(client.id as i64),
        Command::ClientGetName if client.name.is_empty() => Reply::Null,
        Command::ClientGetName => Reply::Value(Blob::Owned(client.name.clone())),
        Command::ClientSetName(name) => {
            client.name = printable(name, "Client names")?;
            Reply::Ok
        }
        Command::ClientSetInfo { version: false, value } => {
            client.lib_name = printable(value, "lib-name")?;
            Reply::Ok
        }
        Command::ClientSetInfo { version: true, value } => {
            client.lib_version = printable(value, "lib-ver")?;
            Reply::Ok
        }
        Command::CommandAll => Reply::Array(TABLE.iter().map(describe).collect()),
        Command::CommandCount => Reply::Int(TABLE.len() as i64),
        Command::CommandList => Reply::Array(TABLE.iter().map(name_of).collect()),
        Command::CommandInfo(names) => {
            Reply::Array(names.iter().map(|name| lookup(name).map_or(Reply::Null, describe)).collect())
        }
        Command::CommandDocs(names) if names.is_empty() => Reply::Map(TABLE.iter().map(document).collect()),
        Command::CommandDocs(names) => Reply::Map(names.iter().filter_map(lookup).map(document).collect()),
        Command::Item(item) => return items::run(cx, client, &item),
        Command::Cache(command) => return cache::run(cx, client, &command),
        Command::Stats(section) => return stats::stats(cx, section),
        Command::FlushIn(0) => {
            cx.clear(Some(db));
            Reply::Ok
        }
        Command::FlushIn(millis) => {
            cx.engine.pending.flush_in(db, cx.now, millis);
            Reply::Ok
        }
        Command::Advance(millis) => {
            cx.engine.pending.advance(millis);
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
#[inline]
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

#[inline]
fn get(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> Reply {
    let (reply, stale) = cx.with(key, |entry, scratch| {
        let now = entry.now();
        entry.get().map_or((Reply::Null, false), |item| {
            let stale = item.fresh_until.is_some_and(|at| at <= now);
            (Reply::Value(take(scratch, item.value)), stale)
        })
    });
    if (matches!(reply, Reply::Null) || stale) && cx.engine.loaders.any() {
        return get_served(cx, client, key, reply);
    }
    reply
}

/// A value that is not there, or stale, where workers load.
#[cold]
fn get_served(cx: &mut Context<'_>, client: &Client, key: Key<'_>, reply: Reply) -> Reply {
    if !matches!(reply, Reply::Null) {
        waiting::refresh(cx, client, key);
        return reply;
    }
    match stand(cx, client, key) {
        Standing::Loaded(loaded) if !loaded.absent => Reply::Value(Blob::Shared(loaded.value)),
        Standing::Failed(error) => Reply::Error(error),
        Standing::Waits => Reply::Parked,
        // It came in between, or there is no such row.
        Standing::Settled | Standing::Loaded(_) => cx.with(key, |entry, scratch| {
            entry.get().map_or(Reply::Null, |item| Reply::Value(take(scratch, item.value)))
        }),
    }
}

/// One key, however often it is named, takes one lock; a single key takes no list of locks.
fn count(cx: &mut Context<'_>, db: u8, keys: Args<'_>, mut test: impl FnMut(&mut Entry<'_>) -> bool) -> Reply {
    if let (Some(bytes), 1) = (keys.get(0), keys.len()) {
        return Reply::Int(cx.with(Key { db, bytes }, |entry, _| i64::from(test(entry))));
    }
    let named = keys.iter().map(|bytes| Key { db, bytes });
    let found = cx.with_all(named.clone(), |all, _| named.filter(|key| test(&mut all.entry(*key))).count());
    Reply::Int(found as i64)
}

/// A short request can name a long value a million times: copies end at the limit of a request.
pub(crate) const TOO_MUCH: Error = Error::new(Kind::OutOfMemory, "ERR the reply is too long");

fn mget(cx: &mut Context<'_>, client: &Client, keys: Args<'_>) -> Result<Reply, Error> {
    let (db, limit) = (client.db, cx.engine.limits.max_request);
    let named = keys.iter().map(|bytes| Key { db, bytes });
    let mut found = Vec::with_capacity(keys.len());
    cx.with_all(named.clone(), |all, scratch| {
        for key in named.clone() {
            if scratch.len() > limit {
                return Err(TOO_MUCH);
            }
            let reply = all.entry(key).get().map_or(Reply::Null, |item| Reply::Value(take(scratch, item.value)));
            found.push(reply);
        }
        Ok(())
    })?;
    if cx.engine.loaders.any() {
        for (reply, key) in found.iter_mut().zip(named).filter(|(reply, _)| matches!(reply, Reply::Null)) {
            *reply = get_served(cx, client, key, Reply::Null);
        }
    }
    Ok(if cx.waits.is_waiting() { Reply::Parked } else { Reply::Array(found) })
}

/// All or nothing: a value that is too long refuses them all before any is written, and when memory is full (nothing
/// may be evicted) what was written before is as Redis leaves it, which checks memory before the command.
fn mset(cx: &mut Context<'_>, db: u8, pairs: Args<'_>) -> Result<Reply, Error> {
    let keys = pairs.iter().step_by(2).map(|bytes| Key { db, bytes });
    let values = pairs.iter().skip(1).step_by(2);
    if values.clone().any(|value| value.len() > cx.engine.limits.max_value) {
        return Err(Refused::TooLarge.into());
    }
    cx.with_all(keys.clone(), |all, _| {
        for (key, value) in keys.zip(values) {
            all.entry(key).set(value, &Meta::default())?;
        }
        Ok(Reply::Ok)
    })
}

/// The moment of the monotonic clock at which a value written now expires. One that lies in the past expires at once.
pub(crate) fn expires_at(now: Now, mono: u64, expiry: Expiry, before: Option<u64>) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::Keep => before,
        Expiry::In(millis) => Some(mono.saturating_add(millis)),
        Expiry::At(wall) => Some(mono.saturating_add(wall.saturating_sub(now.wall))),
    }
}

fn set(
    cx: &mut Context<'_>,
    key: Key<'_>,
    value: &[u8],
    expiry: Expiry,
    condition: Condition<'_>,
    get: bool,
) -> Result<Reply, Error> {
    let now = cx.now;
    cx.with(key, |entry, scratch| {
        // A write that depends on nothing has no reason to look for what was there.
        if condition == Condition::Always && !get && expiry != Expiry::Keep {
            let expires_at = expires_at(now, entry.now(), expiry, None);
            entry.set(value, &Meta { expires_at, ..Meta::default() })?;
            return Ok(Reply::Ok);
        }
        let found = entry.peek();
        let met = holds(condition, found.as_ref());
        let before = found.and_then(|item| item.expires_at);
        let absent = found.is_none();
        let old = match found {
            Some(item) if get => Reply::Value(take(scratch, item.value)),
            _ => Reply::Null,
        };
        if met {
            let expires_at = expires_at(now, entry.now(), expiry, before);
            if expiry == Expiry::Keep && !absent {
                entry.replace(value)?;
            } else {
                entry.set(value, &Meta { expires_at, ..Meta::default() })?;
            }
        }
        Ok(match (get, met) {
            (true, _) => old,
            (false, true) => Reply::Ok,
            (false, false) => match condition {
                Condition::EqualsJson(_) if absent => return Err(ABSENT),
                Condition::EqualsJson(_) | Condition::EqualsJsonOrAbsent(_) => return Err(DIFFERS),
                _ => Reply::Null,
            },
        })
    })
}

const ABSENT: Error = Error::new(Kind::NotFound, "ERR no such key");
const DIFFERS: Error = Error::new(Kind::Mismatch, "ERR the value is another one");

fn holds(condition: Condition<'_>, found: Option<&Item<'_>>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => found.is_none(),
        Condition::Present => found.is_some(),
        Condition::EqualsJson(json) => found.is_some_and(|item| json_value::equals(item.value.bytes(), json)),
        Condition::EqualsJsonOrAbsent(json) => found.is_none_or(|item| json_value::equals(item.value.bytes(), json)),
    }
}

fn ttl(cx: &mut Context<'_>, key: Key<'_>, millis: bool) -> Reply {
    cx.with(key, |entry, _| {
        let now = entry.now();
        Reply::Int(match entry.peek().map(|item| item.expires_at) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) if millis => (at - now) as i64,
            Some(Some(at)) => ((at - now + 500) / 1000) as i64,
        })
    })
}

fn expire(cx: &mut Context<'_>, key: Key<'_>, millis: i64, absolute: bool, when: ExpireWhen) -> Reply {
    let from_now = if absolute { millis.saturating_sub(cx.now.wall as i64) } else { millis };
    cx.with(key, |entry, _| {
        let now = entry.now();
        let Some(before) = entry.peek().map(|item| item.expires_at) else { return Reply::Int(0) };
        let at = now.saturating_add(from_now.max(0) as u64);
        let met = !(when.none && before.is_some()
            || when.some && before.is_none()
            || when.later && before.is_none_or(|before| at <= before)
            || when.sooner && before.is_some_and(|before| at >= before));
        if met && from_now <= 0 {
            entry.remove();
        } else if met {
            entry.expire(Some(at));
        }
        Reply::Int(met.into())
    })
}

fn persist(cx: &mut Context<'_>, key: Key<'_>) -> Reply {
    cx.with(key, |entry, _| {
        let has = entry.peek().is_some_and(|item| item.expires_at.is_some());
        Reply::Int(i64::from(has && entry.expire(None)))
    })
}

fn increment(cx: &mut Context<'_>, key: Key<'_>, by: i64) -> Result<Reply, Error> {
    cx.with(key, |entry, _| {
        let before = entry.peek().map(|item| integer(item.value.bytes())).transpose().map_err(|_| NOT_AN_INTEGER)?;
        let after = before.unwrap_or(0).checked_add(by).ok_or(OVERFLOW)?;
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(after).as_bytes();
        match before {
            Some(_) => entry.replace(digits)?,
            None => entry.set(digits, &Meta::default())?,
        };
        Ok(Reply::Int(after))
    })
}

fn info(cx: &Context<'_>, sections: Args<'_>) -> String {
    let all = ["all", "default", "everything"];
    let named: Vec<String> = sections.iter().map(|name| String::from_utf8_lossy(name).to_ascii_lowercase()).collect();
    let everything = named.is_empty() || named.iter().any(|name| all.contains(&name.as_str()));
    cx.engine.info(cx.now, |section| everything || named.iter().any(|name| name == section))
}

fn printable(text: &[u8], what: &str) -> Result<Vec<u8>, Error> {
    if text.len() > MAX_NAME {
        return Err(Error::with(Kind::TooLarge, format!("ERR {what} cannot be longer than {MAX_NAME} bytes.")));
    }
    if !text.iter().all(u8::is_ascii_graphic) {
        let text = format!("ERR {what} cannot contain spaces, newlines or special characters.");
        return Err(Error::with(Kind::Malformed, text));
    }
    Ok(text.to_vec())
}

fn hello(client: &mut Client, version: Option<u8>, auth: bool, name: Option<&[u8]>) -> Result<Reply, Error> {
    if auth {
        return Err(NO_SUCH_USER);
    }
    if let Some(name) = name {
        client.name = printable(name, "Client names")?;
    }
    client.resp = version.unwrap_or(client.resp);
    Ok(Reply::Map(vec![
        (Reply::word("server"), Reply::word("redis")),
        (Reply::word("version"), Reply::word(REDIS_VERSION)),
        (Reply::word("proto"), Reply::Int(client.resp.into())),
        (Reply::word("id"), Reply::Int(client.id as i64)),
        (Reply::word("mode"), Reply::word("standalone")),
        (Reply::word("role"), Reply::word("master")),
        (Reply::word("modules"), Reply::Array(Vec::new())),
        (Reply::word("globalcache"), Reply::word(VERSION)),
    ]))
}

fn name_of(row: &Row) -> Reply {
    Reply::Value(Blob::Owned(row.name.to_ascii_lowercase().into_bytes()))
}

/// A row as COMMAND INFO tells it.
fn describe(row: &'static Row) -> Reply {
    const FLAGS: [(u16, &str); 6] = [
        (flag::READ, "readonly"),
        (flag::WRITE, "write"),
        (flag::DENY_OOM, "denyoom"),
        (flag::FAST, "fast"),
        (flag::ADMIN, "admin"),
        (flag::NO_AUTH, "no_auth"),
    ];
    const CATEGORIES: [(u16, &str); 5] = [
        (flag::READ, "@read"),
        (flag::WRITE, "@write"),
        (flag::FAST, "@fast"),
        (flag::ADMIN, "@admin"),
        (flag::CONNECTION, "@connection"),
    ];
    let words = |table: &[(u16, &'static str)]| {
        Reply::Set(table.iter().filter(|(bit, _)| row.flags & bit != 0).map(|(_, word)| Reply::Word(word)).collect())
    };
    Reply::Array(vec![
        name_of(row),
        Reply::Int(row.arity.into()),
        words(&FLAGS),
        Reply::Int(row.keys.0.into()),
        Reply::Int(row.keys.1.into()),
        Reply::Int(row.keys.2.into()),
        words(&CATEGORIES),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
        Reply::Array(Vec::new()),
    ])
}

/// A row as COMMAND DOCS tells it.
fn document(row: &'static Row) -> (Reply, Reply) {
    let facts = vec![
        (Reply::word("summary"), Reply::word(row.summary)),
        (Reply::word("since"), Reply::word(row.since)),
        (Reply::word("group"), Reply::word(row.group)),
    ];
    (name_of(row), Reply::Map(facts))
}
