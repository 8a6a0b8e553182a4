//! Client tracking: a client that may hold a copy of a key is sent an invalidation when the key changes or goes, and a
//! connection that has closed holds nothing.

mod random;
mod world;

use random::Random;
use std::collections::BTreeMap;

use globalcache_core::limits::Limits;
use globalcache_core::store::Key;
use world::{World, token_of};

fn tracking(world: &mut World, options: &str) -> usize {
    let client = world.connect("HELLO 3");
    assert_eq!(world.ask(client, &format!("CLIENT TRACKING ON {options}")), "+OK");
    client
}

fn invalidation(key: &str) -> String {
    format!(">2 $10 invalidate *1 ${} {key}", key.len())
}

/// CLIENT CACHING YES; GET of a served key waits; the load fills it, which spends the registration of the first run; the
/// reply is v1. The second run must register the key again, in place (RESP3 without tickets) and by ticket.
#[test]
fn a_read_that_waited_for_a_load_is_tracked() {
    for session in ["", "CACHE.SESSION one 1 TICKETS"] {
        let mut world = World::new();
        let worker = world.connect("HELLO 3");
        let writer = world.connect("HELLO 3");
        world.ask(worker, "CACHE.LOADER u:*");
        let client = tracking(&mut world, "OPTIN");
        if !session.is_empty() {
            world.ask(client, session);
        }
        world.ask(client, "CLIENT CACHING YES");
        world.send(client, "GET u:1");
        if !session.is_empty() {
            world.send(client, "GET plain");
        }
        let token = token_of(&world.heard(worker), "load");
        world.ask(worker, &format!("CACHE.FILL u:1 {token} v1"));
        assert!(world.heard(client).ends_with("$2 v1"));
        world.ask(writer, "SET u:1 v2");
        assert_eq!(world.heard(client), invalidation("u:1"));
        world.ask(writer, "SET plain x");
        assert_eq!(world.heard(client), "", "the command after it was not chosen");
    }
}

/// CLIENT CACHING NO; MULTI; GET a; EXEC; GET b: the choice ends with EXEC, so b is tracked. It ends with a command that
/// is refused, too.
#[test]
fn a_choice_ends_with_the_transaction() {
    for commands in
        [&["MULTI", "GET a", "EXEC"][..], &["MULTI", "GET a", "DISCARD"], &["GET"], &["NOSUCH"], &["WATCH a"]]
    {
        let mut world = World::new();
        let writer = world.connect("HELLO 3");
        let client = tracking(&mut world, "OPTOUT");
        world.ask(client, "CLIENT CACHING NO");
        for command in commands {
            world.ask(client, command);
        }
        world.ask(client, "GET b");
        world.ask(writer, "MSET a 1 b 1");
        assert_eq!(world.heard(client), invalidation("b"), "{commands:?}");
    }
}

/// A client reads a key with a tag and then calls CLIENT TRACKING ON again: its copies are as they were, so the tag that
/// is invalidated afterwards concerns it.
#[test]
fn tracking_that_is_set_again_keeps_what_was_read() {
    let mut world = World::new();
    let writer = world.connect("HELLO 3");
    let client = tracking(&mut world, "");
    world.ask(writer, "CACHE.SET k v TAGS 1 t");
    world.ask(writer, "SET plain v");
    world.ask(client, "GET k");
    world.ask(client, "GET plain");
    world.ask(client, "CLIENT TRACKING ON NOLOOP");
    world.ask(writer, "CACHE.INVALIDATE TAGS 1 t");
    assert_eq!(world.heard(client), ">2 $10 invalidate _");
    world.ask(writer, "SET plain w");
    assert_eq!(world.heard(client), invalidation("plain"));
}

/// A client with NOLOOP changes a key by a request that waited for a load beside others: it is its own change.
#[test]
fn a_change_by_a_ticket_is_the_clients_own() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER u:*");
    let (own, other) = (tracking(&mut world, "BCAST NOLOOP"), tracking(&mut world, "BCAST PREFIX u:"));
    world.ask(own, "CACHE.SESSION one 1 TICKETS");
    world.send(own, "APPEND u:1 x");
    let token = token_of(&world.heard(worker), "load");
    world.post(worker, &format!("CACHE.FILL u:1 {token} v"));
    world.exchange();
    assert_eq!(world.heard(other).matches("invalidate").count(), 2, "by the fill and by the append");
    assert_eq!(world.heard(own).matches("invalidate").count(), 1, "by the fill");
}

/// A batch of broadcast is open in the mailbox; a load ends and v1 is posted behind it; a write to the same key joins the
/// batch. The batch must be sent last, or the client drops the key and then keeps v1.
#[test]
fn a_batch_is_sent_behind_outcomes_that_are_older() {
    let mut world = World::new();
    let worker = world.connect("HELLO 3");
    let writer = world.connect("HELLO 3");
    world.ask(worker, "CACHE.LOADER u:*");
    let client = tracking(&mut world, "BCAST");
    world.ask(client, "CACHE.SESSION one 1 TICKETS");
    world.send(client, "CACHE.FETCH u:1 WAIT 1000");
    world.heard(client);
    let token = token_of(&world.heard(worker), "load");
    world.post(writer, "SET other x");
    world.post(worker, &format!("CACHE.FILL u:1 {token} v1"));
    world.post(writer, "SET u:1 v2");
    world.exchange();
    let heard = world.heard(client);
    let (outcome, batch) = (heard.find("v1").expect(&heard), heard.find("invalidate").expect(&heard));
    assert!(outcome < batch && heard.ends_with("*2 $5 other $3 u:1"), "{heard}");
}

/// The keys of a batch are sent once each, and without those that a NOLOOP client alone has changed. A batch ends where a
/// client that it is for sends a request.
#[test]
fn a_batch_names_each_key_once() {
    let mut world = World::new();
    let writer = world.connect("HELLO 3");
    let (all, own) = (tracking(&mut world, "BCAST"), tracking(&mut world, "BCAST NOLOOP"));
    for (client, line) in [(own, "SET mine 1"), (writer, "SET a 1"), (own, "SET a 2"), (writer, "SET a 3")] {
        world.post(client, line);
    }
    world.exchange();
    assert_eq!(world.heard(all), ">2 $10 invalidate *2 $1 a $4 mine >2 $10 invalidate *1 $1 a");
    assert_eq!(world.heard(own), "+OK >2 $10 invalidate *1 $1 a +OK >2 $10 invalidate *1 $1 a");
    for line in ["SET b 1", "SET c 1", "SET b 2"] {
        world.post(writer, line);
    }
    world.exchange();
    assert_eq!(world.heard(all), ">2 $10 invalidate *2 $1 b $1 c");
}

/// A client joins a prefix while a batch is open for another client of it: the batch was not posted to the new one.
#[test]
fn a_client_that_joins_a_prefix_is_sent_later_keys() {
    let mut world = World::new();
    let writer = world.connect("HELLO 3");
    let first = tracking(&mut world, "BCAST");
    let second = world.connect("HELLO 3");
    world.post(writer, "SET a 1");
    world.post(second, "CLIENT TRACKING ON BCAST");
    world.post(writer, "SET b 1");
    world.exchange();
    assert!(world.heard(second).ends_with(&invalidation("b")));
    assert_eq!(world.heard(first), format!("{} {}", invalidation("a"), invalidation("b")));
}

/// R closes, to which A has its invalidations sent: A is sent a message, and one for each invalidation after the first.
#[test]
fn a_broken_redirection_is_announced() {
    let mut world = World::new();
    let (target, writer) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
    let client = tracking(&mut world, &format!("REDIRECT {}", target + 1));
    let broken = format!(">2 $21 tracking-redir-broken :{}", target + 1);
    world.ask(client, "GET k");
    world.close(target);
    world.ask(writer, "SET k 1");
    assert_eq!(world.heard(client), broken);
    assert!(world.ask(client, "CLIENT TRACKINGINFO").contains("broken_redirect"));
    world.ask(client, "GET k");
    world.ask(writer, "SET k 2");
    assert!(world.heard(client).ends_with(&broken));
    assert_eq!(world.ask(client, "CLIENT TRACKING ON"), "+OK");
    assert!(!world.ask(client, "CLIENT TRACKINGINFO").contains("broken_redirect"));
}

/// A connection that closes leaves no registration, although another client goes on tracking.
#[test]
fn a_closed_connection_has_no_registrations() {
    let mut world = World::new();
    let keep = tracking(&mut world, "");
    world.ask(keep, "GET kept");
    for _ in 0..50 {
        let client = tracking(&mut world, "");
        (0..100).for_each(|number| _ = world.ask(client, &format!("GET k:{number}")));
        assert_eq!(world.engine.store.stats().tracked_pairs, 101);
        world.close(client);
        assert_eq!(world.engine.store.stats().tracked_pairs, 1);
    }
}

/// When the table is full a key is dropped, and its clients are sent an invalidation: they lose copies, not news.
#[test]
fn a_key_that_leaves_the_full_table_is_invalidated() {
    let mut world = World::with_memory(Limits::default(), 4 << 20);
    let client = tracking(&mut world, "");
    let mut invalidated = 0;
    for number in 0..20_000 {
        invalidated += world.ask(client, &format!("GET k:{number}")).matches("invalidate").count();
    }
    let stats = world.engine.store.stats();
    assert_eq!(stats.tracked_pairs as usize + invalidated, 20_000);
    assert!(invalidated > 10_000);
}

/// What a client was sent, in order.
#[derive(Debug, PartialEq)]
enum Heard {
    /// A reply; the value if it is one.
    Reply(Option<String>),
    /// The invalidation of these keys, or of everything.
    Invalid(Option<Vec<String>>),
    /// Its redirection is broken.
    Broken,
}

/// Reads a reply of words without spaces, in RESP3.
fn read_one(words: &mut std::iter::Peekable<std::str::SplitWhitespace<'_>>) -> Option<Heard> {
    let head = words.next()?;
    let count = |head: &str| head[1..].parse::<usize>().unwrap();
    Some(match head.as_bytes()[0] {
        b'$' => Heard::Reply(words.next().map(str::to_owned)),
        b'>' if words.clone().nth(1) == Some("tracking-redir-broken") => {
            words.nth(2);
            Heard::Broken
        }
        b'>' => {
            assert_eq!(words.nth(1), Some("invalidate"));
            let list = words.next().unwrap();
            Heard::Invalid((list != "_").then(|| (0..count(list)).map(|_| words.nth(1).unwrap().to_owned()).collect()))
        }
        b'*' => {
            // Of an array the last value counts: EXEC runs one read at most.
            let mut last = None;
            for _ in 0..count(head) {
                if let Some(Heard::Reply(Some(value))) = read_one(words) {
                    last = Some(value);
                }
            }
            Heard::Reply(last)
        }
        b'-' => {
            while words.peek().is_some_and(|word| !word.starts_with(['+', '-', '$', ':', '>', '*', '_'])) {
                words.next();
            }
            Heard::Reply(None)
        }
        _ => Heard::Reply(None),
    })
}

/// What a command does to the copies of the client that runs it.
#[derive(Clone, Debug)]
enum Sent {
    /// Its reply is a copy of this key, if the client may keep it.
    Read(String, bool),
    /// The client changed this key itself.
    Wrote(String),
    Other,
}

#[derive(Default)]
struct Copies {
    number: usize,
    options: String,
    no_loop: bool,
    target: Option<usize>,
    broken: bool,
    sent: Vec<Sent>,
    kept: BTreeMap<String, Option<String>>,
}

impl Copies {
    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Broken => {
                self.broken = true;
                self.kept.clear();
            }
            Heard::Invalid(None) => self.kept.clear(),
            Heard::Invalid(Some(keys)) => keys.iter().for_each(|key| _ = self.kept.remove(key)),
            Heard::Reply(value) => match self.sent.remove(0) {
                Sent::Read(key, true) if !self.broken => _ = self.kept.insert(key, value),
                Sent::Wrote(key) if self.no_loop => _ = self.kept.remove(&key),
                _ => {}
            },
        }
    }
}

const KEYS: [&str; 8] = ["a:1", "a:2", "b:1", "b:2", "l:1", "l:2", "c", "d"];

/// Random clients, and a model of the copies that each of them holds.
struct Game {
    world: World,
    random: Random,
    clients: Vec<Copies>,
    targets: Vec<usize>,
    writer: usize,
    worker: usize,
    value: u64,
    /// The key that every other command uses.
    hot: &'static str,
    trace: Vec<String>,
}

impl Game {
    fn key(&mut self) -> &'static str {
        if self.random.below(2) == 0 { self.hot } else { self.random.of(&KEYS) }
    }

    fn new(seed: u64) -> Game {
        let mut world = World::with_memory(Limits::default(), 1 << 20);
        let (writer, worker) = (world.connect("HELLO 3"), world.connect("HELLO 3"));
        world.ask(worker, "CACHE.LOADER l:*");
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let (clients, targets, trace) = (Vec::new(), Vec::new(), Vec::new());
        let hot = KEYS[seed as usize % KEYS.len()];
        Game { world, random, clients, targets, writer, worker, value: 0, hot, trace }
    }

    fn post(&mut self, number: usize, line: &str) {
        self.trace.push(format!("{number}: {line}"));
        self.world.post(number, line);
    }

    fn connect(&mut self) {
        let number = self.world.connect("HELLO 3");
        let mode = self.random.of(&["", "OPTIN", "OPTOUT", "BCAST", "BCAST PREFIX a: PREFIX b:"]);
        let no_loop = self.random.below(3) == 0;
        let target = (self.random.below(4) == 0).then(|| {
            let target = self.world.connect("HELLO 3");
            self.targets.push(target);
            target
        });
        let mut options = mode.to_owned();
        if no_loop {
            options += " NOLOOP";
        }
        if let Some(target) = target {
            options += &format!(" REDIRECT {}", target + 1);
        }
        let mut client = Copies { number, options, no_loop, target, ..Copies::default() };
        client.sent.push(Sent::Other);
        let line = format!("CLIENT TRACKING ON {}", client.options);
        self.clients.push(client);
        self.post(number, &line);
    }

    /// A client reads a key and, as its mode says, keeps a copy.
    fn read(&mut self, at: usize) {
        let key = self.key();
        let chosen = self.random.below(2) == 0;
        let options = self.clients[at].options.clone();
        let number = self.clients[at].number;
        let mut lines = Vec::new();
        let mut keep = !options.contains("PREFIX") || key.contains("a:") || key.contains("b:");
        if options.contains("OPTIN") {
            keep = chosen;
            lines.extend(chosen.then(|| ("CLIENT CACHING YES".to_owned(), Sent::Other)));
        } else if options.contains("OPTOUT") {
            keep = !chosen;
            lines.extend(chosen.then(|| ("CLIENT CACHING NO".to_owned(), Sent::Other)));
        }
        let read = Sent::Read(key.to_owned(), keep);
        if self.random.below(4) == 0 {
            for line in ["MULTI".to_owned(), format!("GET {key}")] {
                lines.push((line, Sent::Other));
            }
            lines.push(("EXEC".to_owned(), read));
        } else if self.random.below(5) == 0 {
            lines.push(("GET".to_owned(), Sent::Other));
        } else {
            lines.push((format!("GET {key}"), read));
        }
        for (line, sent) in lines {
            self.clients[at].sent.push(sent);
            self.post(number, &line);
        }
    }

    /// A client reads so many other keys that the table of registrations may become full.
    fn read_many(&mut self) {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let number = self.clients[at].number;
        for _ in 0..10 {
            let keys: String = (0..100).map(|_| format!(" m:{}", self.random.below(2000))).collect();
            self.clients[at].sent.push(Sent::Other);
            self.post(number, &format!("MGET{keys}"));
        }
    }

    fn change(&mut self) -> (String, String) {
        let (key, other) = (self.key().to_owned(), self.key().to_owned());
        self.value += 1;
        let value = self.value;
        let line = match self.random.below(12) {
            0 => format!("DEL {key}"),
            1 => format!("SET {key} v{value} PX 20"),
            2 | 3 => format!("CACHE.SET {key} v{value} TAGS 1 t"),
            4 => format!("PEXPIRE {key} 15"),
            5 => format!("COPY {other} {key} REPLACE"),
            6 => format!("APPEND {key} x"),
            7 => format!("SET {key} {}", "x".repeat(5000)),
            _ => format!("SET {key} v{value}"),
        };
        (key, line)
    }

    fn step(&mut self) {
        let count = self.clients.len() as u64;
        match self.random.below(30) {
            0 if count < 6 => self.connect(),
            1 if count > 0 => self.close(),
            2 => self.post(self.writer, "CACHE.INVALIDATE TAGS 1 t"),
            3 => {
                let line = self.random.of(&["FLUSHALL", "FLUSHDB"]);
                self.post(self.writer, line);
            }
            4 if self.random.below(3) == 0 => self.evict(),
            5 => self.pass_time(),
            6 if count > 0 => self.track_again(),
            7 if !self.targets.is_empty() => {
                let at = self.random.below(self.targets.len() as u64) as usize;
                let target = self.targets.swap_remove(at);
                self.hear_all();
                self.trace.push(format!("{target} closes"));
                self.world.close(target);
            }
            8 if count > 0 && self.random.below(2) == 0 => self.read_many(),
            8..=16 if count > 0 => {
                let at = self.random.below(count) as usize;
                self.read(at);
            }
            17..=19 if count > 0 => {
                let (key, line) = self.change();
                let at = self.random.below(count) as usize;
                self.clients[at].sent.push(Sent::Wrote(key));
                let number = self.clients[at].number;
                self.post(number, &line);
            }
            20..=26 => {
                let (_, line) = self.change();
                self.post(self.writer, &line);
            }
            _ => self.check(),
        }
    }

    fn track_again(&mut self) {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let client = &mut self.clients[at];
        if client.options.contains("PREFIX") || client.broken {
            return;
        }
        client.sent.push(Sent::Other);
        let (number, line) = (client.number, format!("CLIENT TRACKING ON {}", client.options));
        self.post(number, &line);
    }

    fn close(&mut self) {
        let at = self.random.below(self.clients.len() as u64) as usize;
        let client = self.clients.swap_remove(at);
        self.trace.push(format!("{} closes", client.number));
        self.world.close(client.number);
        if client.target.is_none() {
            return;
        }
        self.hear_all();
    }

    fn evict(&mut self) {
        for number in 0..250 {
            self.world.post(self.writer, &format!("SET fill:{number} {}", "y".repeat(4000)));
        }
        self.trace.push("eviction".to_owned());
    }

    fn pass_time(&mut self) {
        self.trace.push("10 ms".to_owned());
        self.world.wait(10);
    }

    /// Loads end, all messages are delivered, and each client takes what it was sent: its replies before what comes by
    /// another connection.
    fn hear_all(&mut self) {
        self.world.exchange();
        while self.load() {}
        self.world.heard(self.writer);
        for at in 0..self.clients.len() {
            self.hear(at, self.clients[at].number);
        }
        for at in 0..self.clients.len() {
            if let Some(target) = self.clients[at].target.filter(|target| self.targets.contains(target)) {
                self.hear(at, target);
            }
        }
    }

    /// The worker ends the loads that it was sent; whether there were any.
    fn load(&mut self) -> bool {
        let loads = self.world.heard(self.worker);
        let mut words = loads.split_whitespace();
        while let Some(word) = words.next() {
            if let Some(key) = KEYS.iter().find(|key| **key == word) {
                let token = words.next().unwrap()[1..].to_owned();
                self.value += 1;
                let line = format!("CACHE.FILL {key} {token} v{}", self.value);
                self.post(self.worker, &line);
                if self.random.below(2) == 0 {
                    self.value += 1;
                    let line = format!("SET {key} v{}", self.value);
                    self.post(self.writer, &line);
                }
            }
        }
        self.world.exchange();
        loads.contains("load")
    }

    fn hear(&mut self, at: usize, number: usize) {
        let heard = self.world.heard(number);
        if !heard.is_empty() {
            self.trace.push(format!("{number} hears {}", heard.chars().take(120).collect::<String>()));
        }
        let mut words = heard.split_whitespace().peekable();
        while let Some(one) = read_one(&mut words) {
            self.clients[at].hear(one);
        }
    }

    /// Every copy that a client holds is the value that the server has.
    fn check(&mut self) {
        self.hear_all();
        let mut there = BTreeMap::new();
        for key in KEYS {
            // Not asked by a connection, which would wait for a load.
            let value =
                self.world.engine.store.with(Key { db: 0, bytes: key.as_bytes() }, self.world.now.mono, |entry| {
                    entry.get().map(|item| String::from_utf8(item.value.bytes().to_vec()).unwrap())
                });
            there.insert(key, value);
        }
        // What had expired unseen has gone by this look.
        self.hear_all();
        for client in &self.clients {
            for (key, copy) in &client.kept {
                let fresh = there[key.as_str()] == *copy;
                assert!(
                    fresh,
                    "{} ({}) keeps {key} {copy:?}, not {:?}\n{}",
                    client.number,
                    client.options,
                    there[key.as_str()],
                    self.trace.join("\n")
                );
            }
        }
    }

    /// Every client closes: nothing is registered, and nothing is tracked.
    fn end(mut self) {
        self.check();
        let keep = tracking(&mut self.world, "");
        for client in std::mem::take(&mut self.clients) {
            self.world.close(client.number);
        }
        let stats = self.world.engine.store.stats();
        assert_eq!((stats.tracked_pairs, stats.tracked), (0, 0), "{}", self.trace.join("\n"));
        assert_eq!((self.world.engine.tracking.len(), self.world.engine.tracking.prefixes()), (1, 0));
        self.world.close(keep);
    }
}

/// Random reads, writes, loads, expiry, eviction, invalidations of tags, flushes and closed connections in every mode.
/// `TRACKING=10000 cargo test --release -p globalcache-core --test tracking` plays as many games.
#[test]
fn whoever_holds_a_copy_is_sent_its_invalidation() {
    let games = std::env::var("TRACKING").map_or(40, |games| games.parse().expect("a number"));
    for seed in 1..=games {
        let mut game = Game::new(seed);
        for _ in 0..150 {
            game.step();
        }
        game.end();
    }
}
