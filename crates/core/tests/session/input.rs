//! The same answers however the input is cut, whatever it is.

use globalcache_core::limits::Limits;
use proptest::prelude::*;

use crate::stream::{engine, resp, talk, text};

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
