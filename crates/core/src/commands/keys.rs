//! Keys: whether they are there, how long they live, removing them.

use super::context::{Context, TURN};
use crate::store::{Entry, Key, Refused};
use crate::vocabulary::{Args, ExpireWhen, Reply};

/// One key, however often it is named, takes one lock; a single key takes no list of locks.
fn count(cx: &mut Context<'_>, db: u8, keys: Args<'_>, mut test: impl FnMut(&mut Entry<'_>) -> bool) -> Reply {
    if let (Some(bytes), 1) = (keys.get(0), keys.len()) {
        return Reply::Int(cx.with(Key { db, bytes }, |entry, _| i64::from(test(entry))));
    }
    let named = keys.iter().map(|bytes| Key { db, bytes });
    let found = cx.with_all(named.clone(), |all, _| named.filter(|key| test(&mut all.entry(*key))).count());
    Reply::Int(found as i64)
}

/// Keys that are counted or removed in one step.
const STEP: usize = 128;
/// Bytes of a value that cost as much to give back as a key to look at.
const FREED: usize = 4096;

/// How many of the keys there are, as if they had been read.
pub(super) fn exist(cx: &mut Context<'_>, db: u8, keys: Args<'_>) -> Reply {
    in_turns(cx, db, keys, |entry, _| entry.get().is_some())
}

/// Removes keys; how many there were.
pub(super) fn remove(cx: &mut Context<'_>, db: u8, keys: Args<'_>) -> Reply {
    in_turns(cx, db, keys, |entry, cost| {
        *cost += entry.peek().map_or(0, |item| item.value.bytes().len() / FREED);
        entry.remove()
    })
}

/// Counts the keys that pass a test, which adds what it costs beyond a look. Many are counted in several steps, so that nobody
/// waits for all of them.
fn in_turns(
    cx: &mut Context<'_>,
    db: u8,
    keys: Args<'_>,
    mut test: impl FnMut(&mut Entry<'_>, &mut usize) -> bool,
) -> Reply {
    if keys.len() <= STEP || cx.held.is_some() {
        return count(cx, db, keys, |entry| test(entry, &mut 0));
    }
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let mut cost = 0;
    loop {
        let rest = keys.from(progress.at as usize);
        if rest.is_empty() {
            return Reply::Int(progress.count);
        }
        if cost >= TURN && cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Reply::Parked;
        }
        let counted = count(cx, db, rest.to(STEP), |entry| {
            cost += 1;
            test(entry, &mut cost)
        });
        progress.count += if let Reply::Int(counted) = counted { counted } else { 0 };
        progress.at += STEP as u64;
    }
}

pub(super) fn ttl(cx: &mut Context<'_>, key: Key<'_>, millis: bool) -> Reply {
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

pub(super) fn expire(cx: &mut Context<'_>, key: Key<'_>, millis: i64, absolute: bool, when: ExpireWhen) -> Reply {
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
        } else if met && !entry.expire(Some(at)) && entry.peek().is_some() {
            return Reply::Error(Refused::Full.into());
        }
        Reply::Int(met.into())
    })
}

pub(super) fn persist(cx: &mut Context<'_>, key: Key<'_>) -> Reply {
    cx.with(key, |entry, _| {
        let has = entry.peek().is_some_and(|item| item.expires_at.is_some());
        Reply::Int(i64::from(has && entry.expire(None)))
    })
}
