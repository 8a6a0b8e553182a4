//! The one table of commands.
//!
//! A row gives a command its name, arity, flags, key positions and documentation, and the function that makes a
//! [`Command`] of its arguments.

use std::sync::LazyLock;

use super::read::*;
use super::{Args, Command, Error, Kind};
use crate::{cache, execute, pubsub};

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
    /// Is run at once within a transaction instead of being queued.
    pub const TRANSACTION: u16 = 512;
    /// May not be queued in a transaction: it would wait, or change what the connection is.
    pub const ALONE: u16 = 1024;
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

    /// Whether a request of so many arguments has more words than one may have whose words are no keys: each costs more than
    /// its bytes, and no client has reason to ask for thousands at a time.
    #[inline]
    pub fn is_too_wordy(&self, count: usize) -> bool {
        count > MAX_WORDS && (self.has_subcommands() || self.name == "INFO")
    }

    /// The keys among `args`, of which the name is the first.
    #[inline]
    pub fn keys<'a>(&self, args: Args<'a>) -> impl Iterator<Item = &'a [u8]> + Clone + use<'a> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { args.len() as i32 + last } else { last };
        let end = if first == 0 { 0 } else { (last + 1).max(first) };
        let (mut at, end) = (first as usize, (end as usize).min(args.len()));
        let step = step.max(1) as usize;
        std::iter::from_fn(move || {
            let key = if at < end { args.get(at) } else { None };
            at += step;
            key
        })
    }

    /// The command was asked with too few or too many arguments.
    pub fn wrong_arity(&self) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR wrong number of arguments for '{name}' command"))
    }

    /// Whether a client of RESP2 may ask it while it listens to channels.
    pub fn is_for_listeners(&self) -> bool {
        self.name.ends_with("SUBSCRIBE") || matches!(self.name, "PING" | "QUIT" | "RESET")
    }

    /// Whether its first argument says what it does.
    pub fn has_subcommands(&self) -> bool {
        const THESE: [&str; 9] =
            ["ACL", "CLIENT", "COMMAND", "CONFIG", "FUNCTION", "MEMORY", "OBJECT", "PUBSUB", "SCRIPT"];
        THESE.contains(&self.name)
    }

    /// There is no such subcommand.
    pub fn unknown_subcommand(&self, sub: &[u8]) -> Error {
        let sub = String::from_utf8_lossy(&sub[..sub.len().min(128)]);
        Error::with(Kind::Malformed, format!("ERR unknown subcommand '{sub}'. Try {} HELP.", self.name))
    }

    /// A subcommand was asked with too few or too many arguments.
    pub fn wrong_subcommand_arity(&self, sub: &str) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR wrong number of arguments for '{name}|{sub}' command"))
    }

    pub(super) fn invalid_expiry(&self) -> Error {
        let name = self.name.to_ascii_lowercase();
        Error::with(Kind::Malformed, format!("ERR invalid expire time in '{name}' command"))
    }
}

/// Words of a command with subcommands.
const MAX_WORDS: usize = 4096;

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
    "ACL" -2 CONNECTION, NO_KEY, "server" "6.0.0" "Tells of users and what they may do.", execute::read_acl;
    "APPEND" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "2.0.0" "Puts bytes behind a value and returns its new length.", execute::read_append;
    "AUTH" -2 FAST | NO_AUTH | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Authenticates the connection.", read_auth;
    "CACHE.CANCEL" 2 FAST | CONNECTION | ALONE, NO_KEY, "cache" "7.4.0" "Leaves the queue that a ticket stands for.", cache::read_cancel;
    "CACHE.ENTRY" 2 READ | FAST | LOAD, ONE_KEY, "cache" "7.4.0" "Returns an item with its state, version, times and flags.", cache::read_entry;
    "CACHE.FAIL" -4 WRITE | FAST | WORKER, ONE_KEY, "cache" "7.4.0" "Ends a lease without a value; those who wait get a stale value or the message.", cache::read_fail;
    "CACHE.FETCH" -2 READ | FAST | ALONE, ONE_KEY, "cache" "7.4.0" "Returns a value, or the lease to load it, or waits for who has it.", cache::read_fetch;
    "CACHE.FILL" -4 WRITE | DENY_OOM | WORKER, ONE_KEY, "cache" "7.4.0" "Stores a value that was loaded under a lease, unless something changed meanwhile.", cache::read_fill;
    "CACHE.FORGET" -2 ADMIN, NO_KEY, "cache" "7.4.0" "Stops serving patterns by loader workers.", cache::read_forget;
    "CACHE.GET" 2 READ | FAST | LOAD, ONE_KEY, "cache" "7.4.0" "Returns a value, with its flags if it has any.", cache::read_get;
    "CACHE.INCR" -3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "cache" "7.4.0" "Adds to a number; its time to live and tags count if it is new.", cache::read_incr;
    "CACHE.INSPECT" 2 READ | FAST, ONE_KEY, "cache" "7.4.0" "Returns everything known of a key.", cache::read_inspect;
    "CACHE.INVALIDATE" -3 WRITE, NO_KEY, "cache" "7.4.0" "Makes sure that no value of these keys and tags is served again.", cache::read_invalidate;
    "CACHE.LOADER" -2 CONNECTION | WORKER | ALONE, NO_KEY, "cache" "7.4.0" "Makes the connection a loader worker for keys that match.", cache::read_loader;
    "CACHE.MGET" -2 READ | FAST | LOAD, ALL_KEYS, "cache" "7.4.0" "Returns values, each with its flags if it has any.", cache::read_mget;
    "CACHE.RELEASE" 3 WRITE | FAST | WORKER, ONE_KEY, "cache" "7.4.0" "Gives a lease to the next without an error.", cache::read_release;
    "CACHE.RENEW" 4 WRITE | FAST | WORKER, ONE_KEY, "cache" "7.4.0" "Holds a lease for longer.", cache::read_renew;
    "CACHE.SESSION" -3 FAST | CONNECTION | ALONE, NO_KEY, "cache" "7.4.0" "Names the client, so that its older connections are closed.", cache::read_session;
    "CACHE.SET" -3 WRITE | DENY_OOM, ONE_KEY, "cache" "7.4.0" "Writes a value with freshness, tags and flags.", cache::read_set;
    "CLIENT" -2 CONNECTION | WORKER, NO_KEY, "connection" "2.4.0" "Tells and sets what the server knows of this connection.", execute::read_client;
    "COMMAND" -1 CONNECTION, NO_KEY, "server" "2.8.13" "Describes the commands there are.", read_command;
    "CONFIG" -2 ADMIN, NO_KEY, "server" "2.0.0" "Tells the settings of the server.", execute::read_config;
    "COPY" -3 WRITE | DENY_OOM | LOAD, (1, 2, 1), "generic" "6.2.0" "Copies a value with all that is kept beside it.", execute::read_copy;
    "DBSIZE" 1 READ | FAST, NO_KEY, "server" "1.0.0" "Returns the number of keys in the selected database.", |_, _| Ok(Command::DbSize);
    "DECR" 2 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Takes one from the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), -1));
    "DECRBY" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Takes from the number at a key, which counts from 0 if there is none.", read_decrby;
    "DEL" -2 WRITE, ALL_KEYS, "generic" "1.0.0" "Removes keys and returns how many there were.", |_, a| Ok(Command::Delete(a));
    "DELIFEQ" 3 WRITE | FAST | LOAD, ONE_KEY, "string" "9.0.0" "Removes a key if it has the given value.", execute::read_delifeq;
    "DISCARD" 1 FAST | TRANSACTION, NO_KEY, "transactions" "2.0.0" "Forgets the commands of a transaction.", |_, _| Ok(Command::Discard);
    "ECHO" 2 FAST | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Returns the message.", |_, a| Ok(Command::Echo(arg(a, 0)));
    "EVAL" -3 WRITE | DENY_OOM, NO_KEY, "scripting" "2.6.0" "Runs one of the scripts that are known by their SHA-1.", execute::read_eval;
    "EVALSHA" -3 WRITE | DENY_OOM, NO_KEY, "scripting" "2.6.0" "Runs one of the scripts that are known by their SHA-1.", execute::read_evalsha;
    "EXEC" 1 TRANSACTION, NO_KEY, "transactions" "1.2.0" "Runs the commands of a transaction in one step.", |_, _| Ok(Command::Exec);
    "EXISTS" -2 READ | FAST | LOAD, ALL_KEYS, "generic" "1.0.0" "Returns how many of the keys there are.", |_, a| Ok(Command::Exists(a));
    "EXPIRE" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Sets after how many seconds a key expires.", |r, a| read_expire(r, a, 1000, false);
    "EXPIREAT" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "1.2.0" "Sets at which second of Unix time a key expires.", |r, a| read_expire(r, a, 1000, true);
    "EXPIRETIME" 2 READ | FAST | LOAD, ONE_KEY, "generic" "7.0.0" "Returns at which second of Unix time a key expires.", execute::read_expiretime;
    "FLUSHALL" -1 WRITE, NO_KEY, "server" "1.0.0" "Removes all keys of all databases.", |_, a| read_flush(a, true);
    "FLUSHDB" -1 WRITE, NO_KEY, "server" "1.0.0" "Removes all keys of the selected database.", |_, a| read_flush(a, false);
    "FUNCTION" -2 ADMIN, NO_KEY, "scripting" "7.0.0" "There are no functions; FLUSH has nothing to do.", execute::read_function;
    "GET" 2 READ | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Returns the value of a key.", |_, a| Ok(Command::Get(arg(a, 0)));
    "GETDEL" 2 WRITE | FAST | LOAD, ONE_KEY, "string" "6.2.0" "Returns the value of a key and removes it.", execute::read_getdel;
    "GETEX" -2 WRITE | FAST | LOAD, ONE_KEY, "string" "6.2.0" "Returns the value of a key and sets when it expires.", execute::read_getex;
    "GETRANGE" 4 READ | LOAD, ONE_KEY, "string" "2.4.0" "Returns a part of a value.", execute::read_getrange;
    "GETSET" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Writes a value and returns the one before.", read_getset;
    "HELLO" -1 FAST | NO_AUTH | CONNECTION | WORKER, NO_KEY, "connection" "6.0.0" "Chooses the protocol version and tells who the server is.", read_hello;
    "INCR" 2 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Adds one to the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), 1));
    "INCRBY" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Adds to the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), integer(arg(a, 1))?));
    "INCRBYFLOAT" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "2.6.0" "Adds to a number with a fraction.", execute::read_incrbyfloat;
    "INFO" -1 ADMIN, NO_KEY, "server" "1.0.0" "Returns facts and figures about the server.", |_, a| Ok(Command::Info(a));
    "KEYS" 2 READ, NO_KEY, "generic" "1.0.0" "Returns all keys that match a pattern.", execute::read_keys;
    "LASTSAVE" 1 FAST | ADMIN, NO_KEY, "server" "1.0.0" "Returns when the server began: nothing is saved.", |_, _| Ok(Command::LastSave);
    "MEMORY" -2 READ, NO_KEY, "server" "4.0.0" "Tells what memory is used for.", execute::read_memory;
    "MGET" -2 READ | FAST | LOAD, ALL_KEYS, "string" "1.0.0" "Returns the values of several keys as of one instant.", |_, a| Ok(Command::MGet(a));
    "MOVE" 3 WRITE | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Moves a key to another database.", execute::read_move;
    "MSET" -3 WRITE | DENY_OOM, (1, -1, 2), "string" "1.0.1" "Writes several values in one step.", read_mset;
    "MSETNX" -3 WRITE | DENY_OOM | LOAD, (1, -1, 2), "string" "1.0.1" "Writes several values in one step if there is none of them.", execute::read_msetnx;
    "MULTI" 1 FAST | TRANSACTION, NO_KEY, "transactions" "1.2.0" "Begins a transaction: what follows is queued.", |_, _| Ok(Command::Multi);
    "OBJECT" -2 READ | LOAD, (2, 2, 1), "generic" "2.2.3" "Tells how a value is kept.", execute::read_object;
    "PERSIST" 2 WRITE | FAST | LOAD, ONE_KEY, "generic" "2.2.0" "Takes the expiry of a key away.", |_, a| Ok(Command::Persist(arg(a, 0)));
    "PEXPIRE" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "2.6.0" "Sets after how many milliseconds a key expires.", |r, a| read_expire(r, a, 1, false);
    "PEXPIREAT" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "2.6.0" "Sets at which millisecond of Unix time a key expires.", |r, a| read_expire(r, a, 1, true);
    "PEXPIRETIME" 2 READ | FAST | LOAD, ONE_KEY, "generic" "7.0.0" "Returns at which millisecond of Unix time a key expires.", execute::read_pexpiretime;
    "PING" -1 FAST | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Returns PONG, or the message.", read_ping;
    "PSETEX" 4 WRITE | DENY_OOM, ONE_KEY, "string" "2.6.0" "Writes a value that expires after so many milliseconds.", |r, a| read_setex(r, a, 1);
    "PSUBSCRIBE" -2 CONNECTION | ALONE, NO_KEY, "pubsub" "2.0.0" "Listens to all channels that match.", pubsub::read_psubscribe;
    "PTTL" 2 READ | FAST | LOAD, ONE_KEY, "generic" "2.6.0" "Returns how many milliseconds a key has to live.", |_, a| Ok(Command::Ttl { key: arg(a, 0), millis: true });
    "PUBLISH" 3 FAST | CONNECTION, NO_KEY, "pubsub" "2.0.0" "Sends a message to all who listen and returns how many they are.", pubsub::read_publish;
    "PUBSUB" -2 CONNECTION, NO_KEY, "pubsub" "2.8.0" "Tells which channels and patterns are listened to.", pubsub::read_pubsub;
    "PUNSUBSCRIBE" -1 CONNECTION | ALONE, NO_KEY, "pubsub" "2.0.0" "Listens to patterns no more.", pubsub::read_punsubscribe;
    "QUIT" -1 FAST | NO_AUTH | CONNECTION | WORKER | TRANSACTION, NO_KEY, "connection" "1.0.0" "Closes the connection.", |_, _| Ok(Command::Quit);
    "RANDOMKEY" 1 READ, NO_KEY, "generic" "1.0.0" "Returns any key.", execute::read_randomkey;
    "RENAME" 3 WRITE | LOAD, (1, 2, 1), "generic" "1.0.0" "Gives a value another key.", execute::read_rename;
    "RENAMENX" 3 WRITE | FAST | LOAD, (1, 2, 1), "generic" "1.0.0" "Gives a value another key if that is free.", execute::read_renamenx;
    "RESET" 1 FAST | NO_AUTH | CONNECTION | TRANSACTION, NO_KEY, "connection" "6.2.0" "Makes the connection as it was at its beginning.", |_, _| Ok(Command::Reset);
    "SCAN" -2 READ, NO_KEY, "generic" "2.8.0" "Goes through the keys, some at a time.", execute::read_scan;
    "SCRIPT" -2 ADMIN, NO_KEY, "scripting" "2.6.0" "Tells which scripts are known.", execute::read_script;
    "SELECT" 2 FAST | CONNECTION, NO_KEY, "connection" "1.0.0" "Chooses one of the 16 databases.", read_select;
    "SET" -3 WRITE | DENY_OOM, ONE_KEY, "string" "1.0.0" "Writes the value of a key.", read_set;
    "SETEX" 4 WRITE | DENY_OOM, ONE_KEY, "string" "2.0.0" "Writes a value that expires after so many seconds.", |r, a| read_setex(r, a, 1000);
    "SETNX" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Writes a value if there is none.", execute::read_setnx;
    "SETRANGE" 4 WRITE | DENY_OOM | LOAD, ONE_KEY, "string" "2.2.0" "Writes over a part of a value.", execute::read_setrange;
    "STRLEN" 2 READ | FAST | LOAD, ONE_KEY, "string" "2.2.0" "Returns the length of a value.", execute::read_strlen;
    "SUBSCRIBE" -2 CONNECTION | ALONE, NO_KEY, "pubsub" "2.0.0" "Listens to channels.", pubsub::read_subscribe;
    "SUBSTR" 4 READ | LOAD, ONE_KEY, "string" "1.0.0" "Returns a part of a value; GETRANGE by its old name.", execute::read_getrange;
    "TIME" 1 FAST, NO_KEY, "server" "2.6.0" "Returns the wall clock in seconds and microseconds.", |_, _| Ok(Command::Time);
    "TOUCH" -2 READ | FAST | LOAD, ALL_KEYS, "generic" "3.2.1" "Returns how many of the keys there are, as if they had been asked for.", |_, a| Ok(Command::Exists(a));
    "TTL" 2 READ | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Returns how many seconds a key has to live.", |_, a| Ok(Command::Ttl { key: arg(a, 0), millis: false });
    "TYPE" 2 READ | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Returns the type of a value: string, or none.", execute::read_type;
    "UNLINK" -2 WRITE | FAST, ALL_KEYS, "generic" "4.0.0" "Removes keys and returns how many there were.", |_, a| Ok(Command::Delete(a));
    "UNSUBSCRIBE" -1 CONNECTION | ALONE, NO_KEY, "pubsub" "2.0.0" "Listens to channels no more.", pubsub::read_unsubscribe;
    "UNWATCH" 1 FAST, NO_KEY, "transactions" "2.2.0" "Forgets what is watched.", |_, _| Ok(Command::Unwatch);
    "WATCH" -2 FAST | TRANSACTION, ALL_KEYS, "transactions" "2.2.0" "Lets the next transaction run only if nothing happens to these keys.", |_, a| Ok(Command::Watch(a));
};

/// Slots of the index over the table; enough to make collisions rare.
const SLOTS: usize = 1024;

/// Hash of a name, whatever its case: its first eight letters, its last two and its length tell most names apart.
fn slot_of(name: &[u8]) -> usize {
    let word = name.first_chunk().map_or_else(
        || name.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
        |head| u64::from_le_bytes(*head),
    );
    let tail = name.last_chunk::<2>().map_or(0, |tail| u64::from(u16::from_le_bytes(*tail)));
    let mixed = (word ^ tail << 32) & 0xdfdf_dfdf_dfdf_dfdf ^ name.len() as u64;
    let mixed = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
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
        // Most clients write names in capitals.
        if row.name.as_bytes() == name || row.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(row);
        }
        slot = (slot + 1) % SLOTS;
    }
}
