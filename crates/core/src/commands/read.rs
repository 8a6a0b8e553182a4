//! Values as they are read: GET and MGET, CACHE.GET and CACHE.MGET, in whatever protocol and by whatever way.
//!
//! A read looks by itself whether a value has to be loaded, so that a hit looks once: it finds the value, or waits for the
//! load, or answers with what was loaded for it. One that is stale is returned, and loaded anew where workers load.

use super::context::{Context, LOADS, TOO_MUCH, take, take_next};
use super::waiting::{LoadState, asks_in_turns, ensure_loaded_to_read, load_many, refresh};
use crate::state::client::Client;
use crate::store::{Item, Key};
use crate::vocabulary::{Args, Blob, Error, Reply, Values};

/// How a value is returned.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is.
    Plain,
    /// With its flags, if it has any.
    WithFlags,
}

impl Form {
    fn reply(self, value: Blob, flags: u32) -> Reply {
        match self.flags(flags) {
            0 => Reply::Value(value),
            flags => Reply::Array(vec![Reply::Value(value), Reply::Int(flags.into())]),
        }
    }

    #[inline]
    fn flags(self, flags: u32) -> u32 {
        if self == Form::WithFlags { flags } else { 0 }
    }
}

/// The value of a key.
#[inline(always)]
pub(crate) fn get(cx: &mut Context<'_>, client: &Client, key: Key<'_>, form: Form) -> Reply {
    if !cx.waits.keys.is_empty() && cx.held.is_none() {
        // What it waited for is its answer: a second look would count a hit that was none.
        return get_loaded(cx, client, key, form);
    }
    let found = cx.with(key, |entry, scratch| {
        let now = entry.now();
        entry.get().map(|item| (form.reply(take(scratch, item.value), item.flags), item.is_stale(now)))
    });
    match found {
        Some((reply, stale)) => {
            if stale && cx.engine.loaders.any() {
                refresh(cx, client, key);
            }
            reply
        }
        None if cx.engine.loaders.any() => get_loaded(cx, client, key, form),
        None => Reply::Null,
    }
}

/// A value that is not there, where workers load.
#[cold]
pub(crate) fn get_loaded(cx: &mut Context<'_>, client: &Client, key: Key<'_>, form: Form) -> Reply {
    match ensure_loaded_to_read(cx, client, key) {
        LoadState::Loaded(loaded) if !loaded.absent => form.reply(Blob::Shared(loaded.value), loaded.flags),
        LoadState::Failed(error) => Reply::Error(error),
        LoadState::Waits => Reply::Parked,
        // There is no such row, nobody loads it, or a transaction found it.
        LoadState::Settled | LoadState::Loaded(_) => cx.with(key, |entry, scratch| {
            entry.get().map_or(Reply::Null, |item| form.reply(take(scratch, item.value), item.flags))
        }),
    }
}

/// Gives `visit` what is under each key, as of one instant, with the clock and the scratch buffer. It returns how many bytes
/// the reply has so far; an error if those are more than a request may have.
#[inline(always)]
pub(crate) fn each_value(
    cx: &mut Context<'_>,
    db: u8,
    keys: Args<'_>,
    mut visit: impl FnMut(u64, Option<Item<'_>>, &mut Vec<u8>) -> usize,
) -> Result<(), Error> {
    let (limit, mut fits) = (cx.engine.limits.max_request, true);
    cx.read_all(db, keys, |now, item, scratch| {
        fits = visit(now, item, scratch) <= limit;
        fits
    });
    if fits { Ok(()) } else { Err(TOO_MUCH) }
}

/// The values of several keys.
pub(super) fn get_many(cx: &mut Context<'_>, client: &Client, keys: Args<'_>, form: Form) -> Result<Reply, Error> {
    let (db, served) = (client.db, cx.engine.loaders.any());
    if cx.waits.asked > 0 && load_many(cx, client, keys) {
        return Ok(Reply::Parked);
    }
    // Before it stand other replies of the same transaction.
    let begun = cx.scratch.len();
    let (mut values, mut stale) = (Values::new(keys.len(), cx.scratch), Vec::new());
    each_value(cx, db, keys, |now, item, scratch| {
        if served && item.is_some_and(|item| item.is_stale(now)) {
            stale.extend(keys.get(values.len()));
        }
        take_next(&mut values, item.map(|item| (item.value, form.flags(item.flags))), scratch);
        scratch.len() - begun
    })?;
    // The others are refreshed by who reads them next.
    for bytes in stale.into_iter().take(LOADS) {
        refresh(cx, client, Key { db, bytes });
    }
    if !served || !values.any_missing() {
        return Ok(Reply::Values(values));
    }
    if asks_in_turns(cx, values.missing()) && load_many(cx, client, keys) {
        return Ok(Reply::Parked);
    }
    let mut replies = values.replies();
    for (reply, bytes) in replies.iter_mut().zip(keys.iter()).filter(|(reply, _)| matches!(reply, Reply::Null)) {
        *reply = get_loaded(cx, client, Key { db, bytes }, form);
    }
    Ok(if cx.waits.is_waiting() { Reply::Parked } else { Reply::Array(replies) })
}
