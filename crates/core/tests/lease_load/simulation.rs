//! What happens in one load, and what is known of its clients, loads and keys.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::random::Random;
use crate::told::Told;
use crate::world::World;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One of a pool; requests that wait are answered in their place.
    InPlace,
    /// As it, with tickets for whatever waits.
    Tickets,
    /// A loader worker.
    Worker,
}

/// What a request is to be answered with.
#[derive(Clone, Debug)]
pub enum Asked {
    Fetch {
        key: String,
        wait: u64,
    },
    Read {
        key: String,
    },
    /// The answer to a load.
    End(Load, End),
    Other,
}

pub struct Client {
    pub kind: Kind,
    pub asked: VecDeque<(Asked, u64)>,
    pub tickets: HashMap<u64, (Asked, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    Fill,
    /// The value is longer than the store takes, or an option out of range.
    Unstorable,
    /// The value is longer than the server reads, or there is no such option: a failure to load.
    Unread,
    Fail,
    Release,
    Never,
}

/// A load that a client was told to do.
#[derive(Clone, Debug)]
pub struct Load {
    pub key: String,
    pub token: u64,
    pub client: usize,
    pub granted: u64,
    /// When its lease passes on.
    pub deadline: u64,
    /// When its client answers for it, or says that it takes longer, and what it answers in the end.
    pub next: u64,
    pub ends: u64,
    pub end: End,
    /// The key was changed, or its tag invalidated, since.
    pub changed: bool,
    /// Nothing has happened that may refuse its value.
    pub good: bool,
    pub passed_on: bool,
}

#[derive(Default)]
pub struct Key {
    /// Holders that ended or let their time pass since the last load that was answered.
    pub bad: u64,
    /// When workers were sent it since it was answered otherwise than by a release.
    pub sent: Vec<u64>,
    /// When it was asked for.
    pub asked: Vec<u64>,
}

pub const LEASE: u64 = 3_000;
pub const LOAD_LIMIT: u64 = 30_000;
pub const MAX_AGE: u64 = 60_000;
pub const CREDIT: usize = 3;
/// Bytes that a request which waits takes at least.
pub const LEAST_WAIT: u64 = 100;
/// What a tick may be late.
pub const LATE: u64 = 150;

pub struct Simulation {
    pub world: World,
    pub random: Random,
    pub clients: HashMap<usize, Client>,
    pub loads: Vec<Load>,
    pub keys: HashMap<String, Key>,
    pub sessions: u64,
    pub violations: Vec<String>,
    /// Loads begun, values stored, fills refused, waits that ended well: that the load is one.
    pub counts: [u64; 4],
}

impl Simulation {
    pub fn new(seed: u64) -> Simulation {
        Simulation {
            world: World::for_loads(),
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            clients: HashMap::new(),
            loads: Vec::new(),
            keys: HashMap::new(),
            sessions: 0,
            violations: Vec::new(),
            counts: [0; 4],
        }
    }

    pub fn now(&self) -> u64 {
        self.world.now.mono
    }

    pub fn blame(&mut self, text: String) {
        let now = self.now();
        self.violations.push(format!("at {now}: {text}"));
    }

    pub fn connect(&mut self, kind: Kind) -> usize {
        let number = match kind {
            Kind::InPlace => self.world.connect(""),
            _ => self.world.connect("HELLO 3"),
        };
        self.clients.insert(number, Client { kind, asked: VecDeque::new(), tickets: HashMap::new() });
        let hello = match kind {
            Kind::InPlace => return number,
            Kind::Tickets => format!("CACHE.SESSION c{number} 1 TICKETS"),
            Kind::Worker => format!("CACHE.LOADER u:* INFLIGHT {CREDIT}"),
        };
        self.ask(number, &hello, Asked::Other);
        number
    }

    pub fn of_kind(&self, wanted: &[Kind]) -> Vec<usize> {
        let mut all: Vec<usize> = self
            .clients
            .iter()
            .filter(|(_, client)| wanted.contains(&client.kind))
            .map(|(number, _)| *number)
            .collect();
        all.sort_unstable();
        all
    }

    /// A connection that answers at once, as a pool would give one.
    pub fn free(&mut self, wanted: &[Kind]) -> usize {
        let all = self.of_kind(wanted);
        let free: Vec<usize> = all.into_iter().filter(|number| !self.world.is_parked(*number)).collect();
        if free.is_empty() { self.connect(wanted[0]) } else { self.random.of(&free) }
    }

    pub fn ask(&mut self, number: usize, line: &str, asked: Asked) {
        let now = self.now();
        if let Asked::Read { key } | Asked::Fetch { key, .. } = &asked {
            self.keys.entry(key.clone()).or_default().asked.push(now);
        }
        self.clients.get_mut(&number).unwrap().asked.push_back((asked, now));
        self.world.post(number, line);
        self.hear(number);
    }

    /// Takes what every client was told.
    pub fn hear_all(&mut self) {
        for number in self.of_kind(&[Kind::InPlace, Kind::Tickets, Kind::Worker]) {
            self.hear(number);
        }
    }

    pub fn exchange(&mut self) {
        self.world.exchange();
        self.hear_all();
    }

    pub fn hear(&mut self, number: usize) {
        let said = self.world.said(number);
        let mut rest = &said[..];
        while !rest.is_empty() {
            let told = Told::read(&mut rest);
            match told {
                Told::Push(parts) if parts[0].text() == "load" => {
                    for load in &parts[1..] {
                        let Told::Many(load) = load else { unreachable!() };
                        self.sent(number, load[0].text().to_owned(), load[1].int());
                    }
                }
                Told::Push(parts) => {
                    let client = self.clients.get_mut(&number).unwrap();
                    if let Some((asked, since)) = client.tickets.remove(&parts[1].int()) {
                        self.told(number, asked, since, &parts[2]);
                    }
                }
                told => {
                    let (asked, since) = self.clients.get_mut(&number).unwrap().asked.pop_front().unwrap();
                    self.told(number, asked, since, &told);
                }
            }
        }
    }

    /// Time passes: what was not answered in time is on its holder.
    pub fn pass(&mut self, millis: u64) {
        for _ in 0..millis.div_ceil(50) {
            self.exchange();
            let now = self.now() + 50;
            for at in 0..self.loads.len() {
                if self.loads[at].deadline <= now && !self.loads[at].passed_on {
                    self.loads[at].passed_on = true;
                    self.did_not_answer(at);
                }
            }
            self.loads.retain(|load| load.end != End::Never || now < load.granted + MAX_AGE);
            self.world.wait(50);
            self.hear_all();
            self.answer();
            self.check_waits();
        }
    }

    pub fn step(&mut self) {
        match self.random.below(20) {
            0..=5 => self.fetch(),
            6..=9 => self.read(),
            10 | 11 => self.change(),
            12 => {
                // A process ends with all that it has.
                let all = self.random.of(&[1, 1, 2, 3]);
                (0..all).for_each(|_| self.leave());
            }
            13 => self.come_back(),
            14 => {
                let most = self.random.below(4) as usize;
                self.world.deliver(most);
                self.hear_all();
            }
            15 => {
                let millis = self.random.of(&[50, 200, 1_000, 4_000]);
                self.pass(millis);
            }
            _ => self.pass(50),
        }
        while self.of_kind(&[Kind::Worker]).len() < 2 {
            self.connect(Kind::Worker);
        }
    }

    /// Nothing new is asked; everything ends. Then all connections and workers are as good as new.
    pub fn settle(&mut self) {
        for _ in 0..8 {
            self.pass(15_000);
        }
        self.check_owners();
        let world = &self.world;
        let counts = world.engine.count_leases(|visit| world.engine.store.each_holder(visit));
        let waits = self.clients.values().map(|client| client.asked.len() + client.tickets.len()).sum::<usize>();
        if counts.standing > 0 || waits > 0 {
            self.blame(format!("in the end {} leases stand and {waits} requests wait", counts.standing));
        }
        for number in self.of_kind(&[Kind::InPlace, Kind::Tickets]) {
            let answer = self.world.ask(number, &format!("CACHE.FETCH fresh{number} WAIT 1000"));
            if !answer.contains("miss") || answer.contains("miss $-1 :0") {
                self.blame(format!("a connection is granted no lease any more: {answer}"));
            }
        }
        let workers: HashSet<usize> = self.of_kind(&[Kind::Worker]).into_iter().collect();
        for number in 0..workers.len() * CREDIT {
            let reader = self.world.connect("");
            self.world.send(reader, &format!("GET u:fresh{number}"));
        }
        for worker in workers {
            let loads = self.world.heard(worker).matches("u:fresh").count();
            if loads != CREDIT {
                self.blame(format!("a worker that takes {CREDIT} loads was sent {loads}"));
            }
        }
    }

    pub fn run(mut self) -> (Vec<String>, [u64; 4]) {
        (0..2).for_each(|_| _ = self.connect(Kind::Worker));
        for kind in [Kind::InPlace, Kind::InPlace, Kind::InPlace, Kind::Tickets, Kind::Tickets] {
            self.connect(kind);
        }
        let steps = 50 + self.random.below(150);
        for _ in 0..steps {
            self.step();
            if !self.violations.is_empty() {
                return (self.violations, self.counts);
            }
        }
        self.world.engine.store.check(1 << 20);
        self.settle();
        (self.violations, self.counts)
    }
}
