//! Several connections of all protocols on one engine, with leases, workers, waits, transactions and lost connections: no
//! panic, replies in the order of the requests, and nobody waits for ever.
#![no_main]

#[allow(dead_code, reason = "tests use more of it")]
#[path = "../../crates/core/tests/world/mod.rs"]
mod world;

use libfuzzer_sys::fuzz_target;
use world::World;

const KEYS: [&str; 4] = ["a", "b", "w:1", "w:2"];

/// What connections that speak as Redis does may ask; K a key, T a lease or version seen of late, N a number.
const REDIS: [&str; 34] = [
    "CACHE.FETCH K WAIT 1000",
    "CACHE.FETCH K",
    "CACHE.FETCH K WAIT 2000 LEASE N",
    "CACHE.FETCH K WAIT 500 TICKET",
    "CACHE.FILL K T v TTL N REFRESH 5 GRACE 100 TAGS 1 t",
    "CACHE.FILL K T v",
    "CACHE.FILL K T v ABSENT",
    "CACHE.FAIL K T broken",
    "CACHE.FAIL K T broken RETRY N",
    "CACHE.RENEW K T N",
    "CACHE.RELEASE K T",
    "CACHE.CANCEL N",
    "CACHE.SET K v TTL N REFRESH 1 GRACE 50 TAGS 2 t u",
    "CACHE.SET K v IFVERSION T",
    "CACHE.INCR K N",
    "CACHE.INVALIDATE KEYS 1 K TAGS 1 t",
    "CACHE.INVALIDATE TAGS 1 u",
    "CACHE.MGET K a w:1",
    "CACHE.ENTRY K",
    "CACHE.INSPECT K",
    "CACHE.FORGET w:*",
    "GET K",
    "MGET K b w:2",
    "SET K v PX N",
    "DEL K",
    "INCR K",
    "WATCH K",
    "MULTI",
    "EXEC",
    "DISCARD",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING OFF",
    "FLUSHALL",
    "RESET",
];
const WORKER: [&str; 6] = [
    "CACHE.LOADER w:* INFLIGHT N",
    "CACHE.FILL K T v TTL N",
    "CACHE.FAIL K T broken",
    "CACHE.RENEW K T N",
    "CACHE.RELEASE K T",
    "PING",
];
const MEMCACHED: [&str; 12] = [
    "mg K v c N30",
    "mg K v c t R30 E T",
    "mg K s v",
    "ms K 1 C T\r\nx",
    "ms K 1 I T60\r\nx",
    "md K I T30",
    "md K",
    "get K",
    "set K 0 0 1\r\nx",
    "incr K N",
    "touch K N",
    "flush_all",
];
const JSON: [&str; 6] = [
    "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"fetch\",\"msg_id\":N,\"key\":\"K\",\"wait_ms\":1000}}",
    "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"fill\",\"msg_id\":N,\"key\":\"K\",\"token\":T,\"value\":1}}",
    "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"fail\",\"msg_id\":N,\"key\":\"K\",\"token\":T,\"message\":\"m\"}}",
    "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":N,\"key\":\"K\"}}",
    "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"set\",\"msg_id\":N,\"key\":\"K\",\"value\":2}}",
    "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"invalidate\",\"msg_id\":N,\"keys\":[\"K\"],\"tags\":[\"t\"]}}",
];

/// A kind of connection: what it says first, what it may ask, what it asks in the end, and how that answer ends.
struct Kind {
    hello: &'static str,
    asks: &'static [&'static str],
    last: &'static str,
    end: &'static str,
}

const KINDS: [Kind; 5] = [
    Kind { hello: "ECHO me", asks: &REDIS, last: "ECHO the-end", end: "the-end" },
    Kind { hello: "HELLO 3", asks: &REDIS, last: "ECHO the-end", end: "the-end" },
    Kind { hello: "HELLO 3", asks: &WORKER, last: "PING", end: "+PONG" },
    Kind { hello: "mn", asks: &MEMCACHED, last: "mn", end: "MN" },
    Kind {
        hello: "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"init\",\"msg_id\":1,\"node_id\":\"n\",\"node_ids\":[\"n\"]}}",
        asks: &JSON,
        last: "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"get\",\"msg_id\":777,\"key\":\"never\"}}",
        end: "}",
    },
];

/// Leases and versions in what was heard: the numbers beyond what anything else here counts to.
fn learn(said: &str, tokens: &mut Vec<u64>) {
    let numbers = said.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse::<u64>().ok());
    tokens.extend(numbers.filter(|number| (900..1 << 40).contains(number)));
    let old = tokens.len().saturating_sub(8);
    tokens.drain(..old);
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    // Two of each kind.
    let mut open: Vec<usize> =
        (0..2 * KINDS.len()).map(|number| world.connect(KINDS[number % KINDS.len()].hello)).collect();
    let mut tokens = Vec::new();
    for op in input.chunks_exact(3).take(300) {
        let [who, what, more] = *op else { unreachable!() };
        let place = usize::from(who) % (open.len() + 1);
        let Some(&number) = open.get(place) else {
            world.wait(u64::from(what) * u64::from(more % 8 + 1));
            continue;
        };
        let kind = &KINDS[place % KINDS.len()];
        if what == u8::MAX {
            world.close(number);
            open[place] = world.connect(kind.hello);
            continue;
        }
        let ask = kind.asks[usize::from(what) % kind.asks.len()];
        let key = KEYS[usize::from(more) % KEYS.len()];
        let token = tokens.get(usize::from(more >> 2) % tokens.len().max(1)).copied().unwrap_or(7);
        let mut words = Vec::new();
        for word in ask.split(' ') {
            words.push(match word {
                "K" => key.to_owned(),
                "T" => token.to_string(),
                "N" => more.to_string(),
                word => word
                    .replace("\"K\"", &format!("\"{key}\""))
                    .replace(":T,", &format!(":{token},"))
                    .replace(":N,", &format!(":{more},")),
            });
        }
        // Memcached writes a number behind its letter.
        let line = words.join(" ").replace("C T", &format!("C{token}")).replace("E T", &format!("E{token}"));
        world.send(number, &line);
        if world.connections[number].as_ref().is_some_and(|connection| connection.closed) {
            world.close(number);
            open[place] = world.connect(kind.hello);
            continue;
        }
        learn(&world.heard(number), &mut tokens);
    }
    // A request in its place waits for half a minute at most, and those behind it one after the other.
    for _ in 0..input.len() / 3 + 5 {
        world.wait(31_000);
    }
    for (place, number) in open.into_iter().enumerate() {
        let kind = &KINDS[place % KINDS.len()];
        world.heard(number);
        let said = world.ask(number, kind.last);
        let queued = said.ends_with("QUEUED");
        assert!(queued || said.ends_with(kind.end), "{}: {said:?}", kind.last);
        world.close(number);
    }
    assert!(!world.engine.tick_leases(world.now), "a lease outlived all that could use it");
});
