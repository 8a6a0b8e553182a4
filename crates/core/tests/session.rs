//! Sessions over all protocols: the same answers however the input is cut, and nothing but answers or a clean end
//! whatever it is.

use std::sync::Arc;

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::protocol::resp;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Key, Options};
use globalcache_core::vocabulary::{Reply, Values};
use proptest::prelude::*;

mod world;

use world::World;

const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };

fn engine(limits: Limits) -> Engine {
    let options = Options {
        memory: 16 << 20,
        shards: 4,
        evict: true,
        max_value: limits.max_value,
        seed: [1, 2, 3, 4],
        epoch: 1,
        load_limit: 30_000,
    };
    Engine::new(options, limits, Facts::default(), 1)
}

/// Feeds `input` in pieces of the given lengths, over and over, as a connection would; what was answered, and whether
/// the stream was closed.
fn talk(engine: &Engine, input: &[u8], pieces: &[usize]) -> (Vec<u8>, bool) {
    let mut session = Session::new(ConnectionId::default());
    let (mut scratch, mut out) = (Scratch::default(), Output::default());
    let (mut answers, mut held) = (Vec::new(), Vec::new());
    let (mut at, mut pieces) = (0, pieces.iter().cycle());
    while at < input.len() {
        let end = (at + *pieces.next().unwrap()).min(input.len());
        held.extend_from_slice(&input[at..end]);
        at = end;
        loop {
            let (taken, flow) = session.feed(engine, NOW, &mut scratch, &held, &mut out);
            answers.extend(out.take_bytes());
            held.drain(..taken);
            match flow {
                Flow::Continue => break,
                Flow::Pause => {}
                Flow::Park => return (answers, false),
                Flow::Close => return (answers, true),
            }
        }
    }
    (answers, false)
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

#[test]
fn the_exchange_of_maelstrom_is_answered_byte_for_byte() {
    let input = concat!(
        r#"{"src":"c0","dest":"cache","body":{"type":"init","msg_id":1,"node_id":"cache","node_ids":["cache","n1","n2"]}}"#,
        "\n",
        r#"{"src":"n1","dest":"cache","body":{"type":"get","msg_id":2,"key":"x"}}"#,
        "\n",
        r#"{"src":"n2","dest":"cache","body":{"type":"set","msg_id":3,"key":"x","value":100}}"#,
        "\n",
        r#"{"src":"n1","dest":"cache","body":{"type":"get","msg_id":4,"key":"x"}}"#,
        "\n",
    );
    let wanted = concat!(
        r#"{"src":"cache","dest":"c0","body":{"type":"init_ok","in_reply_to":1,"msg_id":0}}"#,
        "\n",
        r#"{"src":"cache","dest":"n1","body":{"type":"get_ok","in_reply_to":2,"msg_id":1,"value":null}}"#,
        "\n",
        r#"{"src":"cache","dest":"n2","body":{"type":"set_ok","in_reply_to":3,"msg_id":2}}"#,
        "\n",
        r#"{"src":"cache","dest":"n1","body":{"type":"get_ok","in_reply_to":4,"msg_id":3,"value":100}}"#,
        "\n",
    );
    for piece in [1, 7, input.len()] {
        let (answers, closed) = talk(&engine(Limits::default()), input.as_bytes(), &[piece]);
        assert_eq!((String::from_utf8(answers).unwrap().as_str(), closed), (wanted, false));
    }
}

fn bodies(bodies: &[&str]) -> Vec<String> {
    let message = |body| format!("{{\"src\":\"c\",\"dest\":\"cache\",\"body\":{body}}}\n");
    let input: String = bodies.iter().map(message).collect();
    let (answers, closed) = talk(&engine(Limits::default()), input.as_bytes(), &[input.len()]);
    assert!(!closed);
    let answers = String::from_utf8(answers).unwrap();
    let (head, tail) = ("{\"src\":\"cache\",\"dest\":\"c\",\"body\":", "}");
    answers.lines().map(|line| line.strip_prefix(head).unwrap().strip_suffix(tail).unwrap().to_owned()).collect()
}

#[test]
fn every_message_has_its_answer() {
    for (body, answer) in
        [(r#"{"type":"cas","key":3,"from":1,"to":2}"#, r#""error""#), (r#"{"type":"read","key":3}"#, r#""error""#)]
    {
        assert!(bodies(&[body])[0].contains(answer));
    }
    let answers = bodies(&[
        r#"{"type":"cas","msg_id":1,"key":3,"from":1,"to":2}"#,
        r#"{"type":"cas","msg_id":2,"key":3,"from":1,"to":{"a": [1, 2]},"create_if_not_exists":true}"#,
        r#"{"type":"cas","msg_id":3,"key":"3","from":{"a":[1.0,2]},"to":5}"#,
        r#"{"type":"cas","msg_id":4,"key":3,"from":4,"to":6}"#,
        r#"{"type":"read","msg_id":5,"key":3}"#,
        r#"{"type":"read","msg_id":6,"key":"none"}"#,
        r#"{"type":"write","msg_id":7,"key":"w","value":null}"#,
        r#"{"type":"read","msg_id":8,"key":"w"}"#,
        r#"{"type":"incr","msg_id":9,"key":"n"}"#,
        r#"{"type":"incr","msg_id":10,"key":"n","by":-5}"#,
        r#"{"type":"mget","msg_id":11,"keys":["n","none",3]}"#,
        r#"{"type":"delete","msg_id":12,"key":"n"}"#,
        r#"{"type":"invalidate","msg_id":13,"keys":[3,"none"],"tags":["t"]}"#,
        r#"{"type":"get","key":"n"}"#,
        r#"{"type":"set","msg_id":15,"key":"s","value":"a b","ttl_ms":100}"#,
        r#"{"type":"incr","msg_id":16,"key":"s"}"#,
    ]);
    let wanted = [
        r#"{"type":"error","in_reply_to":1,"msg_id":0,"code":20,"text":"no such key"}"#,
        r#"{"type":"cas_ok","in_reply_to":2,"msg_id":1}"#,
        r#"{"type":"cas_ok","in_reply_to":3,"msg_id":2}"#,
        r#"{"type":"error","in_reply_to":4,"msg_id":3,"code":22,"text":"the value is another one"}"#,
        r#"{"type":"read_ok","in_reply_to":5,"msg_id":4,"value":5}"#,
        r#"{"type":"error","in_reply_to":6,"msg_id":5,"code":20,"text":"no such key"}"#,
        r#"{"type":"write_ok","in_reply_to":7,"msg_id":6}"#,
        r#"{"type":"read_ok","in_reply_to":8,"msg_id":7,"value":null}"#,
        r#"{"type":"incr_ok","in_reply_to":9,"msg_id":8,"value":1}"#,
        r#"{"type":"incr_ok","in_reply_to":10,"msg_id":9,"value":-4}"#,
        r#"{"type":"mget_ok","in_reply_to":11,"msg_id":10,"values":[-4,null,5]}"#,
        r#"{"type":"delete_ok","in_reply_to":12,"msg_id":11}"#,
        r#"{"type":"invalidate_ok","in_reply_to":13,"msg_id":12,"count":2}"#,
        r#"{"type":"get_ok","msg_id":13,"value":null}"#,
        r#"{"type":"set_ok","in_reply_to":15,"msg_id":14}"#,
        r#"{"type":"error","in_reply_to":16,"msg_id":15,"code":12,"text":"value is not an integer or out of range"}"#,
    ];
    assert_eq!(answers, wanted);
}

#[test]
fn without_eviction_an_mset_is_done_or_refused_as_a_whole() {
    let options = Options { evict: false, ..engine(Limits::default()).store.options().clone() };
    let engine = Engine::new(options, Limits::default(), Facts::default(), 1);
    let ask = |words: &[String]| text(&talk(&engine, &resp(words), &[usize::MAX]).0);
    let (mut done, mut refused) = (0, 0);
    for round in 0..2000 {
        let keys: Vec<String> = (0..10).map(|number| format!("{round}:{number}")).collect();
        // Long ones lie beside the log.
        let value = "v".repeat([10, 1000, 9000][round % 3]);
        let command = if round % 2 == 0 { "MSET" } else { "MSETNX" };
        let pairs = keys.iter().flat_map(|key| [key.clone(), value.clone()]);
        let answer = ask(&std::iter::once(command.to_owned()).chain(pairs).collect::<Vec<_>>());
        let there = ask(&std::iter::once("EXISTS".to_owned()).chain(keys).collect::<Vec<_>>());
        if answer.starts_with("-OOM") {
            assert_eq!(there, ":0\\r\\n", "{round}");
            refused += 1;
        } else {
            assert_eq!(
                (answer.contains("OK") || answer.contains(":1"), there.as_str()),
                (true, ":10\\r\\n"),
                "{round}: {answer}"
            );
            done += 1;
        }
    }
    assert!(done > 100 && refused > 100, "{done} done, {refused} refused");
}

#[test]
fn many_values_read_as_a_reply_for_each() {
    let mut scratch = b"before".to_vec();
    let mut values = Values::new(5, &scratch);
    let large: Arc<[u8]> = Arc::from(&b"large"[..]);
    values.push_missing();
    values.push_small(b"yz", 0, &mut scratch);
    values.push_large(&large, 7);
    values.push_small(b"", u32::MAX, &mut scratch);
    values.push_large(&large, 0);
    for resp3 in [false, true] {
        let encoded = |reply: &Reply| {
            let mut out = Output::default();
            resp::encode(reply, resp3, &scratch, &mut out);
            out.take_bytes()
        };
        assert_eq!(encoded(&Reply::Values(values.clone())), encoded(&Reply::Array(values.replies())));
    }
}

#[test]
fn malformed_messages_are_answered_with_the_code_that_says_so() {
    for (body, code, text) in [
        (r#"{"type":"nonsense","msg_id":1}"#, 10, "unknown type 'nonsense'"),
        (r#"{"msg_id":1,"key":"x"}"#, 12, "body has no type"),
        (r#"{"type":7,"msg_id":1}"#, 12, "body has no type"),
        (r#"{"type":"get","msg_id":1}"#, 12, "the message needs a key"),
        (r#"{"type":"get","msg_id":1,"key":null}"#, 12, "a key is a string or a number"),
        (r#"{"type":"get","msg_id":1,"key":["x"]}"#, 12, "a key is a string or a number"),
        (r#"{"type":"get","msg_id":1,"key":""}"#, 12, "a key has 1 to 65535 bytes"),
        (r#"{"type":"set","msg_id":1,"key":"x"}"#, 12, "the message needs a value"),
        (
            r#"{"type":"set","msg_id":1,"key":"x","value":1,"ttl_ms":0}"#,
            12,
            "ttl_ms is not a number of milliseconds above 0",
        ),
        (r#"{"type":"incr","msg_id":1,"key":"x","by":"1"}"#, 12, "by is not an integer"),
        (r#"{"type":"mget","msg_id":1,"keys":"x"}"#, 12, "keys and tags are lists"),
        (r#"{"type":"init","msg_id":1,"node_id":"n"}"#, 12, "init needs node_ids, a list of strings"),
        (r#"{"type":"invalidate","msg_id":1}"#, 12, "invalidate needs keys or tags"),
    ] {
        let wanted = format!(r#"{{"type":"error","in_reply_to":1,"msg_id":0,"code":{code},"text":"{text}"}}"#);
        assert_eq!(bodies(&[body]), [wanted], "{body}");
    }
    for line in
        ["{", "{}", "{\"src\":1}", "{\"src\":\"a\",\"dest\":\"b\"}", "{\"src\":\"a\",\"dest\":\"b\",\"body\":1}"]
    {
        let (answers, closed) = talk(&engine(Limits::default()), format!("{line}\n").as_bytes(), &[100]);
        let answers = String::from_utf8(answers).unwrap();
        assert!(!closed && answers.contains("\"code\":12") && answers.ends_with("}}\n"), "{line}: {answers}");
    }
}

#[test]
fn a_line_that_never_ends_closes_the_stream_at_its_limit() {
    let limits = Limits { max_value: 1 << 20, max_request: 2 << 20, ..Limits::default() };
    let (answers, closed) = talk(&engine(limits), &vec![b'{'; 3 << 20], &[64 << 10]);
    assert!(closed && text(&answers).contains("too long"));
    let (answers, closed) = talk(&engine(Limits::default()), &b"GET ".repeat(1 << 16), &[64 << 10]);
    assert!(closed && text(&answers).contains("too big inline request"));
}

fn resp(words: &[String]) -> Vec<u8> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend(format!("${}\r\n{word}\r\n", word.len()).bytes());
    }
    request
}

/// Limits with values of up to 1,000 bytes.
fn short_values() -> Limits {
    Limits { max_value: 1000, ..Limits::default() }
}

const TOO_LONG: &str = "ERR value of 1001 bytes is more than max-value 1000";

/// A SET of a value that is one byte too long, then other requests in the same packet: the value is skipped, whatever it
/// holds, and those behind it are answered.
#[test]
fn a_value_that_is_too_long_is_an_error_and_nothing_else() {
    let value = "*1\r\n$8\r\nFLUSHALL\r\n".to_owned() + &"v".repeat(1001 - 18);
    let long = |words: &[&str]| resp(&words.iter().map(|word| word.replace("LONG", &value)).collect::<Vec<_>>());
    let input = [
        long(&["SET", "k", "1"]),
        long(&["SET", "k", "LONG", "EX", "10"]),
        long(&["LONG"]),
        long(&["MSET", "a", "LONG", "b", "LONG"]),
        long(&["MULTI"]),
        long(&["SET", "k", "2"]),
        long(&["SET", "k", "LONG"]),
        long(&["EXEC"]),
        long(&["GET", "k"]),
    ]
    .concat();
    let error = format!("-{TOO_LONG}\r\n");
    let wanted = format!(
        "+OK\r\n{error}{error}{error}+OK\r\n+QUEUED\r\n{error}-EXECABORT Transaction discarded because of previous \
         errors.\r\n$1\r\n1\r\n"
    );
    for piece in (1..50).chain([1000, input.len()]) {
        let (answers, closed) = talk(&engine(short_values()), &input, &[piece]);
        assert_eq!((String::from_utf8(answers).unwrap(), closed), (wanted.clone(), false), "{piece}");
    }
    // On a line.
    for line in ["SET k {}", "SET k {} EX 10", "SET k {} NX", "MSET k {}", "CACHE.SET k {}"] {
        let (answers, closed) =
            talk(&engine(short_values()), (line.replace("{}", &"v".repeat(1001)) + "\r\n").as_bytes(), &[9]);
        assert_eq!((String::from_utf8(answers).unwrap(), closed), (error.clone(), false), "{line}");
    }
    // Longer than a request may be: the connection closes after the error.
    let limits = Limits { max_request: 2000, max_skipped: 2000, ..short_values() };
    let (answers, closed) = talk(&engine(limits), b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2001\r\nvvv", &[100]);
    assert!(closed && text(&answers).contains("invalid bulk length"));
}

/// As above in JSON: the answer has the number of its message, wherever in the message that stands.
#[test]
fn a_message_with_a_value_too_long_is_answered() {
    let text = TOO_LONG.strip_prefix("ERR ").unwrap();
    for length in [1001, 300_000, 900_000] {
        let value = format!("\"{}\"", "v".repeat(length - 2));
        let input = format!(
            "{{\"src\":\"c\",\"dest\":\"n\",\"body\":{{\"type\":\"set\",\"key\":\"k\",\"value\":{value},\"msg_id\":5}}}}\n\
             {{\"src\":\"c\",\"dest\":\"n\",\"body\":{{\"type\":\"get\",\"key\":\"k\",\"msg_id\":6}}}}\n"
        );
        let text = text.replace("1001", &length.to_string());
        let wanted = format!(
            "{{\"src\":\"n\",\"dest\":\"c\",\"body\":{{\"type\":\"error\",\"in_reply_to\":5,\"msg_id\":0,\"code\":12,\
             \"text\":\"{text}\"}}}}\n\
             {{\"src\":\"n\",\"dest\":\"c\",\"body\":{{\"type\":\"get_ok\",\"in_reply_to\":6,\"msg_id\":1,\"value\":null}}}}\n"
        );
        for piece in [1000, 65_536, input.len()] {
            let (answers, closed) = talk(&engine(short_values()), input.as_bytes(), &[piece]);
            let answers = String::from_utf8(answers).unwrap();
            let code = answers.split("\"code\":").nth(1).map_or("", |rest| &rest[..2]).to_owned();
            assert_eq!((answers.replace(&format!("\"code\":{code}"), "\"code\":12"), closed), (wanted.clone(), false));
        }
    }
}

/// A holds the lease of K, B waits for it, and A's value is too long to be stored: the lease ends at once and B is told
/// why, in each protocol. Then A says what else it has to say.
#[test]
fn a_fill_that_is_too_long_ends_its_lease() {
    let long = "v".repeat(1001);
    for (hello, fill, error) in [
        ("HELLO 3", "*4\r\n$10\r\nCACHE.FILL\r\n$1\r\nk\r\n$T\r\nTOKEN\r\n$1001\r\nLONG", "-ERR value of 1001 bytes"),
        ("mn", "ms k 1001 CTOKEN\r\nLONG", "SERVER_ERROR object too large for cache"),
        (
            "{}",
            "{\"src\":\"c\",\"dest\":\"n\",\"body\":{\"type\":\"fill\",\"key\":\"k\",\"token\":TOKEN,\"value\":\"LONG\"}}",
            "value of 1003 bytes is more than max-value 1000",
        ),
    ] {
        let mut world = World::with(short_values());
        let (holder, waiter, other) = (world.connect("PING"), world.connect("PING"), world.connect(hello));
        let token = world.lease(holder, "k").to_string();
        world.send(waiter, "CACHE.FETCH k WAIT 10000");
        assert_eq!(world.heard(waiter), "");
        let fill = fill.replace("$T", &format!("${}", token.len())).replace("TOKEN", &token).replace("LONG", &long);
        let answer = world.ask(other, &fill);
        assert!(answer.contains(error), "{answer}");
        let told = world.heard(waiter);
        assert!(
            told.contains("LOADFAILED k: ") && told.contains("the value is too large") || told.contains("more than")
        );
        assert!(world.ask(holder, "CACHE.INSPECT k").contains("$5 lease $4 none"));
    }
}

/// A key of 251 bytes, then a block whose bytes are a command: whatever is wrong with the line, the block of a length that
/// could be read is skipped and never run.
#[test]
fn the_block_of_a_refused_set_is_never_run() {
    let long = "k".repeat(251);
    for line in [
        format!("set {long} 0 0 9"),
        "set k x 0 9".to_owned(),
        "set k 0 x 9".to_owned(),
        "set k 0 0 9 noreply more words".to_owned(),
        "cas k 0 0 9 abc".to_owned(),
        "cas k 0 0 9 ".to_owned(),
        format!("cas {long} 0 0 9 1"),
        format!("ms {long} 9"),
        "ms k 9 Z".to_owned(),
        "append k 99999999999 0 9".to_owned(),
    ] {
        let input = format!("set victim 0 0 1\r\nv\r\n{line}\r\nflush_all\r\nget victim\r\n");
        for piece in [1, 3, 1000] {
            let (answers, closed) = talk(&engine(Limits::default()), input.as_bytes(), &[piece]);
            let answers = String::from_utf8(answers).unwrap();
            let errors = answers.matches("ERROR").count();
            assert!(
                errors == 1 && !closed && answers.ends_with("VALUE victim 0 1\r\nv\r\nEND\r\n"),
                "{line}: {answers}"
            );
        }
    }
}

#[test]
fn the_greeting_of_a_session_tells_the_limits() {
    let mut world = World::with(short_values());
    let client = world.connect("HELLO 3");
    let map = world.ask(client, "CACHE.SESSION me 1");
    for fact in ["$9 max_value :1000", "$11 max_request :268435456", "$7 version $", "$6 run_id $4 life"] {
        assert!(map.contains(fact), "{map}");
    }
}

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
                let token = world::token_of(&world.heard(worker), "w:1");
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
    let token = world::token_of(&world.heard(worker), "w:1");
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

/// CLIENT KILL runs in turns where there are many connections. One that kills itself by it gets its answer, is closed, and
/// nothing that it has sent behind it is run, whether that arrived before or after.
#[test]
fn a_client_that_kills_itself_in_turns_is_closed() {
    let mut world = World::new();
    let observer = world.connect("");
    (0..1_100).for_each(|_| _ = world.connect("PING"));
    let client = world.connect("PING");
    world.send(client, "CLIENT KILL TYPE normal SKIPME no\r\nSET x 1");
    assert_eq!((&*world.heard(client), world.closed(client)), (":1101", true));
    assert_eq!(world.ask(observer, "GET x"), "$-1");
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
        let token = world::token_of(&world.heard(worker), "w:1");
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
    let token = world::token_of(&world.heard(worker), "w:1");
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

/// All that a client makes the server hold is counted, and nothing is left when it has let go. The key of a lease counts in
/// the table of leases.
#[test]
fn what_a_client_makes_the_server_hold_is_counted() {
    let long = "k".repeat(50_000);
    for (hold, least, let_go) in [
        (format!("MULTI\r\nSET a {long}\r\nSET b {long}"), 100_000, "DISCARD".to_owned()),
        (format!("WATCH {long}1\r\nWATCH {long}2"), 100_000, "UNWATCH".to_owned()),
        (format!("SUBSCRIBE {}", &long[..1000]), 2000, "UNSUBSCRIBE".to_owned()),
        (format!("PSUBSCRIBE {}", &long[..1000]), 6000, "PUNSUBSCRIBE".to_owned()),
        (format!("CLIENT TRACKING ON BCAST PREFIX {}", &long[..1000]), 2000, "CLIENT TRACKING OFF".to_owned()),
        (format!("CACHE.FETCH {long} LEASE 1000"), 40, "RESET".to_owned()),
        (format!("CACHE.FETCH held{long} WAIT 5000 TICKET"), 100_000, "CACHE.CANCEL NUMBER".to_owned()),
    ] {
        let mut world = World::new();
        let (other, client) = (world.connect("PING"), world.connect("HELLO 3"));
        world.lease(other, &format!("held{long}"));
        let before = world.memory(client);
        world.send(client, &hold);
        let told = world.heard(client);
        let held = world.memory(client) - before;
        assert!((least..2 * least).contains(&held), "{held} of {}", &hold[..20]);
        let number = told.split(' ').find_map(|word| word.strip_prefix(':')).unwrap_or("0");
        if hold.starts_with("CACHE.FETCH k") {
            world.ask(client, &format!("CACHE.RELEASE {long} {number}"));
        }
        world.ask(client, &let_go.replace("NUMBER", number));
        assert!(world.memory(client) - before < 1000, "{} of {}", world.memory(client), &hold[..20]);
    }
}

/// One MGET of many keys that workers load and that are missing.
#[test]
fn a_command_may_wait_for_many_keys() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER w:* INFLIGHT 65536");
    let client = world.connect("PING");
    let keys: Vec<String> = (0..2_000).map(|number| format!("w:{number}")).collect();
    let mget: Vec<String> = std::iter::once("MGET".to_owned()).chain(keys.iter().cloned()).collect();
    world.send(client, String::from_utf8(resp(&mget)).unwrap().trim_end());
    assert!(world.memory(client) > 2_000 * 40);
    let mut answer = String::new();
    // As many loads are sent at a time as the table of leases has room for.
    for _ in 0..10 {
        let loads = world.heard(worker);
        let words: Vec<&str> = loads.split(' ').collect();
        for pair in words.windows(2).filter(|pair| pair[0].starts_with("w:")) {
            let (key, token) = (pair[0], pair[1].trim_start_matches(':'));
            world.post(worker, &format!("CACHE.FILL {key} {token} v"));
        }
        world.exchange();
        answer += &world.heard(client);
    }
    assert!(answer.starts_with("*2000 $1 v"), "{}", &answer[..answer.len().min(100)]);
    assert_eq!(world.memory(client), 0);
}

const WORDS: [&str; 44] = [
    "GET",
    "set",
    "MGET",
    "MSET",
    "DEL",
    "EXISTS",
    "INCR",
    "INCRBY",
    "TTL",
    "EXPIRE",
    "PERSIST",
    "HELLO",
    "SELECT",
    "COMMAND",
    "CLIENT",
    "NX",
    "XX",
    "EX",
    "PX",
    "KEEPTTL",
    "3",
    "2",
    "-1",
    "10",
    "a",
    "b",
    "c",
    "SETNAME",
    "COUNT",
    "FLUSHALL",
    "PING",
    "ECHO",
    "QUIT",
    "DBSIZE",
    "server",
    "AUTH",
    "nonsense",
    "DOCS",
    "GT",
    "LT",
    "GETNAME",
    "ID",
    "EXAT",
    "99999999999999999999",
];

fn command() -> impl Strategy<Value = Vec<u8>> {
    let word = prop_oneof![3 => prop::sample::select(&WORDS[..]).prop_map(str::to_owned), 1 => "[ -~]{0,12}"];
    prop_oneof![
        4 => prop::collection::vec(word, 1..6).prop_map(|words| resp(&words)),
        1 => prop::collection::vec("[!-~]{1,8}", 1..4).prop_map(|words| format!("{}\r\n", words.join(" ")).into_bytes()),
        1 => prop::collection::vec(any::<u8>(), 0..8),
    ]
}

/// What is asked one after the other on a few keys, reads most of all: they are run together.
fn use_of_keys() -> impl Strategy<Value = Vec<u8>> {
    let key = || prop::sample::select(&["a", "b", "c", "long"][..]).prop_map(str::to_owned);
    let words = |words: &[&str]| resp(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let other = [
        words(&["MULTI"]),
        words(&["EXEC"]),
        words(&["SELECT", "1"]),
        words(&["SELECT", "0"]),
        words(&["HELLO", "3"]),
        words(&["CLIENT", "REPLY", "SKIP"]),
        words(&["CLIENT", "REPLY", "OFF"]),
        words(&["CLIENT", "REPLY", "ON"]),
        words(&["CLIENT", "TRACKING", "ON"]),
        words(&["SUBSCRIBE", "a"]),
        words(&["UNSUBSCRIBE"]),
        words(&["GET"]),
        words(&["GET", "a", "b"]),
        words(&["FLUSHDB"]),
        words(&["GET", &"k".repeat(70_000)]),
        words(&["SET", "", "v"]),
        words(&["SET", "a", "v", "KEEPTTL"]),
        words(&["SET", "a", "v", "EX", "5", "NX"]),
        words(&["SET", "a", "v", "NX", "GET"]),
        words(&["SET", "b", &"v".repeat(4097), "EX", "5"]),
        words(&["SET", "long", &"v".repeat(100_000)]),
    ];
    let units = || prop::sample::select(&["EX", "px", "EXAT", "PXAT", "NX"][..]);
    let times = || prop::sample::select(&["5", "1700000010", "0", "-1", "soon", "GET"][..]);
    prop_oneof![
        12 => key().prop_map(|key| resp(&["GET".to_owned(), key])),
        2 => key().prop_map(|key| resp(&["PTTL".to_owned(), key])),
        2 => (key(), units(), times()).prop_map(|(key, unit, time)| {
            resp(&["SET".to_owned(), key, "v".to_owned(), unit.to_owned(), time.to_owned()])
        }),
        4 => (key(), "[a-z]{0,300}").prop_map(|(key, value)| resp(&["SET".to_owned(), key, value])),
        1 => key().prop_map(|key| resp(&["get".to_owned(), key])),
        1 => (key(), key()).prop_map(|(a, b)| resp(&["MGET".to_owned(), a, b])),
        2 => prop::sample::select(other.to_vec()),
    ]
}

#[test]
fn an_mget_answers_as_it_does_within_a_transaction() {
    for (hello, limit) in [("", 1 << 20), ("HELLO 3\r\n", 1 << 20), ("", 500)] {
        let engine = engine(Limits { max_request: limit, ..Limits::default() });
        let long = "v".repeat(200_000);
        let set = ["SET", "long", &long].map(str::to_owned);
        talk(&engine, &resp(&set), &[1 << 20]);
        talk(&engine, format!("SET a 1\r\nSET b {}\r\nSET c ''\r\n", "w".repeat(300)).as_bytes(), &[1 << 20]);
        for mget in ["MGET a none b c a", "MGET long a long", "MGET none", "MGET b b b", "mget a"] {
            let plain = text(&talk(&engine, format!("{hello}{mget}\r\n").as_bytes(), &[1 << 20]).0);
            let within = format!("{hello}MULTI\r\n{mget}\r\nEXEC\r\n");
            let within = text(&talk(&engine, within.as_bytes(), &[1 << 20]).0);
            let answer = within.split_once("*1\\r\\n").unwrap().1;
            assert!(plain.ends_with(answer), "{mget}: {plain} is not {answer}");
            assert_eq!(plain.contains("too long"), limit == 500 && mget == "MGET b b b", "{mget}: {plain}");
        }
    }
}

#[test]
fn a_get_or_set_answers_as_it_does_within_a_transaction() {
    let limits = Limits { max_value: 5000, ..Limits::default() };
    let engine = engine(limits);
    let (long, longest) = ("v".repeat(4097), "v".repeat(5001));
    for (set, leaves) in [
        ("SET a 1", "-1"),
        ("SET a 1 EX 10", "10000"),
        ("SET a 1 px 10", "10"),
        ("SET a 1 EXAT 1700000020", "20000"),
        ("SET a 1 PXAT 1", "-2"),
        ("SET a 1 KEEPTTL", "-1"),
        ("SET a 1 GET NX", "-1"),
        ("SET a ''", "-1"),
        (&*format!("SET a {long} EX 1"), "1000"),
        (&*format!("SET a {longest} EX 1"), "-1"),
    ] {
        for hello in ["", "HELLO 3\r\n"] {
            talk(&engine, b"SET a 0\r\n", &[1 << 20]);
            let plain = text(&talk(&engine, format!("{hello}{set}\r\nPTTL a\r\nGET a\r\n").as_bytes(), &[1 << 20]).0);
            talk(&engine, b"SET a 0\r\n", &[1 << 20]);
            let within = format!("{hello}MULTI\r\n{set}\r\nPTTL a\r\nGET a\r\nEXEC\r\n");
            let within = text(&talk(&engine, within.as_bytes(), &[1 << 20]).0);
            let answer = within.split_once("*3\\r\\n").unwrap().1;
            assert!(plain.ends_with(answer), "{set}: {plain} is not {answer}");
            assert!(plain.contains(&format!(":{leaves}\\r\\n")), "{set}: {plain}");
        }
    }
}

proptest! {
    #[test]
    fn pipelined_requests_are_answered_as_single_ones(
        commands in prop::collection::vec(use_of_keys(), 1..60),
        pause in prop::sample::select(&[10usize, 1000, 1 << 20][..]),
    ) {
        let alone: Vec<usize> = commands.iter().map(Vec::len).collect();
        let input = commands.concat();
        let each = talk(&engine(Limits::default()), &input, &alone);
        let together = talk(&engine(Limits { pause_output: pause, ..Limits::default() }), &input, &[input.len()]);
        prop_assert_eq!(text(&together.0), text(&each.0));
    }

    #[test]
    fn answers_are_the_same_however_the_input_is_cut(
        commands in prop::collection::vec(command(), 1..30),
        pieces in prop::collection::vec(1usize..40, 1..20),
    ) {
        let input = commands.concat();
        let whole = talk(&engine(Limits::default()), &input, &[input.len().max(1)]);
        prop_assert_eq!(text(&talk(&engine(Limits::default()), &input, &pieces).0), text(&whole.0));
        let tiny = Limits { pause_output: 10, ..Limits::default() };
        prop_assert_eq!(text(&talk(&engine(tiny), &input, &pieces).0), text(&whole.0));
    }

    #[test]
    fn random_bytes_get_answers_or_a_clean_end(
        start in prop::sample::select(&["", "*", "{", "*1\r\n$", "{\"src\":\"a\",\"dest\":\"b\",\"body\":", "PING\r\n"][..]),
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        pieces in prop::collection::vec(1usize..40, 1..5),
    ) {
        let input = [start.as_bytes(), &bytes].concat();
        let whole = talk(&engine(Limits::default()), &input, &[input.len().max(1)]);
        prop_assert_eq!(talk(&engine(Limits::default()), &input, &pieces), whole);
    }
}
