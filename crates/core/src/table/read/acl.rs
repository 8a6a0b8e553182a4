//! Reading ACL.

use crate::table::row::Row;
use crate::vocabulary::{AclCommand, Args, Command, Error, Kind, is};

pub(crate) fn read_acl<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = args.get(0).unwrap_or_default();
    let command = match (args.get(1), args.len()) {
        (None, _) if is(sub, "WHOAMI") => AclCommand::WhoAmI,
        (None, _) if is(sub, "LIST") => AclCommand::List,
        (None, _) if is(sub, "USERS") => AclCommand::Users,
        (category, 1 | 2) if is(sub, "CAT") => AclCommand::Cat(category),
        (Some(name), 2) if is(sub, "GETUSER") => AclCommand::GetUser(name),
        _ if ["SETUSER", "DELUSER", "LOAD", "SAVE"].iter().any(|name| is(sub, name)) => {
            let text = "ERR users are kept in the file of --users-file; SIGHUP has the server read it again";
            return Err(Error::new(Kind::Malformed, text));
        }
        _ => {
            let known = ["whoami", "list", "users", "cat", "getuser"].into_iter().find(|name| is(sub, name));
            return Err(known.map_or_else(|| row.unknown_subcommand(sub), |name| row.wrong_subcommand_arity(name)));
        }
    };
    Ok(Command::Acl(command))
}
