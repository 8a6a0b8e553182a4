//! What one turn of a connection leaves to the next.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use globalcache_core::session::TurnEnd;
use globalcache_core::state::mailbox::Event;
use globalcache_core::store::Outcome;
use globalcache_core::vocabulary::{Blob, Reply};

use super::orders::{DIALOGUES, JSON};
use super::world::{Open, Step, World};
use crate::connection::{Buffers, Ready, Turn};

/// A client sends a thousand requests at once. When the time of its turn has passed, the rest waits for the next turn, so
/// that other connections have theirs in between; each turn runs one request at least.
#[test]
fn a_long_pipeline_is_run_in_several_turns() {
    for part in ["PING\r\n", "mn\r\n", DIALOGUES[JSON].parts[1]] {
        let mut world = World::new(true);
        world.buffers = Buffers::with_input(64 << 10);
        world.buffers.scratch.turn_end = TurnEnd::new(|| 1, 0);
        let mut open = world.open(1 << 20);
        open.step(Step::Send, &part.repeat(100));
        for turns in 1..=100 {
            assert!(open.round());
            open.step(Step::Take, "");
            let answered = String::from_utf8_lossy(&open.got).lines().count();
            assert!(answered >= turns && answered <= 2 * turns, "{answered} answers after {turns} turns");
            if answered == 100 {
                break;
            }
        }
    }
}

/// A client reads a reply of six MiB as fast as it is sent, so no write is ever cut short and the system has nothing to tell.
/// The reply is sent in parts, with turns of other connections in between, and wholly; also to a client that has half-closed,
/// and while its next request waits for a load.
#[test]
fn a_long_reply_is_sent_in_several_turns() {
    for (ends, then) in [(false, ""), (true, ""), (false, "GET u:1\r\n"), (true, "GET u:1\r\n")] {
        let mut world = World::new(false);
        world.shared.options.client_memory = 1 << 30;
        let value = "x".repeat(1 << 20);
        world.ask(&format!("*3\r\n$3\r\nSET\r\n$1\r\nx\r\n${}\r\n{value}\r\n", value.len()));
        world.buffers = Buffers::with_input(64 << 10);
        let mut open = world.open(1 << 30);
        open.step(Step::Send, &format!("MGET x x x x x x\r\n{then}"));
        if ends {
            open.step(Step::Finish, "");
        }
        let mut turns = 0;
        while open.round() {
            turns += 1;
            let sent = open.got.len();
            open.step(Step::Take, "");
            assert!(open.got.len() - sent <= 2 << 20, "{} bytes in a turn", open.got.len() - sent);
        }
        assert!(turns >= 6, "{turns}");
        assert_eq!(open.got.len(), b"*6\r\n".len() + 6 * (b"$1048576\r\n\r\n".len() + value.len()));
        assert_eq!(open.connection.is_none(), ends && then.is_empty());
    }
}

/// A loader worker is sent a load and then closed by CLIENT KILL, both in one mailbox; or the load comes when the worker has
/// said QUIT. It never learns of the load, which goes to another worker at once, not when the lease has timed out.
#[test]
fn a_load_beside_the_end_of_its_worker_goes_to_another() {
    for quits in [false, true] {
        let mut world = World::new(false);
        let mut open = world.open(1 << 20);
        open.step(Step::Send, "HELLO 3\r\nCACHE.LOADER u:* INFLIGHT 1\r\n");
        open.rounds();
        let (first, now) = (open.world.party, open.world.now);
        let mut reader = open.world.client(100, "GET u:1\r\n");
        open.world.shared.engine.pump(now);
        let mut second = open.world.client(101, "HELLO 3\r\nCACHE.LOADER u:* INFLIGHT 1\r\n");
        if quits {
            open.step(Step::Send, "QUIT\r\n");
        } else {
            open.world.shared.engine.mail.post(first, Event::Close);
        }
        open.round();
        assert_eq!(open.connection.is_some(), quits);
        let engine = &open.world.shared.engine;
        engine.pump(now);
        let to_second: Vec<_> = engine.mail.take(0).into_iter().filter(|(to, _)| to.id == 101).collect();
        assert!(matches!(&to_second[..], [(_, Event::Load(0, key, _))] if **key == *b"u:1"), "{to_second:?}");
        reader.close(engine, now);
        second.close(engine, now);
    }
}

/// A message is delivered together with CLIENT KILL. What was written for that client is not sent to the next one that has
/// its turn in the same thread.
#[test]
fn what_a_killed_client_was_to_get_goes_to_nobody_else() {
    let mut world = World::new(false);
    let open = world.open(1 << 20);
    let mail = &open.world.shared.engine.mail;
    mail.post(open.world.party, Event::Push(Arc::new(Reply::bytes("secret"))));
    mail.post(open.world.party, Event::Close);
    let mut open = open;
    open.round();
    assert!(open.connection.is_none() && open.world.buffers.output.is_empty());
}

/// Leaves so many numbered messages for a connection.
fn publish(open: &Open<'_>, numbers: std::ops::Range<i64>) {
    for number in numbers {
        let push = Event::Push(Arc::new(Reply::Push(vec![Reply::bytes("message"), Reply::Int(number)])));
        open.world.shared.engine.mail.post(open.world.party, push);
    }
}

/// A client that keeps copies is left more messages than one turn delivers, then one more, and asks something. It gets all
/// messages in their order, and the reply, which may rest on newer values, behind them.
#[test]
fn a_reply_does_not_overtake_messages_of_earlier_rounds() {
    let mut world = World::new(true);
    world.shared.engine.limits.pause_output = 1 << 20;
    let mut open = world.open(1 << 20);
    open.step(Step::Send, "HELLO 3\r\n");
    open.rounds();
    open.step(Step::Send, "CLIENT TRACKING ON\r\n");
    open.rounds();
    open.step(Step::Take, "");
    open.got.clear();
    publish(&open, 0..2000);
    open.round();
    open.step(Step::Send, "PING\r\n");
    publish(&open, 2000..2001);
    open.rounds();
    open.step(Step::Take, "");
    let message = |number| format!(">2\r\n$7\r\nmessage\r\n:{number}\r\n");
    let expected: String = (0..2001).map(message).chain(["+PONG\r\n".to_owned()]).collect();
    assert_eq!(String::from_utf8_lossy(&open.got), expected);
}

/// A client is left a few messages that take long: outcomes of its requests, each of which runs a request again, then long
/// values. Once its turn has taken too long the others have theirs after each of them, not after hundreds.
#[test]
fn a_turn_ends_after_a_message_that_takes_long() {
    let mut world = World::new(true);
    let mut open = world.open(1 << 20);
    for wait in 0..3 {
        open.world.shared.engine.mail.post(open.world.party, Event::Outcome(wait, Outcome::Timeout));
    }
    let turns = (0..100).take_while(|_| open.round()).count();
    assert_eq!(turns, 3);
    for _ in 0..3 {
        let value = Reply::Value(Blob::Owned(vec![b'v'; 256 << 10]));
        open.world.shared.engine.mail.post(open.world.party, Event::Push(Arc::new(value)));
    }
    open.round();
    open.step(Step::Take, "");
    assert!((256 << 10..512 << 10).contains(&open.got.len()), "{}", open.got.len());
}

/// A client is left more messages than one turn delivers, and then nothing happens on its connection. It gets them all in the
/// turns that follow.
#[test]
fn messages_that_a_turn_leaves_are_sent_in_the_next() {
    let mut world = World::new(true);
    world.shared.engine.limits.pause_output = 1 << 20;
    let mut open = world.open(1 << 20);
    open.step(Step::Send, "PING\r\n");
    open.rounds();
    open.step(Step::Take, "");
    open.got.clear();
    publish(&open, 0..2000);
    open.rounds();
    open.step(Step::Take, "");
    let expected: String = (0..2000).map(|number| format!("*2\r\n$7\r\nmessage\r\n:{number}\r\n")).collect();
    assert_eq!(String::from_utf8_lossy(&open.got), expected);
}

/// A client is killed while messages of an earlier round wait for their delivery: it is closed at once, and gets none.
#[test]
fn a_killed_client_gets_no_messages_that_were_left_over() {
    let mut world = World::new(true);
    let mut open = world.open(1 << 20);
    publish(&open, 0..2000);
    open.round();
    open.step(Step::Take, "");
    let before = open.got.len();
    assert!(before > 0);
    publish(&open, 2000..4000);
    open.world.shared.engine.mail.post(open.world.party, Event::Close);
    open.again = false;
    open.round();
    open.step(Step::Take, "");
    assert!(open.connection.is_none());
    assert_eq!(open.got.len(), before);
}

/// Messages come faster than a connection's turns deliver them. Those that wait count as its memory.
#[test]
fn messages_that_wait_count_as_memory_of_their_connection() {
    let mut world = World::new(true);
    let mut open = world.open(1 << 20);
    for start in (0..20_000).step_by(1000) {
        publish(&open, start..start + 1000);
        let World { shared, now, .. } = &mut *open.world;
        for (_, event) in shared.engine.mail.take(0) {
            assert!(open.connection.as_mut().unwrap().post(shared, *now, event));
        }
    }
    let World { shared, buffers, now, .. } = &mut *open.world;
    let connection = open.connection.as_mut().unwrap();
    assert_eq!(connection.turn(shared, *now, buffers), Turn::TooMuch);
    assert!(connection.counted() > shared.options.client_memory);
}

/// A client deletes many keys in turns, with a turn of others in between, in which a newer connection of the same session
/// is welcomed. Nothing of the old request is run after that.
#[test]
fn a_request_in_turns_ends_with_the_session_of_its_client() {
    let mut world = World::new(true);
    world.buffers = Buffers::with_input(1 << 20);
    world.buffers.scratch.turn_end = TurnEnd::new(|| 1, 0);
    world.shared.options.client_memory = 1 << 30;
    let keys: Vec<String> = (0..20_000).map(|number| format!("k{number}")).collect();
    world.ask(&keys.iter().map(|key| format!("SET {key} v\r\n")).collect::<String>());
    let mut open = world.open(1 << 20);
    open.step(Step::Send, "CACHE.SESSION me 1\r\n");
    open.rounds();
    let words = ["UNLINK"].into_iter().chain(keys.iter().map(String::as_str));
    let words: String = words.map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
    open.step(Step::Send, &format!("*{}\r\n{words}", keys.len() + 1));
    open.round();
    let left = open.world.shared.engine.store.stats().items;
    assert!((1..20_000).contains(&left), "{left}: the request has begun and has not ended");
    let _newer = open.world.client(100, "CACHE.SESSION me 2\r\n");
    open.turn();
    open.turn();
    assert_eq!(open.world.shared.engine.store.stats().items, left);
    open.rounds();
    assert_eq!(open.world.shared.engine.store.stats().items, left);
}

/// A request has arrived in part when other connections come to hold too much. The connection is a reason for that although
/// it holds what it held before. Nothing more of its request is read until there is room again, and then it goes on.
#[test]
fn a_request_pauses_while_all_connections_hold_too_much() {
    let mut world = World::new(false);
    world.buffers = Buffers::with_input(1 << 20);
    let value = "x".repeat(200_000);
    let (first, second) = value.split_at(100_000);
    let mut open = world.open(1 << 20);
    open.step(Step::Send, &format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$200000\r\n{first}"));
    open.rounds();
    open.step(Step::Send, &format!("{second}\r\n"));
    let World { shared, buffers, now, .. } = &mut *open.world;
    let (connection, total) = (open.connection.as_mut().unwrap(), &shared.engine.counters.client_bytes);
    let others = shared.options.client_memory;
    total.fetch_add(others, Relaxed);
    assert_eq!(connection.turn(shared, *now, buffers), Turn::TooMuch);
    let held = connection.counted();
    connection.hear(Ready { readable: true, ..Ready::default() });
    assert_eq!(connection.turn(shared, *now, buffers), Turn::TooMuch);
    assert_eq!(connection.counted(), held);
    total.fetch_sub(others, Relaxed);
    assert_eq!(connection.turn(shared, *now, buffers), Turn::Again);
    open.again = true;
    open.rounds();
    open.step(Step::Take, "");
    assert_eq!(String::from_utf8_lossy(&open.got), "+OK\r\n");
}
