//! Reading CLIENT.

use crate::table::row::Row;
use crate::vocabulary::{Args, ClientCommand, Command, Error, Filter, Kind, Replies, SYNTAX, integer, is};

fn command(command: ClientCommand<'_>) -> Result<Command<'_>, Error> {
    Ok(Command::Client(command))
}

const NAMES: &str = "caching getname getredir id info kill list no-evict reply setinfo setname tracking trackinginfo";

pub(crate) fn read_client<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).ok_or(SYNTAX)?;
    let on = |text: &[u8]| match () {
        () if is(text, "ON") => Ok(true),
        () if is(text, "OFF") => Ok(false),
        () => Err(SYNTAX),
    };
    match (args.get(1), args.get(2), args.len()) {
        (None, ..) if is(sub, "ID") => command(ClientCommand::Id),
        (None, ..) if is(sub, "GETNAME") => command(ClientCommand::GetName),
        (None, ..) if is(sub, "INFO") => command(ClientCommand::Info),
        (None, ..) if is(sub, "GETREDIR") => command(ClientCommand::Redirection),
        (None, ..) if is(sub, "TRACKINGINFO") => command(ClientCommand::TrackingInfo),
        (None, ..) if is(sub, "LIST") => command(ClientCommand::List(EVERYBODY)),
        (Some(name), _, 2) if is(sub, "SETNAME") => command(ClientCommand::SetName(name)),
        (Some(what), Some(value), 3) if is(sub, "SETINFO") => {
            if is(what, "LIB-NAME") || is(what, "LIB-VER") {
                return command(ClientCommand::SetInfo(is(what, "LIB-VER"), value));
            }
            let what = String::from_utf8_lossy(what).into_owned();
            Err(Error::with(Kind::Malformed, format!("ERR Unrecognized option '{what}'")))
        }
        (Some(option), Some(kind), 3) if is(sub, "LIST") && is(option, "TYPE") => {
            let mut filter = EVERYBODY;
            filter.set_type(kind)?;
            command(ClientCommand::List(filter))
        }
        (Some(option), Some(_), _) if is(sub, "LIST") && is(option, "ID") => {
            command(ClientCommand::ListIds(args.from(2)))
        }
        (Some(_), ..) if is(sub, "LIST") => Err(SYNTAX),
        (Some(address), None, _) if is(sub, "KILL") => {
            command(ClientCommand::Kill(Filter { address: Some(address), skip_me: false, ..EVERYBODY }, true))
        }
        (Some(_), Some(_), _) if is(sub, "KILL") => command(ClientCommand::Kill(Filter::read(args.from(1))?, false)),
        (Some(mode), None, _) if is(sub, "REPLY") && is(mode, "SKIP") => {
            command(ClientCommand::Reply(Replies::SkipNext))
        }
        (Some(mode), None, _) if is(sub, "REPLY") => {
            command(ClientCommand::Reply(if on(mode)? { Replies::All } else { Replies::None }))
        }
        (Some(mode), None, _) if is(sub, "NO-EVICT") => on(mode).map(|_| Command::Nothing),
        (Some(mode), None, _) if is(sub, "CACHING") => command(ClientCommand::Caching(match () {
            () if is(mode, "YES") => Some(true),
            () if is(mode, "NO") => Some(false),
            () => None,
        })),
        (Some(mode), ..) if is(sub, "TRACKING") => {
            command(if on(mode)? { ClientCommand::Track(args.from(2)) } else { ClientCommand::Untrack(args.from(2)) })
        }
        _ => {
            let known = NAMES.split(' ').find(|name| is(sub, name));
            Err(known.map_or_else(|| row.unknown_subcommand(sub), |name| row.wrong_subcommand_arity(name)))
        }
    }
}

const EVERYBODY: Filter<'static> =
    Filter { id: None, address: None, user: None, subscribers: None, nobody: false, older: None, skip_me: true };

impl<'a> Filter<'a> {
    fn read(args: Args<'a>) -> Result<Filter<'a>, Error> {
        let mut filter = EVERYBODY;
        let mut at = 0;
        while let Some(option) = args.get(at) {
            let value = args.get(at + 1).ok_or(SYNTAX)?;
            if is(option, "ID") {
                let wrong = Error::new(Kind::Malformed, "ERR client-id should be greater than 0");
                let id = integer(value).ok().and_then(|id| u64::try_from(id).ok()).filter(|id| *id > 0);
                filter.id = Some(id.ok_or(wrong)?);
            } else if is(option, "TYPE") {
                filter.set_type(value)?;
            } else if is(option, "ADDR") {
                filter.address = Some(value);
            } else if is(option, "USER") {
                filter.user = Some(value);
            } else if is(option, "MAXAGE") {
                filter.older = Some(u64::try_from(integer(value)?).map_err(|_| SYNTAX)?);
            } else if is(option, "SKIPME") && (is(value, "YES") || is(value, "NO")) {
                filter.skip_me = is(value, "YES");
            } else {
                return Err(SYNTAX);
            }
            at += 2;
        }
        Ok(filter)
    }

    fn set_type(&mut self, kind: &[u8]) -> Result<(), Error> {
        match () {
            () if is(kind, "NORMAL") => self.subscribers = Some(false),
            () if is(kind, "PUBSUB") => self.subscribers = Some(true),
            () if ["MASTER", "REPLICA", "SLAVE"].iter().any(|name| is(kind, name)) => self.nobody = true,
            () => {
                let kind = String::from_utf8_lossy(kind).into_owned();
                return Err(Error::with(Kind::Malformed, format!("ERR Unknown client type '{kind}'")));
            }
        }
        Ok(())
    }
}
