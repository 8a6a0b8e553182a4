//! Exchanges of clients with one engine, drawn from bytes: every protocol, requests cut anywhere, values around the
//! limit, transactions, waits for loads, skipped replies, tickets and copies. A model of each client says what it is to
//! be answered: its keys are its own, and what workers load is a function of the key.

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::store::{ConnectionId, Options};

mod model;

use model::{Kind, Model};

pub const MAX_VALUE: usize = 1000;
/// Most bytes of a request that may be left for later: some words and a value; of JSON a message.
const MOST_HELD: usize = 6000;
const MOST_HELD_JSON: usize = MAX_VALUE + (256 << 10);

/// Choices, from bytes; the first of each when they are used up.
pub struct Draw<'a>(std::slice::Iter<'a, u8>);

impl<'a> Draw<'a> {
    pub fn new(bytes: &'a [u8]) -> Draw<'a> {
        Draw(bytes.iter())
    }

    pub fn below(&mut self, most: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % most
    }

    fn is_over(&self) -> bool {
        self.0.as_slice().is_empty()
    }
}

struct Client {
    session: Session,
    party: ConnectionId,
    model: Model,
    /// Sent and not arrived.
    sent: Vec<u8>,
    /// Arrived and not taken.
    input: Vec<u8>,
    said: Vec<u8>,
}

/// One client keeps copies of X and Y, and another writes X and then Y, the same number to both.
struct Copies {
    written: usize,
    /// The copy of X that the reader has.
    copy: Option<usize>,
    /// Reads that were sent, of X or of Y.
    asked: Vec<bool>,
}

pub struct Exchange {
    engine: Engine,
    now: Now,
    scratch: Scratch,
    clients: Vec<Client>,
    copies: Copies,
    loads: Vec<(String, String)>,
}

const WORKER: usize = 4;
const READER: usize = 5;
const WRITER: usize = 6;

impl Exchange {
    /// Runs the exchange that the bytes stand for, and checks all that it is to have led to.
    pub fn run(bytes: &[u8]) {
        let mut draw = Draw::new(bytes);
        let mut exchange = Exchange::new([3000, 300, 10][draw.below(3)]);
        while !draw.is_over() {
            exchange.step(&mut draw);
        }
        exchange.end();
    }

    fn new(pause_output: usize) -> Exchange {
        let limits = Limits { max_value: MAX_VALUE, pause_output, ..Limits::default() };
        let options = Options {
            memory: 16 << 20,
            shards: 4,
            evict: true,
            max_value: MAX_VALUE,
            seed: [1, 2, 3, 4],
            epoch: 1000,
            load_limit: 30_000,
        };
        let kinds = [Kind::Redis, Kind::Tickets, Kind::Memcached, Kind::Json, Kind::Other, Kind::Other, Kind::Other];
        let clients = kinds.iter().enumerate().map(|(slot, kind)| {
            let party = ConnectionId { mailbox: 0, slot: slot as u32, id: slot as u64 + 1 };
            let (sent, input, said) = Default::default();
            Client { session: Session::new(party), party, model: Model::new(slot, *kind), sent, input, said }
        });
        let mut exchange = Exchange {
            engine: Engine::new(options, limits, Facts::default(), 1),
            now: Now { mono: 1_000_000, wall: 1_700_000_000_000 },
            scratch: Scratch::default(),
            clients: clients.collect(),
            copies: Copies { written: 0, copy: None, asked: Vec::new() },
            loads: Vec::new(),
        };
        exchange.tell(1, "HELLO 3\r\nCACHE.SESSION me 1 TICKETS\r\n");
        exchange.tell(WORKER, "HELLO 3\r\nCACHE.LOADER w:* p:* b:*\r\n");
        exchange.tell(READER, "HELLO 3\r\nCLIENT TRACKING ON\r\n");
        for client in &mut exchange.clients {
            client.said.clear();
        }
        exchange
    }

    fn tell(&mut self, slot: usize, text: &str) {
        self.clients[slot].sent.extend_from_slice(text.as_bytes());
        self.arrive(slot, usize::MAX);
    }

    fn step(&mut self, draw: &mut Draw<'_>) {
        match draw.below(16) {
            0..=6 => {
                let client = &mut self.clients[draw.below(4)];
                client.model.ask(draw, &mut client.sent);
            }
            7..=10 => {
                let (slot, pieces) = (draw.below(4), [1, 2, 17, 400, usize::MAX]);
                self.arrive(slot, pieces[draw.below(pieces.len())]);
            }
            11 => self.deliver(),
            12 => self.work(draw.below(4)),
            13 => self.now = Now { mono: self.now.mono + 20, wall: self.now.wall + 20 },
            14 => {
                self.copies.written += 1;
                let number = self.copies.written;
                self.tell(WRITER, &format!("SET x {number}\r\nSET y {number}\r\n"));
            }
            _ => {
                let of_x = draw.below(2) == 0;
                self.copies.asked.push(of_x);
                self.tell(READER, if of_x { "GET x\r\n" } else { "GET y\r\n" });
                self.look_at_copies();
            }
        }
    }

    /// Lets some of what a client sent arrive.
    fn arrive(&mut self, slot: usize, count: usize) {
        let client = &mut self.clients[slot];
        let count = count.min(client.sent.len());
        client.input.extend(client.sent.drain(..count));
        self.feed(slot);
    }

    fn feed(&mut self, slot: usize) {
        let client = &mut self.clients[slot];
        loop {
            let mut out = Output::default();
            let (taken, flow) = client.session.feed(&self.engine, self.now, &mut self.scratch, &client.input, &mut out);
            client.input.drain(..taken);
            client.said.extend(out.take_bytes());
            assert_ne!(flow, Flow::Close, "{:?} was closed: {}", client.model.kind, client.said.escape_ascii());
            if flow != Flow::Pause {
                break;
            }
        }
        let most = if client.model.kind == Kind::Json { MOST_HELD_JSON } else { MOST_HELD };
        assert!(client.session.is_parked() || client.input.len() <= most, "{} bytes are held", client.input.len());
        if client.input.is_empty() && client.sent.is_empty() && !client.session.is_parked() {
            let (held, kept) = (client.session.memory(), client.model.kept_bytes());
            assert!(held >= kept as u64, "{held} are counted of {kept}");
        }
    }

    /// Delivers messages, as the server does between batches.
    fn deliver(&mut self) {
        self.engine.pump(self.now);
        while self.engine.mail.has_pending(0) {
            for (party, event) in self.engine.mail.take(0) {
                let client = &mut self.clients[party.slot as usize];
                let mut out = Output::default();
                client.session.deliver(&self.engine, self.now, &mut self.scratch, event, &mut out);
                client.said.extend(out.take_bytes());
                if client.session.is_ready() {
                    self.feed(party.slot as usize);
                }
            }
            self.engine.pump(self.now);
        }
        self.look_at_copies();
    }

    /// The worker answers for some of its loads.
    fn work(&mut self, most: usize) {
        let said = String::from_utf8(std::mem::take(&mut self.clients[WORKER].said)).unwrap();
        let words: Vec<&str> = said.split("\r\n").collect();
        let is_key = |word: &str| ["w:", "p:", "b:"].iter().any(|start| word.starts_with(start));
        let found = words.windows(2).filter(|pair| is_key(pair[0]));
        self.loads.extend(found.map(|pair| (pair[0].to_owned(), pair[1].trim_start_matches(':').to_owned())));
        for _ in 0..most.min(self.loads.len()) {
            let (key, token) = self.loads.remove(0);
            let fill = if key.starts_with('b') {
                let (length, value) = (MAX_VALUE + 500, "x".repeat(MAX_VALUE + 500));
                let size = token.len();
                format!("*4\r\n$10\r\nCACHE.FILL\r\n$3\r\n{key}\r\n${size}\r\n{token}\r\n${length}\r\n{value}\r\n")
            } else {
                let ttl = if key.starts_with('w') { " TTL 60" } else { "" };
                format!("CACHE.FILL {key} {token} row-{key}{ttl}\r\n")
            };
            self.tell(WORKER, &fill);
        }
    }

    /// Who sees a write of Y was told before that his copy of X is older.
    fn look_at_copies(&mut self) {
        let said = String::from_utf8(std::mem::take(&mut self.clients[READER].said)).unwrap();
        let mut words = said.split_terminator("\r\n");
        while let Some(word) = words.next() {
            if word.starts_with('>') {
                let key = words.by_ref().skip(2).find(|word| matches!(*word, "x" | "y")).unwrap();
                self.copies.copy = self.copies.copy.filter(|_| key == "y");
                continue;
            }
            let value: usize = if word == "_" { 0 } else { words.next().unwrap().parse().unwrap() };
            if self.copies.asked.remove(0) {
                self.copies.copy = Some(value);
            } else if let Some(copy) = self.copies.copy {
                assert!(copy >= value, "Y is {value}, and a copy of X is {copy}");
            }
        }
    }

    fn end(mut self) {
        // Requests wait one after the other, so there are as many rounds as requests at most; some more for tickets.
        let waits = |client: &Client| !client.input.is_empty() || client.session.is_parked();
        let mut more = 3;
        for _ in 0..4000 {
            for slot in 0..4 {
                self.arrive(slot, usize::MAX);
            }
            self.deliver();
            self.work(usize::MAX);
            self.deliver();
            more = if self.clients[..4].iter().any(waits) { 3 } else { more - 1 };
            if more == 0 {
                break;
            }
        }
        for client in &self.clients[..4] {
            assert!(client.input.is_empty() && !client.session.is_parked(), "{:?} waits", client.model.kind);
            client.model.check(&client.said);
        }
        for client in &mut self.clients {
            client.session.close(&self.engine, self.now);
            assert!(client.session.memory() < 1000, "{} are counted of {:?}", client.session.memory(), client.party);
        }
        assert!(self.engine.clients.list().is_empty() && !self.engine.tracking.any());
        for _ in 0..5 {
            self.now = Now { mono: self.now.mono + 61_000, wall: self.now.wall + 61_000 };
            self.engine.tick_leases(self.now);
        }
        assert!(!self.engine.tick_leases(self.now), "a lease outlived all connections");
    }
}
