//! Keys as such, whatever their values: going through them, copying and renaming them, what is known beside a value.
//! Reading their arguments, and what they do.

use std::sync::atomic::Ordering::Relaxed;

use super::{Client, Context, TOO_MUCH, TURN};
use crate::command::{Args, Blob, Command, Error, Kind, NOT_AN_INTEGER, Reply, Row, SYNTAX, integer, is};
use crate::glob;
use crate::store::{DATABASES, Key, SCAN_MOST};
use crate::waiting::{Progress, TurnCost};

/// Keys that are looked at in one step while all are gone through.
pub(super) const STEP: usize = 1024;
/// Keys that one SCAN may return, whatever COUNT says.
const MOST: usize = 4096;

/// A command on keys.
#[derive(Clone, Copy, Debug)]
pub enum KeyCommand<'a> {
    /// The type of a value: there is one.
    Type(&'a [u8]),
    /// When a key expires, by the wall clock.
    ExpireTime {
        /// The key.
        key: &'a [u8],
        /// Tells milliseconds instead of seconds.
        millis: bool,
    },
    /// Copies a value with all that is kept beside it.
    Copy {
        /// Its key.
        from: &'a [u8],
        /// The key of the copy.
        to: &'a [u8],
        /// The database of the copy, if it is another one.
        db: Option<u8>,
        /// Whether a value that is there is replaced.
        replace: bool,
        /// Whether the first goes.
        rename: Option<Rename>,
    },
    /// All keys that match.
    Keys(&'a [u8]),
    /// Some keys that match, and where to go on.
    Scan {
        /// Where to go on; 0 begins.
        cursor: u64,
        /// What they match.
        pattern: Option<&'a [u8]>,
        /// How many to look at.
        count: usize,
        /// Whether strings are wanted.
        strings: bool,
    },
    /// Any key.
    Random,
    /// How a value is kept.
    Encoding(&'a [u8]),
    /// How often a value was asked for lately.
    Frequency(&'a [u8]),
    /// Seconds since a value was asked for: not kept.
    IdleTime(&'a [u8]),
    /// How many know of a value.
    References(&'a [u8]),
    /// Bytes that a key and its value take.
    Usage(&'a [u8]),
}

/// What a renaming answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// OK.
    Always,
    /// 1, or 0 if the new name is taken.
    IfNew,
    /// 1, or 0, and there is nothing to do for a key that is not there.
    Move,
}

fn arg<'a>(args: Args<'a>, at: usize) -> &'a [u8] {
    args.get(at).expect("the arity was checked")
}

fn command(command: KeyCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::Key(command))
}

const OUT_OF_RANGE: Error = Error::new(Kind::Malformed, "ERR DB index is out of range");

fn database(text: &[u8]) -> Result<u8, Error> {
    let number = integer(text)?;
    u8::try_from(number).ok().filter(|db| usize::from(*db) < DATABASES).ok_or(OUT_OF_RANGE)
}

pub(crate) fn read_type<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(KeyCommand::Type(arg(args, 0)))
}

pub(crate) fn read_expiretime<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(KeyCommand::ExpireTime { key: arg(args, 0), millis: false })
}

pub(crate) fn read_pexpiretime<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(KeyCommand::ExpireTime { key: arg(args, 0), millis: true })
}

pub(crate) fn read_copy<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut db, mut replace, mut at) = (None, false, 2);
    while let Some(option) = args.get(at) {
        match args.get(at + 1) {
            _ if is(option, "REPLACE") => (replace, at) = (true, at + 1),
            Some(number) if is(option, "DB") => (db, at) = (Some(database(number)?), at + 2),
            _ => return Err(SYNTAX),
        }
    }
    command(KeyCommand::Copy { from: arg(args, 0), to: arg(args, 1), db, replace, rename: None })
}

fn read_renaming(args: Args<'_>, replace: bool, rename: Rename) -> Result<Command<'_>, Error> {
    command(KeyCommand::Copy { from: arg(args, 0), to: arg(args, 1), db: None, replace, rename: Some(rename) })
}

pub(crate) fn read_rename<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    read_renaming(args, true, Rename::Always)
}

pub(crate) fn read_renamenx<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    read_renaming(args, false, Rename::IfNew)
}

pub(crate) fn read_move<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (key, db) = (arg(args, 0), Some(database(arg(args, 1))?));
    command(KeyCommand::Copy { from: key, to: key, db, replace: false, rename: Some(Rename::Move) })
}

pub(crate) fn read_keys<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    command(KeyCommand::Keys(arg(args, 0)))
}

pub(crate) fn read_randomkey<'a>(_: &Row, _: Args<'a>) -> Result<Command<'a>, Error> {
    command(KeyCommand::Random)
}

pub(crate) fn read_scan<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let digits = arg(args, 0);
    let invalid = Error::new(Kind::Malformed, "ERR invalid cursor");
    let text = std::str::from_utf8(digits).map_err(|_| invalid.clone())?;
    let cursor = text.parse().map_err(|_| invalid)?;
    let (mut pattern, mut count, mut strings, mut at) = (None, 10, true, 1);
    while let Some(option) = args.get(at) {
        let value = args.get(at + 1).ok_or(SYNTAX)?;
        if is(option, "COUNT") {
            let number = integer(value)?;
            if number < 1 {
                return Err(SYNTAX);
            }
            count = number.min(MOST as i64) as usize;
        } else if is(option, "MATCH") {
            pattern = Some(value);
        } else if is(option, "TYPE") {
            strings = is(value, "STRING");
        } else {
            return Err(SYNTAX);
        }
        at += 2;
    }
    command(KeyCommand::Scan { cursor, pattern, count, strings })
}

pub(crate) fn read_object<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = arg(args, 0);
    let names = ["encoding", "freq", "idletime", "refcount"];
    let Some(name) = names.into_iter().find(|name| is(sub, name)) else {
        return Err(row.unknown_subcommand(sub));
    };
    let (Some(key), 2) = (args.get(1), args.len()) else { return Err(row.wrong_subcommand_arity(name)) };
    command(match name {
        "encoding" => KeyCommand::Encoding(key),
        "freq" => KeyCommand::Frequency(key),
        "idletime" => KeyCommand::IdleTime(key),
        _ => KeyCommand::References(key),
    })
}

pub(crate) fn read_memory<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = arg(args, 0);
    if is(sub, "USAGE") {
        let Some(key) = args.get(1) else { return Err(row.wrong_subcommand_arity("usage")) };
        return match (args.get(2), args.get(3), args.len()) {
            (None, ..) => command(KeyCommand::Usage(key)),
            (Some(option), Some(samples), 4) if is(option, "SAMPLES") => {
                if integer(samples)? < 0 {
                    return Err(NOT_AN_INTEGER);
                }
                command(KeyCommand::Usage(key))
            }
            _ => Err(SYNTAX),
        };
    }
    match args.len() {
        1 if is(sub, "STATS") => Ok(Command::MemoryStats),
        1 if is(sub, "PURGE") => Ok(Command::Nothing),
        _ => Err(row.unknown_subcommand(sub)),
    }
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
            scan(cx, client, (cursor, count), if strings { pattern.unwrap_or(b"*") } else { b"" })
        }
        KeyCommand::Random => {
            cx.may_look()?;
            random(cx, client)
        }
        KeyCommand::Encoding(key) => cx.with(key_of(key), |entry, _| {
            entry.peek().map_or(Reply::Null, |item| Reply::word(encoding(item.value.bytes())))
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
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let mut cost = TurnCost::default();
    loop {
        let next = cost.next(STEP);
        let at = progress.at;
        progress.at = cx.scan(db, at, next, &mut |key, _| {
            let fits = progress.bytes <= limit && glob::matches_within(pattern, key, &mut cost.steps);
            if fits && client.access.may_read(key) {
                progress.keep(Reply::Value(Blob::Owned(key.to_vec())));
            }
        });
        if progress.bytes > limit {
            return Err(TOO_MUCH);
        }
        if progress.at == 0 {
            cx.waits.looked_at += cost.total();
            return Ok(Reply::Array(progress.found));
        }
        if cost.total() >= TURN && cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(Reply::Parked);
        }
    }
}

/// Looks at so many keys from a cursor on, or at fewer if that takes long; those that match, and where to go on.
fn scan(cx: &mut Context<'_>, client: &Client, (mut cursor, count): (u64, usize), pattern: &[u8]) -> Reply {
    let (mut found, mut cost) = (Vec::new(), TurnCost::default());
    loop {
        let left = count - cost.keys;
        let (next, mut seen) = (cost.next(STEP.min(left)), 0);
        cursor = cx.scan(client.db, cursor, next, &mut |key, _| {
            seen += 1;
            if glob::matches_within(pattern, key, &mut cost.steps) && client.access.may_read(key) {
                found.push(Reply::Value(Blob::Owned(key.to_vec())));
            }
        });
        // Where it has seen fewer it has passed many items of other databases.
        if cursor == 0 || seen < next || cost.keys >= count || cost.total() >= TURN {
            break;
        }
    }
    cx.waits.looked_at += cost.total();
    Reply::Array(vec![Reply::Value(Blob::Owned(cursor.to_string().into_bytes())), Reply::Array(found)])
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
                found = Some(Reply::Value(Blob::Owned(key.to_vec())));
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
