//! Who holds a lease, for how long, and what becomes of it when the load fails.

use crate::world::{World, load_of, token_of};

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
