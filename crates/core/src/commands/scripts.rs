//! The known scripts of EVAL, done natively, each in one step. Which they are stands in `table/read/scripts.rs`.

use super::context::{Context, TOO_MUCH, TURN, read_pattern};
use super::{keyspace, strings, text};
use crate::state::client::Client;
use crate::state::waits::TurnCost;
use crate::store::{Key, Meta};
use crate::table::{NO_LUA, known, sum};
use crate::vocabulary::{
    Args, Error, Kind, NOT_AN_INTEGER, Reply, SYNTAX, Script, ScriptCommand, TextCommand, integer, is,
};

pub(super) fn run(cx: &mut Context<'_>, client: &Client, command: &ScriptCommand<'_>) -> Result<Reply, Error> {
    match *command {
        ScriptCommand::Load(_) | ScriptCommand::Exists(_) => cx.may_look()?,
        ScriptCommand::Clear(_) | ScriptCommand::Run { .. } => {}
    }
    match *command {
        ScriptCommand::Load(text) => {
            let sum = sum(text).filter(|sum| known(sum.as_bytes()).is_some()).ok_or(NO_LUA)?;
            Ok(Reply::bytes(sum))
        }
        ScriptCommand::Exists(sums) => {
            Ok(Reply::Array(sums.iter().map(|sha| Reply::Int(known(sha).is_some().into())).collect()))
        }
        ScriptCommand::Clear(pattern) => {
            let reply = clear(cx, client, pattern)?;
            Ok(if matches!(reply, Reply::Parked) { reply } else { Reply::Null })
        }
        ScriptCommand::Run { script, keys, args } => {
            let key = keys.get(0).ok_or(SYNTAX)?;
            known_script(cx, client, script, key, args)
        }
    }
}

fn known_script(
    cx: &mut Context<'_>,
    client: &Client,
    script: Script,
    name: &[u8],
    args: Args<'_>,
) -> Result<Reply, Error> {
    let arg = |at| args.get(at).ok_or(SYNTAX);
    let number = |at| integer(arg(at)?).map_err(|_| NOT_AN_INTEGER);
    let key = Key { db: client.db, bytes: name };
    match script {
        Script::Release => text::run(cx, client, &TextCommand::RemoveIf(name, arg(0)?)),
        Script::Extend | Script::Reacquire => {
            let more = number(1)?;
            let longer = script == Script::Extend && arg(2)? == b"0";
            let value = arg(0)?;
            Ok(cx.with(key, |entry, _| {
                let now = entry.now();
                let Some(item) = entry.peek().filter(|item| item.value.bytes() == value) else { return Reply::Int(0) };
                if script == Script::Extend && item.expires_at.is_none() {
                    return Reply::Int(0);
                }
                let before = if longer { item.expires_at.unwrap_or(now) } else { now };
                match before.checked_add_signed(more).filter(|at| *at > now) {
                    Some(at) => entry.expire(Some(at)),
                    None => entry.remove(),
                };
                Reply::Int(1)
            }))
        }
        Script::AddIfThere => add(cx, key, number(0)?, false, None),
        Script::Add => add(cx, key, number(0)?, true, None),
        Script::AddAndExpire => add(cx, key, number(0)?, true, Some((1, number(1)?))),
        Script::AddAndLimit => {
            let by = number(1)?;
            add(cx, key, by, true, Some((by, number(0)?.checked_mul(1000).ok_or(NOT_AN_INTEGER)?)))
        }
        Script::Exchange => exchange(cx, key, args),
        Script::Clear => clear(cx, client, name),
    }
}

/// Adds to a number; one that is then `first` of `expire` lives for so many milliseconds.
fn add(cx: &mut Context<'_>, key: Key<'_>, by: i64, create: bool, expire: Option<(i64, i64)>) -> Result<Reply, Error> {
    cx.with(key, |entry, _| {
        if !create && entry.peek().is_none() {
            return Ok(Reply::Null);
        }
        let after = strings::add(entry, by, &Meta::default())?;
        if let Some((_, millis)) = expire.filter(|(first, _)| *first == after) {
            let at = entry.now().checked_add_signed(millis);
            match at.filter(|_| millis > 0) {
                Some(at) => entry.expire(Some(at)),
                None => entry.remove(),
            };
        }
        Ok(Reply::Int(after))
    })
}

/// As SET with IFEQ, with EX or PX and a number behind the two values if there are four arguments.
fn exchange(cx: &mut Context<'_>, key: Key<'_>, args: Args<'_>) -> Result<Reply, Error> {
    let (value, wanted) = (args.get(0).ok_or(SYNTAX)?, args.get(1).ok_or(SYNTAX)?);
    let ttl = match (args.get(2), args.get(3), args.len()) {
        (Some(unit), Some(time), 4) => {
            let millis = if is(unit, "EX") {
                integer(time)?.checked_mul(1000)
            } else if is(unit, "PX") {
                Some(integer(time)?)
            } else {
                return Err(SYNTAX);
            };
            let invalid = Error::new(Kind::Malformed, "ERR invalid expire time in 'set' command");
            Some(millis.filter(|millis| *millis > 0).ok_or(invalid)? as u64)
        }
        _ => None,
    };
    cx.with(key, |entry, _| {
        if entry.peek().is_none_or(|item| item.value.bytes() != wanted) {
            return Ok(Reply::Int(0));
        }
        let expires_at = ttl.map(|ttl| entry.now().saturating_add(ttl));
        entry.set(value, &Meta { expires_at, ..Meta::default() })?;
        Ok(Reply::Ok)
    })
}

/// Removes all keys that match; how many there were. A transaction looks at all of them first: if that is too much, nothing
/// is removed.
fn clear(cx: &mut Context<'_>, client: &Client, pattern: &[u8]) -> Result<Reply, Error> {
    cx.may_look()?;
    let db = client.db;
    let pattern = read_pattern(pattern)?;
    let (step, before) = (keyspace::keys_of_step(&pattern), cx.waits.looked_at);
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let mut cost = TurnCost::default();
    let (mut found, mut bytes) = (Vec::new(), 0);
    loop {
        let next = cost.next(step);
        progress.at = cx.scan(db, progress.at, next, &mut |key, _| {
            if pattern.matches_within(key, &mut cost.steps) && client.access.may_write(key) {
                bytes += size_of::<Box<[u8]>>() + key.len();
                found.push(Box::from(key));
            }
        });
        cx.waits.looked_at = before + cost.total();
        if progress.at == 0 || cx.held.is_none() {
            progress.count += remove_all(cx, db, &mut found);
        } else if bytes > cx.engine.limits.max_reply {
            return Err(TOO_MUCH);
        }
        if progress.at == 0 {
            return Ok(Reply::Int(progress.count));
        }
        cx.may_look()?;
        if cost.total() >= TURN && cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(Reply::Parked);
        }
    }
}

/// Removes keys; how many there were.
fn remove_all(cx: &mut Context<'_>, db: u8, keys: &mut Vec<Box<[u8]>>) -> i64 {
    keys.drain(..).map(|bytes| i64::from(cx.with(Key { db, bytes: &bytes }, |entry, _| entry.remove()))).sum()
}
