//! What one client asks, and what it is to be answered.

use std::collections::{BTreeMap, BTreeSet};

use super::{Draw, MAX_VALUE};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Redis,
    /// RESP3, whose requests that wait are answered with tickets.
    Tickets,
    Memcached,
    Json,
    /// One whose requests are no matter of the model.
    Other,
}

/// What is asked of keys: numbers of own ones, or the keys that workers load.
#[derive(Clone, Debug)]
enum Ask {
    Get(usize),
    Set(usize, Vec<u8>),
    Delete(usize),
    Load(String),
    AddLoaded(String),
    Both(usize, String),
    Ping,
}

/// The answer to one request.
#[derive(Debug)]
enum Answer {
    Exactly(Vec<u8>),
    /// As it is, or later under a ticket.
    Loaded(Vec<u8>),
}

pub struct Model {
    slot: usize,
    pub kind: Kind,
    db: usize,
    values: BTreeMap<(usize, usize), Vec<u8>>,
    queue: Option<Vec<Ask>>,
    queued_bytes: usize,
    spoiled: bool,
    watched: BTreeSet<(usize, usize)>,
    changed: bool,
    off: bool,
    /// Replies to be skipped.
    skip: bool,
    expected: Vec<Answer>,
}

fn too_long(length: usize) -> Vec<u8> {
    format!("-ERR value of {length} bytes is more than max-value {MAX_VALUE}\r\n").into_bytes()
}

fn bulk(value: &[u8]) -> Vec<u8> {
    [format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat()
}

fn array(words: &[&[u8]]) -> Vec<u8> {
    let words: Vec<Vec<u8>> = words.iter().map(|word| bulk(word)).collect();
    [format!("*{}\r\n", words.len()).as_bytes(), &words.concat()].concat()
}

/// A value around the limit, which would do harm if it were run.
fn value(draw: &mut Draw<'_>) -> Vec<u8> {
    let lengths = [0, 1, 30, 999, 1000, 1001, 1002, 2000, 3000];
    let harm = [&b"\r\nflush_all\r\nflush_all\r\n"[..], b"*1\r\n$8\r\nFLUSHALL\r\n", b"plain"][draw.below(3)];
    harm.iter().copied().chain(std::iter::repeat(b'v')).take(lengths[draw.below(lengths.len())]).collect()
}

impl Model {
    pub fn new(slot: usize, kind: Kind) -> Model {
        Model {
            slot,
            kind,
            db: 0,
            values: BTreeMap::new(),
            queue: None,
            queued_bytes: 0,
            spoiled: false,
            watched: BTreeSet::new(),
            changed: false,
            off: false,
            skip: false,
            expected: Vec::new(),
        }
    }

    /// Bytes of what the server keeps for EXEC: requests, and the keys that they depend on.
    pub fn kept_bytes(&self) -> usize {
        let watched = self.watched.iter().map(|(_, key)| self.name(*key).len());
        self.queued_bytes + watched.sum::<usize>()
    }

    /// Draws a request and appends it to what is sent.
    pub fn ask(&mut self, draw: &mut Draw<'_>, sent: &mut Vec<u8>) {
        match self.kind {
            Kind::Redis | Kind::Tickets => self.ask_redis(draw, sent),
            Kind::Memcached => self.ask_memcached(draw, sent),
            Kind::Json => self.ask_json(draw, sent),
            Kind::Other => {}
        }
    }

    fn name(&self, key: usize) -> Vec<u8> {
        format!("{}-{key}", self.slot).into_bytes()
    }

    fn null(&self) -> Vec<u8> {
        if self.kind == Kind::Tickets { b"_\r\n".to_vec() } else { b"$-1\r\n".to_vec() }
    }

    fn ask_redis(&mut self, draw: &mut Draw<'_>, sent: &mut Vec<u8>) {
        let key = draw.below(3);
        let loaded = format!("w:{}", draw.below(8));
        let ask = match draw.below(20) {
            0..=2 => Ask::Get(key),
            3..=6 => Ask::Set(key, value(draw)),
            7 => Ask::Delete(key),
            8 if self.queue.is_none() => Ask::Load(loaded),
            9 if self.queue.is_none() => Ask::Load(format!("b:{}", draw.below(2))),
            // Under a ticket the own key would be read when the load has ended, after later writes of it.
            10 if self.queue.is_none() && self.kind == Kind::Redis => Ask::Both(key, loaded),
            8..=10 => Ask::Load(format!("p:{}", draw.below(8))),
            11 => Ask::AddLoaded(format!("p:{}", draw.below(8))),
            12 => Ask::Ping,
            choice => return self.steer(choice, key, sent),
        };
        self.ask_key(ask, sent);
    }

    /// Requests about the connection and its transaction.
    fn steer(&mut self, choice: usize, key: usize, sent: &mut Vec<u8>) {
        let (open, name) = (self.queue.is_some(), self.name(key));
        let mut say = |words: &[&[u8]]| sent.extend(array(words));
        match choice {
            13 | 14 if open => {
                say(&[b"EXEC"]);
                let reply = self.exec();
                self.answer(Answer::Exactly(reply));
            }
            13 | 14 => {
                say(&[b"MULTI"]);
                self.queue = Some(Vec::new());
                self.answer(Answer::Exactly(b"+OK\r\n".to_vec()));
            }
            15 if open => {
                say(&[b"DISCARD"]);
                self.forget();
                self.answer(Answer::Exactly(b"+OK\r\n".to_vec()));
            }
            15 => {
                say(&[b"WATCH", &name]);
                self.watched.insert((self.db, key));
                self.answer(Answer::Exactly(b"+OK\r\n".to_vec()));
            }
            _ if open => {}
            16 => {
                self.db = 1 - self.db;
                say(&[b"SELECT", self.db.to_string().as_bytes()]);
                self.answer(Answer::Exactly(b"+OK\r\n".to_vec()));
            }
            17 => {
                say(&[b"CLIENT", b"REPLY", b"SKIP"]);
                self.skip = !self.off;
            }
            18 => {
                say(&[b"CLIENT", b"REPLY", b"OFF"]);
                (self.off, self.skip) = (true, false);
            }
            _ => {
                say(&[b"CLIENT", b"REPLY", b"ON"]);
                (self.off, self.skip) = (false, false);
                self.answer(Answer::Exactly(b"+OK\r\n".to_vec()));
            }
        }
    }

    fn ask_key(&mut self, ask: Ask, sent: &mut Vec<u8>) {
        let own = |key: usize| self.name(key);
        let request = match &ask {
            Ask::Get(key) => array(&[b"GET", &own(*key)]),
            Ask::Set(key, value) => array(&[b"SET", &own(*key), value]),
            Ask::Delete(key) => array(&[b"DEL", &own(*key)]),
            Ask::Load(key) => array(&[b"CACHE.GET", key.as_bytes()]),
            Ask::AddLoaded(key) => array(&[b"CACHE.SET", key.as_bytes(), b"other", b"NX"]),
            Ask::Both(key, loaded) => array(&[b"MGET", &own(*key), loaded.as_bytes()]),
            Ask::Ping => array(&[b"PING"]),
        };
        if matches!(ask, Ask::AddLoaded(_)) && self.db != 0 {
            return;
        }
        let length = if let Ask::Set(_, value) = &ask { value.len() } else { 0 };
        sent.extend(&request);
        if self.queue.is_some() {
            let fits = length <= MAX_VALUE;
            self.spoiled |= !fits;
            if let Some(queue) = self.queue.as_mut().filter(|_| fits) {
                queue.push(ask);
                self.queued_bytes += length;
            }
            let reply = if fits { b"+QUEUED\r\n".to_vec() } else { too_long(length) };
            return self.answer(Answer::Exactly(reply));
        }
        let waits = matches!(ask, Ask::Load(_) | Ask::AddLoaded(_) | Ask::Both(..));
        let reply = self.apply(&ask);
        self.answer(if waits && self.kind == Kind::Tickets { Answer::Loaded(reply) } else { Answer::Exactly(reply) });
    }

    fn apply(&mut self, ask: &Ask) -> Vec<u8> {
        let found = |key: &usize| self.values.get(&(self.db, *key)).map_or(self.null(), |value| bulk(value));
        let row = |key: &String| match key.as_bytes()[0] {
            _ if self.db != 0 => self.null(),
            b'b' => {
                let length = MAX_VALUE + 500;
                let text = format!("-LOADFAILED {key}: value of {length} bytes is more than max-value {MAX_VALUE}\r\n");
                text.into_bytes()
            }
            _ => bulk(format!("row-{key}").as_bytes()),
        };
        match ask {
            Ask::Get(key) => found(key),
            Ask::Load(key) => row(key),
            Ask::Both(key, loaded) => [b"*2\r\n", &found(key)[..], &row(loaded)].concat(),
            Ask::AddLoaded(_) => b":0\r\n".to_vec(),
            Ask::Ping => b"+PONG\r\n".to_vec(),
            Ask::Set(_, value) if value.len() > MAX_VALUE => too_long(value.len()),
            Ask::Set(key, value) => {
                self.changed |= self.watched.contains(&(self.db, *key));
                self.values.insert((self.db, *key), value.clone());
                b"+OK\r\n".to_vec()
            }
            Ask::Delete(key) => {
                let was = self.values.remove(&(self.db, *key)).is_some();
                self.changed |= was && self.watched.contains(&(self.db, *key));
                format!(":{}\r\n", u8::from(was)).into_bytes()
            }
        }
    }

    fn exec(&mut self) -> Vec<u8> {
        let queue = self.queue.take().unwrap_or_default();
        let (spoiled, changed) = (self.spoiled, self.changed);
        self.forget();
        if spoiled {
            return b"-EXECABORT Transaction discarded because of previous errors.\r\n".to_vec();
        }
        if changed {
            return if self.kind == Kind::Tickets { b"_\r\n".to_vec() } else { b"*-1\r\n".to_vec() };
        }
        let replies: Vec<Vec<u8>> = queue.iter().map(|ask| self.apply(ask)).collect();
        [format!("*{}\r\n", replies.len()).as_bytes(), &replies.concat()].concat()
    }

    /// The transaction and what it depends on have ended.
    fn forget(&mut self) {
        (self.queue, self.queued_bytes, self.spoiled, self.changed) = (None, 0, false, false);
        self.watched.clear();
    }

    fn answer(&mut self, answer: Answer) {
        if !self.off && !std::mem::take(&mut self.skip) {
            self.expected.push(answer);
        }
    }

    fn ask_memcached(&mut self, draw: &mut Draw<'_>, sent: &mut Vec<u8>) {
        let key = draw.below(3);
        let name = String::from_utf8(self.name(key)).unwrap();
        let found = |value: &Vec<u8>, name: &str| {
            [format!("VALUE {name} 0 {}\r\n", value.len()).as_bytes(), value, b"\r\nEND\r\n"].concat()
        };
        let reply = match draw.below(6) {
            0 => {
                sent.extend(format!("get {name}\r\n").bytes());
                self.values.get(&(0, key)).map_or(b"END\r\n".to_vec(), |value| found(value, &name))
            }
            1 => {
                let name = format!("w:{}", draw.below(8));
                sent.extend(format!("get {name}\r\n").bytes());
                found(&format!("row-{name}").into_bytes(), &name)
            }
            2 => {
                // The line is wrong and its length is not.
                let value = value(draw);
                let line =
                    [format!("set {} 0 0", "k".repeat(251)), format!("cas {name} 0 0"), format!("set {name} x 0")];
                let tail = if draw.below(2) == 0 { "" } else { " more words behind" };
                sent.extend(format!("{} {}{tail}\r\n", line[draw.below(3)], value.len()).bytes());
                sent.extend([&value[..], b"\r\n"].concat());
                return self.expected.push(Answer::Loaded(Vec::new()));
            }
            _ => {
                let value = value(draw);
                let quiet = draw.below(3) == 0;
                let tail = if quiet { " noreply" } else { "" };
                sent.extend(format!("set {name} 0 0 {}{tail}\r\n", value.len()).bytes());
                sent.extend([&value[..], b"\r\n"].concat());
                if value.len() > MAX_VALUE {
                    self.values.remove(&(0, key));
                    b"SERVER_ERROR object too large for cache\r\n".to_vec()
                } else {
                    self.values.insert((0, key), value);
                    if quiet { Vec::new() } else { b"STORED\r\n".to_vec() }
                }
            }
        };
        self.expected.push(Answer::Exactly(reply));
    }

    fn ask_json(&mut self, draw: &mut Draw<'_>, sent: &mut Vec<u8>) {
        let key = draw.below(3);
        let id = self.expected.len();
        let name = String::from_utf8(self.name(key)).unwrap();
        let mut say =
            |body: String| sent.extend(format!("{{\"src\":\"c\",\"dest\":\"n\",\"body\":{{{body}}}}}\n").bytes());
        let told = |value: &[u8]| format!("\"value\":{}", String::from_utf8_lossy(value));
        let reply = match draw.below(4) {
            0 => {
                say(format!("\"type\":\"get\",\"msg_id\":{id},\"key\":\"{name}\""));
                self.values.get(&(0, key)).map_or("\"value\":null".to_owned(), |value| told(value))
            }
            1 => {
                let key = format!("w:{}", draw.below(8));
                say(format!("\"type\":\"get\",\"msg_id\":{id},\"key\":\"{key}\""));
                format!("row-{key}")
            }
            _ => {
                let lengths = [2, 30, 999, 1000, 1001, 2000, 3000, 270_000];
                let length = lengths[draw.below(lengths.len())];
                let value = format!("\"{}\"", "v".repeat(length - 2));
                let words = [format!("\"msg_id\":{id}"), format!("\"value\":{value}")];
                let (first, second) = if draw.below(2) == 0 { (0, 1) } else { (1, 0) };
                say(format!("\"type\":\"set\",\"key\":\"{name}\",{},{}", words[first], words[second]));
                if length > MAX_VALUE {
                    format!("value of {length} bytes is more than max-value {MAX_VALUE}")
                } else {
                    self.values.insert((0, key), value.into_bytes());
                    "\"type\":\"set_ok\"".to_owned()
                }
            }
        };
        self.expected.push(Answer::Exactly(reply.into_bytes()));
    }

    /// Compares what was said with what was to be said.
    pub fn check(&self, said: &[u8]) {
        match self.kind {
            Kind::Tickets => self.check_tickets(said),
            Kind::Json => self.check_json(said),
            Kind::Redis | Kind::Memcached => {
                let mut rest = said;
                for (number, answer) in self.expected.iter().enumerate() {
                    rest = self.check_next(number, answer, rest);
                }
                assert!(rest.is_empty(), "{:?} hears too much: {}", self.kind, rest.escape_ascii());
            }
            Kind::Other => {}
        }
    }

    /// Takes the answer to a request off what was said.
    fn check_next<'a>(&self, number: usize, answer: &Answer, rest: &'a [u8]) -> &'a [u8] {
        match answer {
            Answer::Exactly(wanted) => rest.strip_prefix(&wanted[..]).unwrap_or_else(|| {
                let heard = rest[..rest.len().min(wanted.len() + 60)].escape_ascii();
                panic!("{:?}, answer {number}: {heard} is not {}", self.kind, wanted.escape_ascii())
            }),
            // Some error on one line.
            Answer::Loaded(_) => {
                let end = rest.windows(2).position(|pair| pair == b"\r\n").unwrap_or_else(|| panic!("answer {number}"));
                assert!(
                    rest.starts_with(b"CLIENT_ERROR")
                        || rest.starts_with(b"SERVER_ERROR")
                        || rest.starts_with(b"ERROR")
                );
                &rest[end + 2..]
            }
        }
    }

    fn check_tickets(&self, said: &[u8]) {
        let (mut replies, mut outcomes, mut rest) = (Vec::new(), BTreeMap::new(), said);
        while !rest.is_empty() {
            let (frame, behind) = rest.split_at(frame_length(rest));
            rest = behind;
            let head: &[u8] = b">3\r\n$7\r\noutcome\r\n:";
            match frame.strip_prefix(head) {
                Some(outcome) => {
                    let end = outcome.windows(2).position(|pair| pair == b"\r\n").unwrap();
                    let number = String::from_utf8(outcome[..end].to_vec()).unwrap();
                    assert!(outcomes.insert(number, &outcome[end + 2..]).is_none());
                }
                None => replies.push(frame),
            }
        }
        assert_eq!(replies.len(), self.expected.len(), "replies of {}", said.escape_ascii());
        let mut tickets = 0;
        for (reply, answer) in replies.into_iter().zip(&self.expected) {
            let (Answer::Exactly(wanted) | Answer::Loaded(wanted)) = answer;
            let ticket = reply.strip_prefix(b"-WAITING ").filter(|_| matches!(answer, Answer::Loaded(_)));
            let reply = ticket.map_or(reply, |ticket| {
                tickets += 1;
                outcomes[String::from_utf8_lossy(ticket).trim_end()]
            });
            assert_eq!(reply.escape_ascii().to_string(), wanted.escape_ascii().to_string());
        }
        // A ticket whose reply was skipped has its outcome all the same.
        assert!(outcomes.len() >= tickets);
    }

    fn check_json(&self, said: &[u8]) {
        let said = String::from_utf8(said.to_vec()).unwrap();
        let mut answers: BTreeMap<usize, &str> = BTreeMap::new();
        for line in said.lines() {
            let id = line.split("\"in_reply_to\":").nth(1).and_then(|rest| rest.split(',').next());
            let id = id.unwrap_or_else(|| panic!("{line}")).trim_end_matches('}').parse().unwrap();
            assert!(answers.insert(id, line).is_none(), "{line}");
        }
        assert_eq!(answers.len(), self.expected.len());
        for (id, answer) in self.expected.iter().enumerate() {
            let (Answer::Exactly(wanted) | Answer::Loaded(wanted)) = answer;
            let wanted = String::from_utf8_lossy(wanted);
            assert!(answers[&id].contains(&*wanted), "{} is not {wanted}", answers[&id]);
        }
    }
}

/// Bytes of the reply or push of RESP3 at the beginning of `said`.
fn frame_length(said: &[u8]) -> usize {
    let line = said.windows(2).position(|pair| pair == b"\r\n").expect("a whole line") + 2;
    let number = || String::from_utf8_lossy(&said[1..line - 2]).parse::<i64>().unwrap_or(-1);
    match said[0] {
        b'$' => line + usize::try_from(number() + 2).unwrap_or(0),
        b'*' | b'>' | b'~' => (0..number().max(0)).fold(line, |end, _| end + frame_length(&said[end..])),
        _ => line,
    }
}
