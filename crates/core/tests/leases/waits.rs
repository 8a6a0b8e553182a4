//! Requests that wait, in their place or under a ticket.

use crate::world::{World, load_of, token_of};

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
