//! Strings: reading, writing and counting values.

use super::context::{Context, LockedShards, TOO_MUCH, expires_at, take, take_next};
use super::waiting::{self, LoadState, asks_in_turns, ensure_loaded_to_read, load_many};
use crate::json_value;
use crate::state::client::Client;
use crate::store::{Item, Key, Meta, Refused, Written};
use crate::vocabulary::{Args, Blob, Condition, Error, Expiry, Kind, NOT_AN_INTEGER, Reply, Values, integer, too_long};

pub(crate) const OVERFLOW: Error = Error::new(Kind::Malformed, "ERR increment or decrement would overflow");

#[inline(always)]
pub(super) fn get(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> Reply {
    if !cx.waits.keys.is_empty() && cx.held.is_none() {
        // What it waited for is its answer: a second look would count a hit that was none.
        return get_served(cx, client, key, Reply::Null);
    }
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
pub(crate) fn get_served(cx: &mut Context<'_>, client: &Client, key: Key<'_>, reply: Reply) -> Reply {
    if !matches!(reply, Reply::Null) {
        waiting::refresh(cx, client, key);
        return reply;
    }
    match ensure_loaded_to_read(cx, client, key) {
        LoadState::Loaded(loaded) if !loaded.absent => Reply::Value(Blob::Shared(loaded.value)),
        LoadState::Failed(error) => Reply::Error(error),
        LoadState::Waits => Reply::Parked,
        // There is no such row, nobody loads it, or a transaction found it.
        LoadState::Settled | LoadState::Loaded(_) => cx.with(key, |entry, scratch| {
            entry.get().map_or(Reply::Null, |item| Reply::Value(take(scratch, item.value)))
        }),
    }
}

pub(super) fn mget(cx: &mut Context<'_>, client: &Client, keys: Args<'_>) -> Result<Reply, Error> {
    let (db, limit) = (client.db, cx.engine.limits.max_request);
    if cx.waits.asked > 0 && load_many(cx, client, keys) {
        return Ok(Reply::Parked);
    }
    // Before it stand other replies of the same transaction.
    let begun = cx.scratch.len();
    let mut values = Values::new(keys.len(), cx.scratch);
    cx.read_all(db, keys, |_, item, scratch| {
        take_next(&mut values, item.map(|item| (item.value, 0)), scratch);
        scratch.len() - begun <= limit
    });
    if cx.scratch.len() - begun > limit {
        return Err(TOO_MUCH);
    }
    if !values.any_missing() || !cx.engine.loaders.any() {
        return Ok(Reply::Values(values));
    }
    if asks_in_turns(cx, values.missing()) && load_many(cx, client, keys) {
        return Ok(Reply::Parked);
    }
    let mut replies = values.replies();
    for (reply, bytes) in replies.iter_mut().zip(keys.iter()).filter(|(reply, _)| matches!(reply, Reply::Null)) {
        *reply = get_served(cx, client, Key { db, bytes }, Reply::Null);
    }
    Ok(if cx.waits.is_waiting() { Reply::Parked } else { Reply::Array(replies) })
}

/// All or nothing: a value that is too long, or memory that is full where nothing may be evicted, refuses them all before
/// any is written.
pub(super) fn mset(cx: &mut Context<'_>, db: u8, pairs: Args<'_>) -> Result<Reply, Error> {
    let keys = pairs.iter().step_by(2).map(|bytes| Key { db, bytes });
    let values = pairs.iter().skip(1).step_by(2);
    let most = cx.engine.limits.max_value;
    if let Some(long) = values.clone().find(|value| value.len() > most) {
        return Err(too_long(long.len(), most));
    }
    let in_transaction = cx.held.is_some();
    cx.with_all(keys.clone(), |all, _| {
        write_all(all, in_transaction, keys, values)?;
        Ok(Reply::Ok)
    })
}

/// Writes several values, all or none. Within a transaction room was made for all that it writes; so much need not be left
/// any more.
pub(super) fn write_all<'a>(
    all: &mut dyn LockedShards,
    in_transaction: bool,
    keys: impl Iterator<Item = Key<'a>> + Clone,
    values: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(), Refused> {
    let written = |(key, value): (Key<'a>, &[u8])| Written { key, length: value.len(), from: None };
    if !in_transaction && !all.fits(&mut keys.clone().zip(values.clone()).map(written)) {
        return Err(Refused::Full);
    }
    for (key, value) in keys.zip(values) {
        all.entry(key).set(value, &Meta::default())?;
    }
    Ok(())
}

pub(super) fn set(
    cx: &mut Context<'_>,
    key: Key<'_>,
    value: &[u8],
    expiry: Expiry,
    condition: Condition<'_>,
    get: bool,
) -> Result<Reply, Error> {
    let (now, most) = (cx.now, cx.engine.limits.max_value);
    let refuse = |refused| why_refused(refused, value, most);
    cx.with(key, |entry, scratch| {
        // A write that depends on nothing has no reason to look for what was there.
        if condition == Condition::Always && !get && expiry != Expiry::Keep {
            let expires_at = expires_at(now, entry.now(), expiry, None);
            entry.set(value, &Meta { expires_at, ..Meta::default() }).map_err(refuse)?;
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
                entry.replace(value).map_err(refuse)?;
            } else {
                entry.set(value, &Meta { expires_at, ..Meta::default() }).map_err(refuse)?;
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

/// The error of a value that was not stored.
#[cold]
pub(crate) fn why_refused(refused: Refused, value: &[u8], most: usize) -> Error {
    match refused {
        Refused::TooLarge => too_long(value.len(), most),
        Refused::Full => refused.into(),
    }
}

const ABSENT: Error = Error::new(Kind::NotFound, "ERR no such key");
const DIFFERS: Error = Error::new(Kind::Mismatch, "ERR the value is another one");

pub(super) fn holds(condition: Condition<'_>, found: Option<&Item<'_>>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => found.is_none(),
        Condition::Present => found.is_some(),
        Condition::Equals(value) => found.is_some_and(|item| item.value.bytes() == value),
        Condition::EqualsJson(json) => found.is_some_and(|item| json_value::equals(item.value.bytes(), json)),
        Condition::EqualsJsonOrAbsent(json) => found.is_none_or(|item| json_value::equals(item.value.bytes(), json)),
    }
}

pub(super) fn increment(cx: &mut Context<'_>, key: Key<'_>, by: i64) -> Result<Reply, Error> {
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
