//! What a client may be told, and what must be true at any time.

use crate::simulation::*;
use crate::told::Told;

impl Simulation {
    pub fn told(&mut self, number: usize, asked: Asked, since: u64, told: &Told) {
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

    pub fn told_read(&mut self, key: &str, since: u64, told: &Told) {
        match told {
            Told::Many(parts) if parts.len() == 1 => self.told_read(key, since, &parts[0]),
            Told::Error(text) => self.told_failure(key, text, since + LOAD_LIMIT),
            Told::Many(parts) if parts[0].text() != "miss" => self.counts[3] += 1,
            Told::Text(_) => self.counts[3] += 1,
            _ => self.blame(format!("{key} is served and was answered by {told:?}")),
        }
    }

    pub fn told_fetch(&mut self, number: usize, key: String, wait: u64, since: u64, told: &Told) {
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
    pub fn told_failure(&mut self, key: &str, text: &str, limit: u64) {
        let bad = self.keys.entry(key.to_owned()).or_default().bad;
        let too_soon = text.contains("not loaded in time") || text.starts_with("NOLOADER");
        let blamed = text.contains("ended, twice") || text.contains("answered in time");
        if too_soon && self.now() < limit || blamed && bad < 2 || text.starts_with("BUSY") {
            self.blame(format!("{key}: {text}, after {bad} holders that did not answer"));
        }
    }

    pub fn sent(&mut self, number: usize, key: String, token: u64) {
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

    pub fn told_end(&mut self, load: Load, end: End, told: &Told) {
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

    pub fn did_not_answer(&mut self, at: usize) {
        let key = self.loads[at].key.clone();
        let known = self.keys.entry(key.clone()).or_default();
        known.bad += 1;
        known.sent.clear();
        if known.bad >= 2 {
            // All that wait may have been told, and then no token of before is good.
            self.loads.iter_mut().filter(|load| load.key == key).for_each(|load| load.good = false);
        }
    }

    pub fn check_waits(&mut self) {
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
    pub fn check_memory(&mut self) {
        for number in self.of_kind(&[Kind::Tickets]) {
            let waiting = self.clients[&number].tickets.len() as u64;
            let counted = self.world.memory(number);
            if counted < waiting * LEAST_WAIT {
                self.blame(format!("{counted} bytes are counted of {waiting} requests that wait"));
            }
        }
    }

    pub fn check_owners(&mut self) {
        let world = &self.world;
        let counts = world.engine.count_leases(|visit| world.engine.store.each_holder(visit));
        if counts.unowned > 0 {
            self.blame(format!("{} leases belong to nobody", counts.unowned));
        }
    }
}
