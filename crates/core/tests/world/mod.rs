//! Several sessions over one engine, with messages delivered as a server would.

#![allow(dead_code, reason = "each test uses what it needs of it")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use globalcache_core::clock::Now;
use globalcache_core::limits::Limits;
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::state::engine::Engine;
use globalcache_core::state::facts::Facts;
use globalcache_core::state::mailbox::Event;
use globalcache_core::store::{ConnectionId, Options};

/// A server without sockets: connections by number, and a clock that moves when it is told to.
pub struct World {
    pub engine: Engine,
    pub now: Now,
    scratch: Scratch,
    pub connections: Vec<Option<Connection>>,
    on_their_way: VecDeque<(ConnectionId, Event)>,
}

pub struct Connection {
    session: Session,
    input: Vec<u8>,
    said: Vec<u8>,
    pub closed: bool,
}

impl World {
    pub fn new() -> World {
        World::with(Limits::default())
    }

    pub fn with(limits: Limits) -> World {
        World::with_memory(limits, 16 << 20)
    }

    /// The longest value that is stored in a world for loads.
    pub const LONGEST: usize = 4 << 10;

    /// The longest that is read in it.
    pub const LONGEST_READ: usize = 8 << 10;

    /// One that stores no long values, although they may be sent.
    pub fn for_loads() -> World {
        let limits = Limits { max_value: World::LONGEST_READ, ..Limits::default() };
        World::with_store(limits, 16 << 20, World::LONGEST)
    }

    /// One in which a load may take so many milliseconds.
    pub fn with_load_limit(load_limit: u64) -> World {
        World::with(Limits { load_limit, ..Limits::default() })
    }

    pub fn with_memory(limits: Limits, memory: u64) -> World {
        let max_value = limits.max_value;
        World::with_store(limits, memory, max_value)
    }

    fn with_store(limits: Limits, memory: u64, max_value: usize) -> World {
        let load_limit = limits.load_limit;
        let options =
            Options { memory, shards: 4, evict: true, max_value, seed: [1, 2, 3, 4], epoch: 1000, load_limit };
        World {
            engine: Engine::new(options, limits, Facts { run_id: "life".into(), ..Facts::default() }, 1),
            now: Now { mono: 1_000_000, wall: 1_700_000_000_000 },
            scratch: Scratch::default(),
            connections: Vec::new(),
            on_their_way: VecDeque::new(),
        }
    }

    /// Bytes that the server holds for a connection.
    pub fn memory(&self, number: usize) -> u64 {
        self.connections[number].as_ref().unwrap().session.memory()
    }

    /// A new connection; `hello` is sent first and its answer dropped.
    pub fn connect(&mut self, hello: &str) -> usize {
        let number = self.connections.len();
        let party = ConnectionId { mailbox: 0, slot: number as u32, id: number as u64 + 1 };
        let connection =
            Connection { session: Session::new(party), input: Vec::new(), said: Vec::new(), closed: false };
        self.connections.push(Some(connection));
        if !hello.is_empty() {
            self.ask(number, hello);
        }
        number
    }

    pub fn send(&mut self, number: usize, line: &str) {
        self.post(number, line);
        self.exchange();
    }

    /// Runs a request and delivers nothing of what it has to say to others; `exchange` does.
    pub fn post(&mut self, number: usize, line: &str) {
        let connection = self.connections[number].as_mut().unwrap();
        connection.input.extend_from_slice(line.as_bytes());
        connection.input.extend_from_slice(b"\r\n");
        self.run(number);
    }

    /// Runs requests; `between` is called after each turn in which they ask for more loads. How many turns they took.
    pub fn post_in_turns(&mut self, number: usize, lines: &str, mut between: impl FnMut(&mut World)) -> usize {
        self.feed_once(number, &format!("{lines}\r\n"));
        let mut turns = 1;
        while self.connections[number].as_ref().is_some_and(|connection| connection.session.is_ready()) {
            between(self);
            self.feed_once(number, "");
            turns += 1;
        }
        turns
    }

    fn run(&mut self, number: usize) {
        let Some(connection) = self.connections[number].as_mut() else { return };
        let mut flow = Flow::Pause;
        while flow == Flow::Pause || flow == Flow::Park && connection.session.is_ready() {
            let mut out = Output::default();
            let taken;
            (taken, flow) =
                connection.session.feed(&self.engine, self.now, &mut self.scratch, &connection.input, &mut out);
            connection.input.drain(..taken);
            connection.said.extend(out.take_bytes());
        }
        connection.closed |= flow == Flow::Close;
    }

    /// Delivers what connections have to say to each other.
    pub fn exchange(&mut self) {
        self.deliver(usize::MAX);
    }

    /// Delivers at most so many messages; the rest stay on their way.
    pub fn deliver(&mut self, most: usize) {
        for _ in 0..most {
            if self.on_their_way.is_empty() {
                self.engine.pump(self.now);
                self.on_their_way.extend(self.engine.mail.take(0));
            }
            let Some((party, event)) = self.on_their_way.pop_front() else { return };
            let number = party.slot as usize;
            let Some(connection) = self.connections[number].as_mut().filter(|connection| !connection.closed) else {
                self.engine.undelivered(party, event, self.now);
                continue;
            };
            let mut out = Output::default();
            let flow = connection.session.deliver(&self.engine, self.now, &mut self.scratch, event, &mut out);
            connection.said.extend(out.take_bytes());
            connection.closed |= flow == Flow::Close;
            if connection.session.is_ready() {
                self.run(number);
            }
        }
    }

    /// Has everything sent that is to be sent, and leaves it on its way: to whom each message goes, and whether it is a load.
    pub fn take_mail(&mut self) -> Vec<(usize, bool)> {
        let mut taken = Vec::new();
        loop {
            self.engine.pump(self.now);
            let mail = self.engine.mail.take(0);
            if mail.is_empty() {
                return taken;
            }
            taken.extend(mail.iter().map(|(to, event)| (to.slot as usize, matches!(event, Event::Load(..)))));
            self.on_their_way.extend(mail);
        }
    }

    /// Whether a connection was closed by the server.
    pub fn closed(&self, number: usize) -> bool {
        self.connections[number].as_ref().is_some_and(|connection| connection.closed)
    }

    /// Whether a connection waits in its place, so that what is sent to it is not run.
    pub fn is_parked(&self, number: usize) -> bool {
        self.connections[number].as_ref().is_some_and(|connection| connection.session.is_parked())
    }

    /// The bytes that a connection was told since it was last asked.
    pub fn said(&mut self, number: usize) -> Vec<u8> {
        self.connections[number].as_mut().map(|connection| std::mem::take(&mut connection.said)).unwrap_or_default()
    }

    /// What a connection was told since it was last asked, on one line.
    pub fn heard(&mut self, number: usize) -> String {
        let said = std::mem::take(&mut self.connections[number].as_mut().unwrap().said);
        String::from_utf8(said).unwrap().replace("\r\n", " ").trim_end().to_owned()
    }

    pub fn ask(&mut self, number: usize, line: &str) -> String {
        self.send(number, line);
        self.heard(number)
    }

    /// Feeds input to a connection once, as one read of it.
    pub fn feed_once(&mut self, number: usize, input: &str) {
        let connection = self.connections[number].as_mut().unwrap();
        connection.input.extend_from_slice(input.as_bytes());
        let mut out = Output::default();
        let (taken, flow) =
            connection.session.feed(&self.engine, self.now, &mut self.scratch, &connection.input, &mut out);
        connection.input.drain(..taken);
        connection.said.extend(out.take_bytes());
        connection.closed |= flow == Flow::Close;
    }

    /// Closes a connection while another thread of the server does something over and over. Nothing is delivered.
    pub fn close_beside(&mut self, number: usize, meanwhile: impl Fn(&Engine, Now) + Sync) {
        let mut connection = self.connections[number].take().unwrap();
        let (engine, now, closed) = (&self.engine, self.now, AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !closed.load(Ordering::Acquire) {
                    meanwhile(engine, now);
                }
            });
            connection.session.close(engine, now);
            closed.store(true, Ordering::Release);
        });
    }

    pub fn close(&mut self, number: usize) {
        let mut connection = self.connections[number].take().unwrap();
        connection.session.close(&self.engine, self.now);
        self.exchange();
    }

    /// The peer of a connection sends nothing any more, and still reads.
    pub fn end_input(&mut self, number: usize) {
        self.connections[number].as_mut().unwrap().session.end_input(&self.engine, self.now);
        self.exchange();
    }

    pub fn wait(&mut self, millis: u64) {
        self.now.mono += millis;
        self.now.wall += millis;
        self.engine.store.tick(self.now.mono);
        self.engine.tick_leases(self.now);
        self.exchange();
    }

    /// Takes the lease of a key and returns its token.
    pub fn lease(&mut self, number: usize, key: &str) -> u64 {
        let answer = self.ask(number, &format!("CACHE.FETCH {key}"));
        token_of(&answer, "miss")
    }
}

/// The token in an answer to a fetch whose state is `state`.
pub fn token_of(answer: &str, state: &str) -> u64 {
    let words: Vec<&str> = answer.split(' ').collect();
    let at = words.iter().position(|word| *word == state).unwrap_or_else(|| panic!("{answer} is no {state}"));
    let token = words[at..].iter().find_map(|word| word.strip_prefix(':')).unwrap();
    let token = token.parse().unwrap();
    assert_ne!(token, 0, "{answer}");
    token
}

/// The token of the last load that a worker was sent, and its key.
pub fn load_of(push: &str) -> (String, u64) {
    let words: Vec<&str> = push.split(' ').collect();
    let at = words.iter().rposition(|word| *word == "*2").unwrap_or_else(|| panic!("{push} is no load"));
    (words[at + 2].to_owned(), words[at + 3].trim_start_matches(':').parse().unwrap())
}
