//! Reading CLIENT.

use super::words::arg;
use crate::table::row::Row;
use crate::vocabulary::{Args, ClientCommand, Command, Error, Filter, Kind, Replies, SYNTAX, integer, is};

pub(crate) fn read_client<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let on = |text: &[u8]| match () {
        () if is(text, "ON") => Ok(true),
        () if is(text, "OFF") => Ok(false),
        () => Err(SYNTAX),
    };
    let (sub, first) = (row.sub(args)?, args.get(1).unwrap_or_default());
    Ok(Command::Client(match sub {
        "id" => ClientCommand::Id,
        "getname" => ClientCommand::GetName,
        "info" => ClientCommand::Info,
        "getredir" => ClientCommand::Redirection,
        "trackinginfo" => ClientCommand::TrackingInfo,
        "setname" => ClientCommand::SetName(first),
        "setinfo" if is(first, "LIB-NAME") || is(first, "LIB-VER") => {
            ClientCommand::SetInfo(is(first, "LIB-VER"), arg(args, 2))
        }
        "setinfo" => {
            let what = String::from_utf8_lossy(first);
            return Err(Error::with(Kind::Malformed, format!("ERR Unrecognized option '{what}'")));
        }
        "list" if args.len() == 1 => ClientCommand::List(EVERYBODY),
        "list" if is(first, "TYPE") && args.len() == 3 => {
            let mut filter = EVERYBODY;
            filter.set_type(arg(args, 2))?;
            ClientCommand::List(filter)
        }
        "list" if is(first, "ID") && args.len() > 2 => ClientCommand::ListIds(args.from(2)),
        "list" => return Err(SYNTAX),
        "kill" if args.len() == 2 => {
            ClientCommand::Kill(Filter { address: Some(first), skip_me: false, ..EVERYBODY }, true)
        }
        "kill" => ClientCommand::Kill(Filter::read(args.from(1))?, false),
        "reply" if is(first, "SKIP") => ClientCommand::Reply(Replies::SkipNext),
        "reply" => ClientCommand::Reply(if on(first)? { Replies::All } else { Replies::None }),
        "no-evict" => return on(first).map(|_| Command::Nothing),
        "caching" if is(first, "YES") => ClientCommand::Caching(Some(true)),
        "caching" if is(first, "NO") => ClientCommand::Caching(Some(false)),
        "caching" => ClientCommand::Caching(None),
        _ if on(first)? => ClientCommand::Track(args.from(2)),
        _ => ClientCommand::Untrack(args.from(2)),
    }))
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
