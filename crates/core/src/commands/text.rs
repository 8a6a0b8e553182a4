//! What is done to a part of a string, or with the value that was there: APPEND, GETRANGE, GETDEL, GETEX and their like.
//! A value that is derived from another keeps its expiry, flags and tags.

use super::context::{Context, expires_at, take};
use super::number;
use super::read::{Form, get_loaded};
use super::strings::write_all;
use crate::state::client::Client;
use crate::store::{Key, Meta, Refused};
use crate::table::read_late_expiry;
use crate::vocabulary::{After, Args, Blob, Error, Expiry, Reply, TextCommand};

pub(super) fn run(cx: &mut Context<'_>, client: &Client, command: &TextCommand<'_>) -> Result<Reply, Error> {
    let db = client.db;
    let key_of = |bytes| Key { db, bytes };
    match *command {
        TextCommand::Append(key, more) => append(cx, key_of(key), more),
        TextCommand::Length(key) => {
            let length = cx.with(key_of(key), |entry, _| entry.get().map_or(0, |item| item.value.bytes().len()));
            Ok(Reply::Int(length as i64))
        }
        TextCommand::Range(key, from, to) => Ok(cx.with(key_of(key), |entry, scratch| {
            let value = entry.get().map_or(&[][..], |item| item.value.bytes());
            let start = scratch.len();
            scratch.extend_from_slice(part(value, from, to));
            Reply::Value(Blob::Scratch(start..scratch.len()))
        })),
        TextCommand::SetRange(key, at, part) => set_range(cx, key_of(key), at, part),
        TextCommand::Add(key, by) => add(cx, key_of(key), by),
        TextCommand::Take(key, after) => take_and(cx, client, key_of(key), after),
        TextCommand::SetNew(key, value) => cx.with(key_of(key), |entry, _| {
            if entry.peek().is_some() {
                return Ok(Reply::Int(0));
            }
            entry.set(value, &Meta::default())?;
            Ok(Reply::Int(1))
        }),
        TextCommand::SetAllNew(pairs) => set_all_new(cx, db, pairs),
        TextCommand::RemoveIf(key, value) => Ok(cx.with(key_of(key), |entry, _| {
            let equal = entry.peek().is_some_and(|item| item.value.bytes() == value);
            Reply::Int(i64::from(equal && entry.remove()))
        })),
    }
}

fn append(cx: &mut Context<'_>, key: Key<'_>, more: &[u8]) -> Result<Reply, Error> {
    changed(cx, key, |value, _, there| {
        value.extend_from_slice(there.unwrap_or_default());
        value.extend_from_slice(more);
        Ok(true)
    })
}

/// Stores what `change` makes, in the scratch buffer from `start` on, of a value or of nothing; false: it stays as it is.
/// Returns its length. Nothing is left in the buffer: a transaction may change a long value many times.
fn changed(
    cx: &mut Context<'_>,
    key: Key<'_>,
    change: impl FnOnce(&mut Vec<u8>, usize, Option<&[u8]>) -> Result<bool, Error>,
) -> Result<Reply, Error> {
    cx.with(key, |entry, scratch| {
        let start = scratch.len();
        let there = entry.peek().map(|item| item.value.bytes());
        let (is_there, before) = (there.is_some(), there.map_or(0, <[u8]>::len));
        let made = change(scratch, start, there);
        let value = &scratch[start..];
        let done = made.and_then(|is_changed| match (is_changed, is_there) {
            (false, _) => Ok(before),
            (true, true) => entry.replace(value).map(|_| value.len()).map_err(Error::from),
            (true, false) => entry.set(value, &Meta::default()).map(|_| value.len()).map_err(Error::from),
        });
        scratch.truncate(start);
        Ok(Reply::Int(done? as i64))
    })
}

/// The bytes from `from` to `to`, both included; negative ones count from the end.
fn part(value: &[u8], from: i64, to: i64) -> &[u8] {
    let length = value.len() as i64;
    let place = |at: i64| if at < 0 { (length.saturating_add(at)).max(0) } else { at };
    if from < 0 && to < 0 && from > to {
        return &[];
    }
    let (from, to) = (place(from), place(to).min(length - 1));
    if from > to || length == 0 { &[] } else { &value[from as usize..=to as usize] }
}

fn set_range(cx: &mut Context<'_>, key: Key<'_>, at: i64, part: &[u8]) -> Result<Reply, Error> {
    let limit = cx.engine.limits.max_value;
    changed(cx, key, |value, start, there| {
        if part.is_empty() {
            return Ok(false);
        }
        let end = (at as u64).saturating_add(part.len() as u64);
        if end > limit as u64 {
            return Err(Refused::TooLarge.into());
        }
        value.extend_from_slice(there.unwrap_or_default());
        let (at, end) = (start + at as usize, start + end as usize);
        value.resize(end.max(value.len()), 0);
        value[at..end].copy_from_slice(part);
        Ok(true)
    })
}

fn add(cx: &mut Context<'_>, key: Key<'_>, by: &[u8]) -> Result<Reply, Error> {
    cx.with(key, |entry, _| {
        let there = entry.peek().map(|item| number::add(item.value.bytes(), by));
        let sum = match &there {
            Some(sum) => sum.clone(),
            None => number::add(b"0", by),
        }?;
        match there {
            Some(_) => entry.replace(sum.as_bytes())?,
            None => entry.set(sum.as_bytes(), &Meta::default())?,
        };
        Ok(Reply::bytes(sum))
    })
}

fn take_and(cx: &mut Context<'_>, client: &Client, key: Key<'_>, after: After<'_>) -> Result<Reply, Error> {
    let now = cx.now;
    let reply = cx.with(key, |entry, scratch| -> Result<Reply, Error> {
        let Some(item) = entry.get() else { return Ok(Reply::Null) };
        let reply = Reply::Value(take(scratch, item.value));
        let expiry = match after {
            After::Stay => return Ok(reply),
            After::Remove => {
                entry.remove();
                return Ok(reply);
            }
            After::Persist => Expiry::Never,
            After::Expire(text, unit, absolute) => read_late_expiry(text, unit, absolute)?,
        };
        if matches!(expiry, Expiry::At(wall) if wall <= now.wall) {
            entry.remove();
        } else {
            let at = expires_at(now, entry.now(), expiry, None);
            if !entry.expire(at) && entry.peek().is_some() {
                return Err(Refused::Full.into());
            }
        }
        Ok(reply)
    })?;
    // As GET: what was loaded for this read is told, even if it could not be kept.
    let absent = matches!(reply, Reply::Null) && cx.engine.loaders.any();
    Ok(if absent { get_loaded(cx, client, key, Form::Plain) } else { reply })
}

fn set_all_new(cx: &mut Context<'_>, db: u8, pairs: Args<'_>) -> Result<Reply, Error> {
    let keys = pairs.iter().step_by(2).map(|bytes| Key { db, bytes });
    let values = pairs.iter().skip(1).step_by(2);
    if values.clone().any(|value| value.len() > cx.engine.limits.max_value) {
        return Err(Refused::TooLarge.into());
    }
    let in_transaction = cx.held.is_some();
    cx.with_all(keys.clone(), |all, _| {
        if keys.clone().any(|key| all.entry(key).peek().is_some()) {
            return Ok(Reply::Int(0));
        }
        write_all(all, in_transaction, keys, values)?;
        Ok(Reply::Int(1))
    })
}
