//! Keys as such, whatever their values: going through them, copying and renaming them, what is known beside a value.

use std::sync::atomic::Ordering::Relaxed;

use super::context::{Context, TOO_MUCH, TURN, read_pattern};
use crate::glob::Pattern;
use crate::state::client::Client;
use crate::state::waits::{Progress, TurnCost};
use crate::store::{Key, SCAN_MOST};
use crate::vocabulary::{Error, KeyCommand, Kind, MAX_KEY, Rename, Reply, integer};

/// Keys that are looked at in one step while all are gone through.
const STEP: usize = 1024;
/// Steps of a pattern that one step may take, whatever the keys are.
const PATTERN_STEPS: usize = 1 << 24;

/// Keys that are compared with a pattern in one step, under the lock of their shard.
pub(super) fn keys_of_step(pattern: &Pattern) -> usize {
    (PATTERN_STEPS / pattern.most_steps(MAX_KEY)).clamp(1, STEP)
}

pub(super) fn run(cx: &mut Context<'_>, client: &Client, command: &KeyCommand<'_>) -> Result<Reply, Error> {
    let db = client.db;
    let key_of = |bytes| Key { db, bytes };
    Ok(match *command {
        KeyCommand::Type(key) => {
            let there = cx.with(key_of(key), |entry, _| entry.peek().is_some());
            Reply::Word(if there { "string" } else { "none" })
        }
        KeyCommand::ExpireTime { key, millis } => expire_time(cx, key_of(key), millis),
        KeyCommand::Copy { from, to, db: other, replace, rename } => {
            let to = Key { db: other.unwrap_or(db), bytes: to };
            return copy(cx, key_of(from), to, replace, rename);
        }
        KeyCommand::Keys(pattern) => return keys(cx, client, pattern),
        KeyCommand::Scan { cursor, pattern, count, strings } => {
            cx.may_look()?;
            let pattern = read_pattern(if strings { pattern.unwrap_or(b"*") } else { b"" })?;
            scan(cx, client, (cursor, count), &pattern)
        }
        KeyCommand::Random => {
            cx.may_look()?;
            random(cx, client)
        }
        KeyCommand::Encoding(key) => cx.with(key_of(key), |entry, _| {
            entry.peek().map_or(Reply::Null, |item| Reply::bytes(encoding(item.value.bytes())))
        }),
        KeyCommand::Frequency(key) => {
            cx.with(key_of(key), |entry, _| entry.frequency().map_or(Reply::Null, |often| Reply::Int(often.into())))
        }
        KeyCommand::IdleTime(key) => {
            if cx.with(key_of(key), |entry, _| entry.peek().is_none()) {
                return Ok(Reply::Null);
            }
            let text = "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching \
                        between policies at runtime LRU and LFU data will take some time to adjust.";
            return Err(Error::new(Kind::Mismatch, text));
        }
        KeyCommand::References(key) => {
            cx.with(key_of(key), |entry, _| entry.peek().map_or(Reply::Null, |_| Reply::Int(1)))
        }
        KeyCommand::Usage(key) => {
            cx.with(key_of(key), |entry, _| entry.footprint().map_or(Reply::Null, |bytes| Reply::Int(bytes as i64)))
        }
    })
}

fn expire_time(cx: &mut Context<'_>, key: Key<'_>, millis: bool) -> Reply {
    let wall = cx.now.wall;
    cx.with(key, |entry, _| {
        let now = entry.now();
        Reply::Int(match entry.peek().map(|item| item.expires_at) {
            None => -2,
            Some(None) => -1,
            Some(Some(at)) if millis => (wall + (at - now)) as i64,
            Some(Some(at)) => ((wall + (at - now) + 500) / 1000) as i64,
        })
    })
}

fn copy(
    cx: &mut Context<'_>,
    from: Key<'_>,
    to: Key<'_>,
    replace: bool,
    rename: Option<Rename>,
) -> Result<Reply, Error> {
    if from == to && matches!(rename, None | Some(Rename::Move)) {
        return Err(Error::new(Kind::Malformed, "ERR source and destination objects are the same"));
    }
    cx.with_all([from, to].into_iter(), |all, _| {
        if all.entry(from).peek().is_none() {
            return match rename {
                Some(Rename::Always | Rename::IfNew) => Err(Error::new(Kind::NotFound, "ERR no such key")),
                _ => Ok(Reply::Int(0)),
            };
        }
        let done = match rename {
            Some(Rename::Always) => Reply::Ok,
            _ => Reply::Int(1),
        };
        if from == to {
            return Ok(if rename == Some(Rename::Always) { Reply::Ok } else { Reply::Int(0) });
        }
        if !replace && all.entry(to).peek().is_some() {
            return Ok(Reply::Int(0));
        }
        if rename.is_some() {
            all.rename(from, to)?;
        } else if let Some(kept) = all.entry(from).copied() {
            all.entry(to).put_copied(&kept)?;
        }
        Ok(done)
    })
}

fn keys(cx: &mut Context<'_>, client: &Client, pattern: &[u8]) -> Result<Reply, Error> {
    cx.may_look()?;
    let (db, limit) = (client.db, cx.engine.limits.max_reply);
    let pattern = read_pattern(pattern)?;
    let (step, before) = (keys_of_step(&pattern), cx.waits.looked_at);
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let mut cost = TurnCost::default();
    loop {
        let next = cost.next(step);
        let at = progress.at;
        progress.at = cx.scan(db, at, next, &mut |key, _| {
            let fits = progress.bytes <= limit && pattern.matches_within(key, &mut cost.steps);
            if fits && client.access.may_read(key) {
                progress.keep(Reply::bytes(key));
            }
        });
        if progress.bytes > limit {
            return Err(TOO_MUCH);
        }
        cx.waits.looked_at = before + cost.total();
        if progress.at == 0 {
            return Ok(Reply::Array(progress.found));
        }
        cx.may_look()?;
        if cost.total() >= TURN && cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(Reply::Parked);
        }
    }
}

/// Looks at so many keys from a cursor on, or at fewer if that takes long; those that match, and where to go on.
fn scan(cx: &mut Context<'_>, client: &Client, (mut cursor, count): (u64, usize), pattern: &Pattern) -> Reply {
    let (mut found, mut cost, step) = (Vec::new(), TurnCost::default(), keys_of_step(pattern));
    loop {
        let left = count - cost.keys;
        let (next, mut seen) = (cost.next(step.min(left)), 0);
        cursor = cx.scan(client.db, cursor, next, &mut |key, _| {
            seen += 1;
            if pattern.matches_within(key, &mut cost.steps) && client.access.may_read(key) {
                found.push(Reply::bytes(key));
            }
        });
        // Where it has seen fewer it has passed many items of other databases.
        if cursor == 0 || seen < next || cost.keys >= count || cost.total() >= TURN {
            break;
        }
    }
    cx.waits.looked_at += cost.total();
    Reply::Array(vec![Reply::bytes(cursor.to_string()), Reply::Array(found)])
}

/// Keys that RANDOMKEY looks for at a time, at most: a scan passes sixteen times as many of other databases.
const RANDOM_STEP: usize = 64;

/// Goes on from a place chosen at random to the first key that the user may read, and once more from the beginning. Where such
/// keys are rare it runs in turns; in a transaction, which holds all shards meanwhile, it gives up after one.
fn random(cx: &mut Context<'_>, client: &Client) -> Reply {
    let db = client.db;
    if cx.len(db) == 0 {
        return Reply::Null;
    }
    let mut progress = cx.waits.progress.take().unwrap_or_else(|| {
        let drawn = cx.engine.store.tag(&cx.engine.counters.drawn.fetch_add(1, Relaxed).to_le_bytes());
        Box::new(Progress { at: cx.cursor_at(drawn), ..Progress::default() })
    });
    let (mut looked_at, mut step) = (0, 1);
    loop {
        let mut found = None;
        progress.at = cx.scan(db, progress.at, step, &mut |key, _| {
            if found.is_none() && client.access.may_read(key) {
                found = Some(Reply::bytes(key));
            }
        });
        cx.waits.looked_at += SCAN_MOST * step;
        if let Some(reply) = found {
            return reply;
        }
        // Counts how often the end was reached.
        progress.count += i64::from(progress.at == 0);
        looked_at += SCAN_MOST * step;
        if progress.count == 2 || looked_at >= TURN && cx.held.is_some() {
            return Reply::Null;
        }
        if looked_at >= TURN && cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Reply::Parked;
        }
        step = (2 * step).min(RANDOM_STEP);
    }
}

/// How Redis would keep a value.
fn encoding(value: &[u8]) -> &'static str {
    match value.len() {
        1..=20 if integer(value).is_ok() => "int",
        ..=44 => "embstr",
        _ => "raw",
    }
}
