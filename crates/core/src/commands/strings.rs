//! Strings: writing and counting values.

use super::context::{Context, expires_at, take};
use crate::clock::Now;
use crate::json_value;
use crate::store::{Entry, Item, Key, Locked, Meta, Refused, Written};
use crate::vocabulary::{Args, Condition, Error, Expiry, Kind, Reply, integer, too_long};

const OVERFLOW: Error = Error::new(Kind::Malformed, "ERR increment or decrement would overflow");

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
    all: &mut Locked<'_>,
    in_transaction: bool,
    keys: impl Iterator<Item = Key<'a>> + Clone,
    values: impl Iterator<Item = &'a [u8]> + Clone,
) -> Result<(), Refused> {
    let written = |(key, value): (Key<'a>, &[u8])| Written { key, length: value.len(), from: None };
    if !in_transaction && !all.fits(keys.clone().zip(values.clone()).map(written)) {
        return Err(Refused::Full);
    }
    for (key, value) in keys.zip(values) {
        all.entry(key).set(value, &Meta::default())?;
    }
    Ok(())
}

/// A SET that depends on nothing has no reason to look for what was there: it is this step, by whatever way it came.
#[inline(always)]
pub(crate) fn write(entry: &mut Entry<'_>, now: Now, value: &[u8], expiry: Expiry, most: usize) -> Result<(), Error> {
    let expires_at = expires_at(now, entry.now(), expiry, None);
    let written = entry.set(value, &Meta { expires_at, ..Meta::default() });
    written.map(|_| ()).map_err(|refused| why_refused(refused, value, most))
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
        if condition == Condition::Always && !get && expiry != Expiry::Keep {
            return write(entry, now, value, expiry, most).map(|()| Reply::Ok);
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
pub(super) fn why_refused(refused: Refused, value: &[u8], most: usize) -> Error {
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

/// Adds to the number at a key, which counts from 0 if there is none; what is kept beside it counts only if it is new.
pub(super) fn add(entry: &mut Entry<'_>, by: i64, meta: &Meta<'_>) -> Result<i64, Error> {
    let before = entry.peek().map(|item| integer(item.value.bytes())).transpose()?;
    let after = before.unwrap_or(0).checked_add(by).ok_or(OVERFLOW)?;
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(after).as_bytes();
    match before {
        Some(_) => entry.replace(digits)?,
        None => entry.set(digits, meta)?,
    };
    Ok(after)
}
