//! Ordinary load of leases, in virtual time: pools of connections that use any of them for either half of a load, loader
//! workers that die with loads in hand, holders that answer late, wrongly or never, waiters that leave, clients that
//! come back with a newer session, and tags of other keys that are invalidated meanwhile.
//!
//! A model follows what every client was told. It judges effects: who holds a lease is there, no two hold one, nobody
//! waits beyond its limit or gets an error that no holder is to blame for, no fill is refused that nothing has touched, and
//! in the end everything is as it was, with all credit given back.
//!
//! `LEASE_LOADS=10000 cargo test --release -p globalcache-core --test lease_load` runs so many, from the seed LEASE_FROM on.

mod random;
mod world;

use random::Random;
use std::collections::{HashMap, HashSet, VecDeque};

use world::World;

/// A reply, or a push.
#[derive(Clone, Debug, PartialEq)]
enum Told {
    Text(String),
    Error(String),
    Int(i64),
    Nothing,
    Many(Vec<Told>),
    Push(Vec<Told>),
}

impl Told {
    fn read(input: &mut &[u8]) -> Told {
        let end = memchr::memchr(b'\n', input).expect("a whole reply");
        let line = String::from_utf8(input[1..end - 1].to_vec()).unwrap();
        let kind = input[0];
        *input = &input[end + 1..];
        match (kind, line.parse::<i64>()) {
            (b'+', _) => Told::Text(line),
            (b'-', _) => Told::Error(line),
            (b':', Ok(number)) => Told::Int(number),
            (b'$', Ok(length @ 0..)) => {
                let text = String::from_utf8(input[..length as usize].to_vec()).unwrap();
                *input = &input[length as usize + 2..];
                Told::Text(text)
            }
            (b'*', Ok(count @ 0..)) => Told::Many((0..count).map(|_| Told::read(input)).collect()),
            (b'%', Ok(count)) => Told::Many((0..2 * count).map(|_| Told::read(input)).collect()),
            (b'>', Ok(count)) => Told::Push((0..count).map(|_| Told::read(input)).collect()),
            _ => Told::Nothing,
        }
    }

    fn text(&self) -> &str {
        if let Told::Text(text) = self { text } else { "" }
    }

    fn int(&self) -> u64 {
        if let Told::Int(number) = self { *number as u64 } else { 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// One of a pool; requests that wait are answered in their place.
    InPlace,
    /// As it, with tickets for whatever waits.
    Tickets,
    /// A loader worker.
    Worker,
}

/// What a request is to be answered with.
#[derive(Clone, Debug)]
enum Asked {
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

struct Client {
    kind: Kind,
    asked: VecDeque<(Asked, u64)>,
    tickets: HashMap<u64, (Asked, u64)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum End {
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
struct Load {
    key: String,
    token: u64,
    client: usize,
    granted: u64,
    /// When its lease passes on.
    deadline: u64,
    /// When its client answers for it, or says that it takes longer, and what it answers in the end.
    next: u64,
    ends: u64,
    end: End,
    /// The key was changed, or its tag invalidated, since.
    changed: bool,
    /// Nothing has happened that may refuse its value.
    good: bool,
    passed_on: bool,
}

#[derive(Default)]
struct Key {
    /// Holders that ended or let their time pass since the last load that was answered.
    bad: u64,
    /// When workers were sent it since it was answered otherwise than by a release.
    sent: Vec<u64>,
    /// When it was asked for.
    asked: Vec<u64>,
}

const LEASE: u64 = 3_000;
const LOAD_LIMIT: u64 = 30_000;
const MAX_AGE: u64 = 60_000;
const CREDIT: usize = 3;
/// Bytes that a request which waits takes at least.
const LEAST_WAIT: u64 = 100;
/// What a tick may be late.
const LATE: u64 = 150;

struct Simulation {
    world: World,
    random: Random,
    clients: HashMap<usize, Client>,
    loads: Vec<Load>,
    keys: HashMap<String, Key>,
    sessions: u64,
    violations: Vec<String>,
    /// Loads begun, values stored, fills refused, waits that ended well: that the load is one.
    counts: [u64; 4],
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
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

    fn now(&self) -> u64 {
        self.world.now.mono
    }

    fn blame(&mut self, text: String) {
        let now = self.now();
        self.violations.push(format!("at {now}: {text}"));
    }

    fn connect(&mut self, kind: Kind) -> usize {
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

    fn of_kind(&self, wanted: &[Kind]) -> Vec<usize> {
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
    fn free(&mut self, wanted: &[Kind]) -> usize {
        let all = self.of_kind(wanted);
        let free: Vec<usize> = all.into_iter().filter(|number| !self.world.is_parked(*number)).collect();
        if free.is_empty() { self.connect(wanted[0]) } else { self.random.of(&free) }
    }

    fn ask(&mut self, number: usize, line: &str, asked: Asked) {
        let now = self.now();
        if let Asked::Read { key } | Asked::Fetch { key, .. } = &asked {
            self.keys.entry(key.clone()).or_default().asked.push(now);
        }
        self.clients.get_mut(&number).unwrap().asked.push_back((asked, now));
        self.world.post(number, line);
        self.hear(number);
    }

    /// Takes what every client was told.
    fn hear_all(&mut self) {
        for number in self.of_kind(&[Kind::InPlace, Kind::Tickets, Kind::Worker]) {
            self.hear(number);
        }
    }

    fn exchange(&mut self) {
        self.world.exchange();
        self.hear_all();
    }

    fn hear(&mut self, number: usize) {
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

    fn told(&mut self, number: usize, asked: Asked, since: u64, told: &Told) {
        let ticket = match (&asked, told) {
            (Asked::Fetch { .. }, Told::Many(parts)) if parts[0].text() == "waiting" => parts[2].int(),
            (_, Told::Error(text)) => text.strip_prefix("WAITING ").map_or(0, |ticket| ticket.parse().unwrap()),
            _ => 0,
        };
        if ticket > 0 {
            self.clients.get_mut(&number).unwrap().tickets.insert(ticket, (asked, since));
            return;
        }
        match asked {
            Asked::Fetch { key, wait } => self.told_fetch(number, key, wait, since, told),
            Asked::Read { key } => self.told_read(&key, since, told),
            Asked::End(load, end) => self.told_end(load, end, told),
            Asked::Other => {}
        }
    }

    fn told_read(&mut self, key: &str, since: u64, told: &Told) {
        match told {
            Told::Many(parts) if parts.len() == 1 => self.told_read(key, since, &parts[0]),
            Told::Error(text) => self.told_failure(key, text, since + LOAD_LIMIT),
            Told::Many(parts) if parts[0].text() != "miss" => self.counts[3] += 1,
            Told::Text(_) => self.counts[3] += 1,
            _ => self.blame(format!("{key} is served and was answered by {told:?}")),
        }
    }

    fn told_fetch(&mut self, number: usize, key: String, wait: u64, since: u64, told: &Told) {
        let parts = match told {
            Told::Error(text) => return self.told_failure(&key, text, since + wait),
            Told::Many(parts) => parts,
            _ => unreachable!("{told:?}"),
        };
        let (state, token) = (parts[0].text(), parts[2].int());
        match state {
            "miss" if token == 0 => self.blame(format!("{key}: nothing is there, and no lease was granted")),
            "waiting" if wait > 0 && !self.loads.iter().any(|load| load.client == number) => {
                self.blame(format!("{key}: a connection without a lease may not wait"));
            }
            "timeout" if self.now() < since + wait => self.blame(format!("{key}: a wait ended before its time")),
            "hit" | "stale" => self.counts[3] += 1,
            _ => {}
        }
        if token > 0 {
            self.begin(number, key, token);
        }
    }

    /// An error that is no holder's fault is ours.
    fn told_failure(&mut self, key: &str, text: &str, limit: u64) {
        let bad = self.keys.entry(key.to_owned()).or_default().bad;
        let too_soon = text.contains("not loaded in time") || text.starts_with("NOLOADER");
        let blamed = text.contains("ended, twice") || text.contains("answered in time");
        if too_soon && self.now() < limit || blamed && bad < 2 || text.starts_with("BUSY") {
            self.blame(format!("{key}: {text}, after {bad} holders that did not answer"));
        }
    }

    fn sent(&mut self, number: usize, key: String, token: u64) {
        let now = self.now();
        let Key { sent, asked, .. } = self.keys.entry(key.clone()).or_default();
        sent.push(now);
        for times in [&mut *sent, &mut *asked] {
            times.retain(|at| at + 1_000 > now);
        }
        let (sent, asked) = (sent.len(), asked.len());
        // Whoever finds nobody waiting begins anew.
        if sent > 6 + 3 * asked {
            self.blame(format!("{key}: asked for {asked} times in a second, sent {sent} times, and only released"));
        }
        self.begin(number, key, token);
        let has =
            self.loads.iter().filter(|load| load.client == number && load.deadline > now && !load.changed).count();
        if has > CREDIT {
            self.blame(format!("a worker was sent {has} loads and takes {CREDIT}"));
        }
    }

    fn begin(&mut self, client: usize, key: String, token: u64) {
        let now = self.now();
        let others = |load: &&mut Load| load.key == key;
        let second = self.loads.iter_mut().filter(others).any(|load| !load.passed_on && !load.changed && load.good);
        if second {
            self.blame(format!("{key}: two hold its lease"));
        }
        // At most three tokens of a key are good at a time.
        let mut known = self.loads.iter_mut().filter(others).filter(|load| !load.changed).rev();
        known.by_ref().nth(1);
        known.for_each(|load| load.good = false);
        let length = self.random.of(&[1, 20, 300, 2_000, 4_000, 10_000]);
        let end = match self.random.below(20) {
            0 => End::Never,
            1 => End::Fail,
            2 => End::Unstorable,
            3 => End::Unread,
            4 => End::Release,
            _ if key.starts_with("u:r") => End::Release,
            _ => End::Fill,
        };
        let ends = if end == End::Release { now } else { now + self.random.below(length) };
        // Some say in time that it takes longer.
        let next = if self.random.chance(70) { ends.min(now + 1_000) } else { ends };
        let deadline = now + LEASE;
        self.counts[0] += 1;
        let load = Load {
            key,
            token,
            client,
            granted: now,
            deadline,
            next,
            ends,
            end,
            changed: false,
            good: true,
            passed_on: false,
        };
        self.loads.push(load);
    }

    /// Clients answer for loads that are done, by any of their connections.
    fn answer(&mut self) {
        let now = self.now();
        let mut rounds = 0;
        while let Some(at) = self.loads.iter().position(|load| load.next <= now && load.end != End::Never) {
            rounds += 1;
            if rounds > 200 {
                self.blame("loads are handed back and forth without an end".to_owned());
                return;
            }
            let own = self.clients.get(&self.loads[at].client).map(|client| client.kind);
            let number = match own {
                Some(Kind::Worker) if self.random.chance(80) => self.loads[at].client,
                _ => self.free(&[Kind::InPlace, Kind::Tickets]),
            };
            if self.loads[at].next < self.loads[at].ends {
                self.renew(number, at);
            } else {
                let load = self.loads.swap_remove(at);
                self.end(number, load);
            }
            // A worker is sent the next load at once.
            self.exchange();
        }
    }

    fn renew(&mut self, number: usize, at: usize) {
        let load = &self.loads[at];
        let line = format!("CACHE.RENEW {} {} {LEASE}", load.key, load.token);
        self.clients.get_mut(&number).unwrap().asked.push_back((Asked::Other, load.granted));
        self.world.post(number, &line);
        let said = self.world.said(number);
        self.clients.get_mut(&number).unwrap().asked.pop_back();
        let now = self.now();
        let load = &mut self.loads[at];
        load.next = load.ends.min(now + 1_000);
        if Told::read(&mut &said[..]) == Told::Int(1) {
            (load.deadline, load.passed_on) = ((now + LEASE).min(load.granted + LOAD_LIMIT), false);
            load.client = number;
        }
    }

    fn end(&mut self, number: usize, load: Load) {
        let Load { key, token, .. } = &load;
        let ttl = self.random.of(&[50, 500, 5_000]);
        let tags = format!("TAGS 2 t:{key} all");
        let line = match load.end {
            End::Fill => {
                let value = "v".repeat(self.random.of(&[1, 100, World::LONGEST / 2, World::LONGEST]));
                let refresh = if self.random.chance(30) { format!("REFRESH {}", ttl / 3) } else { String::new() };
                format!("CACHE.FILL {key} {token} {value} TTL {ttl} {refresh} {tags}")
            }
            End::Unstorable if self.random.chance(50) => {
                format!("CACHE.FILL {key} {token} {} {tags}", "x".repeat(World::LONGEST + 1))
            }
            End::Unstorable => {
                let ttl = self.random.of(&["99999999999999999", "soon"]);
                format!("CACHE.FILL {key} {token} v TTL {ttl} {tags}")
            }
            End::Unread if self.random.chance(50) => {
                let words = ["CACHE.FILL", key, &token.to_string(), &"x".repeat(World::LONGEST_READ + 1)];
                words.iter().fold("*4".to_owned(), |line, word| format!("{line}\r\n${}\r\n{word}", word.len()))
            }
            End::Unread => format!("CACHE.FILL {key} {token} v SOON {tags}"),
            End::Fail => format!("CACHE.FAIL {key} {token} down"),
            End::Release => format!("CACHE.RELEASE {key} {token}"),
            End::Never => return,
        };
        let end = load.end;
        self.ask(number, &line, Asked::End(load, end));
    }

    fn told_end(&mut self, load: Load, end: End, told: &Told) {
        let (now, key) = (self.now(), load.key.clone());
        let young = now < load.granted + MAX_AGE;
        let (stored, refused) = (end == End::Fill && told.int() > 0, *told == Told::Int(0));
        match end {
            End::Fill if refused && load.good && young && !load.changed => {
                self.blame(format!("{key}: a fill was refused although nothing has changed"));
            }
            End::Fill if stored && load.changed => {
                self.blame(format!("{key}: a value from before a change was stored"))
            }
            End::Fill if stored => self.counts[1] += 1,
            End::Fill => self.counts[2] += 1,
            _ => {}
        }
        let holds = !load.passed_on && !load.changed && load.good;
        if end == End::Release {
            return;
        }
        let known = self.keys.entry(key.clone()).or_default();
        known.sent.clear();
        if load.changed {
            return;
        }
        // Its tokens end, and what was counted against it; if it had passed on and failed, another one may succeed.
        if stored || holds {
            known.bad = 0;
        }
        if stored || !matches!(end, End::Fail | End::Unread) || holds {
            self.loads.iter_mut().filter(|load| load.key == key).for_each(|load| load.good = false);
        }
    }

    /// Time passes: what was not answered in time is on its holder.
    fn pass(&mut self, millis: u64) {
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

    fn did_not_answer(&mut self, at: usize) {
        let key = self.loads[at].key.clone();
        let known = self.keys.entry(key.clone()).or_default();
        known.bad += 1;
        known.sent.clear();
        if known.bad >= 2 {
            // All that wait may have been told, and then no token of before is good.
            self.loads.iter_mut().filter(|load| load.key == key).for_each(|load| load.good = false);
        }
    }

    fn check_waits(&mut self) {
        let now = self.now();
        let mut late = Vec::new();
        for client in self.clients.values() {
            for (asked, since) in client.asked.iter().chain(client.tickets.values()) {
                let limit = match asked {
                    Asked::Fetch { wait, .. } => *wait,
                    Asked::Read { .. } => LOAD_LIMIT,
                    _ => continue,
                };
                // In its place, a request is asked when those before it were answered.
                if client.kind == Kind::Tickets && now > since + limit + LATE || now > since + 6 * LOAD_LIMIT {
                    late.push(format!("{asked:?} of {since} waits"));
                }
            }
        }
        late.into_iter().for_each(|text| self.blame(text));
        self.check_owners();
        self.check_memory();
    }

    /// What waits beside other requests is counted as memory of its client.
    fn check_memory(&mut self) {
        for number in self.of_kind(&[Kind::Tickets]) {
            let waiting = self.clients[&number].tickets.len() as u64;
            let counted = self.world.memory(number);
            if counted < waiting * LEAST_WAIT {
                self.blame(format!("{counted} bytes are counted of {waiting} requests that wait"));
            }
        }
    }

    fn check_owners(&mut self) {
        let world = &self.world;
        let counts = world.engine.count_leases(|visit| world.engine.store.each_holder(visit));
        if counts.unowned > 0 {
            self.blame(format!("{} leases belong to nobody", counts.unowned));
        }
    }

    fn step(&mut self) {
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

    fn key(&mut self) -> String {
        let kind = self.random.of(&["a", "u"]);
        format!("{kind}:{}", self.random.below(8))
    }

    fn fetch(&mut self) {
        let (key, number) = (self.key(), self.free(&[Kind::InPlace, Kind::Tickets]));
        let wait = self.random.of(&[0, 100, 2_000, 20_000]);
        self.ask(number, &format!("CACHE.FETCH {key} WAIT {wait}"), Asked::Fetch { key, wait });
    }

    fn read(&mut self) {
        let number = self.free(&[Kind::InPlace, Kind::Tickets]);
        // Some keys are released by whoever is sent them.
        let key = if self.random.chance(5) { "u:r".to_owned() } else { format!("u:{}", self.random.below(8)) };
        let name = self.random.of(&["GET", "GET", "MGET", "CACHE.GET", "CACHE.MGET", "CACHE.ENTRY"]);
        self.ask(number, &format!("{name} {key}"), Asked::Read { key });
    }

    /// Keys and tags are changed: mostly others than those that are loaded.
    fn change(&mut self) {
        self.exchange();
        let number = self.free(&[Kind::InPlace]);
        let (key, many) = (self.key(), self.random.below(60));
        let line = match self.random.below(10) {
            0 => format!("DEL {key}"),
            1 => format!("CACHE.INVALIDATE TAGS 2 t:{key} other KEYS 1 other"),
            2 => format!("SET {key} w PX 300"),
            3 => "CACHE.INVALIDATE TAGS 1 all".to_owned(),
            _ => format!("CACHE.INVALIDATE TAGS 2 other:{many} other KEYS 1 other"),
        };
        let all = line.ends_with("all");
        if all || line.contains(&key) && !line.starts_with("SET u") {
            let touched = |load: &&mut Load| all || load.key == key;
            self.loads.iter_mut().filter(touched).for_each(|load| load.changed = true);
        }
        if !line.starts_with("SET u") {
            self.ask(number, &line, Asked::Other);
        }
        self.exchange();
    }

    /// A connection ends, at any moment; of a worker's, other threads hand out loads meanwhile.
    fn leave(&mut self) {
        let all = self.of_kind(&[Kind::InPlace, Kind::Tickets, Kind::Worker]);
        if all.len() < 4 {
            return;
        }
        let number = self.random.of(&all);
        self.hear(number);
        let kind = self.clients.remove(&number).unwrap().kind;
        self.world.take_mail();
        if kind == Kind::Worker && self.random.chance(50) {
            self.world.close_beside(number, |engine, now| engine.pump(now));
        } else {
            self.world.close_beside(number, |_, _| {});
        }
        // All that there was to be sent had been sent.
        let loads = self.world.take_mail().into_iter().filter(|(to, is_load)| *to == number && *is_load).count();
        if loads > 0 {
            self.blame(format!("a worker was sent {loads} loads while it was closed"));
        }
        for at in 0..self.loads.len() {
            if self.loads[at].client == number && !self.loads[at].passed_on {
                self.loads[at].passed_on = true;
                self.did_not_answer(at);
            }
        }
        // What a worker had in hand is gone with it; what a pool loads is stored by another of its connections.
        self.loads.retain(|load| load.client != number || kind != Kind::Worker);
    }

    /// A client comes back while its old connection has a write on the way.
    fn come_back(&mut self) {
        self.exchange();
        self.sessions += 1;
        let (name, key) = (format!("s{}", self.sessions), format!("k{}", self.sessions));
        let (old, new) = (self.world.connect(""), self.world.connect(""));
        let late = format!("CACHE.SESSION {name} 1\r\nSET {key} late\r\n");
        let waits = self.random.chance(50);
        if waits {
            self.wait_and_write(old, &name, &key);
        } else if self.random.chance(50) {
            self.world.feed_once(old, &late);
            if self.world.heard(old).contains("+OK") {
                self.blame(format!("{key}: what came with its session was run before the fence was held"));
            }
        }
        if waits {
            // What its write waits for comes otherwise than by its load, and is on its way to the old connection.
            self.exchange();
            let row = format!("u:{key}");
            self.loads.iter_mut().filter(|load| load.key == row).for_each(|load| load.changed = true);
            self.world.post(new, &format!("SET {row} v"));
        }
        self.world.post(new, &format!("CACHE.SESSION {name} 2"));
        self.world.post(new, &format!("CACHE.INVALIDATE KEYS 1 {key}"));
        self.world.ask(new, "");
        self.world.feed_once(old, &late);
        self.world.ask(old, "");
        if self.world.ask(new, &format!("GET {key}")) != "$-1" {
            self.blame(format!("{key}: what an old connection sent was run after the new one was welcomed"));
        }
        self.world.close(old);
        self.world.close(new);
        self.hear_all();
    }

    /// An old connection sends a write that waits, since it goes by what a worker is to load.
    fn wait_and_write(&mut self, old: usize, name: &str, key: &str) {
        let tickets = if self.random.chance(70) { " TICKETS" } else { "" };
        self.world.ask(old, "HELLO 3");
        self.world.ask(old, &format!("CACHE.SESSION {name} 1{tickets}"));
        self.world.post(old, &format!("COPY u:{key} {key}"));
    }

    /// Nothing new is asked; everything ends. Then all connections and workers are as good as new.
    fn settle(&mut self) {
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

    fn run(mut self) -> (Vec<String>, [u64; 4]) {
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

/// A number from the environment: how many loads, say, more where there is time for them.
fn given(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().expect("a number"))
}

#[test]
fn leases_under_ordinary_load() {
    let mut total = [0; 4];
    let (from, count) = (given("LEASE_FROM", 1), given("LEASE_LOADS", 60));
    for seed in from..from + count {
        let (violations, counts) = Simulation::new(seed).run();
        assert!(violations.is_empty(), "seed {seed}: {violations:#?}");
        total.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    // It is a load only if all of this happens often.
    assert!(total.iter().all(|total| *total > count), "{total:?}");
}
