//! Sessions over all protocols: the same answers however the input is cut, and nothing but answers or a clean end
//! whatever it is.

use std::sync::Arc;

use globalcache_core::command::{Reply, Values};
use globalcache_core::engine::{Engine, Facts, Limits, Now};
use globalcache_core::output::Output;
use globalcache_core::protocol::resp;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::store::{Options, Party, Value};
use proptest::prelude::*;

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
    let mut session = Session::new(Party::default());
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
    for found in [
        None,
        Some((Value::Inline(b"yz"), 0)),
        Some((Value::Shared(&large), 7)),
        Some((Value::Inline(b""), u32::MAX)),
        Some((Value::Shared(&large), 0)),
    ] {
        values.push(found, &mut scratch);
    }
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
    let limits = Limits { max_value: 1 << 20, ..Limits::default() };
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
    fn requests_that_come_together_are_answered_as_if_each_came_alone(
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
