//! The vocabulary: what can be asked ([`Command`]), what is answered ([`Reply`]), and ONE table of commands.
//!
//! Every protocol decodes to these commands and encodes these replies. A row of the table gives a command its
//! name, arity, flags, key positions and documentation, and the function that makes a [`Command`] of its
//! arguments; the gate, COMMAND, the reference page and metrics read the same rows.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Arc, LazyLock};

use crate::cache::{self, CacheCommand};

/// Where an argument lies in the input it was read from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

/// Arguments: spans of one input buffer, so that reading a request allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Args<'a> {
    input: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    /// The parts of `input` that `spans` name.
    pub fn new(input: &'a [u8], spans: &'a [Span]) -> Args<'a> {
        Args { input, spans }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The argument at `index`, if there is one.
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        let span = self.spans.get(index)?;
        Some(&self.input[span.start as usize..span.end as usize])
    }

    /// The arguments from `index` on.
    pub fn from(&self, index: usize) -> Args<'a> {
        Args { input: self.input, spans: &self.spans[index.min(self.spans.len())..] }
    }

    /// The arguments before `index`.
    pub fn to(&self, index: usize) -> Args<'a> {
        Args { input: self.input, spans: &self.spans[..index.min(self.spans.len())] }
    }

    /// All arguments in their order.
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let input = self.input;
        self.spans.iter().map(move |span| &input[span.start as usize..span.end as usize])
    }
}

/// When a written value expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    /// Never, or when memory is wanted.
    #[default]
    Never,
    /// As the value before it.
    Keep,
    /// After so many milliseconds.
    In(u64),
    /// At so many milliseconds of the wall clock.
    At(u64),
}

/// On what a SET depends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition<'a> {
    /// On nothing.
    #[default]
    Always,
    /// There is no such key.
    Absent,
    /// There is such a key.
    Present,
    /// The value is, as JSON, equal to this JSON text.
    EqualsJson(&'a [u8]),
    /// As [`EqualsJson`](Condition::EqualsJson), or there is no such key.
    EqualsJsonOrAbsent(&'a [u8]),
}

/// How EXPIRE minds the expiry that a key has already; with nothing set it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExpireWhen {
    /// Only a key that has none.
    pub none: bool,
    /// Only a key that has one.
    pub some: bool,
    /// Only later than it is.
    pub later: bool,
    /// Only sooner than it is.
    pub sooner: bool,
}

/// A request, whatever protocol it came by.
#[derive(Clone, Copy, Debug)]
pub enum Command<'a> {
    /// Is anybody there? With the message to send back.
    Ping(Option<&'a [u8]>),
    /// Sends the message back.
    Echo(&'a [u8]),
    /// The value of a key.
    Get(&'a [u8]),
    /// The values of many keys, as of one instant.
    MGet(Args<'a>),
    /// Writes a value.
    Set {
        /// The key.
        key: &'a [u8],
        /// Its new value.
        value: &'a [u8],
        /// When it expires.
        expiry: Expiry,
        /// On what the write depends.
        condition: Condition<'a>,
        /// Whether the answer is the old value.
        get: bool,
    },
    /// Writes many values in one step: key, value, key, value ...
    MSet(Args<'a>),
    /// Removes keys; how many there were.
    Delete(Args<'a>),
    /// How many of the keys there are, a key named twice counted twice.
    Exists(Args<'a>),
    /// How long a key has to live.
    Ttl {
        /// The key.
        key: &'a [u8],
        /// Tells milliseconds instead of seconds.
        millis: bool,
    },
    /// Sets when a key expires. A time that has passed removes it.
    Expire {
        /// The key.
        key: &'a [u8],
        /// Milliseconds from now, or of the wall clock.
        millis: i64,
        /// Whether `millis` is of the wall clock.
        absolute: bool,
        /// On what it depends.
        when: ExpireWhen,
    },
    /// Takes a key's expiry away.
    Persist(&'a [u8]),
    /// Adds to a number.
    Increment(&'a [u8], i64),
    /// How many keys there are.
    DbSize,
    /// Removes all keys, of the selected database only or of all.
    Flush {
        /// Every database instead of the selected one.
        all: bool,
    },
    /// Makes sure that no value of these keys and tags is served again.
    Invalidate {
        /// Keys to remove.
        keys: Args<'a>,
        /// Tags whose items are dead from now on.
        tags: Args<'a>,
    },
    /// Chooses a database.
    Select(u8),
    /// Facts about the server, of the named sections.
    Info(Args<'a>),
    /// Chooses the version of RESP, authenticates, names the connection; tells who the server is.
    Hello {
        /// 2 or 3; nothing keeps what is.
        version: Option<u8>,
        /// User and password.
        auth: Option<(&'a [u8], &'a [u8])>,
        /// The connection's new name.
        name: Option<&'a [u8]>,
    },
    /// Authenticates.
    Auth(Option<&'a [u8]>, &'a [u8]),
    /// The number of the connection.
    ClientId,
    /// The name of the connection.
    ClientGetName,
    /// Names the connection.
    ClientSetName(&'a [u8]),
    /// Tells which client library is at the other end.
    ClientSetInfo {
        /// Its version instead of its name.
        version: bool,
        /// What it says.
        value: &'a [u8],
    },
    /// All rows of the table.
    CommandAll,
    /// How many rows there are.
    CommandCount,
    /// The names of all commands.
    CommandList,
    /// The rows of the named commands.
    CommandInfo(Args<'a>),
    /// The documentation of the named commands, or of all.
    CommandDocs(Args<'a>),
    /// One of the commands that know of an item's flags and version.
    Item(ItemCommand<'a>),
    /// One of the commands that know of freshness, tags and leases.
    Cache(CacheCommand<'a>),
    /// Facts about the server as memcached names them, of the named section; the general ones without a name.
    Stats(Option<&'a [u8]>),
    /// Removes all keys of the selected database after so many milliseconds.
    FlushIn(u64),
    /// Lets the clock of the server run ahead by so many milliseconds more, where that is allowed.
    Advance(u64),
    /// Stops the server, where that is allowed.
    Shutdown,
    /// A last OK, then the end of the connection.
    Quit,
}

impl<'a> Command<'a> {
    /// The key of a command whose effect depends on what is there, beyond reads of values, which look for themselves:
    /// where workers load, it is loaded first. For protocols whose commands are no rows of the table.
    pub fn depends_on(&self) -> Option<&'a [u8]> {
        match *self {
            Command::Set { key, condition, get, expiry, .. } => {
                let depends = condition != Condition::Always || get || expiry == Expiry::Keep;
                depends.then_some(key)
            }
            Command::Increment(key, _) => Some(key),
            Command::Item(ItemCommand::Store { key, mode, version, .. }) => {
                (mode != Mode::Set || version.is_some()).then_some(key)
            }
            Command::Item(ItemCommand::Count { key, .. } | ItemCommand::Touch { key, .. }) => Some(key),
            Command::Item(ItemCommand::Remove { key, version: Some(_) }) => Some(key),
            _ => None,
        }
    }
}

/// What a write of memcached does with the value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Replaces it, or there was none.
    Set,
    /// Nothing: there must be none.
    Add,
    /// Replaces it: there must be one.
    Replace,
    /// Puts the new bytes behind it; flags and expiry stay.
    Append,
    /// Puts the new bytes before it; flags and expiry stay.
    Prepend,
}

/// What is asked by clients who keep an item's flags and version. Where a `version` is given the item must have it,
/// or nothing is done.
#[derive(Clone, Copy, Debug)]
pub enum ItemCommand<'a> {
    /// Items, each as of the moment it is looked at; the answer is an array unless there is one key.
    Find {
        /// Their keys.
        keys: Args<'a>,
        /// When those found expire from now on.
        expiry: Option<Expiry>,
    },
    /// One item with everything kept beside its value.
    Look {
        /// Its key.
        key: &'a [u8],
        /// When it expires from now on.
        expiry: Option<Expiry>,
        /// Whether the value itself is wanted.
        value: bool,
        /// Whether the look counts as use.
        used: bool,
    },
    /// Writes a value; the answer is the new version, or nothing if `mode` forbids it.
    Store {
        /// The key.
        key: &'a [u8],
        /// The value, or the bytes to add to it.
        value: &'a [u8],
        /// What the client keeps with it.
        flags: u32,
        /// When it expires.
        expiry: Expiry,
        /// What is done with the value that is there.
        mode: Mode,
        /// The version the item must have.
        version: Option<u64>,
        /// Writes the value if there is none to add to; when it expires.
        vivify: Option<Expiry>,
    },
    /// Removes an item; the answer is nothing if there is none.
    Remove {
        /// Its key.
        key: &'a [u8],
        /// The version it must have.
        version: Option<u64>,
    },
    /// Counts in 64 bits without a sign: up with wrapping, down to 0 and no further.
    Count {
        /// The key.
        key: &'a [u8],
        /// By how much.
        delta: u64,
        /// Whether it is taken away.
        down: bool,
        /// What to begin with if there is none, and when that expires.
        initial: Option<(u64, Expiry)>,
        /// The version the item must have.
        version: Option<u64>,
        /// When the item expires from now on.
        expiry: Option<Expiry>,
    },
    /// Sets when an item expires; the answer is nothing if there is none.
    Touch {
        /// Its key.
        key: &'a [u8],
        /// When.
        expiry: Expiry,
    },
}

/// An item that was found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// Its value.
    pub value: Blob,
    /// Its version.
    pub version: u64,
    /// What the client keeps with it.
    pub flags: u32,
    /// Seconds it has to live, rounded up.
    pub ttl: Option<u32>,
    /// Bytes of the value.
    pub size: u32,
}

/// Bytes of a reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Blob {
    /// A part of the context's scratch buffer: small values are copied there under the lock.
    Scratch(Range<usize>),
    /// A large value, shared with the store.
    Shared(Arc<[u8]>),
    /// Bytes made for this reply.
    Owned(Vec<u8>),
}

impl Blob {
    /// The bytes; `scratch` is that of the context the reply was made in.
    pub fn bytes<'a>(&'a self, scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Blob::Scratch(range) => &scratch[range.clone()],
            Blob::Shared(bytes) => bytes,
            Blob::Owned(bytes) => bytes,
        }
    }
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// It was done.
    Ok,
    /// A word, such as PONG.
    Word(&'static str),
    /// A number.
    Int(i64),
    /// Nothing: no such key, no value, not done.
    Null,
    /// A value found under a key.
    Value(Blob),
    /// An item found under a key.
    Item(Found),
    /// Text for people.
    Text(String),
    /// Several answers.
    Array(Vec<Reply>),
    /// Answers without order or repetition.
    Set(Vec<Reply>),
    /// Answers under names.
    Map(Vec<(Reply, Reply)>),
    /// Something that was not asked for just now.
    Push(Vec<Reply>),
    /// The answer comes when what the command waits for is there.
    Parked,
    /// It was not done.
    Error(Error),
}

impl Reply {
    /// A text known when this was compiled.
    pub fn word(text: &'static str) -> Reply {
        Reply::Value(Blob::Owned(text.as_bytes().to_vec()))
    }
}

impl From<Error> for Reply {
    fn from(error: Error) -> Reply {
        Reply::Error(error)
    }
}

/// Whose fault an error is; each protocol has its own way to say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// There is no such command.
    Unknown,
    /// The command cannot be understood.
    Malformed,
    /// The command may not be run, or not by this client.
    Denied,
    /// The value that is there is not what the command needs.
    Mismatch,
    /// There is no such key.
    NotFound,
    /// Something is longer than its limit.
    TooLarge,
    /// Memory is full and nothing may be evicted.
    OutOfMemory,
    /// What the key needs could not be loaded.
    LoadFailed,
    /// There is too much to do at the moment.
    Busy,
}

/// Why a command was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Whose fault it is.
    pub kind: Kind,
    /// Code and text as Redis spells them: `ERR syntax error`.
    pub text: Cow<'static, str>,
}

impl Error {
    /// An error with a text known when this was compiled.
    pub const fn new(kind: Kind, text: &'static str) -> Error {
        Error { kind, text: Cow::Borrowed(text) }
    }

    /// An error with a text made for the occasion.
    pub fn with(kind: Kind, text: String) -> Error {
        Error { kind, text: Cow::Owned(text) }
    }
}

/// The options do not fit together.
pub const SYNTAX: Error = Error::new(Kind::Malformed, "ERR syntax error");
/// An argument, or the value, is no number of 64 bits.
pub const NOT_AN_INTEGER: Error = Error::new(Kind::Malformed, "ERR value is not an integer or out of range");

/// The item has another version than the command wants.
pub const OTHER_VERSION: Error = Error::new(Kind::Mismatch, "ERR the item has another version");
/// The command wants an item that has a version, and there is none.
pub const NO_SUCH_ITEM: Error = Error::new(Kind::NotFound, "ERR no such item");

/// What a command does, for permissions and for those who ask COMMAND.
pub mod flag {
    /// Reads keys and changes none.
    pub const READ: u16 = 1;
    /// May change keys.
    pub const WRITE: u16 = 2;
    /// Refused when memory is full and nothing may be evicted.
    pub const DENY_OOM: u16 = 4;
    /// Takes the same short time however much is cached.
    pub const FAST: u16 = 8;
    /// For operators.
    pub const ADMIN: u16 = 16;
    /// Allowed before authentication.
    pub const NO_AUTH: u16 = 32;
    /// About the connection.
    pub const CONNECTION: u16 = 64;
    /// Needs what is there, so a key that workers load is loaded first; without it, a command overwrites or removes.
    pub const LOAD: u16 = 128;
    /// What a loader worker may ask on its connection: nothing that could wait.
    pub const WORKER: u16 = 256;
}

/// A row of the table.
pub struct Row {
    /// Name in capitals.
    pub name: &'static str,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// What it does, of [`flag`].
    pub flags: u16,
    /// First key, last key (negative: counted from the end) and step; (0, 0, 0) where there is none.
    pub keys: (i32, i32, i32),
    /// The group it is documented in.
    pub group: &'static str,
    /// The Redis version that has it first, for COMMAND DOCS.
    pub since: &'static str,
    /// What it does, in a sentence.
    pub summary: &'static str,
    /// Makes a command of the arguments behind the name. The number of arguments fits the arity.
    pub read: for<'a> fn(&Row, Args<'a>) -> Result<Command<'a>, Error>,
}

impl Row {
    /// Whether so many arguments, the name among them, are what the command takes.
    pub fn takes(&self, count: usize) -> bool {
        if self.arity < 0 { count as i32 >= -self.arity } else { count as i32 == self.arity }
    }

    /// The keys among `args`, of which the name is the first.
    #[inline]
    pub fn keys<'a>(&self, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { args.len() as i32 + last } else { last };
        let count = if first == 0 { 0 } else { (last - first + 1).max(0) };
        args.from(first as usize).iter().take(count as usize).step_by(step.max(1) as usize)
    }

    /// The command was asked with too few or too many arguments.
    pub fn wrong_arity(&self) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR wrong number of arguments for '{name}' command"))
    }

    fn invalid_expiry(&self) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR invalid expire time in '{name}' command"))
    }
}

const ONE_KEY: (i32, i32, i32) = (1, 1, 1);
const ALL_KEYS: (i32, i32, i32) = (1, -1, 1);
const NO_KEY: (i32, i32, i32) = (0, 0, 0);

macro_rules! table {
    ($($name:literal $arity:literal $flags:expr, $keys:expr, $group:literal $since:literal $summary:literal, $read:expr;)*) => {
        &[$(Row { name: $name, arity: $arity, flags: $flags, keys: $keys, group: $group, since: $since,
            summary: $summary, read: $read }),*]
    };
}

use flag::*;

/// Every command there is.
#[rustfmt::skip]
pub static TABLE: &[Row] = table! {
    "AUTH" -2 FAST | NO_AUTH | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Authenticates the connection.", read_auth;
    "CACHE.CANCEL" 2 FAST | CONNECTION, NO_KEY, "cache" "7.4.0" "Leaves the queue that a ticket stands for.", cache::read_cancel;
    "CACHE.ENTRY" 2 READ | FAST, ONE_KEY, "cache" "7.4.0" "Returns an item with its state, version, times and flags.", cache::read_entry;
    "CACHE.FAIL" -4 WRITE | FAST | WORKER, ONE_KEY, "cache" "7.4.0" "Ends a lease without a value; those who wait get a stale value or the message.", cache::read_fail;
    "CACHE.FETCH" -2 READ | FAST, ONE_KEY, "cache" "7.4.0" "Returns a value, or the lease to load it, or waits for who has it.", cache::read_fetch;
    "CACHE.FILL" -4 WRITE | DENY_OOM | WORKER, ONE_KEY, "cache" "7.4.0" "Stores a value that was loaded under a lease, unless something changed meanwhile.", cache::read_fill;
    "CACHE.FORGET" -2 ADMIN, NO_KEY, "cache" "7.4.0" "Stops serving patterns by loader workers.", cache::read_forget;
    "CACHE.GET" 2 READ | FAST, ONE_KEY, "cache" "7.4.0" "Returns a value, with its flags if it has any.", cache::read_get;
    "CACHE.INCR" -3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "cache" "7.4.0" "Adds to a number; its time to live and tags count if it is new.", cache::read_incr;
    "CACHE.INSPECT" 2 READ | FAST, ONE_KEY, "cache" "7.4.0" "Returns everything known of a key.", cache::read_inspect;
    "CACHE.INVALIDATE" -3 WRITE, NO_KEY, "cache" "7.4.0" "Makes sure that no value of these keys and tags is served again.", cache::read_invalidate;
    "CACHE.LOADER" -2 CONNECTION | WORKER, NO_KEY, "cache" "7.4.0" "Makes the connection a loader worker for keys that match.", cache::read_loader;
    "CACHE.MGET" -2 READ | FAST, ALL_KEYS, "cache" "7.4.0" "Returns values, each with its flags if it has any.", cache::read_mget;
    "CACHE.RELEASE" 3 WRITE | FAST | WORKER, ONE_KEY, "cache" "7.4.0" "Gives a lease to the next without an error.", cache::read_release;
    "CACHE.RENEW" 4 WRITE | FAST | WORKER, ONE_KEY, "cache" "7.4.0" "Holds a lease for longer.", cache::read_renew;
    "CACHE.SESSION" -3 FAST | CONNECTION, NO_KEY, "cache" "7.4.0" "Names the client, so that its older connections are closed.", cache::read_session;
    "CACHE.SET" -3 WRITE | DENY_OOM, ONE_KEY, "cache" "7.4.0" "Writes a value with freshness, tags and flags.", cache::read_set;
    "CLIENT" -2 CONNECTION | WORKER, NO_KEY, "connection" "2.4.0" "Tells and sets what the server knows of this connection.", read_client;
    "COMMAND" -1 CONNECTION, NO_KEY, "server" "2.8.13" "Describes the commands there are.", read_command;
    "DBSIZE" 1 READ | FAST, NO_KEY, "server" "1.0.0" "Returns the number of keys in the selected database.", |_, _| Ok(Command::DbSize);
    "DECR" 2 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Takes one from the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), -1));
    "DEL" -2 WRITE, ALL_KEYS, "generic" "1.0.0" "Removes keys and returns how many there were.", |_, a| Ok(Command::Delete(a));
    "ECHO" 2 FAST | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Returns the message.", |_, a| Ok(Command::Echo(arg(a, 0)));
    "EXISTS" -2 READ | FAST | LOAD, ALL_KEYS, "generic" "1.0.0" "Returns how many of the keys there are.", |_, a| Ok(Command::Exists(a));
    "EXPIRE" -3 WRITE | FAST, ONE_KEY, "generic" "1.0.0" "Sets after how many seconds a key expires.", |r, a| read_expire(r, a, 1000, false);
    "EXPIREAT" -3 WRITE | FAST, ONE_KEY, "generic" "1.2.0" "Sets at which second of Unix time a key expires.", |r, a| read_expire(r, a, 1000, true);
    "FLUSHALL" -1 WRITE, NO_KEY, "server" "1.0.0" "Removes all keys of all databases.", |_, a| read_flush(a, true);
    "FLUSHDB" -1 WRITE, NO_KEY, "server" "1.0.0" "Removes all keys of the selected database.", |_, a| read_flush(a, false);
    "GET" 2 READ | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Returns the value of a key.", |_, a| Ok(Command::Get(arg(a, 0)));
    "HELLO" -1 FAST | NO_AUTH | CONNECTION | WORKER, NO_KEY, "connection" "6.0.0" "Chooses the protocol version and tells who the server is.", read_hello;
    "INCR" 2 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Adds one to the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), 1));
    "INCRBY" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Adds to the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), integer(arg(a, 1))?));
    "DECRBY" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Takes from the number at a key, which counts from 0 if there is none.", read_decrby;
    "INFO" -1 ADMIN, NO_KEY, "server" "1.0.0" "Returns facts and figures about the server.", |_, a| Ok(Command::Info(a));
    "MGET" -2 READ | FAST | LOAD, ALL_KEYS, "string" "1.0.0" "Returns the values of several keys as of one instant.", |_, a| Ok(Command::MGet(a));
    "MSET" -3 WRITE | DENY_OOM, (1, -1, 2), "string" "1.0.1" "Writes several values in one step.", read_mset;
    "PERSIST" 2 WRITE | FAST, ONE_KEY, "generic" "2.2.0" "Takes the expiry of a key away.", |_, a| Ok(Command::Persist(arg(a, 0)));
    "PEXPIRE" -3 WRITE | FAST, ONE_KEY, "generic" "2.6.0" "Sets after how many milliseconds a key expires.", |r, a| read_expire(r, a, 1, false);
    "PEXPIREAT" -3 WRITE | FAST, ONE_KEY, "generic" "2.6.0" "Sets at which millisecond of Unix time a key expires.", |r, a| read_expire(r, a, 1, true);
    "PING" -1 FAST | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Returns PONG, or the message.", read_ping;
    "PTTL" 2 READ | FAST | LOAD, ONE_KEY, "generic" "2.6.0" "Returns how many milliseconds a key has to live.", |_, a| Ok(Command::Ttl { key: arg(a, 0), millis: true });
    "QUIT" -1 FAST | NO_AUTH | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Closes the connection.", |_, _| Ok(Command::Quit);
    "SELECT" 2 FAST | CONNECTION, NO_KEY, "connection" "1.0.0" "Chooses one of the 16 databases.", read_select;
    "SET" -3 WRITE | DENY_OOM, ONE_KEY, "string" "1.0.0" "Writes the value of a key.", read_set;
    "TTL" 2 READ | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Returns how many seconds a key has to live.", |_, a| Ok(Command::Ttl { key: arg(a, 0), millis: false });
    "UNLINK" -2 WRITE | FAST, ALL_KEYS, "generic" "4.0.0" "Removes keys and returns how many there were.", |_, a| Ok(Command::Delete(a));
};

/// Slots of the index over the table; enough to make collisions rare.
const SLOTS: usize = 1024;

/// Hash of a name, whatever its case: its first eight letters, its last two and its length tell most names apart.
fn slot_of(name: &[u8]) -> usize {
    let mut word = [0u8; 8];
    let taken = name.len().min(8);
    word[..taken].copy_from_slice(&name[..taken]);
    let tail = name.iter().rev().take(2).fold(0u64, |tail, byte| tail << 8 | u64::from(byte & 0xdf));
    let word = u64::from_le_bytes(word) & 0xdfdf_dfdf_dfdf_dfdf;
    let mixed = (word ^ tail << 32 ^ name.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 54) as usize % SLOTS
}

static INDEX: LazyLock<Box<[Option<&'static Row>]>> = LazyLock::new(|| {
    let mut index = vec![None; SLOTS].into_boxed_slice();
    for row in TABLE {
        let mut slot = slot_of(row.name.as_bytes());
        while index[slot].is_some() {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = Some(row);
    }
    index
});

/// The row of a command, however its name is cased.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Row> {
    let index = &*INDEX;
    let mut slot = slot_of(name);
    loop {
        let row = index[slot]?;
        if row.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(row);
        }
        slot = (slot + 1) % SLOTS;
    }
}

/// An argument that the arity promises.
fn arg<'a>(args: Args<'a>, index: usize) -> &'a [u8] {
    args.get(index).expect("the gate checked the arity")
}

/// A number as Redis reads it: all of the text, no sign but a minus, no leading zeros.
pub fn integer(text: &[u8]) -> Result<i64, Error> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let plain = match digits {
        [b'0'] => digits.len() == text.len(),
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !plain || digits.len() > 19 {
        return Err(NOT_AN_INTEGER);
    }
    atoi::atoi::<i64>(text).ok_or(NOT_AN_INTEGER)
}

pub(crate) fn is(option: &[u8], name: &str) -> bool {
    option.eq_ignore_ascii_case(name.as_bytes())
}

fn read_ping<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.len() > 1 { Err(row.wrong_arity()) } else { Ok(Command::Ping(args.get(0))) }
}

fn read_decrby<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let by = integer(arg(args, 1))?;
    let by = by.checked_neg().ok_or(Error::new(Kind::Malformed, "ERR decrement would overflow"))?;
    Ok(Command::Increment(arg(args, 0), by))
}

fn read_mset<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    if args.len() % 2 == 0 { Ok(Command::MSet(args)) } else { Err(row.wrong_arity()) }
}

fn read_flush(args: Args<'_>, all: bool) -> Result<Command<'_>, Error> {
    match args.get(0) {
        None => Ok(Command::Flush { all }),
        Some(mode) if args.len() == 1 && (is(mode, "ASYNC") || is(mode, "SYNC")) => Ok(Command::Flush { all }),
        Some(_) => Err(SYNTAX),
    }
}

fn read_select<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let number = integer(arg(args, 0)).map_err(|_| Error::new(Kind::Malformed, "ERR invalid DB index"))?;
    match u8::try_from(number) {
        Ok(db) if db < 16 => Ok(Command::Select(db)),
        _ => Err(Error::new(Kind::Malformed, "ERR DB index is out of range")),
    }
}

fn read_auth<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    match (args.get(0), args.get(1), args.len()) {
        (Some(password), None, 1) => Ok(Command::Auth(None, password)),
        (Some(user), Some(password), 2) => Ok(Command::Auth(Some(user), password)),
        _ => Err(SYNTAX),
    }
}

fn read_hello<'a>(_: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (mut version, mut auth, mut name) = (None, None, None);
    if let Some(text) = args.get(0) {
        let number = integer(text)
            .map_err(|_| Error::new(Kind::Malformed, "ERR Protocol version is not an integer or out of range"))?;
        if number != 2 && number != 3 {
            return Err(Error::new(Kind::Malformed, "NOPROTO unsupported protocol version"));
        }
        version = Some(number as u8);
    }
    let mut at = 1;
    while let Some(option) = args.get(at) {
        match (args.get(at + 1), args.get(at + 2)) {
            (Some(user), Some(password)) if is(option, "AUTH") => (auth, at) = (Some((user, password)), at + 3),
            (Some(text), _) if is(option, "SETNAME") => (name, at) = (Some(text), at + 2),
            _ => {
                let option = String::from_utf8_lossy(option).into_owned();
                return Err(Error::with(Kind::Malformed, format!("ERR Syntax error in HELLO option '{option}'")));
            }
        }
    }
    Ok(Command::Hello { version, auth, name })
}

fn read_expiry(row: &Row, text: Option<&[u8]>, unit: i64, absolute: bool) -> Result<Expiry, Error> {
    let number = integer(text.ok_or(SYNTAX)?)?;
    let millis = number.checked_mul(unit).filter(|&millis| millis > 0).ok_or_else(|| row.invalid_expiry())?;
    // Redis keeps the moment of expiry in 63 bits; a time that would pass them is refused.
    if !absolute && millis > i64::MAX - (1 << 52) {
        return Err(row.invalid_expiry());
    }
    Ok(if absolute { Expiry::At(millis as u64) } else { Expiry::In(millis as u64) })
}

fn read_set<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let (key, value) = (arg(args, 0), arg(args, 1));
    let (mut expiry, mut condition, mut get) = (Expiry::Never, Condition::Always, false);
    let mut at = 2;
    while let Some(option) = args.get(at) {
        let mut time = |unit, absolute| -> Result<(), Error> {
            if expiry != Expiry::Never {
                return Err(SYNTAX);
            }
            expiry = read_expiry(row, args.get(at + 1), unit, absolute)?;
            at += 1;
            Ok(())
        };
        if is(option, "NX") && condition == Condition::Always {
            condition = Condition::Absent;
        } else if is(option, "XX") && condition == Condition::Always {
            condition = Condition::Present;
        } else if is(option, "GET") {
            get = true;
        } else if is(option, "EX") {
            time(1000, false)?;
        } else if is(option, "PX") {
            time(1, false)?;
        } else if is(option, "EXAT") {
            time(1000, true)?;
        } else if is(option, "PXAT") {
            time(1, true)?;
        } else if is(option, "KEEPTTL") && expiry == Expiry::Never {
            expiry = Expiry::Keep;
        } else {
            return Err(SYNTAX);
        }
        at += 1;
    }
    Ok(Command::Set { key, value, expiry, condition, get })
}

fn read_expire<'a>(row: &Row, args: Args<'a>, unit: i64, absolute: bool) -> Result<Command<'a>, Error> {
    let mut when = ExpireWhen::default();
    for option in args.from(2).iter() {
        let asked = match () {
            () if is(option, "NX") => &mut when.none,
            () if is(option, "XX") => &mut when.some,
            () if is(option, "GT") => &mut when.later,
            () if is(option, "LT") => &mut when.sooner,
            () => {
                let option = String::from_utf8_lossy(option).into_owned();
                return Err(Error::with(Kind::Malformed, format!("ERR Unsupported option {option}")));
            }
        };
        *asked = true;
    }
    if when.none && (when.some || when.later || when.sooner) {
        let text = "ERR NX and XX, GT or LT options at the same time are not compatible";
        return Err(Error::new(Kind::Malformed, text));
    }
    if when.later && when.sooner {
        return Err(Error::new(Kind::Malformed, "ERR GT and LT options at the same time are not compatible"));
    }
    let millis = integer(arg(args, 1))?.checked_mul(unit).ok_or_else(|| row.invalid_expiry())?;
    Ok(Command::Expire { key: arg(args, 0), millis, absolute, when })
}

fn subcommand_error(row: &Row, sub: &[u8]) -> Error {
    let sub = String::from_utf8_lossy(sub).into_owned();
    Error::with(Kind::Malformed, format!("ERR unknown subcommand '{sub}'. Try {} HELP.", row.name))
}

fn subcommand_arity(row: &Row, sub: &str) -> Error {
    let name = row.name.to_ascii_lowercase();
    Error::with(Kind::Malformed, format!("ERR wrong number of arguments for '{name}|{sub}' command"))
}

fn read_client<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let sub = arg(args, 0);
    match (args.get(1), args.get(2), args.len()) {
        (None, None, _) if is(sub, "ID") => Ok(Command::ClientId),
        (None, None, _) if is(sub, "GETNAME") => Ok(Command::ClientGetName),
        (Some(name), None, 2) if is(sub, "SETNAME") => Ok(Command::ClientSetName(name)),
        (Some(what), Some(value), 3) if is(sub, "SETINFO") => {
            if is(what, "LIB-NAME") || is(what, "LIB-VER") {
                Ok(Command::ClientSetInfo { version: is(what, "LIB-VER"), value })
            } else {
                let what = String::from_utf8_lossy(what).into_owned();
                Err(Error::with(Kind::Malformed, format!("ERR Unrecognized option '{what}'")))
            }
        }
        _ => {
            let known = ["id", "getname", "setname", "setinfo"].into_iter().find(|name| is(sub, name));
            Err(known.map_or_else(|| subcommand_error(row, sub), |name| subcommand_arity(row, name)))
        }
    }
}

fn read_command<'a>(row: &Row, args: Args<'a>) -> Result<Command<'a>, Error> {
    let Some(sub) = args.get(0) else { return Ok(Command::CommandAll) };
    match args.len() {
        1 if is(sub, "COUNT") => Ok(Command::CommandCount),
        1 if is(sub, "LIST") => Ok(Command::CommandList),
        1 if is(sub, "INFO") => Ok(Command::CommandAll),
        _ if is(sub, "INFO") => Ok(Command::CommandInfo(args.from(1))),
        _ if is(sub, "DOCS") => Ok(Command::CommandDocs(args.from(1))),
        _ if is(sub, "COUNT") => Err(subcommand_arity(row, "count")),
        _ if is(sub, "LIST") => Err(SYNTAX),
        _ => Err(subcommand_error(row, sub)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_whatever_its_case() {
        for row in TABLE {
            assert!(std::ptr::eq(lookup(row.name.as_bytes()).unwrap(), row), "{}", row.name);
            assert!(std::ptr::eq(lookup(row.name.to_ascii_lowercase().as_bytes()).unwrap(), row), "{}", row.name);
        }
        for name in [&b""[..], b"G", b"GETT", b"\xc7\xc5\xd4", b"NOSUCH"] {
            assert!(lookup(name).is_none());
        }
    }

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, number) in
            [("0", 0), ("-1", -1), ("9223372036854775807", i64::MAX), ("-9223372036854775808", i64::MIN)]
        {
            assert_eq!(integer(text.as_bytes()), Ok(number));
        }
        for text in ["", "-", "+1", " 1", "1 ", "01", "-0", "1e3", "9223372036854775808", "0x1", "99999999999999999999"]
        {
            assert_eq!(integer(text.as_bytes()), Err(NOT_AN_INTEGER), "{text:?}");
        }
    }
}
