//! Reading CONFIG.

use crate::table::row::Row;
use crate::vocabulary::{Args, Command, ConfigCommand, Error, Kind};

pub(crate) fn read_config<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    Ok(Command::Config(match row.sub(args)? {
        "get" => ConfigCommand::Get(args.from(1)),
        "set" => ConfigCommand::Set(args.from(1)),
        "resetstat" => ConfigCommand::ResetStat,
        _ => return Err(Error::new(Kind::Unknown, "ERR The server is running without a config file")),
    }))
}
