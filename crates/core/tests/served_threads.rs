//! Reads of keys that a worker loads, in threads of their own, while other threads remove the keys: seeded runs, of which
//! the threads draw the interleaving.
//!
//! Each row exists all the time, so every read is to be answered with it, whatever was loaded, written or removed between
//! any two looks of the read, and no read waits for ever.
//!
//! `SERVED_RUNS=1000 cargo test --release -p globalcache-core --test served_threads` runs so many.

mod random;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Options};
use random::Random;

const READERS: usize = 3;
const KEYS: u64 = 6;
const READS: usize = 400;
/// Turns after which a read counts as forgotten: the other threads have had the processor many times.
const PATIENCE: usize = 2_000_000;
const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };

/// A connection with a thread and a mailbox of its own.
struct Peer<'e> {
    engine: &'e Engine,
    mailbox: usize,
    session: Session,
    scratch: Scratch,
    input: Vec<u8>,
    said: Vec<u8>,
}

impl<'e> Peer<'e> {
    fn new(engine: &'e Engine, mailbox: usize) -> Peer<'e> {
        let party = ConnectionId { mailbox: mailbox as u16, slot: 0, id: mailbox as u64 + 1 };
        let (scratch, input, said) = Default::default();
        Peer { engine, mailbox, session: Session::new(party), scratch, input, said }
    }

    fn send(&mut self, text: &str) {
        self.input.extend_from_slice(text.as_bytes());
        self.feed();
    }

    fn feed(&mut self) {
        let mut flow = Flow::Pause;
        while flow == Flow::Pause {
            let (mut out, taken);
            out = Output::default();
            (taken, flow) = self.session.feed(self.engine, NOW, &mut self.scratch, &self.input, &mut out);
            self.input.drain(..taken);
            self.said.extend(out.take_bytes());
        }
    }

    /// Takes what was left for it; whether nothing of it waits.
    fn turn(&mut self) -> bool {
        self.engine.pump(NOW);
        for (_, event) in self.engine.mail.take(self.mailbox) {
            let mut out = Output::default();
            self.session.deliver(self.engine, NOW, &mut self.scratch, event, &mut out);
            self.said.extend(out.take_bytes());
        }
        if self.session.is_ready() {
            self.feed();
        }
        !self.session.is_parked()
    }

    /// The reply to a request that may wait.
    fn ask(&mut self, text: &str) -> String {
        self.send(text);
        let mut turns = 0;
        while !self.turn() {
            turns += 1;
            assert!(turns < PATIENCE, "{text} waits");
            thread::yield_now();
        }
        String::from_utf8(std::mem::take(&mut self.said)).unwrap()
    }
}

fn engine() -> Engine {
    let options = Options {
        memory: 16 << 20,
        shards: 4,
        evict: true,
        max_value: 1 << 10,
        seed: [1, 2, 3, 4],
        epoch: 1,
        load_limit: 30_000,
    };
    Engine::new(options, Limits::default(), Facts::default(), READERS + 2)
}

fn bulk(key: &str) -> String {
    format!("${}\r\nrow-{key}\r\n", key.len() + 4)
}

fn read(mut peer: Peer<'_>, mut random: Random) {
    for _ in 0..READS {
        let [key, other] = [random.below(KEYS), random.below(KEYS)].map(|number| format!("w:{number}"));
        let both = format!("*2\r\n{}{}", bulk(&key), bulk(&other));
        let (line, wanted) = match random.below(4) {
            0 => (format!("GET {key}"), bulk(&key)),
            1 => (format!("CACHE.GET {key}"), bulk(&key)),
            2 => (format!("MGET {key} {other}"), both),
            _ => (format!("CACHE.MGET {key} {other}"), both),
        };
        let reply = peer.ask(&format!("{line}\r\n"));
        // Whoever is removed too often beside its load gets an error, and never "there is none".
        assert!(reply == wanted || reply.contains("LOADFAILED"), "{line}: {reply}");
    }
}

/// Loads whatever it is sent until the readers are done.
fn work(mut peer: Peer<'_>, reading: &AtomicUsize) {
    while reading.load(Ordering::Acquire) > 0 {
        peer.turn();
        let said = String::from_utf8(std::mem::take(&mut peer.said)).unwrap();
        let words: Vec<&str> = said.split("\r\n").collect();
        for pair in words.windows(2).filter(|pair| pair[0].starts_with("w:")) {
            let (key, token) = (pair[0], pair[1].trim_start_matches(':'));
            peer.send(&format!("CACHE.FILL {key} {token} row-{key}\r\n"));
        }
        thread::yield_now();
    }
}

fn remove(mut peer: Peer<'_>, mut random: Random, reading: &AtomicUsize) {
    while reading.load(Ordering::Acquire) > 0 {
        let key = random.below(KEYS);
        peer.send(&format!("DEL w:{key}\r\n"));
        (0..random.below(4)).for_each(|_| thread::yield_now());
    }
}

#[test]
fn a_row_that_exists_is_never_answered_by_nothing() {
    let runs = std::env::var("SERVED_RUNS").map_or(10, |count| count.parse().expect("a number"));
    for seed in 0..runs {
        let (engine, reading) = (engine(), AtomicUsize::new(READERS));
        let mut worker = Peer::new(&engine, READERS);
        worker.send("HELLO 3\r\nCACHE.LOADER w:* INFLIGHT 100\r\n");
        worker.said.clear();
        let random = |who: usize| Random((seed * 10 + who as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        thread::scope(|scope| {
            for reader in 0..READERS {
                let (engine, reading) = (&engine, &reading);
                scope.spawn(move || {
                    let done = Done(reading);
                    read(Peer::new(engine, reader), random(reader));
                    drop(done);
                });
            }
            scope.spawn(|| work(worker, &reading));
            scope.spawn(|| remove(Peer::new(&engine, READERS + 1), random(READERS), &reading));
        });
    }
}

/// A reader ends, also when it panics: else the others would go on for ever.
struct Done<'r>(&'r AtomicUsize);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}
