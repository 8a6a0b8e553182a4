//! Commands on many keys, and what they do when memory is full and nothing may be evicted.

mod random;

use std::collections::HashSet;

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Key, Meta, Options, Store};
use globalcache_core::table::{TABLE, flag};
use random::Random;

const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };

fn engine(memory: u64, shards: usize, evict: bool) -> Engine {
    let limits = Limits::default();
    let seed = [1, 2, 3, 4];
    let options = Options { memory, shards, evict, max_value: limits.max_value, seed, epoch: 1, load_limit: 30_000 };
    Engine::new(options, limits, Facts::default(), 1)
}

/// A connection of a client.
struct Talk<'e> {
    engine: &'e Engine,
    session: Session,
    input: Vec<u8>,
    scratch: Scratch,
    out: Output,
}

impl Talk<'_> {
    fn new(engine: &Engine) -> Talk<'_> {
        Talk::with_id(engine, 0)
    }

    fn with_id(engine: &Engine, id: u64) -> Talk<'_> {
        let session = Session::new(ConnectionId { id, ..ConnectionId::default() });
        Talk { engine, session, input: Vec::new(), scratch: Scratch::default(), out: Output::default() }
    }

    /// One turn of the thread that serves it; what it answers, and whether it has more to do.
    fn turn(&mut self) -> (String, bool) {
        let (taken, flow) = self.session.feed(self.engine, NOW, &mut self.scratch, &self.input, &mut self.out);
        self.input.drain(..taken);
        (self.out.take_bytes().escape_ascii().to_string(), flow == Flow::Park)
    }

    fn send(&mut self, words: &[&str]) {
        self.input.extend(format!("*{}\r\n", words.len()).bytes());
        words.iter().for_each(|word| self.input.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
    }

    fn ask(&mut self, words: &[&str]) -> String {
        self.send(words);
        let mut answer = String::new();
        loop {
            let (more, goes_on) = self.turn();
            answer += &more;
            if !goes_on {
                return answer;
            }
            assert!(self.session.is_ready());
        }
    }
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key:{number}")).collect()
}

fn fill(store: &Store, names: &[String]) {
    for name in names {
        let key = Key { db: 0, bytes: name.as_bytes() };
        store.with(key, NOW.mono, |entry| entry.set(b"value", &Meta::default())).expect("there is room");
    }
}

/// Writes values of changing length until some are refused; the names of those that are there.
fn fill_up(talk: &mut Talk<'_>) -> Vec<String> {
    let (mut held, mut refused) = (Vec::new(), 0);
    for number in 0.. {
        let name = format!("key:{number:06}");
        let answer = talk.ask(&["SET", &name, &"v".repeat([10, 400, 9000, 70_000][number % 4])]);
        if answer.starts_with("-OOM") {
            refused += 1;
        } else {
            held.push(name);
        }
        if refused == 200 {
            break;
        }
    }
    held
}

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

/// A request of many keys held its thread, and all shards, until the last of them.
#[test]
fn many_keys_are_removed_in_turns() {
    let engine = engine(64 << 20, 4, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let names = names(30_000);
    fill(&engine.store, &names);
    let words: Vec<&str> = std::iter::once("DEL").chain(names.iter().map(String::as_str)).chain(["none"]).collect();
    talk.send(&words);
    talk.send(&["GET", "key:0"]);
    let mut turns = 0;
    let answer = loop {
        let (answer, goes_on) = talk.turn();
        if !goes_on {
            break answer;
        }
        assert!(answer.is_empty() && talk.session.is_ready(), "what follows waits for it");
        turns += 1;
        let left = 30_000 - turns * 8192;
        assert_eq!(other.ask(&["DBSIZE"]), format!(":{left}\\r\\n"));
    };
    assert_eq!((answer.as_str(), turns), (":30000\\r\\n$-1\\r\\n", 3));
}

#[test]
fn in_a_transaction_many_keys_are_removed_in_one_step() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    let names = names(20_000);
    fill(&engine.store, &names);
    talk.ask(&["MULTI"]);
    talk.ask(&std::iter::once("UNLINK").chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
    talk.send(&["EXEC"]);
    assert_eq!(talk.turn(), ("*1\\r\\n:20000\\r\\n".to_owned(), false));
}

/// Keys that come and go between its turns do not disturb it: those that were there all the time are found once.
#[test]
fn all_keys_are_told_in_turns() {
    let engine = engine(64 << 20, 4, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    fill(&engine.store, &names(30_000));
    talk.send(&["KEYS", "key:*"]);
    let mut turns = 0;
    let answer = loop {
        let (answer, goes_on) = talk.turn();
        if !goes_on {
            break answer;
        }
        turns += 1;
        other.ask(&["SET", &format!("key:new{turns}"), "1"]);
    };
    assert!((3..6).contains(&turns), "{turns} turns");
    let found: Vec<&str> =
        answer.split("\\r\\n").filter(|word| word.starts_with("key:") && !word.contains("new")).collect();
    assert_eq!((found.len(), found.iter().collect::<HashSet<_>>().len()), (30_000, 30_000));
}

/// SCAN looked through up to a million items of other databases under COUNT 65536.
#[test]
fn one_scan_looks_at_a_bounded_number_of_keys() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(40_000));
    let answer = talk.ask(&["SCAN", "0", "COUNT", "1000000"]);
    assert!((4096..4200).contains(&answer.matches("key:").count()));
    talk.ask(&["SELECT", "1"]);
    talk.ask(&["SET", "only", "1"]);
    let answer = talk.ask(&["SCAN", "0", "COUNT", "1000000"]);
    assert!(!answer.starts_with("*2\\r\\n$1\\r\\n0"), "it went on through all: {answer}");
}

/// RANDOMKEY walked through the items of all other databases, twice, and held its thread meanwhile.
#[test]
fn a_rare_key_is_looked_for_in_turns_or_given_up() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    fill(&engine.store, &names(60_000));
    talk.ask(&["SELECT", "1"]);
    talk.send(&["RANDOMKEY"]);
    assert_eq!(talk.turn(), ("$-1\\r\\n".to_owned(), false), "an empty database is not walked through");
    talk.ask(&["SET", "only", "1"]);
    let mut turns = 0;
    for _ in 0..4 {
        talk.send(&["RANDOMKEY"]);
        let answer = loop {
            let (answer, goes_on) = talk.turn();
            if !goes_on {
                break answer;
            }
            turns += 1;
            assert_eq!(other.ask(&["DBSIZE"]), ":60000\\r\\n");
        };
        assert_eq!(answer, "$4\\r\\nonly\\r\\n");
    }
    assert!((4..40).contains(&turns), "{turns} turns");
    // A transaction holds all shards: it gives up.
    let in_transaction = || {
        talk.ask(&["MULTI"]);
        talk.ask(&["RANDOMKEY"]);
        talk.ask(&["EXEC"])
    };
    let answers: HashSet<String> = std::iter::repeat_with(in_transaction).take(40).collect();
    let expected = ["*1\\r\\n$-1\\r\\n", "*1\\r\\n$4\\r\\nonly\\r\\n"].map(str::to_owned);
    assert_eq!(answers, HashSet::from(expected));
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

/// A small engine whose replies may have 64 KiB.
fn small_replies() -> Engine {
    let mut engine = engine(64 << 20, 4, true);
    engine.limits.max_reply = 64 << 10;
    engine
}

/// A transaction asks for more than a client may make the server hold: by COMMAND, KEYS and SCAN, whose requests are short.
/// A reply that does not fit is replaced by an error, the others come as usual, and all of its writes are done.
#[test]
fn replies_of_a_transaction_are_bounded() {
    let engine = small_replies();
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(200));
    for request in [&["COMMAND"][..], &["KEYS", "*"], &["SCAN", "0", "COUNT", "1000"], &["COMMAND", "INFO", "client"]] {
        talk.ask(&["MULTI"]);
        (0..200).for_each(|_| _ = talk.ask(request));
        talk.ask(&["SET", "last", "1"]);
        let answer = talk.ask(&["EXEC"]);
        let left_out = answer.matches("-ERR the command was run, but its reply is left out").count();
        assert!((1..201).contains(&left_out), "{request:?}: {left_out}");
        assert!(answer.ends_with("+OK\\r\\n"), "{request:?}");
        assert!(answer.len() < 1 << 20, "{request:?}: {}", answer.len());
    }
}

/// A transaction lists all keys again and again, and none matches. It may look at a million of them before it begins again.
/// What writes is done all the same.
#[test]
fn a_transaction_looks_at_a_bounded_number_of_keys() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(20_000));
    talk.ask(&["MULTI"]);
    (0..100).for_each(|_| _ = talk.ask(&["KEYS", "none:*"]));
    talk.ask(&["SET", "key:1", "v"]);
    let answer = talk.ask(&["EXEC"]);
    let (done, refused) = (answer.matches("*0\\r").count(), answer.matches("-BUSY").count());
    assert!((40..80).contains(&done) && done + refused == 100, "{done} {refused}");
    assert!(answer.ends_with("+OK\\r\\n"), "{answer}");
}

/// A transaction holds all shards while it lists channels, settings, commands or keys by patterns that take long, again and
/// again, or looks at more keys in one command than it may: each answers BUSY in the middle, and writes behind it are done.
#[test]
fn a_transaction_stops_in_the_middle_of_a_command() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let names: Vec<String> = (0..3000).map(|number| format!("{}{number}", "a".repeat(900))).collect();
    fill(&engine.store, &names);
    for some in names.chunks(1000) {
        other.ask(&[&["SUBSCRIBE"][..], &some.iter().map(String::as_str).collect::<Vec<_>>()].concat());
    }
    let (costly, settings) = (format!("*{}b*", "a".repeat(500)), vec!["*".repeat(1000); 4000]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    for (request, times) in [
        (&["PUBSUB", "CHANNELS", &costly][..], 20),
        (&["PUBSUB", "CHANNELS", "none"], 400),
        (&[&["PUBSUB", "NUMSUB"][..], &["a"; 4000]].concat(), 300),
        (&[&["CONFIG", "GET"][..], &settings].concat(), 40),
        (&["KEYS", &costly], 20),
        (&["EVALSHA", CLEAR, "1", &costly], 20),
    ] {
        talk.ask(&["MULTI"]);
        (0..times).for_each(|_| _ = talk.ask(request));
        talk.ask(&["SET", "last", "v"]);
        let answer = talk.ask(&["EXEC"]);
        let refused = answer.matches("-BUSY the transaction has looked at or copied too much already").count();
        assert!((times / 20..times).contains(&refused), "{}: {refused}", request[0]);
        assert!(answer.ends_with("+OK\\r\\n"), "{}", request[0]);
    }
}

/// Sends a transaction of a write and so many times these requests; what EXEC answers.
fn transact(talk: &mut Talk<'_>, requests: &[&[&str]], times: usize) -> String {
    talk.ask(&["MULTI"]);
    talk.ask(&["SET", "first", "v"]);
    for _ in 0..times {
        requests.iter().for_each(|request| _ = talk.ask(request));
    }
    talk.ask(&["EXEC"])
}

/// A thousand short requests change a long value: each of them copies it, while all shards are locked. What would copy more
/// than a gibibyte is refused whole, and nothing of it is done; so is a transaction that empties everything again and again.
#[test]
fn writes_that_copy_too_much_are_refused_whole() {
    let engine = engine(128 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    let (long, short) = ("v".repeat(15_000_000), "v".repeat(120_000));
    let extend = "a4e8783852e6b949f9ef3a97212805108459a890";
    for (requests, times) in [
        (&[&["APPEND", "long", "x"][..]][..], 80),
        (&[&["SETRANGE", "long", "0", "x"]], 80),
        (&[&["SETRANGE", "none", "15000000", "x"], &["DEL", "none"]], 80),
        (&[&["EXPIRE", "short", "100"], &["PERSIST", "short"]], 5_000),
        (&[&["GETEX", "short", "EX", "100"]], 5_000),
        (&[&["COPY", "short", "other", "REPLACE"]], 10_000),
        (&[&["RENAME", "short", "other"], &["RENAME", "other", "short"]], 5_000),
        (&[&["MOVE", "short", "1"], &["SELECT", "1"], &["MOVE", "short", "0"], &["SELECT", "0"]], 5_000),
        (&[&["SET", "short", "x", "NX", "GET"]], 10_000),
        (&[&["EVALSHA", extend, "1", "short", "v", "1", "0"]], 10_000),
        (&[&["FLUSHALL"]], 5_000),
        (&[&["FLUSHDB"]], 5_000),
    ] {
        talk.ask(&["SET", "long", &long]);
        talk.ask(&["SET", "short", &short]);
        let answer = transact(&mut talk, requests, times);
        assert!(answer.starts_with("-EXECABORT Transaction discarded because of: BUSY its writes"), "{requests:?}");
        assert_eq!(talk.ask(&["EXISTS", "first", "long", "short"]), ":2\\r\\n", "{requests:?}");
        let answer = transact(&mut talk, requests, times / 1000 + 2);
        assert!(answer.contains("+OK\\r\\n"), "{requests:?}: {answer}");
        talk.ask(&["DEL", "first"]);
    }
    // A value beside the log is not copied with what is kept beside it.
    talk.ask(&["SET", "long", &long]);
    assert!(transact(&mut talk, &[&["EXPIRE", "long", "100"]], 9_000).ends_with(":1\\r\\n"));
}

/// A transaction reads a long value again and again, most of which finds no room in its reply: reads that would copy more are
/// refused from a gibibyte on. What writes is done.
#[test]
fn reads_that_copy_too_much_are_refused() {
    let engine = small_replies();
    let mut talk = Talk::new(&engine);
    talk.ask(&["SET", "long", &"v".repeat(15_000_000)]);
    talk.ask(&["MULTI"]);
    (0..80).for_each(|_| _ = talk.ask(&["GETRANGE", "long", "0", "-1"]));
    talk.ask(&["GET", "long"]);
    talk.ask(&["SET", "last", "v"]);
    let answer = talk.ask(&["EXEC"]);
    let (refused, left_out) = (answer.matches("-BUSY").count(), answer.matches("its reply is left out").count());
    assert_eq!((left_out, refused), (72, 9), "{answer}");
    assert!(answer.ends_with("+OK\\r\\n"));
}

/// A transaction has cost as much as it may. From there on each command that does not write answers BUSY, but for those of a
/// fixed cost, of which some choose what the commands behind them work with.
#[test]
fn every_read_is_refused_once_a_transaction_cost_too_much() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(20_000));
    let short = ["AUTH", "CLIENT", "COMMAND", "ECHO", "HELLO", "LASTSAVE", "PING", "SELECT", "TIME", "UNWATCH"];
    let alone = flag::ALONE | flag::TRANSACTION | flag::WRITE;
    let rest = TABLE.iter().filter(|row| row.flags & alone == 0 && !short.contains(&row.name));
    let mut requests: Vec<Vec<&str>> = rest
        .map(|row| match row.name {
            "ACL" => vec!["ACL", "LIST"],
            "CONFIG" => vec!["CONFIG", "RESETSTAT"],
            "FUNCTION" => vec!["FUNCTION", "FLUSH"],
            "MEMORY" => vec!["MEMORY", "STATS"],
            "OBJECT" => vec!["OBJECT", "FREQ", "key:1"],
            "PUBSUB" => vec!["PUBSUB", "NUMPAT"],
            "SCAN" => vec!["SCAN", "0"],
            "SCRIPT" => vec!["SCRIPT", "EXISTS", "x"],
            name => [&[name][..], &vec!["1"; row.arity.unsigned_abs() as usize - 1]].concat(),
        })
        .filter(|request| !["FUNCTION", "CACHE.FORGET"].contains(&request[0]))
        .collect();
    requests
        .extend([&["COMMAND"][..], &["COMMAND", "DOCS"], &["COMMAND", "INFO"], &["CLIENT", "LIST"]].map(<[_]>::to_vec));
    let mut refused = |requests: &[Vec<&str>]| {
        talk.ask(&["MULTI"]);
        (0..60).for_each(|_| _ = talk.ask(&["KEYS", "none:*"]));
        requests.iter().for_each(|request| assert_eq!(talk.ask(request), "+QUEUED\\r\\n", "{request:?}"));
        let answer = talk.ask(&["EXEC"]);
        (answer.matches("-BUSY the transaction has looked at or copied too much already").count(), answer)
    };
    let (before, _) = refused(&[]);
    assert!(before > 0);
    let (count, answer) = refused(&requests);
    assert_eq!(count - before, requests.len(), "{answer}");
}

/// EXISTS of many keys runs in turns, and others write meanwhile. What workers load of them is asked for once, before it
/// begins to count.
#[test]
fn many_keys_are_counted_in_turns() {
    let engine = engine(64 << 20, 4, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let names = names(30_000);
    fill(&engine.store, &names);
    let words: Vec<&str> = std::iter::once("EXISTS").chain(names.iter().map(String::as_str)).chain(["none"]).collect();
    let mut count = |begin: usize| {
        talk.send(&words);
        let mut turns = 0;
        loop {
            let (answer, goes_on) = talk.turn();
            if !goes_on {
                return (answer, turns);
            }
            turns += 1;
            if turns == begin + 1 {
                // One that it has counted, and one that it has not.
                assert_eq!(other.ask(&["DEL", "key:0", "key:29999"]), ":2\\r\\n");
            }
        }
    };
    assert_eq!(count(0), (":29999\\r\\n".to_owned(), 3));
    engine.loaders.declare(0, b"none").unwrap();
    engine.store.with(Key { db: 0, bytes: b"none" }, NOW.mono, |entry| entry.set(b"v", &Meta::default())).unwrap();
    assert_eq!(count(5), (":29999\\r\\n".to_owned(), 3));
}

/// The first client that subscribed is gone, and its many channels are forgotten a part at a time. Another one, which
/// listens to nothing, unsubscribes from many names and is gone in the middle of that: the first stays uncounted.
#[test]
fn one_that_never_subscribed_ends_no_other_subscription() {
    let engine = engine(64 << 20, 1, true);
    let [mut first, mut second, mut other] = [1, 2, 3].map(|id| Talk::with_id(&engine, id));
    let channels = names(20_000);
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    first.ask(&[&["SUBSCRIBE"][..], &channels].concat());
    first.session.close(&engine, NOW);
    second.send(&[&["UNSUBSCRIBE"][..], &channels].concat());
    assert!(second.turn().1);
    second.session.close(&engine, NOW);
    assert!(channels.iter().all(|channel| other.ask(&["PUBLISH", channel, "m"]) == ":0\\r\\n"));
}

/// The replies of a transaction lie one behind the other: a short MGET behind long ones is not too long.
#[test]
fn a_short_mget_behind_long_replies_is_answered() {
    let mut engine = engine(64 << 20, 4, true);
    engine.limits.max_request = 64 << 10;
    let mut talk = Talk::new(&engine);
    talk.ask(&["SET", "long", &"v".repeat(60_000)]);
    talk.ask(&["SET", "short", "v"]);
    talk.ask(&["MULTI"]);
    (0..3).for_each(|_| _ = talk.ask(&["GETRANGE", "long", "0", "-1"]));
    talk.ask(&["MGET", "short"]);
    talk.ask(&["CACHE.MGET", "short"]);
    let answer = talk.ask(&["EXEC"]);
    let one = "*1\\r\\n$1\\r\\nv\\r\\n";
    assert!(answer.ends_with(&one.repeat(2)), "{}", &answer[180_000..]);
}

/// The script of limits that removes all keys that match.
const CLEAR: &str = "f2994557f1daca13bfef97c2a31ca4b174e031ca";

/// A transaction has looked at nearly as many keys as it may, and clears keys: it has to stop in the middle. Nothing is
/// removed, rather than a part.
#[test]
fn a_transaction_clears_everything_or_nothing() {
    let engine = engine(64 << 20, 4, true);
    let mut talk = Talk::new(&engine);
    fill(&engine.store, &names(20_000));
    let mut after = |looks: usize, last: &[&str]| {
        talk.ask(&["MULTI"]);
        (0..looks).for_each(|_| _ = talk.ask(&["KEYS", "none:*"]));
        talk.ask(last);
        (talk.ask(&["EXEC"]), talk.ask(&["DBSIZE"]))
    };
    let most = after(100, &["PING"]).0.matches("*0\\r").count();
    let clear = ["EVALSHA", CLEAR, "1", "key:*"];
    let (answer, left) = after(most, &clear);
    assert_eq!((answer.matches("*0\\r").count(), left.as_str()), (most, ":20000\\r\\n"));
    assert!(answer.contains("*0\\r\\n-BUSY"), "{answer}");
    let (answer, left) = after(most / 2, &clear);
    assert!(answer.ends_with("*0\\r\\n:20000\\r\\n") && left == ":0\\r\\n", "{answer}");
}

/// A pattern is no longer than 1,024 bytes, wherever it stands, and neither is the name of a channel.
#[test]
fn long_patterns_and_channels_are_refused() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    let (long, longest) = ("a".repeat(1025), "a".repeat(1024));
    let requests: [&[&str]; 9] = [
        &["KEYS"],
        &["SCAN", "0", "MATCH"],
        &["CONFIG", "GET"],
        &["COMMAND", "LIST", "FILTERBY", "PATTERN"],
        &["PUBSUB", "CHANNELS"],
        &["EVALSHA", CLEAR, "1"],
        &["CACHE.FORGET"],
        &["SUBSCRIBE"],
        &["PSUBSCRIBE"],
    ];
    for head in requests {
        let answer = talk.ask(&[head, &[&long]].concat());
        assert!(answer.contains(" is too long; at most 1024 bytes are taken"), "{head:?} {answer}");
    }
    assert!(talk.ask(&["PUBLISH", &long, "m"]).contains("a channel is too long"));
    let mut other = Talk::new(&engine);
    for head in requests {
        assert!(!talk.ask(&[head, &[&longest]].concat()).starts_with('-'), "{head:?}");
    }
    assert_eq!(other.ask(&["PUBLISH", &longest, "m"]), ":2\\r\\n");
}

/// A client listens to 20,000 channels by one request, in turns; a message comes between two of them. Each channel is confirmed
/// before its messages, and messages of a channel end before that is confirmed.
#[test]
fn many_channels_are_subscribed_to_in_turns() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let channels = names(20_000);
    let channels: Vec<&str> = channels.iter().map(String::as_str).collect();
    for (word, first, last) in [("SUBSCRIBE", ":1\\r\\n", ":0\\r\\n"), ("UNSUBSCRIBE", ":0\\r\\n", ":1\\r\\n")] {
        talk.send(&[&[word][..], &channels].concat());
        let (mut turns, mut count) = (0, 0);
        loop {
            let (answer, goes_on) = talk.turn();
            count += answer.matches(&word.to_lowercase()).count();
            if !goes_on {
                break;
            }
            turns += 1;
            assert_eq!(other.ask(&["PUBLISH", channels[0], "m"]), first);
            assert_eq!(other.ask(&["PUBLISH", channels[19_999], "m"]), last);
            assert!(count >= turns * 4096, "what was subscribed to in a turn is confirmed at its end");
        }
        assert_eq!((turns, count), (4, 20_000));
    }
    assert_eq!(other.ask(&["PUBSUB", "CHANNELS"]), "*0\\r\\n");
    talk.ask(&[&["SUBSCRIBE"][..], &channels].concat());
    let answer = talk.ask(&["UNSUBSCRIBE"]);
    assert_eq!((answer.matches("unsubscribe").count(), answer.ends_with(":0\\r\\n")), (20_000, true));
    assert_eq!(talk.ask(&["GET", "a"]), "$-1\\r\\n");
}

/// A client may not listen to patterns that a message would be compared with for too long; others may then still listen.
/// What it asked for is refused whole, and it may ask again when it listens to less.
#[test]
fn costly_patterns_are_refused_when_they_come() {
    let engine = engine(64 << 20, 1, true);
    let (mut talk, mut other) = (Talk::new(&engine), Talk::new(&engine));
    let costly: Vec<String> = (0..400).map(|number| format!("*{}{number:4}*", "a".repeat(500))).collect();
    let costly: Vec<&str> = costly.iter().map(String::as_str).collect();
    let error = "-ERR the patterns of one connection are too many or too costly";
    assert!(talk.ask(&[&["PSUBSCRIBE"][..], &costly].concat()).starts_with(error));
    assert_eq!(talk.ask(&["PUBSUB", "NUMPAT"]), ":0\\r\\n");
    let some = [&["PSUBSCRIBE"][..], &costly[..100]].concat();
    assert!(talk.ask(&some).contains(":100\\r\\n"));
    // What it listens to already costs nothing again.
    assert!(talk.ask(&some).contains(":100\\r\\n"));
    let more = [&["PSUBSCRIBE"][..], &costly[100..200]].concat();
    assert!(talk.ask(&more).starts_with(error));
    assert!(other.ask(&more).contains(":100\\r\\n"));
    talk.ask(&["PUNSUBSCRIBE"]);
    assert!(talk.ask(&more).contains(":100\\r\\n"));
}

/// Each key costs thousands of steps of the pattern, so a turn looks at fewer keys, and one SCAN returns earlier.
#[test]
fn a_costly_pattern_ends_a_turn_earlier() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    let long: Vec<String> = (0..3000).map(|number| format!("{}{number}", "a".repeat(500))).collect();
    fill(&engine.store, &long);
    let pattern = format!("*{}b*", "a".repeat(200));
    talk.send(&["KEYS", &pattern]);
    let turns = std::iter::repeat_with(|| talk.turn()).take_while(|(_, goes_on)| *goes_on).count();
    assert!(turns >= 5, "{turns} turns");
    let answer = talk.ask(&["SCAN", "0", "COUNT", "3000", "MATCH", &pattern]);
    assert!(!answer.starts_with("*2\\r\\n$1\\r\\n0"), "{answer}");
}

/// Requests of thousands of words that are no keys are refused before any is looked at; keys may be as many as before.
#[test]
fn words_that_are_no_keys_are_bounded() {
    let engine = engine(64 << 20, 1, true);
    let mut talk = Talk::new(&engine);
    let many = vec!["get"; 5000];
    for head in
        [&["COMMAND", "INFO"][..], &["CLIENT", "LIST", "ID"], &["CONFIG", "GET"], &["INFO"], &["PUBSUB", "NUMSUB"]]
    {
        assert_eq!(talk.ask(&[head, &many].concat()), "-ERR too many arguments\\r\\n");
        assert!(!talk.ask(&[head, &["1"]].concat()).starts_with("-ERR too many"));
    }
    assert_eq!(talk.ask(&[&["EXISTS"][..], &many].concat()), ":0\\r\\n");
    // Few words whose answers are long.
    assert_eq!(talk.ask(&[&["COMMAND", "INFO"][..], &["client"; 4000]].concat()), "-ERR the reply is too long\\r\\n");
}

/// 3,000 clients are listed, and closed by another one, in turns.
#[test]
fn clients_are_listed_in_turns() {
    let engine = engine(64 << 20, 1, true);
    let (mut scratch, mut out) = (Scratch::default(), Output::default());
    let mut others: Vec<Session> =
        (1..=3000).map(|id| Session::new(ConnectionId { id, ..ConnectionId::default() })).collect();
    others.iter_mut().for_each(|other| _ = other.feed(&engine, NOW, &mut scratch, b"PING\r\n", &mut out));
    let mut talk = Talk::new(&engine);
    talk.send(&["CLIENT", "LIST"]);
    let mut answers = Vec::new();
    loop {
        let (answer, goes_on) = talk.turn();
        answers.push(answer);
        if !goes_on {
            break;
        }
    }
    assert_eq!((answers.len(), answers.concat().matches("addr=").count()), (3, 3001));
    assert_eq!(talk.ask(&["CLIENT", "KILL", "TYPE", "normal"]), ":3000\\r\\n");
}
