//! EVAL without Lua: the fixed scripts of well-known libraries, recognised by the SHA-1 of their texts. Any other script is
//! refused with a word on what to use instead.

use super::words::arg;
use crate::table::row::Row;
use crate::vocabulary::{Args, Command, Error, Kind, SYNTAX, Script, ScriptCommand, integer, is};

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

const NO_SCRIPT: Error = Error::new(Kind::NotFound, "NOSCRIPT No matching script. Please use EVAL.");

pub(crate) const NO_LUA: Error = Error::new(
    Kind::Unknown,
    "ERR this server runs no Lua. Known are the scripts of redis-py, django-redis, cashews, aiocache, fastapi-cache2 and \
     limits; for locks use SET NX PX with DELIFEQ, for compare-and-set SET IFEQ, for several keys MULTI",
);

/// Longest text that is compared with those that are known, each of which is far shorter.
const MAX_SCRIPT: usize = 2048;

fn sha1(text: &[u8]) -> String {
    sha1_smol::Sha1::from(text).digest().to_string()
}

/// The SHA-1 of a text that may be known; None of one that is too long for that.
pub(crate) fn sum(text: &[u8]) -> Option<String> {
    (text.len() <= MAX_SCRIPT).then(|| sha1(text))
}

pub(crate) fn known(sha: &[u8]) -> Option<Script> {
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
    crate::vocabulary::check_keys(keys.iter())?;
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
    let sum = sum(text).ok_or(NO_LUA)?;
    if let Some(script) = known(sum.as_bytes()) {
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
    match row.sub(args)? {
        "load" => Ok(Command::Script(ScriptCommand::Load(arg(args, 1)))),
        "exists" => Ok(Command::Script(ScriptCommand::Exists(args.from(1)))),
        _ => read_flush(args, "ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
    }
}

pub(crate) fn read_function<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    row.sub(args)?;
    read_flush(args, "ERR FUNCTION FLUSH only supports SYNC|ASYNC option")
}

/// There is nothing to flush.
fn read_flush<'a>(args: Args<'a>, refusal: &'static str) -> Result<Command<'a>, Error> {
    match (args.get(1), args.len()) {
        (None, _) => Ok(Command::Nothing),
        (Some(mode), 2) if is(mode, "ASYNC") || is(mode, "SYNC") => Ok(Command::Nothing),
        _ => Err(Error::new(Kind::Malformed, refusal)),
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
        assert_eq!(sum(b"return 1"), Some(sha1(b"return 1")));
        assert_eq!(sum(&[b' '; MAX_SCRIPT + 1]), None, "a long text is not summed up");
    }
}
