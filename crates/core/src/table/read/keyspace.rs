//! Reading the commands on keys, whatever their values.

use super::words::arg;
use crate::limits::DATABASES;
use crate::table::row::Row;
use crate::vocabulary::{Args, Command, Error, KeyCommand, Kind, NOT_AN_INTEGER, Rename, SYNTAX, integer, is};

/// Keys that one SCAN may return, whatever COUNT says.
const MOST: usize = 4096;

fn command(command: KeyCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::Key(command))
}

const OUT_OF_RANGE: Error = Error::new(Kind::Malformed, "ERR DB index is out of range");

pub(crate) fn database(text: &[u8]) -> Result<u8, Error> {
    let number = integer(text)?;
    u8::try_from(number).ok().filter(|db| usize::from(*db) < DATABASES).ok_or(OUT_OF_RANGE)
}

pub(crate) fn read_renaming(args: Args<'_>, replace: bool, rename: Rename) -> Result<Command<'_>, Error> {
    command(KeyCommand::Copy { from: arg(args, 0), to: arg(args, 1), db: None, replace, rename: Some(rename) })
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

pub(crate) fn read_move<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (key, db) = (arg(args, 0), Some(database(arg(args, 1))?));
    command(KeyCommand::Copy { from: key, to: key, db, replace: false, rename: Some(Rename::Move) })
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
    let (sub, key) = (row.sub(args)?, arg(args, 1));
    command(match sub {
        "encoding" => KeyCommand::Encoding(key),
        "freq" => KeyCommand::Frequency(key),
        "idletime" => KeyCommand::IdleTime(key),
        _ => KeyCommand::References(key),
    })
}

pub(crate) fn read_memory<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    match row.sub(args)? {
        "stats" => Ok(Command::MemoryStats),
        "purge" => Ok(Command::Nothing),
        _ if args.len() == 2 => command(KeyCommand::Usage(arg(args, 1))),
        _ if args.len() != 4 || !is(arg(args, 2), "SAMPLES") => Err(SYNTAX),
        _ if integer(arg(args, 3))? < 0 => Err(NOT_AN_INTEGER),
        _ => command(KeyCommand::Usage(arg(args, 1))),
    }
}
