//! What commands do when memory is full and nothing may be evicted.

use crate::random::Random;
use crate::talk::{NOW, Talk, engine, fill_up, names};

/// The new value was written before the old one went, so a full memory refused the renaming of what it held already.
#[test]
fn a_full_memory_refuses_no_renaming() {
    let engine = engine(16 << 20, 4, false);
    let mut talk = Talk::new(&engine);
    let held = fill_up(&mut talk);
    for (number, name) in held.iter().enumerate() {
        let other = format!("new:{number:06}");
        assert_eq!(talk.ask(&["RENAME", name, &other]), "+OK\\r\\n", "{name}");
        assert_eq!(talk.ask(&["EXISTS", name, &other]), ":1\\r\\n");
    }
    engine.store.check(0);
    assert_eq!(talk.ask(&["DBSIZE"]), format!(":{}\\r\\n", held.len()));
}

/// EXEC ran what fitted of a transaction: the old value was removed, and the new one was not there.
#[test]
fn a_full_memory_refuses_a_transaction_before_its_first_request() {
    let engine = engine(16 << 20, 4, false);
    let mut talk = Talk::new(&engine);
    let held = fill_up(&mut talk);
    let large = "v".repeat(900_000);
    let last = [
        vec!["SET", "big", &large],
        vec!["APPEND", "new", &large],
        vec!["SETRANGE", "new", "800000", "x"],
        vec!["MSET", "flag", "1", "big", &large],
        vec!["CACHE.SET", "big", &large, "TTL", "1000"],
    ];
    for request in last {
        for words in [vec!["MULTI"], vec!["DEL", &held[300]], request, vec!["SET", "flag", "done"]] {
            talk.ask(&words);
        }
        let answer = talk.ask(&["EXEC"]);
        assert!(answer.starts_with("-EXECABORT Transaction discarded because of: OOM "), "{answer}");
        assert_eq!(talk.ask(&["EXISTS", &held[300], "flag", "big", "new"]), ":1\\r\\n");
    }
    // What needs no memory is done, and what was made free can be used.
    for words in [vec!["MULTI"], vec!["DEL", &held[2]], vec!["RENAME", &held[3], "new:000003"], vec!["GET", &held[0]]] {
        talk.ask(&words);
    }
    assert_eq!(talk.ask(&["EXEC"]), "*3\\r\\n:1\\r\\n+OK\\r\\n$10\\r\\nvvvvvvvvvv\\r\\n");
}

/// A request of a transaction that is drawn: it writes, moves, changes or removes one of some keys.
fn drawn(random: &mut Random) -> Vec<String> {
    let sizes = [0, 5, 50, 200, 1000, 3000, 9000, 30_000, 100_000];
    let most = 2 + random.below(sizes.len() as u64 - 2);
    let value = "v".repeat(sizes[random.below(most) as usize]);
    let [k, other] = [(); 2].map(|()| {
        let number = random.below(40);
        if number < 36 { format!("k{number}") } else { format!("{}{number}", "long".repeat(300)) }
    });
    let line = match random.below(16) {
        0 => format!("SET {k} {value}"),
        1 => format!("SET {k} {value} EX 100"),
        2 => format!("APPEND {k} {value}"),
        3 => format!("SETRANGE {k} 500 {value}"),
        4 | 5 => format!("RENAME {k} {other}"),
        6 => format!("RENAMENX {k} {other}"),
        7 => format!("MOVE {k} 1"),
        8 => format!("COPY {k} {other} DB 1 REPLACE"),
        9 => format!("DEL {k}"),
        10 => format!("EXPIRE {k} {}", random.of(&[0, 1000])),
        11 => format!("GETEX {k} {}", random.of(&["EX 500", "PERSIST"])),
        12 => format!("CACHE.SET {k} {value} TAGS 2 a b"),
        13 => format!("MSETNX {k} {value} {other} {value}"),
        14 => format!("SELECT {}", random.below(2)),
        _ => format!("MSET {k} {value} {other} {value}"),
    };
    line.split(' ').map(String::from).collect()
}

/// Transactions are drawn while memory is nearly full. A value that was moved to another shard, or written anew with another
/// expiry, took memory that later writes had been promised; and MSET wanted room left beside what was promised to it. EXEC
/// ran half and answered OOM in its middle.
#[test]
fn a_transaction_in_a_full_memory_is_all_or_nothing() {
    let count = std::env::var("FULL_TRANSACTIONS").map_or(2, |count| count.parse().expect("a number"));
    let (mut run, mut refused) = (0, 0);
    for seed in 0..count {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ (seed + 1));
        let engine = engine(4 << 20, 2, false);
        let mut talk = Talk::new(&engine);
        for turn in 0..200 {
            for _ in 0..random.below(20) {
                let value = "f".repeat(random.of(&[10, 300, 5000, 20_000, 60_000]));
                talk.ask(&["SET", &format!("filler:{}", random.below(300)), &value]);
            }
            let requests: Vec<Vec<String>> = (0..1 + random.below(12)).map(|_| drawn(&mut random)).collect();
            talk.ask(&["MULTI"]);
            for words in &requests {
                talk.ask(&words.iter().map(String::as_str).collect::<Vec<_>>());
            }
            let answer = talk.ask(&["EXEC"]);
            if answer.starts_with("-EXECABORT") {
                refused += 1;
                (0..random.below(30)).for_each(|_| drop(talk.ask(&["DEL", &format!("filler:{}", random.below(300))])));
            } else {
                run += 1;
                let short =
                    |words: &Vec<String>| words.iter().map(|w| w.chars().take(9).collect()).collect::<Vec<String>>();
                let all: Vec<_> = requests.iter().map(short).collect();
                assert!(!answer.contains("-OOM"), "seed {seed}, turn {turn}: {all:?}");
            }
        }
        engine.store.check(0);
    }
    assert!(run > 10 * count && refused > 10 * count, "{run} ran and {refused} were refused");
}

/// A transaction renames a long value, to a key of another shard perhaps, and writes others. The renaming took the memory of
/// that shard which the writes had been promised.
#[test]
fn a_renaming_takes_no_memory_of_later_writes() {
    let engine = engine(8 << 20, 4, false);
    let (mut talk, mut random) = (Talk::new(&engine), Random(3));
    let [long, filler, value] = [800_000, 20_000, 60_000].map(|length| "v".repeat(length));
    for turn in 0..20 {
        talk.ask(&["FLUSHALL"]);
        talk.ask(&["SET", "source", &long]);
        let (mut count, mut refused) = (0, 0);
        while refused < 10 {
            refused += u32::from(talk.ask(&["SET", &format!("filler:{count}"), &filler]).starts_with("-OOM"));
            count += 1;
        }
        let gone = 40 + random.below(60);
        (0..gone).for_each(|_| drop(talk.ask(&["DEL", &format!("filler:{}", random.below(count))])));
        talk.ask(&["MULTI"]);
        talk.ask(&["RENAME", "source", &format!("to{turn}")]);
        (0..6).for_each(|number| drop(talk.ask(&["SET", &format!("new:{turn}:{number}"), &value])));
        let answer = talk.ask(&["EXEC"]);
        assert!(answer.starts_with("-EXECABORT") || !answer.contains("-OOM"), "turn {turn}: {answer}");
    }
}

/// MSET and EXEC looked only at what was free, and never gave back what was dead: they were refused for good.
#[test]
fn what_is_dead_makes_room_for_many_keys_at_once() {
    let engine = engine(16 << 20, 4, false);
    let mut talk = Talk::new(&engine);
    let value = "v".repeat(400);
    let held = (0..).take_while(|number| talk.ask(&["SET", &format!("key:{number}"), &value]).starts_with('+')).count();
    for number in (0..held).filter(|number| number % 5 < 3) {
        assert_eq!(talk.ask(&["DEL", &format!("key:{number}")]), ":1\\r\\n");
    }
    let write_many = |talk: &mut Talk<'_>| {
        for number in 0..1000 {
            let (one, other) = (format!("one:{number}"), format!("other:{number}"));
            assert_eq!(talk.ask(&["MSET", &one, &value, &other, &value]), "+OK\\r\\n", "{number} of {held}");
            talk.ask(&["MULTI"]);
            talk.ask(&["SET", &format!("third:{number}"), &value]);
            assert_eq!(talk.ask(&["EXEC"]), "*1\\r\\n+OK\\r\\n", "{number} of {held}");
        }
    };
    write_many(&mut talk);
    engine.store.check(0);
    // What was flushed makes room before a tick has given it back.
    fill_up(&mut talk);
    assert_eq!(talk.ask(&["FLUSHALL"]), "+OK\\r\\n");
    write_many(&mut talk);
    engine.store.check(0);
}

/// A renamed item took memory along to another shard for good: in the end most shards refused every write.
#[test]
fn shards_have_equal_memory_again_when_renamed_items_are_gone() {
    let engine = engine(16 << 20, 4, false);
    let mut talk = Talk::new(&engine);
    let held = fill_up(&mut talk);
    let first = engine.store.budgets();
    // Each takes the place of the one before, which gives back what it took.
    for name in held.iter().filter(|name| name[4..].parse::<usize>().unwrap() % 4 == 3).take(40) {
        assert_eq!(talk.ask(&["RENAME", name, "latest"]), "+OK\\r\\n");
        let taken = engine.store.budgets().iter().zip(&first).map(|(now, first)| now.saturating_sub(*first)).max();
        assert!(taken < Some(80_000), "{taken:?} bytes");
        talk.ask(&["SET", name, &"v".repeat(70_000)]);
    }
    for name in &held {
        let to = format!("new:{name}");
        talk.ask(&["RENAME", name, &to]);
    }
    assert_ne!(engine.store.budgets(), first);
    engine.store.check(0);
    let left = talk.ask(&["KEYS", "*"]);
    for name in left.split("\\r\\n").filter(|word| word.contains(':') || *word == "latest") {
        talk.ask(&["DEL", name]);
    }
    assert_eq!(talk.ask(&["DBSIZE"]), ":0\\r\\n");
    engine.store.tick(NOW.mono);
    assert_eq!(engine.store.budgets(), first);
    engine.store.check(0);
}

/// Renaming moved long values until a shard had lent more of its memory than one of them takes. It took that for too long; the
/// renaming answered OK, and the value was gone. Here the first shard lends all that it can, by renaming each value until it
/// lies in another one, and then every value is looked for after each renaming.
#[test]
fn a_long_value_is_renamed_or_stays() {
    let engine = engine(32 << 20, 4, false);
    let mut talk = Talk::new(&engine);
    let value = "v".repeat(1_100_000);
    let mut held: Vec<String> =
        names(64).into_iter().filter(|name| talk.ask(&["SET", name, &value]).starts_with("+OK")).collect();
    assert!(held.len() > 10, "{}", held.len());
    let mut round = 0;
    let mut rename = |talk: &mut Talk<'_>, name: &mut String| {
        round += 1;
        let to = format!("r:{round}");
        let answer = talk.ask(&["RENAME", name, &to]);
        if answer.starts_with("+OK") {
            *name = to;
        } else {
            assert!(answer.starts_with("-OOM"), "{answer}");
        }
        assert_eq!(talk.ask(&["STRLEN", name]), ":1100000\\r\\n", "round {round}");
        engine.store.budgets()[0]
    };
    let mut least = engine.store.budgets()[0];
    for name in &mut held {
        // The memory of the first shard shows whether the value came to it or left it.
        let (mut number, mut is_there) = (0, false);
        while number < 12 || is_there {
            let before = std::mem::replace(&mut least, rename(&mut talk, name));
            is_there = if least == before { is_there } else { least > before };
            number += 1;
        }
    }
    assert!(least < 1_100_000, "{least} bytes");
    for _ in 0..20 {
        held.iter_mut().for_each(|name| _ = rename(&mut talk, name));
    }
    engine.store.check(0);
}

/// A value with a tag goes to another database, where the tag of the same name is invalidated.
#[test]
fn tags_go_with_an_item_to_another_database() {
    let engine = engine(32 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    talk.ask(&["CACHE.SET", "moved", "v", "TAGS", "1", "t"]);
    talk.ask(&["CACHE.SET", "copied", "v", "TAGS", "1", "t"]);
    talk.ask(&["MOVE", "moved", "3"]);
    talk.ask(&["COPY", "copied", "copied", "DB", "3"]);
    talk.ask(&["CACHE.INVALIDATE", "TAGS", "1", "t"]);
    assert_eq!(talk.ask(&["EXISTS", "copied"]), ":0\\r\\n");
    talk.ask(&["SELECT", "3"]);
    assert_eq!(talk.ask(&["EXISTS", "moved", "copied"]), ":2\\r\\n");
    talk.ask(&["CACHE.INVALIDATE", "TAGS", "1", "t"]);
    assert_eq!(talk.ask(&["EXISTS", "moved", "copied"]), ":0\\r\\n");
}

/// Renamed values took memory along, so some shards have lent theirs. A value that a shard could take at first, and cannot
/// now, finds no memory; it is not too long. One that no shard can take is.
#[test]
fn a_value_is_not_too_long_for_memory_that_was_lent() {
    let engine = engine(32 << 20, 4, false);
    let first = engine.store.budgets()[0];
    let mut talk = Talk::new(&engine);
    let value = "v".repeat(900_000);
    let held: Vec<String> =
        names(64).into_iter().filter(|name| talk.ask(&["SET", name, &value]).starts_with("+OK")).collect();
    for (round, name) in held.iter().enumerate() {
        talk.ask(&["RENAME", name, &format!("r:{round}")]);
    }
    let least = engine.store.budgets().into_iter().min().unwrap();
    assert!(least + (64 << 10) < first, "{least} of {first} bytes");
    for (length, error) in [(least + 4096, "-OOM "), (first + 1, "-ERR value of ")] {
        let long = "v".repeat(length);
        for name in names(16) {
            let answer = talk.ask(&["SET", &name, &long]);
            assert!(answer.starts_with(error), "{length} of {first} bytes: {answer}");
        }
    }
    engine.store.check(0);
}
