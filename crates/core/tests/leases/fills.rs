//! Which loaded values are stored, and who gets those that are not.

use crate::world::{World, load_of, token_of};

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
