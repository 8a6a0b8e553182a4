//! Users as ACL tells of them. They are made in a file, not by commands.

use super::context::Context;
use crate::state::client::Client;
use crate::state::users::User;
use crate::table::redis::{CATEGORIES, UNITS};
use crate::vocabulary::{AclCommand, Blob, Error, Kind, Reply};

fn text(text: impl Into<Vec<u8>>) -> Reply {
    Reply::Value(Blob::Owned(text.into()))
}

/// Bytes of what is told that take as long as a key to look at: rules are put together anew each time.
const TOLD: usize = 128;

pub(super) fn run(cx: &mut Context<'_>, client: &Client, command: &AclCommand<'_>) -> Result<Reply, Error> {
    cx.may_look()?;
    let users = &cx.engine.users;
    let reply = match *command {
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
    };
    cx.waits.looked_at += reply.memory() / TOLD;
    Ok(reply)
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
