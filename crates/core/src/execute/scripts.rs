//! EVAL without Lua: the fixed scripts of well-known libraries, recognised by the SHA-1 of their texts and done natively,
//! each in one step. Any other script is refused with a word on what to use instead.

use super::text::TextCommand;
use super::{Client, Context, OVERFLOW, TURN, keyspace, text};
use crate::command::{Args, Blob, Command, Error, Kind, NOT_AN_INTEGER, Reply, Row, SYNTAX, integer, is};
use crate::glob;
use crate::store::{Key, Meta};
use crate::waiting::TurnCost;

/// What a known script does with its first key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    /// Removes it if it has the first argument as its value.
    Release,
    /// As above; makes it live for the second argument in milliseconds longer, or so long from now if the third is not 0.
    Extend,
    /// As above; makes it live for the second argument in milliseconds from now.
    Reacquire,
    /// Adds the first argument if there is a number.
    AddIfThere,
    /// Adds the first argument.
    Add,
    /// Adds the first argument; a number that is then 1 lives for the second in milliseconds.
    AddAndExpire,
    /// Adds the second argument; a number that is then equal to it lives for the first in seconds.
    AddAndLimit,
    /// Writes the first argument if it has the second as its value, with a time to live if there are two more.
    Exchange,
    /// Removes all keys that match it.
    Clear,
}

/// The scripts by the SHA-1 of their texts.
#[rustfmt::skip]
const KNOWN: &[(&str, Script)] = &[
    ("c3f8721cbb97f72bc19e972846bd7aaf91901658", Script::Release), // redis-py Lock.release
    ("a4e8783852e6b949f9ef3a97212805108459a890", Script::Extend), // redis-py Lock.extend
    ("1cac51482acf5858da00f6d685d68f886cd6b6b2", Script::Reacquire), // redis-py Lock.reacquire
    ("f4a7da3e5d8ea3b46642af08427151cae0190400", Script::AddIfThere), // django-redis incr
    ("4d15273b16b10c15e1d9202cbe93c959ab7d250b", Script::Add), // django-redis incr without a look
    ("b948f76fda6b97319d3426a2fb42b0d4f02c7146", Script::Release), // cashews unlock
    ("0f8a745c1b5efe281bd1299ea0d1b2994c6ae601", Script::AddAndExpire), // cashews incr
    ("ae3671744a5dbb24ea37ef607b8b10ac7856d43e", Script::Release), // aiocache RedLock
    ("782e993d12091daacc7a3164ddf5c4624fe56042", Script::Exchange), // aiocache OptimisticLock
    ("628bd136a573a06b346879695681af12ccef300f", Script::AddAndLimit), // limits, fixed window
    ("f2994557f1daca13bfef97c2a31ca4b174e031ca", Script::Clear), // limits, clear
];

/// fastapi-cache2 writes what it clears into the text: this is the SHA-1 of what remains without it.
const CLEAR_WITHIN: &str = "14f3a8d0c512e302cbb528f7824125d3977d0462";

/// A command on scripts.
#[derive(Clone, Copy, Debug)]
pub enum ScriptCommand<'a> {
    /// Runs a known script.
    Run {
        /// What it does.
        script: Script,
        /// Its keys.
        keys: Args<'a>,
        /// Its other arguments.
        args: Args<'a>,
    },
    /// Removes all keys that match a pattern.
    Clear(&'a [u8]),
    /// The SHA-1 of a text that is known.
    Load(&'a [u8]),
    /// Which of the SHA-1 sums are known, 1 or 0 each.
    Exists(Args<'a>),
}

const NO_SCRIPT: Error = Error::new(Kind::NotFound, "NOSCRIPT No matching script. Please use EVAL.");
const NO_LUA: Error = Error::new(
    Kind::Unknown,
    "ERR this server runs no Lua. Known are the scripts of redis-py, django-redis, cashews, aiocache, fastapi-cache2 and \
     limits; for locks use SET NX PX with DELIFEQ, for compare-and-set SET IFEQ, for several keys MULTI",
);

fn sha1(text: &[u8]) -> String {
    sha1_smol::Sha1::from(text).digest().to_string()
}

fn known(sha: &[u8]) -> Option<Script> {
    KNOWN.iter().find(|(known, _)| sha.eq_ignore_ascii_case(known.as_bytes())).map(|(_, script)| *script)
}

/// What stands between the third and the fourth quote of a text, and what remains without it.
fn written_in(text: &[u8]) -> Option<(&[u8], Vec<u8>)> {
    let mut quotes = memchr::memchr_iter(b'\'', text).skip(2);
    let (from, to) = (quotes.next()? + 1, quotes.next()?);
    Some((&text[from..to], [&text[..from], &text[to..]].concat()))
}

fn arguments(args: Args<'_>) -> Result<(Args<'_>, Args<'_>), Error> {
    let count = integer(args.get(1).ok_or(SYNTAX)?)?;
    let rest = args.from(2);
    match usize::try_from(count) {
        Err(_) => Err(Error::new(Kind::Malformed, "ERR Number of keys can't be negative")),
        Ok(count) if count > rest.len() => {
            Err(Error::new(Kind::Malformed, "ERR Number of keys can't be greater than number of args"))
        }
        Ok(count) => Ok((rest.to(count), rest.from(count))),
    }
}

fn script_of(script: Script, args: Args<'_>) -> Result<Command<'_>, Error> {
    let (keys, args) = arguments(args)?;
    crate::gate::admit(keys.iter())?;
    let wanted = match script {
        Script::Clear => 0,
        Script::Release | Script::AddIfThere | Script::Add => 1,
        Script::Reacquire | Script::AddAndExpire | Script::AddAndLimit | Script::Exchange => 2,
        Script::Extend => 3,
    };
    if keys.len() != 1 || args.len() < wanted {
        return Err(Error::new(Kind::Malformed, "ERR the script needs one key and its arguments"));
    }
    Ok(Command::Script(ScriptCommand::Run { script, keys, args }))
}

pub(crate) fn read_eval<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let text = args.get(0).ok_or(SYNTAX)?;
    if let Some(script) = known(sha1(text).as_bytes()) {
        return script_of(script, args);
    }
    match written_in(text) {
        Some((pattern, rest)) if sha1(&rest) == CLEAR_WITHIN => Ok(Command::Script(ScriptCommand::Clear(pattern))),
        _ => Err(NO_LUA),
    }
}

pub(crate) fn read_evalsha<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    script_of(known(args.get(0).ok_or(SYNTAX)?).ok_or(NO_SCRIPT)?, args)
}

pub(crate) fn read_script<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).ok_or(SYNTAX)?;
    match (args.get(1), args.len()) {
        (Some(text), 2) if is(sub, "LOAD") => Ok(Command::Script(ScriptCommand::Load(text))),
        (Some(_), _) if is(sub, "EXISTS") => Ok(Command::Script(ScriptCommand::Exists(args.from(1)))),
        (None, _) if is(sub, "FLUSH") => Ok(Command::Nothing),
        (Some(mode), 2) if is(sub, "FLUSH") && (is(mode, "ASYNC") || is(mode, "SYNC")) => Ok(Command::Nothing),
        (Some(_), _) if is(sub, "FLUSH") => {
            Err(Error::new(Kind::Malformed, "ERR SCRIPT FLUSH only support SYNC|ASYNC option"))
        }
        _ if is(sub, "LOAD") => Err(row.wrong_subcommand_arity("load")),
        _ if is(sub, "EXISTS") => Err(row.wrong_subcommand_arity("exists")),
        _ => Err(row.unknown_subcommand(sub)),
    }
}

pub(crate) fn read_function<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).ok_or(SYNTAX)?;
    match (args.get(1), args.len()) {
        (None, _) if is(sub, "FLUSH") => Ok(Command::Nothing),
        (Some(mode), 2) if is(sub, "FLUSH") && (is(mode, "ASYNC") || is(mode, "SYNC")) => Ok(Command::Nothing),
        (Some(_), _) if is(sub, "FLUSH") => {
            Err(Error::new(Kind::Malformed, "ERR FUNCTION FLUSH only supports SYNC|ASYNC option"))
        }
        _ => Err(row.unknown_subcommand(sub)),
    }
}

pub(super) fn run(cx: &mut Context<'_>, client: &Client, command: &ScriptCommand<'_>) -> Result<Reply, Error> {
    match *command {
        ScriptCommand::Load(text) => match known(sha1(text).as_bytes()) {
            Some(_) => Ok(Reply::Value(Blob::Owned(sha1(text).into_bytes()))),
            None => Err(NO_LUA),
        },
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
        let before = entry.peek().map(|item| integer(item.value.bytes())).transpose()?;
        if before.is_none() && !create {
            return Ok(Reply::Null);
        }
        let after = before.unwrap_or(0).checked_add(by).ok_or(OVERFLOW)?;
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(after).as_bytes();
        match before {
            Some(_) => entry.replace(digits)?,
            None => entry.set(digits, &Meta::default())?,
        };
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

/// Removes all keys that match; how many there were.
fn clear(cx: &mut Context<'_>, client: &Client, pattern: &[u8]) -> Result<Reply, Error> {
    cx.may_look()?;
    let db = client.db;
    let mut progress = cx.waits.progress.take().unwrap_or_default();
    let mut cost = TurnCost::default();
    loop {
        let mut found: Vec<Vec<u8>> = Vec::new();
        progress.at = cx.scan(db, progress.at, cost.next(keyspace::STEP), &mut |key, _| {
            if glob::matches_within(pattern, key, &mut cost.steps) && client.access.may_write(key) {
                found.push(key.to_vec());
            }
        });
        for bytes in &found {
            progress.count += i64::from(cx.with(Key { db, bytes }, |entry, _| entry.remove()));
        }
        if progress.at == 0 {
            cx.waits.looked_at += cost.total();
            return Ok(Reply::Int(progress.count));
        }
        if cost.total() >= TURN && cx.may_stop() {
            cx.waits.progress = Some(progress);
            return Ok(Reply::Parked);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_into_a_text_is_found() {
        let (pattern, rest) = written_in(b"a('KEYS', 'ns:*')) b('DEL', name)").unwrap();
        assert_eq!((pattern, &rest[..]), (&b"ns:*"[..], &b"a('KEYS', '')) b('DEL', name)"[..]));
        assert_eq!(written_in(b"'a' 'b"), None);
    }

    #[test]
    fn sums_are_known_whatever_their_case() {
        assert_eq!(known(b"C3F8721CBB97F72BC19E972846BD7AAF91901658"), Some(Script::Release));
        assert_eq!(known(sha1(b"return 1").as_bytes()), None);
    }
}
