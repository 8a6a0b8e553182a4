//! Reading the commands on a part of a string, or on its presence.

use super::words::{arg, time_option};
use crate::table::row::Row;
use crate::vocabulary::{After, Args, Command, Error, Kind, SYNTAX, TextCommand, integer, is};

fn command(command: TextCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::Text(command))
}

pub(crate) fn read_setrange<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let at = integer(arg(args, 1))?;
    if at < 0 {
        return Err(Error::new(Kind::Malformed, "ERR offset is out of range"));
    }
    command(TextCommand::SetRange(arg(args, 0), at, arg(args, 2)))
}

pub(crate) fn read_getex<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut after, mut at) = (After::Stay, 1);
    while let Some(option) = args.get(at) {
        if is(option, "PERSIST") && matches!(after, After::Stay | After::Persist) {
            (after, at) = (After::Persist, at + 1);
            continue;
        }
        let (unit, absolute) = time_option(option).ok_or(SYNTAX)?;
        let fits = match after {
            After::Expire(_, known, from_1970) => (known, from_1970) == (unit, absolute),
            _ => after == After::Stay,
        };
        if !fits {
            return Err(SYNTAX);
        }
        after = After::Expire(args.get(at + 1).ok_or(SYNTAX)?, unit, absolute);
        at += 2;
    }
    command(TextCommand::Take(arg(args, 0), after))
}

pub(crate) fn read_msetnx<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.len() % 2 == 0 { command(TextCommand::SetAllNew(args)) } else { Err(row.wrong_arity()) }
}
