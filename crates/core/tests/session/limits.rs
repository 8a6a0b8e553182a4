//! What is too long or too much.

use std::sync::Arc;

use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::protocol::resp;
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::Options;
use globalcache_core::vocabulary::{Reply, Values};

use crate::stream::{engine, resp, short_values, talk, text};
use crate::world::World;

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
