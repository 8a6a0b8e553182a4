//! The gate: what every request has to pass before it runs, once and for all protocols, in this order: that there is
//! such a command with so many arguments; that its keys are keys; that whoever asks said who it is; that the user may
//! ask for the command, and may use each of its keys and channels.

use crate::command::redis::{self, UNITS, Unit};
use crate::command::{Args, Command, Error, ItemCommand, Kind, Row, flag, integer, is};
use crate::execute::Client;
use crate::users::{Access, Need, Rights, User};

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

/// What a user was refused, the later one of which is told if several rights refuse a request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Denied {
    Command(usize),
    Key,
    Channel,
}

impl Denied {
    fn error(self, user: &User) -> Error {
        match self {
            Denied::Command(place) => {
                let (user, command) = (user.name(), &UNITS[place].name);
                let text = format!("NOPERM User {user} has no permissions to run the '{command}' command");
                Error::with(Kind::Denied, text)
            }
            Denied::Key => NO_KEY,
            Denied::Channel => NO_CHANNEL,
        }
    }
}

/// Whether one of the rights of a user allows a request.
fn any_of(user: &User, allows: impl Fn(&Rights) -> Result<(), Denied>) -> Result<(), Error> {
    let mut refused = None;
    for rights in user.rights() {
        match allows(rights) {
            Ok(()) => return Ok(()),
            Err(denied) => refused = refused.max(Some(denied)),
        }
    }
    refused.map_or(Ok(()), |denied| Err(denied.error(user)))
}

fn limited(user: &User, row: &'static Row, args: Args<'_>) -> Result<(), Error> {
    if row.flags & flag::NO_AUTH != 0 {
        return Ok(());
    }
    let place = redis::place_in(row, args);
    any_of(user, |rights| {
        if !rights.may_run(place) {
            return Err(Denied::Command(place));
        }
        if !may_use_keys(rights, row, place, args) {
            return Err(Denied::Key);
        }
        may_use_rest(rights, row, args)
    })
}

fn may_use_keys(rights: &Rights, row: &Row, place: usize, args: Args<'_>) -> bool {
    if row.name == "CACHE.INVALIDATE" {
        return invalidated(args).iter().all(|key| rights.may_use(key, WRITE));
    }
    UNITS[place].specs.iter().all(|spec| {
        let mut need = Need { read: spec.reads, write: spec.writes };
        // SET reads only if it is asked for what was there.
        need.read &= row.name != "SET" || set_reads(args);
        // Where the number of keys is wrong the command is refused when it is read.
        spec.keys(args).is_none_or(|mut keys| keys.all(|key| rights.may_use(key, need)))
    })
}

/// Whether a SET returns or compares what was there.
pub fn set_reads(args: Args<'_>) -> bool {
    args.from(3).iter().any(|word| is(word, "GET") || is(word, "IFEQ"))
}

const BOTH: Need = Need { read: true, write: true };
const WRITE: Need = Need { read: false, write: true };

/// What a command uses besides the keys that it names: patterns, channels, everything.
fn may_use_rest(rights: &Rights, row: &Row, args: Args<'_>) -> Result<(), Denied> {
    let rest = || args.from(1).iter();
    let check = |allowed: bool, denied: Denied| if allowed { Ok(()) } else { Err(denied) };
    match row.name {
        // What matches may be told: names of keys that fit a pattern, whatever they are.
        "CACHE.LOADER" | "CACHE.FORGET" => {
            // Who could not answer for a load must not be sent one.
            if row.name == "CACHE.LOADER" && !rights.may_run_named("cache.fill") {
                return Err(Denied::Command(redis::place_of("cache.fill").expect("a command of the table")));
            }
            let mut patterns = rest().take_while(|word| !is(word, "INFLIGHT"));
            check(patterns.all(|glob| rights.may_use_all(glob, BOTH)), Denied::Key)
        }
        // What names no key touches all of them.
        "FLUSHALL" | "FLUSHDB" => check(rights.may_use_all(b"*", WRITE), Denied::Key),
        "SUBSCRIBE" => check(rest().all(|channel| rights.may_use_channel(channel)), Denied::Channel),
        "PUBLISH" => {
            let channel = args.get(1).unwrap_or_default();
            check(rights.may_use_channel(channel), Denied::Channel)
        }
        "PSUBSCRIBE" => check(rest().all(|pattern| rights.may_use_channels(pattern)), Denied::Channel),
        _ => Ok(()),
    }
}

/// The keys of CACHE.INVALIDATE, which stand behind their number.
fn invalidated(args: Args<'_>) -> Args<'_> {
    let number = |at: usize| args.get(at).and_then(|text| integer(text).ok()).unwrap_or(0).max(0) as usize;
    // KEYS may stand behind TAGS.
    let at = if is(args.get(1).unwrap_or_default(), "KEYS") { 2 } else { number(2).saturating_add(4) };
    args.to(at.saturating_add(1).saturating_add(number(at))).from(at.saturating_add(1))
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
    let place = redis::place_of(name).expect("a command of the table");
    let Unit { row, specs, .. } = &UNITS[place];
    if row.flags & flag::NO_AUTH != 0 {
        return Ok(());
    }
    let spec = specs.first();
    let mut need = Need { read: spec.is_some_and(|spec| spec.reads), write: spec.is_none_or(|spec| spec.writes) };
    need.read &= name != "SET";
    let empties = matches!(command, Command::Flush { .. } | Command::FlushAt(_));
    any_of(user, |rights| {
        let mut keys = first.into_iter().chain(rest.into_iter().flat_map(|keys| keys.iter()));
        if !rights.may_run(place) {
            Err(Denied::Command(place))
        } else if !keys.all(|key| rights.may_use(key, need)) || empties && !rights.may_use_all(b"*", WRITE) {
            Err(Denied::Key)
        } else {
            Ok(())
        }
    })
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
            _ => ("CONFIG|SET", None, None),
        },
        Command::Ping(_) | Command::Quit => ("PING", None, None),
        Command::Auth(..) => ("AUTH", None, None),
        Command::Flush { .. } | Command::FlushAt(_) => ("FLUSHDB", None, None),
        Command::Stats(_) => ("INFO", None, None),
        // What no other protocol asks, and what steers the server.
        _ => ("CONFIG|SET", None, None),
    }
}
