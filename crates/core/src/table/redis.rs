//! What Redis tells of its commands: flags, categories, tips and how each key is used, by command and subcommand. COMMAND
//! answers it, and the rights of users go by it. It follows from the rows of the table, but for the facts that are here.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::row::{Row, Uses, flag};
use super::rows::{TABLE, place};
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

/// What redis-server 7.0 tells of commands and subcommands beyond their rows: their names, flags, how they use their keys
/// (one after another, if in several ways; behind a colon, a remark), categories that follow from nothing else, and tips.
#[rustfmt::skip]
static FACTS: &[(&str, &str, &str, &str, &str)] = &[
    ("acl client config function memory object pubsub script", "", "", "", ""),
    ("append", "write denyoom fast", "RW insert", "", ""),
    ("auth hello quit reset", "noscript loading stale fast no_auth allow_busy", "", "", ""),
    ("command command|docs command|info command|list", "loading stale", "", "connection", "nondeterministic_output_order"),
    ("copy", "write denyoom", "RO access|OW update", "", ""),
    ("dbsize", "readonly fast", "", "keyspace", "request_policy:all_shards response_policy:agg_sum"),
    ("del", "write", "RM delete", "", "request_policy:multi_shard response_policy:agg_sum"),
    ("discard multi unwatch", "noscript loading stale fast allow_busy", "", "", ""),
    ("echo select", "loading stale fast", "", "", ""),
    ("eval", "noscript stale skip_monitor no_mandatory_keys movablekeys", "RW access update: We cannot tell how the keys will be used so we assume the worst, RW and UPDATE", "", ""),
    ("evalsha", "noscript stale skip_monitor no_mandatory_keys movablekeys", "RW access update", "", ""),
    ("exec", "noscript loading stale skip_slowlog", "", "", ""),
    ("exists touch", "readonly fast", "RO", "", "request_policy:multi_shard response_policy:agg_sum"),
    ("expire expireat persist pexpire pexpireat", "write fast", "RW update", "", ""),
    ("flushall flushdb", "write", "", "keyspace dangerous", "request_policy:all_shards response_policy:all_succeeded"),
    ("getdel", "write fast", "RW access delete", "", ""),
    ("getex", "write fast", "RW access update: RW and UPDATE because it changes the TTL", "", ""),
    ("info", "loading stale", "", "dangerous", "nondeterministic_output request_policy:all_shards response_policy:special"),
    ("keys", "readonly", "", "dangerous", "request_policy:all_shards nondeterministic_output_order"),
    ("lastsave", "loading stale fast", "", "admin dangerous", "nondeterministic_output"),
    ("mget", "readonly fast", "RO access", "", "request_policy:multi_shard"),
    ("mset", "write denyoom", "OW update", "", "request_policy:multi_shard response_policy:all_succeeded"),
    ("msetnx", "write denyoom", "OW insert", "", "request_policy:multi_shard response_policy:agg_min"),
    ("ping", "fast", "", "", "request_policy:all_shards response_policy:all_succeeded"),
    ("psubscribe punsubscribe subscribe unsubscribe", "pubsub noscript loading stale", "", "", ""),
    ("pttl ttl", "readonly fast", "RO access", "", "nondeterministic_output"),
    ("publish", "pubsub loading stale fast", "", "", ""),
    ("randomkey", "readonly", "", "", "request_policy:all_shards nondeterministic_output"),
    ("rename", "write", "RW access delete|OW update", "", ""),
    ("renamenx", "write fast", "RW access delete|OW insert", "", ""),
    ("scan", "readonly", "", "", "nondeterministic_output request_policy:special"),
    ("set", "write denyoom", "RW access update variable_flags: RW and ACCESS due to the optional `GET` argument", "", ""),
    ("setnx", "write denyoom fast", "OW insert", "", ""),
    ("setrange", "write denyoom", "RW update", "", ""),
    ("strlen type", "readonly fast", "RO", "", ""),
    ("time", "loading stale fast", "", "", "nondeterministic_output"),
    ("unlink", "write fast", "RM delete", "", "request_policy:multi_shard response_policy:agg_sum"),
    ("watch", "noscript loading stale fast allow_busy", "RO", "", ""),
    ("acl|cat acl|whoami client|caching client|getname client|getredir client|id client|reply client|setinfo client|setname client|tracking client|trackinginfo", "noscript loading stale", "", "", ""),
    ("acl|getuser acl|list acl|users client|kill client|no-evict config|get config|resetstat config|rewrite", "admin noscript loading stale", "", "", ""),
    ("client|info", "noscript loading stale", "", "", "nondeterministic_output"),
    ("client|list", "admin noscript loading stale", "", "", "nondeterministic_output"),
    ("command|count command|getkeys command|getkeysandflags", "loading stale", "", "connection", ""),
    ("config|set", "admin noscript loading stale", "", "", "request_policy:all_nodes response_policy:all_succeeded"),
    ("function|flush", "write noscript", "", "", "request_policy:all_shards response_policy:all_succeeded"),
    ("memory|purge", "", "", "", "request_policy:all_shards response_policy:all_succeeded"),
    ("memory|stats", "", "", "", "nondeterministic_output request_policy:all_shards response_policy:special"),
    ("memory|usage", "readonly", "RO", "", ""),
    ("object|encoding object|freq object|idletime object|refcount", "readonly", "RO", "", "nondeterministic_output"),
    ("pubsub|channels pubsub|numpat pubsub|numsub", "pubsub loading stale", "", "", ""),
    ("script|exists", "noscript", "", "", "request_policy:all_shards response_policy:agg_logical_and"),
    ("script|flush", "noscript", "", "", "request_policy:all_nodes response_policy:all_succeeded"),
    ("script|load", "noscript stale", "", "", "request_policy:all_nodes response_policy:all_succeeded"),
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

/// Categories of Redis, in its order, and those of this server, as COMMAND tells them.
#[rustfmt::skip]
pub const CATEGORIES: [&str; 23] = [
    "@keyspace", "@read", "@write", "@set", "@sortedset", "@list", "@hash", "@string", "@bitmap", "@hyperloglog", "@geo",
    "@stream", "@pubsub", "@admin", "@fast", "@slow", "@blocking", "@dangerous", "@connection", "@transaction", "@scripting",
    "@cache", "@loader",
];

/// The place of the command by which a loader worker answers.
pub const FILL: usize = place("CACHE.FILL");

/// Words of COMMAND for flags of a row.
const WORDS: [(u32, &str); 6] = [
    (flag::WRITE, "write"),
    (flag::READ, "readonly"),
    (flag::DENY_OOM, "denyoom"),
    (flag::ADMIN, "admin"),
    (flag::FAST, "fast"),
    (flag::NO_AUTH, "no_auth"),
];

/// Categories that follow from the group of a command, or from one of its words.
const IMPLIED: [(&str, &str); 12] = [
    ("generic", "keyspace"),
    ("readonly", "read"),
    ("write", "write"),
    ("string", "string"),
    ("pubsub", "pubsub"),
    ("admin", "admin"),
    ("admin", "dangerous"),
    ("fast", "fast"),
    ("connection", "connection"),
    ("transactions", "transaction"),
    ("scripting", "scripting"),
    ("cache", "cache"),
];

impl Unit {
    /// A command, or its subcommand with so many arguments.
    fn new(row: &'static Row, sub: Option<&(&str, i32)>) -> Unit {
        let mut name = row.name.to_ascii_lowercase();
        let (mut arity, mut keys) = (row.arity, if row.subs.is_empty() { row.keys } else { (0, 0, 0) });
        if let Some((sub, count)) = sub {
            (name, arity) = (format!("{name}|{sub}"), *count);
        }
        let fact = FACTS.iter().find(|fact| fact.0.split(' ').any(|known| known == name));
        let (flags, uses, more, tips) = match fact {
            Some((_, flags, uses, more, tips)) => (flags.split_whitespace().collect(), *uses, *more, *tips),
            None => Unit::own(row),
        };
        let (uses, notes) = uses.split_once(": ").unwrap_or((uses, ""));
        if sub.is_some() && !uses.is_empty() {
            keys = (2, 2, 1);
        }
        let (first, last, step) = keys;
        // COMMAND counts the last key from the first, unless it counts from the end. Without a place the keys are counted.
        let range = |at: i32| match (first, uses.contains('|')) {
            (0, _) => (2, 0, 0),
            (_, true) => (first + at, 0, 1),
            _ => (first, if last < 0 { last } else { last - first }, step),
        };
        let uses = uses.split('|').filter(|flags| !flags.is_empty());
        // What has subcommands does nothing itself that its group says.
        let group = if row.subs.is_empty() || sub.is_some() { row.group } else { "" };
        let follows = |category: &str| {
            let implied = |(from, to): &(&str, &str)| *to == category && (*from == group || flags.contains(from));
            let slow = category == "slow" && !flags.contains(&"fast");
            slow || IMPLIED.iter().any(implied) || more.split(' ').any(|known| known == category)
        };
        Unit {
            categories: CATEGORIES.into_iter().filter(|category| follows(&category[1..])).collect(),
            specs: (0..).zip(uses).map(|(at, flags)| KeySpec::new(flags, range(at), notes)).collect(),
            tips: tips.split_whitespace().collect(),
            name,
            arity,
            flags,
            keys,
            row,
        }
    }

    /// What follows from the row of a command: flags, how it uses its keys, other categories, and no tips.
    fn own(row: &Row) -> (Vec<&'static str>, &'static str, &'static str, &'static str) {
        let reads = row.has(flag::READ | flag::LOAD) || !row.has(flag::WRITE);
        let uses = match (row.keys.0 > 0, reads, row.has(flag::WRITE)) {
            (false, ..) => "",
            (_, true, true) => "RW access update",
            (_, true, false) => "RO access",
            (_, false, _) => "OW update",
        };
        let more = match (row.has(flag::CONNECTION), row.has(flag::LOADER)) {
            (true, true) => "connection loader",
            (true, false) => "connection",
            (false, loader) => {
                if loader {
                    "loader"
                } else {
                    ""
                }
            }
        };
        (WORDS.iter().filter(|(bit, _)| row.has(*bit)).map(|(_, word)| *word).collect(), uses, more, "")
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
    let subs = |row: &'static Row| row.subs.iter().map(move |sub| Unit::new(row, Some(sub)));
    TABLE.iter().map(|row| Unit::new(row, None)).chain(TABLE.iter().flat_map(subs)).collect()
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
    if row.subs.is_empty() { place } else { sub().unwrap_or(place) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_together() {
        for row in TABLE {
            assert!(row.granted_by.iter().all(|name| place_of(name).is_some()), "{}", row.name);
            assert_eq!(place_of_row(row), place_of(row.name).unwrap());
        }
    }
}
