//! What is answered to a command that there is not.

use crate::vocabulary::{Args, Error, Kind};

/// Commands of Redis for values that are no strings.
const OF_OTHER_TYPES: &str = "\
    BLMOVE BLPOP BRPOP BRPOPLPUSH BZPOPMAX BZPOPMIN GEOADD GEOSEARCH HDEL HEXISTS HGET HGETALL HINCRBY HKEYS HLEN \
    HMGET HMSET HSCAN HSET HVALS LINDEX LLEN LPOP LPUSH LRANGE LREM LTRIM PFADD RPOP RPUSH SADD SCARD SISMEMBER \
    SMEMBERS SPOP SREM XADD XREAD XREADGROUP ZADD ZRANGE ZREM";

/// Redis quotes the beginning of what it did not understand.
pub fn unknown(args: Args<'_>) -> Error {
    let name = args.get(0).unwrap_or_default();
    if OF_OTHER_TYPES.split(' ').any(|known| name.eq_ignore_ascii_case(known.as_bytes())) {
        let name = String::from_utf8_lossy(name).to_ascii_uppercase();
        let text = format!("ERR unknown command '{name}': values are strings here, no lists, hashes, sets or streams");
        return Error::with(Kind::Unknown, text);
    }
    const QUOTED: usize = 128;
    let head = |text: &[u8], room: usize| String::from_utf8_lossy(&text[..text.len().min(room)]).into_owned();
    let mut text = format!("ERR unknown command '{}', with args beginning with: ", head(name, QUOTED));
    let mut room = QUOTED;
    for arg in args.from(1).iter() {
        let quoted = format!("'{}' ", head(arg, room));
        text.push_str(&quoted);
        room = room.saturating_sub(quoted.len());
        if room == 0 {
            break;
        }
    }
    Error::with(Kind::Unknown, text)
}
