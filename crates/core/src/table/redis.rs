//! What Redis tells of its commands: flags, categories, tips and how each key is used, by command and subcommand. COMMAND
//! answers it, and the rights of users go by it. Commands that only this server has are
//! described by their row of the table.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::row::{Row, Uses, flag};
use super::rows::{TABLE, lookup, place};
use crate::vocabulary::{Args, integer, is};

/// How the keys of a command are found: index of the first (of their number, if the step is 0), last key relative to it
/// (negative: counted from the end), step.
pub type Range = (i32, i32, i32);

/// How a command uses some of its keys.
#[derive(Clone, Copy, Debug)]
pub struct KeySpec {
    /// As COMMAND tells them.
    pub flags: &'static str,
    /// Where the keys stand.
    pub range: Range,
    /// A remark; mostly empty.
    pub notes: &'static str,
    /// The value is returned.
    pub reads: bool,
    /// The value is changed.
    pub writes: bool,
}

impl KeySpec {
    fn new(flags: &'static str, range: Range, notes: &'static str) -> KeySpec {
        let has = |word: &str| flags.split(' ').any(|known| known == word);
        let writes = ["update", "insert", "delete"].iter().any(|word| has(word));
        KeySpec { flags, range, notes, reads: has("access"), writes }
    }

    /// The same as these words use them: SET reads what was there only if it is asked for it.
    pub fn in_words(&self, row: &Row, args: Args<'_>) -> KeySpec {
        if row.uses != Uses::ValueBefore {
            return *self;
        }
        let reads = asks_for_value(args);
        KeySpec { reads, flags: if reads { "RW access update" } else { "OW update" }, ..*self }
    }

    /// The keys among the arguments of a command, of which the name is the first; None if their number is wrong.
    pub fn keys<'a>(&self, args: Args<'a>) -> Option<impl Iterator<Item = &'a [u8]> + use<'a>> {
        let (first, last, step) = (self.range.0 as usize, self.range.1, self.range.2 as usize);
        let (first, end, step) = if step == 0 {
            let count = usize::try_from(integer(args.get(first)?).ok()?).ok()?;
            (first + 1, first.saturating_add(1).saturating_add(count), 1)
        } else if last < 0 {
            (first, args.len().saturating_sub(last.unsigned_abs() as usize - 1), step)
        } else {
            (first, first + last as usize + 1, step)
        };
        (end <= args.len()).then(|| (first..end).step_by(step).filter_map(move |at| args.get(at)))
    }
}

/// Whether a SET returns or compares what was there.
pub fn asks_for_value(args: Args<'_>) -> bool {
    args.from(3).iter().any(|word| is(word, "GET") || is(word, "IFEQ"))
}

/// A command or a subcommand, which rights can be given to.
#[derive(Debug)]
pub struct Unit {
    /// Its name in small letters, with `|` before a subcommand.
    pub name: String,
    /// Number of arguments with the name; negative: at least so many.
    pub arity: i32,
    /// Words of COMMAND.
    pub flags: Vec<&'static str>,
    /// First key, last key and step.
    pub keys: Range,
    /// Its categories, each behind an `@`.
    pub categories: Vec<&'static str>,
    /// Hints for proxies.
    pub tips: Vec<&'static str>,
    /// How it uses its keys.
    pub specs: Vec<KeySpec>,
    /// What the command is kept as.
    pub row: &'static Row,
}

type Specs = &'static [(&'static str, Range, &'static str)];

/// Name, arity, flags, keys, categories, tips and uses of keys, as redis-server 7.0 has them.
#[rustfmt::skip]
static FACTS: &[(&str, i32, &str, Range, &str, &str, Specs)] = &[
    ("acl", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("acl|cat", -2, "noscript loading stale", (0, 0, 0), "@slow", "", &[]),
    ("acl|getuser", 3, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous", "", &[]),
    ("acl|list", 2, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous", "", &[]),
    ("acl|users", 2, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous", "", &[]),
    ("acl|whoami", 2, "noscript loading stale", (0, 0, 0), "@slow", "", &[]),
    ("append", 3, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("RW insert", (1, 0, 1), "")]),
    ("auth", -2, "noscript loading stale fast no_auth allow_busy", (0, 0, 0), "@fast @connection", "", &[]),
    ("client", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("client|caching", 3, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|getname", 2, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|getredir", 2, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|id", 2, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|info", 2, "noscript loading stale", (0, 0, 0), "@slow @connection", "nondeterministic_output", &[]),
    ("client|kill", -3, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous @connection", "", &[]),
    ("client|list", -2, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous @connection", "nondeterministic_output", &[]),
    ("client|no-evict", 3, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous @connection", "", &[]),
    ("client|reply", 3, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|setinfo", 4, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|setname", 3, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|tracking", -3, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("client|trackinginfo", 2, "noscript loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("command", -1, "loading stale", (0, 0, 0), "@slow @connection", "nondeterministic_output_order", &[]),
    ("command|count", 2, "loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("command|docs", -2, "loading stale", (0, 0, 0), "@slow @connection", "nondeterministic_output_order", &[]),
    ("command|getkeys", -4, "loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("command|getkeysandflags", -4, "loading stale", (0, 0, 0), "@slow @connection", "", &[]),
    ("command|info", -2, "loading stale", (0, 0, 0), "@slow @connection", "nondeterministic_output_order", &[]),
    ("command|list", -2, "loading stale", (0, 0, 0), "@slow @connection", "nondeterministic_output_order", &[]),
    ("config", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("config|get", -3, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous", "", &[]),
    ("config|resetstat", 2, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous", "", &[]),
    ("config|rewrite", 2, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous", "", &[]),
    ("config|set", -4, "admin noscript loading stale", (0, 0, 0), "@admin @slow @dangerous", "request_policy:all_nodes response_policy:all_succeeded", &[]),
    ("copy", -3, "write denyoom", (1, 2, 1), "@keyspace @write @slow", "", &[("RO access", (1, 0, 1), ""), ("OW update", (2, 0, 1), "")]),
    ("dbsize", 1, "readonly fast", (0, 0, 0), "@keyspace @read @fast", "request_policy:all_shards response_policy:agg_sum", &[]),
    ("decr", 2, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("RW access update", (1, 0, 1), "")]),
    ("decrby", 3, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("RW access update", (1, 0, 1), "")]),
    ("del", -2, "write", (1, -1, 1), "@keyspace @write @slow", "request_policy:multi_shard response_policy:agg_sum", &[("RM delete", (1, -1, 1), "")]),
    ("discard", 1, "noscript loading stale fast allow_busy", (0, 0, 0), "@fast @transaction", "", &[]),
    ("echo", 2, "loading stale fast", (0, 0, 0), "@fast @connection", "", &[]),
    ("eval", -3, "noscript stale skip_monitor no_mandatory_keys movablekeys", (0, 0, 0), "@slow @scripting", "", &[("RW access update", (2, 0, 0), "We cannot tell how the keys will be used so we assume the worst, RW and UPDATE")]),
    ("evalsha", -3, "noscript stale skip_monitor no_mandatory_keys movablekeys", (0, 0, 0), "@slow @scripting", "", &[("RW access update", (2, 0, 0), "")]),
    ("exec", 1, "noscript loading stale skip_slowlog", (0, 0, 0), "@slow @transaction", "", &[]),
    ("exists", -2, "readonly fast", (1, -1, 1), "@keyspace @read @fast", "request_policy:multi_shard response_policy:agg_sum", &[("RO", (1, -1, 1), "")]),
    ("expire", -3, "write fast", (1, 1, 1), "@keyspace @write @fast", "", &[("RW update", (1, 0, 1), "")]),
    ("expireat", -3, "write fast", (1, 1, 1), "@keyspace @write @fast", "", &[("RW update", (1, 0, 1), "")]),
    ("expiretime", 2, "readonly fast", (1, 1, 1), "@keyspace @read @fast", "", &[("RO access", (1, 0, 1), "")]),
    ("flushall", -1, "write", (0, 0, 0), "@keyspace @write @slow @dangerous", "request_policy:all_shards response_policy:all_succeeded", &[]),
    ("flushdb", -1, "write", (0, 0, 0), "@keyspace @write @slow @dangerous", "request_policy:all_shards response_policy:all_succeeded", &[]),
    ("function", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("function|flush", -2, "write noscript", (0, 0, 0), "@write @slow @scripting", "request_policy:all_shards response_policy:all_succeeded", &[]),
    ("get", 2, "readonly fast", (1, 1, 1), "@read @string @fast", "", &[("RO access", (1, 0, 1), "")]),
    ("getdel", 2, "write fast", (1, 1, 1), "@write @string @fast", "", &[("RW access delete", (1, 0, 1), "")]),
    ("getex", -2, "write fast", (1, 1, 1), "@write @string @fast", "", &[("RW access update", (1, 0, 1), "RW and UPDATE because it changes the TTL")]),
    ("getrange", 4, "readonly", (1, 1, 1), "@read @string @slow", "", &[("RO access", (1, 0, 1), "")]),
    ("getset", 3, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("RW access update", (1, 0, 1), "")]),
    ("hello", -1, "noscript loading stale fast no_auth allow_busy", (0, 0, 0), "@fast @connection", "", &[]),
    ("incr", 2, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("RW access update", (1, 0, 1), "")]),
    ("incrby", 3, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("RW access update", (1, 0, 1), "")]),
    ("incrbyfloat", 3, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("RW access update", (1, 0, 1), "")]),
    ("info", -1, "loading stale", (0, 0, 0), "@slow @dangerous", "nondeterministic_output request_policy:all_shards response_policy:special", &[]),
    ("keys", 2, "readonly", (0, 0, 0), "@keyspace @read @slow @dangerous", "request_policy:all_shards nondeterministic_output_order", &[]),
    ("lastsave", 1, "loading stale fast", (0, 0, 0), "@admin @fast @dangerous", "nondeterministic_output", &[]),
    ("memory", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("memory|purge", 2, "", (0, 0, 0), "@slow", "request_policy:all_shards response_policy:all_succeeded", &[]),
    ("memory|stats", 2, "", (0, 0, 0), "@slow", "nondeterministic_output request_policy:all_shards response_policy:special", &[]),
    ("memory|usage", -3, "readonly", (2, 2, 1), "@read @slow", "", &[("RO", (2, 0, 1), "")]),
    ("mget", -2, "readonly fast", (1, -1, 1), "@read @string @fast", "request_policy:multi_shard", &[("RO access", (1, -1, 1), "")]),
    ("move", 3, "write fast", (1, 1, 1), "@keyspace @write @fast", "", &[("RW access update", (1, 0, 1), "")]),
    ("mset", -3, "write denyoom", (1, -1, 2), "@write @string @slow", "request_policy:multi_shard response_policy:all_succeeded", &[("OW update", (1, -1, 2), "")]),
    ("msetnx", -3, "write denyoom", (1, -1, 2), "@write @string @slow", "request_policy:multi_shard response_policy:agg_min", &[("OW insert", (1, -1, 2), "")]),
    ("multi", 1, "noscript loading stale fast allow_busy", (0, 0, 0), "@fast @transaction", "", &[]),
    ("object", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("object|encoding", 3, "readonly", (2, 2, 1), "@keyspace @read @slow", "nondeterministic_output", &[("RO", (2, 0, 1), "")]),
    ("object|freq", 3, "readonly", (2, 2, 1), "@keyspace @read @slow", "nondeterministic_output", &[("RO", (2, 0, 1), "")]),
    ("object|idletime", 3, "readonly", (2, 2, 1), "@keyspace @read @slow", "nondeterministic_output", &[("RO", (2, 0, 1), "")]),
    ("object|refcount", 3, "readonly", (2, 2, 1), "@keyspace @read @slow", "nondeterministic_output", &[("RO", (2, 0, 1), "")]),
    ("persist", 2, "write fast", (1, 1, 1), "@keyspace @write @fast", "", &[("RW update", (1, 0, 1), "")]),
    ("pexpire", -3, "write fast", (1, 1, 1), "@keyspace @write @fast", "", &[("RW update", (1, 0, 1), "")]),
    ("pexpireat", -3, "write fast", (1, 1, 1), "@keyspace @write @fast", "", &[("RW update", (1, 0, 1), "")]),
    ("pexpiretime", 2, "readonly fast", (1, 1, 1), "@keyspace @read @fast", "", &[("RO access", (1, 0, 1), "")]),
    ("ping", -1, "fast", (0, 0, 0), "@fast @connection", "request_policy:all_shards response_policy:all_succeeded", &[]),
    ("psetex", 4, "write denyoom", (1, 1, 1), "@write @string @slow", "", &[("OW update", (1, 0, 1), "")]),
    ("psubscribe", -2, "pubsub noscript loading stale", (0, 0, 0), "@pubsub @slow", "", &[]),
    ("pttl", 2, "readonly fast", (1, 1, 1), "@keyspace @read @fast", "nondeterministic_output", &[("RO access", (1, 0, 1), "")]),
    ("publish", 3, "pubsub loading stale fast", (0, 0, 0), "@pubsub @fast", "", &[]),
    ("pubsub", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("pubsub|channels", -2, "pubsub loading stale", (0, 0, 0), "@pubsub @slow", "", &[]),
    ("pubsub|numpat", 2, "pubsub loading stale", (0, 0, 0), "@pubsub @slow", "", &[]),
    ("pubsub|numsub", -2, "pubsub loading stale", (0, 0, 0), "@pubsub @slow", "", &[]),
    ("punsubscribe", -1, "pubsub noscript loading stale", (0, 0, 0), "@pubsub @slow", "", &[]),
    ("quit", -1, "noscript loading stale fast no_auth allow_busy", (0, 0, 0), "@fast @connection", "", &[]),
    ("randomkey", 1, "readonly", (0, 0, 0), "@keyspace @read @slow", "request_policy:all_shards nondeterministic_output", &[]),
    ("rename", 3, "write", (1, 2, 1), "@keyspace @write @slow", "", &[("RW access delete", (1, 0, 1), ""), ("OW update", (2, 0, 1), "")]),
    ("renamenx", 3, "write fast", (1, 2, 1), "@keyspace @write @fast", "", &[("RW access delete", (1, 0, 1), ""), ("OW insert", (2, 0, 1), "")]),
    ("reset", 1, "noscript loading stale fast no_auth allow_busy", (0, 0, 0), "@fast @connection", "", &[]),
    ("scan", -2, "readonly", (0, 0, 0), "@keyspace @read @slow", "nondeterministic_output request_policy:special", &[]),
    ("script", -2, "", (0, 0, 0), "@slow", "", &[]),
    ("script|exists", -3, "noscript", (0, 0, 0), "@slow @scripting", "request_policy:all_shards response_policy:agg_logical_and", &[]),
    ("script|flush", -2, "noscript", (0, 0, 0), "@slow @scripting", "request_policy:all_nodes response_policy:all_succeeded", &[]),
    ("script|load", 3, "noscript stale", (0, 0, 0), "@slow @scripting", "request_policy:all_nodes response_policy:all_succeeded", &[]),
    ("select", 2, "loading stale fast", (0, 0, 0), "@fast @connection", "", &[]),
    ("set", -3, "write denyoom", (1, 1, 1), "@write @string @slow", "", &[("RW access update variable_flags", (1, 0, 1), "RW and ACCESS due to the optional `GET` argument")]),
    ("setex", 4, "write denyoom", (1, 1, 1), "@write @string @slow", "", &[("OW update", (1, 0, 1), "")]),
    ("setnx", 3, "write denyoom fast", (1, 1, 1), "@write @string @fast", "", &[("OW insert", (1, 0, 1), "")]),
    ("setrange", 4, "write denyoom", (1, 1, 1), "@write @string @slow", "", &[("RW update", (1, 0, 1), "")]),
    ("strlen", 2, "readonly fast", (1, 1, 1), "@read @string @fast", "", &[("RO", (1, 0, 1), "")]),
    ("subscribe", -2, "pubsub noscript loading stale", (0, 0, 0), "@pubsub @slow", "", &[]),
    ("substr", 4, "readonly", (1, 1, 1), "@read @string @slow", "", &[("RO access", (1, 0, 1), "")]),
    ("time", 1, "loading stale fast", (0, 0, 0), "@fast", "nondeterministic_output", &[]),
    ("touch", -2, "readonly fast", (1, -1, 1), "@keyspace @read @fast", "request_policy:multi_shard response_policy:agg_sum", &[("RO", (1, -1, 1), "")]),
    ("ttl", 2, "readonly fast", (1, 1, 1), "@keyspace @read @fast", "nondeterministic_output", &[("RO access", (1, 0, 1), "")]),
    ("type", 2, "readonly fast", (1, 1, 1), "@keyspace @read @fast", "", &[("RO", (1, 0, 1), "")]),
    ("unlink", -2, "write fast", (1, -1, 1), "@keyspace @write @fast", "request_policy:multi_shard response_policy:agg_sum", &[("RM delete", (1, -1, 1), "")]),
    ("unsubscribe", -1, "pubsub noscript loading stale", (0, 0, 0), "@pubsub @slow", "", &[]),
    ("unwatch", 1, "noscript loading stale fast allow_busy", (0, 0, 0), "@fast @transaction", "", &[]),
    ("watch", -2, "noscript loading stale fast allow_busy", (1, -1, 1), "@fast @transaction", "", &[("RO", (1, -1, 1), "")]),
];

/// Commands and subcommands of Redis that are not here: rules of users may name them, to no effect.
const ABSENT: &str = "\
    acl|deluser acl|dryrun acl|genpass acl|help acl|load acl|log acl|save acl|setuser asking bgrewriteaof \
    bgsave bitcount bitfield bitfield_ro bitop bitpos blmove blmpop blpop brpop brpoplpush bzmpop bzpopmax \
    bzpopmin client|help client|no-touch client|pause client|unblock client|unpause cluster cluster|addslots \
    cluster|addslotsrange cluster|bumpepoch cluster|count-failure-reports cluster|countkeysinslot \
    cluster|delslots cluster|delslotsrange cluster|failover cluster|flushslots cluster|forget \
    cluster|getkeysinslot cluster|help cluster|info cluster|keyslot cluster|links cluster|meet cluster|myid \
    cluster|myshardid cluster|nodes cluster|replicas cluster|replicate cluster|reset cluster|saveconfig \
    cluster|set-config-epoch cluster|setslot cluster|shards cluster|slaves cluster|slots command|help \
    config|help debug dump eval_ro evalsha_ro failover fcall fcall_ro function|delete function|dump \
    function|help function|kill function|list function|load function|restore function|stats geoadd geodist \
    geohash geopos georadius georadius_ro georadiusbymember georadiusbymember_ro geosearch geosearchstore \
    getbit hdel hexists hexpire hexpireat hexpiretime hget hgetall hincrby hincrbyfloat hkeys hlen hmget \
    hmset hpersist hpexpire hpexpireat hpexpiretime hpttl hrandfield hscan hset hsetnx hstrlen httl hvals \
    latency latency|doctor latency|graph latency|help latency|histogram latency|history latency|latest \
    latency|reset lcs lindex linsert llen lmove lmpop lolwut lpop lpos lpush lpushx lrange lrem lset ltrim \
    memory|doctor memory|help memory|malloc-stats migrate module module|help module|list module|load \
    module|loadex module|unload monitor object|help pfadd pfcount pfdebug pfmerge pfselftest psync \
    pubsub|help pubsub|shardchannels pubsub|shardnumsub readonly readwrite replconf replicaof restore \
    restore-asking role rpop rpoplpush rpush rpushx sadd save scard script|debug script|help script|kill \
    sdiff sdiffstore setbit shutdown sinter sintercard sinterstore sismember slaveof slowlog slowlog|get \
    slowlog|help slowlog|len slowlog|reset smembers smismember smove sort sort_ro spop spublish srandmember \
    srem sscan ssubscribe sunion sunionstore sunsubscribe swapdb sync wait waitaof xack xadd xautoclaim \
    xclaim xdel xgroup xgroup|create xgroup|createconsumer xgroup|delconsumer xgroup|destroy xgroup|help \
    xgroup|setid xinfo xinfo|consumers xinfo|groups xinfo|help xinfo|stream xlen xpending xrange xread \
    xreadgroup xrevrange xsetid xtrim zadd zcard zcount zdiff zdiffstore zincrby zinter zintercard \
    zinterstore zlexcount zmpop zmscore zpopmax zpopmin zrandmember zrange zrangebylex zrangebyscore \
    zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange zrevrangebylex \
    zrevrangebyscore zrevrank zscan zscore zunion zunionstore";

/// Categories of Redis, in its order, and those of this server.
#[rustfmt::skip]
pub const CATEGORIES: [&str; 23] = [
    "keyspace", "read", "write", "set", "sortedset", "list", "hash", "string", "bitmap", "hyperloglog", "geo",
    "stream", "pubsub", "admin", "fast", "slow", "blocking", "dangerous", "connection", "transaction", "scripting",
    "cache", "loader",
];

/// The place of the command by which a loader worker answers.
pub const FILL: usize = place("CACHE.FILL");

impl Unit {
    /// A command that Redis does not have.
    fn own(row: &'static Row) -> Unit {
        const FLAGS: [(u32, &str); 6] = [
            (flag::WRITE, "write"),
            (flag::READ, "readonly"),
            (flag::DENY_OOM, "denyoom"),
            (flag::ADMIN, "admin"),
            (flag::FAST, "fast"),
            (flag::NO_AUTH, "no_auth"),
        ];
        let has = |bit| row.has(bit);
        let rest = [
            (row.group == "cache", "@cache"),
            (row.group == "string", "@string"),
            (has(flag::READ), "@read"),
            (has(flag::WRITE), "@write"),
            (has(flag::ADMIN), "@admin"),
            (has(flag::FAST), "@fast"),
            (!has(flag::FAST), "@slow"),
            (has(flag::ADMIN), "@dangerous"),
            (has(flag::CONNECTION), "@connection"),
            (has(flag::LOADER), "@loader"),
        ];
        let flags = match (has(flag::READ) || has(flag::LOAD) || !has(flag::WRITE), has(flag::WRITE)) {
            (true, true) => "RW access update",
            (true, false) => "RO access",
            (false, _) => "OW update",
        };
        let (first, last, step) = row.keys;
        // COMMAND counts the last key from the first, unless it counts from the end.
        let range = (first, if last < 0 { last } else { last - first }, step);
        let specs = if first == 0 { Vec::new() } else { vec![KeySpec::new(flags, range, "")] };
        Unit {
            name: row.name.to_ascii_lowercase(),
            arity: row.arity,
            flags: FLAGS.iter().filter(|(bit, _)| has(*bit)).map(|(_, word)| *word).collect(),
            keys: row.keys,
            categories: rest.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect(),
            tips: Vec::new(),
            specs,
            row,
        }
    }

    fn known(fact: &(&'static str, i32, &'static str, Range, &'static str, &'static str, Specs)) -> Unit {
        let (name, arity, flags, keys, categories, tips, specs) = *fact;
        let command = name.split('|').next().unwrap_or_default();
        Unit {
            name: name.to_owned(),
            arity,
            flags: flags.split_whitespace().collect(),
            keys,
            categories: categories.split_whitespace().collect(),
            tips: tips.split_whitespace().collect(),
            specs: specs.iter().map(|(flags, range, notes)| KeySpec::new(flags, *range, notes)).collect(),
            row: lookup(command.as_bytes()).expect("a row of the table"),
        }
    }

    /// Whether it is in a category.
    pub fn is_in(&self, category: &str) -> bool {
        self.categories.iter().any(|known| known[1..] == *category)
    }

    /// Whether it is a subcommand.
    pub fn is_sub(&self) -> bool {
        self.name.contains('|')
    }

    /// Its subcommands.
    pub fn subs(&self) -> impl Iterator<Item = &'static Unit> {
        UNITS.iter().filter(move |unit| unit.name.strip_prefix(&*self.name).is_some_and(|rest| rest.starts_with('|')))
    }
}

/// Commands in the order of the table, then subcommands.
pub static UNITS: LazyLock<Vec<Unit>> = LazyLock::new(|| {
    let known = |name: &str| FACTS.iter().find(|fact| fact.0 == name);
    let commands =
        TABLE.iter().map(|row| known(&row.name.to_ascii_lowercase()).map_or_else(|| Unit::own(row), Unit::known));
    commands.chain(FACTS.iter().filter(|fact| fact.0.contains('|')).map(Unit::known)).collect()
});

/// Places of the units, by name.
static PLACES: LazyLock<HashMap<&'static str, usize>> =
    LazyLock::new(|| UNITS.iter().enumerate().map(|(place, unit)| (&*unit.name, place)).collect());

/// The place of a command or subcommand among the units, however its name is cased.
pub fn place_of(name: &str) -> Option<usize> {
    PLACES.get(name.to_ascii_lowercase().as_str()).copied()
}

/// A command or subcommand.
pub fn unit(name: &str) -> Option<&'static Unit> {
    place_of(name).map(|place| &UNITS[place])
}

/// Whether Redis has a command or subcommand of this name that is not here.
pub fn is_absent(name: &str) -> bool {
    ABSENT.split_whitespace().any(|known| known.eq_ignore_ascii_case(name))
}

/// The place of a row in the table, and of its command among the units.
pub fn place_of_row(row: &'static Row) -> usize {
    (std::ptr::from_ref(row) as usize - TABLE.as_ptr() as usize) / size_of::<Row>()
}

/// The place of what a request asks for: of the subcommand, if the command has some and this is one.
pub fn place_in(row: &'static Row, args: Args<'_>) -> usize {
    let sub = || {
        let sub = args.get(1).filter(|sub| sub.len() <= 32)?;
        place_of(&format!("{}|{}", row.name, String::from_utf8_lossy(sub)))
    };
    let place = place_of_row(row);
    if row.has(flag::SUBCOMMANDS) { sub().unwrap_or(place) } else { place }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_their_subcommands_fit_together() {
        for (place, row) in TABLE.iter().enumerate() {
            assert_eq!(row.has(flag::SUBCOMMANDS), UNITS[place].subs().next().is_some(), "{}", row.name);
            assert!(row.granted_by.iter().all(|name| lookup(name.as_bytes()).is_some()), "{}", row.name);
            assert_eq!(place_of_row(row), place_of(row.name).unwrap());
        }
    }
}
