//! Commands on many keys, channels or clients: done in turns, or refused.

use std::collections::HashSet;

use globalcache_core::output::Output;
use globalcache_core::session::{Scratch, Session};
use globalcache_core::store::{ConnectionId, Key, Meta};

use crate::talk::{CLEAR, NOW, Talk, engine, fill, names};

/// A request of many keys held its thread, and all shards, until the last of them.
#[test]
fn many_keys_are_removed_in_turns() {
    let engine = engine(64 << 20, 4, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let names = names(30_000);
    fill(&engine.store, &names);
    let words: Vec<&str> = std::iter::once("DEL").chain(names.iter().map(String::as_str)).chain(["none"]).collect();
    talk.send(&words);
    talk.send(&["GET", "key:0"]);
    let mut turns = 0;
    let answer = loop {
        let (answer, goes_on) = talk.turn();
        if !goes_on {
            break answer;
        }
        assert!(answer.is_empty() && talk.session.is_ready(), "what follows waits for it");
        turns += 1;
        let left = 30_000 - turns * 8192;
        assert_eq!(other.ask(&["DBSIZE"]), format!(":{left}\\r\\n"));
    };
    assert_eq!((answer.as_str(), turns), (":30000\\r\\n$-1\\r\\n", 3));
}

#[test]
fn in_a_transaction_many_keys_are_removed_in_one_step() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    let names = names(20_000);
    fill(&engine.store, &names);
    talk.ask(&["MULTI"]);
    talk.ask(&std::iter::once("UNLINK").chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
    talk.send(&["EXEC"]);
    assert_eq!(talk.turn(), ("*1\\r\\n:20000\\r\\n".to_owned(), false));
}

/// Keys that come and go between its turns do not disturb it: those that were there all the time are found once.
#[test]
fn all_keys_are_told_in_turns() {
    let engine = engine(64 << 20, 4, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    fill(&engine.store, &names(30_000));
    talk.send(&["KEYS", "key:*"]);
    let mut turns = 0;
    let answer = loop {
        let (answer, goes_on) = talk.turn();
        if !goes_on {
            break answer;
        }
        turns += 1;
        other.ask(&["SET", &format!("key:new{turns}"), "1"]);
    };
    assert!((3..6).contains(&turns), "{turns} turns");
    let found: Vec<&str> =
        answer.split("\\r\\n").filter(|word| word.starts_with("key:") && !word.contains("new")).collect();
    assert_eq!((found.len(), found.iter().collect::<HashSet<_>>().len()), (30_000, 30_000));
}

/// SCAN looked through up to a million items of other databases under COUNT 65536.
#[test]
fn one_scan_looks_at_a_bounded_number_of_keys() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(40_000));
    let answer = talk.ask(&["SCAN", "0", "COUNT", "1000000"]);
    assert!((4096..4200).contains(&answer.matches("key:").count()));
    talk.ask(&["SELECT", "1"]);
    talk.ask(&["SET", "only", "1"]);
    let answer = talk.ask(&["SCAN", "0", "COUNT", "1000000"]);
    assert!(!answer.starts_with("*2\\r\\n$1\\r\\n0"), "it went on through all: {answer}");
}

/// RANDOMKEY walked through the items of all other databases, twice, and held its thread meanwhile.
#[test]
fn a_rare_key_is_looked_for_in_turns_or_given_up() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    fill(&engine.store, &names(60_000));
    talk.ask(&["SELECT", "1"]);
    talk.send(&["RANDOMKEY"]);
    assert_eq!(talk.turn(), ("$-1\\r\\n".to_owned(), false), "an empty database is not walked through");
    talk.ask(&["SET", "only", "1"]);
    let mut turns = 0;
    for _ in 0..4 {
        talk.send(&["RANDOMKEY"]);
        let answer = loop {
            let (answer, goes_on) = talk.turn();
            if !goes_on {
                break answer;
            }
            turns += 1;
            assert_eq!(other.ask(&["DBSIZE"]), ":60000\\r\\n");
        };
        assert_eq!(answer, "$4\\r\\nonly\\r\\n");
    }
    assert!((4..40).contains(&turns), "{turns} turns");
    // A transaction holds all shards: it gives up.
    let in_transaction = || {
        talk.ask(&["MULTI"]);
        talk.ask(&["RANDOMKEY"]);
        talk.ask(&["EXEC"])
    };
    let answers: HashSet<String> = std::iter::repeat_with(in_transaction).take(40).collect();
    let expected = ["*1\\r\\n$-1\\r\\n", "*1\\r\\n$4\\r\\nonly\\r\\n"].map(str::to_owned);
    assert_eq!(answers, HashSet::from(expected));
}

/// EXISTS of many keys runs in turns, and others write meanwhile. What workers load of them is asked for once, before it
/// begins to count.
#[test]
fn many_keys_are_counted_in_turns() {
    let engine = engine(64 << 20, 4, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let names = names(30_000);
    fill(&engine.store, &names);
    let words: Vec<&str> = std::iter::once("EXISTS").chain(names.iter().map(String::as_str)).chain(["none"]).collect();
    let mut count = |begin: usize| {
        talk.send(&words);
        let mut turns = 0;
        loop {
            let (answer, goes_on) = talk.turn();
            if !goes_on {
                return (answer, turns);
            }
            turns += 1;
            if turns == begin + 1 {
                // One that it has counted, and one that it has not.
                assert_eq!(other.ask(&["DEL", "key:0", "key:29999"]), ":2\\r\\n");
            }
        }
    };
    assert_eq!(count(0), (":29999\\r\\n".to_owned(), 3));
    engine.loaders.declare(0, b"none").unwrap();
    engine.store.with(Key { db: 0, bytes: b"none" }, NOW.mono, |entry| entry.set(b"v", &Meta::default())).unwrap();
    assert_eq!(count(5), (":29999\\r\\n".to_owned(), 3));
}

/// The first client that subscribed is gone, and its many channels are forgotten a part at a time. Another one, which
/// listens to nothing, unsubscribes from many names and is gone in the middle of that: the first stays uncounted.
#[test]
fn one_that_never_subscribed_ends_no_other_subscription() {
    let engine = engine(64 << 20, 1, true);
    let [mut first, mut second, mut other] = [1, 2, 3].map(|id| Talk::with_id(&engine, id));
    let channels = names(20_000);
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    first.ask(&[&["SUBSCRIBE"][..], &channels].concat());
    first.session.close(&engine, NOW);
    second.send(&[&["UNSUBSCRIBE"][..], &channels].concat());
    assert!(second.turn().1);
    second.session.close(&engine, NOW);
    assert!(channels.iter().all(|channel| other.ask(&["PUBLISH", channel, "m"]) == ":0\\r\\n"));
}

/// The replies of a transaction lie one behind the other: a short MGET behind long ones is not too long.
#[test]
fn a_short_mget_behind_long_replies_is_answered() {
    let mut engine = engine(64 << 20, 4, true);
    engine.limits.max_request = 64 << 10;
    let mut talk = Talk::new(&engine);
    talk.ask(&["SET", "long", &"v".repeat(60_000)]);
    talk.ask(&["SET", "short", "v"]);
    talk.ask(&["MULTI"]);
    (0..3).for_each(|_| _ = talk.ask(&["GETRANGE", "long", "0", "-1"]));
    talk.ask(&["MGET", "short"]);
    talk.ask(&["CACHE.MGET", "short"]);
    let answer = talk.ask(&["EXEC"]);
    let one = "*1\\r\\n$1\\r\\nv\\r\\n";
    assert!(answer.ends_with(&one.repeat(2)), "{}", &answer[180_000..]);
}

/// A pattern is no longer than 1,024 bytes, wherever it stands, and neither is the name of a channel.
#[test]
fn long_patterns_and_channels_are_refused() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    let (long, longest) = ("a".repeat(1025), "a".repeat(1024));
    let requests: [&[&str]; 9] = [
        &["KEYS"],
        &["SCAN", "0", "MATCH"],
        &["CONFIG", "GET"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN"],
        &["PUBSUB", "CHANNELS"],
        &["EVALSHA", CLEAR, "1"],
        &["CACHE.FORGET"],
        &["SUBSCRIBE"],
        &["PSUBSCRIBE"],
    ];
    for head in requests {
        let answer = talk.ask(&[head, &[&long]].concat());
        assert!(answer.contains(" is too long; at most 1024 bytes are taken"), "{head:?} {answer}");
    }
    assert!(talk.ask(&["PUBLISH", &long, "m"]).contains("a channel is too long"));
    let mut other = Talk::new(&engine);
    for head in requests {
        assert!(!talk.ask(&[head, &[&longest]].concat()).starts_with('-'), "{head:?}");
    }
    assert_eq!(other.ask(&["PUBLISH", &longest, "m"]), ":2\\r\\n");
}

/// A client listens to 20,000 channels by one request, in turns; a message comes between two of them. Each channel is confirmed
/// before its messages, and messages of a channel end before that is confirmed.
#[test]
fn many_channels_are_subscribed_to_in_turns() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let channels = names(20_000);
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    for (word, first, last) in [("SUBSCRIBE", ":1\\r\\n", ":0\\r\\n"), ("UNSUBSCRIBE", ":0\\r\\n", ":1\\r\\n")] {
        talk.send(&[&[word][..], &channels].concat());
        let (mut turns, mut count) = (0, 0);
        loop {
            let (answer, goes_on) = talk.turn();
            count += answer.matches(&word.to_lowercase()).count();
            if !goes_on {
                break;
            }
            turns += 1;
            assert_eq!(other.ask(&["PUBLISH", channels[0], "m"]), first);
            assert_eq!(other.ask(&["PUBLISH", channels[19_999], "m"]), last);
            assert!(count >= turns * 4096, "what was subscribed to in a turn is confirmed at its end");
        }
        assert_eq!((turns, count), (4, 20_000));
    }
    assert_eq!(other.ask(&["PUBSUB", "CHANNELS"]), "*0\\r\\n");
    talk.ask(&[&["SUBSCRIBE"][..], &channels].concat());
    let answer = talk.ask(&["UNSUBSCRIBE"]);
    assert_eq!((answer.matches("unsubscribe").count(), answer.ends_with(":0\\r\\n")), (20_000, true));
    assert_eq!(talk.ask(&["GET", "a"]), "$-1\\r\\n");
}

/// A client may not listen to patterns that a message would be compared with for too long; others may then still listen.
/// What it asked for is refused whole, and it may ask again when it listens to less.
#[test]
fn costly_patterns_are_refused_when_they_come() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let costly: Vec<String> = (0..400).map(|number| format!("*{}{number:4}*", "a".repeat(500))).collect();
    let costly: Vec<&str> = costly.iter().map(String::as_str).collect();
    let error = "-ERR the patterns of one connection are too many or too costly";
    assert!(talk.ask(&[&["PSUBSCRIBE"][..], &costly].concat()).starts_with(error));
    assert_eq!(talk.ask(&["PUBSUB", "NUMPAT"]), ":0\\r\\n");
    let some = [&["PSUBSCRIBE"][..], &costly[..100]].concat();
    assert!(talk.ask(&some).contains(":100\\r\\n"));
    // What it listens to already costs nothing again.
    assert!(talk.ask(&some).contains(":100\\r\\n"));
    let more = [&["PSUBSCRIBE"][..], &costly[100..200]].concat();
    assert!(talk.ask(&more).starts_with(error));
    assert!(other.ask(&more).contains(":100\\r\\n"));
    talk.ask(&["PUNSUBSCRIBE"]);
    assert!(talk.ask(&more).contains(":100\\r\\n"));
}

/// Each key costs thousands of steps of the pattern, so a turn looks at fewer keys, and one SCAN returns earlier.
#[test]
fn a_costly_pattern_ends_a_turn_earlier() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    let long: Vec<String> = (0..3000).map(|number| format!("{}{number}", "a".repeat(500))).collect();
    fill(&engine.store, &long);
    let pattern = format!("*{}b*", "a".repeat(200));
    talk.send(&["KEYS", &pattern]);
    let turns = std::iter::repeat_with(|| talk.turn()).take_while(|(_, goes_on)| *goes_on).count();
    assert!(turns >= 5, "{turns} turns");
    let answer = talk.ask(&["SCAN", "0", "COUNT", "3000", "MATCH", &pattern]);
    assert!(!answer.starts_with("*2\\r\\n$1\\r\\n0"), "{answer}");
}

/// Requests of thousands of words that are no keys are refused before any is looked at; keys may be as many as before.
#[test]
fn words_that_are_no_keys_are_bounded() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    let many = vec!["get"; 5000];
    for head in
        [&["COMMAND", "INFO"][..], &["CLIENT", "LIST", "ID"], &["CONFIG", "GET"], &["INFO"], &["PUBSUB", "NUMSUB"]]
    {
        assert_eq!(talk.ask(&[head, &many].concat()), "-ERR too many arguments\\r\\n");
        assert!(!talk.ask(&[head, &["1"]].concat()).starts_with("-ERR too many"));
    }
    assert_eq!(talk.ask(&[&["EXISTS"][..], &many].concat()), ":0\\r\\n");
    // Few words whose answers are long.
    assert_eq!(talk.ask(&[&["COMMAND", "INFO"][..], &["client"; 4000]].concat()), "-ERR the reply is too long\\r\\n");
}

/// 3,000 clients are listed, and closed by another one, in turns.
#[test]
fn clients_are_listed_in_turns() {
    let engine = engine(64 << 20, 1, true);
    let (mut scratch, mut out) = (Scratch::default(), Output::default());
    let mut others: Vec<Session> =
        (1..=3000).map(|id| Session::new(ConnectionId { id, ..ConnectionId::default() })).collect();
    others.iter_mut().for_each(|other| _ = other.feed(&engine, NOW, &mut scratch, b"PING\r\n", &mut out));
    let mut talk = Talk::new(&engine);
    talk.send(&["CLIENT", "LIST"]);
    let mut answers = Vec::new();
    loop {
        let (answer, goes_on) = talk.turn();
        answers.push(answer);
        if !goes_on {
            break;
        }
    }
    assert_eq!((answers.len(), answers.concat().matches("addr=").count()), (3, 3001));
    assert_eq!(talk.ask(&["CLIENT", "KILL", "TYPE", "normal"]), ":3000\\r\\n");
}
