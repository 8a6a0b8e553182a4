//! What clients do: they fetch, load, answer or do not, leave and come back.

use crate::simulation::*;
use crate::told::Told;
use crate::world::World;

impl Simulation {
    pub fn key(&mut self) -> String {
        let kind = self.random.of(&["a", "u"]);
        format!("{kind}:{}", self.random.below(8))
    }

    pub fn fetch(&mut self) {
        let (key, number) = (self.key(), self.free(&[Kind::InPlace, Kind::Tickets]));
        let wait = self.random.of(&[0, 100, 2_000, 20_000]);
        self.ask(number, &format!("CACHE.FETCH {key} WAIT {wait}"), Asked::Fetch { key, wait });
    }

    pub fn read(&mut self) {
        let number = self.free(&[Kind::InPlace, Kind::Tickets]);
        // Some keys are released by whoever is sent them.
        let key = if self.random.chance(5) { "u:r".to_owned() } else { format!("u:{}", self.random.below(8)) };
        let name = self.random.of(&["GET", "GET", "MGET", "CACHE.GET", "CACHE.MGET", "CACHE.ENTRY"]);
        self.ask(number, &format!("{name} {key}"), Asked::Read { key });
    }

    /// Keys and tags are changed: mostly others than those that are loaded.
    pub fn change(&mut self) {
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

    pub fn begin(&mut self, client: usize, key: String, token: u64) {
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
    pub fn answer(&mut self) {
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

    pub fn renew(&mut self, number: usize, at: usize) {
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

    pub fn end(&mut self, number: usize, load: Load) {
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

    /// A connection ends, at any moment; of a worker's, other threads hand out loads meanwhile.
    pub fn leave(&mut self) {
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
    pub fn come_back(&mut self) {
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
    pub fn wait_and_write(&mut self, old: usize, name: &str, key: &str) {
        let tickets = if self.random.chance(70) { " TICKETS" } else { "" };
        self.world.ask(old, "HELLO 3");
        self.world.ask(old, &format!("CACHE.SESSION {name} 1{tickets}"));
        self.world.post(old, &format!("COPY u:{key} {key}"));
    }
}
