//! Keys that workers load: who is sent what, and what is read while there is no worker.

use globalcache_core::limits::Limits;

use crate::world::{World, load_of, token_of};

#[test]
fn a_served_key_is_never_a_wrong_nothing() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect(""));
    assert_eq!(world.ask(worker, "CACHE.LOADER user:*"), "+OK");
    for (line, answer) in [
        ("GET user:1", "$1 7"),
        ("INCR user:2", ":8"),
        ("SET user:3 x NX", "$-1"),
        ("MGET user:4 other", "*2 $1 7 $-1"),
        ("EXISTS user:5", ":1"),
        ("CACHE.GET user:6", "$1 7"),
        // django-redis's incr, which is an error where there is no number.
        ("EVALSHA f4a7da3e5d8ea3b46642af08427151cae0190400 1 user:7 1", ":8"),
    ] {
        world.send(reader, line);
        assert_eq!(world.heard(reader), "", "{line} waits");
        // Nothing behind it is run.
        world.send(reader, "PING");
        assert_eq!(world.heard(reader), "");
        let push = world.heard(worker);
        assert!(push.starts_with(">2 $4 load *2 $6 user:"), "{push}");
        let words: Vec<&str> = push.split(' ').collect();
        world.send(worker, &format!("CACHE.FILL {} {} 7", words[5], words[6].trim_start_matches(':')));
        assert_eq!(world.heard(reader), format!("{answer} +PONG"), "{line}");
        world.heard(worker);
    }
    // A transaction loads first what its commands depend on.
    for line in ["MULTI", "GET user:20", "SET user:21 x NX", "EXEC"] {
        world.send(reader, line);
    }
    assert_eq!(world.heard(reader), "+OK +QUEUED +QUEUED");
    let pushes = world.heard(worker);
    let words: Vec<&str> = pushes.split(' ').collect();
    for key in ["user:20", "user:21"] {
        let at = words.iter().position(|word| *word == key).unwrap();
        world.send(worker, &format!("CACHE.FILL {key} {} 7", words[at + 1].trim_start_matches(':')));
    }
    assert_eq!(world.heard(reader), "*2 $1 7 $-1");
    world.heard(worker);
    // Its worker is gone: the key stays served, and a plain read waits and is told.
    world.send(reader, "GET user:9");
    world.close(worker);
    assert_eq!(world.heard(reader), "");
    world.wait(30_001);
    assert!(world.heard(reader).starts_with("-NOLOADER user:9: "));
    // A fetch takes the lease itself meanwhile.
    world.lease(reader, "user:10");
    // And a new worker is sent what waits.
    let other = world.connect("");
    world.send(other, "GET user:11");
    let worker = world.connect("HELLO 3");
    world.ask(worker, "PING");
    world.send(worker, "CACHE.LOADER user:*");
    assert!(world.heard(worker).contains("user:11"));
}

#[test]
fn a_worker_is_sent_no_more_than_it_takes() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER k:* INFLIGHT 2");
    let readers: Vec<usize> = (0..5).map(|_| world.connect("")).collect();
    for (number, reader) in readers.iter().enumerate() {
        world.send(*reader, &format!("GET k:{number}"));
    }
    let mut seen = Vec::new();
    let mut sent = world.heard(worker);
    for round in 0..5 {
        let words: Vec<String> = sent.split(' ').map(str::to_owned).collect();
        for (at, word) in words.iter().enumerate().filter(|(_, word)| word.starts_with("k:")) {
            seen.push((word.clone(), words[at + 1].trim_start_matches(':').to_owned()));
        }
        assert!(seen.len() <= round + 2);
        let (key, token) = seen[round].clone();
        sent = world.ask(worker, &format!("CACHE.FAIL {key} {token} no"));
    }
    assert_eq!(seen.len(), 5);
    for (number, reader) in readers.iter().enumerate() {
        assert_eq!(world.heard(*reader), format!("-LOADFAILED k:{number}: no"));
    }
}

/// Two workers die one after the other with the same load in hand: the row may be what kills them.
#[test]
fn two_workers_that_end_are_a_failure() {
    let mut world = World::new();
    let reader = world.connect("");
    for _ in 0..2 {
        let worker = world.connect("HELLO 3");
        world.send(worker, "CACHE.LOADER u:*");
        if worker == 1 {
            world.send(reader, "GET u:1");
        }
        load_of(&world.heard(worker));
        world.close(worker);
    }
    assert_eq!(world.heard(reader), "-LOADFAILED u:1: the worker that loaded it ended, twice");
}

/// A load is sent to a worker whose connection is gone before it is delivered, again and again. Nobody has tried to load:
/// the reader waits on, and a worker that is well loads for it.
#[test]
fn a_load_that_was_not_delivered_is_no_failure() {
    let mut world = World::new();
    let (dying, reader) = (world.connect("HELLO 3"), world.connect(""));
    world.ask(dying, "CACHE.LOADER u:*");
    world.post(reader, "GET u:1");
    for _ in 0..3 {
        world.engine.pump(world.now);
        for (party, event) in world.engine.mail.take(0) {
            world.engine.undelivered(party, event, world.now);
        }
    }
    world.close(dying);
    let well = world.connect("HELLO 3");
    world.send(well, "CACHE.LOADER u:*");
    let (key, token) = load_of(&world.heard(well));
    world.send(well, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(reader), "$1 v");
}

/// Another thread hands out loads while a worker's connection is being closed: none of those that it had comes to it again.
#[test]
fn a_dying_worker_is_not_sent_its_own_loads() {
    let mut world = World::new();
    let (dying, well) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    let readers: Vec<usize> = (0..200).map(|_| world.connect("")).collect();
    world.ask(dying, "CACHE.LOADER u:* INFLIGHT 1000");
    readers.iter().for_each(|reader| world.send(*reader, &format!("GET u:{reader}")));
    world.ask(well, "CACHE.LOADER u:* INFLIGHT 1000");
    let loads = world.engine.loaders.loads();
    world.close_beside(dying, |engine, now| engine.pump(now));
    world.exchange();
    assert_eq!(world.engine.loaders.loads() - loads, 200);
    assert!(world.heard(well).matches("u:").count() == 200);
    assert!(readers.iter().all(|reader| world.heard(*reader).is_empty()), "they wait for the worker that is well");
}

/// A worker is sent two loads, as many as it takes, and never answers. When its time is over it is sent others.
#[test]
fn a_load_that_is_never_answered_gives_its_credit_back() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER u:* INFLIGHT 2");
    for number in 0..4 {
        let reader = world.connect("");
        world.send(reader, &format!("GET u:{number}"));
    }
    assert_eq!(world.heard(worker).matches("$3 u:").count(), 2);
    world.wait(2_900);
    assert_eq!(world.heard(worker), "");
    world.wait(200);
    assert_eq!(world.heard(worker).matches("$3 u:").count(), 2);
    // Renewing keeps it, and an answer by another connection gives it back once.
    let mut world = World::new();
    let (worker, reader, other) = (world.connect("HELLO 3"), world.connect(""), world.connect(""));
    world.ask(worker, "CACHE.LOADER u:* INFLIGHT 1");
    world.send(reader, "GET u:1");
    let (key, token) = load_of(&world.heard(worker));
    world.send(other, "GET u:2");
    for _ in 0..5 {
        world.wait(2_000);
        assert_eq!(world.ask(worker, &format!("CACHE.RENEW {key} {token} 3000")), ":1");
    }
    let third = world.connect("");
    world.ask(third, &format!("CACHE.FILL {key} {token} v"));
    let second = load_of(&world.heard(worker));
    assert_eq!(second.0, "u:2");
    world.ask(worker, &format!("CACHE.FILL {key} {token} v"));
    world.send(third, "GET u:3");
    assert_eq!(world.heard(worker), "", "it has its one load");
}

/// While the only worker is busy, a key that somebody waits for is removed over and over. It is queued once: the key that
/// waits beside it is loaded next.
#[test]
fn a_key_that_changes_often_is_queued_once() {
    let mut world = World::new();
    let (worker, readers) = (world.connect("HELLO 3"), [0; 3].map(|_| world.connect("")));
    world.ask(worker, "CACHE.LOADER u:* INFLIGHT 1");
    for (reader, key) in readers.iter().zip(["u:busy", "u:victim", "u:hot"]) {
        world.send(*reader, &format!("GET {key}"));
    }
    let writer = world.connect("");
    let queued = world.engine.loaders.queued_bytes();
    for _ in 0..100 {
        world.ask(writer, &"DEL u:hot\r\n".repeat(100));
    }
    assert_eq!(world.engine.loaders.queued_bytes(), queued);
    for (reader, key) in readers.iter().zip(["u:busy", "u:victim", "u:hot"]) {
        let (sent, token) = load_of(&world.heard(worker));
        assert_eq!(sent, key);
        world.send(worker, &format!("CACHE.FILL {key} {token} v"));
        assert_eq!(world.heard(*reader), "$1 v");
    }
    assert!(!world.heard(worker).contains("load"));
}

/// More keys wait for a worker than may be queued. Those without a place ask again, and all are loaded in the end.
#[test]
fn keys_that_find_the_queue_full_are_loaded_later() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER u:* INFLIGHT 1");
    let pad = "x".repeat(1_000);
    let readers: Vec<usize> = (0..300).map(|_| world.connect("")).collect();
    for reader in &readers {
        world.send(*reader, &format!("GET u:{pad}:{reader}"));
    }
    assert!(world.engine.loaders.queued_bytes() < 200 * 1_000, "some found no place");
    for _ in 0..400 {
        world.wait(60);
        let push = world.heard(worker);
        if push.contains("load") {
            let (key, token) = load_of(&push);
            world.send(worker, &format!("CACHE.FILL {key} {token} v"));
        }
    }
    let answered = readers.iter().filter(|reader| world.heard(**reader) == "$1 v").count();
    assert_eq!(answered, readers.len());
}

/// Keys are asked for and given up, one after another, while no worker is there. They leave the queue when there is no room;
/// and a key that somebody waits for still is queued and found by a worker that comes. A pattern that is forgotten leaves
/// nothing behind.
#[test]
fn keys_that_nobody_wants_leave_the_queue() {
    let mut world = World::new();
    world.engine.loaders.declare(0, b"u:*").unwrap();
    let (reader, other) = (world.connect("HELLO 3"), world.connect(""));
    world.ask(reader, "CACHE.SESSION me 1 TICKETS");
    let pad = "x".repeat(1_000);
    for number in 0..1_000 {
        let ticket = world.ask(reader, &format!("GET u:{number}:{pad}")).replace("-WAITING ", "");
        assert_eq!(world.ask(reader, &format!("CACHE.CANCEL {ticket}")), ":1");
        assert!(world.engine.loaders.queued_bytes() <= 128 << 10);
        world.wait(10);
    }
    world.wait(1_000);
    world.send(other, &format!("GET u:wanted:{pad}"));
    world.wait(1_000);
    let worker = world.connect("HELLO 3");
    world.send(worker, "CACHE.LOADER u:*");
    let (key, token) = load_of(&world.heard(worker));
    world.send(worker, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(other), "$1 v");
    world.close(worker);
    world.send(other, "GET u:left");
    assert_ne!(world.engine.loaders.queued_bytes(), 0);
    let operator = world.connect("");
    assert_eq!(world.ask(operator, "CACHE.FORGET u:*"), ":1");
    assert_eq!(world.engine.loaders.queued_bytes(), 0);
}

/// Patterns are registered and forgotten, more of them than may be served at a time, while their worker lives or not: their
/// places are used again. A registration that is refused serves nothing.
#[test]
fn places_of_forgotten_patterns_are_used_again() {
    let mut world = World::new();
    let (operator, worker) = (world.connect(""), world.connect("HELLO 3"));
    for number in 0..1_100 {
        assert_eq!(world.ask(worker, &format!("CACHE.LOADER p{number}:* same:*")), "+OK");
        assert_eq!(world.ask(operator, &format!("CACHE.FORGET p{number}:*")), ":1");
    }
    world.send(operator, "GET same:1");
    let (key, token) = load_of(&world.heard(worker));
    world.send(worker, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(operator), "$1 v");

    let other = world.connect("HELLO 3");
    let many: Vec<String> = (0..1_100).map(|number| format!("q{number}:*")).collect();
    assert!(world.ask(other, &format!("CACHE.LOADER {}", many.join(" "))).starts_with("-ERR too many patterns"));
    assert_eq!(world.ask(operator, "GET q5:1"), "$-1");
    assert_eq!(world.ask(other, "GET q5:1"), "_", "it is no worker");
}

/// A pattern is forgotten while the reads of its keys wait: one for a worker that has no credit left, one in a transaction,
/// one beside a fetch. The reads learn that nobody serves their keys, and the fetch loads. A load that was sent already
/// goes on, and whoever waits for it has its value.
#[test]
fn reads_of_a_forgotten_pattern_are_answered() {
    let mut world = World::new();
    let (worker, operator) = (world.connect("HELLO 3"), world.connect(""));
    world.ask(worker, "CACHE.LOADER u:* INFLIGHT 1");
    let [loading, plain, many, counter, block, waits, fetch] = [0; 7].map(|_| world.connect(""));
    world.send(loading, "GET u:busy");
    let (key, token) = load_of(&world.heard(worker));
    world.send(plain, "GET u:1");
    world.send(many, "MGET u:1 u:2 other");
    world.send(counter, "INCR u:3");
    world.send(block, "MULTI\r\nGET u:4\r\nSET u:4 x NX\r\nEXEC");
    world.heard(block);
    world.send(waits, "GET u:5");
    world.send(fetch, "CACHE.FETCH u:5 WAIT 60000");
    assert_eq!(world.ask(operator, "CACHE.FORGET u:*"), ":1");
    assert_eq!(world.heard(plain), "$-1");
    assert_eq!(world.heard(many), "*3 $-1 $-1 $-1");
    assert_eq!(world.heard(counter), ":1");
    assert_eq!(world.heard(block), "*2 $-1 +OK");
    assert_eq!(world.heard(waits), "$-1");
    let own = token_of(&world.heard(fetch), "miss");
    assert_ne!(world.ask(fetch, &format!("CACHE.FILL u:5 {own} v")), ":0");
    assert_eq!(world.heard(loading), "");
    world.ask(worker, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(loading), "$1 v");
}

/// Reads wait for keys whose load is under way, rests, or is held back by an older one when their pattern is forgotten; and
/// the load comes to nothing. They learn that nobody serves their keys as soon as somebody else would be asked.
#[test]
fn reads_of_a_forgotten_pattern_do_not_wait_for_nobody() {
    for end in ["CACHE.RELEASE {}", "DEL", "time", "close"] {
        let mut world = World::new();
        let (worker, operator, reader) = (world.connect("HELLO 3"), world.connect(""), world.connect(""));
        world.ask(worker, "CACHE.LOADER u:* INFLIGHT 1");
        world.send(reader, "GET u:1");
        let (_, token) = load_of(&world.heard(worker));
        assert_eq!(world.ask(operator, "CACHE.FORGET u:*"), ":1");
        assert_eq!(world.heard(reader), "", "{end}: its load is under way");
        match end {
            "DEL" => drop(world.ask(operator, "DEL u:1")),
            "time" => world.wait(3_001),
            "close" => world.close(worker),
            _ => drop(world.ask(worker, &format!("CACHE.RELEASE u:1 {token}"))),
        }
        assert_eq!(world.heard(reader), "$-1", "{end}");
    }
}

/// A pattern is forgotten and served again while a command waits for a key of another one. "There is none" would be the
/// wrong answer by then, and so would a change of a row that was not loaded.
#[test]
fn a_pattern_that_is_served_again_is_no_wrong_nothing() {
    let mut world = World::new();
    world.engine.loaders.declare(0, b"u:*").unwrap();
    let [reader, block, worker, operator] = ["", "", "HELLO 3", ""].map(|hello| world.connect(hello));
    world.ask(worker, "CACHE.LOADER v:* INFLIGHT 1");
    world.send(reader, "MGET u:1 v:1");
    world.send(block, "MULTI\r\nGET v:1\r\nINCR u:1\r\nEXEC");
    world.heard(block);
    let (key, token) = load_of(&world.heard(worker));
    assert_eq!(world.ask(operator, "CACHE.FORGET u:*"), ":1");
    world.engine.loaders.declare(0, b"u:*").unwrap();
    world.ask(worker, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(reader), "*2 -LOADFAILED u:1: its pattern was forgotten meanwhile $1 v");
    assert_eq!(world.heard(block), "*2 $1 v -LOADFAILED u:1: its pattern was forgotten meanwhile");
    assert_eq!(world.ask(operator, "INCR u:1"), "", "it waits");
}

/// An application loads a key, since no worker is there; a plain read waits for it, and a worker comes. The application gives
/// up, and the worker is sent the load: the read cannot load, and would wait for nobody.
#[test]
fn a_read_beside_a_fetch_is_loaded_for_by_a_worker() {
    let mut world = World::new();
    world.engine.loaders.declare(0, b"u:*").unwrap();
    let (fetcher, reader, worker) = (world.connect(""), world.connect(""), world.connect("HELLO 3"));
    let token = world.lease(fetcher, "u:1");
    world.send(reader, "GET u:1");
    world.ask(worker, "CACHE.LOADER u:*");
    world.ask(fetcher, &format!("CACHE.RELEASE u:1 {token}"));
    let (key, token) = load_of(&world.heard(worker));
    world.ask(worker, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(reader), "$1 v");
}

/// A key waits in the queue of a pattern that has no worker. A worker comes for another pattern that it matches as well, and
/// is sent it.
#[test]
fn a_worker_of_another_pattern_is_sent_what_waits() {
    let mut world = World::new();
    world.engine.loaders.declare(0, b"u:*").unwrap();
    let (reader, worker) = (world.connect(""), world.connect("HELLO 3"));
    world.send(reader, "GET u:1");
    world.send(worker, "CACHE.LOADER *:1");
    let (key, token) = load_of(&world.heard(worker));
    world.ask(worker, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(reader), "$1 v");
}

/// One key is wanted and given up again and again while its worker is busy. It is queued once.
#[test]
fn a_key_that_is_given_up_keeps_its_place() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    world.ask(worker, "CACHE.LOADER u:* INFLIGHT 1");
    world.ask(reader, "CACHE.SESSION me 1 TICKETS");
    world.send(reader, "GET u:busy");
    world.send(reader, "GET u:again");
    world.heard(reader);
    let queued = world.engine.loaders.queued_bytes();
    for _ in 0..100 {
        let ticket = world.ask(reader, "GET u:other").replace("-WAITING ", "");
        world.ask(reader, &format!("CACHE.CANCEL {ticket}"));
    }
    assert!(world.engine.loaders.queued_bytes() < 2 * queued + 100);
}

/// More keys are given up, and others wanted still, than one call looks at. A full queue is searched in steps: each call
/// ends after some of them, and the keys that are wanted are sent in their order.
#[test]
fn a_long_queue_is_searched_in_steps() {
    let mut world = World::with_memory(Limits::default(), 1 << 30);
    world.engine.loaders.declare(0, b"u:*").unwrap();
    let (reader, other) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    world.ask(reader, "CACHE.SESSION me 1 TICKETS");
    world.ask(other, "CACHE.SESSION other 1 TICKETS");
    let mut wanted = Vec::new();
    let mut full = 0;
    for number in 0..200_000 {
        let before = world.engine.loaders.queued_bytes();
        let ticket = world.ask(reader, &format!("GET u:{number}")).replace("-WAITING ", "");
        if number % 1_000 == 0 {
            wanted.push(format!("u:{number}"));
            world.send(other, &format!("GET u:{number}"));
        }
        world.ask(reader, &format!("CACHE.CANCEL {ticket}"));
        let after = world.engine.loaders.queued_bytes();
        full = full.max(before);
        if after < before {
            assert!(before - after < before / 4, "one call searched {} of {before} bytes", before - after);
            break;
        }
    }
    (0..100).for_each(|_| world.wait(5));
    assert!(world.engine.loaders.queued_bytes() < full / 10);
    let worker = world.connect("HELLO 3");
    world.send(worker, "CACHE.LOADER u:* INFLIGHT 65536");
    let pushed = world.heard(worker);
    let sent: Vec<&str> = pushed.split(' ').filter(|word| word.starts_with("u:")).collect();
    assert!(wanted.len() > 10);
    assert_eq!(sent[..wanted.len() - 1], wanted[..wanted.len() - 1]);
}

/// Patterns are kept for ever, so a worker may name only short ones, and no command more of them than there can be.
#[test]
fn patterns_are_few_and_short() {
    let mut world = World::new();
    let (worker, operator) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    let (short, long) = ("p".repeat(1024), "p".repeat(1025));
    let many = "p ".repeat(1025);
    for command in ["CACHE.LOADER", "CACHE.FORGET"] {
        let answer = world.ask(worker, &format!("{command} a {long}"));
        assert_eq!(answer, "-ERR a pattern is too long; at most 1024 bytes are taken");
        let answer = world.ask(worker, &format!("{command} {many}"));
        assert_eq!(answer, "-ERR too many patterns in one command; at most 1024 are taken");
    }
    assert_eq!(world.ask(operator, "CACHE.FORGET a"), ":0");
    // Each counts once.
    assert_eq!(world.ask(worker, &format!("CACHE.LOADER {short} b b c b {short}")), "+OK");
    assert_eq!(world.ask(operator, &format!("CACHE.FORGET b {short} b d {short} a")), ":2");
    assert_eq!(world.ask(operator, "GET b"), "_");
}
