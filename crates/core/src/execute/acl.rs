//! Users as ACL tells of them. They are made in a file, not by commands.

use super::Context;
use super::connection::Client;
use crate::command::{Args, Blob, Command, Error, Kind, Reply, Row, TABLE, is};
use crate::users::{User, all_categories, categories};

/// What is asked about users.
#[derive(Clone, Copy, Debug)]
pub enum AclCommand<'a> {
    /// Who the client is.
    WhoAmI,
    /// All users, a line each.
    List,
    /// Their names.
    Users,
    /// All categories, or the commands of one.
    Cat(Option<&'a [u8]>),
    /// What one may do.
    GetUser(&'a [u8]),
}

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

fn text(text: impl Into<Vec<u8>>) -> Reply {
    Reply::Value(Blob::Owned(text.into()))
}

pub(super) fn run(cx: &Context<'_>, client: &Client, command: &AclCommand<'_>) -> Result<Reply, Error> {
    let users = &cx.engine.users;
    Ok(match *command {
        AclCommand::WhoAmI => text(client.access.user().map_or("", |user| user.name())),
        AclCommand::List => Reply::Array(users.list().iter().map(|user| text(user.line())).collect()),
        AclCommand::Users => Reply::Array(users.list().iter().map(|user| text(user.name())).collect()),
        AclCommand::Cat(None) => Reply::Array(all_categories().into_iter().map(text).collect()),
        AclCommand::Cat(Some(name)) => {
            let name = String::from_utf8_lossy(name).to_ascii_lowercase();
            if !all_categories().contains(&name.as_str()) {
                return Err(Error::with(Kind::Malformed, format!("ERR Unknown category '{name}'")));
            }
            let rows = TABLE.iter().filter(|row| categories(row).any(|known| known == name));
            Reply::Array(rows.map(super::name_of).collect())
        }
        AclCommand::GetUser(name) => users.get(name).map_or(Reply::Null, |user| facts(&user)),
    })
}

fn facts(user: &User) -> Reply {
    let (flags, commands, keys, channels) = user.facts();
    Reply::Map(vec![
        (Reply::word("flags"), Reply::Array(flags.into_iter().map(text).collect())),
        // Hashes are not told: whoever has one can try passwords.
        (Reply::word("passwords"), Reply::Array(Vec::new())),
        (Reply::word("commands"), text(commands)),
        (Reply::word("keys"), text(keys)),
        (Reply::word("channels"), text(channels)),
        (Reply::word("selectors"), Reply::Array(Vec::new())),
    ])
}
