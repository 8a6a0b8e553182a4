//! Sessions in threads of their own over one engine: seeded runs, of which the threads draw the interleaving.
//!
//! - Reads of keys that a worker loads, while other threads remove the keys: each row exists all the time, so every read is
//!   to be answered with it, and no read waits for ever.
//! - Clients that come back with newer generations of their session, while their old connections write.
//! - Transactions that depend on what their client read, while others write or invalidate it.
//!
//! `SESSION_RUNS=1000 cargo test --release -p globalcache-core --test session_threads` runs so many.

mod random;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
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
const COMEBACKS: usize = 200;
const TRANSACTIONS: usize = 400;
/// Turns after which a read counts as forgotten: the other threads have had the processor many times.
const PATIENCE: usize = 2_000_000;
const NOW: Now = Now { mono: 1_000_000, wall: 1_700_000_000_000 };

/// A connection, with the mailbox of its thread.
struct Peer<'e> {
    engine: &'e Engine,
    mailbox: usize,
    session: Session,
    scratch: Scratch,
    input: Vec<u8>,
    said: Vec<u8>,
    closed: bool,
}

impl<'e> Peer<'e> {
    /// The first connection of a thread.
    fn new(engine: &'e Engine, mailbox: usize) -> Peer<'e> {
        Peer::with_id(engine, mailbox, mailbox as u64 + 1)
    }

    fn with_id(engine: &'e Engine, mailbox: usize, id: u64) -> Peer<'e> {
        let party = ConnectionId { mailbox: mailbox as u16, slot: 0, id };
        let (scratch, input, said) = Default::default();
        Peer { engine, mailbox, session: Session::new(party), scratch, input, said, closed: false }
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
        self.closed |= flow == Flow::Close;
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

/// How many runs: more where there is time for them.
fn runs() -> u64 {
    std::env::var("SESSION_RUNS").map_or(10, |count| count.parse().expect("a number"))
}

/// What a thread draws from.
fn random(seed: u64, who: usize) -> Random {
    Random((seed * 10 + who as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
}

#[test]
fn a_row_that_exists_is_never_answered_by_nothing() {
    for seed in 0..runs() {
        let (engine, reading) = (engine(), AtomicUsize::new(READERS));
        let mut worker = Peer::new(&engine, READERS);
        worker.send("HELLO 3\r\nCACHE.LOADER w:* INFLIGHT 100\r\n");
        worker.said.clear();
        thread::scope(|scope| {
            for reader in 0..READERS {
                let (engine, reading) = (&engine, &reading);
                scope.spawn(move || {
                    let done = Done(reading);
                    read(Peer::new(engine, reader), random(seed, reader));
                    drop(done);
                });
            }
            scope.spawn(|| work(worker, &reading));
            scope.spawn(|| remove(Peer::new(&engine, READERS + 1), random(seed, READERS), &reading));
        });
    }
}

/// The number that a bulk reply has; None if there is no value.
fn number(reply: &str) -> Option<u64> {
    reply.strip_prefix('$')?.split("\r\n").nth(1)?.parse().ok()
}

/// A client comes back again and again with a newer generation, removes the key, and writes its generation to it until it
/// is gone: it never finds what an older connection wrote.
fn come_back(engine: &Engine, mailbox: usize, newest: &AtomicU64, mut random: Random) {
    for _ in 0..COMEBACKS {
        let generation = newest.fetch_add(1, Ordering::SeqCst) + 1;
        let mut peer = Peer::with_id(engine, mailbox, generation);
        peer.ask(&format!("CACHE.SESSION me {generation}\r\n"));
        if !peer.closed && peer.ask("DEL k\r\n").starts_with(':') {
            let found = number(&peer.ask("GET k\r\n")).unwrap_or(generation);
            assert!(found >= generation, "{found} was written after {generation} had been welcomed");
        }
        for _ in 0..random.below(8) {
            if !peer.closed {
                peer.send(&format!("SET k {generation}\r\n").repeat(1 + random.below(40) as usize));
                peer.said.clear();
            }
        }
        peer.session.close(engine, NOW);
    }
}

#[test]
fn nothing_of_an_old_connection_is_run_after_a_newer_was_welcomed() {
    for seed in 0..runs() {
        let (engine, newest) = (engine(), AtomicU64::new(0));
        thread::scope(|scope| {
            for client in 0..READERS {
                let (engine, newest) = (&engine, &newest);
                scope.spawn(move || come_back(engine, client, newest, random(seed, client)));
            }
        });
    }
}

/// Adds one to a number by transactions; how many were committed.
fn add(mut peer: Peer<'_>, mut random: Random) -> u64 {
    let mut committed = 0;
    for _ in 0..TRANSACTIONS {
        let reply = peer.ask("WATCH n\r\nGET n\r\n");
        let before = number(reply.strip_prefix("+OK\r\n").expect("it watches")).unwrap_or(0);
        (0..random.below(3)).for_each(|_| thread::yield_now());
        let reply = peer.ask(&format!("MULTI\r\nSET n {}\r\nEXEC\r\n", before + 1));
        committed += u64::from(reply.ends_with("*1\r\n+OK\r\n"));
    }
    committed
}

#[test]
fn no_transaction_commits_over_a_write() {
    for seed in 0..runs() {
        let engine = engine();
        let committed: u64 = thread::scope(|scope| {
            let engine = &engine;
            let add = |client| scope.spawn(move || add(Peer::new(engine, client), random(seed, client)));
            let all: Vec<_> = (0..READERS).map(add).collect();
            all.into_iter().map(|thread| thread.join().expect("it adds")).sum()
        });
        let mut peer = Peer::new(&engine, 0);
        assert_eq!(number(&peer.ask("GET n\r\n")), Some(committed), "seed {seed}");
    }
}

/// Derives a value from another one by transactions. No derived value is there once what it was derived from has been
/// invalidated: `invalidated` is the newest number of which that is sure.
fn derive(mut peer: Peer<'_>, invalidated: &AtomicU64, reading: &AtomicUsize) {
    while reading.load(Ordering::Acquire) > 0 {
        let before = invalidated.load(Ordering::SeqCst);
        let found = number(&peer.ask("GET derived\r\n"));
        assert!(found.is_none_or(|found| found > before), "{found:?} is there after {before} was invalidated");
        let reply = peer.ask("WATCH source\r\nGET source\r\n");
        match number(reply.strip_prefix("+OK\r\n").expect("it watches")) {
            Some(source) => peer.ask(&format!("MULTI\r\nCACHE.SET derived {source} TAGS 1 t\r\nEXEC\r\n")),
            None => peer.ask("UNWATCH\r\n"),
        };
    }
}

#[test]
fn no_transaction_commits_over_an_invalidation() {
    for _ in 0..runs() {
        let (engine, invalidated, reading) = (engine(), AtomicU64::new(0), AtomicUsize::new(1));
        thread::scope(|scope| {
            for client in 1..READERS {
                scope.spawn({
                    let (engine, invalidated, reading) = (&engine, &invalidated, &reading);
                    move || derive(Peer::new(engine, client), invalidated, reading)
                });
            }
            let (mut peer, _done) = (Peer::new(&engine, 0), Done(&reading));
            for round in 1..=TRANSACTIONS as u64 {
                peer.ask(&format!("CACHE.SET source {round} TAGS 1 t\r\n"));
                thread::yield_now();
                peer.ask("CACHE.INVALIDATE TAGS 1 t\r\n");
                invalidated.store(round, Ordering::SeqCst);
            }
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
