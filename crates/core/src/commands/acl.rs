//! Users as ACL tells of them. They are made in a file, not by commands.

use super::context::Context;
use crate::state::client::Client;
use crate::state::users::User;
use crate::table::redis::{CATEGORIES, UNITS};
use crate::vocabulary::{AclCommand, Error, Kind, Reply};

/// Bytes of what is told that take as long as a key to look at: rules are put together anew each time.
const TOLD: usize = 128;

pub(super) fn run(cx: &mut Context<'_>, client: &Client, command: &AclCommand<'_>) -> Result<Reply, Error> {
    cx.may_look()?;
    let users = &cx.engine.users;
    let reply = match *command {
        AclCommand::WhoAmI => Reply::bytes(client.access.user().map_or("", |user| user.name())),
        AclCommand::List => Reply::Array(users.list().iter().map(|user| Reply::bytes(user.line())).collect()),
        AclCommand::Users => Reply::Array(users.list().iter().map(|user| Reply::bytes(user.name())).collect()),
        AclCommand::Cat(None) => Reply::Array(CATEGORIES.map(|known| Reply::bytes(&known[1..])).into()),
        AclCommand::Cat(Some(name)) => {
            let name = String::from_utf8_lossy(name);
            let Some(category) = CATEGORIES.iter().find(|known| known[1..].eq_ignore_ascii_case(&name)) else {
                return Err(Error::with(Kind::Malformed, format!("ERR Unknown category '{name}'")));
            };
            let units = UNITS.iter().filter(|unit| unit.is_in(&category[1..]));
            Reply::Array(units.map(|unit| Reply::bytes(unit.name.as_str())).collect())
        }
        AclCommand::GetUser(name) => users.get(name).map_or(Reply::Null, |user| facts(&user)),
    };
    cx.waits.looked_at += reply.memory() / TOLD;
    Ok(reply)
}

fn facts(user: &User) -> Reply {
    let rules = |facts: [String; 3]| {
        let names = ["commands", "keys", "channels"];
        names.into_iter().zip(facts).map(|(name, rules)| (name, Reply::bytes(rules))).collect::<Vec<_>>()
    };
    let selectors = user.selectors().iter().map(|selector| Reply::Map(rules(selector.facts())));
    let mut facts = vec![
        ("flags", Reply::Array(user.flags().into_iter().map(Reply::bytes).collect())),
        // Hashes are not told: whoever has one can try passwords.
        ("passwords", Reply::Array(Vec::new())),
    ];
    facts.extend(rules(user.facts()));
    facts.push(("selectors", Reply::Array(selectors.collect())));
    Reply::Map(facts)
}
