//! The vocabulary: what can be asked ([`Command`]), what is answered ([`Reply`]), and ONE table of commands.
//!
//! Every protocol decodes to these commands and encodes these replies. A row of the table gives a command its
//! name, arity, flags, key positions and documentation, and the function that makes a [`Command`] of its
//! arguments; the gate, COMMAND, the reference page and metrics read the same rows.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use crate::cache::{CacheCommand, If};
use crate::execute::{AclCommand, ClientCommand, ConfigCommand, KeyCommand, Script, ScriptCommand, TextCommand};
use crate::pubsub::BusCommand;
use crate::store::Value;

mod page;
mod read;
pub mod redis;
mod table;

pub use page::page;
pub use read::integer;
pub(crate) use read::{is, read_time, time_option};
pub use table::{Row, TABLE, flag, lookup};

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
    /// The value has these bytes.
    Equals(&'a [u8]),
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
    /// One of the commands on connections.
    Client(ClientCommand<'a>),
    /// One of the commands on channels.
    Bus(BusCommand<'a>),
    /// All rows of the table.
    CommandAll,
    /// How many rows there are.
    CommandCount,
    /// The names of all commands, or of those that a filter picks.
    CommandList(Args<'a>),
    /// The rows of the named commands.
    CommandInfo(Args<'a>),
    /// The documentation of the named commands, or of all.
    CommandDocs(Args<'a>),
    /// One of the commands on a part of a string, or on its presence.
    Text(TextCommand<'a>),
    /// One of the commands on keys, whatever their values.
    Key(KeyCommand<'a>),
    /// One of the commands on the configuration.
    Config(ConfigCommand<'a>),
    /// One of the commands on scripts.
    Script(ScriptCommand<'a>),
    /// What memory is used for.
    MemoryStats,
    /// The keys among the words of a command, and whether it is asked how each is used.
    CommandKeys(Args<'a>, bool),
    /// The wall clock.
    Time,
    /// When the data was last saved: when the server began without any.
    LastSave,
    /// OK, and nothing else.
    Nothing,
    /// Lines for people.
    Help(&'static [&'static str]),
    /// Begins to queue commands.
    Multi,
    /// Runs the queued commands in one step.
    Exec,
    /// Forgets the queued commands.
    Discard,
    /// Lets the next transaction run only if nothing happens to these keys.
    Watch(Args<'a>),
    /// Forgets what is watched.
    Unwatch,
    /// Makes the connection as it was at its beginning.
    Reset,
    /// One of the commands that know of an item's flags and version.
    Item(ItemCommand<'a>),
    /// One of the commands that know of freshness, tags and leases.
    Cache(CacheCommand<'a>),
    /// Users and what they may do.
    Acl(AclCommand<'a>),
    /// Facts about the server as memcached names them, of the named section; the general ones without a name.
    Stats(Option<&'a [u8]>),
    /// Removes all keys of the selected database at a time; at once where there is none.
    FlushAt(Expiry),
    /// Lets the clock of the server run ahead by so many milliseconds more, where that is allowed.
    Advance(u64),
    /// Panics, in the thread that accepts connections (true) or in the one that runs it, where that is allowed: for tests.
    Panic(bool),
    /// Stops the server, where that is allowed.
    Shutdown,
    /// A last OK, then the end of the connection.
    Quit,
}

impl<'a> Command<'a> {
    /// The key of a command whose effect depends on what is there, beyond reads of values, which look for themselves:
    /// where workers load, it is loaded first. For commands that no row of the table marks with [`table::flag::LOAD`].
    pub fn depends_on(&self) -> Option<&'a [u8]> {
        match *self {
            Command::Set { key, condition, get, expiry, .. } => {
                let depends = condition != Condition::Always || get || expiry == Expiry::Keep;
                depends.then_some(key)
            }
            Command::Cache(CacheCommand::Set { key, only, .. }) => (only != If::Always).then_some(key),
            Command::Key(KeyCommand::Usage(key)) => Some(key),
            Command::Increment(key, _) => Some(key),
            Command::Item(ItemCommand::Store { key, mode, version, .. }) => {
                (mode != Mode::Set || version.is_some()).then_some(key)
            }
            Command::Item(ItemCommand::Count { key, .. } | ItemCommand::Touch { key, .. }) => Some(key),
            Command::Item(
                ItemCommand::Remove { key, version: Some(_) } | ItemCommand::Mark { key, version: Some(_), .. },
            ) => Some(key),
            // The key of this one is a pattern.
            Command::Script(ScriptCommand::Run { script: Script::Clear, .. }) => None,
            Command::Script(ScriptCommand::Run { keys, .. }) => keys.get(0),
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
        /// Takes the lease if there is no item, for so long: the answer is an item without bytes.
        vivify: Option<Expiry>,
        /// Takes the lease if the item ends within this time.
        recache: Option<Expiry>,
    },
    /// Writes a value; the answer is the item, without its value, or nothing if `mode` forbids it. A `version` may also
    /// be a lease of the key: then the value was loaded under it.
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
        /// The number that the client wants to know the new version by.
        cas: Option<u64>,
        /// Stores the value as stale, with the expiry of what is there, if `version` is older than that.
        stale: bool,
    },
    /// Removes an item; the answer is nothing if there is none.
    Remove {
        /// Its key.
        key: &'a [u8],
        /// The version it must have.
        version: Option<u64>,
    },
    /// Keeps an item and marks it as stale, or takes only its value away; the answer is nothing if there is none.
    Mark {
        /// Its key.
        key: &'a [u8],
        /// The version it must have.
        version: Option<u64>,
        /// Whether it is stale from now on.
        stale: bool,
        /// Whether its value and flags go.
        empty: bool,
        /// When it expires from now on.
        expiry: Option<Expiry>,
        /// The number that the client wants to know the new version by.
        cas: Option<u64>,
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
        /// The number that the client wants to know the new version by.
        cas: Option<u64>,
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
    /// The number to compare: its version, or what a client chose instead.
    pub version: u64,
    /// What the client keeps with it.
    pub flags: u32,
    /// Seconds it has to live, rounded up.
    pub ttl: Option<u32>,
    /// Bytes of the value.
    pub size: u32,
    /// Who loads it anew.
    pub recache: Recache,
}

/// What the reader of an item is told of its being loaded anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recache {
    /// Its time is over.
    pub stale: bool,
    /// This reader has the lease, and its token is what [`Found::version`] tells.
    pub won: bool,
    /// Somebody else has it.
    pub taken: bool,
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

    /// Bytes that it takes: those in the scratch buffer, too.
    pub(crate) fn memory(&self) -> usize {
        match self {
            Blob::Scratch(range) => range.len(),
            Blob::Shared(bytes) => bytes.len(),
            Blob::Owned(bytes) => bytes.capacity(),
        }
    }
}

/// What was found under several keys, in the order they were asked for. Replies of hundreds of values are made of this,
/// not of a [`Reply`] for each: that took a fifth of the time of an MGET of 100 keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Values {
    /// Where the small values begin in the context's scratch buffer; they lie there one after another.
    start: usize,
    parts: Vec<Part>,
    shared: Vec<Arc<[u8]>>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    Missing,
    /// Bytes of a small value, and its flags.
    Small(u32, u32),
    /// The next of the shared values, and its flags.
    Large(u32),
}

impl Values {
    /// Room for so many values, of which the small ones are appended to `scratch`.
    pub fn new(count: usize, scratch: &[u8]) -> Values {
        Values { start: scratch.len(), parts: Vec::with_capacity(count), shared: Vec::new() }
    }

    /// Appends what was found under the next key: a value with its flags.
    #[inline(always)]
    pub fn push(&mut self, found: Option<(Value<'_>, u32)>, scratch: &mut Vec<u8>) {
        self.parts.push(match found {
            None => Part::Missing,
            Some((Value::Inline(bytes), flags)) => {
                scratch.extend_from_slice(bytes);
                Part::Small(bytes.len() as u32, flags)
            }
            Some((Value::Shared(bytes), flags)) => {
                self.shared.push(Arc::clone(bytes));
                Part::Large(flags)
            }
        });
    }

    /// How many keys there were.
    pub fn len(&self) -> usize {
        self.parts.len()
    }

    /// Whether there were none.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    fn memory(&self) -> usize {
        let each = self.parts.iter().map(|part| match part {
            Part::Small(length, _) => *length as usize,
            Part::Missing | Part::Large(_) => 0,
        });
        size_of_val(&*self.parts) + each.sum::<usize>() + self.shared.iter().map(|value| value.len()).sum::<usize>()
    }

    /// Whether nothing was found under some key.
    pub fn any_missing(&self) -> bool {
        self.parts.contains(&Part::Missing)
    }

    /// The values with their flags.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Option<(Piece<'_>, u32)>> {
        let (mut at, mut shared) = (self.start, self.shared.iter());
        self.parts.iter().map(move |part| match *part {
            Part::Missing => None,
            Part::Small(length, flags) => {
                let start = at;
                at += length as usize;
                Some((Piece::Scratch(start..at), flags))
            }
            Part::Large(flags) => shared.next().map(|value| (Piece::Shared(value), flags)),
        })
    }

    /// The same as a reply for each: null, a value, or a value and its flags unless they are 0.
    pub fn replies(&self) -> Vec<Reply> {
        let each = |(piece, flags)| {
            let value = Reply::Value(match piece {
                Piece::Scratch(range) => Blob::Scratch(range),
                Piece::Shared(value) => Blob::Shared(Arc::clone(value)),
            });
            if flags == 0 { value } else { Reply::Array(vec![value, Reply::Int(i64::from(flags))]) }
        };
        self.iter().map(|found| found.map_or(Reply::Null, each)).collect()
    }
}

/// One of several values.
#[derive(Debug)]
pub enum Piece<'a> {
    /// A part of the context's scratch buffer.
    Scratch(Range<usize>),
    /// A large value.
    Shared(&'a Arc<[u8]>),
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
    /// Nothing where there would be several answers.
    NoArray,
    /// A value found under a key.
    Value(Blob),
    /// An item found under a key.
    Item(Found),
    /// Text for people.
    Text(String),
    /// What was found under several keys.
    Values(Values),
    /// Several answers.
    Array(Vec<Reply>),
    /// Answers without order or repetition.
    Set(Vec<Reply>),
    /// Answers under names.
    Map(Vec<(Reply, Reply)>),
    /// Something that was not asked for just now.
    Push(Vec<Reply>),
    /// Several answers, one after the other, to one request.
    Several(Vec<Reply>),
    /// The answer comes when what the command waits for is there.
    Parked,
    /// It was not done.
    Error(Error),
    /// What is the same whenever it is asked, made once.
    Fixed(&'static Reply),
}

impl Reply {
    /// Bytes that it takes until it is sent, with those that are copied for it.
    pub fn memory(&self) -> usize {
        let all = |replies: &[Reply]| replies.iter().map(Reply::memory).sum::<usize>();
        size_of::<Reply>()
            + match self {
                Reply::Value(blob) | Reply::Item(Found { value: blob, .. }) => blob.memory(),
                Reply::Text(text) => text.len(),
                Reply::Values(values) => values.memory(),
                Reply::Array(replies) | Reply::Set(replies) | Reply::Push(replies) | Reply::Several(replies) => {
                    all(replies)
                }
                Reply::Map(pairs) => pairs.iter().map(|(name, value)| name.memory() + value.memory()).sum(),
                Reply::Error(error) => error.text.len(),
                Reply::Fixed(reply) => reply.memory(),
                _ => 0,
            }
    }

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

/// The error of a value of so many bytes, where `most` are allowed.
pub fn too_long(length: usize, most: usize) -> Error {
    Error::with(Kind::TooLarge, format!("ERR value of {length} bytes is more than max-value {most}"))
}

/// The item has another version than the command wants.
pub const OTHER_VERSION: Error = Error::new(Kind::Mismatch, "ERR the item has another version");
/// The command wants an item that has a version, and there is none.
pub const NO_SUCH_ITEM: Error = Error::new(Kind::NotFound, "ERR no such item");
