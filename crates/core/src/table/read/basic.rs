//! Reading the commands on connections and on plain strings.

use super::words::{LATEST, arg, read_time, time_option};
use crate::table::row::Row;
use crate::vocabulary::{Args, Command, Condition, Error, ExpireWhen, Expiry, Kind, SYNTAX, integer, is};

pub(crate) fn read_ping<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.len() > 1 { Err(row.wrong_arity()) } else { Ok(Command::Ping(args.get(0))) }
}

pub(crate) fn read_decrby<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let by = integer(arg(args, 1))?;
    let by = by.checked_neg().ok_or(Error::new(Kind::Malformed, "ERR decrement would overflow"))?;
    Ok(Command::Increment(arg(args, 0), by))
}

pub(crate) fn read_mset<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.len() % 2 == 0 { Ok(Command::MSet(args)) } else { Err(row.wrong_arity()) }
}

pub(crate) fn read_flush(args: Args<'_>, all: bool) -> Result<Command<'_>, Error> {
    match args.get(0) {
        None => Ok(Command::Flush { all }),
        Some(mode) if args.len() == 1 && (is(mode, "ASYNC") || is(mode, "SYNC")) => Ok(Command::Flush { all }),
        Some(_) => Err(SYNTAX),
    }
}

pub(crate) fn read_auth<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    match (args.get(0), args.get(1), args.len()) {
        (Some(password), None, 1) => Ok(Command::Auth(None, password)),
        (Some(user), Some(password), 2) => Ok(Command::Auth(Some(user), password)),
        _ => Err(SYNTAX),
    }
}

pub(crate) fn read_hello<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut version, mut auth, mut name) = (None, None, None);
    if let Some(text) = args.get(0) {
        let number = integer(text)
            .map_err(|_| Error::new(Kind::Malformed, "ERR Protocol version is not an integer or out of range"))?;
        if number != 2 && number != 3 {
            return Err(Error::new(Kind::Malformed, "NOPROTO unsupported protocol version"));
        }
        version = Some(number as u8);
    }
    let mut at = 1;
    while let Some(option) = args.get(at) {
        match (args.get(at + 1), args.get(at + 2)) {
            (Some(user), Some(password)) if is(option, "AUTH") => (auth, at) = (Some((user, password)), at + 3),
            (Some(text), _) if is(option, "SETNAME") => (name, at) = (Some(text), at + 2),
            _ => {
                let option = String::from_utf8_lossy(option).into_owned();
                return Err(Error::with(Kind::Malformed, format!("ERR Syntax error in HELLO option '{option}'")));
            }
        }
    }
    Ok(Command::Hello { version, auth, name })
}

pub(crate) fn read_set<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (key, value) = (arg(args, 0), arg(args, 1));
    let (mut time, mut keep, mut condition, mut get) = (None, false, Condition::Always, false);
    let mut at = 2;
    while let Some(option) = args.get(at) {
        let free = |wanted| condition == Condition::Always || condition == wanted;
        if is(option, "NX") && free(Condition::Absent) {
            condition = Condition::Absent;
        } else if is(option, "XX") && free(Condition::Present) {
            condition = Condition::Present;
        } else if is(option, "IFEQ") && condition == Condition::Always {
            condition = Condition::Equals(args.get(at + 1).ok_or(SYNTAX)?);
            at += 1;
        } else if is(option, "GET") {
            get = true;
        } else if is(option, "KEEPTTL") && time.is_none() {
            keep = true;
        } else {
            let unit = time_option(option).ok_or(SYNTAX)?;
            // The same option again replaces the one before; another one does not go with it.
            if keep || time.is_some_and(|(_, known)| known != unit) {
                return Err(SYNTAX);
            }
            time = Some((args.get(at + 1).ok_or(SYNTAX)?, unit));
            at += 1;
        }
        at += 1;
    }
    // Numbers are looked at once the options are understood, as in Redis: so its error is this one.
    let expiry = match time {
        Some((text, (unit, absolute))) => read_time(row, text, unit, absolute)?,
        None if keep => Expiry::Keep,
        None => Expiry::Never,
    };
    Ok(Command::Set { key, value, expiry, condition, get })
}

pub(crate) fn read_setex<'a>(row: &Row, args: Args<'a>, unit: i64) -> Result<Command<'a>, Error> {
    let expiry = read_time(row, arg(args, 1), unit, false)?;
    Ok(Command::Set { key: arg(args, 0), value: arg(args, 2), expiry, condition: Condition::Always, get: false })
}

pub(crate) fn read_getset<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (key, value) = (arg(args, 0), arg(args, 1));
    Ok(Command::Set { key, value, expiry: Expiry::Never, condition: Condition::Always, get: true })
}

pub(crate) fn read_expire<'a>(row: &Row, args: Args<'a>, unit: i64, absolute: bool) -> Result<Command<'a>, Error> {
    let mut when = ExpireWhen::default();
    for option in args.from(2).iter() {
        let asked = match () {
            () if is(option, "NX") => &mut when.none,
            () if is(option, "XX") => &mut when.some,
            () if is(option, "GT") => &mut when.later,
            () if is(option, "LT") => &mut when.sooner,
            () => {
                let option = String::from_utf8_lossy(option).into_owned();
                return Err(Error::with(Kind::Malformed, format!("ERR Unsupported option {option}")));
            }
        };
        *asked = true;
    }
    if when.none && (when.some || when.later || when.sooner) {
        let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
        return Err(Error::new(Kind::Malformed, text));
    }
    if when.later && when.sooner {
        return Err(Error::new(Kind::Malformed, "ERR GT and LT options at the same time are not compatible"));
    }
    let millis = integer(arg(args, 1))?.checked_mul(unit).ok_or_else(|| row.invalid_expiry())?;
    if !absolute && millis > LATEST {
        return Err(row.invalid_expiry());
    }
    Ok(Command::Expire { key: arg(args, 0), millis, absolute, when })
}

pub(crate) fn read_command<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.is_empty() {
        return Ok(Command::CommandAll);
    }
    match row.sub(args)? {
        "count" => Ok(Command::CommandCount),
        "list" if args.len() == 1 => Ok(Command::CommandList(args.from(1))),
        "list" if args.len() == 4 && is(arg(args, 1), "FILTERBY") => Ok(Command::CommandList(args.from(2))),
        "list" => Err(SYNTAX),
        "info" if args.len() == 1 => Ok(Command::CommandAll),
        "info" => Ok(Command::CommandInfo(args.from(1))),
        "docs" => Ok(Command::CommandDocs(args.from(1))),
        getkeys => Ok(Command::CommandKeys(args.from(1), getkeys == "getkeysandflags")),
    }
}
