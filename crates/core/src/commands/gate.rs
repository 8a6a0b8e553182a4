//! The gate: what every request has to pass before it runs, once and for all protocols, in this order: that there is
//! such a command with so many arguments; that its keys are keys; that whoever asks said who it is; that the user may
//! ask for the command, and may use each of its keys and channels.

use crate::limits::MAX_CHANNEL;
use crate::state::client::Client;
use crate::state::users::{Access, Need, Rights, User};
use crate::table::redis::{self, KeySpec, UNITS};
use crate::table::{Request, Row, Uses, flag, unknown};
use crate::vocabulary::{Args, CacheCommand, Command, Error, Kind, check_keys};

const NO_AUTH: Error = Error::new(Kind::Denied, "NOAUTH Authentication required.");
const NO_KEY: Error =
    Error::new(Kind::Denied, "NOPERM this user has no permissions to access one of the keys used as arguments");
const NO_WORDS: Args<'static> = Args::new(b"", &[]);
const NO_CHANNEL: Error =
    Error::new(Kind::Denied, "NOPERM this user has no permissions to access one of the channels used as arguments");

/// The row of a request of Redis, if there is one and the client may ask for it.
#[inline]
pub fn admit(row: Option<&'static Row>, args: Args<'_>, client: &Client) -> Result<&'static Row, Error> {
    let row = row.ok_or_else(|| unknown(args))?;
    if !row.takes(args.len()) {
        return Err(row.wrong_arity());
    }
    if row.is_too_wordy(args.len()) {
        return Err(Error::new(Kind::TooLarge, "ERR too many arguments"));
    }
    check_keys(row.keys(args))?;
    permit(client, &Request::new(row, args))?;
    if client.worker && !row.has(flag::WORKER) {
        return Err(Error::new(Kind::Denied, "ERR this connection is a loader worker's: use another one for the rest"));
    }
    Ok(row)
}

/// What a client of RESP2 that listens to channels is answered to other commands.
pub fn only_listens(row: &Row) -> Error {
    let name = row.name.to_ascii_lowercase();
    let text = format!(
        "ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this \
         context"
    );
    Error::with(Kind::Malformed, text)
}

/// Whether the client may ask for this.
#[inline]
pub fn permit(client: &Client, request: &Request<'_>) -> Result<(), Error> {
    match &client.access {
        Access::All(_) => Ok(()),
        Access::Limited(user) => limited(user, request),
        Access::Unknown | Access::Unauthenticated if request.row.has(flag::NO_AUTH) => Ok(()),
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

fn limited(user: &User, request: &Request<'_>) -> Result<(), Error> {
    if request.row.has(flag::NO_AUTH) {
        return Ok(());
    }
    let place = request.place();
    any_of(user, |rights| {
        if !rights.may_run(place) {
            return Err(Denied::Command(place));
        }
        if !may_use_keys(rights, request, place) {
            return Err(Denied::Key);
        }
        may_use_rest(rights, request)
    })
}

const BOTH: Need = Need { read: true, write: true };
const WRITE: Need = Need { read: false, write: true };

fn may_use_keys(rights: &Rights, request: &Request<'_>, place: usize) -> bool {
    let (row, specs) = (request.row, &UNITS[place].specs);
    let need = |spec: KeySpec| Need { read: spec.reads, write: spec.writes };
    let Some(args) = request.args() else {
        let need = specs.first().map_or(WRITE, |spec| need(spec.in_words(row, NO_WORDS)));
        return request.keys().all(|key| rights.may_use(key, need));
    };
    if row.uses == Uses::NamedKeys {
        // Judged as it is read, since its keys stand in no fixed place. One that cannot be read is refused anyway.
        return match (row.read)(row, args.from(1)) {
            Ok(Command::Invalidate { keys, .. }) => keys.iter().all(|key| rights.may_use(key, WRITE)),
            _ => true,
        };
    }
    // Where the number of keys is wrong the command is refused when it is read.
    specs.iter().all(|spec| {
        let spec = spec.in_words(row, args);
        spec.keys(args).is_none_or(|mut keys| keys.all(|key| rights.may_use(key, need(spec))))
    })
}

/// What a command uses besides the keys that it names: patterns, channels, everything.
fn may_use_rest(rights: &Rights, request: &Request<'_>) -> Result<(), Denied> {
    let (row, args) = (request.row, request.args().unwrap_or(NO_WORDS));
    let rest = || args.from(1).iter();
    let check = |allowed: bool, denied: Denied| if allowed { Ok(()) } else { Err(denied) };
    // A name that is too long is refused when the command is read.
    let may_use_channel = |name: &[u8]| name.len() > MAX_CHANNEL || rights.may_use_channel(name);
    match row.uses {
        Uses::Keys | Uses::ValueBefore | Uses::NamedKeys => Ok(()),
        // Who could not answer for a load must not be sent one.
        Uses::LoadedPatterns if !rights.may_run(redis::FILL) => Err(Denied::Command(redis::FILL)),
        // What matches may be told: names of keys that fit a pattern, whatever they are.
        Uses::Patterns | Uses::LoadedPatterns => {
            // Judged as they are read: INFLIGHT may be an option or a pattern.
            let patterns = match (row.read)(row, args.from(1)) {
                Ok(Command::Cache(CacheCommand::Loader { patterns, .. } | CacheCommand::Forget(patterns))) => patterns,
                _ => NO_WORDS,
            };
            check(patterns.iter().all(|glob| rights.may_use_all(glob, BOTH)), Denied::Key)
        }
        Uses::AllKeys => check(rights.may_use_all(b"*", WRITE), Denied::Key),
        Uses::Channels => check(rest().all(may_use_channel), Denied::Channel),
        Uses::Channel => check(rest().take(1).all(may_use_channel), Denied::Channel),
        Uses::ChannelPatterns => check(rest().all(|pattern| rights.may_use_channels(pattern)), Denied::Channel),
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
                let request = Request::of(command);
                let keys = request.keys().map(<[u8]>::to_vec);
                keys.filter(|_| request.args().is_none()).collect()
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
                        prop_assert!(limited(&user, &Request::new(row, args)).is_err(), "{request:?}");
                    }
                    Ok(())
                })?;
            }
        }
    }

    /// A user who may do nothing may still say who he is and leave, in whatever protocol.
    #[test]
    fn everybody_may_say_who_he_is_and_leave() {
        let users = Users::new(&[], "user app on nopass\n").unwrap();
        let user = users.authenticate(b"app", b"").unwrap().user().unwrap().clone();
        for (command, permitted) in [
            (Command::Quit, true),
            (Command::Auth(None, b"secret"), true),
            (Command::Ping(None), false),
            (Command::Stats(None), false),
            (Command::Shutdown, false),
        ] {
            assert_eq!(limited(&user, &Request::of(&command)).is_ok(), permitted, "{command:?}");
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
            let done = with_words(&words, |args| {
                limited(&user, &Request::new(row, args)).is_ok() && (row.read)(row, args.from(1)).is_ok()
            });
            assert_eq!(done, permitted, "{request}");
        }
    }
}
