//! Transactions on keys that are loaded: what they wait for, and which change of a row ends them.

use globalcache_core::limits::Limits;

use crate::world::{World, load_of};

#[test]
fn a_transaction_that_waited_for_a_load_is_one_step() {
    let mut world = World::new();
    let (worker, reader, writer) = (world.connect("HELLO 3"), world.connect(""), world.connect(""));
    world.ask(worker, "CACHE.LOADER user:*");
    let run = |world: &mut World, lines: &[&str], between: &str| {
        world.ask(reader, "MULTI");
        for line in lines {
            world.ask(reader, line);
        }
        world.send(reader, "EXEC");
        let push = world.heard(worker);
        let words: Vec<&str> = push.split(' ').collect();
        world.post(worker, &format!("CACHE.FILL {} {} 7", words[5], words[6].trim_start_matches(':')));
        if !between.is_empty() {
            world.post(writer, between);
        }
        world.exchange();
        world.heard(worker);
        world.heard(reader)
    };
    // It sees its own changes, not what was loaded for it.
    assert_eq!(run(&mut world, &["INCR user:1", "GET user:1", "MGET user:1"], ""), "*3 :8 $1 8 *1 $1 8");
    assert_eq!(run(&mut world, &["SET user:2 x", "GET user:2"], ""), "*2 +OK $1 x");
    let gone = run(&mut world, &["DEL user:3", "GET user:3"], "");
    assert!(gone.starts_with("*2 :1 -LOADFAILED user:3: "), "{gone}");
    // What was written by others since the load counts, of all its keys alike.
    assert_eq!(run(&mut world, &["GET user:4", "GET other"], "MSET user:4 new other new"), "*2 $3 new $3 new");
    let gone = run(&mut world, &["GET user:5", "GET other"], "DEL user:5 other");
    assert!(gone.starts_with("*2 -LOADFAILED user:5: ") && gone.ends_with(" $-1"), "{gone}");
}

/// EXEC reads a value, invalidates its tag and reads it again: it does not wait for itself, and sees what it did.
#[test]
fn a_transaction_may_invalidate_tags_that_it_has_read() {
    let mut world = World::new();
    let a = world.connect("");
    world.ask(a, "CACHE.SET k v TAGS 1 t");
    for line in ["WATCH k", "MULTI", "GET k", "CACHE.INVALIDATE TAGS 2 t u KEYS 1 other", "GET k"] {
        world.ask(a, line);
    }
    assert_eq!(world.ask(a, "EXEC"), "*3 $1 v :2 $-1");
    // A watched key whose tag was invalidated ends the transaction.
    world.ask(a, "CACHE.SET k v TAGS 1 t");
    for line in ["WATCH k", "CACHE.INVALIDATE TAGS 1 t", "MULTI", "SET k w"] {
        world.ask(a, line);
    }
    assert_eq!(world.ask(a, "EXEC"), "*-1");
}

/// A client watches an absent key and reads it; while it is loaded, another client invalidates or removes it. The client
/// hears the value that was loaded before that, and what it derives from it must not be written.
#[test]
fn a_transaction_does_not_go_by_what_was_loaded_before_a_change() {
    for change in ["DEL u:1", "CACHE.INVALIDATE KEYS 1 u:1"] {
        let mut world = World::new();
        let (worker, client, other) = (world.connect("HELLO 3"), world.connect(""), world.connect(""));
        world.ask(worker, "CACHE.LOADER u:*");
        world.ask(client, "WATCH u:1");
        world.send(client, "GET u:1");
        let (key, token) = load_of(&world.heard(worker));
        world.ask(other, change);
        world.send(worker, &format!("CACHE.FILL {key} {token} v1"));
        assert_eq!(world.heard(client), "$2 v1");
        let answer = world.ask(client, "MULTI\r\nSET u:1 from-v1\r\nEXEC");
        assert!(answer.ends_with("*-1"), "{change}: {answer}");
    }
}

/// A client watches a key, and a worker answers that there is no such row. The row appears, and is loaded for the client's
/// next read, or by its EXEC: that is a change to what it has read.
#[test]
fn a_row_that_appears_after_its_absence_ends_a_transaction() {
    for reads_again in [false, true] {
        let mut world = World::new();
        let (worker, client) = (world.connect("HELLO 3"), world.connect(""));
        world.ask(worker, "CACHE.LOADER u:*");
        world.ask(client, "WATCH u:1");
        world.send(client, "GET u:1");
        let (key, token) = load_of(&world.heard(worker));
        world.send(worker, &format!("CACHE.FILL {key} {token} x TTL 10 ABSENT"));
        assert_eq!(world.heard(client), "$-1");
        world.wait(20);
        let then = if reads_again { "GET u:1" } else { "MULTI\r\nINCR u:1\r\nEXEC" };
        world.send(client, then);
        let (key, token) = load_of(&world.heard(worker));
        world.send(worker, &format!("CACHE.FILL {key} {token} 7"));
        let mut answer = world.heard(client);
        if reads_again {
            answer = world.ask(client, "MULTI\r\nINCR u:1\r\nEXEC");
        }
        assert!(answer.ends_with("*-1"), "{answer}");
    }
}

/// Commands whose answer depends on what is at u:1.
const READS: [&str; 28] = [
    "GET u:1",
    "MGET other u:1",
    "EXISTS u:1 other",
    "TOUCH u:1",
    "STRLEN u:1",
    "GETRANGE u:1 0 -1",
    "TTL u:1",
    "EXPIRETIME u:1",
    "TYPE u:1",
    "OBJECT ENCODING u:1",
    "MEMORY USAGE u:1",
    "GETEX u:1",
    "GETDEL u:1",
    "PERSIST u:1",
    "EXPIRE u:1 10",
    "COPY u:1 other",
    "RENAME u:1 other",
    "MOVE u:1 1",
    "SET u:1 v XX",
    "SET u:1 v IFEQ 1",
    "DELIFEQ u:1 v",
    "CACHE.GET u:1",
    "CACHE.MGET other u:1",
    "CACHE.ENTRY u:1",
    "CACHE.FETCH u:1",
    "CACHE.INSPECT u:1",
    "CACHE.SET u:1 v IFVERSION 5",
    "EVALSHA c3f8721cbb97f72bc19e972846bd7aaf91901658 1 u:1 v",
];

/// A client watches a key and reads from the store that there is no such row: an absence that another client's load has left
/// there, or nothing where no worker is yet. The row appears, is loaded for the client's next read or EXEC, or for another
/// client, or is written, and may be gone again when EXEC looks: it is a change to what the client has read.
#[test]
fn a_row_that_appears_after_a_stored_absence_ends_a_transaction() {
    let exec = "MULTI\r\nSET other x\r\nEXEC";
    for (read, is_stored) in READS.into_iter().map(|read| (read, true)).chain([("GET u:1", false), ("MGET u:1", false)])
    {
        for (asks, fill, last) in [
            ("client MULTI\r\nINCR u:1\r\nEXEC", "7", ""),
            ("client GET u:1", "7", exec),
            ("other GET u:1", "7", exec),
            ("other GET u:1", "7 TTL 10", exec),
            ("other SET u:1 7", "", exec),
            ("other SET u:1 7\r\nDEL u:1", "", exec),
        ] {
            let mut world = World::new();
            let (worker, client, other) = (world.connect("HELLO 3"), world.connect("PING"), world.connect("PING"));
            if is_stored {
                world.ask(worker, "CACHE.LOADER u:*");
                world.send(other, "GET u:1");
                let (key, token) = load_of(&world.heard(worker));
                world.send(worker, &format!("CACHE.FILL {key} {token} x TTL 10 ABSENT"));
                world.heard(other);
            }
            world.ask(client, "WATCH u:1");
            assert_ne!(world.ask(client, read), "", "{read} does not wait");
            world.ask(worker, "CACHE.LOADER u:*");
            world.wait(20);
            let (who, request) = asks.split_once(' ').unwrap();
            world.send(if who == "client" { client } else { other }, request);
            if !fill.is_empty() {
                let (key, token) = load_of(&world.heard(worker));
                world.send(worker, &format!("CACHE.FILL {key} {token} {fill}"));
            }
            world.wait(20);
            let mut answer = world.heard(client);
            if !last.is_empty() {
                answer = world.ask(client, last);
            }
            assert!(answer.ends_with("*-1"), "{read}, {asks}: {answer}");
        }
    }
}

/// As before, and the row does not appear: it is loaded as absent once more, or is not looked at. The transaction runs.
#[test]
fn an_absence_that_is_loaded_again_ends_no_transaction() {
    for read in READS {
        let mut world = World::new();
        let (worker, client, other) = (world.connect("HELLO 3"), world.connect("PING"), world.connect("PING"));
        world.ask(worker, "CACHE.LOADER u:*");
        world.send(other, "GET u:1");
        let (key, token) = load_of(&world.heard(worker));
        world.send(worker, &format!("CACHE.FILL {key} {token} x TTL 10 ABSENT"));
        world.ask(client, "WATCH u:1");
        world.ask(client, read);
        world.wait(20);
        world.send(client, "MULTI\r\nGET u:1\r\nEXEC");
        let (key, token) = load_of(&world.heard(worker));
        world.send(worker, &format!("CACHE.FILL {key} {token} x TTL 10 ABSENT"));
        let answer = world.heard(client);
        assert!(answer.ends_with("*1 $-1"), "{read}: {answer}");
    }
}

/// A client watches an absent key and its read fails; the row is loaded for its second read. That is the first that the
/// client reads of it, and its own load ends no transaction.
#[test]
fn a_read_that_failed_is_none() {
    for read in ["GET u:1", "EXISTS u:1", "CACHE.GET u:1", "STRLEN u:1"] {
        let mut world = World::new();
        let (worker, client) = (world.connect("HELLO 3"), world.connect("PING"));
        world.ask(worker, "CACHE.LOADER u:*");
        world.ask(client, "WATCH u:1");
        world.send(client, read);
        let (key, token) = load_of(&world.heard(worker));
        world.send(worker, &format!("CACHE.FAIL {key} {token} down RETRY 0"));
        assert!(world.heard(client).starts_with("-LOADFAILED"));
        world.wait(20);
        world.send(client, read);
        let (key, token) = load_of(&world.heard(worker));
        world.send(worker, &format!("CACHE.FILL {key} {token} 7"));
        world.heard(client);
        assert!(world.ask(client, "MULTI\r\nINCR u:1\r\nEXEC").ends_with("*1 :8"), "{read}");
    }
}

/// A client watches an absent key and reads a row that was loaded and could not be stored. A newer row is loaded by its EXEC:
/// it is not the one that the client has read.
#[test]
fn a_newer_row_than_was_read_ends_a_transaction() {
    let mut world = World::new();
    let (worker, client) = (world.connect("HELLO 3"), world.connect("PING"));
    world.ask(worker, "CACHE.LOADER u:*");
    world.ask(client, "WATCH u:1");
    world.send(client, "GET u:1");
    let (key, token) = load_of(&world.heard(worker));
    world.send(worker, &format!("CACHE.FILL {key} {token} 1 TTL 0"));
    assert_eq!(world.heard(client), "$1 1");
    world.send(client, "MULTI\r\nINCR u:1\r\nEXEC");
    let (key, token) = load_of(&world.heard(worker));
    world.send(worker, &format!("CACHE.FILL {key} {token} 7"));
    assert!(world.heard(client).ends_with("*-1"));
}

/// EXEC loads keys for its requests. One load ends with an absence that is not stored, or fails, or ends too late, and the
/// transaction writes another such key itself: it goes by the absence, and by what it has written.
#[test]
fn a_transaction_goes_by_what_it_wrote_and_by_absences() {
    let failed = "-LOADFAILED u:1: down";
    for (requests, end, wanted) in [
        ("GET u:1\r\nINCR u:1\r\nGET u:1", "FILL u:1 TOKEN x TTL 0 ABSENT", "*3 $-1 :1 $1 1"),
        ("EXISTS u:1\r\nAPPEND u:1 a\r\nCACHE.GET u:1", "FILL u:1 TOKEN x TTL 0 ABSENT", "*3 :0 :1 $1 a"),
        ("SET u:1 5\r\nINCR u:1\r\nEXISTS u:1\r\nGET u:1", "FAIL u:1 TOKEN down", "*4 +OK :6 :1 $1 6"),
        ("SET u:1 5\r\nDECR u:1\r\nCACHE.GET u:1", "WAIT", "*3 +OK :4 $1 4"),
        ("SET u:1 5\r\nMGET u:1 other\r\nSTRLEN u:1", "FAIL u:1 TOKEN down", "*3 +OK *2 $1 5 $-1 :1"),
        // What it does not write itself is not known.
        ("GET u:1\r\nSET other x", "FAIL u:1 TOKEN down", &format!("*2 {failed} +OK")),
        ("INCR u:1\r\nSET u:1 5\r\nINCR u:1", "FAIL u:1 TOKEN down", &format!("*3 {failed} +OK :6")),
    ] {
        let mut world = World::new();
        let (worker, client) = (world.connect("HELLO 3"), world.connect("PING"));
        world.ask(worker, "CACHE.LOADER u:*");
        world.ask(client, &format!("MULTI\r\n{requests}"));
        world.send(client, "EXEC");
        let (_, token) = load_of(&world.heard(worker));
        match end {
            "WAIT" => world.wait(Limits::default().load_limit),
            end => world.send(worker, &format!("CACHE.{}", end.replace("TOKEN", &token.to_string()))),
        }
        assert_eq!(world.heard(client), wanted, "{requests}, {end}");
    }
}

/// A client watches a key and reads it; the pattern of the key is forgotten, and it reads that there is none. Somebody loads
/// the row afterwards, and it is gone again, or a worker loads it for EXEC. The client decided on what is not so any more.
#[test]
fn a_row_loaded_after_a_forgotten_pattern_ends_the_block() {
    for by_worker in [false, true] {
        let mut world = World::new();
        world.engine.loaders.declare(0, b"u:*").unwrap();
        let (client, other, worker) = (world.connect(""), world.connect(""), world.connect("HELLO 3"));
        world.ask(client, "WATCH u:1");
        world.send(client, "GET u:1");
        assert_eq!(world.ask(other, "CACHE.FORGET u:*"), ":1");
        assert_eq!(world.heard(client), "$-1");
        if !by_worker {
            let token = world.lease(other, "u:1");
            assert_ne!(world.ask(other, &format!("CACHE.FILL u:1 {token} row TTL 10")), ":0");
            world.wait(20);
        } else {
            world.ask(worker, "CACHE.LOADER u:*");
        }
        for line in ["MULTI", "SET lock taken", "GET u:1"] {
            world.ask(client, line);
        }
        world.send(client, "EXEC");
        if by_worker {
            let (key, token) = load_of(&world.heard(worker));
            world.ask(worker, &format!("CACHE.FILL {key} {token} row"));
        }
        assert_eq!(world.heard(client), "*-1");
        assert_eq!(world.ask(other, "GET lock"), "$-1");
    }
}

/// A client with tickets asks for a key and has to wait; its row is loaded, and removed before the client hears of it. It
/// watches the key, and then the outcome of what it had asked for arrives. Nobody has touched the key since it was watched.
#[test]
fn an_earlier_read_says_nothing_of_what_is_watched() {
    let mut world = World::new();
    let [client, worker, other] = ["HELLO 3", "HELLO 3", ""].map(|hello| world.connect(hello));
    world.ask(worker, "CACHE.LOADER u:*");
    world.ask(client, "CACHE.SESSION me 1 TICKETS");
    assert!(world.ask(client, "GET u:1").starts_with("-WAITING "));
    let (key, token) = load_of(&world.heard(worker));
    world.post(worker, &format!("CACHE.FILL {key} {token} row"));
    world.post(other, "DEL u:1");
    world.post(client, "WATCH u:1");
    world.exchange();
    assert!(world.heard(client).contains("row"));
    for line in ["MULTI", "SET done 1"] {
        world.ask(client, line);
    }
    assert_eq!(world.ask(client, "EXEC"), "*1 +OK");
}
