//! What a command works with: the shared state, the clocks, the shards that a transaction has locked, the scratch buffer.

use std::sync::Arc;

use crate::clock::Now;
use crate::glob::Pattern;
use crate::state::engine::Engine;
use crate::state::waits::Waits;
use crate::store::{Entry, Item, Key, Locked, Refused, Stats, Step, Value};
use crate::vocabulary::{Args, Blob, Error, Expiry, Kind, PATTERN_TOO_LONG, Values};

/// What a command works with.
pub struct Context<'a> {
    /// What all connections share.
    pub engine: &'a Engine,
    /// The clocks.
    pub now: Now,
    /// The number of the connection whose request is run; 0 if it is nobody's.
    pub actor: u64,
    /// Small values of a reply are copied here under the lock; kept between commands for its capacity.
    pub scratch: &'a mut Vec<u8>,
    /// The shards that a transaction has locked: all that its commands touch.
    pub held: Option<Box<Locked<'a>>>,
    /// What the command waits for, or was told when it had waited.
    pub waits: &'a mut Waits,
}

/// What a turn of a command may cost that need not be one step, in items that it looks at: a few milliseconds.
pub(crate) const TURN: usize = 8192;

/// Loads that a command asks for in one turn.
pub(super) const LOADS: usize = 1024;

/// What a transaction may cost beyond the keys that it names, in keys that are looked at: about a second, since it holds its
/// shards so long.
pub(super) const MAX_COST: usize = 1 << 20;

/// Bytes that it takes as long to copy as to look at a key.
pub(super) const BYTES_OF_A_KEY: usize = 1024;

/// A transaction has cost as much as it may.
const TOO_COSTLY: Error = Error::new(Kind::Busy, "BUSY the transaction has looked at or copied too much already");

impl<'a> Context<'a> {
    /// What a command of a connection works with, outside of transactions.
    #[inline]
    pub fn new(
        engine: &'a Engine,
        now: Now,
        actor: u64,
        scratch: &'a mut Vec<u8>,
        waits: &'a mut Waits,
    ) -> Context<'a> {
        Context { engine, now, actor, scratch, held: None, waits }
    }

    /// A step of the store, at the command's time and by whoever asked for it.
    #[inline]
    pub fn step(&self) -> Step {
        Step { now: self.now.mono, actor: self.actor }
    }

    /// Runs `step` on the entry of `key`, with the scratch buffer beside it: one step for everybody else.
    #[inline]
    pub fn with<R>(&mut self, key: Key<'_>, step: impl FnOnce(&mut Entry<'_>, &mut Vec<u8>) -> R) -> R {
        let (at, scratch) = (self.step(), &mut *self.scratch);
        match &mut self.held {
            None => self.engine.store.with(key, at, |entry| step(entry, scratch)),
            Some(held) => step(&mut held.entry(key), scratch),
        }
    }

    /// Runs `step` with all `keys` in one step.
    pub fn with_all<'k, R>(
        &mut self,
        keys: impl Iterator<Item = Key<'k>> + Clone,
        step: impl FnOnce(&mut Locked<'_>, &mut Vec<u8>) -> R,
    ) -> R {
        let (at, scratch) = (self.step(), &mut *self.scratch);
        match &mut self.held {
            None => self.engine.store.with_all(keys.clone(), at, |all| {
                all.prefetch(keys);
                step(all, scratch)
            }),
            Some(held) => step(held, scratch),
        }
    }

    /// As [`Store::read_all`](crate::store::Store::read_all), with the scratch buffer beside each item.
    #[inline]
    pub fn read_all(
        &mut self,
        db: u8,
        keys: Args<'_>,
        mut visit: impl FnMut(u64, Option<Item<'_>>, &mut Vec<u8>) -> bool,
    ) {
        let (at, scratch) = (self.step(), &mut *self.scratch);
        let keys = keys.iter().map(|bytes| Key { db, bytes });
        match &mut self.held {
            None => self.engine.store.read_all(keys, at, |now, item| visit(now, item, scratch)),
            Some(held) => held.read_all(keys, |now, item| visit(now, item, scratch)),
        }
    }

    /// Whether a command that has used up its turn may stop, to be run again: what need not be one step, unless it belongs to
    /// a transaction.
    pub fn may_stop(&self) -> bool {
        self.waits.in_turns && self.held.is_none()
    }

    /// The first of many keys of which a command asks for a load in this turn, and the end of the turn.
    pub(crate) fn begin_asking(&mut self) -> (u64, usize) {
        (std::mem::take(&mut self.waits.asked), self.waits.keys.len() + LOADS)
    }

    /// Whether a command has asked for as many loads as it may in a turn. It is run again at once, from the key of this
    /// `number` on; and when it has asked for all, from its beginning, since the first keys may have gone meanwhile.
    pub(crate) fn ends_asking(&mut self, end: usize, number: u64) -> bool {
        let over = self.waits.keys.len() >= end && self.may_stop();
        if over {
            self.waits.asked = number;
        }
        over
    }

    /// An error if a transaction, which has locked shards, has cost so much already that it may not look at more. Asked
    /// before each part of a command of bounded length.
    pub(crate) fn may_look(&self) -> Result<(), Error> {
        if self.held.is_some() && self.waits.looked_at >= MAX_COST { Err(TOO_COSTLY) } else { Ok(()) }
    }

    /// Removes everything, or everything in one database.
    pub fn clear(&mut self, db: Option<u8>) {
        match &mut self.held {
            None => self.engine.store.clear(db, self.step()),
            Some(held) => held.clear(db),
        }
    }

    /// Items of a database.
    pub fn len(&self, db: u8) -> u64 {
        self.held.as_ref().map_or_else(|| self.engine.store.len(db), |held| held.len(db))
    }

    /// What is held, and what happened since the start.
    pub fn stats(&self) -> Stats {
        self.held.as_ref().map_or_else(|| self.engine.store.stats(), |held| held.stats())
    }

    /// As [`Store::each_holder`](crate::store::Store::each_holder).
    pub fn each_holder(&self, visit: &mut dyn FnMut(Option<u64>, usize)) {
        match &self.held {
            None => self.engine.store.each_holder(visit),
            Some(held) => held.each_holder(visit),
        }
    }

    /// As [`Store::cursor_at`](crate::store::Store::cursor_at).
    pub fn cursor_at(&self, random: u64) -> u64 {
        self.held.as_ref().map_or_else(|| self.engine.store.cursor_at(random), |held| held.cursor_at(random))
    }

    /// As [`Store::scan`](crate::store::Store::scan).
    pub fn scan(&mut self, db: u8, cursor: u64, count: usize, visit: &mut dyn FnMut(&[u8], &Item<'_>)) -> u64 {
        match &mut self.held {
            None => self.engine.store.scan(db, cursor, count, self.now.mono, visit),
            Some(held) => held.scan(db, cursor, count, visit),
        }
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Error {
        match refused {
            Refused::TooLarge => {
                Error::new(Kind::TooLarge, "ERR string exceeds maximum allowed size (proto-max-bulk-len)")
            }
            Refused::Full => Error::new(Kind::OutOfMemory, "OOM command not allowed when used memory > 'maxmemory'."),
        }
    }
}

/// Takes a value out of the store: small ones are copied while the lock is held, large ones shared.
#[inline(always)]
pub(crate) fn take(scratch: &mut Vec<u8>, value: Value<'_>) -> Blob {
    match value {
        Value::Inline(bytes) => {
            let start = scratch.len();
            scratch.extend_from_slice(bytes);
            Blob::Scratch(start..scratch.len())
        }
        Value::Shared(bytes) => Blob::Shared(Arc::clone(bytes)),
    }
}

/// Takes what was found under the next of several keys out of the store, with its flags.
#[inline(always)]
pub(crate) fn take_next(values: &mut Values, found: Option<(Value<'_>, u32)>, scratch: &mut Vec<u8>) {
    match found {
        None => values.push_missing(),
        Some((Value::Inline(bytes), flags)) => values.push_small(bytes, flags, scratch),
        Some((Value::Shared(bytes), flags)) => values.push_large(bytes, flags),
    }
}

/// Reads a pattern.
pub(crate) fn read_pattern(text: &[u8]) -> Result<Pattern, Error> {
    Pattern::new(text).ok_or(PATTERN_TOO_LONG)
}

/// A short request can name a long value a million times: copies end at the limit of a request.
pub(crate) const TOO_MUCH: Error = Error::new(Kind::OutOfMemory, "ERR the reply is too long");

/// The moment of the monotonic clock at which a value written now expires. One that lies in the past expires at once.
pub(crate) fn expires_at(now: Now, mono: u64, expiry: Expiry, before: Option<u64>) -> Option<u64> {
    match expiry {
        Expiry::Never => None,
        Expiry::Keep => before,
        Expiry::In(millis) => Some(mono.saturating_add(millis)),
        Expiry::At(wall) => Some(mono.saturating_add(wall.saturating_sub(now.wall))),
    }
}
