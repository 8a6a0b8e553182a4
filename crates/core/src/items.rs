//! What commands do that know of an item's flags and version: memcached's. Each is one step under the lock of its key.

use crate::command::{
    Args, Blob, Error, Expiry, Found, ItemCommand, Kind, Marks, Mode, NO_SUCH_ITEM, OTHER_VERSION, Reply,
};
use crate::engine::Now;
use crate::execute::{Client, Context, TOO_MUCH, expires_at, take};
use crate::loaders::Serving;
use crate::store::{Entry, Item, Key, Meta, Refused, Seeker, Sought};
use crate::waiting::{Standing, load_failed, stand};

const NOT_A_NUMBER: Error = Error::new(Kind::Malformed, "ERR cannot increment or decrement non-numeric value");

/// Runs one of them.
#[inline]
pub(crate) fn run(cx: &mut Context<'_>, client: &Client, command: &ItemCommand<'_>) -> Result<Reply, Error> {
    let (now, db) = (cx.now, client.db);
    match *command {
        ItemCommand::Find { keys, expiry } => find(cx, client, keys, expiry),
        ItemCommand::Look { key, .. } => {
            let reply = with(cx, db, key, |entry, scratch| look(entry, scratch, now, command));
            let misses = matches!(reply, Reply::Null);
            if misses && cx.engine.loaders.serving(Key { db, bytes: key }) == Serving::Worker {
                return load(cx, client, key);
            }
            take_lease(cx, client, command, reply)
        }
        ItemCommand::Stale { key, version, expiry, empty, stale } => with(cx, db, key, |entry, _| {
            admit(entry, version)?;
            let Some(item) = entry.peek() else { return Ok(Reply::Null) };
            let at = expiry.map_or(item.expires_at, |expiry| expires_at(now, entry.now(), expiry, None));
            Ok(Reply::Int(entry.alter(stale, empty, at)? as i64))
        }),
        ItemCommand::Remove { key, version } => with(cx, db, key, |entry, _| {
            admit(entry, version)?;
            Ok(if entry.remove() { Reply::Int(0) } else { Reply::Null })
        }),
        ItemCommand::Touch { key, expiry } => {
            Ok(with(cx, db, key, |entry, _| if touch(entry, now, Some(expiry)) { Reply::Ok } else { Reply::Null }))
        }
        ItemCommand::Store { .. } => store(cx, db, command),
        ItemCommand::Count { .. } => count(cx, db, command),
    }
}

#[inline]
fn with<R>(cx: &mut Context<'_>, db: u8, key: &[u8], step: impl FnOnce(&mut Entry<'_>, &mut Vec<u8>) -> R) -> R {
    cx.with(Key { db, bytes: key }, step)
}

/// Sets the expiry if a new one is given; whether there was an item.
#[inline]
fn touch(entry: &mut Entry<'_>, now: Now, expiry: Option<Expiry>) -> bool {
    let Some(expiry) = expiry else { return true };
    let at = expires_at(now, entry.now(), expiry, None);
    entry.expire(at)
}

#[inline]
fn look(entry: &mut Entry<'_>, scratch: &mut Vec<u8>, now: Now, command: &ItemCommand<'_>) -> Reply {
    let ItemCommand::Look { expiry, value, used, .. } = *command else { unreachable!() };
    touch(entry, now, expiry);
    let mono = entry.now();
    let item = if used { entry.get() } else { entry.peek() };
    item.map_or(Reply::Null, |item| Reply::Item(found(scratch, &item, mono, value)))
}

/// What a look at an item means for its lease: whoever looks first at one that is not there, is stale or near its end is
/// to load it, and is told the token in place of the version.
#[inline]
fn take_lease(cx: &mut Context<'_>, client: &Client, command: &ItemCommand<'_>, reply: Reply) -> Result<Reply, Error> {
    let ItemCommand::Look { key, lease: Some(length), vivify, recache, value, .. } = *command else { return Ok(reply) };
    let near = |found: &Found| recache.zip(found.ttl).is_some_and(|(near, ttl)| u64::from(ttl) * 1000 < near);
    let wanted = match &reply {
        Reply::Item(found) => found.marks.stale || near(found),
        _ => vivify,
    };
    if !wanted {
        return Ok(reply);
    }
    let seeker = Seeker { party: client.party, wait: 0, deadline: 0, lease: length, served: false, bound: false };
    let served = cx.engine.loaders.serving(Key { db: client.db, bytes: key }) == Serving::Worker;
    with(cx, client.db, key, |entry, scratch| match reply {
        Reply::Item(mut found) => {
            let token = if served { 0 } else { entry.refresh(&seeker) };
            found.marks.won = token > 0;
            found.marks.lost = token == 0 && entry.inspect().held_since.is_some();
            found.version = if token > 0 { token } else { found.version };
            Ok(Reply::Item(found))
        }
        _ => {
            // As memcached has it, there is an empty item from now on, which only those see who ask for a lease.
            let empty = |version, marks| {
                let ttl = Some(length.div_ceil(1000) as u32);
                Reply::Item(Found { value: Blob::Scratch(0..0), version, flags: 0, ttl, size: 0, marks })
            };
            let mono = entry.now();
            match entry.seek(&seeker) {
                // It came in between.
                Sought::Found { item, .. } if !item.absent => Ok(Reply::Item(found(scratch, &item, mono, value))),
                Sought::Lease(token) => Ok(empty(token, Marks { won: true, ..Marks::default() })),
                Sought::Failed(cause) => Err(load_failed(key, &cause)),
                _ => Ok(empty(0, Marks { lost: true, ..Marks::default() })),
            }
        }
    })
}

#[inline]
fn found(scratch: &mut Vec<u8>, item: &Item<'_>, mono: u64, value: bool) -> Found {
    Found {
        size: item.value.bytes().len() as u32,
        value: if value { take(scratch, item.value) } else { Blob::Scratch(0..0) },
        version: item.version,
        flags: item.flags,
        ttl: item.expires_at.map(|at| seconds(at, mono)),
        marks: Marks { stale: item.fresh_until.is_some_and(|at| at <= mono), ..Marks::default() },
    }
}

/// Each key is a step of its own, so that many do not hold up others. Looking ahead for the index buckets would take
/// each lock twice.
#[inline]
fn find(cx: &mut Context<'_>, client: &Client, keys: Args<'_>, expiry: Option<Expiry>) -> Result<Reply, Error> {
    let (now, db) = (cx.now, client.db);
    let one = |cx: &mut Context<'_>, key| {
        let reply = with(cx, db, key, |entry, scratch| {
            touch(entry, now, expiry);
            let mono = entry.now();
            entry.get().map_or(Reply::Null, |item| Reply::Item(found(scratch, &item, mono, true)))
        });
        if matches!(reply, Reply::Null) && cx.engine.loaders.any() { load(cx, client, key) } else { Ok(reply) }
    };
    if let (Some(key), 1) = (keys.get(0), keys.len()) {
        return one(cx, key);
    }
    if cx.held.is_none() {
        cx.engine.store.prefetch(keys.iter().map(|bytes| Key { db, bytes }));
    }
    // A short line can name a long value a million times.
    let limit = cx.engine.limits.max_request;
    let mut failed = None;
    let mut all = Vec::with_capacity(keys.len());
    for key in keys.iter() {
        if cx.scratch.len() > limit {
            return Err(TOO_MUCH);
        }
        match one(cx, key) {
            Ok(reply) => all.push(reply),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    // There is no way to say in the middle of an answer that a key could not be loaded.
    match failed {
        _ if cx.waits.is_waiting() => Ok(Reply::Parked),
        Some(error) => Err(error),
        None => Ok(Reply::Array(all)),
    }
}

/// A value that is not there, where workers load.
#[cold]
fn load(cx: &mut Context<'_>, client: &Client, key: &[u8]) -> Result<Reply, Error> {
    let mono = cx.now.mono;
    match stand(cx, client, Key { db: client.db, bytes: key }) {
        Standing::Failed(error) => Err(error),
        Standing::Waits => Ok(Reply::Parked),
        Standing::Loaded(loaded) if !loaded.absent => Ok(Reply::Item(Found {
            version: loaded.version,
            flags: loaded.flags,
            ttl: loaded.expires_at.map(|at| seconds(at, mono)),
            size: loaded.value.len() as u32,
            marks: Marks { stale: loaded.stale, ..Marks::default() },
            value: Blob::Shared(loaded.value),
        })),
        Standing::Loaded(_) | Standing::Settled => Ok(with(cx, client.db, key, |entry, scratch| {
            let mono = entry.now();
            entry.get().map_or(Reply::Null, |item| Reply::Item(found(scratch, &item, mono, true)))
        })),
    }
}

fn seconds(at: u64, mono: u64) -> u32 {
    at.saturating_sub(mono).div_ceil(1000).min(u32::MAX.into()) as u32
}

/// Whether the item has the version that is wanted.
#[inline]
fn admit(entry: &Entry<'_>, version: Option<u64>) -> Result<(), Error> {
    let Some(version) = version else { return Ok(()) };
    match entry.peek() {
        None => Err(NO_SUCH_ITEM),
        Some(item) if item.version != version => Err(OTHER_VERSION),
        Some(_) => Ok(()),
    }
}

fn stored(written: Result<u64, Refused>) -> Result<Reply, Error> {
    Ok(Reply::Int(written? as i64))
}

#[inline]
fn store(cx: &mut Context<'_>, db: u8, command: &ItemCommand<'_>) -> Result<Reply, Error> {
    let ItemCommand::Store { key, value, flags, expiry, mode, version, vivify, invalidate } = *command else {
        unreachable!()
    };
    let now = cx.now;
    with(cx, db, key, |entry, scratch| {
        let there = mode != Mode::Set && entry.peek().is_some();
        // memcached looks at the mode first; a version that is wrong is refused whatever the mode.
        if there == (mode == Mode::Add) && mode != Mode::Set && vivify.is_none() {
            return Ok(Reply::Null);
        }
        if let (Mode::Set, Some(token)) = (mode, version)
            && entry.peek().is_none_or(|item| item.version != token)
        {
            let expires_at = expires_at(now, entry.now(), expiry, None);
            if let Some(version) = entry.fill(token, value, &Meta { flags, expires_at, ..Meta::default() })? {
                return Ok(Reply::Int(version as i64));
            }
        }
        // Written by somebody who saw an older one: better stale than nothing.
        let older = invalidate && entry.peek().zip(version).is_some_and(|(item, version)| version < item.version);
        if !older {
            admit(entry, version)?;
        }
        let expiry = match (mode, there) {
            (Mode::Append | Mode::Prepend, true) => {
                let start = scratch.len();
                let before = entry.peek().map_or(&[][..], |item| item.value.bytes());
                let parts = if mode == Mode::Append { [before, value] } else { [value, before] };
                scratch.extend_from_slice(parts[0]);
                scratch.extend_from_slice(parts[1]);
                return stored(entry.replace(&scratch[start..]));
            }
            (Mode::Set, _) | (Mode::Add, false) | (Mode::Replace, true) => expiry,
            (Mode::Append | Mode::Prepend, false) if vivify.is_some() => vivify.unwrap_or_default(),
            _ => return Ok(Reply::Null),
        };
        let expires_at = expires_at(now, entry.now(), expiry, None);
        let fresh_until = older.then(|| entry.now());
        let written = entry.set(value, &Meta { flags, expires_at, fresh_until, ..Meta::default() });
        if written.is_err() && mode == Mode::Set {
            // As memcached does it: whoever reads next must not take the old value for the new one.
            entry.remove();
        }
        stored(written)
    })
}

/// A number as memcached reads it from a value: digits, blanks around them.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) { None } else { atoi::atoi(digits) }
}

fn count(cx: &mut Context<'_>, db: u8, command: &ItemCommand<'_>) -> Result<Reply, Error> {
    let ItemCommand::Count { key, delta, down, initial, version, expiry } = *command else { unreachable!() };
    let now = cx.now;
    with(cx, db, key, |entry, scratch| {
        if initial.is_none() || entry.peek().is_some() {
            admit(entry, version)?;
        }
        let before = entry.peek().map(|item| number(item.value.bytes()).ok_or(NOT_A_NUMBER)).transpose()?;
        let mut digits = itoa::Buffer::new();
        match (before, initial) {
            (Some(before), _) => {
                let after = if down { before.saturating_sub(delta) } else { before.wrapping_add(delta) };
                entry.replace(digits.format(after).as_bytes())?;
                touch(entry, now, expiry);
            }
            (None, Some((initial, expiry))) => {
                let expires_at = expires_at(now, entry.now(), expiry, None);
                entry.set(digits.format(initial).as_bytes(), &Meta { expires_at, ..Meta::default() })?;
            }
            (None, None) => return Ok(Reply::Null),
        }
        let mono = entry.now();
        Ok(entry.peek().map_or(Reply::Null, |item| Reply::Item(found(scratch, &item, mono, true))))
    })
}
