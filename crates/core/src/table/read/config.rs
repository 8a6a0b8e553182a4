//! Reading CONFIG.

use crate::table::row::Row;
use crate::vocabulary::{Args, Command, ConfigCommand, Error, Kind, is};

pub(crate) fn read_config<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).unwrap_or_default();
    Ok(Command::Config(match args.len() {
        2.. if is(sub, "GET") => ConfigCommand::Get(args.from(1)),
        3.. if is(sub, "SET") => ConfigCommand::Set(args.from(1)),
        1 if is(sub, "RESETSTAT") => ConfigCommand::ResetStat,
        1 if is(sub, "REWRITE") => {
            return Err(Error::new(Kind::Unknown, "ERR The server is running without a config file"));
        }
        _ => {
            let known = ["get", "set", "resetstat", "rewrite"].into_iter().find(|name| is(sub, name));
            return Err(known.map_or_else(|| row.unknown_subcommand(sub), |name| row.wrong_subcommand_arity(name)));
        }
    }))
}
