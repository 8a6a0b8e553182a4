//! Reading ACL.

use super::words::arg;
use crate::table::row::Row;
use crate::vocabulary::{AclCommand, Args, Command, Error, Kind, is};

pub(crate) fn read_acl<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let asked = args.get(0).unwrap_or_default();
    if ["SETUSER", "DELUSER", "LOAD", "SAVE"].iter().any(|name| is(asked, name)) {
        let text = "ERR users are kept in the file of --users-file; SIGHUP has the server read it again";
        return Err(Error::new(Kind::Malformed, text));
    }
    let command = match row.sub(args)? {
        "whoami" => AclCommand::WhoAmI,
        "list" => AclCommand::List,
        "users" => AclCommand::Users,
        "getuser" => AclCommand::GetUser(arg(args, 1)),
        cat if args.len() > 2 => return Err(row.wrong_subcommand_arity(cat)),
        _ => AclCommand::Cat(args.get(1)),
    };
    Ok(Command::Acl(command))
}
