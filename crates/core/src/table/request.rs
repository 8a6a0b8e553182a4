//! Requests as the gate sees them, whatever protocol they came by: each has a row of the table, and its keys.
//!
//! A message of JSON and a line of memcached are judged by the command of Redis that does the same.

use super::redis;
use super::row::{Row, flag};
use super::rows::row;
use crate::vocabulary::{Args, CacheCommand, Command, Condition, MemcachedCommand, Mode, Span};

/// A request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is known of its command.
    pub row: &'static Row,
    words: Words<'a>,
    /// It looks by itself whether what it reads has to be loaded.
    pub looks: bool,
}

/// Where the keys of a request stand.
#[derive(Clone, Copy, Debug)]
enum Words<'a> {
    /// Among these words, of which the name is the first, where the row says.
    Redis(Args<'a>),
    /// It has this one.
    Key(&'a [u8]),
    /// It has these.
    Keys(Args<'a>),
}

/// What steers the server.
const STEERS: Words<'static> =
    Words::Redis(Args::new(b"CONFIGSET", &[Span { start: 0, end: 6 }, Span { start: 6, end: 9 }]));
const NONE: Words<'static> = Words::Keys(Args::new(b"", &[]));

impl<'a> Request<'a> {
    /// A request of Redis: its words, of which the name is the first.
    #[inline]
    pub fn new(row: &'static Row, args: Args<'a>) -> Request<'a> {
        Request { row, words: Words::Redis(args), looks: row.has(flag::LOOKS) }
    }

    /// A request of another protocol.
    #[inline]
    pub fn of(command: &Command<'a>) -> Request<'a> {
        use Words::{Key, Keys};
        let (row, words) = match *command {
            Command::Memcached(ref command) => return Request::of_memcached(command),
            Command::Get(key) => (const { row("GET") }, Key(key)),
            Command::MGet(keys) => (const { row("MGET") }, Keys(keys)),
            Command::Set { key, condition: Condition::Always, .. } => (const { row("SET") }, Key(key)),
            Command::Set { key, .. } => (const { row("SETNX") }, Key(key)),
            Command::Delete(keys) => (const { row("DEL") }, Keys(keys)),
            Command::Increment(key, _) => (const { row("INCR") }, Key(key)),
            Command::Invalidate { keys, .. } => (const { row("CACHE.INVALIDATE") }, Keys(keys)),
            Command::Ping(_) => (const { row("PING") }, NONE),
            Command::Quit => (const { row("QUIT") }, NONE),
            Command::Auth(..) => (const { row("AUTH") }, NONE),
            Command::FlushAt(_) => (const { row("FLUSHDB") }, NONE),
            Command::Stats(_) => (const { row("INFO") }, NONE),
            Command::Cache(CacheCommand::Fetch { key, .. }) => (const { row("CACHE.FETCH") }, Key(key)),
            Command::Cache(CacheCommand::Fill { key, .. }) => (const { row("CACHE.FILL") }, Key(key)),
            Command::Cache(CacheCommand::Fail { key, .. }) => (const { row("CACHE.FAIL") }, Key(key)),
            Command::Cache(CacheCommand::Renew { key, .. }) => (const { row("CACHE.RENEW") }, Key(key)),
            Command::Cache(CacheCommand::Release(key, _)) => (const { row("CACHE.RELEASE") }, Key(key)),
            Command::Cache(CacheCommand::Set { key, .. }) => (const { row("CACHE.SET") }, Key(key)),
            Command::Cache(CacheCommand::Inspect(key)) => (const { row("CACHE.INSPECT") }, Key(key)),
            // What no other protocol asks, and what steers the server.
            _ => (const { row("CONFIG") }, STEERS),
        };
        Request { row, words, looks: row.has(flag::LOOKS) }
    }

    fn of_memcached(command: &MemcachedCommand<'a>) -> Request<'a> {
        use MemcachedCommand as Memcached;
        use Words::{Key, Keys};
        let (row, words, looks) = match *command {
            Memcached::Get { keys, expiry: None } => (const { row("MGET") }, Keys(keys), true),
            Memcached::Get { keys, .. } => (const { row("GETEX") }, Keys(keys), true),
            Memcached::MetaGet { key, expiry: Some(_), .. } => (const { row("GETEX") }, Key(key), true),
            Memcached::MetaGet { key, vivify: None, recache: None, .. } => (const { row("GET") }, Key(key), true),
            Memcached::MetaGet { key, .. } => (const { row("CACHE.FETCH") }, Key(key), true),
            Memcached::Store { key, mode: Mode::Set, version: None, .. } => (const { row("SET") }, Key(key), false),
            Memcached::Store { key, .. } => (const { row("SETNX") }, Key(key), false),
            Memcached::Remove { key, .. } | Memcached::MetaDelete { key, .. } => {
                (const { row("DEL") }, Key(key), false)
            }
            Memcached::Arithmetic { key, .. } => (const { row("INCR") }, Key(key), false),
            Memcached::Touch { key, .. } => (const { row("EXPIRE") }, Key(key), false),
        };
        Request { row, words, looks }
    }

    /// Its words, if it is one of Redis.
    pub fn args(&self) -> Option<Args<'a>> {
        if let Words::Redis(args) = self.words { Some(args) } else { None }
    }

    /// Its keys, as far as the row knows where they stand.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let (words, key, keys) = match self.words {
            Words::Redis(args) => (Some(self.row.keys(args)), None, None),
            Words::Key(key) => (None, Some(key), None),
            Words::Keys(keys) => (None, None, Some(keys.iter())),
        };
        words.into_iter().flatten().chain(key).chain(keys.into_iter().flatten())
    }

    /// Its keys that are loaded first, where workers load: a transaction does it for reads as well.
    pub fn needed(&self, command: &Command<'a>) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let marked = self.row.has(flag::LOAD);
        let more = if marked { None } else { command.depends_on() };
        self.keys().filter(move |_| marked).chain(more)
    }

    /// The place of what it asks for: of the subcommand, if the command has some and this is one.
    pub fn place(&self) -> usize {
        self.args().map_or_else(|| redis::place_of_row(self.row), |args| redis::place_in(self.row, args))
    }
}
