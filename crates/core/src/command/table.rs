//! The one table of commands.
//!
//! A row gives a command its name, arity, flags, key positions and documentation, and the function that makes a
//! [`Command`] of its arguments.

use std::sync::LazyLock;

use super::read::*;
use super::{Args, Command, Error, Kind};
use crate::cache;

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

    pub(super) fn invalid_expiry(&self) -> Error {
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
