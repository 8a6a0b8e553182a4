//! The memory that leases may take, and the share of each connection.

use globalcache_core::limits::Limits;

use crate::world::{World, load_of, token_of};

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
