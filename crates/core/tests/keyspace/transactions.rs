//! What a transaction may cost.

use globalcache_core::table::{TABLE, flag};

use crate::talk::{CLEAR, Talk, engine, fill, names, small_replies};

/// A transaction asks for more than a client may make the server hold: by COMMAND, KEYS and SCAN, whose requests are short.
/// A reply that does not fit is replaced by an error, the others come as usual, and all of its writes are done.
#[test]
fn replies_of_a_transaction_are_bounded() {
    let engine = small_replies();
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(200));
    for request in [&["COMMAND"][..], &["KEYS", "*"], &["SCAN", "0", "COUNT", "1000"], &["COMMAND", "INFO", "client"]] {
        talk.ask(&["MULTI"]);
        (0..200).for_each(|_| _ = talk.ask(request));
        talk.ask(&["SET", "last", "1"]);
        let answer = talk.ask(&["EXEC"]);
        let left_out = answer.matches("-ERR the command was run, but its reply is left out").count();
        assert!((1..201).contains(&left_out), "{request:?}: {left_out}");
        assert!(answer.ends_with("+OK\\r\\n"), "{request:?}");
        assert!(answer.len() < 1 << 20, "{request:?}: {}", answer.len());
    }
}

/// A transaction lists all keys again and again, and none matches. It may look at a million of them before it begins again.
/// What writes is done all the same.
#[test]
fn a_transaction_looks_at_a_bounded_number_of_keys() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(20_000));
    talk.ask(&["MULTI"]);
    (0..100).for_each(|_| _ = talk.ask(&["KEYS", "none:*"]));
    talk.ask(&["SET", "key:1", "v"]);
    let answer = talk.ask(&["EXEC"]);
    let (done, refused) = (answer.matches("*0\\r").count(), answer.matches("-BUSY").count());
    assert!((40..80).contains(&done) && done + refused == 100, "{done} {refused}");
    assert!(answer.ends_with("+OK\\r\\n"), "{answer}");
}

/// A transaction holds all shards while it lists channels, settings, commands or keys by patterns that take long, again and
/// again, or looks at more keys in one command than it may: each answers BUSY in the middle, and writes behind it are done.
#[test]
fn a_transaction_stops_in_the_middle_of_a_command() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let names: Vec<String> = (0..3000).map(|number| format!("{}{number}", "a".repeat(900))).collect();
    fill(&engine.store, &names);
    for some in names.chunks(1000) {
        other.ask(&[&["SUBSCRIBE"][..], &some.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    }
    let (costly, settings) = (format!("*{}b*", "a".repeat(500)), vec!["*".repeat(1000); 4000]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    for (request, times) in [
        (&["PUBSUB", "CHANNELS", &costly][..], 20),
        (&["PUBSUB", "CHANNELS", "none"], 400),
        (&[&["PUBSUB", "NUMSUB"][..], &["a"; 4000]].concat(), 300),
        (&[&["CONFIG", "GET"][..], &settings].concat(), 40),
        (&["KEYS", &costly], 20),
        (&["EVALSHA", CLEAR, "1", &costly], 20),
    ] {
        talk.ask(&["MULTI"]);
        (0..times).for_each(|_| _ = talk.ask(request));
        talk.ask(&["SET", "last", "v"]);
        let answer = talk.ask(&["EXEC"]);
        let refused = answer.matches("-BUSY the transaction has looked at or copied too much already").count();
        assert!((times / 20..times).contains(&refused), "{}: {refused}", request[0]);
        assert!(answer.ends_with("+OK\\r\\n"), "{}", request[0]);
    }
}

/// Sends a transaction of a write and so many times these requests; what EXEC answers.
fn transact(talk: &mut Talk<'_>, requests: &[&[&str]], times: usize) -> String {
    talk.ask(&["MULTI"]);
    talk.ask(&["SET", "first", "v"]);
    for _ in 0..times {
        requests.iter().for_each(|request| _ = talk.ask(request));
    }
    talk.ask(&["EXEC"])
}

/// A thousand short requests change a long value: each of them copies it, while all shards are locked. What would copy more
/// than a gibibyte is refused whole, and nothing of it is done; so is a transaction that empties everything again and again.
#[test]
fn writes_that_copy_too_much_are_refused_whole() {
    let engine = engine(128 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    let (long, short) = ("v".repeat(15_000_000), "v".repeat(120_000));
    let extend = "a4e8783852e6b949f9ef3a97212805108459a890";
    for (requests, times) in [
        (&[&["APPEND", "long", "x"][..]][..], 80),
        (&[&["SETRANGE", "long", "0", "x"]], 80),
        (&[&["SETRANGE", "none", "15000000", "x"], &["DEL", "none"]], 80),
        (&[&["EXPIRE", "short", "100"], &["PERSIST", "short"]], 5_000),
        (&[&["GETEX", "short", "EX", "100"]], 5_000),
        (&[&["COPY", "short", "other", "REPLACE"]], 10_000),
        (&[&["RENAME", "short", "other"], &["RENAME", "other", "short"]], 5_000),
        (&[&["MOVE", "short", "1"], &["SELECT", "1"], &["MOVE", "short", "0"], &["SELECT", "0"]], 5_000),
        (&[&["SET", "short", "x", "NX", "GET"]], 10_000),
        (&[&["EVALSHA", extend, "1", "short", "v", "1", "0"]], 10_000),
        (&[&["FLUSHALL"]], 5_000),
        (&[&["FLUSHDB"]], 5_000),
    ] {
        talk.ask(&["SET", "long", &long]);
        talk.ask(&["SET", "short", &short]);
        let answer = transact(&mut talk, requests, times);
        assert!(answer.starts_with("-EXECABORT Transaction discarded because of: BUSY its writes"), "{requests:?}");
        assert_eq!(talk.ask(&["EXISTS", "first", "long", "short"]), ":2\\r\\n", "{requests:?}");
        let answer = transact(&mut talk, requests, times / 1000 + 2);
        assert!(answer.contains("+OK\\r\\n"), "{requests:?}: {answer}");
        talk.ask(&["DEL", "first"]);
    }
    // A value beside the log is not copied with what is kept beside it.
    talk.ask(&["SET", "long", &long]);
    assert!(transact(&mut talk, &[&["EXPIRE", "long", "100"]], 9_000).ends_with(":1\\r\\n"));
}

/// A transaction reads a long value again and again, most of which finds no room in its reply: reads that would copy more are
/// refused from a gibibyte on. What writes is done.
#[test]
fn reads_that_copy_too_much_are_refused() {
    let engine = small_replies();
    let mut talk = Talk::new(&engine);
    talk.ask(&["SET", "long", &"v".repeat(15_000_000)]);
    talk.ask(&["MULTI"]);
    (0..80).for_each(|_| _ = talk.ask(&["GETRANGE", "long", "0", "-1"]));
    talk.ask(&["GET", "long"]);
    talk.ask(&["SET", "last", "v"]);
    let answer = talk.ask(&["EXEC"]);
    let (refused, left_out) = (answer.matches("-BUSY").count(), answer.matches("its reply is left out").count());
    assert_eq!((left_out, refused), (72, 9), "{answer}");
    assert!(answer.ends_with("+OK\\r\\n"));
}

/// A transaction has cost as much as it may. From there on each command that does not write answers BUSY, but for those of a
/// fixed cost, of which some choose what the commands behind them work with.
#[test]
fn every_read_is_refused_once_a_transaction_cost_too_much() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(20_000));
    let short = ["AUTH", "CLIENT", "COMMAND", "ECHO", "HELLO", "LASTSAVE", "PING", "SELECT", "TIME", "UNWATCH"];
    let alone = flag::ALONE | flag::TRANSACTION | flag::WRITE;
    let rest = TABLE.iter().filter(|row| row.flags & alone == 0 && !short.contains(&row.name));
    let mut requests: Vec<Vec<&str>> = rest
        .map(|row| match row.name {
            "ACL" => vec!["ACL", "LIST"],
            "CONFIG" => vec!["CONFIG", "RESETSTAT"],
            "FUNCTION" => vec!["FUNCTION", "FLUSH"],
            "MEMORY" => vec!["MEMORY", "STATS"],
            "OBJECT" => vec!["OBJECT", "FREQ", "key:1"],
            "PUBSUB" => vec!["PUBSUB", "NUMPAT"],
            "SCAN" => vec!["SCAN", "0"],
            "SCRIPT" => vec!["SCRIPT", "EXISTS", "x"],
            name => [&[name][..], &vec!["1"; row.arity.unsigned_abs() as usize - 1]].concat(),
        })
        .filter(|request| !["FUNCTION", "CACHE.FORGET"].contains(&request[0]))
        .collect();
    requests
        .extend([&["COMMAND"][..], &["COMMAND", "DOCS"], &["COMMAND", "INFO"], &["CLIENT", "LIST"]].map(<[_]>::to_vec));
    let mut refused = |requests: &[Vec<&str>]| {
        talk.ask(&["MULTI"]);
        (0..60).for_each(|_| _ = talk.ask(&["KEYS", "none:*"]));
        requests.iter().for_each(|request| assert_eq!(talk.ask(request), "+QUEUED\\r\\n", "{request:?}"));
        let answer = talk.ask(&["EXEC"]);
        (answer.matches("-BUSY the transaction has looked at or copied too much already").count(), answer)
    };
    let (before, _) = refused(&[]);
    assert!(before > 0);
    let (count, answer) = refused(&requests);
    assert_eq!(count - before, requests.len(), "{answer}");
}

/// A transaction has looked at nearly as many keys as it may, and clears keys: it has to stop in the middle. Nothing is
/// removed, rather than a part.
#[test]
fn a_transaction_clears_everything_or_nothing() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(20_000));
    let mut after = |looks: usize, last: &[&str]| {
        talk.ask(&["MULTI"]);
        (0..looks).for_each(|_| _ = talk.ask(&["KEYS", "none:*"]));
        talk.ask(last);
        (talk.ask(&["EXEC"]), talk.ask(&["DBSIZE"]))
    };
    let most = after(100, &["PING"]).0.matches("*0\\r").count();
    let clear = ["EVALSHA", CLEAR, "1", "key:*"];
    let (answer, left) = after(most, &clear);
    assert_eq!((answer.matches("*0\\r").count(), left.as_str()), (most, ":20000\\r\\n"));
    assert!(answer.contains("*0\\r\\n-BUSY"), "{answer}");
    let (answer, left) = after(most / 2, &clear);
    assert!(answer.ends_with("*0\\r\\n:20000\\r\\n") && left == ":0\\r\\n", "{answer}");
}
