//! Several sessions over one engine, with messages delivered as a server would.

use globalcache_core::engine::{Engine, Facts, Limits, Now};
use globalcache_core::output::Output;
use globalcache_core::session::{Flow, Scratch, Session};
use globalcache_core::store::{Options, Party};

/// A server without sockets: connections by number, and a clock that moves when it is told to.
pub struct World {
    pub engine: Engine,
    pub now: Now,
    scratch: Scratch,
    pub connections: Vec<Option<Connection>>,
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
        let options = Options {
            memory: 16 << 20,
            shards: 4,
            evict: true,
            max_value: limits.max_value,
            seed: [1, 2, 3, 4],
            epoch: 1000,
            load_limit: 30_000,
        };
        World {
            engine: Engine::new(options, limits, Facts { run_id: "life".into(), ..Facts::default() }, 1),
            now: Now { mono: 1_000_000, wall: 1_700_000_000_000 },
            scratch: Scratch::default(),
            connections: Vec::new(),
        }
    }

    /// Bytes that the server holds for a connection.
    pub fn memory(&self, number: usize) -> u64 {
        self.connections[number].as_ref().unwrap().session.memory()
    }

    /// A new connection; `hello` is sent first and its answer dropped.
    pub fn connect(&mut self, hello: &str) -> usize {
        let number = self.connections.len();
        let party = Party { mailbox: 0, slot: number as u32, id: number as u64 + 1 };
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

    fn run(&mut self, number: usize) {
        let Some(connection) = self.connections[number].as_mut() else { return };
        let mut out = Output::default();
        let (taken, flow) =
            connection.session.feed(&self.engine, self.now, &mut self.scratch, &connection.input, &mut out);
        connection.input.drain(..taken);
        connection.said.extend(out.take_bytes());
        connection.closed |= flow == Flow::Close;
    }

    /// Delivers what connections have to say to each other.
    pub fn exchange(&mut self) {
        self.engine.pump(self.now);
        while self.engine.mail.stirred(0) {
            for (party, event) in self.engine.mail.take(0) {
                let number = party.slot as usize;
                let Some(connection) = self.connections[number].as_mut() else {
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
            self.engine.pump(self.now);
        }
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

    pub fn close(&mut self, number: usize) {
        let mut connection = self.connections[number].take().unwrap();
        connection.session.close(&self.engine, self.now);
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
