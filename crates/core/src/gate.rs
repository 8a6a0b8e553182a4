//! The gate: what every request has to pass before it runs, once and for all protocols, in this order: that there is
//! such a command with so many arguments; that its keys are keys; that whoever asks said who it is; that the user may
//! ask for the command, and may use each of its keys and channels.

use crate::command::{Args, Command, Error, ItemCommand, Kind, Row, flag, integer, is, lookup};
use crate::execute::Client;
use crate::users::{Access, Need, User};

/// Longest key in bytes; its length has to fit two bytes of the item's header.
pub const MAX_KEY: usize = 65_535;

const BAD_KEY: Error = Error::new(Kind::TooLarge, "ERR a key has 1 to 65535 bytes");
const NO_AUTH: Error = Error::new(Kind::Denied, "NOAUTH Authentication required.");
const NO_KEY: Error =
    Error::new(Kind::Denied, "NOPERM this user has no permissions to access one of the keys used as arguments");
const NO_CHANNEL: Error =
    Error::new(Kind::Denied, "NOPERM this user has no permissions to access one of the channels used as arguments");

/// Whether these are keys.
#[inline]
pub fn admit<'a>(mut keys: impl Iterator<Item = &'a [u8]>) -> Result<(), Error> {
    if keys.all(|key| !key.is_empty() && key.len() <= MAX_KEY) { Ok(()) } else { Err(BAD_KEY) }
}

/// Whether the client may ask for a command of the table with these arguments, the name among them.
#[inline]
pub fn permit(client: &Client, row: &'static Row, args: Args<'_>) -> Result<(), Error> {
    match &client.access {
        Access::All(_) => Ok(()),
        Access::Limited(user) => limited(user, row, args),
        Access::Unknown | Access::Nobody if row.flags & flag::NO_AUTH != 0 => Ok(()),
        Access::Unknown | Access::Nobody => Err(NO_AUTH),
    }
}

/// Subcommands that tell or change what belongs to others; the rest of CLIENT and ACL is about the client itself.
fn is_for_operators(row: &Row, args: Args<'_>) -> bool {
    let sub = args.get(1).unwrap_or_default();
    match row.name {
        "CLIENT" => ["LIST", "KILL", "NO-EVICT"].iter().any(|name| is(sub, name)),
        "ACL" => !is(sub, "WHOAMI"),
        _ => false,
    }
}

fn limited(user: &User, row: &'static Row, args: Args<'_>) -> Result<(), Error> {
    if row.flags & flag::NO_AUTH != 0 {
        return Ok(());
    }
    let operator = || lookup(b"CONFIG").is_some_and(|config| user.may_run(config));
    let own = row.name == "ACL" && !is_for_operators(row, args);
    if !own && (!user.may_run(row) || is_for_operators(row, args) && !operator()) {
        return Err(no_command(user, &row.name.to_ascii_lowercase()));
    }
    let mut need = Need::of(row);
    need.read |= row.name == "SET" && args.from(3).iter().any(|word| is(word, "GET") || is(word, "IFEQ"));
    if !all_keys(row, args).all(|key| user.may_use(key, need)) {
        return Err(NO_KEY);
    }
    let rest = || args.from(1).iter();
    match row.name {
        // What matches may be told: names of keys that fit a pattern, whatever they are.
        "CACHE.LOADER" | "CACHE.FORGET" => {
            // Who could not answer for a load must not be sent one.
            if row.name == "CACHE.LOADER" && !lookup(b"CACHE.FILL").is_some_and(|fill| user.may_run(fill)) {
                return Err(no_command(user, "cache.fill"));
            }
            let both = Need { read: true, write: true };
            let mut patterns = rest().take_while(|word| !is(word, "INFLIGHT"));
            if patterns.all(|glob| user.may_use_all(glob, both)) { Ok(()) } else { Err(NO_KEY) }
        }
        // What names no key touches all of them.
        "FLUSHALL" | "FLUSHDB" if !may_empty(user) => Err(NO_KEY),
        "SUBSCRIBE" if !rest().all(|channel| user.may_use_channel(channel)) => Err(NO_CHANNEL),
        "PUBLISH" if !args.get(1).is_some_and(|channel| user.may_use_channel(channel)) => Err(NO_CHANNEL),
        "PSUBSCRIBE" if !rest().all(|pattern| user.may_use_channels(pattern)) => Err(NO_CHANNEL),
        _ => Ok(()),
    }
}

fn no_command(user: &User, name: &str) -> Error {
    Error::with(Kind::Denied, format!("NOPERM User {} has no permissions to run the '{name}' command", user.name()))
}

/// Whether a user may remove what he does not name.
fn may_empty(user: &User) -> bool {
    user.may_use_all(b"*", Need { read: false, write: true })
}

/// The keys among the arguments of a command, those of commands included that count their keys.
pub fn all_keys<'a>(row: &Row, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    let counted = |at: usize| {
        let count = args.get(at).and_then(|text| integer(text).ok()).unwrap_or(0).max(0) as usize;
        args.to((at + 1).saturating_add(count)).from(at + 1)
    };
    let named = match row.name {
        "EVAL" | "EVALSHA" => counted(2),
        "MEMORY" => args.from(2),
        "CACHE.INVALIDATE" => {
            // KEYS may stand behind TAGS.
            let first = args.get(1).unwrap_or_default();
            if is(first, "KEYS") {
                counted(2)
            } else {
                let tags = args.get(2).and_then(|text| integer(text).ok()).unwrap_or(0).max(0) as usize;
                counted(tags.saturating_add(4))
            }
        }
        _ => args.to(0),
    };
    row.keys(args).chain(named.iter())
}

/// As [`permit`], for protocols whose commands are no rows of the table: by the row of the command that does the same.
#[inline]
pub fn permit_like(client: &Client, command: &Command<'_>) -> Result<(), Error> {
    match &client.access {
        Access::All(_) => Ok(()),
        Access::Limited(user) => limited_like(user, command),
        Access::Unknown | Access::Nobody if matches!(command, Command::Auth(..) | Command::Quit) => Ok(()),
        Access::Unknown | Access::Nobody => Err(NO_AUTH),
    }
}

fn limited_like(user: &User, command: &Command<'_>) -> Result<(), Error> {
    let (name, first, rest) = like(command);
    let row = lookup(name.as_bytes()).expect("a row of the table");
    // For a single key the name stands for the rest of the arguments, which name no key.
    if !user.may_run(row) && row.flags & flag::NO_AUTH == 0 {
        return Err(no_command(user, &row.name.to_ascii_lowercase()));
    }
    let need = Need::of(row);
    let mut keys = first.into_iter().chain(rest.into_iter().flat_map(|keys| keys.iter()));
    let empties = matches!(command, Command::Flush { .. } | Command::FlushAt(_));
    if keys.all(|key| user.may_use(key, need)) && (!empties || may_empty(user)) { Ok(()) } else { Err(NO_KEY) }
}

/// The row of the table that does what a command does, and the keys of the command.
fn like<'a>(command: &Command<'a>) -> (&'static str, Option<&'a [u8]>, Option<Args<'a>>) {
    use crate::cache::CacheCommand as Cache;
    match *command {
        Command::Get(key) => ("GET", Some(key), None),
        Command::MGet(keys) => ("MGET", None, Some(keys)),
        Command::Set { key, condition, .. } => {
            let plain = condition == crate::command::Condition::Always;
            (if plain { "SET" } else { "SETNX" }, Some(key), None)
        }
        Command::Delete(keys) => ("DEL", None, Some(keys)),
        Command::Increment(key, _) => ("INCR", Some(key), None),
        Command::Invalidate { keys, .. } => ("CACHE.INVALIDATE", None, Some(keys)),
        Command::Item(ref item) => match *item {
            ItemCommand::Find { keys, expiry: None } => ("MGET", None, Some(keys)),
            ItemCommand::Find { keys, .. } => ("GETEX", None, Some(keys)),
            ItemCommand::Remove { key, .. } | ItemCommand::Mark { key, .. } => ("DEL", Some(key), None),
            ItemCommand::Touch { key, .. } => ("EXPIRE", Some(key), None),
            ItemCommand::Count { key, .. } => ("INCR", Some(key), None),
            ItemCommand::Store { key, mode: crate::command::Mode::Set, version: None, .. } => ("SET", Some(key), None),
            ItemCommand::Store { key, .. } => ("SETNX", Some(key), None),
            ItemCommand::Look { key, expiry: Some(_), .. } => ("GETEX", Some(key), None),
            ItemCommand::Look { key, vivify: Some(_), .. } | ItemCommand::Look { key, recache: Some(_), .. } => {
                ("CACHE.FETCH", Some(key), None)
            }
            ItemCommand::Look { key, .. } => ("GET", Some(key), None),
        },
        Command::Cache(ref cache) => match *cache {
            Cache::Fetch { key, .. } => ("CACHE.FETCH", Some(key), None),
            Cache::Fill { key, .. } => ("CACHE.FILL", Some(key), None),
            Cache::Fail { key, .. } => ("CACHE.FAIL", Some(key), None),
            Cache::Renew { key, .. } => ("CACHE.RENEW", Some(key), None),
            Cache::Release(key, _) => ("CACHE.RELEASE", Some(key), None),
            Cache::Set { key, .. } => ("CACHE.SET", Some(key), None),
            Cache::Inspect(key) => ("CACHE.INSPECT", Some(key), None),
            _ => ("CONFIG", None, None),
        },
        Command::Ping(_) | Command::Quit => ("PING", None, None),
        Command::Auth(..) => ("AUTH", None, None),
        Command::Flush { .. } | Command::FlushAt(_) => ("FLUSHDB", None, None),
        Command::Stats(_) => ("INFO", None, None),
        // What no other protocol asks, and what steers the server.
        _ => ("CONFIG", None, None),
    }
}
