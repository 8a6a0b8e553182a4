//! The gate: what every request has to pass before it runs, once and for all protocols, in this order: that there is
//! such a command with so many arguments; that its keys are keys; that whoever asks said who it is; that the user may
//! ask for the command, and may use each of its keys and channels.

use crate::limits::MAX_CHANNEL;
use crate::state::client::Client;
use crate::state::users::{Access, Need, Rights, User};
use crate::table::redis::{self, UNITS, Unit};
use crate::table::{Row, flag};
use crate::vocabulary::{Args, CacheCommand, Command, Error, Kind, MemcachedCommand, is};

const NO_AUTH: Error = Error::new(Kind::Denied, "NOAUTH Authentication required.");
const NO_KEY: Error =
    Error::new(Kind::Denied, "NOPERM this user has no permissions to access one of the keys used as arguments");
const NO_CHANNEL: Error =
    Error::new(Kind::Denied, "NOPERM this user has no permissions to access one of the channels used as arguments");

/// Whether the client may ask for a command of the table with these arguments, the name among them.
#[inline]
pub fn permit(client: &Client, row: &'static Row, args: Args<'_>) -> Result<(), Error> {
    match &client.access {
        Access::All(_) => Ok(()),
        Access::Limited(user) => limited(user, row, args),
        Access::Unknown | Access::Unauthenticated if row.flags & flag::NO_AUTH != 0 => Ok(()),
        Access::Unknown | Access::Unauthenticated => Err(NO_AUTH),
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
        // Judged as it is read, since its keys stand in no fixed place. One that cannot be read is refused anyway.
        return match (row.read)(row, args.from(1)) {
            Ok(Command::Invalidate { keys, .. }) => keys.iter().all(|key| rights.may_use(key, WRITE)),
            _ => true,
        };
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
    // A name that is too long is refused when the command is read.
    let may_use_channel = |name: &[u8]| name.len() > MAX_CHANNEL || rights.may_use_channel(name);
    match row.name {
        // What matches may be told: names of keys that fit a pattern, whatever they are.
        "CACHE.LOADER" | "CACHE.FORGET" => {
            // Who could not answer for a load must not be sent one.
            if row.name == "CACHE.LOADER" && !rights.may_run_named("cache.fill") {
                return Err(Denied::Command(redis::place_of("cache.fill").expect("a command of the table")));
            }
            // Judged as they are read: INFLIGHT may be an option or a pattern.
            let patterns = match (row.read)(row, args.from(1)) {
                Ok(Command::Cache(CacheCommand::Loader { patterns, .. } | CacheCommand::Forget(patterns))) => patterns,
                _ => args.to(0),
            };
            check(patterns.iter().all(|glob| rights.may_use_all(glob, BOTH)), Denied::Key)
        }
        // What names no key touches all of them.
        "FLUSHALL" | "FLUSHDB" => check(rights.may_use_all(b"*", WRITE), Denied::Key),
        "SUBSCRIBE" => check(rest().all(may_use_channel), Denied::Channel),
        "PUBLISH" => {
            let channel = args.get(1).unwrap_or_default();
            check(may_use_channel(channel), Denied::Channel)
        }
        "PSUBSCRIBE" => check(rest().all(|pattern| rights.may_use_channels(pattern)), Denied::Channel),
        _ => Ok(()),
    }
}

/// As [`permit`], for protocols whose commands are no rows of the table: by the row of the command that does the same.
#[inline]
pub fn permit_like(client: &Client, command: &Command<'_>) -> Result<(), Error> {
    match &client.access {
        Access::All(_) => Ok(()),
        Access::Limited(user) => limited_like(user, command),
        Access::Unknown | Access::Unauthenticated if matches!(command, Command::Auth(..) | Command::Quit) => Ok(()),
        Access::Unknown | Access::Unauthenticated => Err(NO_AUTH),
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
    use CacheCommand as Cache;
    match *command {
        Command::Get(key) => ("GET", Some(key), None),
        Command::MGet(keys) => ("MGET", None, Some(keys)),
        Command::Set { key, condition, .. } => {
            let plain = condition == crate::vocabulary::Condition::Always;
            (if plain { "SET" } else { "SETNX" }, Some(key), None)
        }
        Command::Delete(keys) => ("DEL", None, Some(keys)),
        Command::Increment(key, _) => ("INCR", Some(key), None),
        Command::Invalidate { keys, .. } => ("CACHE.INVALIDATE", None, Some(keys)),
        Command::Memcached(ref item) => match *item {
            MemcachedCommand::Get { keys, expiry: None } => ("MGET", None, Some(keys)),
            MemcachedCommand::Get { keys, .. } => ("GETEX", None, Some(keys)),
            MemcachedCommand::Remove { key, .. } | MemcachedCommand::MetaDelete { key, .. } => ("DEL", Some(key), None),
            MemcachedCommand::Touch { key, .. } => ("EXPIRE", Some(key), None),
            MemcachedCommand::Arithmetic { key, .. } => ("INCR", Some(key), None),
            MemcachedCommand::Store { key, mode: crate::vocabulary::Mode::Set, version: None, .. } => {
                ("SET", Some(key), None)
            }
            MemcachedCommand::Store { key, .. } => ("SETNX", Some(key), None),
            MemcachedCommand::MetaGet { key, expiry: Some(_), .. } => ("GETEX", Some(key), None),
            MemcachedCommand::MetaGet { key, vivify: Some(_), .. }
            | MemcachedCommand::MetaGet { key, recache: Some(_), .. } => ("CACHE.FETCH", Some(key), None),
            MemcachedCommand::MetaGet { key, .. } => ("GET", Some(key), None),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::state::users::Users;
    use crate::table::{TABLE, lookup};
    use crate::vocabulary::{KeyCommand, ScriptCommand, Span, TextCommand};

    /// Runs `step` with the words of a request.
    fn with_words<R>(words: &[&str], step: impl FnOnce(Args<'_>) -> R) -> R {
        let text = words.concat();
        let mut end = 0;
        let spans: Vec<Span> = words
            .iter()
            .map(|word| {
                let start = end;
                end += word.len() as u32;
                Span { start, end }
            })
            .collect();
        step(Args::new(text.as_bytes(), &spans))
    }

    fn user(keys: &str) -> Arc<User> {
        let users = Users::new(&[], &format!("user app on nopass {keys} &* +@all\n")).unwrap();
        users.authenticate(b"app", b"").unwrap().user().unwrap().clone()
    }

    /// The keys and patterns that a command was read to have, where they stand in no fixed place.
    fn keys_read(command: &Command<'_>) -> Vec<Vec<u8>> {
        let list = |keys: Args<'_>| keys.iter().map(<[u8]>::to_vec).collect();
        match *command {
            Command::Invalidate { keys, .. } | Command::Script(ScriptCommand::Run { keys, .. }) => list(keys),
            Command::Cache(CacheCommand::Loader { patterns, .. } | CacheCommand::Forget(patterns)) => list(patterns),
            Command::MGet(keys) | Command::Delete(keys) | Command::Exists(keys) | Command::Watch(keys) => list(keys),
            Command::MSet(pairs) | Command::Text(TextCommand::SetAllNew(pairs)) => {
                pairs.iter().step_by(2).map(<[u8]>::to_vec).collect()
            }
            Command::Key(KeyCommand::Copy { from, to, .. }) => vec![from.to_vec(), to.to_vec()],
            Command::Key(
                KeyCommand::Encoding(key)
                | KeyCommand::Frequency(key)
                | KeyCommand::IdleTime(key)
                | KeyCommand::References(key)
                | KeyCommand::Usage(key),
            ) => vec![key.to_vec()],
            ref command => {
                let (_, first, rest) = like(command);
                let rest: Vec<Vec<u8>> = rest.map(list).unwrap_or_default();
                first.map(<[u8]>::to_vec).into_iter().chain(rest).collect()
            }
        }
    }

    const WORDS: [&str; 18] = [
        "mine",
        "secret",
        "secret",
        "KEYS",
        "TAGS",
        "INFLIGHT",
        "0",
        "1",
        "2",
        "-1",
        "USAGE",
        "ENCODING",
        "SAMPLES",
        "DB",
        "REPLACE",
        "GET",
        "PX",
        "c3f8721cbb97f72bc19e972846bd7aaf91901658",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// A request of any words is permitted only if all keys that it is read to have are the user's, whatever the order
        /// of its options and however often they are given.
        #[test]
        fn the_gate_and_the_reader_see_the_same_keys(
            words in prop::collection::vec(prop::sample::select(&WORDS[..]), 0..8),
        ) {
            let user = user("~mine ~0 ~1 ~2 ~-1 ~KEYS ~TAGS ~INFLIGHT ~PX ~DB ~GET");
            for row in TABLE.iter().filter(|row| row.takes(words.len() + 1)) {
                let request: Vec<&str> = std::iter::once(row.name).chain(words.iter().copied()).collect();
                with_words(&request, |args| {
                    let Ok(command) = (row.read)(row, args.from(1)) else { return Ok(()) };
                    let secret = keys_read(&command).iter().any(|key| key == b"secret");
                    if secret {
                        prop_assert!(limited(&user, row, args).is_err(), "{request:?}");
                    }
                    Ok(())
                })?;
            }
        }
    }

    /// Requests that were read to have more keys than those that the gate looked at.
    #[test]
    fn an_option_given_twice_hides_no_key() {
        let user = user("~app:*");
        for (request, permitted) in [
            ("CACHE.INVALIDATE KEYS 1 app:x TAGS 1 t", true),
            ("CACHE.INVALIDATE TAGS 1 t KEYS 1 app:x", true),
            ("CACHE.INVALIDATE TAGS 1 t KEYS 1 secret", false),
            ("CACHE.INVALIDATE KEYS 0 KEYS 1 secret", false),
            ("CACHE.INVALIDATE TAGS 0 KEYS 0 KEYS 1 secret", false),
            ("CACHE.INVALIDATE TAGS 0 TAGS 1 app:x KEYS 1 secret", false),
            ("CACHE.INVALIDATE TAGS 0", true),
            ("CACHE.INVALIDATE KEYS 1 app:x KEYS 1 app:y", false),
            ("CACHE.LOADER app:* INFLIGHT 3", true),
            ("CACHE.LOADER INFLIGHT secret:*", false),
            ("CACHE.LOADER app:* INFLIGHT secret:* other:*", false),
            ("CACHE.FORGET app:*", true),
            ("CACHE.FORGET INFLIGHT secret:*", false),
        ] {
            let words: Vec<&str> = request.split(' ').collect();
            let row = lookup(words[0].as_bytes()).unwrap();
            let done =
                with_words(&words, |args| limited(&user, row, args).is_ok() && (row.read)(row, args.from(1)).is_ok());
            assert_eq!(done, permitted, "{request}");
        }
    }
}
