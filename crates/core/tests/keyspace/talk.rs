//! A connection of a client to an engine of its own.

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Key, Meta, Options, Store};

pub const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };

pub fn engine(memory: u64, shards: usize, evict: bool) -> Engine {
    let limits = Limits::default();
    let seed = [1, 2, 3, 4];
    let options = Options { memory, shards, evict, max_value: limits.max_value, seed, epoch: 1, load_limit: 30_000 };
    Engine::new(options, limits, Facts::default(), 1)
}

/// A connection of a client.
pub struct Talk<'e> {
    pub engine: &'e Engine,
    pub session: Session,
    pub input: Vec<u8>,
    pub scratch: Scratch,
    pub out: Output,
}

impl Talk<'_> {
    pub fn new(engine: &Engine) -> Talk<'_> {
        Talk::with_id(engine, 0)
    }

    pub fn with_id(engine: &Engine, id: u64) -> Talk<'_> {
        let session = Session::new(ConnectionId { id, ..ConnectionId::default() });
        Talk { engine, session, input: Vec::new(), scratch: Scratch::default(), out: Output::default() }
    }

    /// One turn of the thread that serves it; what it answers, and whether it has more to do.
    pub fn turn(&mut self) -> (String, bool) {
        let (taken, flow) = self.session.feed(self.engine, NOW, &mut self.scratch, &self.input, &mut self.out);
        self.input.drain(..taken);
        (self.out.take_bytes().escape_ascii().to_string(), flow == Flow::Park)
    }

    pub fn send(&mut self, words: &[&str]) {
        self.input.extend(format!("*{}\r\n", words.len()).bytes());
        words.iter().for_each(|word| self.input.extend(format!("${}\r\n{word}\r\n", word.len()).bytes()));
    }

    pub fn ask(&mut self, words: &[&str]) -> String {
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

pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key:{number}")).collect()
}

pub fn fill(store: &Store, names: &[String]) {
    for name in names {
        let key = Key { db: 0, bytes: name.as_bytes() };
        store.with(key, NOW.mono, |entry| entry.set(b"value", &Meta::default())).expect("there is room");
    }
}

/// Writes values of changing length until some are refused; the names of those that are there.
pub fn fill_up(talk: &mut Talk<'_>) -> Vec<String> {
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

/// A small engine whose replies may have 64 KiB.
pub fn small_replies() -> Engine {
    let mut engine = engine(64 << 20, 4, true);
    engine.limits.max_reply = 64 << 10;
    engine
}

/// The script of limits that removes all keys that match.
pub const CLEAR: &str = "f2994557f1daca13bfef97c2a31ca4b174e031ca";
