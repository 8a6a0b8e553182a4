//! Users as ACL tells of them. They are made in a file, not by commands.

use super::Context;
use super::connection::Client;
use crate::command::redis::{CATEGORIES, UNITS};
use crate::command::{Args, Blob, Command, Error, Kind, Reply, Row, is};
use crate::users::User;

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
        AclCommand::Cat(None) => Reply::Array(CATEGORIES.into_iter().map(text).collect()),
        AclCommand::Cat(Some(name)) => {
            let name = String::from_utf8_lossy(name);
            let Some(category) = CATEGORIES.iter().find(|known| known.eq_ignore_ascii_case(&name)) else {
                return Err(Error::with(Kind::Malformed, format!("ERR Unknown category '{name}'")));
            };
            let units = UNITS.iter().filter(|unit| unit.is_in(category));
            Reply::Array(units.map(|unit| text(unit.name.as_str())).collect())
        }
        AclCommand::GetUser(name) => users.get(name).map_or(Reply::Null, |user| facts(&user)),
    })
}

fn facts(user: &User) -> Reply {
    let rules = |facts: [String; 3]| {
        let names = ["commands", "keys", "channels"];
        names.into_iter().zip(facts).map(|(name, rules)| (Reply::word(name), text(rules))).collect::<Vec<_>>()
    };
    let selectors = user.selectors().iter().map(|selector| Reply::Map(rules(selector.facts())));
    let mut facts = vec![
        (Reply::word("flags"), Reply::Array(user.flags().into_iter().map(text).collect())),
        // Hashes are not told: whoever has one can try passwords.
        (Reply::word("passwords"), Reply::Array(Vec::new())),
    ];
    facts.extend(rules(user.facts()));
    facts.push((Reply::word("selectors"), Reply::Array(selectors.collect())));
    Reply::Map(facts)
}
