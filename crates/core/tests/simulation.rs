//! Readers, loaders and a writer around one key, their steps interleaved by a seed: reads, loads, fills, writes,
//! deletes, invalidations by tag, crashes, time-outs, packets that come late, twice or never.
//!
//! The database is a number that only grows. The writer commits a number and then tells the cache; once the cache has
//! answered, no read that begins later may return a lower one, and no lower one may be in the cache. That is checked at
//! each answer, and at the end when everything that was still on its way has arrived.
//!
//! The same world with clients that do it wrong shows what the check is worth: get, load, set; and a token attached to a
//! query that was running before it was granted.
//!
//! `SIMULATIONS=1000000 cargo test --release -p globalcache-core --test simulation` runs a million.

mod random;

use random::Random;
use std::sync::{Arc, Mutex};

use globalcache_core::store::{
    ConnectionId, Entry, EventSink, FetchRequest, FetchResult, Key, Meta, Options, Outcome, Store, StoreEvent,
};

/// How clients behave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// By leases.
    Leases,
    /// By leases that workers are given.
    Workers,
    /// Get, load, set.
    Naive,
    /// A token is attached to the query that is running already.
    Attached,
}

#[derive(Default)]
struct Notes(Mutex<Vec<StoreEvent>>);

impl EventSink for Notes {
    fn send(&self, note: StoreEvent, _: u64) {
        self.0.lock().unwrap().push(note);
    }
}

/// What a client is doing.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Nothing,
    /// Waits for a load; it asked when this number had been acknowledged.
    Waits(u64),
    /// Loads under a token; what its query read, once it did.
    Loads(u64, Option<u64>),
}

#[derive(Clone, Copy, Debug)]
struct Client {
    party: ConnectionId,
    doing: Doing,
    wait: u64,
}

/// On its way to the cache.
#[derive(Clone, Copy, Debug)]
enum Packet {
    Fill(u64, u64),
    Fail(u64),
    Renew(u64, ConnectionId),
    Release(u64),
}

/// What outlives one interleaving: the store, its clock, and numbers that are never used twice.
struct Server {
    store: Store,
    notes: Arc<Notes>,
    now: u64,
    next: u64,
}

impl Server {
    fn new(epoch: u64) -> Server {
        let notes = Arc::new(Notes::default());
        let options = Options {
            memory: 1 << 20,
            shards: 1,
            evict: true,
            max_value: 1 << 10,
            seed: [11, 12, 13, 14],
            epoch,
            load_limit: 10_000,
        };
        let store = Store::with_event_sink(options, Arc::clone(&notes) as Arc<dyn EventSink>);
        Server { store, notes, now: 1_000_000, next: 1 }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

const CLIENTS: usize = 4;

struct World<'a> {
    server: &'a mut Server,
    random: Random,
    manner: Manner,
    key: Vec<u8>,
    tag: u64,
    clients: [Client; CLIENTS],
    /// Outcomes that clients have not taken yet.
    mail: Vec<(ConnectionId, u64, Outcome)>,
    packets: Vec<Packet>,
    /// A worker was asked for.
    wanted: bool,
    /// What the database has.
    committed: u64,
    /// What the writer has still to tell the cache.
    untold: Option<u64>,
    /// The latest number whose invalidation was acknowledged.
    acknowledged: u64,
    violations: Vec<String>,
}

impl<'a> World<'a> {
    fn new(server: &'a mut Server, seed: u64, manner: Manner) -> World<'a> {
        server.now += 100;
        let clients = [(); CLIENTS].map(|()| {
            let party = ConnectionId { mailbox: 0, slot: 0, id: server.number() };
            Client { party, doing: Doing::Nothing, wait: 0 }
        });
        let tag = server.store.tag(&seed.to_le_bytes());
        World {
            key: format!("k{}", server.number()).into_bytes(),
            server,
            random: Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            manner,
            tag,
            clients,
            mail: Vec::new(),
            packets: Vec::new(),
            wanted: false,
            committed: 1,
            untold: None,
            acknowledged: 1,
            violations: Vec::new(),
        }
    }

    fn entry<R>(&mut self, step: impl FnOnce(&mut Entry<'_>) -> R) -> R {
        let key = Key { db: 0, bytes: &self.key };
        let result = self.server.store.with(key, self.server.now, step);
        self.take_events();
        result
    }

    fn take_events(&mut self) {
        for note in std::mem::take(&mut *self.server.notes.0.lock().unwrap()) {
            match note {
                StoreEvent::Outcome(party, wait, outcome) => self.mail.push((party, wait, outcome)),
                StoreEvent::Wanted(..) => self.wanted = true,
                // Nothing is tracked here.
                #[allow(unreachable_patterns)]
                _ => {}
            }
        }
    }

    fn check(&mut self, read: u64, floor: u64, what: &str) {
        if read < floor {
            self.violations.push(format!("{what}: {read} after {floor} was acknowledged"));
        }
    }

    fn write(&mut self, value: u64) -> Result<u64, globalcache_core::store::Refused> {
        let (now, tag) = (self.server.now, self.tag);
        let ttl = 500 + self.random.below(5_000);
        let meta = Meta {
            expires_at: self.random.chance(80).then_some(now + ttl),
            fresh_until: self.random.chance(50).then_some(now + ttl / 2),
            tags: &[tag],
            ..Meta::default()
        };
        self.entry(|entry| entry.set(&value.to_le_bytes(), &meta))
    }

    /// One step of anybody.
    fn step(&mut self) {
        let client = self.random.below(CLIENTS as u64) as usize;
        match self.random.below(12) {
            0..=2 => self.read(client),
            3..=5 => self.load(client),
            6 | 7 => self.deliver(),
            8 => self.take_mail(),
            9 => self.write_step(),
            10 if self.random.chance(30) => self.crash(client),
            10 => self.assign(client),
            _ => self.pass_time(),
        }
    }

    fn read(&mut self, number: usize) {
        if !matches!(self.clients[number].doing, Doing::Nothing) {
            return;
        }
        let floor = self.acknowledged;
        if self.manner == Manner::Naive {
            match self.entry(|entry| entry.get().map(|item| number_of(item.value.bytes()))) {
                Some(read) => self.check(read, floor, "a read"),
                None => self.clients[number].doing = Doing::Loads(0, None),
            }
            return;
        }
        let (party, wait) = (self.clients[number].party, self.server.number());
        let deadline = if self.random.chance(70) { Some(self.server.now + self.random.below(20_000)) } else { None };
        let served = self.manner == Manner::Workers && self.random.chance(80);
        let lease = Some(1 + self.random.below(3_000));
        let request = FetchRequest { connection: party, wait, deadline, lease, served, bound: self.random.chance(80) };
        enum Seen {
            Value(u64, Option<u64>),
            Lease(u64),
            Waits,
            Nothing,
        }
        let seen = self.entry(|entry| match entry.fetch(&request) {
            FetchResult::Found { item, token, .. } => Seen::Value(number_of(item.value.bytes()), token),
            FetchResult::Lease(token) => Seen::Lease(token),
            FetchResult::Waits => Seen::Waits,
            _ => Seen::Nothing,
        });
        let client = &mut self.clients[number];
        client.wait = wait;
        match seen {
            Seen::Value(read, token) => {
                if let Some(token) = token {
                    client.doing = Doing::Loads(token, None);
                }
                self.check(read, floor, "a read");
            }
            Seen::Lease(token) => self.begin(number, token),
            Seen::Waits => client.doing = Doing::Waits(floor),
            Seen::Nothing => {}
        }
    }

    /// A client got a lease: its query begins later, or, if it does it wrong, began before.
    fn begin(&mut self, number: usize, token: u64) {
        let early = self.manner == Manner::Attached && self.committed > 1 && self.random.chance(50);
        let read = if early { Some(self.committed - 1) } else { None };
        self.clients[number].doing = Doing::Loads(token, read);
    }

    fn load(&mut self, number: usize) {
        let Doing::Loads(token, read) = self.clients[number].doing else { return };
        match read {
            None => self.clients[number].doing = Doing::Loads(token, Some(self.committed)),
            Some(read) => {
                let packet = match self.random.below(20) {
                    0 => Packet::Fail(token),
                    1 => Packet::Release(token),
                    2 => Packet::Renew(token, self.clients[number].party),
                    _ => Packet::Fill(token, read),
                };
                self.packets.push(packet);
                if !matches!(packet, Packet::Renew(..)) {
                    self.clients[number].doing = Doing::Nothing;
                }
            }
        }
    }

    fn deliver(&mut self) {
        if self.packets.is_empty() {
            return;
        }
        let at = self.random.below(self.packets.len() as u64) as usize;
        // Some come twice, some never.
        let packet = if self.random.chance(10) { self.packets[at] } else { self.packets.swap_remove(at) };
        if self.random.chance(95) {
            self.arrive(packet);
        }
    }

    fn arrive(&mut self, packet: Packet) {
        match packet {
            Packet::Fill(_, read) if self.manner == Manner::Naive => {
                // Its memory is never short here.
                self.write(read).expect("room");
            }
            Packet::Fill(token, read) => {
                let (now, tag) = (self.server.now, self.tag);
                let ttl = 500 + self.random.below(5_000);
                let tags: &[u64] = if self.random.chance(80) { &[tag] } else { &[tag, 99] };
                let meta = Meta {
                    expires_at: Some(now + ttl),
                    fresh_until: self.random.chance(50).then_some(now + ttl / 2),
                    error_until: self.random.chance(30).then_some(now + ttl + 2_000),
                    tags,
                    ..Meta::default()
                };
                self.entry(|entry| entry.fill(token, &read.to_le_bytes(), &meta)).expect("room");
            }
            Packet::Fail(token) => {
                let message = Arc::from("down");
                self.entry(|entry| entry.fail(token, &message, None));
            }
            Packet::Renew(token, party) => {
                self.entry(|entry| entry.renew(token, 2_000, party));
            }
            Packet::Release(token) => {
                self.entry(|entry| entry.release(token));
            }
        }
    }

    fn take_mail(&mut self) {
        if self.mail.is_empty() {
            return;
        }
        // Each client takes its messages in their order.
        let (party, wait, outcome) = self.mail.remove(0);
        let Some(number) = self.clients.iter().position(|client| client.party == party) else {
            if let Outcome::Lease(granted) = outcome {
                self.entry(|entry| entry.give_up(granted.token));
            }
            return;
        };
        let awaited = matches!(self.clients[number].doing, Doing::Waits(_)) && self.clients[number].wait == wait;
        match (outcome, self.clients[number].doing) {
            (Outcome::Loaded(loaded), Doing::Waits(floor)) if awaited => {
                self.clients[number].doing = Doing::Nothing;
                self.check(number_of(&loaded.value), floor, "an outcome");
            }
            (Outcome::Lease(granted), _) if awaited => self.begin(number, granted.token),
            (Outcome::Lease(granted), _) => {
                self.entry(|entry| entry.release(granted.token));
            }
            (_, _) if awaited => self.clients[number].doing = Doing::Nothing,
            _ => {}
        }
    }

    /// The writer commits, and some time later tells the cache; between the two it may die.
    fn write_step(&mut self) {
        let Some(told) = self.untold.take() else {
            self.committed += 1;
            self.untold = Some(self.committed);
            return;
        };
        if self.random.chance(5) {
            return;
        }
        match self.random.below(8) {
            0..=2 => {
                self.entry(|entry| entry.remove());
            }
            3..=5 => {
                let tag = self.tag;
                self.server.store.invalidate_tags(&[tag]);
            }
            6 => {
                self.write(told).expect("room");
            }
            _ => {
                self.server.store.clear(Some(0), self.server.now);
                self.take_events();
            }
        }
        self.acknowledged = told;
    }

    fn crash(&mut self, number: usize) {
        let party = self.clients[number].party;
        // What it sent may still arrive.
        if let Doing::Loads(token, Some(read)) = self.clients[number].doing
            && self.random.chance(50)
        {
            self.packets.push(Packet::Fill(token, read));
        }
        if let Doing::Loads(token, _) = self.clients[number].doing {
            let hold = self.entry(|entry| entry.hold(token));
            self.server.store.lost(hold, party, self.server.now);
            self.take_events();
        }
        self.entry(|entry| entry.left(party));
        let id = self.server.number();
        self.clients[number] = Client { party: ConnectionId { id, ..party }, doing: Doing::Nothing, wait: 0 };
    }

    /// A worker takes the load that was asked for.
    fn assign(&mut self, number: usize) {
        if !self.wanted || !matches!(self.clients[number].doing, Doing::Nothing) {
            return;
        }
        self.wanted = false;
        let party = self.clients[number].party;
        match self.entry(|entry| entry.assign(party, 2_000)) {
            Some(token) => self.begin(number, token),
            None if self.random.chance(50) => self.entry(|entry| entry.fall_back()),
            None => {}
        }
    }

    fn pass_time(&mut self) {
        let longest = if self.random.chance(10) { 5_000 } else { 300 };
        self.server.now += self.random.below(longest);
        self.server.store.tick_leases(self.server.now);
        if self.random.chance(20) {
            self.server.store.tick(self.server.now);
        }
        self.take_events();
    }

    fn run(mut self) -> Vec<String> {
        for _ in 0..20 + self.random.below(40) {
            self.step();
        }
        // Everything that is still on its way arrives.
        while let Some(packet) = self.packets.pop() {
            self.arrive(packet);
        }
        let floor = self.acknowledged;
        let kept = self.entry(|entry| entry.get().map(|item| number_of(item.value.bytes())));
        if let Some(kept) = kept {
            self.check(kept, floor, "what stays in the cache");
        }
        for client in self.clients {
            self.entry(|entry| entry.left(client.party));
        }
        self.violations
    }
}

fn number_of(value: &[u8]) -> u64 {
    u64::from_le_bytes(value.try_into().expect("eight bytes"))
}

/// How many interleavings: more where there is time for them.
fn count() -> u64 {
    std::env::var("SIMULATIONS").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// Interleavings with a violation.
fn violations(manner: Manner, count: u64) -> Vec<(u64, Vec<String>)> {
    let mut found = Vec::new();
    let mut server = Server::new(1);
    for seed in 1..=count {
        if seed % 5_000 == 0 {
            // A new life; nothing of the old one is known to it, and its numbers lie above.
            server = Server { now: server.now, ..Server::new(seed << 32) };
        }
        let violations = World::new(&mut server, seed, manner).run();
        if !violations.is_empty() {
            found.push((seed, violations));
        }
    }
    found
}

#[test]
fn leases_never_serve_what_was_invalidated() {
    let found = violations(Manner::Leases, count());
    assert!(found.is_empty(), "{} of {}: {:?}", found.len(), count(), found.first());
}

#[test]
fn workers_never_serve_what_was_invalidated() {
    let found = violations(Manner::Workers, count());
    assert!(found.is_empty(), "{} of {}: {:?}", found.len(), count(), found.first());
}

#[test]
fn get_load_set_does() {
    assert!(violations(Manner::Naive, 2_000).len() > 20);
}

#[test]
fn a_token_attached_to_a_running_query_does() {
    assert!(violations(Manner::Attached, 2_000).len() > 20);
}
