//! The one table of commands, and how a name finds its row.

use std::sync::LazyLock;

use super::read::basic::*;
use super::read::words::{arg, read_time};
use super::read::{acl, cache, client, config, keyspace, pubsub, scripts, text};
use super::row::flag::*;
use super::row::{Copies, Fast, Row, Uses};
use crate::vocabulary::{
    After, CacheCommand, Command, Error, Expiry, KeyCommand, PubSubCommand, Rename, TextCommand, Topic, integer,
};

const ONE_KEY: (i32, i32, i32) = (1, 1, 1);
const ALL_KEYS: (i32, i32, i32) = (1, -1, 1);
const NO_KEY: (i32, i32, i32) = (0, 0, 0);

/// What rows say nothing of.
const PLAIN: Row = Row {
    name: "",
    arity: 0,
    flags: 0,
    keys: NO_KEY,
    group: "",
    since: "",
    summary: "",
    read: |_, _| Ok(Command::Nothing),
    uses: Uses::Keys,
    copies: Copies::Usual,
    fast: None,
    granted_by: &[],
    subs: &[],
};

macro_rules! table {
    ($($name:literal $arity:literal $flags:expr, $keys:expr, $group:literal $since:literal $summary:literal, $read:expr
        $(, $extra:ident: $value:expr)*;)*) => {
        /// A static of its own, so that each row has one place in memory, by which it is known.
        static ROWS: [Row; [$($name),*].len()] = [$(Row { name: $name, arity: $arity, flags: $flags, keys: $keys,
            group: $group, since: $since, summary: $summary, read: $read, $($extra: $value,)* ..PLAIN }),*];
    };
}

#[rustfmt::skip]
table! {
    "ACL" -2 CONNECTION, NO_KEY, "server" "6.0.0" "Tells of users and what they may do.", acl::read_acl, subs: &[("cat", -2), ("getuser", 3), ("list", 2), ("users", 2), ("whoami", 2)];
    "APPEND" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "2.0.0" "Puts bytes behind a value and returns its new length.", |_, a| Ok(Command::Text(TextCommand::Append(arg(a, 0), arg(a, 1)))), copies: Copies::Long;
    "AUTH" -2 FAST | NO_AUTH | CONNECTION | WORKER, NO_KEY, "connection" "1.0.0" "Authenticates the connection.", read_auth;
    "CACHE.CANCEL" 2 FAST | CONNECTION | ALONE | LOADER, NO_KEY, "cache" "7.4.0" "Leaves the queue that a ticket stands for.", |_, a| Ok(Command::Cache(CacheCommand::Cancel(cache::token(a, 0)?))), granted_by: &["CACHE.FILL", "CACHE.FETCH"];
    "CACHE.ENTRY" 2 READ | FAST | LOAD, ONE_KEY, "cache" "7.4.0" "Returns an item with its state, version, times and flags.", |_, a| Ok(Command::Cache(CacheCommand::Entry(arg(a, 0))));
    "CACHE.FAIL" -4 WRITE | FAST | WORKER | LOADER, ONE_KEY, "cache" "7.4.0" "Ends a lease without a value; those who wait get a stale value or the message.", cache::read_fail, granted_by: &["CACHE.FILL"];
    "CACHE.FETCH" -2 READ | FAST | ALONE | TICKET, ONE_KEY, "cache" "7.4.0" "Returns a value, or the lease to load it, or waits for who has it.", cache::read_fetch;
    "CACHE.FILL" -4 WRITE | DENY_OOM | WORKER | LOADER | FILL, ONE_KEY, "cache" "7.4.0" "Stores a value that was loaded under a lease, unless something changed meanwhile.", cache::read_fill;
    "CACHE.FORGET" -2 ADMIN, NO_KEY, "cache" "7.4.0" "Stops serving patterns by loader workers.", cache::read_forget, uses: Uses::Patterns;
    "CACHE.GET" 2 READ | FAST | LOAD | LOOKS, ONE_KEY, "cache" "7.4.0" "Returns a value, with its flags if it has any.", |_, a| Ok(Command::Cache(CacheCommand::Get(arg(a, 0))));
    "CACHE.INCR" -3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "cache" "7.4.0" "Adds to a number; its time to live and tags count if it is new.", cache::read_incr;
    "CACHE.INSPECT" 2 READ | FAST, ONE_KEY, "cache" "7.4.0" "Returns everything known of a key.", |_, a| Ok(Command::Cache(CacheCommand::Inspect(arg(a, 0))));
    "CACHE.INVALIDATE" -3 WRITE | TAGS, NO_KEY, "cache" "7.4.0" "Makes sure that no value of these keys and tags is served again.", cache::read_invalidate, uses: Uses::NamedKeys;
    "CACHE.LOADER" -2 CONNECTION | WORKER | ALONE | LOADER, NO_KEY, "cache" "7.4.0" "Makes the connection a loader worker for keys that match.", cache::read_loader, uses: Uses::LoadedPatterns;
    "CACHE.MGET" -2 READ | FAST | LOAD | LOOKS, ALL_KEYS, "cache" "7.4.0" "Returns values, each with its flags if it has any.", |_, a| Ok(Command::Cache(CacheCommand::GetMany(a)));
    "CACHE.RELEASE" 3 WRITE | FAST | WORKER | LOADER, ONE_KEY, "cache" "7.4.0" "Gives a lease to the next without an error.", |_, a| Ok(Command::Cache(CacheCommand::Release(arg(a, 0), cache::token(a, 1)?))), granted_by: &["CACHE.FILL"];
    "CACHE.RENEW" 4 WRITE | FAST | WORKER | LOADER, ONE_KEY, "cache" "7.4.0" "Holds a lease for longer.", |_, a| Ok(Command::Cache(CacheCommand::Renew { key: arg(a, 0), token: cache::token(a, 1)?, millis: cache::millis(a, 2, 1)? })), granted_by: &["CACHE.FILL"];
    "CACHE.SESSION" -3 FAST | CONNECTION | ALONE | EVERYBODY, NO_KEY, "cache" "7.4.0" "Names the client, so that its older connections are closed.", cache::read_session;
    "CACHE.SET" -3 WRITE | DENY_OOM, ONE_KEY, "cache" "7.4.0" "Writes a value with freshness, tags and flags.", cache::read_set;
    "CLIENT" -2 CONNECTION | WORKER | KEEPS_CACHING, NO_KEY, "connection" "2.4.0" "Tells and sets what the server knows of this connection.", client::read_client, subs: &[("caching", 3), ("getname", 2), ("getredir", 2), ("id", 2), ("info", 2), ("kill", -3), ("list", -2), ("no-evict", 3), ("reply", 3), ("setinfo", 4), ("setname", 3), ("tracking", -3), ("trackinginfo", 2)];
    "COMMAND" -1 CONNECTION, NO_KEY, "server" "2.8.13" "Describes the commands there are.", read_command, subs: &[("count", 2), ("docs", -2), ("getkeys", -4), ("getkeysandflags", -4), ("info", -2), ("list", -2)];
    "CONFIG" -2 ADMIN, NO_KEY, "server" "2.0.0" "Tells the settings of the server.", config::read_config, subs: &[("get", -3), ("resetstat", 2), ("rewrite", 2), ("set", -4)];
    "COPY" -3 WRITE | DENY_OOM | LOAD | WIDE, (1, 2, 1), "generic" "6.2.0" "Copies a value with all that is kept beside it.", keyspace::read_copy;
    "DBSIZE" 1 READ | FAST, NO_KEY, "server" "1.0.0" "Returns the number of keys in the selected database.", |_, _| Ok(Command::DbSize);
    "DECR" 2 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Takes one from the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), -1));
    "DECRBY" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Takes from the number at a key, which counts from 0 if there is none.", read_decrby;
    "DEL" -2 WRITE, ALL_KEYS, "generic" "1.0.0" "Removes keys and returns how many there were.", |_, a| Ok(Command::Delete(a));
    "DELIFEQ" 3 WRITE | FAST | LOAD, ONE_KEY, "string" "9.0.0" "Removes a key if it has the given value.", |_, a| Ok(Command::Text(TextCommand::RemoveIf(arg(a, 0), arg(a, 1))));
    "DISCARD" 1 FAST | TRANSACTION, NO_KEY, "transactions" "2.0.0" "Forgets the commands of a transaction.", |_, _| Ok(Command::Discard);
    "ECHO" 2 FAST | CONNECTION | WORKER | UNSEEN, NO_KEY, "connection" "1.0.0" "Returns the message.", |_, a| Ok(Command::Echo(arg(a, 0)));
    "EVAL" -3 WRITE | DENY_OOM, NO_KEY, "scripting" "2.6.0" "Runs one of the scripts that are known by their SHA-1.", scripts::read_eval, copies: Copies::Short;
    "EVALSHA" -3 WRITE | DENY_OOM, NO_KEY, "scripting" "2.6.0" "Runs one of the scripts that are known by their SHA-1.", scripts::read_evalsha, copies: Copies::Short;
    "EXEC" 1 TRANSACTION | EXECUTES, NO_KEY, "transactions" "1.2.0" "Runs the commands of a transaction in one step.", |_, _| Ok(Command::Exec);
    "EXISTS" -2 READ | FAST | LOAD, ALL_KEYS, "generic" "1.0.0" "Returns how many of the keys there are.", |_, a| Ok(Command::Exists(a));
    "EXPIRE" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Sets after how many seconds a key expires.", |r, a| read_expire(r, a, 1000, false);
    "EXPIREAT" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "1.2.0" "Sets at which second of Unix time a key expires.", |r, a| read_expire(r, a, 1000, true);
    "EXPIRETIME" 2 READ | FAST | LOAD, ONE_KEY, "generic" "7.0.0" "Returns at which second of Unix time a key expires.", |_, a| Ok(Command::Key(KeyCommand::ExpireTime { key: arg(a, 0), millis: false }));
    "FLUSHALL" -1 WRITE, NO_KEY, "server" "1.0.0" "Removes all keys of all databases.", |_, a| read_flush(a, true), uses: Uses::AllKeys;
    "FLUSHDB" -1 WRITE, NO_KEY, "server" "1.0.0" "Removes all keys of the selected database.", |_, a| read_flush(a, false), uses: Uses::AllKeys;
    "FUNCTION" -2 ADMIN, NO_KEY, "scripting" "7.0.0" "There are no functions; FLUSH has nothing to do.", scripts::read_function, subs: &[("flush", -2)];
    "GET" 2 READ | FAST | LOAD | LOOKS, ONE_KEY, "string" "1.0.0" "Returns the value of a key.", |_, a| Ok(Command::Get(arg(a, 0))), fast: Some(Fast::Get);
    "GETDEL" 2 WRITE | FAST | LOAD, ONE_KEY, "string" "6.2.0" "Returns the value of a key and removes it.", |_, a| Ok(Command::Text(TextCommand::Take(arg(a, 0), After::Remove)));
    "GETEX" -2 WRITE | FAST | LOAD, ONE_KEY, "string" "6.2.0" "Returns the value of a key and sets when it expires.", text::read_getex, copies: Copies::TwoShort;
    "GETRANGE" 4 READ | LOAD, ONE_KEY, "string" "2.4.0" "Returns a part of a value.", |_, a| Ok(Command::Text(TextCommand::Range(arg(a, 0), integer(arg(a, 1))?, integer(arg(a, 2))?)));
    "GETSET" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Writes a value and returns the one before.", read_getset;
    "HELLO" -1 FAST | NO_AUTH | CONNECTION | WORKER, NO_KEY, "connection" "6.0.0" "Chooses the protocol version and tells who the server is.", read_hello;
    "INCR" 2 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Adds one to the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), 1));
    "INCRBY" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Adds to the number at a key, which counts from 0 if there is none.", |_, a| Ok(Command::Increment(arg(a, 0), integer(arg(a, 1))?));
    "INCRBYFLOAT" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "2.6.0" "Adds to a number with a fraction.", |_, a| Ok(Command::Text(TextCommand::Add(arg(a, 0), arg(a, 1))));
    "INFO" -1 ADMIN | FEW_WORDS, NO_KEY, "server" "1.0.0" "Returns facts and figures about the server.", |_, a| Ok(Command::Info(a));
    "KEYS" 2 READ, NO_KEY, "generic" "1.0.0" "Returns all keys that match a pattern.", |_, a| Ok(Command::Key(KeyCommand::Keys(arg(a, 0))));
    "LASTSAVE" 1 FAST | ADMIN, NO_KEY, "server" "1.0.0" "Returns when the server began: nothing is saved.", |_, _| Ok(Command::LastSave);
    "MEMORY" -2 READ, NO_KEY, "server" "4.0.0" "Tells what memory is used for.", keyspace::read_memory, subs: &[("purge", 2), ("stats", 2), ("usage", -3)];
    "MGET" -2 READ | FAST | LOAD | LOOKS, ALL_KEYS, "string" "1.0.0" "Returns the values of several keys as of one instant.", |_, a| Ok(Command::MGet(a)), fast: Some(Fast::GetMany);
    "MOVE" 3 WRITE | FAST | LOAD | WIDE, ONE_KEY, "generic" "1.0.0" "Moves a key to another database.", keyspace::read_move;
    "MSET" -3 WRITE | DENY_OOM, (1, -1, 2), "string" "1.0.1" "Writes several values in one step.", read_mset;
    "MSETNX" -3 WRITE | DENY_OOM | LOAD, (1, -1, 2), "string" "1.0.1" "Writes several values in one step if there is none of them.", text::read_msetnx;
    "MULTI" 1 FAST | TRANSACTION, NO_KEY, "transactions" "1.2.0" "Begins a transaction: what follows is queued.", |_, _| Ok(Command::Multi);
    "OBJECT" -2 READ | LOAD, (2, 2, 1), "generic" "2.2.3" "Tells how a value is kept.", keyspace::read_object, subs: &[("encoding", 3), ("freq", 3), ("idletime", 3), ("refcount", 3)];
    "PERSIST" 2 WRITE | FAST | LOAD, ONE_KEY, "generic" "2.2.0" "Takes the expiry of a key away.", |_, a| Ok(Command::Persist(arg(a, 0)));
    "PEXPIRE" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "2.6.0" "Sets after how many milliseconds a key expires.", |r, a| read_expire(r, a, 1, false);
    "PEXPIREAT" -3 WRITE | FAST | LOAD, ONE_KEY, "generic" "2.6.0" "Sets at which millisecond of Unix time a key expires.", |r, a| read_expire(r, a, 1, true);
    "PEXPIRETIME" 2 READ | FAST | LOAD, ONE_KEY, "generic" "7.0.0" "Returns at which millisecond of Unix time a key expires.", |_, a| Ok(Command::Key(KeyCommand::ExpireTime { key: arg(a, 0), millis: true }));
    "PING" -1 FAST | CONNECTION | WORKER | LISTENER | UNSEEN, NO_KEY, "connection" "1.0.0" "Returns PONG, or the message.", read_ping;
    "PSETEX" 4 WRITE | DENY_OOM, ONE_KEY, "string" "2.6.0" "Writes a value that expires after so many milliseconds.", |r, a| read_setex(r, a, 1);
    "PSUBSCRIBE" -2 CONNECTION | ALONE | LISTENER, NO_KEY, "pubsub" "2.0.0" "Listens to all channels that match.", pubsub::read_psubscribe, uses: Uses::ChannelPatterns;
    "PTTL" 2 READ | FAST | LOAD, ONE_KEY, "generic" "2.6.0" "Returns how many milliseconds a key has to live.", |_, a| Ok(Command::Ttl { key: arg(a, 0), millis: true });
    "PUBLISH" 3 FAST | CONNECTION | UNSEEN, NO_KEY, "pubsub" "2.0.0" "Sends a message to all who listen and returns how many they are.", pubsub::read_publish, uses: Uses::Channel;
    "PUBSUB" -2 CONNECTION, NO_KEY, "pubsub" "2.8.0" "Tells which channels and patterns are listened to.", pubsub::read_pubsub, subs: &[("channels", -2), ("numpat", 2), ("numsub", -2)];
    "PUNSUBSCRIBE" -1 CONNECTION | ALONE | LISTENER, NO_KEY, "pubsub" "2.0.0" "Listens to patterns no more.", |_, a| Ok(Command::PubSub(PubSubCommand::Unsubscribe(Topic::Pattern, a)));
    "QUIT" -1 FAST | NO_AUTH | CONNECTION | WORKER | TRANSACTION | LISTENER, NO_KEY, "connection" "1.0.0" "Closes the connection.", |_, _| Ok(Command::Quit);
    "RANDOMKEY" 1 READ, NO_KEY, "generic" "1.0.0" "Returns any key.", keyspace::read_randomkey;
    "RENAME" 3 WRITE | LOAD, (1, 2, 1), "generic" "1.0.0" "Gives a value another key.", |_, a| keyspace::read_renaming(a, true, Rename::Always);
    "RENAMENX" 3 WRITE | FAST | LOAD, (1, 2, 1), "generic" "1.0.0" "Gives a value another key if that is free.", |_, a| keyspace::read_renaming(a, false, Rename::IfNew);
    "RESET" 1 FAST | NO_AUTH | CONNECTION | TRANSACTION | LISTENER, NO_KEY, "connection" "6.2.0" "Makes the connection as it was at its beginning.", |_, _| Ok(Command::Reset);
    "SCAN" -2 READ, NO_KEY, "generic" "2.8.0" "Goes through the keys, some at a time.", keyspace::read_scan;
    "SCRIPT" -2 ADMIN, NO_KEY, "scripting" "2.6.0" "Tells which scripts are known.", scripts::read_script, subs: &[("exists", -3), ("flush", -2), ("load", 3)];
    "SELECT" 2 FAST | CONNECTION | WIDE, NO_KEY, "connection" "1.0.0" "Chooses one of the 16 databases.", |_, a| keyspace::database(arg(a, 0)).map(Command::Select);
    "SET" -3 WRITE | DENY_OOM, ONE_KEY, "string" "1.0.0" "Writes the value of a key.", read_set, uses: Uses::ValueBefore, fast: Some(Fast::Set);
    "SETEX" 4 WRITE | DENY_OOM, ONE_KEY, "string" "2.0.0" "Writes a value that expires after so many seconds.", |r, a| read_setex(r, a, 1000);
    "SETNX" 3 WRITE | DENY_OOM | FAST | LOAD, ONE_KEY, "string" "1.0.0" "Writes a value if there is none.", |_, a| Ok(Command::Text(TextCommand::SetNew(arg(a, 0), arg(a, 1))));
    "SETRANGE" 4 WRITE | DENY_OOM | LOAD, ONE_KEY, "string" "2.2.0" "Writes over a part of a value.", text::read_setrange, copies: Copies::Long;
    "STRLEN" 2 READ | FAST | LOAD, ONE_KEY, "string" "2.2.0" "Returns the length of a value.", |_, a| Ok(Command::Text(TextCommand::Length(arg(a, 0))));
    "SUBSCRIBE" -2 CONNECTION | ALONE | LISTENER, NO_KEY, "pubsub" "2.0.0" "Listens to channels.", pubsub::read_subscribe, uses: Uses::Channels;
    "SUBSTR" 4 READ | LOAD, ONE_KEY, "string" "1.0.0" "Returns a part of a value; GETRANGE by its old name.", |_, a| Ok(Command::Text(TextCommand::Range(arg(a, 0), integer(arg(a, 1))?, integer(arg(a, 2))?)));
    "TIME" 1 FAST, NO_KEY, "server" "2.6.0" "Returns the wall clock in seconds and microseconds.", |_, _| Ok(Command::Time);
    "TOUCH" -2 READ | FAST | LOAD, ALL_KEYS, "generic" "3.2.1" "Returns how many of the keys there are, as if they had been asked for.", |_, a| Ok(Command::Exists(a));
    "TTL" 2 READ | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Returns how many seconds a key has to live.", |_, a| Ok(Command::Ttl { key: arg(a, 0), millis: false });
    "TYPE" 2 READ | FAST | LOAD, ONE_KEY, "generic" "1.0.0" "Returns the type of a value: string, or none.", |_, a| Ok(Command::Key(KeyCommand::Type(arg(a, 0))));
    "UNLINK" -2 WRITE | FAST, ALL_KEYS, "generic" "4.0.0" "Removes keys and returns how many there were.", |_, a| Ok(Command::Delete(a));
    "UNSUBSCRIBE" -1 CONNECTION | ALONE | LISTENER, NO_KEY, "pubsub" "2.0.0" "Listens to channels no more.", |_, a| Ok(Command::PubSub(PubSubCommand::Unsubscribe(Topic::Channel, a)));
    "UNWATCH" 1 FAST, NO_KEY, "transactions" "2.2.0" "Forgets what is watched.", |_, _| Ok(Command::Unwatch);
    "WATCH" -2 FAST | TRANSACTION, ALL_KEYS, "transactions" "2.2.0" "Lets the next transaction run only if nothing happens to these keys.", |_, a| Ok(Command::Watch(a));
}

/// Every command there is.
pub static TABLE: &[Row] = &ROWS;

/// The row of a command, looked for when this is compiled.
pub(super) const fn row(name: &str) -> &'static Row {
    &ROWS[place(name)]
}

/// The place of a command in the table, looked for when this is compiled.
pub(super) const fn place(name: &str) -> usize {
    let mut at = 0;
    while !is_same(ROWS[at].name.as_bytes(), name.as_bytes()) {
        at += 1;
    }
    at
}

/// The time of a GETEX, which is read when it is known that there is a value.
pub(crate) fn read_late_expiry(text: &[u8], unit: i64, absolute: bool) -> Result<Expiry, Error> {
    read_time(const { row("GETEX") }, text, unit, absolute)
}

const fn is_same(one: &[u8], other: &[u8]) -> bool {
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

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
#[inline(always)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_whatever_its_case() {
        for row in TABLE {
            assert!(std::ptr::eq(lookup(row.name.as_bytes()).unwrap(), row), "{}", row.name);
            assert!(std::ptr::eq(super::row(row.name), row), "{}", row.name);
            assert!(std::ptr::eq(lookup(row.name.to_ascii_lowercase().as_bytes()).unwrap(), row), "{}", row.name);
        }
        for name in [&b""[..], b"G", b"GETT", b"\xc7\xc5\xd4", b"NOSUCH"] {
            assert!(lookup(name).is_none());
        }
    }
}
