//! What can be asked, whatever protocol it comes by.

use super::args::Args;
use super::cache::{CacheCommand, SetCondition};
use super::memcached::MemcachedCommand;
use super::options::{Condition, ExpireWhen, Expiry};
use super::server::{AclCommand, ClientCommand, ConfigCommand, PubSubCommand, Script, ScriptCommand};

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
    PubSub(PubSubCommand<'a>),
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
    Memcached(MemcachedCommand<'a>),
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
    /// where workers load, it is loaded first. For commands whose row does not say so, since it depends on their arguments.
    pub fn depends_on(&self) -> Option<&'a [u8]> {
        match *self {
            Command::Set { key, condition, get, expiry, .. } => {
                let depends = condition != Condition::Always || get || expiry == Expiry::Keep;
                depends.then_some(key)
            }
            Command::Cache(CacheCommand::Set { key, only, .. }) => (only != SetCondition::Always).then_some(key),
            Command::Key(KeyCommand::Usage(key)) => Some(key),
            Command::Memcached(
                MemcachedCommand::Remove { key, version: Some(_) }
                | MemcachedCommand::MetaDelete { key, version: Some(_), .. },
            ) => Some(key),
            // The key of this one is a pattern.
            Command::Script(ScriptCommand::Run { script: Script::Clear, .. }) => None,
            Command::Script(ScriptCommand::Run { keys, .. }) => keys.get(0),
            _ => None,
        }
    }
}

/// A command on keys.
#[derive(Clone, Copy, Debug)]
pub enum KeyCommand<'a> {
    /// The type of a value: there is one.
    Type(&'a [u8]),
    /// When a key expires, by the wall clock.
    ExpireTime {
        /// The key.
        key: &'a [u8],
        /// Tells milliseconds instead of seconds.
        millis: bool,
    },
    /// Copies a value with all that is kept beside it.
    Copy {
        /// Its key.
        from: &'a [u8],
        /// The key of the copy.
        to: &'a [u8],
        /// The database of the copy, if it is another one.
        db: Option<u8>,
        /// Whether a value that is there is replaced.
        replace: bool,
        /// Whether the first goes.
        rename: Option<Rename>,
    },
    /// All keys that match.
    Keys(&'a [u8]),
    /// Some keys that match, and where to go on.
    Scan {
        /// Where to go on; 0 begins.
        cursor: u64,
        /// What they match.
        pattern: Option<&'a [u8]>,
        /// How many to look at.
        count: usize,
        /// Whether strings are wanted.
        strings: bool,
    },
    /// Any key.
    Random,
    /// How a value is kept.
    Encoding(&'a [u8]),
    /// How often a value was asked for lately.
    Frequency(&'a [u8]),
    /// Seconds since a value was asked for: not kept.
    IdleTime(&'a [u8]),
    /// How many know of a value.
    References(&'a [u8]),
    /// Bytes that a key and its value take.
    Usage(&'a [u8]),
}

/// What a renaming answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rename {
    /// OK.
    Always,
    /// 1, or 0 if the new name is taken.
    IfNew,
    /// 1, or 0, and there is nothing to do for a key that is not there.
    Move,
}

/// What becomes of a value that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After<'a> {
    /// It stays as it is.
    Stay,
    /// It is removed.
    Remove,
    /// It does not expire any more.
    Persist,
    /// It expires: the number as it came, milliseconds of its unit, and whether it counts from 1970. Redis looks at the
    /// number only if there is a value.
    Expire(&'a [u8], i64, bool),
}

/// A command on a part of a string, or on its presence.
#[derive(Clone, Copy, Debug)]
pub enum TextCommand<'a> {
    /// Puts bytes behind a value; its new length.
    Append(&'a [u8], &'a [u8]),
    /// The length of a value.
    Length(&'a [u8]),
    /// A part of a value, from and to, both included and counted from the end if negative.
    Range(&'a [u8], i64, i64),
    /// Writes over a part of a value, from an offset on; its new length.
    SetRange(&'a [u8], i64, &'a [u8]),
    /// Adds to a number with a fraction.
    Add(&'a [u8], &'a [u8]),
    /// A value, and what becomes of it.
    Take(&'a [u8], After<'a>),
    /// Writes a value if there is none; 1 or 0.
    SetNew(&'a [u8], &'a [u8]),
    /// Writes many values if there is none of them; 1 or 0.
    SetAllNew(Args<'a>),
    /// Removes a key if it has this value; 1 or 0.
    RemoveIf(&'a [u8], &'a [u8]),
}
