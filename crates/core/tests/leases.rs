//! Leases between connections: several sessions over one engine, with messages delivered as a server would.
//!
//! Each test is one of the interleavings that a naive cache gets wrong.

mod world;

use globalcache_core::limits::Limits;
use world::{World, token_of};

#[test]
fn a_value_read_before_a_write_is_never_stored_after_it() {
    for write in
        ["SET k v2", "DEL k", "CACHE.INVALIDATE KEYS 1 k", "FLUSHALL", "FLUSHDB", "CACHE.SET k v2", "INCRBY k 5"]
    {
        let mut world = World::new();
        let (loader, writer) = (world.connect(""), world.connect(""));
        let token = world.lease(loader, "k");
        world.ask(writer, write);
        assert_eq!(world.ask(loader, &format!("CACHE.FILL k {token} v1")), ":0", "{write}");
        assert_ne!(world.ask(writer, "GET k"), "$2 v1", "{write}");
    }
}

#[test]
fn what_changes_no_value_voids_nothing() {
    for write in ["SET k v2 XX", "EXPIRE k 100", "PERSIST k", "CACHE.SET k v2 IFVERSION 5", "TTL k", "GET k"] {
        let mut world = World::new();
        let (loader, other) = (world.connect(""), world.connect(""));
        let token = world.lease(loader, "k");
        world.ask(other, write);
        assert_ne!(world.ask(loader, &format!("CACHE.FILL k {token} v1")), ":0", "{write}");
        assert_eq!(world.ask(other, "GET k"), "$2 v1");
    }
}

#[test]
fn a_tag_invalidated_since_the_grant_refuses_the_fill() {
    let mut world = World::new();
    let (a, early, b) = (world.connect(""), world.connect(""), world.connect(""));
    let token = world.lease(a, "k");
    world.send(early, "CACHE.FETCH k WAIT 1000");
    world.ask(b, "CACHE.INVALIDATE TAGS 1 t");
    world.send(b, "CACHE.FETCH k WAIT 1000");
    assert_eq!((world.heard(early), world.heard(b)), (String::new(), String::new()));
    assert_eq!(world.ask(a, &format!("CACHE.FILL k {token} v1 TAGS 1 t")), ":0");
    // Who joined before the invalidation may have the old value; who joined after it must not.
    assert!(world.heard(early).contains("v1"));
    let next = token_of(&world.heard(b), "miss");
    assert_ne!(world.ask(b, &format!("CACHE.FILL k {next} v2 TAGS 1 t")), ":0");
    assert_eq!(world.ask(a, "GET k"), "$2 v2");
}

#[test]
fn a_refused_late_fill_leaves_the_newer_load_alone() {
    let mut world = World::new();
    let (late, early, other) = (world.connect(""), world.connect(""), world.connect(""));
    let first = world.lease(late, "k");
    world.send(early, "CACHE.FETCH k WAIT 60000");
    world.ask(other, "CACHE.INVALIDATE TAGS 1 t");
    world.wait(3_001);
    let second = token_of(&world.heard(early), "miss");
    world.send(other, "CACHE.FETCH k WAIT 60000");
    assert_eq!(world.ask(late, &format!("CACHE.FILL k {first} v1 TAGS 1 t")), ":0");
    assert_eq!(world.heard(other), "", "neither the old value nor a second load");
    assert_ne!(world.ask(early, &format!("CACHE.FILL k {second} v2 TAGS 1 t")), ":0");
    assert!(world.heard(other).contains("v2"));
}

#[test]
fn no_token_and_no_version_of_an_earlier_life_means_anything() {
    let mut first = World::new();
    let a = first.connect("");
    let token = first.lease(a, "k");
    // The next life begins above all that the one before handed out; here they even begin alike, and it must differ then.
    let mut next = World::new();
    let b = next.connect("");
    next.ask(b, "SET other 1");
    assert_eq!(next.ask(b, &format!("CACHE.FILL k {token} v1")), ":0");
    assert_eq!(next.ask(b, "GET k"), "$-1");
}

#[test]
fn a_load_longer_than_its_lease_is_stored_if_nothing_changed() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    let first = world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 60000");
    world.wait(3_001);
    let second = token_of(&world.heard(b), "miss");
    assert_ne!(world.ask(a, &format!("CACHE.FILL k {first} v1")), ":0");
    assert_eq!(world.ask(b, &format!("CACHE.FILL k {second} v2")), ":0");
    assert_eq!(world.ask(b, "GET k"), "$2 v1");
}

/// A query takes longer than two leases: the second holder lets its time pass as well, whoever waits gets an error, and a third
/// client is granted the lease. What the first one brings is stored all the same, and the others' values are not.
#[test]
fn a_load_longer_than_two_leases_is_stored() {
    let mut world = World::new();
    let (a, b, c) = (world.connect(""), world.connect(""), world.connect(""));
    let first = world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 60000");
    world.send(c, "CACHE.FETCH k WAIT 60000");
    world.wait(3_001);
    let second = token_of(&world.heard(b), "miss");
    world.wait(3_001);
    assert!(world.heard(c).starts_with("-LOADFAILED k: "));
    world.wait(1_000);
    let third = world.lease(c, "k");
    assert_ne!(world.ask(a, &format!("CACHE.FILL k {first} v1")), ":0");
    for (holder, token) in [(b, second), (c, third)] {
        assert_eq!(world.ask(holder, &format!("CACHE.FILL k {token} v2")), ":0");
    }
    assert_eq!(world.ask(b, "GET k"), "$2 v1");
}

#[test]
fn a_hung_load_is_renewed_no_longer_than_the_limit() {
    let mut world = World::new();
    let a = world.connect("");
    let token = world.lease(a, "k");
    for _ in 0..14 {
        world.wait(2_000);
        assert_eq!(world.ask(a, &format!("CACHE.RENEW k {token} 3000")), ":1");
    }
    world.wait(2_001);
    assert_eq!(world.ask(a, &format!("CACHE.RENEW k {token} 3000")), ":0");
    let b = world.connect("");
    world.lease(b, "k");
}

#[test]
fn two_holders_that_do_not_answer_are_enough() {
    let mut world = World::new();
    let (a, b, c) = (world.connect(""), world.connect(""), world.connect(""));
    world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 60000");
    world.send(c, "CACHE.FETCH k WAIT 60000");
    world.close(a);
    token_of(&world.heard(b), "miss");
    world.close(b);
    assert_eq!(world.heard(c), "-LOADFAILED k: the client that loaded it ended, twice");
    // For a while nobody tries again.
    assert!(world.ask(c, "CACHE.FETCH k").starts_with("-LOADFAILED k: "));
    world.wait(150);
    world.lease(c, "k");
}

#[test]
fn an_expired_lease_goes_to_another_process() {
    let mut world = World::new();
    let (stopped, other) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    world.lease(stopped, "k");
    // Many tasks of the process that stops wait before anybody else does.
    for _ in 0..3 {
        world.ask(stopped, "CACHE.FETCH k WAIT 20000 TICKET");
    }
    world.ask(other, "CACHE.FETCH k WAIT 20000 TICKET");
    world.wait(3_000);
    assert_eq!(world.heard(stopped), "");
    let token = token_of(&world.heard(other), "miss");
    assert_ne!(world.ask(other, &format!("CACHE.FILL k {token} v")), ":0");
    assert_eq!(world.heard(stopped).matches("hit").count(), 3);
    // Alone, it is asked again.
    let mut world = World::new();
    let alone = world.connect("HELLO 3");
    world.lease(alone, "k");
    world.ask(alone, "CACHE.FETCH k WAIT 20000 TICKET");
    world.wait(3_000);
    token_of(&world.heard(alone), "miss");
}

/// A key whose load fails each time is loaded after 100, 200, 400 and 800 ms, and then once a second: what is back is
/// seen to be back within a second. `RETRY 0` holds off nobody, and the next failure counts as the first.
#[test]
fn failures_hold_a_key_off_for_up_to_a_second() {
    let mut world = World::new();
    let a = world.connect("");
    let mut attempts = Vec::new();
    for turn in 0..60 {
        let answer = world.ask(a, "CACHE.FETCH k");
        if answer.contains("miss") {
            attempts.push(turn * 100);
            let token = token_of(&answer, "miss");
            assert_eq!(world.ask(a, &format!("CACHE.FAIL k {token} down")), ":1");
        } else {
            assert_eq!(answer, "-LOADFAILED k: down");
        }
        world.wait(100);
    }
    assert_eq!(attempts, [0, 100, 300, 700, 1500, 2500, 3500, 4500, 5500]);
    world.wait(1_000);
    for _ in 0..3 {
        let token = world.lease(a, "k");
        assert_eq!(world.ask(a, &format!("CACHE.FAIL k {token} forbidden RETRY 0")), ":1");
    }
    let token = world.lease(a, "k");
    world.ask(a, &format!("CACHE.FAIL k {token} down"));
    world.wait(99);
    assert_eq!(world.ask(a, "CACHE.FETCH k"), "-LOADFAILED k: down");
    world.wait(1);
    world.lease(a, "k");
}

#[test]
fn an_invalidation_ends_the_hold_off_of_a_key() {
    for invalidate in ["CACHE.INVALIDATE KEYS 1 k", "DEL k", "FLUSHALL", "FLUSHDB"] {
        let mut world = World::new();
        let (loader, other) = (world.connect(""), world.connect(""));
        let token = world.lease(loader, "k");
        world.ask(loader, &format!("CACHE.FAIL k {token} broken RETRY 5000"));
        assert!(world.ask(other, "CACHE.FETCH k").starts_with("-LOADFAILED k: broken"));
        world.ask(other, invalidate);
        world.lease(other, "k");
    }
}

#[test]
fn a_fill_that_cannot_be_stored_still_answers_those_who_wait() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    let token = world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 1000");
    let flags = format!("CACHE.FILL k {token} {}", "x".repeat(60_000));
    assert_ne!(world.ask(a, &flags), ":0");
    assert!(world.heard(b).starts_with("*6 $3 hit"));
}

#[test]
fn a_lease_that_nobody_awaits_goes_on() {
    let mut world = World::new();
    let (a, b, c) = (world.connect(""), world.connect("HELLO 3"), world.connect(""));
    let token = world.lease(a, "k");
    let ticket = token_of(&world.ask(b, "CACHE.FETCH k WAIT 5000 TICKET"), "waiting");
    world.send(c, "CACHE.FETCH k WAIT 5000");
    assert_eq!(world.ask(b, &format!("CACHE.CANCEL {ticket}")), ":1");
    assert_eq!(world.ask(b, &format!("CACHE.CANCEL {ticket}")), ":0");
    assert_eq!(world.ask(a, &format!("CACHE.RELEASE k {token}")), ":1");
    assert_eq!(world.heard(b), "");
    token_of(&world.heard(c), "miss");
    // LEASE 0 is never granted one.
    let d = world.connect("");
    assert!(world.ask(d, "CACHE.FETCH other LEASE 0").starts_with("*6 $4 miss $-1 :0"));
}

#[test]
fn who_closes_is_neither_waiter_nor_holder() {
    let mut world = World::new();
    let (a, b, c) = (world.connect(""), world.connect(""), world.connect(""));
    world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 60000");
    world.send(c, "CACHE.FETCH k WAIT 60000");
    world.close(b);
    world.close(a);
    token_of(&world.heard(c), "miss");
}

#[test]
fn invalidations_faster_than_the_load_starve_nobody() {
    let mut world = World::new();
    let writer = world.connect("");
    let first = world.connect("");
    let mut running = vec![(first, world.lease(first, "k"))];
    let mut most = 0;
    for round in 0..20 {
        let reader = world.connect("");
        world.send(reader, "CACHE.FETCH k WAIT 60000");
        world.ask(writer, "DEL k");
        for number in 0..world.connections.len() {
            let heard = world.heard(number);
            if heard.contains("miss") {
                running.push((number, token_of(&heard, "miss")));
            }
        }
        most = most.max(running.len());
        if round % 4 == 3 {
            let (holder, token) = running.remove(0);
            world.ask(holder, &format!("CACHE.FILL k {token} v{round}"));
        }
    }
    assert!(most <= 2, "{most} loads of one key at a time");
    // Those who joined before a write got what was loaded before it: nobody waits for ever.
    let waiting = world.ask(writer, "CACHE.INSPECT k");
    let waiters: usize = waiting.split("waiters :").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(waiters <= 8, "{waiters} still wait");
}

#[test]
fn expiry_and_times_to_live_void_nothing() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    world.ask(a, "CACHE.SET k old REFRESH 1000 TTL 2000");
    world.wait(1_500);
    let token = token_of(&world.ask(a, "CACHE.FETCH k"), "stale");
    assert!(world.ask(b, "CACHE.FETCH k").starts_with("*6 $5 stale $3 old :0"));
    world.ask(b, "EXPIRE k 1");
    world.wait(1_500);
    assert_eq!(world.ask(b, "GET k"), "$-1");
    assert_ne!(world.ask(a, &format!("CACHE.FILL k {token} new")), ":0");
    assert_eq!(world.ask(b, "GET k"), "$3 new");
}

/// A value is stale, and workers load its key: whatever read comes first returns it and has it loaded anew.
#[test]
fn every_read_has_a_stale_value_loaded_anew() {
    for read in ["GET k:1", "MGET other k:1", "CACHE.GET k:1", "CACHE.MGET other k:1"] {
        let mut world = World::new();
        let (worker, client) = (world.connect("HELLO 3"), world.connect(""));
        world.ask(worker, "CACHE.LOADER k:*");
        world.ask(client, "CACHE.SET k:1 old REFRESH 1000");
        world.wait(1_500);
        assert!(world.ask(client, read).ends_with("old"), "{read}");
        assert_eq!(load_of(&world.heard(worker)).0, "k:1", "{read}");
    }
}

#[test]
fn a_fill_may_come_by_another_connection() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    let token = world.lease(a, "k");
    world.close(a);
    assert_ne!(world.ask(b, &format!("CACHE.FILL k {token} v1")), ":0");
    assert_eq!(world.ask(b, "GET k"), "$2 v1");
}

#[test]
fn a_value_past_its_time_is_for_failures_only() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    world.ask(a, "CACHE.SET k old TTL 1000 GRACE 60000");
    world.wait(1_001);
    for (line, answer) in [("GET k", "$-1"), ("EXISTS k", ":0"), ("TTL k", ":-2"), ("DBSIZE", ":0")] {
        if line != "DBSIZE" {
            assert_eq!(world.ask(b, line), answer, "{line}");
        }
    }
    // Nothing that reads may have dropped it.
    let token = world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 1000");
    assert_eq!(world.ask(a, &format!("CACHE.FAIL k {token} down")), ":1");
    assert!(world.heard(b).starts_with("*6 $5 stale $3 old :0"));
    assert!(world.ask(b, "CACHE.FETCH k").starts_with("*6 $5 stale $3 old :0"));
    // What was removed is not brought back.
    world.ask(b, "DEL k");
    assert!(world.ask(b, "CACHE.FETCH k").starts_with("*6 $4 miss $-1 "));
}

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

#[test]
fn with_tickets_nothing_waits_in_its_place() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    world.ask(worker, "CACHE.LOADER user:*");
    assert!(world.ask(reader, "CACHE.SESSION me 1 TICKETS").contains("life"));
    let told = world.ask(reader, "GET user:1");
    let ticket: u64 = told.strip_prefix("-WAITING ").unwrap().parse().unwrap();
    assert_eq!(world.ask(reader, "PING"), "+PONG");
    let push = world.heard(worker);
    let token = push.split(' ').nth(6).unwrap().trim_start_matches(':').to_owned();
    world.send(worker, &format!("CACHE.FILL user:1 {token} v"));
    assert_eq!(world.heard(reader), format!(">3 $7 outcome :{ticket} $1 v"));
    // A worker's own connection asks for nothing that could wait.
    assert!(world.heard(worker).starts_with(':'));
    assert!(world.ask(worker, "GET user:2").starts_with("-ERR this connection is a loader worker's"));
}

/// A reader with tickets asks for what a worker loads, and then for a command that there is not.
#[test]
fn a_ticket_is_not_counted_as_an_error() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    world.ask(worker, "CACHE.LOADER user:*");
    world.ask(reader, "CACHE.SESSION me 1 TICKETS");
    assert!(world.ask(reader, "GET user:1").starts_with("-WAITING "));
    assert!(world.ask(reader, "INFO stats").contains("total_error_replies:0"));
    world.ask(reader, "NOSUCH");
    assert!(world.ask(reader, "INFO stats").contains("total_error_replies:1"));
}

#[test]
fn requests_of_a_fenced_connection_are_not_run() {
    let mut world = World::new();
    let old = world.connect("HELLO 3");
    world.ask(old, "CACHE.SESSION me 1 TICKETS");
    let new = world.connect("HELLO 3");
    world.ask(new, "CACHE.SESSION me 2 TICKETS");
    world.ask(new, "CACHE.INVALIDATE KEYS 1 k");
    assert_eq!(world.ask(old, "SET k late"), "");
    assert!(world.connections[old].as_ref().unwrap().closed);
    assert_eq!(world.ask(new, "GET k"), "_");
    // An older generation that comes late is refused.
    let late = world.connect("HELLO 3");
    assert!(world.ask(late, "CACHE.SESSION me 1").starts_with("-FENCED a newer connection"));
}

#[test]
fn negative_answers_are_kept_as_long_as_they_say() {
    let mut world = World::new();
    let a = world.connect("");
    let token = world.lease(a, "k");
    assert_ne!(world.ask(a, &format!("CACHE.FILL k {token} '' ABSENT TTL 1000")), ":0");
    assert!(world.ask(a, "CACHE.FETCH k").starts_with("*6 $6 absent $-1 :0"));
    assert_eq!(world.ask(a, "EXISTS k"), ":0");
    world.wait(1_001);
    world.lease(a, "k");
}

/// A reader in another process raises the same class as the load that found no row: FETCH brings its name, whether
/// it waited or came later, while every other read sees that there is nothing.
#[test]
fn an_absence_brings_the_name_of_its_exception() {
    let mut world = World::new();
    let (a, b) = (world.connect(""), world.connect(""));
    let token = world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 60000");
    assert_ne!(world.ask(a, &format!("CACHE.FILL k {token} shop.NoRow ABSENT TTL 1000")), ":0");
    assert!(world.heard(b).contains("*6 $6 absent $10 shop.NoRow :0"));
    assert!(world.ask(a, "CACHE.FETCH k").starts_with("*6 $6 absent $10 shop.NoRow :0"));
    assert_eq!(world.ask(a, "CACHE.GET k"), "$-1");
    assert_eq!(world.ask(a, "EXISTS k"), ":0");
}

#[test]
fn a_refused_value_does_not_reach_later_waiters() {
    let mut world = World::new();
    let (a, b, writer) = (world.connect(""), world.connect(""), world.connect(""));
    let token = world.lease(a, "k");
    world.ask(writer, "CACHE.INVALIDATE TAGS 1 t");
    world.send(b, "CACHE.FETCH k WAIT 60000 LEASE 0");
    world.ask(writer, "DEL k");
    assert_eq!(world.ask(a, &format!("CACHE.FILL k {token} v1 TAGS 1 t")), ":0");
    assert_eq!(world.heard(b), "");
}

#[test]
fn a_read_that_waits_is_one_miss() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect(""));
    world.ask(worker, "CACHE.LOADER user:*");
    world.send(reader, "GET user:1");
    let push = world.heard(worker);
    let token = push.split(' ').nth(6).unwrap().trim_start_matches(':').to_owned();
    world.send(worker, &format!("CACHE.FILL user:1 {token} v"));
    assert_eq!(world.heard(reader), "$1 v");
    let stats = world.engine.store.stats();
    assert_eq!((stats.hits, stats.misses), (0, 1));
    assert_eq!(world.ask(reader, "GET user:1"), "$1 v");
    assert_eq!(world.engine.store.stats().hits, 1);
}

#[test]
fn a_jump_of_the_wall_clock_changes_no_ttl_or_lease() {
    const HOUR: i64 = 3_600_000;
    for jump in [HOUR, -HOUR, 8760 * HOUR, -8760 * HOUR] {
        let mut world = World::new();
        let (a, b) = (world.connect(""), world.connect(""));
        let later = (world.now.wall + 5_000) / 1000;
        world.ask(a, "SET relative v PX 5000");
        world.ask(a, &format!("SET absolute v EXAT {later}"));
        let token = world.lease(a, "leased");
        world.now.wall = world.now.wall.checked_add_signed(jump).unwrap();
        assert_eq!(world.ask(b, "MGET relative absolute"), "*2 $1 v $1 v", "{jump}");
        assert!(world.ask(b, "CACHE.FETCH leased").starts_with("*6 $7 waiting"));
        world.wait(2_999);
        assert_ne!(world.ask(a, &format!("CACHE.FILL leased {token} v")), ":0");
        world.wait(1_000);
        assert_eq!(world.ask(b, "EXISTS relative"), ":1");
        world.wait(1_001);
        // A moment of the wall clock became a time from now when it arrived.
        assert_eq!(world.ask(b, "EXISTS relative absolute"), ":0", "{jump}");
    }
}

#[test]
fn waiters_see_only_the_end_of_a_transaction() {
    for (last, outcome) in [("SET k final", Some("$5 final")), ("DEL k", None)] {
        let mut world = World::new();
        let (holder, waiter, writer) = (world.connect(""), world.connect(""), world.connect(""));
        let token = world.lease(holder, "k");
        world.send(waiter, "CACHE.FETCH k WAIT 60000");
        for line in ["MULTI", "SET k within", "DEL k", "SET k within", last] {
            world.ask(writer, line);
            assert_eq!(world.heard(waiter), "", "{line}");
        }
        world.ask(writer, "EXEC");
        let heard = world.heard(waiter);
        assert!(!heard.contains("within"), "{heard}");
        match outcome {
            Some(value) => assert!(heard.starts_with(&format!("*6 $3 hit {value}")), "{heard}"),
            // Nothing is there: it loads, and what was read before is not stored.
            None => drop(token_of(&heard, "miss")),
        }
        assert_eq!(world.ask(holder, &format!("CACHE.FILL k {token} old")), ":0");
    }
}

#[test]
fn the_message_that_a_value_is_gone_never_overtakes_the_value() {
    let mut world = World::new();
    let (holder, reader, writer) = (world.connect(""), world.connect("HELLO 3"), world.connect(""));
    world.ask(reader, "CLIENT TRACKING ON");
    let token = world.lease(holder, "k");
    let ticket = token_of(&world.ask(reader, "CACHE.FETCH k WAIT 60000 TICKET"), "waiting");
    // Both happen before anything that is meant for the reader is delivered.
    world.post(holder, &format!("CACHE.FILL k {token} v1"));
    world.post(writer, "SET k v2");
    world.exchange();
    let heard = world.heard(reader);
    let (_, behind) = heard.split_once(&format!("outcome :{ticket}")).unwrap();
    assert!(behind.contains("v1") && behind.contains("invalidate *1 $1 k"), "{heard}");
    // A value that is still there is a copy as any other: it is told once when that changes.
    for (number, key) in ["a", "b"].into_iter().enumerate() {
        let token = world.lease(holder, key);
        world.ask(reader, &format!("CACHE.FETCH {key} WAIT 60000 TICKET"));
        world.ask(holder, &format!("CACHE.FILL {key} {token} v1 TAGS 1 t"));
        let (_, behind) = world.heard(reader).split_once("outcome").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        assert!(!behind.contains("invalidate"), "{behind}");
        world.ask(writer, ["DEL a", "CACHE.INVALIDATE TAGS 1 t"][number]);
        assert!(world.heard(reader).contains("invalidate"));
    }
}

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

#[test]
fn a_failure_is_told_by_inspect_as_long_as_nobody_tries_again() {
    let mut world = World::new();
    let a = world.connect("");
    let token = world.lease(a, "k");
    world.ask(a, &format!("CACHE.FAIL k {token} broken RETRY 5000"));
    world.wait(1_000);
    let facts = world.ask(a, "CACHE.INSPECT k");
    assert!(facts.contains("failure $6 broken") && facts.contains("held_off_ms :4000"), "{facts}");
    world.wait(4_000);
    let facts = world.ask(a, "CACHE.INSPECT k");
    assert!(facts.contains("failure $-1") && facts.contains("held_off_ms :-1"), "{facts}");
}

#[test]
fn a_tag_means_the_items_of_its_own_database() {
    for (writer_db, other_db) in [(0, 1), (1, 0), (1, 2)] {
        let mut world = World::new();
        let (a, b) = (world.connect(""), world.connect(""));
        world.ask(a, &format!("SELECT {writer_db}"));
        world.ask(b, &format!("SELECT {other_db}"));
        world.ask(a, "CACHE.SET k v TAGS 1 t");
        let token = world.lease(a, "loading");
        world.ask(b, "CACHE.INVALIDATE TAGS 1 t");
        assert_eq!(world.ask(a, "GET k"), "$1 v");
        assert_ne!(world.ask(a, &format!("CACHE.FILL loading {token} v TAGS 1 t")), ":0");
        world.ask(a, "CACHE.INVALIDATE TAGS 1 t");
        assert_eq!((world.ask(a, "GET k"), world.ask(a, "GET loading")), ("$-1".into(), "$-1".into()));
    }
}

#[test]
fn absence_without_a_ttl_answers_waiters_and_is_not_stored() {
    let mut world = World::new();
    let (loader, early, late) = (world.connect(""), world.connect(""), world.connect(""));
    let token = world.lease(loader, "k");
    world.send(early, "CACHE.FETCH k WAIT 1000");
    assert_ne!(world.ask(loader, &format!("CACHE.FILL k {token} v ABSENT TTL 0")), ":0");
    assert!(world.heard(early).contains("absent"));
    // No time has passed, and the next caller loads already.
    world.lease(late, "k");
    for refused in ["CACHE.SET k v TTL 0", "CACHE.INCR k 1 TTL 0"] {
        assert!(world.ask(loader, refused).starts_with("-ERR"), "{refused}");
    }
}

/// A sum is a value: it cannot be stored as the absence of one.
#[test]
fn a_number_is_not_added_to_as_absent() {
    let mut world = World::new();
    let client = world.connect("");
    for number in ["old", "new"] {
        world.ask(client, "CACHE.INCR old 1 TTL 1000");
        for options in ["ABSENT", "TTL 10 ABSENT", "ABSENT TTL 0"] {
            assert_eq!(world.ask(client, &format!("CACHE.INCR {number} 1 {options}")), "-ERR syntax error");
        }
    }
    assert_eq!(world.ask(client, "MGET old new"), "*2 $1 2 $-1");
    assert!(world.ask(client, "CACHE.INSPECT new").contains("state $4 miss"));
}

/// The token of the last load that a worker was sent, and its key.
fn load_of(push: &str) -> (String, u64) {
    let words: Vec<&str> = push.split(' ').collect();
    let at = words.iter().rposition(|word| *word == "*2").unwrap_or_else(|| panic!("{push} is no load"));
    (words[at + 2].to_owned(), words[at + 3].trim_start_matches(':').parse().unwrap())
}

/// Threads share a pool: FETCH goes over one connection, FILL over another. The first is granted leases for ever, and still
/// waits for others' loads.
#[test]
fn leases_that_another_connection_filled_are_forgotten() {
    let mut world = World::new();
    let (fetches, fills) = (world.connect(""), world.connect(""));
    for number in 0..20_000 {
        let token = world.lease(fetches, &format!("k{number}"));
        assert_ne!(world.ask(fills, &format!("CACHE.FILL k{number} {token} v")), ":0");
    }
    let token = world.lease(fills, "other");
    world.send(fetches, "CACHE.FETCH other WAIT 1000");
    assert_eq!(world.heard(fetches), "", "it waits, since it holds nothing");
    world.ask(fills, &format!("CACHE.FILL other {token} v"));
    assert!(world.heard(fetches).contains("hit"));
}

/// A connection that holds as many leases as it may is granted no more, until some of them have ended.
#[test]
fn a_connection_holds_a_bounded_number_of_leases() {
    let mut world = World::with_memory(Limits::default(), 256 << 20);
    let (greedy, other) = (world.connect(""), world.connect(""));
    let mut tokens = Vec::new();
    for number in 0..1 << 14 {
        tokens.push(world.lease(greedy, &format!("k{number}")));
    }
    assert!(world.ask(greedy, "CACHE.FETCH more").starts_with("*6 $4 miss $-1 :0"));
    world.ask(other, &format!("CACHE.FILL k7 {} v", tokens[7]));
    world.wait(100);
    world.lease(greedy, "more");
}

/// A load takes three seconds. Meanwhile other tags are invalidated, twenty times in a second, and the sweep passes as
/// often. The load is stored, unless one of its own tags was among them.
#[test]
fn invalidations_of_other_tags_refuse_no_slow_load() {
    for own in [false, true] {
        let mut world = World::new();
        let (loader, other) = (world.connect(""), world.connect(""));
        world.ask(other, "CACHE.SET there v TAGS 1 there");
        let token = world.lease(loader, "k");
        for round in 0..60 {
            let tag = if own && round == 5 { "mine" } else { &format!("other{round}") };
            world.ask(other, &format!("CACHE.INVALIDATE TAGS 1 {tag}"));
            world.wait(50);
        }
        let filled = world.ask(loader, &format!("CACHE.FILL k {token} v TAGS 1 mine"));
        assert_eq!(filled == ":0", own, "{filled}");
        assert_eq!(world.ask(other, "GET there"), "$1 v");
        let stats = world.ask(other, "INFO stats");
        assert!(stats.contains(&format!("fills_refused_tag:{}", u8::from(own))), "{stats}");
    }
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

/// The holder ends, the lease is granted to a waiter, and that one ends before it learns of it. A third one loads.
#[test]
fn a_waiter_that_is_gone_is_no_failure() {
    let mut world = World::new();
    let (a, b, c) = (world.connect(""), world.connect(""), world.connect(""));
    world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 60000");
    world.send(c, "CACHE.FETCH k WAIT 60000");
    world.close_beside(a, |_, _| {});
    world.close_beside(b, |_, _| {});
    world.exchange();
    token_of(&world.heard(c), "miss");
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

/// A worker releases whatever it is sent. It is sent the load twice more at once, and then ever less often: no loop.
#[test]
fn a_lease_that_is_released_again_and_again_rests() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect(""));
    world.ask(worker, "CACHE.LOADER u:*");
    world.send(reader, "GET u:1");
    let mut sent = 0;
    for _ in 0..1_000 {
        let mut push = world.heard(worker);
        while push.contains("load") {
            sent += 1;
            let (key, token) = load_of(&push);
            push = world.ask(worker, &format!("CACHE.RELEASE {key} {token}"));
        }
        world.wait(10);
    }
    assert!((10..16).contains(&sent), "{sent} loads in ten seconds");
}

/// A fill with a good token and an option out of range ends its lease: who waits gets the value, and nobody waits for a time
/// to pass. What cannot be read at all is told as a failure.
#[test]
fn a_fill_that_cannot_be_kept_ends_its_lease() {
    let kept = "*6 $3 hit $1 v :0 :0 :-1 :0";
    for (fill, error, heard) in [
        ("CACHE.FILL k TOKEN v TTL 99999999999999999", "-ERR value is not an integer or out of range", kept),
        ("CACHE.FILL k TOKEN v TTL 0 REFRESH 5", "-ERR value is not an integer or out of range", kept),
        ("CACHE.FILL k TOKEN v WHAT 5", "-ERR syntax error", "-LOADFAILED k: syntax error"),
        (
            "CACHE.FILL k TOKEN v TAGS 18 a b c d e f g h i j k l m n o p q r",
            "-ERR an item has at most 17 tags",
            "-LOADFAILED k: an item has at most 17 tags",
        ),
        (
            "ms k 1 CTOKEN T\r\nv",
            "CLIENT_ERROR bad token in command line format",
            "-LOADFAILED k: its fill could not be read",
        ),
        ("ms k 99999999 CTOKEN", "SERVER_ERROR object too large for cache", "-LOADFAILED k: the value is too large"),
        (
            r#"{"src":"c","dest":"d","body":{"type":"fill","msg_id":1,"key":"k","token":"TOKEN","value":1,"ttl_ms":0}}"#,
            "ttl_ms is not a number of milliseconds above 0",
            "*6 $3 hit $1 1 :0 :0 :-1 :0",
        ),
        (
            r#"{"src":"c","dest":"d","body":{"type":"fill","msg_id":1,"key":"k","token":"TOKEN"}}"#,
            "the message needs a value",
            "-LOADFAILED k: the message needs a value",
        ),
    ] {
        let mut world = World::new();
        let (holder, waiter, sender) = (world.connect(""), world.connect(""), world.connect(""));
        let token = world.lease(holder, "k");
        world.send(waiter, "CACHE.FETCH k WAIT 60000");
        let answer = world.ask(sender, &fill.replace("TOKEN", &token.to_string()));
        assert!(answer.contains(error), "{fill}: {answer}");
        assert_eq!(world.heard(waiter), heard, "{fill}");
        assert!(world.ask(waiter, "CACHE.INSPECT k").contains("lease $4 none"), "{fill}");
        let info = world.ask(waiter, "INFO stats");
        assert!(info.contains("fills_refused_value:1"), "{fill}: {info}");
    }
}

/// A newer connection is welcomed between CACHE.SESSION and a write that came with it; or before both. The write is not run.
#[test]
fn the_fence_covers_what_comes_with_the_session() {
    let mut world = World::new();
    let (old, new) = (world.connect(""), world.connect(""));
    world.feed_once(old, "CACHE.SESSION me 1\r\nSET k late\r\n");
    assert!(world.ask(new, "CACHE.SESSION me 2").contains("life"));
    world.send(old, "");
    let answer = world.heard(old);
    assert!(world.connections[old].as_ref().unwrap().closed && !answer.contains("OK"), "{answer}");
    let late = world.connect("");
    let answer = world.ask(late, "CACHE.SESSION me 1\r\nSET k late");
    assert_eq!(answer, "-FENCED a newer connection of this session is there already");
    assert!(world.connections[late].as_ref().unwrap().closed);
    assert_eq!(world.ask(new, "GET k"), "$-1");
}

/// Another user says the name of somebody's session: it is a session of its own, and fences nobody.
#[test]
fn a_session_belongs_to_its_user() {
    let mut world = World::new();
    let users = ["default", "eve"].map(|name| format!("user {name} on nopass ~* +@all")).join("\n");
    world.engine.users.replace(&[], &users).unwrap();
    let (a, b) = (world.connect(""), world.connect(""));
    assert!(world.ask(a, "CACHE.SESSION me 1").contains("life"));
    assert_eq!(world.ask(b, "AUTH eve pw"), "+OK");
    assert!(world.ask(b, "CACHE.SESSION me 2").contains("life"));
    assert_eq!(world.ask(a, "SET k v"), "+OK");
    // Nor does it become another user's.
    assert!(world.ask(a, "AUTH eve pw").starts_with("-ERR the session of this connection is another user's"));
}

/// INFO tells the leases that stand, those that nobody owns, and what became of fills.
#[test]
fn info_tells_leases_and_refused_fills() {
    let mut world = World::new();
    let (a, b, c) = (world.connect(""), world.connect(""), world.connect(""));
    let info = |world: &mut World, fields: &[&str]| {
        let text = world.ask(b, "INFO stats");
        for field in fields {
            assert!(text.split(' ').any(|known| known == *field), "{field} in {text}");
        }
    };
    let token = world.lease(a, "k");
    let late = world.lease(a, "late");
    world.lease(a, "third");
    world.ask(c, "mg cached v N30");
    info(&mut world, &["leases:4", "leases_unowned:0"]);
    world.ask(b, "DEL k");
    world.ask(a, &format!("CACHE.FILL k {token} v"));
    world.ask(a, &format!("CACHE.FILL k {token} v"));
    world.ask(b, &format!("CACHE.FILL late {late} v"));
    info(&mut world, &["leases:2", "fills_refused_changed:1", "fills_refused_late:1", "fills_refused_tag:0"]);
    world.close(a);
    info(&mut world, &["leases:1", "leases_unowned:0", "fills_refused_value:0"]);
    world.ask(b, "CONFIG RESETSTAT");
    info(&mut world, &["fills_refused_changed:0", "fills_refused_late:0"]);
}

/// One connection that watched absent keys, and did nothing else, filled the table of leases: nobody could load any more. The
/// table stayed as large as the crowd had made it, and counted as full, when the crowd was gone.
#[test]
fn keys_that_are_watched_leave_room_for_loads() {
    let mut world = World::new();
    let (idle, other) = (world.connect(""), world.connect(""));
    let watch = |world: &mut World, first: usize| {
        (first..first + 20_000).take_while(|number| world.ask(idle, &format!("WATCH absent:{number}")) == "+OK").count()
    };
    let watched = watch(&mut world, 0);
    assert!(watched > 100, "{watched}");
    let load = |world: &mut World, name: &str| {
        let leased = |number: &usize| {
            let answer = world.ask(other, &format!("CACHE.FETCH {name}:{number}"));
            answer.starts_with("*6 $4 miss $-1 :") && !answer.starts_with("*6 $4 miss $-1 :0")
        };
        (0..20_000).take_while(leased).count()
    };
    let loads = load(&mut world, "load");
    // The room for them is half as large again, and each takes that of its grant as well.
    assert!(5 * loads > 6 * watched, "{loads} loads beside {watched} watched keys");
    // Neither do loads take the room of what is watched.
    assert_eq!(world.ask(idle, "UNWATCH"), "+OK");
    let again = watch(&mut world, watched);
    assert!(again.abs_diff(watched) < watched / 2, "{again} and {watched}");
}

/// A burst of leases fills the bound, and all but a few slow loads end. The next keys are granted leases: what the burst
/// took has been given back, although the table was never empty.
#[test]
fn a_burst_of_leases_leaves_room_for_the_next() {
    let mut world = World::new();
    let (slow, burst, next) = (world.connect(""), world.connect(""), world.connect(""));
    for number in 0..16 {
        world.ask(slow, &format!("CACHE.FETCH slow:{number} LEASE 60000"));
    }
    let mut tokens = Vec::new();
    for number in 0..8_000 {
        let answer = world.ask(burst, &format!("CACHE.FETCH burst:{number}"));
        if !answer.contains(" :0 :0 :-2") {
            tokens.push((number, token_of(&answer, "miss")));
        }
    }
    assert!((1_000..8_000).contains(&tokens.len()), "{} fill the bound", tokens.len());
    for (number, token) in tokens {
        world.ask(burst, &format!("CACHE.FILL burst:{number} {token} v"));
    }
    for number in 0..200 {
        world.lease(next, &format!("next:{number}"));
    }
}

/// A query takes longer than two leases, and two who got the lease after it let their time pass as well: those who wait get
/// an error, and the key is held off. Nothing has changed the key, so the value is stored when it comes, and the hold-off is
/// over. The same if one to whom the lease passed on fails; its own failure tells nobody anything while the key is held off.
#[test]
fn a_failure_leaves_loads_under_older_tokens_good() {
    let mut world = World::new();
    let (a, b, c) = (world.connect(""), world.connect(""), world.connect(""));
    let first = world.lease(a, "k");
    world.send(b, "CACHE.FETCH k WAIT 60000");
    world.send(c, "CACHE.FETCH k WAIT 60000");
    world.wait(3_001);
    let second = token_of(&world.heard(b), "miss");
    world.wait(3_001);
    assert!(world.heard(c).starts_with("-LOADFAILED k: no one"));
    assert_ne!(world.ask(a, &format!("CACHE.FILL k {first} v1")), ":0");
    assert_eq!(world.ask(b, &format!("CACHE.FILL k {second} v2")), ":0");
    assert!(world.ask(c, "CACHE.FETCH k").starts_with("*6 $3 hit $2 v1"));

    let first = world.lease(a, "x");
    world.send(b, "CACHE.FETCH x WAIT 60000");
    world.send(c, "CACHE.FETCH x WAIT 60000");
    world.wait(3_001);
    let second = token_of(&world.heard(b), "miss");
    assert_eq!(world.ask(b, &format!("CACHE.FAIL x {second} busy")), ":1");
    assert_eq!(world.heard(c), "-LOADFAILED x: busy");
    assert_eq!(world.ask(b, &format!("CACHE.FILL x {second} v2")), ":0");
    assert_ne!(world.ask(a, &format!("CACHE.FILL x {first} v1")), ":0");
    world.ask(a, "DEL x");
    world.lease(c, "x");

    let first = world.lease(a, "y");
    world.send(b, "CACHE.FETCH y WAIT 60000");
    world.wait(3_001);
    let second = token_of(&world.heard(b), "miss");
    world.ask(b, &format!("CACHE.FAIL y {second} busy"));
    world.wait(50);
    assert_eq!(world.ask(a, &format!("CACHE.FAIL y {first} late")), ":1");
    assert_eq!(world.ask(c, "CACHE.FETCH y"), "-LOADFAILED y: busy");
    world.wait(50);
    world.lease(c, "y");
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

/// No worker is there, and one MGET asks for more keys than there is room to wait for. It takes a share of the room and no
/// more, is answered when its time is over, asks for nothing again, and leaves nothing behind.
#[test]
fn one_command_takes_a_share_of_the_leases() {
    let mut world = World::new();
    world.engine.loaders.declare(0, b"u:*").unwrap();
    let (greedy, other) = (world.connect(""), world.connect(""));
    let keys: Vec<String> = (0..8_000).map(|number| format!("u:{number}")).collect();
    world.send(greedy, &format!("MGET {}", keys.join(" ")));
    assert_eq!(world.heard(greedy), "");
    for round in 0..60 {
        for number in 0..10 {
            let answer = world.ask(other, &format!("CACHE.FETCH app:{round}:{number} LEASE 1"));
            token_of(&answer, "miss");
        }
        world.wait(500);
    }
    let heard = world.heard(greedy);
    assert!(heard.starts_with("*8000 "), "it is answered after its thirty seconds");
    let (late, full) = (heard.matches("-NOLOADER").count(), heard.matches("-BUSY").count());
    assert_eq!(late + full, 8_000);
    assert!((100..2_000).contains(&late), "{late} waited");
    world.wait(60_000);
    assert!(!world.engine.tick_leases(world.now), "no lease is left");
}

/// A key of a command that waits is held off, or gone again, when another one is loaded: the command is not run for longer
/// than the limit of a load, however often it finds something to wait for.
#[test]
fn a_command_that_is_run_again_waits_no_longer() {
    let mut world = World::new();
    let (worker, reader, writer) = (world.connect("HELLO 3"), world.connect(""), world.connect(""));
    world.ask(worker, "CACHE.LOADER u:*");
    world.ask(writer, "SET u:there v");
    world.send(reader, "MGET u:there u:slow");
    let (_, token) = load_of(&world.heard(worker));
    for _ in 0..14 {
        world.wait(2_000);
        world.ask(worker, &format!("CACHE.RENEW u:slow {token} 3000"));
    }
    world.ask(writer, "DEL u:there");
    world.ask(worker, &format!("CACHE.FILL u:slow {token} v"));
    assert_eq!(world.heard(reader), "", "it waits for the key that is gone");
    world.wait(2_001);
    assert!(
        world.heard(reader).starts_with("*2 -LOADFAILED u:there: it was not loaded in time"),
        "since thirty seconds"
    );
}

/// A connection with many tickets of few keys, and a lease of its own, chooses RESP2: it waits for nothing any more, others do,
/// and the lease is still its own. (One look at a key takes all of the connection's waiters out of its queue.)
#[test]
fn tickets_end_together_and_leave_the_lease() {
    let mut world = World::new();
    let (holder, many, other) = (world.connect(""), world.connect("HELLO 3"), world.connect(""));
    let token = world.lease(holder, "k");
    let own = world.lease(many, "own");
    for key in ["k", "own"] {
        world.ask(many, &format!("CACHE.FETCH {key} WAIT 60000 TICKET\r\n").repeat(300));
    }
    world.send(other, "CACHE.FETCH k WAIT 60000");
    assert!(world.ask(holder, "CACHE.INSPECT k").contains("waiters :301"));
    world.ask(many, "HELLO 2");
    assert!(world.ask(holder, "CACHE.INSPECT k").contains("waiters :1 "));
    let facts = world.ask(holder, "CACHE.INSPECT own");
    assert!(facts.contains("waiters :0 ") && facts.contains("lease $4 held"), "{facts}");
    world.ask(holder, &format!("CACHE.FILL k {token} v"));
    assert!(world.heard(other).contains("hit") && world.heard(many).is_empty());
    assert_ne!(world.ask(many, &format!("CACHE.FILL own {own} v")), ":0");
}

/// A load may take two minutes and is renewed for longer than a token is good without it. It is held as long, its value is
/// stored; and if its holder is gone instead, the lease passes on to those who wait.
#[test]
fn a_lease_that_is_renewed_for_long_is_held_and_passes_on() {
    for ends in [false, true] {
        let mut world = World::with_load_limit(120_000);
        let (a, b, c) = (world.connect(""), world.connect(""), world.connect(""));
        let token = world.lease(a, "k");
        world.send(b, "CACHE.FETCH k WAIT 110000");
        for _ in 0..40 {
            world.wait(2_000);
            assert_eq!(world.ask(a, &format!("CACHE.RENEW k {token} 3000")), ":1");
            assert!(world.ask(c, "CACHE.INSPECT k").contains("lease $4 held"));
        }
        assert_eq!(world.heard(b), "");
        if ends {
            world.close(a);
            token_of(&world.heard(b), "miss");
        } else {
            assert_ne!(world.ask(a, &format!("CACHE.FILL k {token} v")), ":0");
            assert!(world.heard(b).starts_with("*6 $3 hit"));
        }
    }
}

/// The new connection was welcomed, has invalidated a key, and is gone, when the greeting and the write of the old one
/// arrive. They are refused, which makes nothing younger: ten minutes after the new one has closed nothing is remembered.
#[test]
fn an_old_connection_is_refused_after_the_new_one_has_closed() {
    let mut world = World::new();
    let (old, new) = (world.connect(""), world.connect(""));
    world.ask(new, "CACHE.SESSION me 2");
    world.ask(new, "CACHE.INVALIDATE KEYS 1 k");
    world.close(new);
    world.wait(60_000);
    let answer = world.ask(old, "CACHE.SESSION me 1\r\nSET k late");
    assert_eq!(answer, "-FENCED a newer connection of this session is there already");
    world.close(old);
    world.wait(539_999);
    let again = world.connect("");
    assert!(world.ask(again, "CACHE.SESSION me 1").starts_with("-FENCED"));
    world.close(again);
    world.wait(1);
    let later = world.connect("");
    assert!(world.ask(later, "CACHE.SESSION me 1").contains("life"));
    assert_eq!(world.ask(later, "GET k"), "$-1");
}

/// Sessions without connections are remembered in bounded number: the oldest of them are forgotten.
#[test]
fn a_bounded_number_of_ended_sessions_is_remembered() {
    let mut world = World::new();
    for number in 0..8_193 {
        let connection = world.connect(&format!("CACHE.SESSION s{number} 2"));
        world.close(connection);
    }
    let (first, last) = (world.connect(""), world.connect(""));
    assert!(world.ask(first, "CACHE.SESSION s0 1").contains("life"));
    assert!(world.ask(last, "CACHE.SESSION s8192 1").starts_with("-FENCED"));
}

/// One session connects and closes again and again, and another user has a crowd of sessions: what is remembered of a session
/// of the first user is not forgotten for them, and the last close of the restless one counts.
#[test]
fn ended_sessions_are_not_forgotten_for_others() {
    let mut world = World::new();
    let users = ["default", "eve"].map(|name| format!("user {name} on nopass ~* +@all")).join("\n");
    world.engine.users.replace(&[], &users).unwrap();
    let quiet = world.connect("CACHE.SESSION quiet 2");
    world.close(quiet);
    for number in 0..8_193 {
        let restless = world.connect("CACHE.SESSION restless 2");
        world.close(restless);
        let other = world.connect("AUTH eve pw");
        world.ask(other, &format!("CACHE.SESSION s{number} 2"));
        world.close(other);
    }
    for session in ["quiet", "restless"] {
        let old = world.connect("");
        assert!(world.ask(old, &format!("CACHE.SESSION {session} 1")).starts_with("-FENCED"), "{session}");
    }
    world.wait(60_000);
    let restless = world.connect("CACHE.SESSION restless 2");
    world.close(restless);
    world.wait(540_000);
    let (quiet, restless) = (world.connect(""), world.connect(""));
    assert!(world.ask(quiet, "CACHE.SESSION quiet 1").contains("life"));
    assert!(world.ask(restless, "CACHE.SESSION restless 1").starts_with("-FENCED"));
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

/// A client with tickets chooses RESP2, in which nothing can tell it an outcome later: its requests wait in their place.
#[test]
fn a_client_of_tickets_that_chooses_resp2_waits_in_place() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    world.ask(worker, "CACHE.LOADER u:*");
    world.ask(reader, "CACHE.SESSION me 1 TICKETS");
    world.ask(reader, "HELLO 2");
    for (line, answer) in [("GET u:1", "$1 v"), ("CACHE.FETCH u:2 WAIT 1000", "*6 $3 hit $1 v")] {
        assert_eq!(world.ask(reader, line), "", "{line} waits");
        let (key, token) = load_of(&world.heard(worker));
        world.send(worker, &format!("CACHE.FILL {key} {token} v"));
        assert!(world.heard(reader).starts_with(answer), "{line}");
    }
    world.ask(reader, "HELLO 3");
    assert!(world.ask(reader, "GET u:3").starts_with("-WAITING "));
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

/// A connection watches all the absent keys that it may. Others may still watch some, also while loads take all that they
/// may; and loads have their part whatever is watched. What a connection watched is given back when it closes.
#[test]
fn each_connection_has_a_share_of_what_is_watched() {
    let mut world = World::new();
    let watch = |world: &mut World, name: &str| {
        let client = world.connect("");
        let count =
            (0..20_000).take_while(|number| world.ask(client, &format!("WATCH {name}:{number}")) == "+OK").count();
        (client, count)
    };
    let (greedy, first) = watch(&mut world, "greedy");
    assert!((600..5_000).contains(&first), "{first}");
    let loader = world.connect("");
    let answers = (0..20_000).map(|number| world.ask(loader, &format!("CACHE.FETCH load:{number}")));
    let loads = answers.take_while(|answer| !answer.contains("$4 miss $-1 :0")).count();
    assert!(loads > first, "{loads} loads beside {first} watched keys");
    let (_, second) = watch(&mut world, "second");
    let (_, third) = watch(&mut world, "third");
    assert!(second > first / 3 && third > first / 3, "{first}, {second}, {third}");
    world.close(greedy);
    let (_, fourth) = watch(&mut world, "fourth");
    assert!(fourth > first / 3, "{fourth}");
}

/// Nobody else waits or loads: one command of a thousand keys has room, though that is more than a share. The waits of others
/// leave it no more than a share.
#[test]
fn a_command_that_is_alone_is_refused_nothing() {
    let mut world = World::new();
    let (worker, reader) = (world.connect("HELLO 3"), world.connect(""));
    world.ask(worker, "CACHE.LOADER u:* INFLIGHT 65536");
    let keys: Vec<String> = (0..1_000).map(|number| format!("u:{number:08}")).collect();
    world.send(reader, &format!("MGET {}", keys.join(" ")));
    let pushed = world.heard(worker);
    let words: Vec<&str> = pushed.split(' ').collect();
    for at in (0..words.len()).filter(|at| words[*at].starts_with("u:")) {
        world.post(worker, &format!("CACHE.FILL {} {} v", words[at], words[at + 1].trim_start_matches(':')));
    }
    world.exchange();
    let heard = world.heard(reader);
    assert_eq!((heard.matches("BUSY").count(), heard.matches("$1 v").count()), (0, 1_000));
}

/// A lease lasts a minute; its holder is stopped for longer, and renews it before the server has looked at it again. The
/// token is too old, as it is for a fill.
#[test]
fn a_token_that_is_too_old_is_not_renewed() {
    let mut world = World::with_load_limit(600_000);
    let client = world.connect("");
    let token = token_of(&world.ask(client, "CACHE.FETCH k LEASE 60000"), "miss");
    world.now.mono += 59_999;
    assert_eq!(world.ask(client, &format!("CACHE.RENEW k {token} 60000")), ":1");
    world.now.mono += 60_000;
    assert_eq!(world.ask(client, &format!("CACHE.RENEW k {token} 60000")), ":0");
    assert_eq!(world.ask(client, &format!("CACHE.FILL k {token} v")), ":0");
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

/// Takes the leases of many keys, until one is refused; how many were granted.
fn leases_of(world: &mut World, number: usize, name: &str, options: &str) -> usize {
    let granted = |key: &usize| {
        let answer = world.ask(number, &format!("CACHE.FETCH {name}:{key} {options}"));
        assert!(answer.starts_with("*6 $4 miss $-1 :"), "{answer}");
        !answer.starts_with("*6 $4 miss $-1 :0")
    };
    (0..20_000).take_while(granted).count()
}

/// A client takes all leases that it can get and is gone, or lets their time pass, or releases them. What is remembered of
/// them, a minute long, filled the table: reads of keys that workers load were refused as long.
#[test]
fn what_is_remembered_of_leases_makes_room() {
    for end in ["close", "time", "release", "fail"] {
        let mut world = World::new();
        let [greedy, worker, reader] = ["", "HELLO 3", ""].map(|hello| world.connect(hello));
        world.ask(worker, "CACHE.LOADER u:*");
        for round in 0..8 {
            if matches!(end, "release" | "fail") {
                for key in 0..2_000 {
                    let token = world.lease(greedy, &format!("{round}:{key}"));
                    let word = if end == "fail" { "FAIL" } else { "RELEASE" };
                    let why = if end == "fail" { " broken RETRY 60000" } else { "" };
                    assert_eq!(world.ask(greedy, &format!("CACHE.{word} {round}:{key} {token}{why}")), ":1");
                }
            } else {
                let client = world.connect("");
                assert!(leases_of(&mut world, client, &format!("{round}"), "LEASE 1000") > 100, "{end}: round {round}");
                if end == "close" { world.close(client) } else { world.wait(1_001) }
            }
        }
        world.send(reader, "GET u:1");
        let (key, token) = load_of(&world.heard(worker));
        assert_ne!(world.ask(worker, &format!("CACHE.FILL {key} {token} v")), ":0", "{end}");
        assert_eq!(world.heard(reader), "$1 v", "{end}");
        world.wait(60_000);
        world.wait(60_000);
        assert!(!world.engine.tick_leases(world.now), "{end}: no lease is left");
    }
}

/// Those that were left first are forgotten first: the last client's token is still good after many others were granted.
/// One that was forgotten is refused as too late.
#[test]
fn the_oldest_leases_make_room_first() {
    let mut world = World::new();
    let (first, crowd, last) = (world.connect(""), world.connect(""), world.connect(""));
    let old = world.lease(first, "old");
    world.close(first);
    let many = leases_of(&mut world, crowd, "crowd", "LEASE 60000");
    world.close(crowd);
    let new = world.lease(last, "new");
    world.close(last);
    let other = world.connect("");
    assert!(leases_of(&mut world, other, "other", "LEASE 60000") > many / 2);
    assert_eq!(world.ask(other, &format!("CACHE.FILL old {old} v")), ":0");
    assert_ne!(world.ask(other, &format!("CACHE.FILL new {new} v")), ":0");
    assert!(world.ask(other, "INFO").contains("fills_refused_late:1"));
}

/// One client holds leases for a minute and takes as many as it gets. Others find room for theirs, and read keys that
/// workers load; and so it can take as many again when these have ended.
#[test]
fn leases_count_in_the_share_of_their_connection() {
    let mut world = World::new();
    let [greedy, other, worker, reader] = ["", "", "HELLO 3", ""].map(|hello| world.connect(hello));
    world.ask(worker, "CACHE.LOADER u:*");
    let taken = leases_of(&mut world, greedy, "k", "LEASE 60000");
    assert!(taken > 1_000, "{taken}");
    // Void, they are held still.
    world.ask(other, "FLUSHALL");
    assert!(leases_of(&mut world, greedy, "more", "LEASE 60000") < taken / 10);
    assert!(leases_of(&mut world, other, "other", "LEASE 60000") > taken / 4);
    world.send(reader, "GET u:1");
    let (key, token) = load_of(&world.heard(worker));
    world.send(worker, &format!("CACHE.FILL {key} {token} v"));
    assert_eq!(world.heard(reader), "$1 v");
    world.wait(60_001);
    world.wait(1);
    let again = leases_of(&mut world, greedy, "again", "LEASE 60000");
    assert!(again.abs_diff(taken) < taken / 4, "{again} and {taken}");
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

/// The time of leases of two databases is over when one of them is flushed: what was loaded for that one is void, and may
/// be loaded again at once. What is left of the other one's is good, and so is what is granted later.
#[test]
fn a_flush_voids_tokens_that_nobody_holds() {
    let mut world = World::new();
    let (first, other, operator) = (world.connect(""), world.connect("SELECT 1"), world.connect(""));
    let flushed = world.lease(first, "k");
    let kept = world.lease(other, "k");
    world.wait(3_001);
    assert_eq!(world.ask(operator, "FLUSHDB"), "+OK");
    assert_eq!(world.ask(first, &format!("CACHE.FILL k {flushed} old")), ":0");
    assert_eq!(world.ask(first, &format!("CACHE.RENEW k {flushed} 1000")), ":0");
    let later = world.lease(first, "k");
    world.wait(3_001);
    assert_ne!(world.ask(first, &format!("CACHE.FILL k {later} new")), ":0");
    assert_ne!(world.ask(other, &format!("CACHE.FILL k {kept} other")), ":0");
    world.wait(120_000);
    assert!(!world.engine.tick_leases(world.now));
}

/// A process with two connections, of which the first holds the lease of `k`, and another client that waits for it.
fn session_and_waiter(world: &mut World) -> (usize, usize, usize, u64) {
    let (first, second) = (world.connect("CACHE.SESSION a 1"), world.connect("CACHE.SESSION a 1"));
    let waiter = world.connect("");
    let token = world.lease(first, "k");
    world.send(waiter, "CACHE.FETCH k WAIT 60000");
    (first, second, waiter, token)
}

#[test]
fn a_lease_is_taken_over_by_another_connection_of_its_session() {
    let mut world = World::new();
    let (first, second, waiter, token) = session_and_waiter(&mut world);
    world.close(first);
    world.wait(399);
    assert_eq!(world.ask(second, &format!("CACHE.RENEW k {token} 3000")), ":1");
    world.wait(2_999);
    assert_eq!(world.heard(waiter), "", "it is held for as long as it was renewed");
    assert_ne!(world.ask(second, &format!("CACHE.FILL k {token} v")), ":0");
    assert!(world.heard(waiter).contains("$1 v"));
}

/// The RENEW arrives before the server sees that the other connection was closed.
#[test]
fn a_close_after_the_renewal_changes_nothing() {
    let mut world = World::new();
    let (first, second, waiter, token) = session_and_waiter(&mut world);
    assert_eq!(world.ask(second, &format!("CACHE.RENEW k {token} 3000")), ":1");
    world.close(first);
    world.wait(2_999);
    assert_eq!(world.heard(waiter), "");
    world.close(second);
    token_of(&world.heard(waiter), "miss");
}

/// Calls are interrupted before they read that they were granted the lease. Their processes have other connections and do
/// not renew what they do not know of; nobody has tried to load, so it is no failure, however often.
#[test]
fn a_lease_that_no_sibling_renews_lapses_without_a_failure() {
    let mut world = World::new();
    let waiter = world.connect("");
    let mut holders = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let hello = format!("CACHE.SESSION {name} 1");
        holders.push(world.connect(&hello));
        world.connect(&hello);
        world.send(holders[holders.len() - 1], "CACHE.FETCH k WAIT 60000");
    }
    world.send(waiter, "CACHE.FETCH k WAIT 60000");
    for holder in holders {
        token_of(&world.heard(holder), "miss");
        world.close(holder);
        world.wait(399);
        assert_eq!(world.heard(waiter), "");
        world.wait(1);
    }
    token_of(&world.heard(waiter), "miss");
}

/// A process is killed: its connections end one after another. What the first one left passes on with the last.
#[test]
fn the_last_connection_of_a_session_passes_all_its_leases_on() {
    let mut world = World::new();
    let (first, second, waiter, _) = session_and_waiter(&mut world);
    let other = world.connect("");
    world.send(other, "CACHE.FETCH k WAIT 60000");
    world.close(first);
    assert_eq!(world.heard(waiter), "");
    world.close(second);
    token_of(&world.heard(waiter), "miss");
    world.close(waiter);
    assert_eq!(world.heard(other), "-LOADFAILED k: the client that loaded it ended, twice");
}

/// A connection whose peer sends nothing more renews nothing, so it keeps no lease for the others of its session.
#[test]
fn a_half_closed_connection_is_no_sibling() {
    let mut world = World::new();
    let (first, second, waiter, _) = session_and_waiter(&mut world);
    world.end_input(second);
    world.end_input(first);
    token_of(&world.heard(waiter), "miss");
    world.close(first);
    world.close(second);
}

/// The old connections of a client are closed when it comes back with a higher generation: they renew nothing.
#[test]
fn a_newer_generation_passes_on_what_the_older_one_left() {
    let mut world = World::new();
    let (first, second, waiter, _) = session_and_waiter(&mut world);
    world.close(first);
    let newer = world.connect("CACHE.SESSION a 2");
    assert!(world.connections[second].as_ref().unwrap().closed);
    world.close(second);
    token_of(&world.heard(waiter), "miss");
    world.close(newer);
}

#[test]
fn a_close_never_lengthens_a_lease() {
    let mut world = World::new();
    let (first, _, waiter, _) = session_and_waiter(&mut world);
    world.wait(2_900);
    world.close(first);
    world.wait(100);
    token_of(&world.heard(waiter), "miss");
}

/// The lease of `k` is on its way to a connection that closes before it is delivered: nobody can renew it, so it passes on
/// at once, although the session has another connection.
#[test]
fn a_grant_that_was_not_delivered_passes_on_at_once() {
    let mut world = World::new();
    let (holder, waiter) = (world.connect(""), world.connect(""));
    let (first, _) = (world.connect("CACHE.SESSION a 1"), world.connect("CACHE.SESSION a 1"));
    let token = world.lease(holder, "k");
    world.send(first, "CACHE.FETCH k WAIT 60000");
    world.send(waiter, "CACHE.FETCH k WAIT 60000");
    world.post(holder, &format!("CACHE.RELEASE k {token}"));
    world.close(first);
    token_of(&world.heard(waiter), "miss");
}

/// One task of a loop loads a key, and another one of it waits for the same key on the same connection, which ends.
#[test]
fn a_wait_of_the_holder_does_not_end_its_lease() {
    let mut world = World::new();
    let (first, second) = (world.connect("HELLO 3"), world.connect("CACHE.SESSION a 1"));
    world.ask(first, "CACHE.SESSION a 1 TICKETS");
    let waiter = world.connect("");
    let token = world.lease(first, "k");
    world.send(first, "CACHE.FETCH k WAIT 60000");
    world.send(waiter, "CACHE.FETCH k WAIT 60000");
    world.close(first);
    assert_eq!(world.heard(waiter), "");
    assert_eq!(world.ask(second, &format!("CACHE.RENEW k {token} 3000")), ":1");
    world.wait(2_999);
    assert_eq!(world.heard(waiter), "");
}

/// The value changes while it is loaded, and the loader's connection ends: one load that cannot be stored may still run
/// beside the next, which nobody renews, so another may begin a moment later.
#[test]
fn a_voided_load_whose_connection_ended_is_waited_for_shortly() {
    let mut world = World::new();
    let (first, _, waiter, _) = session_and_waiter(&mut world);
    let (writer, third) = (world.connect(""), world.connect(""));
    world.ask(writer, "DEL k");
    token_of(&world.heard(waiter), "miss");
    world.ask(writer, "DEL k");
    world.send(third, "CACHE.FETCH k WAIT 60000");
    assert_eq!(world.heard(third), "", "two voided loads run");
    world.close(first);
    world.wait(399);
    assert_eq!(world.heard(third), "");
    world.wait(1);
    token_of(&world.heard(third), "miss");
}
