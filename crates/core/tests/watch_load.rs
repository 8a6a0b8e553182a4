//! Transactions on keys that workers load, in virtual time: patterns are forgotten and served again, workers come and go,
//! rows are loaded, found to be absent, written and removed, and messages arrive late, while clients watch keys and read them
//! in their place or under tickets.
//!
//! A model judges each EXEC by what its client was told: it commits only if nothing that the client depends on has
//! changed, and it is refused only if something has happened to the key since it was watched. One that commits is done
//! whole, however long its replies are.
//!
//! `WATCH_LOADS=10000 cargo test --release -p globalcache-core --test watch_load` runs so many.

mod random;
mod world;

use std::collections::{HashMap, VecDeque};

use globalcache_core::limits::Limits;
use random::Random;
use world::World;

const KEYS: [&str; 3] = ["a:0", "a:1", "b:0"];
const PATTERNS: [&str; 3] = ["a:*", "b:*", "*:1"];
/// Bytes that the replies of a transaction may have, and of a value that some transactions read several times.
const MOST: usize = 20_000;
const LONG: usize = 6_000;

/// What a client has asked for, in which step.
#[derive(Clone, Debug)]
enum Asked {
    Read(&'static str, u64),
    Lease(&'static str),
    Fill(&'static str),
    Exec(Watch, u64, usize),
    Other,
}

/// A key that a client watches, since which step, and when it was told what of it.
#[derive(Clone, Debug)]
struct Watch {
    key: &'static str,
    since: u64,
    read: Option<(u64, String)>,
}

#[derive(Default)]
struct Client {
    asked: VecDeque<Asked>,
    tickets: HashMap<String, Asked>,
    watch: Option<Watch>,
    is_worker: bool,
}

/// In which steps a key was written, its row loaded, and anything done that may have changed it.
#[derive(Default)]
struct History {
    written: Vec<u64>,
    loaded: Vec<u64>,
    touched: u64,
}

struct Game {
    world: World,
    random: Random,
    clients: Vec<Option<Client>>,
    keys: HashMap<&'static str, History>,
    /// Loads under way: a key and a token.
    loads: Vec<(&'static str, String)>,
    step: u64,
    commits: u64,
    refusals: u64,
    /// Replies that were left out, since they were too long.
    left_out: u64,
}

/// The next reply of some lines, its parts one after the other: lists begin with their sign.
fn read(lines: &mut VecDeque<String>, parts: &mut Vec<String>) {
    let line = lines.pop_front().expect("a whole reply");
    let (sign, rest) = line.split_at(1);
    match (sign, rest.parse::<i64>()) {
        ("_", _) | ("*" | "$", Ok(..0)) => parts.push("nil".into()),
        ("$", _) => parts.push(lines.pop_front().expect("a value")),
        ("*" | ">", Ok(count)) => {
            parts.push(sign.into());
            (0..count).for_each(|_| read(lines, parts));
        }
        ("%", Ok(count)) => (0..2 * count).for_each(|_| read(lines, parts)),
        ("-", _) => parts.push(line),
        _ => parts.push(rest.into()),
    }
}

impl Game {
    fn new(seed: u64) -> Game {
        let mut world = World::with(Limits { load_limit: 5_000, max_reply: MOST, ..Limits::default() });
        let observer = world.connect("");
        world.ask(observer, &format!("SET long {}", "x".repeat(LONG)));
        Game {
            world,
            random: Random((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            // The observer is none that plays.
            clients: vec![None],
            keys: KEYS.map(|key| (key, History::default())).into(),
            loads: Vec::new(),
            step: 0,
            commits: 0,
            refusals: 0,
            left_out: 0,
        }
    }

    fn connect(&mut self, is_worker: bool) -> usize {
        let tickets = !is_worker && self.random.chance(50);
        let number = self.world.connect(if is_worker || tickets { "HELLO 3" } else { "" });
        self.clients.push(Some(Client { is_worker, ..Client::default() }));
        if tickets {
            self.ask(number, format!("CACHE.SESSION s{number} 1 TICKETS"), Asked::Other);
        }
        number
    }

    /// One of the clients that are `wanted` and do not wait in their place.
    fn one(&mut self, wanted: impl Fn(&Client) -> bool) -> Option<usize> {
        let fits = |client: &Client| client.asked.is_empty() && wanted(client);
        let numbers = 0..self.clients.len();
        let all: Vec<usize> = numbers.filter(|at| self.clients[*at].as_ref().is_some_and(fits)).collect();
        (!all.is_empty()).then(|| self.random.of(&all))
    }

    /// A client that watches nothing.
    fn free(&mut self) -> usize {
        let found = self.one(|client| !client.is_worker && client.watch.is_none());
        match found {
            Some(number) if self.clients.len() > 3 => number,
            _ => self.connect(false),
        }
    }

    fn client(&mut self, number: usize) -> &mut Client {
        self.clients[number].as_mut().expect("it is there")
    }

    fn history(&mut self, key: &str) -> &mut History {
        self.keys.get_mut(key).expect("a known key")
    }

    fn ask(&mut self, number: usize, line: String, asked: Asked) {
        self.client(number).asked.push_back(asked);
        self.world.post(number, &line);
        self.hear(number);
    }

    fn hear(&mut self, number: usize) {
        let said = String::from_utf8(self.world.said(number)).expect("text");
        let mut lines: VecDeque<String> = said.split_terminator("\r\n").map(String::from).collect();
        while !lines.is_empty() {
            let mut parts = Vec::new();
            read(&mut lines, &mut parts);
            self.take(number, &parts);
        }
    }

    /// A client is told something.
    fn take(&mut self, number: usize, parts: &[String]) {
        let word = |at: usize| parts.get(at).map_or("", String::as_str);
        if word(1) == "load" && word(0) == ">" {
            for load in parts[2..].chunks(3) {
                let key = KEYS.into_iter().find(|key| *key == load[1]).expect("a known key");
                self.loads.push((key, load[2].clone()));
            }
        } else if word(0) == ">" {
            let asked = self.client(number).tickets.remove(word(2)).expect("a ticket");
            self.told(number, asked, &parts[3..]);
        } else {
            let asked = self.client(number).asked.pop_front().expect("a request");
            let ticket = if word(1) == "waiting" { word(3) } else { word(0).strip_prefix("-WAITING ").unwrap_or("0") };
            if ticket == "0" {
                self.told(number, asked, parts);
            } else {
                self.client(number).tickets.insert(ticket.into(), asked);
            }
        }
    }

    /// What a client has asked for is answered.
    fn told(&mut self, number: usize, asked: Asked, parts: &[String]) {
        let (step, answer) = (self.step, &parts[0]);
        match asked {
            Asked::Read(key, asked_at) if !answer.starts_with('-') => {
                if let Some(watch) = &mut self.client(number).watch
                    && (watch.key == key && watch.since < asked_at && watch.read.is_none())
                {
                    watch.read = Some((step, answer.clone()));
                }
            }
            Asked::Lease(key) if parts.len() > 3 && parts[3] != "0" => self.loads.push((key, parts[3].clone())),
            Asked::Fill(key) if answer != "0" => {
                let history = self.history(key);
                history.loaded.push(step);
                history.touched = step;
            }
            Asked::Exec(watch, asked_at, count) if answer == "*" => {
                self.committed(&watch, asked_at);
                self.was_whole(number, asked_at, (&parts[1..], count));
            }
            Asked::Exec(watch, ..) => {
                self.refusals += 1;
                assert!(self.keys[watch.key].touched > watch.since, "step {step}: refused, untouched: {watch:?}");
            }
            _ => {}
        }
    }

    fn committed(&mut self, watch: &Watch, asked_at: u64) {
        let (step, history) = (self.step, &self.keys[watch.key]);
        let happened = |steps: &[u64], since: u64| steps.iter().any(|at| (since + 1..asked_at).contains(at));
        assert!(!happened(&history.written, watch.since), "step {step}: committed over a write: {watch:?}");
        if let Some((read_at, _)) = &watch.read {
            assert!(!happened(&history.loaded, *read_at), "step {step}: committed over a load: {watch:?}");
        }
        self.commits += 1;
    }

    /// Every request of a transaction was run and has its reply: the writes behind replies that are too long as well.
    fn was_whole(&mut self, number: usize, asked_at: u64, (replies, count): (&[String], usize)) {
        assert_eq!(replies.len(), count, "{replies:?}");
        let left_out = replies.iter().filter(|reply| reply.contains("is left out")).count() as u64;
        let long = replies.iter().filter(|reply| reply.len() == LONG).count() as u64;
        assert!(left_out == 0 || long >= 2 && replies.iter().map(String::len).sum::<usize>() <= MOST, "{replies:?}");
        self.left_out += left_out;
        let last = self.world.ask(0, &format!("GET last:{number}"));
        assert_eq!((last.split(' ').nth(1), &*replies[count - 1]), (Some(&*format!("s{asked_at}")), "OK"));
    }

    fn run_step(&mut self) {
        self.step += 1;
        let (step, key) = (self.step, self.random.of(&KEYS));
        match self.random.below(100) {
            0..18 => {
                let number = self.free();
                self.ask(number, format!("GET {key}"), Asked::Read(key, step));
            }
            18..30 => {
                let number = self.free();
                self.client(number).watch = Some(Watch { key, since: step, read: None });
                self.ask(number, format!("WATCH {key}"), Asked::Other);
            }
            30..50 => self.use_watch(),
            50..58 => self.write(key),
            58..64 => {
                let number = self.free();
                self.ask(number, format!("CACHE.FETCH {key} WAIT 3000"), Asked::Lease(key));
            }
            64..70 => {
                let number = self.connect(true);
                let pattern = self.random.of(&PATTERNS);
                self.ask(number, format!("CACHE.LOADER {pattern} INFLIGHT 2"), Asked::Other);
            }
            70..74 => {
                let (number, pattern) = (self.free(), self.random.of(&PATTERNS));
                self.ask(number, format!("CACHE.FORGET {pattern}"), Asked::Other);
            }
            74..77 => {
                if let Some(number) = self.one(|client| client.is_worker) {
                    self.clients[number] = None;
                    self.world.close(number);
                }
            }
            77..86 => {
                let most = self.random.below(4) as usize;
                self.world.deliver(most);
            }
            86..95 => self.world.exchange(),
            _ => {
                let millis = self.random.of(&[1, 20, 500, 3_100]);
                self.world.wait(millis);
                self.keys.values_mut().for_each(|history| history.touched = step);
            }
        }
        self.hear_all();
        self.step += 1;
        if !self.loads.is_empty() && self.random.chance(40) {
            self.end_load();
            self.hear_all();
        }
    }

    /// A client writes or removes a key.
    fn write(&mut self, key: &'static str) {
        let (number, step) = (self.free(), self.step);
        let lines = [format!("SET {key} s{step}"), format!("SET {key} s{step} PX 40"), format!("DEL {key}")];
        let which = self.random.below(3) as usize;
        let history = self.history(key);
        history.written.extend((which < 2).then_some(step));
        history.touched = step;
        self.ask(number, lines[which].clone(), Asked::Other);
    }

    /// A client that watches a key and has its answers reads it, or ends its transaction.
    fn use_watch(&mut self) {
        let Some(number) = self.one(|client| client.watch.is_some() && client.tickets.is_empty()) else { return };
        let (step, watch) = (self.step, self.client(number).watch.clone().expect("it was looked for"));
        if watch.read.is_none() && self.random.chance(60) {
            return self.ask(number, format!("GET {}", watch.key), Asked::Read(watch.key, step));
        }
        self.client(number).watch = None;
        let mut lines = vec!["SET out 1".to_owned()];
        if self.random.chance(40) {
            lines.push(format!("GET {}", watch.key));
        }
        lines.extend((0..self.random.below(6)).map(|_| "GET long".to_owned()));
        lines.push(format!("SET last:{number} s{step}"));
        let count = lines.len();
        for line in std::iter::once("MULTI".to_owned()).chain(lines) {
            self.ask(number, line, Asked::Other);
        }
        self.ask(number, "EXEC".into(), Asked::Exec(watch, step, count));
    }

    fn end_load(&mut self) {
        let at = self.random.below(self.loads.len() as u64) as usize;
        let ((key, token), number) = (self.loads.swap_remove(at), self.free());
        let life = self.random.of(&["", " TTL 30"]);
        let (line, asked) = match self.random.below(10) {
            0..6 => (format!("CACHE.FILL {key} {token} r{}{life}", self.step), Asked::Fill(key)),
            6..8 => (format!("CACHE.FILL {key} {token} x ABSENT TTL {}", self.random.of(&[0, 50])), Asked::Other),
            8 => (format!("CACHE.FAIL {key} {token} broken RETRY 0"), Asked::Other),
            _ => (format!("CACHE.RELEASE {key} {token}"), Asked::Other),
        };
        self.ask(number, line, asked);
    }

    fn hear_all(&mut self) {
        (0..self.clients.len()).for_each(|number| {
            if self.clients[number].is_some() {
                self.hear(number)
            }
        });
    }
}

#[test]
fn transactions_depend_on_what_their_clients_read() {
    let count = std::env::var("WATCH_LOADS").map_or(350, |count| count.parse().expect("a number"));
    let from = std::env::var("WATCH_FROM").map_or(0, |from| from.parse().expect("a number"));
    let (mut commits, mut refusals, mut left_out) = (0, 0, 0);
    for seed in from..from + count {
        let mut game = Game::new(seed);
        let run = std::panic::AssertUnwindSafe(|| (0..300).for_each(|_| game.run_step()));
        if let Err(cause) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}");
            std::panic::resume_unwind(cause);
        }
        game.world.engine.store.check(1 << 20);
        (commits, refusals) = (commits + game.commits, refusals + game.refusals);
        left_out += game.left_out;
    }
    let enough = commits > count && refusals > count / 4 && left_out > count / 4;
    assert!(enough, "{commits} commits, {refusals} refusals, {left_out} replies left out");
}
