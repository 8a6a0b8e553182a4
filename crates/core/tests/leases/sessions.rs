//! Connections of one client: leases pass from one to the next, and old ones are refused.

use crate::world::{World, token_of};

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
