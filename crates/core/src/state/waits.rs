//! What a command waits for, and how far it has come.

use std::sync::Arc;

use super::client::Client;
use super::engine::Engine;
use super::key_list::{KeyList, Keyed};
use crate::glob::STEPS_OF_A_KEY;
use crate::store::{Key, Outcome};
use crate::vocabulary::Reply;

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
pub(crate) const MAX_KEYS: usize = 1 << KEY_BITS;

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
    /// Until when it waits for loads; None before it asks for the first. However often it is run again, it waits no longer.
    pub(crate) deadline: Option<u64>,
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
    /// The number of the key from which on a command asks for loads in this turn, as it counts them; 0: the first.
    pub(crate) asked: u64,
    /// What a transaction has cost beyond the keys that it names, in keys that are looked at.
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
    /// What is sent to the client at the end of the turn, before the command is done.
    pub pushes: Vec<Reply>,
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

    /// Whether the command can be run again: nothing is waited for, or it has not asked for all loads.
    pub fn is_ready(&self) -> bool {
        self.missing == 0 || self.asked > 0
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
    pub(crate) fn settle(&mut self, key: Key<'_>, outcome: Outcome) {
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
            engine.store.with(key, now, |entry| entry.leave(client.connection, wait));
        }
    }
}
