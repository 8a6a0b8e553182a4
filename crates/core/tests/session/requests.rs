//! Requests that wait, depend on each other, or are not answered.

use globalcache_core::limits::Limits;
use globalcache_core::store::Key;

use crate::world::{World, token_of};

/// SESSION of an old generation, and SET behind it in the same packet: nothing behind a refused greeting is run. Behind a
/// good one it is.
#[test]
fn what_follows_a_refused_session_is_not_run() {
    let mut world = World::new();
    let new = world.connect("HELLO 3");
    world.ask(new, "CACHE.SESSION me 2");
    let old = world.connect("HELLO 3");
    world.ask(old, "CACHE.SESSION me 1\r\nSET late 1");
    world.ask(old, "");
    assert_eq!(world.ask(new, "GET late"), "_");
    let next = world.connect("HELLO 3");
    world.ask(next, "CACHE.SESSION me 3\r\nSET good 1");
    world.ask(next, "");
    assert_eq!(world.ask(next, "GET good"), "$1 1");
}

/// Commands whose effect depends on whether there is a value: of a key that workers load and that is not there each waits
/// for the load, alone and in a transaction. Those that overwrite or remove do not.
#[test]
fn what_depends_on_a_value_loads_it_first() {
    for (command, waits) in [
        ("CACHE.GET w:1", true),
        ("CACHE.MGET a w:1", true),
        ("CACHE.ENTRY w:1", true),
        ("CACHE.SET w:1 v NX", true),
        ("CACHE.SET w:1 v IFVERSION 7", true),
        ("CACHE.SET w:1 v", false),
        ("EXPIRE w:1 100", true),
        ("EXPIREAT w:1 9999999999", true),
        ("PEXPIRE w:1 100", true),
        ("PEXPIREAT w:1 9999999999999", true),
        ("PERSIST w:1", true),
        ("MEMORY USAGE w:1", true),
        ("OBJECT ENCODING w:1", true),
        ("SET w:1 v NX", true),
        ("SET w:1 v KEEPTTL", true),
        ("SET w:1 v", false),
        ("GETEX w:1", true),
        ("DEL w:1", false),
    ] {
        for within in [false, true] {
            let mut world = World::new();
            let worker = world.connect("HELLO 3");
            world.ask(worker, "CACHE.LOADER w:*");
            let client = world.connect("PING");
            if within {
                world.ask(client, "MULTI");
                world.ask(client, command);
                world.send(client, "EXEC");
            } else {
                world.send(client, command);
            }
            assert_eq!(world.heard(client).is_empty(), waits, "{command}");
            if waits {
                let token = token_of(&world.heard(worker), "w:1");
                world.ask(worker, &format!("CACHE.FILL w:1 {token} row"));
                let answer = world.heard(client);
                assert!(!answer.is_empty() && !answer.contains("LOADFAILED"), "{command}: {answer}");
            }
        }
    }
}

/// FETCH of K in database 0 waits under a ticket, SELECT 1, K is filled in database 0: the outcome is that of database 0.
#[test]
fn a_request_with_a_ticket_keeps_its_database() {
    let mut world = World::new();
    let holder = world.connect("PING");
    let token = world.lease(holder, "k");
    let client = world.connect("HELLO 3");
    assert!(world.ask(client, "CACHE.FETCH k WAIT 10000 TICKET").contains("waiting"));
    world.ask(client, "SELECT 1");
    world.ask(client, "SET k other");
    world.ask(holder, &format!("CACHE.FILL k {token} mine"));
    let told = world.heard(client);
    assert!(told.contains("outcome") && told.contains("mine") && !told.contains("other"), "{told}");
    assert_eq!(world.ask(client, "GET k"), "$5 other");
}

/// A request waits under a ticket and the client goes back to RESP2, in which a push could not be told from a reply: the
/// ticket is given up.
#[test]
fn tickets_end_with_resp3() {
    for command in ["HELLO 2", "RESET"] {
        let mut world = World::new();
        let holder = world.connect("PING");
        let token = world.lease(holder, "k");
        let client = world.connect("HELLO 3");
        let before = world.memory(client);
        world.ask(client, "CACHE.FETCH k WAIT 10000 TICKET");
        assert!(world.memory(client) > before);
        world.ask(client, command);
        assert_eq!(world.memory(client), before);
        world.ask(holder, &format!("CACHE.FILL k {token} v"));
        assert_eq!(world.heard(client), "");
    }
}

/// A watches a key that workers load and that is absent, and reads it under a ticket: its own load is no change.
#[test]
fn a_load_for_oneself_under_a_ticket_does_not_end_a_transaction() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER w:*");
    let client = world.connect("HELLO 3");
    world.ask(client, "CACHE.SESSION me 1 TICKETS");
    world.ask(client, "WATCH w:1");
    world.ask(client, "GET w:1");
    let token = token_of(&world.heard(worker), "w:1");
    world.ask(worker, &format!("CACHE.FILL w:1 {token} row"));
    assert!(world.heard(client).contains("outcome"));
    world.ask(client, "MULTI");
    world.ask(client, "GET w:1");
    assert_eq!(world.ask(client, "EXEC"), "*1 $3 row");
}

/// Replies of a transaction that are too long: each request is run all the same, those behind them too, and only what does
/// not fit is left out. The same if the client is killed by a request of its own on the way.
#[test]
fn a_transaction_that_has_begun_is_done_whole() {
    let long = "x".repeat(6_000);
    let out = "-ERR the command was run, but its reply is left out: the replies of this transaction are too long";
    let value = format!("$6000 {long}");
    for (requests, replies) in [
        ("GET long|GET long|INCR n", format!("{value} {out} :1")),
        ("GETDEL long|SET long x GET|SET long y GET|INCR n", format!("{value} $-1 $1 x :1")),
        ("GET long|GETDEL long|GET long|INCR n", format!("{value} {out} $-1 :1")),
        ("GET long|SET long x GET|GET long|INCR n", format!("{value} {out} $1 x :1")),
        ("MGET long long|INCR n|GET long", format!("{out} :1 {value}")),
        ("CLIENT KILL ID 2 SKIPME no|GET long|INCR n", format!(":1 {value} :1")),
        ("QUIET x|INCR n", String::new()),
    ] {
        let mut world = World::with(Limits { max_reply: 10_000, ..Limits::default() });
        let (observer, client) = (world.connect(""), world.connect(""));
        world.ask(observer, &format!("SET long {long}"));
        world.ask(client, "MULTI");
        requests.split('|').for_each(|request| _ = world.ask(client, request));
        let (count, heard) = (requests.split('|').count(), world.ask(client, "EXEC"));
        let ran = !replies.is_empty();
        let discarded = "-EXECABORT Transaction discarded because of previous errors.".to_owned();
        assert_eq!(heard, if ran { format!("*{count} {replies}") } else { discarded }, "{requests}");
        assert_eq!(world.ask(observer, "GET n"), if ran { "$1 1" } else { "$-1" }, "{requests}");
    }
}

/// A worker chooses RESP2, in which a load that it is pushed would be taken for the answer to something else.
#[test]
fn a_worker_stays_with_resp3() {
    let mut world = World::new();
    let (worker, client) = (world.connect("HELLO 3"), world.connect(""));
    world.ask(worker, "CACHE.LOADER w:*");
    assert_eq!(world.ask(worker, "HELLO 2"), "-ERR loads are pushed: a loader worker stays with RESP3");
    assert!(world.ask(worker, "HELLO 3").contains("proto :3"));
    world.send(client, "GET w:1");
    assert!(world.heard(worker).starts_with(">"));
}

/// Somebody asks for 9,000 keys that workers load, in each protocol and within a transaction. What asks for the loads of a
/// thousand gives its turn back before it goes on, so that others are served meanwhile; and it answers with all.
#[test]
fn many_loads_are_asked_for_in_turns() {
    let keys: Vec<String> = (0..9_000).map(|number| format!("w:{number}")).collect();
    let all = keys.join(" ");
    let gets: String = keys.iter().map(|key| format!("GET {key}\r\n")).collect();
    let values = "$1 v ".repeat(keys.len());
    for (requests, reply) in [
        (format!("MGET {all}"), format!("*9000 {values}")),
        (format!("CACHE.MGET {all}"), format!("*9000 {values}")),
        (format!("EXISTS {all}"), ":9000".to_owned()),
        (format!("get {all}"), keys.iter().map(|key| format!("VALUE {key} 0 1 v ")).collect::<String>() + "END"),
        (format!("MULTI\r\n{gets}EXEC"), format!("+OK {}*9000 {values}", "+QUEUED ".repeat(keys.len()))),
    ] {
        let mut world = World::with_memory(Limits::default(), 512 << 20);
        let (worker, other) = (world.connect("HELLO 3"), world.connect(""));
        world.ask(worker, "CACHE.LOADER w:* INFLIGHT 65536");
        let client = world.connect("");
        let turns = world.post_in_turns(client, &requests, |world| assert_eq!(world.ask(other, "PING"), "+PONG"));
        assert!((9..12).contains(&turns), "{turns} of {}", &requests[..10]);
        let told = world.ask(worker, "PING");
        let words: Vec<&str> = told.split(' ').collect();
        let loads = words.windows(2).filter(|words| words[0].starts_with("w:") && words[1].starts_with(':'));
        let fills: Vec<String> = loads.map(|words| format!("CACHE.FILL {} {} v", words[0], &words[1][1..])).collect();
        assert_eq!(fills.len(), keys.len());
        world.ask(worker, &fills.join("\r\n"));
        assert!(world.heard(client) == reply.trim_end(), "{}", &requests[..10]);
    }
}

/// A watches a key that workers load and that is absent. What happens to it then, what EXEC loads for its own requests, and
/// what EXEC returns: its own load ends no transaction, whether or not the value could be stored, and hides no change by B.
#[test]
fn a_load_for_oneself_hides_no_change() {
    let fill = "FILL row";
    for (steps, wanted) in [
        (["", "MULTI\r\nGET w:1\r\nSET other x\r\nEXEC", fill], "*2 $3 row +OK"),
        (["", "MULTI\r\nINCR w:1\r\nEXEC", "FILL 6"], "*1 :7"),
        (["SET w:1 x\r\nDEL w:1", "MULTI\r\nGET w:1\r\nEXEC", fill], "*-1"),
        (["DEL w:1", "MULTI\r\nGET w:1\r\nEXEC", fill], "*1 $3 row"),
        (["", "GET w:1", fill], "*1 +PONG"),
        (["", "GET w:1", "FILL row TTL 0"], "*1 +PONG"),
        (["SET w:1 x\r\nDEL w:1", "GET w:1", fill], "*-1"),
        (["SET w:1 x PX 1\r\nDEL w:1", "GET w:1", "FILL row TTL 0"], "*-1"),
        // B writes while A waits: A reads what B wrote.
        (["", "GET w:1", "SET w:1 x"], "*-1"),
        (["", "MULTI\r\nGET w:1\r\nEXEC", "SET w:1 x"], "*-1"),
    ] {
        let mut world = World::new();
        let (worker, other) = (world.connect("HELLO 3"), world.connect("PING"));
        world.ask(worker, "CACHE.LOADER w:*");
        let client = world.connect("PING");
        world.ask(client, "WATCH w:1");
        world.ask(other, if steps[0].is_empty() { "PING" } else { steps[0] });
        world.ask(client, steps[1]);
        let token = token_of(&world.heard(worker), "w:1");
        match steps[2].strip_prefix("FILL ") {
            Some(value) => world.ask(worker, &format!("CACHE.FILL w:1 {token} {value}")),
            None => world.ask(other, steps[2]),
        };
        let heard = world.heard(client);
        let heard = if steps[1].ends_with("EXEC") { heard } else { world.ask(client, "MULTI\r\nPING\r\nEXEC") };
        assert_eq!(heard.trim_start_matches("+OK +QUEUED "), wanted, "{steps:?}");
    }
}

/// A watches a key that is absent; B writes and removes it; A's transaction is not run, although the key is absent again.
/// It is run where nothing happened, and nothing is left of the watch when it has ended, however that was.
#[test]
fn a_watched_key_that_came_and_went_ends_a_transaction() {
    for (between, ran) in [
        ("PING", true),
        ("SET other 1", true),
        ("SET k 1\r\nDEL k", false),
        ("SET k 1 PX 1\r\nGETDEL k", false),
        ("SET k 1\r\nFLUSHALL", false),
        ("SET k 1\r\nRENAME k other", false),
        ("SET k 1", false),
        ("SET k 1\r\nEXPIRE k -1", false),
        ("SET k 1\r\nFLUSHDB", false),
        // What was not there was not removed.
        ("DEL k", true),
        ("UNLINK k", true),
        ("GETDEL k", true),
        ("GETEX k EX 10", true),
        ("EXPIRE k -1", true),
        ("PEXPIREAT k 1", true),
        ("DELIFEQ k 1", true),
        ("RENAME k other", true),
        ("MOVE k 1", true),
        ("CACHE.INVALIDATE KEYS 1 k", true),
        ("CACHE.INVALIDATE TAGS 1 t", true),
        ("FLUSHDB", true),
        ("FLUSHALL", true),
    ] {
        let mut world = World::new();
        let (client, other) = (world.connect("PING"), world.connect("PING"));
        world.ask(client, "WATCH k");
        world.ask(other, between);
        world.ask(client, "MULTI\r\nPING");
        assert_eq!(world.ask(client, "EXEC"), if ran { "*1 +PONG" } else { "*-1" }, "{between}");
    }
    for end in
        ["MULTI\r\nEXEC", "UNWATCH", "MULTI\r\nDISCARD", "RESET", "MULTI\r\nnonsense\r\nEXEC", "MULTI\r\nEXEC x", ""]
    {
        let mut world = World::new();
        let empty = world.engine.store.stats().used;
        let client = world.connect("PING");
        world.ask(client, "WATCH k k2 k3");
        assert!(world.engine.store.stats().used > empty);
        world.ask(client, end);
        if end.is_empty() {
            world.close(client);
        }
        for key in ["k", "k2", "k3"] {
            let key = Key { db: 0, bytes: key.as_bytes() };
            assert_eq!(world.engine.store.with(key, world.now.mono, |entry| entry.changes()), None, "{end}");
        }
    }
}

/// What Redis 7.0 answers, request by request.
#[test]
fn replies_are_skipped_as_in_redis() {
    for (hello, asked, told) in [
        ("PING", "SKIP|ON|PING", "+OK +PONG"),
        ("PING", "OFF|SKIP|PING|PING|ON|PING", "+OK +PONG"),
        ("PING", "SKIP|SKIP|PING|PING x", "$1 x"),
        ("PING", "SKIP|OFF|PING|ON", "+OK"),
        ("PING", "SKIP|nonsense|PING", "+PONG"),
        ("HELLO 3", "OFF|SUBSCRIBE ch|PING|ON", ">3 $9 subscribe $2 ch :1 +OK"),
        ("HELLO 3", "SKIP|SUBSCRIBE ch|PING", ">3 $9 subscribe $2 ch :1 +PONG"),
        ("PING", "SKIP|MULTI|PING|EXEC", "+QUEUED *1 +PONG"),
    ] {
        for together in [false, true] {
            let mut world = World::new();
            let client = world.connect(hello);
            let lines: Vec<String> = asked
                .split('|')
                .map(|word| match word {
                    "ON" | "OFF" | "SKIP" => format!("CLIENT REPLY {word}"),
                    line => line.to_owned(),
                })
                .collect();
            if together {
                world.send(client, &lines.join("\r\n"));
            } else {
                lines.iter().for_each(|line| world.send(client, line));
            }
            assert_eq!(world.heard(client), told, "{asked}");
        }
    }
}

/// SKIP, then a GET that waits for a load in its place: the answer to the GET is the one that is skipped.
#[test]
fn the_reply_to_a_request_that_waits_can_be_skipped() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER w:*");
    let client = world.connect("PING");
    world.send(client, "CLIENT REPLY SKIP\r\nGET w:1\r\nECHO next");
    let token = token_of(&world.heard(worker), "w:1");
    world.ask(worker, &format!("CACHE.FILL w:1 {token} row"));
    assert_eq!(world.heard(client), "$4 next");
}

#[test]
fn memcached_flushes_at_a_unix_time() {
    let mut world = World::new();
    let client = world.connect("mn");
    let at = world.now.wall / 1000 + 100;
    world.ask(client, "set k 0 0 1\r\nv");
    assert_eq!(world.ask(client, &format!("flush_all {at}")), "OK");
    world.wait(99_000);
    assert!(world.ask(client, "get k").starts_with("VALUE"));
    world.wait(1_001);
    assert_eq!(world.ask(client, "get k"), "END");
    world.ask(client, "set k 0 0 1\r\nv");
    for now in ["", " 0", " -5", " 1000000000"] {
        world.ask(client, "set k 0 0 1\r\nv");
        assert_eq!(world.ask(client, &format!("flush_all{now}")), "OK");
        assert_eq!(world.ask(client, "get k"), "END", "{now}");
    }
}

/// A keeps copies of K and K2. W writes K, then K2. A reads K2 before its thread has looked for messages: it is told that
/// its copy of K is void before it sees the later write.
#[test]
fn an_invalidation_precedes_replies_with_later_writes() {
    let mut world = World::new();
    let (reader, writer) = (world.connect("HELLO 3"), world.connect("PING"));
    world.ask(reader, "CLIENT TRACKING ON");
    world.ask(reader, "GET k");
    world.ask(reader, "GET k2");
    world.post(writer, "SET k new");
    world.post(writer, "SET k2 later");
    world.post(reader, "GET k2");
    let told = world.heard(reader);
    assert!(told.starts_with(">2 $10 invalidate *1 $1 k >2 $10 invalidate *1 $2 k2 $5 later"), "{told}");
}
