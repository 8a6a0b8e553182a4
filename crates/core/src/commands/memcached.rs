//! What commands do that know of an item's flags and version: memcached's. Each is one step under the lock of its key.
//!
//! Who finds nothing may win the lease of the key, and who finds what is stale or ends soon does: the rules
//! of `store/lease/mod.rs` hold for these leases as for all. Of memcached they keep the words and not the stub: a key whose
//! lease is held has no item. A lease is bound to no connection, since clients fill by another one of their pool. Where
//! workers load a key they have its lease, and nobody wins it here.

use super::cache::may_fill;
use super::context::{Context, LOADS, TOO_MUCH, expires_at, take};
use super::waiting::{LoadState, ensure_loaded_to_read, refresh};
use crate::clock::Now;
use crate::limits::MAX_AGE;
use crate::state::client::Client;
use crate::state::loaders::Serving;
use crate::store::{ConnectionId, Entry, FetchRequest, FetchResult, Item, Key, Meta, Refused};
use crate::vocabulary::{
    Args, Blob, Error, Expiry, Found, Kind, MemcachedCommand, Mode, NO_SUCH_ITEM, OTHER_VERSION, Recache, Reply,
};

const NOT_A_NUMBER: Error = Error::new(Kind::Malformed, "ERR cannot increment or decrement non-numeric value");
/// Else a number that somebody compares with would be taken for the right to fill.
const TAKEN_NUMBER: Error = Error::new(Kind::Malformed, "ERR the chosen number is the token of a lease");

/// Runs one of them.
#[inline]
pub(crate) fn run(cx: &mut Context<'_>, client: &Client, command: &MemcachedCommand<'_>) -> Result<Reply, Error> {
    let (now, db) = (cx.now, client.db);
    match *command {
        MemcachedCommand::Get { keys, expiry } => find(cx, client, keys, expiry),
        MemcachedCommand::MetaGet { key, .. } => look(cx, client, key, command),
        MemcachedCommand::Remove { key, version } => with(cx, db, key, |entry, _| {
            admit(entry, version)?;
            Ok(if entry.remove() { Reply::Int(0) } else { Reply::Null })
        }),
        MemcachedCommand::MetaDelete { .. } => mark(cx, db, command),
        MemcachedCommand::Touch { key, expiry } => {
            Ok(with(cx, db, key, |entry, _| if touch(entry, now, Some(expiry)) { Reply::Ok } else { Reply::Null }))
        }
        MemcachedCommand::Store { .. } => store(cx, db, command),
        MemcachedCommand::Arithmetic { .. } => count(cx, db, command),
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
fn found(scratch: &mut Vec<u8>, item: &Item<'_>, mono: u64, value: bool) -> Found {
    Found {
        size: item.value.bytes().len() as u32,
        value: if value { take(scratch, item.value) } else { Blob::Scratch(0..0) },
        version: item.number(),
        flags: item.flags,
        ttl: item.expires_at.map(|at| seconds(at, mono)),
        recache: Recache { stale: item.is_stale(mono), ..Recache::default() },
    }
}

/// How long a lease is held that a client asks to hold until this time, in milliseconds.
fn lease_length(now: Now, until: Expiry) -> u64 {
    // What ends at once or in the past is held for a moment all the same: somebody has to load.
    expires_at(now, now.mono, until, None).map_or(MAX_AGE, |at| (at - now.mono).clamp(1, MAX_AGE))
}

/// Who asks for a lease here: it is bound to no connection, and nobody waits for it.
fn request(lease: u64) -> FetchRequest {
    let (connection, lease) = (ConnectionId::default(), Some(lease));
    FetchRequest { connection, wait: 0, deadline: None, lease, served: false, bound: false }
}

/// An item with what is told of its being loaded anew.
#[inline]
fn look(cx: &mut Context<'_>, client: &Client, key: &[u8], command: &MemcachedCommand<'_>) -> Result<Reply, Error> {
    let MemcachedCommand::MetaGet { expiry, value, used, vivify, recache, .. } = *command else { unreachable!() };
    let (now, db, limit) = (cx.now, client.db, cx.engine.limits.load_limit);
    let key = Key { db, bytes: key };
    let may_load = may_fill(client, key.bytes);
    let vivify = vivify.filter(|_| may_load);
    let served = cx.engine.loaders.any() && cx.engine.loaders.serving(key) != Serving::Nobody;
    let (reply, wanted) = cx.with(key, |entry, scratch| {
        let mono = entry.now();
        // As it was before this look: else readers that prolong an item would never load it anew.
        let due = recache.is_some_and(|within| {
            let ends = entry.peek().and_then(|item| item.expires_at);
            ends.zip(expires_at(now, mono, within, None)).is_some_and(|(ends, soon)| ends < soon)
        });
        touch(entry, now, expiry);
        let item = if used { entry.get() } else { entry.peek() };
        let Some(mut found) = item.map(|item| found(scratch, &item, mono, value)) else {
            let absent = if served || vivify.is_none() && recache.is_none() {
                Reply::Null
            } else {
                missing(entry, scratch, now, vivify, value)
            };
            return (absent, false);
        };
        let wanted = found.recache.stale || due;
        if wanted && !served && may_load {
            let length = vivify.or(recache).map_or(limit.min(MAX_AGE), |until| lease_length(now, until));
            if let Some(token) = entry.refresh(&request(length)) {
                (found.recache.won, found.version) = (true, token);
            }
        }
        found.recache.taken = !found.recache.won && (wanted || entry.held_until().is_some());
        (Reply::Item(found), wanted)
    });
    if wanted && served {
        refresh(cx, client, key);
    }
    if matches!(reply, Reply::Null) && cx.engine.loaders.any() { load(cx, client, key.bytes) } else { Ok(reply) }
}

/// What is told of a key without an item to a client that would load it: never that there is nothing, while somebody
/// loads it.
#[cold]
fn missing(entry: &mut Entry<'_>, scratch: &mut Vec<u8>, now: Now, vivify: Option<Expiry>, value: bool) -> Reply {
    let mono = entry.now();
    let empty = |token: Option<u64>, ttl: Option<u64>| {
        let recache = Recache { stale: false, won: token.is_some(), taken: token.is_none() };
        let ttl = ttl.map(|left| left.div_ceil(1000) as u32);
        Reply::Item(Found { value: Blob::Scratch(0..0), version: token.unwrap_or(0), flags: 0, ttl, size: 0, recache })
    };
    let left = entry.held_until().map(|until| until - mono);
    let Some(until) = vivify.filter(|_| !entry.is_known_absent()) else {
        return left.map_or(Reply::Null, |left| empty(None, Some(left)));
    };
    let length = lease_length(now, until);
    match entry.lease(&request(length)) {
        FetchResult::Lease(token) => empty(Some(token), Some(length)),
        FetchResult::Busy | FetchResult::Waits | FetchResult::Failed(_) => empty(None, left),
        // The last load failed, and what there was may be used until one succeeds.
        FetchResult::Found { item, .. } => {
            let found = found(scratch, &item, mono, value);
            Reply::Item(Found { recache: Recache { stale: true, won: false, taken: true }, ..found })
        }
        FetchResult::Nothing | FetchResult::Full => Reply::Null,
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
        if !cx.engine.loaders.any() {
            return Ok(reply);
        }
        match reply {
            Reply::Null => load(cx, client, key),
            Reply::Item(ref found) if found.recache.stale => {
                refresh(cx, client, Key { db, bytes: key });
                Ok(reply)
            }
            reply => Ok(reply),
        }
    };
    if let (Some(key), 1) = (keys.get(0), keys.len()) {
        return one(cx, key);
    }
    let (from, end) = cx.begin_asking();
    if cx.held.is_none() {
        let next = keys.from(from as usize).to(LOADS);
        cx.engine.store.prefetch(next.iter().map(|bytes| Key { db, bytes }));
    }
    // A short line can name a long value a million times.
    let limit = cx.engine.limits.max_request;
    let mut failed = None;
    let mut all = Vec::with_capacity(keys.len());
    for (number, key) in (0..).zip(keys.iter()).skip(from as usize) {
        if cx.ends_asking(end, number) {
            return Ok(Reply::Parked);
        }
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
        _ if from > 0 || cx.waits.is_waiting() => Ok(Reply::Parked),
        Some(error) => Err(error),
        None => Ok(Reply::Array(all)),
    }
}

/// A value that is not there, where workers load.
#[cold]
fn load(cx: &mut Context<'_>, client: &Client, key: &[u8]) -> Result<Reply, Error> {
    let mono = cx.now.mono;
    match ensure_loaded_to_read(cx, client, Key { db: client.db, bytes: key }) {
        LoadState::Failed(error) => Err(error),
        LoadState::Waits => Ok(Reply::Parked),
        LoadState::Loaded(loaded) if !loaded.absent => Ok(Reply::Item(Found {
            version: loaded.version.unwrap_or(0),
            flags: loaded.flags,
            ttl: loaded.expires_at.map(|at| seconds(at, mono)),
            size: loaded.value.len() as u32,
            value: Blob::Shared(loaded.value),
            recache: Recache { stale: loaded.stale, won: false, taken: loaded.stale },
        })),
        LoadState::Loaded(_) | LoadState::Settled => Ok(with(cx, client.db, key, |entry, scratch| {
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
        Some(item) if item.number() != version => Err(OTHER_VERSION),
        Some(_) => Ok(()),
    }
}

/// What is told of an item that was written: its number and its size.
fn stored(written: Result<u64, Refused>, cas: Option<u64>, size: usize) -> Result<Reply, Error> {
    Ok(Reply::Item(Found {
        value: Blob::Scratch(0..0),
        version: cas.unwrap_or(written?),
        flags: 0,
        ttl: None,
        size: size as u32,
        recache: Recache::default(),
    }))
}

/// A number that a client chose may be none that stands for a lease.
#[inline]
fn choose(entry: &Entry<'_>, cas: Option<u64>) -> Result<(), Error> {
    if cas.is_some_and(|cas| entry.takes(cas)) { Err(TAKEN_NUMBER) } else { Ok(()) }
}

/// Whether a command stores what was loaded under a lease that is still good: then nothing is loaded before it.
pub(crate) fn is_fill(cx: &mut Context<'_>, client: &Client, command: &MemcachedCommand<'_>) -> bool {
    let MemcachedCommand::Store { key, version: Some(token), .. } = *command else { return false };
    with(cx, client.db, key, |entry, _| entry.takes(token))
}

fn mark(cx: &mut Context<'_>, db: u8, command: &MemcachedCommand<'_>) -> Result<Reply, Error> {
    let MemcachedCommand::MetaDelete { key, version, stale, empty, expiry, cas } = *command else { unreachable!() };
    let now = cx.now;
    with(cx, db, key, |entry, _| {
        choose(entry, cas)?;
        admit(entry, version)?;
        let mono = entry.now();
        let ends = expiry.map(|expiry| expires_at(now, mono, expiry, None));
        let there = if empty && entry.peek().is_some() {
            let fresh_until = stale.then_some(mono);
            // As memcached has it, flags and expiry go with the value unless they are given.
            let meta = Meta { expires_at: ends.flatten(), fresh_until, cas, ..Meta::default() };
            entry.set(b"", &meta).is_ok() || entry.remove()
        } else {
            entry.mark_stale(ends, cas)
        };
        Ok(if there { Reply::Int(0) } else { Reply::Null })
    })
}

#[inline]
fn store(cx: &mut Context<'_>, db: u8, command: &MemcachedCommand<'_>) -> Result<Reply, Error> {
    let MemcachedCommand::Store { key, value, flags, expiry, mode, version, vivify, cas, stale } = *command else {
        unreachable!()
    };
    let now = cx.now;
    with(cx, db, key, |entry, scratch| {
        let there = mode != Mode::Set && entry.peek().is_some();
        let fills = version.filter(|token| !matches!(mode, Mode::Append | Mode::Prepend) && entry.takes(*token));
        if let Some(token) = fills.filter(|_| mode != Mode::Add || !there) {
            let expires_at = expires_at(now, entry.now(), expiry, None);
            let meta = Meta { flags, expires_at, cas, ..Meta::default() };
            if let Err(error) = choose(entry, cas) {
                entry.fill_unstored(token, value, &meta);
                return Err(error);
            }
            let filled = entry.fill(token, value, &meta)?;
            return stored(Ok(filled.ok_or(OTHER_VERSION)?), cas, value.len());
        }
        if let Some(token) = version.filter(|token| entry.is_voided(*token)) {
            // Not stored; those who joined before the key was changed get it, and another load may begin.
            let _ = entry.fill(token, value, &Meta { flags, ..Meta::default() });
        }
        choose(entry, cas)?;
        // memcached looks at the mode first; a version that is wrong is refused whatever the mode.
        if there == (mode == Mode::Add) && mode != Mode::Set && vivify.is_none() {
            return Ok(Reply::Null);
        }
        if let Err(error) = admit(entry, version) {
            let before = entry.peek().map(|item| (item.number(), item.expires_at));
            return match before.filter(|(number, _)| stale && mode == Mode::Set && version < Some(*number)) {
                // Somebody was faster. Better this, marked as stale, than what is staler still.
                Some((_, expires_at)) => {
                    let meta = Meta { flags, expires_at, cas, ..Meta::default() };
                    stored(entry.set_stale(value, &meta), cas, value.len())
                }
                None => Err(error),
            };
        }
        let expiry = match (mode, there) {
            (Mode::Append | Mode::Prepend, true) => {
                let start = scratch.len();
                let before = entry.peek().map_or(&[][..], |item| item.value.bytes());
                let parts = if mode == Mode::Append { [before, value] } else { [value, before] };
                scratch.extend_from_slice(parts[0]);
                scratch.extend_from_slice(parts[1]);
                return stored(entry.replace_as(&scratch[start..], cas), cas, scratch.len() - start);
            }
            (Mode::Set, _) | (Mode::Add, false) | (Mode::Replace, true) => expiry,
            (Mode::Append | Mode::Prepend, false) if vivify.is_some() => vivify.unwrap_or_default(),
            _ => return Ok(Reply::Null),
        };
        let expires_at = expires_at(now, entry.now(), expiry, None);
        let written = entry.set(value, &Meta { flags, expires_at, cas, ..Meta::default() });
        if written.is_err() && mode == Mode::Set {
            // As memcached does it: whoever reads next must not take the old value for the new one.
            entry.remove();
        }
        stored(written, cas, value.len())
    })
}

/// A number as memcached reads it from a value: digits, blanks around them.
fn number(value: &[u8]) -> Option<u64> {
    let digits = value.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) { None } else { atoi::atoi(digits) }
}

fn count(cx: &mut Context<'_>, db: u8, command: &MemcachedCommand<'_>) -> Result<Reply, Error> {
    let MemcachedCommand::Arithmetic { key, delta, down, initial, version, expiry, cas } = *command else {
        unreachable!()
    };
    let now = cx.now;
    with(cx, db, key, |entry, scratch| {
        choose(entry, cas)?;
        if initial.is_none() || entry.peek().is_some() {
            admit(entry, version)?;
        }
        let before = entry.peek().map(|item| number(item.value.bytes()).ok_or(NOT_A_NUMBER)).transpose()?;
        let mut digits = itoa::Buffer::new();
        match (before, initial) {
            (Some(before), _) => {
                let after = if down { before.saturating_sub(delta) } else { before.wrapping_add(delta) };
                entry.replace_as(digits.format(after).as_bytes(), cas)?;
                touch(entry, now, expiry);
            }
            (None, Some((initial, expiry))) => {
                let expires_at = expires_at(now, entry.now(), expiry, None);
                entry.set(digits.format(initial).as_bytes(), &Meta { expires_at, cas, ..Meta::default() })?;
            }
            (None, None) => return Ok(Reply::Null),
        }
        let mono = entry.now();
        Ok(entry.peek().map_or(Reply::Null, |item| Reply::Item(found(scratch, &item, mono, true))))
    })
}
