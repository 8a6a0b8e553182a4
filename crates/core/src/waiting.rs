//! Commands that wait: for a key that somebody loads, before they run or run on.
//!
//! A command that has to wait says which keys it waits for and returns [`Reply::Parked`](crate::command::Reply::Parked).
//! When every key has its outcome the command is run again from its beginning, with the outcomes at hand: so a command
//! needs no second form for what happens after a wait, and whoever waits in place keeps its input where it is.

use std::sync::Arc;

use crate::command::{Error, Kind, Reply};
use crate::engine::Engine;
use crate::execute::{Client, Context};
use crate::glob::STEPS_OF_A_KEY;
use crate::key_list::{KeyList, Keyed};
use crate::loaders::Serving;
use crate::store::{Key, Outcome, Seeker, Sought};

/// A key that a command waits for, and how that ended.
#[derive(Clone, Debug)]
pub struct Awaited {
    /// Database of the key.
    pub db: u8,
    /// The key.
    pub key: Arc<[u8]>,
    /// None while it waits.
    pub outcome: Option<Outcome>,
}

impl Keyed for Awaited {
    fn db(&self) -> u8 {
        self.db
    }

    fn key(&self) -> &Arc<[u8]> {
        &self.key
    }
}

/// The number of a wait tells the command in its high bits and the key in the low ones.
const KEY_BITS: u32 = 20;

/// Keys that one command waits for at most: each has a number of its own.
const MAX_KEYS: usize = 1 << KEY_BITS;

/// The number under which the command `number` waits for its key of this index.
pub fn wait_number(number: u64, index: usize) -> u64 {
    number << KEY_BITS | index as u64
}

/// The command and the key that wait under a number.
pub fn wait_parts(wait: u64) -> (u64, usize) {
    (wait >> KEY_BITS, (wait & ((1 << KEY_BITS) - 1)) as usize)
}

/// What a command waits for or was told, key by key.
#[derive(Debug, Default)]
pub struct Waits {
    /// The number of the command.
    pub number: u64,
    /// Until when it waits for loads; 0 before it asks for the first. However often it is run again, it waits no longer.
    deadline: u64,
    /// Its keys.
    pub keys: KeyList<Awaited>,
    /// How many of them have no outcome yet.
    missing: usize,
    /// Bytes of the values that were told.
    value_bytes: usize,
    /// Whether CLIENT CACHING was called before the command, if later commands have run since.
    pub caching: Option<bool>,
    /// Whether the command may stop after a turn of bounded length and be run again, beginning where it stopped.
    pub in_turns: bool,
    /// Keys that a transaction has looked at without naming them.
    pub looked_at: usize,
    /// Where it stopped.
    pub progress: Option<Box<Progress>>,
}

/// The first step of a turn looks at so many times fewer keys than the next ones may.
const FIRST: usize = 32;

/// What a turn of a command has cost that goes through all keys.
#[derive(Debug, Default)]
pub(crate) struct TurnCost {
    /// Keys that it asked for.
    pub keys: usize,
    /// Steps of patterns that were compared with them.
    pub steps: usize,
}

impl TurnCost {
    /// In keys.
    pub fn total(&self) -> usize {
        self.keys + self.steps / STEPS_OF_A_KEY
    }

    /// How many keys to look at next in one step, `most` at most: fewer where each is expensive, or while that is not known.
    pub fn next(&mut self, most: usize) -> usize {
        let each = self.total().checked_div(self.keys).unwrap_or(FIRST).max(1);
        let next = (most / each).max(1);
        self.keys += next;
        next
    }
}

/// How far a command has come that runs in turns.
#[derive(Debug, Default)]
pub struct Progress {
    /// Arguments it is done with, or a cursor.
    pub at: u64,
    /// What it has counted.
    pub count: i64,
    /// What it has found.
    pub found: Vec<Reply>,
    /// Bytes of what it has found.
    pub bytes: usize,
    /// Where it goes on, if that is a name.
    pub after: Option<Arc<[u8]>>,
}

impl Progress {
    /// Keeps something that was found.
    pub(crate) fn keep(&mut self, found: Reply) {
        self.bytes += found.memory();
        self.found.push(found);
    }

    fn memory(&self) -> usize {
        let spare = self.found.capacity() - self.found.len();
        size_of::<Progress>() + spare * size_of::<Reply>() + self.bytes
    }
}

impl Waits {
    /// How the wait for a key ended.
    pub fn outcome(&self, key: Key<'_>) -> Option<&Outcome> {
        self.keys.get(self.keys.position(key)?)?.outcome.as_ref()
    }

    /// Whether a key is still waited for.
    pub fn is_waiting(&self) -> bool {
        self.missing > 0
    }

    /// Whether no other key can be waited for.
    pub fn is_full(&self) -> bool {
        self.keys.len() >= MAX_KEYS
    }

    /// Waits for a key, under the number that follows those of the keys before it.
    pub fn wait_for(&mut self, key: Key<'_>) {
        self.keys.push(Awaited { db: key.db, key: Arc::from(key.bytes), outcome: None });
        self.missing += 1;
    }

    /// Keeps what became of a key at once, so that it is not asked for again when the command has waited for others.
    fn settle(&mut self, key: Key<'_>, outcome: Outcome) {
        self.keys.push(Awaited { db: key.db, key: Arc::from(key.bytes), outcome: Some(outcome) });
    }

    /// Takes the outcome of the key at an index; whether nothing is waited for any more.
    pub fn tell(&mut self, index: usize, outcome: Outcome) -> bool {
        if let Some(known) = self.keys.get_mut(index)
            && known.outcome.is_none()
        {
            if let Outcome::Loaded(loaded) = &outcome {
                self.value_bytes += loaded.value.len();
            }
            known.outcome = Some(outcome);
            self.missing -= 1;
        }
        !self.is_waiting()
    }

    /// Bytes that it holds.
    pub fn memory(&self) -> usize {
        let found = self.progress.as_ref().map_or(0, |progress| progress.memory());
        self.keys.memory() + self.value_bytes + found
    }

    /// Leaves all queues.
    pub fn leave(&self, engine: &Engine, client: &Client, now: u64) {
        for (index, known) in self.keys.iter().enumerate().filter(|(_, known)| known.outcome.is_none()) {
            let wait = wait_number(self.number, index);
            let key = Key { db: known.db, bytes: &known.key };
            engine.store.with(key, now, |entry| entry.leave(client.party, wait));
        }
    }
}

const TOO_MANY: Error = Error::new(Kind::Busy, "BUSY too many loads are waited for; try again later");

/// How a key that a worker loads stands before a command that needs it.
pub enum Standing {
    /// It is not served, or it is there, or it is known to be absent: the command goes by what the store has.
    Settled,
    /// It was loaded for this command.
    Loaded(crate::store::Loaded),
    /// It is waited for.
    Waits,
    /// It cannot be loaded.
    Failed(Error),
}

/// Sees to it that a key which workers load is loaded before a command that needs it, if it is not there.
pub fn stand(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> Standing {
    stand_for(cx, client, key, false)
}

/// As [`stand`], for a command that found no value and is to answer with one. What is there by now is returned at once: the
/// value could be gone again before a second look, and "nothing" would be the wrong answer for a row that exists.
#[cold]
pub fn stand_to_read(cx: &mut Context<'_>, client: &Client, key: Key<'_>) -> Standing {
    stand_for(cx, client, key, true)
}

fn stand_for(cx: &mut Context<'_>, client: &Client, key: Key<'_>, reads: bool) -> Standing {
    if cx.held.is_some() {
        return stand_in_step(cx, key);
    }
    if let Some(outcome) = cx.waits.outcome(key) {
        return match outcome.clone() {
            Outcome::Loaded(loaded) => Standing::Loaded(loaded),
            // Unless it is served again by now: "there is none" would be the wrong answer.
            Outcome::Unserved if cx.engine.loaders.serving(key) == Serving::Nobody => Standing::Settled,
            other => Standing::Failed(why_missing(cx.engine, key, &other)),
        };
    }
    if cx.engine.loaders.serving(key) == Serving::Nobody {
        return Standing::Settled;
    }
    if cx.waits.is_full() {
        return Standing::Failed(TOO_MANY);
    }
    let late = cx.waits.deadline != 0 && cx.waits.deadline <= cx.now.mono;
    if cx.waits.deadline == 0 {
        cx.waits.deadline = cx.now.mono + cx.engine.limits.load_limit;
    }
    let seeker = Seeker {
        party: client.party,
        wait: wait_number(cx.waits.number, cx.waits.keys.len()),
        deadline: cx.waits.deadline,
        lease: 0,
        served: true,
        bound: true,
    };
    enum Seen {
        There,
        Kept(crate::store::Loaded),
        Waits,
        Failed(Arc<str>),
        Full,
        Late,
    }
    let seen = cx.with(key, |entry, _| {
        if reads && let Some(item) = entry.peek() {
            return Seen::Kept(crate::store::Loaded::new(&item, false));
        }
        if entry.peek().is_some() || entry.is_known_absent() {
            return Seen::There;
        }
        if late {
            return Seen::Late;
        }
        match entry.seek(&seeker) {
            Sought::Found { item, stale: true, .. } => Seen::Kept(crate::store::Loaded::new(&item, true)),
            Sought::Found { .. } => Seen::There,
            Sought::Waits => Seen::Waits,
            Sought::Failed(cause) => Seen::Failed(cause),
            Sought::Lease(_) | Sought::Busy | Sought::Nothing | Sought::Full => Seen::Full,
        }
    });
    match seen {
        Seen::There => Standing::Settled,
        Seen::Kept(loaded) => Standing::Loaded(loaded),
        Seen::Failed(cause) => {
            cx.waits.settle(key, Outcome::Failed(Arc::clone(&cause)));
            Standing::Failed(load_failed(key.bytes, &cause))
        }
        Seen::Full => {
            cx.waits.settle(key, Outcome::Full);
            Standing::Failed(TOO_MANY)
        }
        Seen::Late => Standing::Failed(too_late(cx.engine, key)),
        Seen::Waits => {
            cx.waits.wait_for(key);
            Standing::Waits
        }
    }
}

/// A transaction is one step: it goes by what is there now, its own changes included, whatever became of a load before it. A
/// load that ended with "there is no such row" need not have left an item; but a value that is not there any more is no
/// "there is none".
#[cold]
fn stand_in_step(cx: &mut Context<'_>, key: Key<'_>) -> Standing {
    if cx.engine.loaders.serving(key) == Serving::Nobody
        || cx.with(key, |entry, _| entry.peek().is_some() || entry.is_known_absent())
    {
        return Standing::Settled;
    }
    match cx.waits.outcome(key) {
        Some(Outcome::Loaded(loaded)) if loaded.absent => Standing::Settled,
        Some(Outcome::Loaded(_)) => Standing::Failed(load_failed(key.bytes, "it was loaded and is gone again")),
        Some(outcome) => Standing::Failed(why_missing(cx.engine, key, outcome)),
        None => Standing::Failed(load_failed(key.bytes, "it was not loaded before")),
    }
}

/// Why a wait ended without the value or the absence of its key.
fn why_missing(engine: &Engine, key: Key<'_>, outcome: &Outcome) -> Error {
    match outcome {
        Outcome::Failed(cause) => load_failed(key.bytes, cause),
        Outcome::Full => TOO_MANY,
        Outcome::Unserved => load_failed(key.bytes, "its pattern was forgotten meanwhile"),
        Outcome::Loaded(_) | Outcome::Lease(_) | Outcome::Timeout => too_late(engine, key),
    }
}

/// Loads the keys of a command that depends on what is there, as far as workers load them. Ok(true): it has to wait.
pub fn load_first<'k>(
    cx: &mut Context<'_>,
    client: &Client,
    keys: impl Iterator<Item = Key<'k>>,
) -> Result<bool, Error> {
    let mut failed = None;
    for key in keys {
        match stand(cx, client, key) {
            Standing::Failed(error) => failed = failed.or(Some(error)),
            Standing::Loaded(loaded) if !loaded.absent && cx.with(key, |entry, _| entry.peek().is_none()) => {
                // It was loaded and could not be kept, or is gone again: what is not there cannot be changed.
                failed = failed.or(Some(load_failed(key.bytes, "the value could not be kept")));
            }
            Standing::Settled | Standing::Loaded(_) | Standing::Waits => {}
        }
    }
    match failed {
        Some(error) if !cx.waits.is_waiting() => Err(error),
        _ => Ok(cx.waits.is_waiting()),
    }
}

/// A value that is stale and that workers load is loaded anew, while it is served.
#[cold]
pub fn refresh(cx: &mut Context<'_>, client: &Client, key: Key<'_>) {
    if cx.engine.loaders.serving(key) == Serving::Worker {
        let seeker = Seeker { party: client.party, wait: 0, deadline: 0, lease: 0, served: true, bound: true };
        cx.with(key, |entry, _| entry.refresh(&seeker));
    }
}

fn quoted(key: &[u8]) -> String {
    // Enough to recognise it by; an error is a line.
    key[..key.len().min(128)].escape_ascii().to_string()
}

/// The error of a load that failed.
pub fn load_failed(key: &[u8], cause: &str) -> Error {
    Error::with(Kind::LoadFailed, format!("LOADFAILED {}: {cause}", quoted(key)))
}

/// The error of a wait that was too long.
fn too_late(engine: &Engine, key: Key<'_>) -> Error {
    if engine.loaders.serving(key) == Serving::Away {
        let text = format!("NOLOADER {}: no loader worker came in time", quoted(key.bytes));
        return Error::with(Kind::LoadFailed, text);
    }
    load_failed(key.bytes, "it was not loaded in time")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Blob, Reply};
    use crate::engine::{Facts, Limits, Now};
    use crate::store::{Meta, Options, Party};

    fn engine() -> Engine {
        let options = Options {
            memory: 16 << 20,
            shards: 1,
            evict: true,
            max_value: 1 << 20,
            seed: [1, 2, 3, 4],
            epoch: 1,
            load_limit: 30_000,
        };
        let engine = Engine::new(options, Limits::default(), Facts::default(), 1);
        engine.loaders.register(Party::default(), 0, [&b"w:*"[..]].into_iter(), 10).unwrap();
        engine
    }

    fn with<R>(engine: &Engine, waits: &mut Waits, step: impl FnOnce(&mut Context<'_>) -> R) -> R {
        let now = Now { mono: 1000, wall: 1000 };
        step(&mut Context { engine, now, scratch: &mut Vec::new(), held: None, waits })
    }

    /// CACHE.GET finds nothing; a worker fills the key; the look that would begin a wait finds the value; somebody deletes
    /// it. The value of that look is the answer: "nothing" was never true of the row.
    #[test]
    fn a_read_answers_with_what_came_before_its_wait() {
        let (engine, client) = (engine(), Client::new(Party::default()));
        let key = Key { db: 0, bytes: b"w:1" };
        with(&engine, &mut Waits::default(), |cx| {
            cx.with(key, |entry, _| entry.set(b"row", &Meta::default()).unwrap());
            let standing = stand_to_read(cx, &client, key);
            cx.with(key, |entry, _| entry.remove());
            assert!(matches!(standing, Standing::Loaded(loaded) if *loaded.value == *b"row"));
        });
    }

    /// A transaction reads 2^20 keys and one more: the number of a wait has room for 2^20 of them, and the outcome of the
    /// last would be taken for that of another command.
    #[test]
    fn a_command_waits_for_as_many_keys_as_have_numbers() {
        let (engine, client) = (engine(), Client::new(Party::default()));
        let mut waits = Waits { number: 7, ..Waits::default() };
        for number in 0..MAX_KEYS as u32 {
            waits.wait_for(Key { db: 1, bytes: &number.to_le_bytes() });
        }
        assert_eq!(wait_parts(wait_number(7, MAX_KEYS - 1)), (7, MAX_KEYS - 1));
        let key = Key { db: 0, bytes: b"w:1" };
        let standing = with(&engine, &mut waits, |cx| stand(cx, &client, key));
        assert!(matches!(standing, Standing::Failed(error) if error.text.starts_with("BUSY")));
        assert_eq!(waits.keys.len(), MAX_KEYS);
    }

    /// As the first, with the row still there: what CACHE.GET, CACHE.MGET and GET answer that found nothing before.
    #[test]
    fn lean_reads_answer_with_what_came_before_their_wait() {
        let (engine, client) = (engine(), Client::new(Party::default()));
        let key = Key { db: 0, bytes: b"w:1" };
        let meta = Meta { flags: 7, ..Meta::default() };
        with(&engine, &mut Waits::default(), |cx| {
            cx.with(key, |entry, _| entry.set(b"row", &meta).unwrap());
            let reply = crate::cache::get_served(cx, &client, key);
            assert!(matches!(&reply, Reply::Array(parts) if matches!(parts[..], [Reply::Value(_), Reply::Int(7)])));
            let reply = crate::execute::get_served(cx, &client, key, Reply::Null);
            assert!(matches!(reply, Reply::Value(Blob::Shared(value)) if *value == *b"row"));
        });
    }
}
